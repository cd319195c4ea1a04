"""Write one static page that shows samples: both videos' frames with numbers and times, prompt, labels, defects.

    python -m data_prep.show train.parquet --video-root ~/data --n 5 --out page.html

The one idea: the page shows frames exactly as an episode numbers them (frames.py), so what you read here is what the
model can ask for. It is one file without any request to elsewhere: pictures and style are inside.

Covers: any file of samples; defect spans and the cue that synthetic pairs keep in meta; videos that cannot be read are
named in place. Does not cover: what a model said about them (that is a report of an evaluation).
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer
from PIL import Image

from verl_videosearch.frames import CandidateFrames, sample_indices
from verl_videosearch.judgement import OVERALL
from verl_videosearch.report.console import explain_errors, say
from verl_videosearch.sample import PreferenceSample, read_samples
from verl_videosearch.video.decode import FramePlan, VideoError, VideoFrames, read_candidate_frames

THUMBNAIL_PIXELS = 176 * 112
"""Size of a frame on the page: enough to see a defect, about 5 kB."""
VERDICTS = {0: "tie", 1: "video 1", 2: "video 2", None: "not judged"}
_HIDDEN_META = ("defects_1", "defects_2", "cue")  # drawn on the frames instead

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60646c; --line: #d9d9e0; --page: #fcfcfd; --card: #fff;
  --defect: #e5484d; --first: #0b7be5; --cue: #b88700; }
@media (prefers-color-scheme: dark) { :root { --ink: #edeef0; --soft: #b0b4ba; --line: #363a3f; --page: #111113;
  --card: #18191b; --defect: #ff6369; --first: #70b8ff; --cue: #f5d90a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 24px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 20px; margin: 0 0 4px; } h2 { font-size: 15px; margin: 0; font-weight: 600; overflow-wrap: anywhere; }
h3 { font-size: 13px; margin: 16px 0 6px; font-weight: 600; }
.soft, h3 span { color: var(--soft); font-size: 13px; font-weight: 400; overflow-wrap: anywhere; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px;
  margin: 20px 0; }
blockquote { margin: 10px 0; padding-left: 12px; border-left: 3px solid var(--line); overflow-wrap: anywhere; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; margin: 10px 0; }
.chip { border: 1px solid var(--line); border-radius: 999px; padding: 1px 10px; font-size: 13px; }
.chip b { margin-right: 5px; } .chip.overall { border-color: var(--ink); }
.strip { display: grid; grid-template-columns: repeat(12, 1fr); gap: 4px; }
.strip.short { grid-template-columns: repeat(8, 1fr); }
@media (max-width: 900px) { .strip, .strip.short { grid-template-columns: repeat(4, 1fr); } }
figure { margin: 0; border: 2px solid transparent; border-radius: 6px; padding: 2px; }
figure img { width: 100%; display: block; border-radius: 3px; }
figcaption { font-size: 12px; color: var(--soft); display: flex; justify-content: space-between; padding: 1px 3px; }
figcaption b { color: var(--ink); }
.first figcaption b { color: var(--first); } .first figcaption b::before { content: "● "; }
.cue { border-color: var(--cue); border-style: dashed; } .defect { border-color: var(--defect); border-style: solid; }
.defects { color: var(--defect); font-size: 13px; margin: 4px 0 0; } .error { color: var(--defect); }
.key { display: flex; flex-wrap: wrap; gap: 16px; font-size: 13px; color: var(--soft); }
.key i { display: inline-block; width: 14px; height: 10px; border: 2px solid; border-radius: 3px; margin-right: 5px; }
details { margin-top: 12px; font-size: 13px; } pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 6px 0 0; }
"""


@dataclass(frozen=True)
class View:
    """How many frames an episode has; must be as in training for the numbers to agree."""

    frames_per_video: int = FramePlan.frames_per_video
    """Candidate frames of each video."""
    initial_frames: int = 4
    """Frames of each video that are shown before any call."""


def spans_cover(spans: Iterable[Mapping[str, Any]], index: int) -> bool:
    """True if a frame index of the file lies in one of the half-open spans {first_index, num_frames}.

    >>> [spans_cover([{"first_index": 5, "num_frames": 2}], index) for index in (4, 5, 6, 7)]
    [False, True, True, False]
    """
    return any(
        span["first_index"] <= index < span["first_index"] + span["num_frames"] for span in spans
    )


def make_page(
    samples: Sequence[PreferenceSample], root: Path | None, view: View, title: str
) -> str:
    """Return the page as HTML."""
    articles = "\n".join(make_article(sample, root, view) for sample in samples)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
<p class="key"><span class="first"><b style="color:var(--first)">●</b> number of a frame shown at first</span>
<span><i style="border-color:var(--defect)"></i>defect</span>
<span><i style="border-color:var(--cue);border-style:dashed"></i>where the cue points</span></p>
{articles}
</body></html>
"""


def make_article(sample: PreferenceSample, root: Path | None, view: View) -> str:
    """Return one sample as HTML."""
    videos = [_read(path, view) for path in sample.resolve_videos(root)]
    is_whole = not any(isinstance(video, VideoError) for video in videos)
    candidates = CandidateFrames(*(tuple(video.times_s) for video in videos)) if is_whole else None
    strips = [
        make_strip(sample, side, video, candidates, view) for side, video in enumerate(videos, 1)
    ]
    shown = {key: value for key, value in sample.meta.items() if key not in _HIDDEN_META}
    return f"""<article>
