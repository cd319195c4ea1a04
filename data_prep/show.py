"""Write one static page that shows samples: both videos' frames with numbers and times, prompt,
labels, defects.

    python -m data_prep.show train.parquet --video-root ~/data --n 5 --out page.html

The one idea: the page shows frames exactly as an episode numbers them (frames.py), so what you read
here is what the
model can ask for. It is one file without any request to elsewhere: pictures and style are inside.

Covers: any file of samples; defect spans and the cue that synthetic pairs keep in meta; videos that
cannot be read are
named in place. Does not cover: what a model said about them (that is a report of an evaluation).
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer
from PIL import Image

from verl_videosearch.frames import CandidateFrames, sample_indices
from verl_videosearch.judgement import OVERALL
from verl_videosearch.report.console import explain_errors, say
from verl_videosearch.report.markup import render
from verl_videosearch.sample import PreferenceSample, read_samples
from verl_videosearch.video.decode import FramePlan, VideoError, VideoFrames, read_candidate_frames

THUMBNAIL_PIXELS = 176 * 112
"""Size of a frame on the page: enough to see a defect, about 5 kB."""
VERDICTS = {0: "tie", 1: "video 1", 2: "video 2", None: "not judged"}
_HIDDEN_META = ("defects_1", "defects_2", "cue")  # drawn on the frames instead


@dataclass(frozen=True)
class View:
    """How many frames an episode has; must be as in training for the numbers to agree."""

    frames_per_video: int = FramePlan.frames_per_video
    """Candidate frames of each video."""
    initial_frames: int = 4
    """Frames of each video that are shown before any call."""


def spans_cover(spans: Iterable[Mapping[str, Any]], index: int) -> bool:
    """True if a frame index of the file lies in one of the half-open spans {first_index,
    num_frames}.

    >>> [spans_cover([{"first_index": 5, "num_frames": 2}], index) for index in (4, 5, 6, 7)]
    [False, True, True, False]
    """
    return any(
        span["first_index"] <= index < span["first_index"] + span["num_frames"] for span in spans
    )


@dataclass(frozen=True)
class Cell:
    """One frame on the page."""

    number: int
    time_s: float
    marks: str
    """Classes of its figure: `first`, `cue`, `defect`."""
    picture: str
    """JPEG as base64."""


@dataclass(frozen=True)
class Strip:
    """One video of a sample on the page."""

    video: int
    path: str
    error: str = ""
    """Why it cannot be shown; empty when it can."""
    size: str = ""
    cells: tuple[Cell, ...] = ()
    defects: tuple[str, ...] = ()


def make_page(
    samples: Sequence[PreferenceSample], root: Path | None, view: View, title: str
) -> str:
    """Return the page as HTML."""
    articles = [
        {
            "sample": sample,
            "chips": list_chips(sample),
            "strips": make_strips(sample, root, view),
            "meta": json.dumps(
                {key: value for key, value in sample.meta.items() if key not in _HIDDEN_META},
                indent=1,
                ensure_ascii=False,
            ),
        }
        for sample in samples
    ]
    return render("samples.html", title=title, articles=articles)


def list_chips(sample: PreferenceSample) -> list[tuple[str, str, str]]:
    """Return (key, name, which video is better) of each dimension and overall."""
    names = {dimension.key: dimension.name for dimension in sample.dimensions}
    names |= {OVERALL: "overall"}
    return [(key, names[key], VERDICTS[label]) for key, label in sample.labels.items()]


def make_strips(sample: PreferenceSample, root: Path | None, view: View) -> list[Strip]:
    """Return both videos, their frames numbered as an episode would."""
    videos = [_read(path, view) for path in sample.resolve_videos(root)]
    is_whole = not any(isinstance(video, VideoError) for video in videos)
    candidates = CandidateFrames(*(tuple(video.times_s) for video in videos)) if is_whole else None
    return [
        make_strip(sample, side, video, candidates, view) for side, video in enumerate(videos, 1)
    ]


def make_strip(
    sample: PreferenceSample,
    side: int,
    video: VideoFrames | VideoError,
    candidates: CandidateFrames | None,
    view: View,
) -> Strip:
    """Return the frames of one video, marked as the truth says."""
    path = sample.video_1 if side == 1 else sample.video_2
    if isinstance(video, VideoError):
        return Strip(side, path, error=str(video))
    defects, cue = sample.meta.get(f"defects_{side}") or [], sample.meta.get("cue")
    cells = []
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
        picture = _encode(Image.fromarray(video.frames[candidate]))
        cells.append(Cell(number, float(video.times_s[candidate]), classes, picture))
    return Strip(
        side,
        path,
        size=f"{video.source_width}×{video.source_height}, {video.num_decoded_frames} frames",
        cells=tuple(cells),
        defects=tuple(describe_defect(defect) for defect in defects),
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


def _encode(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return base64.b64encode(buffer.getvalue()).decode()


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
