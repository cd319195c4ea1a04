"""Graded clips: several videos of one base, each more damaged than the one before it.

    python -m data_prep.hide_and_seek.graded --out outputs/graded --groups 20 --clips 4

The one idea: the damage only grows - every clip has all damaged frames of the clip before it and at
least as severe a defect - so the order of a group is known without anybody's opinion. The first
clip of a group is clean; all of them carry the same cues, which say where to look.

>>> [grade.num_frames for grade in list_grades((3, 3))]
[0, 1, 1, 1, 2, 3, 4, 5, 6]

Writes groups.json (prompt and clips, best first) and videos/. Covers: what a best-of-N or a reward
is
tried on. Does not cover: human taste."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from verl_videosearch.data_prep.hide_and_seek.bases import SCENE, make_base
from verl_videosearch.data_prep.hide_and_seek.build import paint_cue
from verl_videosearch.data_prep.hide_and_seek.profile import PROFILES, Gap, Profile
from verl_videosearch.data_prep.synthetic.defects import (
    COLOURS,
    DEFECT_TYPES,
    Defect,
    apply_defect,
)

from verl_videosearch.video.lossless import SUFFIX, store_lossless

GROUPS = "groups.json"
MAX_SEVERITY = 3


@dataclass(frozen=True)
class Grade:
    """How much one clip of a group is damaged."""

    num_frames: int
    """Damaged frames, from the first gap on; 0 is clean."""
    severity: int
    """1 to 3; 0 is clean."""


@dataclass(frozen=True)
class GradedGroup:
    """The clips of one prompt, best first."""

    prompt: str
    clips: tuple[np.ndarray, ...]
    """uint8 (N, H, W, 3) each."""
    grades: tuple[Grade, ...]


def list_grades(gap_lengths: Sequence[int]) -> list[Grade]:
    """Return every grade that gaps of these lengths allow: one frame at rising severity, then more
    and more frames at the highest."""
    first = [Grade(1, severity) for severity in range(1, MAX_SEVERITY + 1)]
    more = [Grade(count, MAX_SEVERITY) for count in range(2, sum(gap_lengths) + 1)]
    return [Grade(0, 0), *first, *more]


def make_group(num_clips: int, seed: int, profile: Profile = PROFILES["tiny"]) -> GradedGroup:
    """Make the clips of one group; the same seed gives the same pixels. Raises `ValueError` for
    more
    clips than there are grades."""
    rng = np.random.default_rng([seed, 7])
    gaps = [profile.gaps()[int(i)] for i in rng.permutation(len(profile.gaps()))]
    grades = list_grades([gap.num_frames for gap in gaps])
    if not 2 <= num_clips <= len(grades):
        raise ValueError(
            f"a group of profile {profile.name} has 2 to {len(grades)} clips, got {num_clips}"
        )
    picked = np.linspace(0, len(grades) - 1, num_clips).round().astype(int)
    chosen = [grades[index] for index in picked]
    base = make_base(SCENE, (seed, 8), Path(), profile)
    kind = str(rng.choice(profile.hidden_types))
    colour = str(rng.choice(list(COLOURS))) if DEFECT_TYPES[kind].is_coloured else None
    look = int(rng.integers(2**31))
    clips = []
    for grade in chosen:
        frames = base.frames
        for gap, count in _spread(gaps, grade.num_frames):
            defect = Defect(kind, grade.severity, gap.first_index, count, True, look, colour)
            frames = apply_defect(frames, defect)
        for gap, _ in _spread(gaps, chosen[-1].num_frames):
            frames = paint_cue(frames, gap)
        clips.append(frames)
    return GradedGroup(base.prompt, tuple(clips), tuple(chosen))


def _spread(gaps: Sequence[Gap], num_frames: int) -> list[tuple[Gap, int]]:
    """Fill gaps one after another; returns each with its number of damaged frames."""
    filled = []
    for gap in gaps:
        count = min(num_frames, gap.num_frames)
        if count:
            filled.append((gap, count))
        num_frames -= count
    return filled


def write_groups(
    out: Path, num_groups: int, num_clips: int, seed: int, profile: Profile
) -> list[tuple[str, list[Path]]]:
    """Write groups below `out`; returns (prompt, clips from best to worst) of each."""
    groups = []
    for number in range(num_groups):
        group = make_group(num_clips, seed * 100_003 + number, profile)
        paths = []
        for place, frames in enumerate(group.clips):
            path = out / "videos" / f"{number:04d}_{place}{SUFFIX}"
            store_lossless(path, frames)
            paths.append(path)
        groups.append((group.prompt, paths))
    content = [
        {"prompt": prompt, "clips": [str(path.relative_to(out)) for path in paths]}
        for prompt, paths in groups
    ]
    (out / GROUPS).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    return groups


app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder for groups.json and videos/.")],
    groups: Annotated[int, typer.Option(min=1, help="Groups to make.")] = 20,
    clips: Annotated[int, typer.Option(min=2, help="Clips of a group.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    profile: Annotated[str, typer.Option(help="tiny or paper.")] = "tiny",
) -> None:
    """Make groups of clips whose order of damage is known."""
    if profile not in PROFILES:
        raise typer.BadParameter(f"unknown profile {profile!r}; choose among {list(PROFILES)}")
    try:
        made = write_groups(out, groups, clips, seed, PROFILES[profile])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(f"{len(made)} groups of {clips} clips: {out / GROUPS}")


if __name__ == "__main__":
    app()