<h2>{escape(sample.uid)} <span class="soft">{escape(sample.source)} · {escape(sample.split)}</span></h2>
<blockquote>{escape(sample.prompt)}</blockquote>
<div class="chips">{make_chips(sample)}</div>
{"".join(strips)}
<details><summary>meta</summary><pre>{escape(json.dumps(shown, indent=1, ensure_ascii=False))}</pre></details>
</article>"""


def make_chips(sample: PreferenceSample) -> str:
    """Return the labels as HTML: which video is better in each dimension and overall."""
    names = {dimension.key: dimension.name for dimension in sample.dimensions} | {
        OVERALL: "overall"
    }
    chips = [
        f'<span class="chip{" overall" if key == OVERALL else ""}" title="{escape(names[key])}">'
        f"<b>{escape(key)}</b>{VERDICTS[label]}</span>"
        for key, label in sample.labels.items()
    ]
    return "".join(chips)


def make_strip(
    sample: PreferenceSample,
    side: int,
    video: VideoFrames | VideoError,
    candidates: CandidateFrames | None,
    view: View,
) -> str:
    """Return the frames of one video as HTML, numbered as an episode would."""
    path = escape(sample.video_1 if side == 1 else sample.video_2)
    if isinstance(video, VideoError):
        return f'<h3>Video {side} <span>{path}</span></h3><p class="error">{escape(str(video))}</p>'
    defects, cue = sample.meta.get(f"defects_{side}") or [], sample.meta.get("cue")
    figures = []
    for candidate, index in enumerate(
        sample_indices(video.num_decoded_frames, view.frames_per_video)
    ):
        number = candidates.number_of(side, candidate) if candidates else candidate + 1
        marks = {
            "first": bool(candidates) and number in candidates.initial_view(view.initial_frames),
            "cue": bool(cue) and spans_cover([cue], index),
            "defect": spans_cover(defects, index),
        }
        classes = " ".join(name for name, is_on in marks.items() if is_on)
        picture = _to_data_url(Image.fromarray(video.frames[candidate]))
        figures.append(
            f'<figure class="{classes}"><img src="{picture}" alt="frame {number}">'
            f"<figcaption><b>{number}</b><span>{video.times_s[candidate]:.2f} s</span></figcaption></figure>"
        )
    width = "strip short" if len(figures) <= 16 else "strip"
    size = f"{video.source_width}×{video.source_height}, {video.num_decoded_frames} frames"
    return (
        f'<h3>Video {side} <span>{path} · {size}</span></h3><div class="{width}">{"".join(figures)}</div>'
        + "".join(f'<p class="defects">{escape(describe_defect(defect))}</p>' for defect in defects)
    )


def describe_defect(defect: Mapping[str, Any]) -> str:
    """Say a defect in words; indices count the frames of the file from 0.

    >>> describe_defect({"dimension": "VQ", "type": "snow", "severity": 2, "first_index": 5, "num_frames": 3})
    'VQ: snow, severity 2, frame indices 5 to 7'
    """
    last = defect["first_index"] + defect["num_frames"] - 1
    hidden = ", not in the first view" if defect.get("is_hidden") else ""
    return (
        f"{defect['dimension']}: {defect['type']}, severity {defect['severity']}, "
        f"frame indices {defect['first_index']} to {last}{hidden}"
    )


def _read(path: Path, view: View) -> VideoFrames | VideoError:
    try:
        return read_candidate_frames(
            path, FramePlan(view.frames_per_video, THUMBNAIL_PIXELS, patch_multiple=2)
        )
    except VideoError as error:
        return error


def _to_data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def main(
    file: Annotated[Path, typer.Argument(help="Parquet file of samples.")],
    out: Annotated[Path, typer.Option(help="Page to write.")] = Path("page.html"),
    n: Annotated[int, typer.Option("--n", min=1, help="How many samples, drawn at random.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    video_root: Annotated[
        Path | None, typer.Option(help="Folder of the videos; default: that of the file.")
    ] = None,
    uid: Annotated[list[str] | None, typer.Option(help="Show these samples instead.")] = None,
    frames_per_video: Annotated[
        int, typer.Option(min=1, help="As in training.")
    ] = View.frames_per_video,
    initial_frames: Annotated[
        int, typer.Option(min=1, help="As in training.")
    ] = View.initial_frames,
) -> None:
    """Write a page that shows samples."""
    with explain_errors():
        samples = read_samples(file)
        known = {sample.uid: sample for sample in samples}
        if unknown := [each for each in uid or [] if each not in known]:
            raise ValueError(
                f"{file} has no sample {unknown}; it has for example {list(known)[:3]}"
            )
        indices = sorted(Random(seed).sample(range(len(samples)), min(n, len(samples))))
        chosen = [known[each] for each in uid] if uid else [samples[index] for index in indices]
        title = f"{file.name}: {len(chosen)} of {len(samples):,} samples"
        page = make_page(
            chosen, video_root or file.parent, View(frames_per_video, initial_frames), title
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, "utf-8")
    say(f"wrote {out} ({len(page) / 1e6:.1f} MB)")


if __name__ == "__main__":
    typer.run(main)
