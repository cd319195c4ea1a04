"""Write captions of single frames as SFT rows, for a model that has to learn to see.

    python -m data_prep.captions --pairs outputs/hide_and_seek/train.parquet --video-root outputs/hide_and_seek \\
        --out outputs/captions.parquet --recipe videosearch_cold_start_tiny

The one idea: the truth about a pair says what each of its frames shows, whatever a judge chooses to look at. So
captions teach the eyes and leave the choices alone. One row is one pair: some of its frames in random order, half of
them from the rare ones (hidden defects, cues) as far as there are any. Mix the rows with traces:
`data.train_files=[traces/sft.parquet,captions.parquet]`.

Covers: pairs of `hide_and_seek` and `degrade`. Does not cover: pre-trained models, which see already.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import typer
from rich.console import Console
from rich.progress import track

from data_prep.cold_start import read_episode, read_pairs
from data_prep.defects import DEFECT_TYPES, PAIRED, defect_from_meta
from data_prep.teacher import check_truth
from data_prep.traces import SFT_SCHEMA
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.frame_store import FrameStore
from verl_videosearch.frames import CandidateFrames, FrameLocation
from verl_videosearch.prompts import PromptStyle
from verl_videosearch.rollout import EpisodeFailure, load_pair
from verl_videosearch.sample import PreferenceSample, to_row, write_rows

CAPTION_SCHEMA = pa.schema([*SFT_SCHEMA, ("captioned_frames", pa.list_(pa.int32()))])
"""The columns of a file of traces and one more; `replies` are the captions."""


@dataclass(frozen=True)
class FrameTruth:
    """What one frame shows."""

    defects: tuple[str, ...]
    """Types of its defects."""
    is_cue: bool
    is_rare: bool
    """True for a cue and for a frame of a hidden defect."""

    def caption(self, style: PromptStyle) -> str:
        """Say it in the teacher's words.

        >>> FrameTruth(("lines",), is_cue=True, is_rare=True).caption(PromptStyle.BRIEF)
        'lines and marker'
        """
        names = [name if style is PromptStyle.BRIEF else DEFECT_TYPES[name].words for name in self.defects]
        return " and ".join([*names, "marker"] if self.is_cue else names) or "clean"


def find_truth(sample: PreferenceSample, place: FrameLocation) -> FrameTruth:
    """Look up what a frame shows; a defect that shows only between neighbours does not count."""
    defects = [defect_from_meta(meta) for meta in sample.meta[f"defects_{place.video}"]]
    here = [each for each in defects if place.index in each.frame_indices and each.type not in PAIRED]
    cues = sample.meta.get("cues") or [cue for cue in [sample.meta.get("cue")] if cue]
    is_cue = any(place.index == cue["first_index"] - 1 for cue in cues)
    is_rare = is_cue or any(defect.is_hidden for defect in here)
    return FrameTruth(tuple(defect.type for defect in here), is_cue, is_rare)


def choose_frames(
    sample: PreferenceSample, candidates: CandidateFrames, num_frames: int, rng: random.Random
) -> list[int]:
    """Draw frame numbers, half of them rare ones as far as there are any, in random order."""
    numbers = rng.sample(range(1, len(candidates) + 1), len(candidates))
    rare = [number for number in numbers if find_truth(sample, candidates.locate(number)).is_rare]
    rare = rare[: num_frames // 2]
    others = [number for number in numbers if number not in rare]
    chosen = rare + others[: num_frames - len(rare)]
    rng.shuffle(chosen)
    return chosen


def make_row(
    sample: PreferenceSample, candidates: CandidateFrames, episode: EpisodeConfig, num_frames: int, seed: int
) -> dict[str, Any]:
    """Caption some frames of a pair; raises `ValueError` for a pair whose truth is not known."""
    check_truth(sample, candidates, episode)
    numbers = choose_frames(sample, candidates, num_frames, random.Random(f"{seed} {sample.uid}"))
    captions = [find_truth(sample, candidates.locate(number)).caption(episode.prompt_style) for number in numbers]
    return to_row(sample) | {
        "replies": captions,
        "episode": json.dumps(asdict(episode)),
        "captioned_frames": numbers,
    }


def main(
    pairs: Annotated[list[Path], typer.Option(help="Parquet file of pairs; may be given more than once.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    video_root: Annotated[Path | None, typer.Option(help="Folder that relative video paths start from.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Take the episode settings of this recipe.")] = None,
    episode: Annotated[list[str] | None, typer.Option(help="Change one of them: window=2; repeatable.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames per row.")] = 12,
    limit: Annotated[int | None, typer.Option(help="Only the first pairs.")] = None,
    store: Annotated[Path | None, typer.Option(help="Frame store; default: $VIDEOSEARCH_FRAME_STORE.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed chooses the same frames.")] = 0,
) -> None:
    """Write captions of single frames."""
    console, frame_store, rows, failures = Console(), FrameStore(store), [], 0
    try:
        config = read_episode(recipe, episode or ())
        for sample in track(read_pairs(pairs, limit), "captioning", console=console):
            try:
                pair = load_pair(sample, frame_store, config, video_root)
            except EpisodeFailure as failure:
                failures += 1
                console.print(f"left out: {failure}", markup=False, highlight=False)
                continue
            rows.append(make_row(sample, pair.candidates, config, frames, seed))
    except (ValueError, ImportError) as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    write_rows(out, pa.Table.from_pylist(rows, schema=CAPTION_SCHEMA))
    console.print(f"{len(rows)} rows in {out}; {failures} pairs could not be read", highlight=False)


if __name__ == "__main__":
    typer.run(main)
