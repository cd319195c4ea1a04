"""Compare judges on the same pairs: our runs, and the predictions of any other judge.

The one idea: one table, one set of rows. Only pairs that every run has judged are compared; a
prediction that an imported file lacks is a missing verdict, thus wrong; a pair that failed in one
of our runs is left out for all judges and counted.

An imported file is csv or jsonl with `sample_uid` and one of

| columns | meaning |
|---|---|
| `verdict` (or `OA`) | 0, 1 or 2; anything else is unreadable, thus wrong |
| `score_1`, `score_2` | one score per video: higher wins, equal is a tie |
| `margin` | a signed score, above 0 for video 1 |

Does not cover: dimensions, and choosing a tie threshold on the reported pairs, except as the upper
bound named so."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_videosearch import metrics
from verl_videosearch.evaluation.verdicts import PairVerdicts
from verl_videosearch.judgement import OVERALL
from verl_videosearch.metrics import Accuracies, PairedDifference
from verl_videosearch.sample import PreferenceSample


class ImportedFileError(ValueError):
    """A file of predictions cannot be used; the text is for the user."""


@dataclass(frozen=True)
class JudgePredictions:
    """What one judge said about many pairs."""

    name: str
    verdicts: Mapping[str, int | None]
    """Sample uid to overall verdict."""
    margins: Mapping[str, float | None]
    """Sample uid to a signed score; empty for a judge that gives none."""
    failed: frozenset[str] = frozenset()
    """Pairs without a verdict for reasons that are not the judge's."""
    facts: Mapping[str, Any] | None = None
    """What a run knows about its cost: frames, tokens, seconds."""


@dataclass(frozen=True)
class ComparedJudge:
    """One row of the comparison."""

    name: str
    overall: Accuracies
    missing: int
    """Pairs without any prediction in the judge's file; wrong in the figures."""
    best_threshold: metrics.CalibratedAccuracy | None
    """Upper bound: the tie threshold that fits these very pairs best; None without scores."""
    videoalign: metrics.CalibratedAccuracy | None
    """The same by VideoAlign's program, for its leaderboard only."""
    facts: Mapping[str, Any]
    against_first: PairedDifference | None
    """With ties, this judge minus the first one; None for the first."""
    against_first_decided: PairedDifference | None
    """Without ties."""


@dataclass(frozen=True)
class Comparison:
    """Several judges on the same pairs."""

    num_pairs: int
    """Pairs with a gold label that all were compared on."""
    num_left_out: int
    """Pairs that failed in at least one run."""
    judges: tuple[ComparedJudge, ...]
    baselines: metrics.Baselines


def compare(judges: Sequence[JudgePredictions], gold: Mapping[str, int | None]) -> Comparison:
    """Compare at least one judge on all pairs of `gold` that failed in none of them; the first is
    the reference."""
    failed = frozenset().union(*(judge.failed for judge in judges)) & set(gold)
    uids = sorted(uid for uid in gold if uid not in failed)
    labels = [gold[uid] for uid in uids]
    columns = [[judge.verdicts.get(uid) for uid in uids] for judge in judges]
    return Comparison(
        num_pairs=sum(label is not None for label in labels),
        num_left_out=len(failed),
        judges=tuple(
            _compare_one(judge, uids, labels, column, None if judge is judges[0] else columns[0])
            for judge, column in zip(judges, columns, strict=True)
        ),
        baselines=metrics.score_baselines(labels),
    )


def _compare_one(
    judge: JudgePredictions,
    uids: Sequence[str],
    labels: Sequence[int | None],
    column: Sequence[int | None],
    reference: Sequence[int | None] | None,
) -> ComparedJudge:
    figures = metrics.score_verdicts(labels, column)
    margins = [judge.margins.get(uid) for uid in uids]
    tests = [
        None
        if reference is None
        else metrics.paired_bootstrap(correct(labels, column), correct(labels, reference))
        for correct in (metrics.correct_with_ties, metrics.correct_without_ties)
    ]
    return ComparedJudge(
        name=judge.name,
        overall=Accuracies(
            figures.with_ties.with_interval(),
            figures.without_ties.with_interval(),
            figures.unreadable,
            figures.unlabelled,
        ),
        missing=sum(uid not in judge.verdicts for uid in uids),
        best_threshold=metrics.accuracy_with_ties_calibrated(labels, margins)
        if judge.margins
        else None,
        videoalign=metrics.accuracy_with_ties_videoalign(labels, margins)
        if judge.margins
        else None,
        facts=judge.facts or {},
        against_first=tests[0],
        against_first_decided=tests[1],
    )


def predictions_of_run(
    name: str,
    samples: Sequence[PreferenceSample],
    pairs: Sequence[PairVerdicts],
    facts: Mapping[str, Any],
) -> JudgePredictions:
    """Return the merged verdicts of one of our runs."""
    judged = {pair.uid for pair in pairs}
    return JudgePredictions(
        name,
        verdicts={pair.uid: pair.verdict() for pair in pairs},
        margins={pair.uid: pair.margin for pair in pairs},
        failed=frozenset(sample.uid for sample in samples) - judged,
        facts=facts,
    )


def read_predictions(path: Path) -> JudgePredictions:
    """Read a csv or jsonl file of verdicts or scores; raises `ImportedFileError` that says what is
    wrong with it."""
    rows = _read_rows(path)
    uids = [str(row.get("sample_uid", "")) for row in rows]
    if "" in uids or len(set(uids)) < len(uids):
        what = "a row without sample_uid" if "" in uids else "a sample_uid twice"
        raise ImportedFileError(f"{path} has {what}; give every pair exactly one row")
    columns = {name for row in rows for name in row}
    key = next((name for name in ("verdict", OVERALL) if name in columns), None)
    has_scores = "margin" in columns or {"score_1", "score_2"} <= columns
    if key is None and not has_scores:
        raise ImportedFileError(
            f"{path} has the columns {sorted(map(str, columns))}; it needs verdict, or margin, or score_1 and score_2"
        )
    margins = (
        {uid: _read_margin(row) for uid, row in zip(uids, rows, strict=True)} if has_scores else {}
    )
    if key is None:
        verdicts = dict(zip(uids, metrics.verdicts_from_margins(margins.values()), strict=True))
    else:
        verdicts = {uid: _read_verdict(row.get(key)) for uid, row in zip(uids, rows, strict=True)}
    return JudgePredictions(path.stem, verdicts, margins)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        elif path.suffix == ".csv":
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
        else:
            raise ImportedFileError(f"{path} is neither a run, nor .csv, nor .jsonl")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise ImportedFileError(f"{path} cannot be read: {error}") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ImportedFileError(f"{path} holds no rows with named fields")
    return rows


def _read_margin(row: Mapping[str, Any]) -> float | None:
    if row.get("margin") not in (None, ""):
        return _read_number(row["margin"])
    one, two = _read_number(row.get("score_1")), _read_number(row.get("score_2"))
    return None if one is None or two is None else one - two


def _read_number(value: Any) -> float | None:
    """Return a finite number; anything else is None, thus no prediction.

    >>> [_read_number(value) for value in ("0.5", 2, "", "nan", None, True)]
    [0.5, 2.0, None, None, None, None]
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _read_verdict(value: Any) -> int | None:
    number = _read_number(value)
    return int(number) if number in (0, 1, 2) else None
