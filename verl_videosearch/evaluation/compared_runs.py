"""Comparing runs, files of episodes and other judges' files by their paths: which pairs they share,
and the page.

The one idea: a path is a run (its folder, or a file of episodes of any program) or a file of
predictions; only the pairs that all runs share are compared.

    compare_paths([Path("runs/ours"), Path("rejection/journal.jsonl"), Path("rival.csv")])

Covers: reading, naming, facts about each. Does not cover: the figures (`comparison`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_videosearch.evaluation.comparison import (
    Comparison,
    JudgePredictions,
    compare_judges,
    map_shared_pairs,
    predictions_of_run,
    read_predictions,
    rename_pairs,
)
from verl_videosearch.evaluation.pages.comparison_plots import draw_comparison
from verl_videosearch.evaluation.pages.comparison_tables import describe_comparison
from verl_videosearch.evaluation.pages.header import describe_frames, describe_protocol
from verl_videosearch.evaluation.pages.leaderboard import write_leaderboard
from verl_videosearch.evaluation.results import Run, is_run, name_run, read_run, write_pages
from verl_videosearch.evaluation.summary import measure_costs, to_plain
from verl_videosearch.judgement import OVERALL, swap_label
from verl_videosearch.report.page import Block
from verl_videosearch.runs.folder import RunFolder
from verl_videosearch.runs.identity import hash_pairs
from verl_videosearch.sample import PreferenceSample

TITLE = "Comparison of judges"
_UNKNOWN = "predictions from a file; frames, order and decoding are not known"


@dataclass(frozen=True)
class ComparedRuns:
    """A comparison with what its page shows."""

    comparison: Comparison
    blocks: list[Block]
    facts: list[tuple[str, str]]

    def write(self, out: str | Path) -> None:
        """Write the figures and the page into a folder."""
        folder = RunFolder(out)
        folder.write_json("results.json", to_plain(self.comparison))
        write_pages(folder, TITLE, self.blocks, self.facts)
        for name, text in write_leaderboard(self.comparison).items():
            folder.write_text(name, text)
        for name, picture in draw_comparison(self.comparison).items():
            folder.write_bytes(name, picture)


def compare_paths(
    judges: Sequence[Path], samples: Sequence[PreferenceSample] | None = None
) -> ComparedRuns:
    """Compare judges by their paths, the first is the reference, over the pairs that all runs
    share: of `samples` with the labels that these have, or of the first run's. Raises `ValueError`
    for what cannot be compared."""
    if missing := [str(path) for path in judges if not path.exists()]:
        raise ValueError(f"no such run or file: {', '.join(missing)}")
    _check_names([name_run(path) for path in judges])
    runs = {path: read_run(path, keeps_words=False) for path in judges if is_run(path)}
    if not runs and samples is None:
        raise ValueError(
            "no run among the judges, so there are no labels; give them with --samples PATH.parquet"
        )
    given = list(samples) if samples is not None else _check_labels(list(runs.values()))
    pairs = _share_pairs(given, list(runs.values()))
    predictions = [
        _predict_run(runs[path], pairs) if path in runs else read_predictions(path, pairs)
        for path in judges
    ]
    comparison = compare_judges(predictions, pairs)
    facts = [("pairs", _describe_pairs(pairs, given, list(runs.values())))]
    facts += [(run.name, _describe_run(run)) for run in runs.values()]
    facts += [(path.stem, _UNKNOWN) for path in judges if path not in runs]
    return ComparedRuns(comparison, describe_comparison(comparison), facts)


def _predict_run(run: Run, samples: list[PreferenceSample]) -> JudgePredictions:
    """Return the verdicts of a run about `samples`, with what it cost per pair."""
    facts: dict[str, Any] = measure_costs(run.pairs) | {"seconds": run.seconds_per_pair}
    own = predictions_of_run(run.name, run.samples, run.pairs, facts)
    return rename_pairs(own, map_shared_pairs(samples, run.samples))


def _check_labels(runs: list[Run]) -> list[PreferenceSample]:
    """Return the pairs of the first run; raises `ValueError` if another one holds other labels of
    them."""
    samples = {sample.uid: sample for sample in runs[0].samples}
    for run in runs[1:]:
        others = {other.uid: other for other in run.samples}
        for uid, (own, is_swapped) in map_shared_pairs(runs[0].samples, run.samples).items():
            label, given = others[uid].labels[OVERALL], samples[own].labels[OVERALL]
            if (swap_label(label) if is_swapped else label) != given:
                raise ValueError(
                    f"pair {own!r} has the label {given} in {runs[0].name} and another in "
                    f"{run.name}; compare runs over one label file"
                )
    return runs[0].samples


def _share_pairs(samples: list[PreferenceSample], runs: list[Run]) -> list[PreferenceSample]:
    """Return the samples that all runs judged; raises `ValueError` if there are none."""
    for run in runs:
        shared = {own for own, _ in map_shared_pairs(samples, run.samples).values()}
        samples = [sample for sample in samples if sample.uid in shared]
    if not samples:
        named = "; ".join(
            f"{run.name}: {run.settings.benchmark}, {run.settings.pairs_hash}" for run in runs
        )
        raise ValueError(
            f"the runs share no pair, they are over different pairs ({named}); compare runs of one "
            "benchmark, and give its pairs if you give --samples"
        )
    return samples


def _describe_pairs(
    samples: list[PreferenceSample], given: list[PreferenceSample], runs: list[Run]
) -> str:
    """Say how many pairs are compared, and of how many."""
    largest = max(len(given), *(len(run.samples) for run in runs), 0)
    shared = f" that all runs share, of up to {largest}" if largest > len(samples) else ""
    return f"{len(samples)} ({hash_pairs(samples)}){shared}"


def _check_names(names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise ValueError(
            f"two judges have one name: {names}; rename a folder or a file, names are taken "
            "from them"
        )


def _describe_run(run: Run) -> str:
    """Say in one line how a run was made."""
    settings = run.settings
    orders = " and ".join(order.value for order in settings.orders)
    frames = describe_frames(settings.episode, is_redundant=settings.is_redundant)
    protocol = describe_protocol(settings.temperature, settings.seed)
    failed = sum(not record.has_result for record in run.records)
    words = f"; {failed} episodes failed" if failed else ""
    return f"{settings.model} ({settings.model_hash}), order {orders}, {frames}; {protocol}{words}"
