"""Table: every row of the sweep over its seeds, as it came out, and paired with its parent.

The one idea: the run is the unit. Means, standard deviations and intervals are over seeds; a
difference is taken within a seed and then averaged, with the 95 % interval of Student's t. A row
that nobody has run is a row that says so."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from benchmarks.sweep.finished import ROWS, FinishedRow, read_rows
from benchmarks.sweep.variants import SEEDS, VARIANTS, Variant
from verl_videosearch.report.table import Table

T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Two-sided 95 % point of Student's t by degrees of freedom."""
SHARES = {
    "right, greedy": "grpo.right",
    "right, sampled": "grpo-sampled.right",
    "rejection, sampled": "rft-sampled.right",
}
"""Column to figure, in per cent."""
CALLS = ("visible", "tie", "hidden", "empty", "decoy", "both_hidden")
MEMORY = {"right": "memory.run", "emptied": "memory.emptied", "opposite": "memory.opposite"}
CAPTION = (
    "Per cent, mean ± sd over seeds. Difference: greedy, in points, row less the row that it is "
    "paired with, within each seed, with the 95 % interval over seeds (Student's t). Calls per "
    "episode, greedy, by pair type."
)
Runs = Mapping[str, Mapping[int, FinishedRow]]


def make_table(mix: str, rows: Path = ROWS) -> Table:
    """Put every row of a mix into one table, those that were not run, too."""
    runs: dict[str, dict[int, FinishedRow]] = {}
    for each in read_rows(mix, rows):
        runs.setdefault(each.row, {})[each.seed] = each
    figures = [name for found in runs.values() for each in found.values() for name in each.figures]
    types = [name for name in CALLS if f"grpo.calls.{name}" in figures]
    columns = ("row", "changed", "seeds", *SHARES, "paired with", "difference", *_name_calls(types))
    cells = [tuple(_describe(variant, runs, types)) for variant in VARIANTS.values()]
    return Table(f"Sweep, {mix} pairs", columns, cells, CAPTION)


def make_memory_table(mix: str, rows: Path = ROWS) -> Table:
    """Put what altered memories cost into one table, for the rows where that was asked."""
    cells = []
    for name in VARIANTS:
        found = [each for each in read_rows(mix, rows) if each.row == name]
        for pairs in ("all", *CALLS):
            known = [each for each in found if f"memory.emptied.{pairs}" in each.figures]
            if known:
                cells.append((name, pairs, str(len(known)), *_describe_memory(known, pairs)))
    columns = ("row", "pairs", "seeds", *MEMORY, "emptied less right")
    return Table(f"Memory, {mix} pairs", columns, cells, "Per cent right, mean ± sd over seeds.")


def _describe_memory(known: Sequence[FinishedRow], pairs: str) -> Iterator[str]:
    for prefix in MEMORY.values():
        yield _spread(
            [100 * e.figures[f"{prefix}.{pairs}"] for e in known if _has(e, prefix, pairs)]
        )
    lost = [
        100 * (e.figures[f"memory.emptied.{pairs}"] - e.figures[f"memory.run.{pairs}"])
        for e in known
    ]
    yield describe_difference(lost)


def _has(row: FinishedRow, prefix: str, pairs: str) -> bool:
    return f"{prefix}.{pairs}" in row.figures


def _name_calls(types: Sequence[str]) -> list[str]:
    return [f"calls, {name}" for name in types]


def _describe(variant: Variant, runs: Runs, types: Sequence[str]) -> Iterator[str]:
    """Yield the cells of one row."""
    found = runs.get(variant.name, {})
    yield variant.name
    yield variant.what
    yield describe_seeds(variant, sorted(found))
    for figure in SHARES.values():
        yield _spread([100 * r.figures[figure] for r in found.values() if figure in r.figures])
    pairs = [] if variant.is_base else list_pairs(variant, runs)
    yield "" if variant.is_base else variant.parent
    yield describe_difference(
        [100 * (a.figures["grpo.right"] - b.figures["grpo.right"]) for a, b in pairs]
    )
    for name in types:
        calls = [r.figures.get(f"grpo.calls.{name}") for r in found.values()]
        yield _spread([each for each in calls if each is not None], digits=2)


def describe_seeds(variant: Variant, seeds: Sequence[int]) -> str:
    """Say which seeds were run, of how many that are planned.

    >>> describe_seeds(VARIANTS["base"], [0, 2]), describe_seeds(VARIANTS["d-alpha-0"], [])
    ('0 2 (2 of 5)', 'not run')
    """
    if not seeds:
        return f"not run: {variant.needs}" if variant.needs else "not run"
    return f"{' '.join(map(str, seeds))} ({len(seeds)} of {SEEDS[variant.tier]})"


def list_pairs(variant: Variant, runs: Runs) -> list[tuple[FinishedRow, FinishedRow]]:
    """Pair a row with its parent by seed; raises `ValueError` when they should have begun with the
    same model and did not."""
    own, others = runs.get(variant.name, {}), runs.get(variant.parent, {})
    pairs = [(own[seed], others[seed]) for seed in sorted(set(own) & set(others))]
    for a, b in pairs:
        if variant.has_same_start and a.start != b.start:
            raise ValueError(
                f"{a.path} began with model {a.start} and {b.path} with {b.start}: they are no "
                "pair; run one of them again"
            )
    return pairs


def _spread(values: Sequence[float], digits: int = 1) -> str:
    if not values:
        return ""
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


def describe_difference(values: Sequence[float]) -> str:
    """Write a mean difference with its 95 % interval over runs.

    >>> describe_difference([-1.0, -2.0, -3.0]), describe_difference([4.0])
    ('-2.0 [-4.5, +0.5]', '+4.0 (one seed)')
    """
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:+.1f} (one seed)"
    half = T_95[len(values) - 1] * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):+.1f} [{mean(values) - half:+.1f}, {mean(values) + half:+.1f}]"
