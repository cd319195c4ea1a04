"""Compare judges on the same pairs: our runs, and the predictions of any other judge.

The one idea: one table, one set of rows. Only pairs that all runs share are compared; a pair that
failed in one of our runs is left out for all judges and counted; a pair that an imported file lacks
is a missing prediction, thus wrong, and counted apart from words that cannot be read. A file of
which fewer than half of the pairs, words or scores can be used is refused: its 0 % would be ours.

An imported file is csv, jsonl, json or parquet. Its rows name the pair by `sample_uid` (or `uid`),
or by the paths of both videos (`video_1`, `video_2`, or `path_a`, `path_b`; the other order is
turned around), and what the judge said by

| columns | meaning |
|---|---|
| `verdict` (or `OA`, `overall`, ...) | a label in any spelling of `sources.label_words` |
| `TA`, `VQ`, ... | the same per dimension |
| `score_1`, `score_2` | one score per video: higher wins, equal is a tie |
| `margin` | a signed score, above 0 for video 1 |

The names of columns are read in any case.

Does not cover: choosing a tie threshold on the reported pairs, except as the upper bound named so.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from verl_videosearch import metrics
from verl_videosearch.evaluation.verdicts import PairVerdicts
from verl_videosearch.judgement import OVERALL, swap_label
from verl_videosearch.metrics import Accuracies, PairedDifference, Rate
from verl_videosearch.runs.identity import hash_pair, is_turned
from verl_videosearch.sample import Order, PreferenceSample, normalise_prompt
from verl_videosearch.sources.label_words import (
    ALLOWED,
    BadLabel,
    is_empty,
    read_label_word,
    read_signed_column,
)
from verl_videosearch.sources.source import SourceError
from verl_videosearch.sources.tables import read_rows

UID_COLUMNS = ("sample_uid", "uid")
VIDEO_COLUMNS = (
    ("video_1", "video_2"),
    ("path_a", "path_b"),
    ("path_1", "path_2"),
    ("video_left", "video_right"),
)
VERDICT_COLUMNS = ("verdict", "oa", "overall", "overall_label", "prediction", "preference")
"""Names of the overall verdict, in small letters."""
SCORE_COLUMNS = ("margin", "score_1", "score_2")
"""Names of the scores, in small letters."""
MIN_SHARE = 0.5
"""A file that names fewer of the pairs, or of whose words or scores fewer are read, is refused."""
MAX_REPEATED_SHARE, MIN_REPEATED = 0.05, 5
"""A word that is no label and stands in more than this share of the rows, and so many, is refused:
it is a label that we do not read, not an accident."""


class ImportedFileError(ValueError):
    """A file of predictions cannot be used; the text is for the user."""


@dataclass(frozen=True)
class JudgePredictions:
    """What one judge said about many pairs, in the order of the sample's own videos."""

    name: str
    verdicts: Mapping[str, int | None]
    """Sample uid to overall verdict; None: said, but unreadable."""
    margins: Mapping[str, float | None]
    """Sample uid to a signed score; empty for a judge that gives none."""
    failed: frozenset[str] = frozenset()
    """Pairs without a verdict for reasons that are not the judge's."""
    facts: Mapping[str, Any] | None = None
    """What a run knows about its cost: frames, tokens, seconds."""
    dimensions: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)
    """Dimension key to (sample uid to verdict)."""
    orders: Sequence[Mapping[str, int | None]] = ()
    """The verdicts of each single order of a run; empty where nobody knows the orders."""


@dataclass(frozen=True)
class ComparedJudge:
    """One row of the comparison."""

    name: str
    overall: Accuracies
    as_published: Accuracies | None
    """Mean over the single orders; None where nobody knows how the verdicts were made."""
    missing: int
    """Pairs without any prediction in the judge's file; wrong in the figures."""
    unreadable: int
    """Pairs with a prediction that is no label; wrong in the figures, too."""
    dimensions: Mapping[str, Accuracies]
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
    num_derived: int = 0
    """Pairs whose overall label was derived from the dimensions'."""


def compare_judges(
    judges: Sequence[JudgePredictions], samples: Sequence[PreferenceSample]
) -> Comparison:
    """Compare at least one judge on all samples that failed in none of them; the first is the
    reference."""
    failed = frozenset().union(*(judge.failed for judge in judges))
    kept = sorted((s for s in samples if s.uid not in failed), key=lambda sample: sample.uid)
    gold = [sample.labels[OVERALL] for sample in kept]
    return Comparison(
        num_pairs=sum(label is not None for label in gold),
        num_left_out=len(samples) - len(kept),
        judges=tuple(
            _compare_one(judge, kept, None if judge is judges[0] else judges[0]) for judge in judges
        ),
        baselines=metrics.score_baselines(gold),
        num_derived=sum(bool(sample.meta.get("overall_is_derived")) for sample in kept),
    )


def _compare_one(
    judge: JudgePredictions,
    samples: Sequence[PreferenceSample],
    reference: JudgePredictions | None,
) -> ComparedJudge:
    uids = [sample.uid for sample in samples]
    gold = [sample.labels[OVERALL] for sample in samples]
    prompts = [normalise_prompt(sample.prompt) for sample in samples]
    column = [judge.verdicts.get(uid) for uid in uids]
    margins = [judge.margins.get(uid) for uid in uids]
    calibrate = metrics.accuracy_with_ties_calibrated
    videoalign = metrics.accuracy_with_ties_videoalign
    return ComparedJudge(
        name=judge.name,
        overall=metrics.score_verdicts(gold, column, prompts),
        as_published=_score_orders(judge, uids, gold, prompts),
        missing=sum(uid not in judge.verdicts for uid in uids),
        unreadable=sum(judge.verdicts.get(uid, 0) is None for uid in uids),
        dimensions=_score_dimensions(judge, samples, prompts),
        best_threshold=calibrate(gold, margins) if judge.margins else None,
        videoalign=videoalign(gold, margins) if judge.margins else None,
        facts=judge.facts or {},
        against_first=_test(judge, reference, samples, prompts, is_decided=False),
        against_first_decided=_test(judge, reference, samples, prompts, is_decided=True),
    )


def _score_orders(
    judge: JudgePredictions,
    uids: Sequence[str],
    gold: Sequence[int | None],
    prompts: Sequence[str],
) -> Accuracies | None:
    if not judge.orders:
        return None
    column = [verdicts.get(uid) for verdicts in judge.orders for uid in uids]
    times = len(judge.orders)
    return metrics.score_verdicts([*gold] * times, column, [*prompts] * times)


def _score_dimensions(
    judge: JudgePredictions, samples: Sequence[PreferenceSample], prompts: Sequence[str]
) -> dict[str, Accuracies]:
    """Score the dimensions that the judge speaks about and the samples have labels for."""
    figures = {}
    for key, verdicts in judge.dimensions.items():
        rows = [n for n, sample in enumerate(samples) if sample.labels.get(key) is not None]
        if rows:
            figures[key] = metrics.score_verdicts(
                [samples[n].labels[key] for n in rows],
                [verdicts.get(samples[n].uid) for n in rows],
                [prompts[n] for n in rows],
            )
    return figures


def _test(
    judge: JudgePredictions,
    reference: JudgePredictions | None,
    samples: Sequence[PreferenceSample],
    prompts: Sequence[str],
    *,
    is_decided: bool,
) -> PairedDifference | None:
    """Test one judge against the first over the labelled pairs, or over the decided ones."""
    if reference is None:
        return None
    allowed = (1, 2) if is_decided else metrics.LABELS
    rows = [n for n, sample in enumerate(samples) if sample.labels[OVERALL] in allowed]
    gold = [samples[n].labels[OVERALL] for n in rows]
    own, other = (
        [each.verdicts.get(samples[n].uid) == label for n, label in zip(rows, gold, strict=True)]
        for each in (judge, reference)
    )
    return metrics.paired_bootstrap(own, other, [prompts[n] for n in rows])


def predictions_of_run(
    name: str,
    samples: Sequence[PreferenceSample],
    pairs: Sequence[PairVerdicts],
    facts: Mapping[str, Any],
) -> JudgePredictions:
    """Return what one of our runs said: merged verdicts, and those of the single orders."""
    judged = {pair.uid for pair in pairs}
    keys = dict.fromkeys(key for sample in samples for key in sample.dimension_keys)
    orders = [order for order in Order if pairs and order in pairs[0].episodes]
    return JudgePredictions(
        name,
        verdicts={pair.uid: pair.verdict() for pair in pairs},
        margins={pair.uid: pair.margin for pair in pairs},
        failed=frozenset(sample.uid for sample in samples) - judged,
        facts=facts,
        dimensions={key: {pair.uid: pair.verdict(key) for pair in pairs} for key in keys},
        orders=[{pair.uid: _in_own_order(pair, order) for pair in pairs} for order in orders],
    )


def _in_own_order(pair: PairVerdicts, order: Order) -> int | None:
    verdict = pair.raw_verdict(OVERALL, order)
    return verdict if order is Order.AB else metrics.swap_verdict(verdict)


def map_shared_pairs(
    samples: Sequence[PreferenceSample], others: Sequence[PreferenceSample]
) -> dict[str, tuple[str, bool]]:
    """Return the uid of every one of `others` that is a pair of `samples`, to that pair's uid and
    whether its videos are the other way round.

    Several samples of one pair are matched by their uids, the rest in their order."""
    free: dict[str, dict[str, PreferenceSample]] = defaultdict(dict)
    for sample in samples:
        free[hash_pair(sample)][sample.uid] = sample
    hashed = [(hash_pair(other), other) for other in others]
    named = [(pair, other) for pair, other in hashed if other.uid in free.get(pair, ())]
    mapped: dict[str, tuple[str, bool]] = {}
    for pair, other in (*named, *hashed):
        left = free.get(pair)
        if left and other.uid not in mapped:
            own = left.pop(other.uid if other.uid in left else next(iter(left)))
            mapped[other.uid] = (own.uid, is_turned(own, other))
    return mapped


def rename_pairs(
    judge: JudgePredictions, mapped: Mapping[str, tuple[str, bool]]
) -> JudgePredictions:
    """Return the predictions under the uids and in the orders of other samples; pairs that these
    lack are left out."""

    def rename(values: Mapping[str, Any], turn: Callable[[Any], Any]) -> dict[str, Any]:
        return {
            mapped[uid][0]: turn(value) if mapped[uid][1] else value
            for uid, value in values.items()
            if uid in mapped
        }

    def negate(margin: float | None) -> float | None:
        return None if margin is None else -margin

    return JudgePredictions(
        judge.name,
        rename(judge.verdicts, swap_label),
        rename(judge.margins, negate),
        frozenset(mapped[uid][0] for uid in judge.failed if uid in mapped),
        judge.facts,
        {key: rename(values, swap_label) for key, values in judge.dimensions.items()},
        [rename(values, swap_label) for values in judge.orders],
    )


def read_predictions(
    path: Path, samples: Sequence[PreferenceSample] | None = None
) -> JudgePredictions:
    """Read a file of verdicts or scores; raises `ImportedFileError` that says what is wrong with
    it. With `samples`, rows are matched to them, by uid or by the paths of the videos."""
    try:
        rows = list(read_rows([path], (), is_own=True))
    except SourceError as error:
        raise ImportedFileError(str(error)) from error
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        raise ImportedFileError(f"{path} holds no rows with named fields")
    columns = {str(name).strip().casefold(): name for row in rows for name in row}
    keys = _find_pairs(path, rows, columns, samples)
    verdict = next((columns[name] for name in VERDICT_COLUMNS if name in columns), None)
    has_scores = "margin" in columns or {"score_1", "score_2"} <= set(columns)
    if verdict is None and not has_scores:
        raise ImportedFileError(
            f"{path} has the columns {sorted(map(str, columns.values()))}; it needs verdict, or "
            "margin, or score_1 and score_2"
        )
    margins = _read_margins(path, rows, keys, columns) if has_scores else {}
    if verdict is None:
        read = metrics.verdicts_from_margins(margins.values())
        verdicts: dict[str, int | None] = dict(zip(margins, read, strict=True))
    else:
        verdicts = _read_words(path, rows, keys, verdict)
    dimension_keys = dict.fromkeys(key for s in samples or () for key in s.dimension_keys)
    dimensions = {
        key: _read_words(path, rows, keys, columns[key.casefold()])
        for key in dimension_keys
        if key.casefold() in columns
    }
    return JudgePredictions(path.stem, verdicts, margins, dimensions=dimensions)


_Keys = Sequence["tuple[str, bool] | None"]
"""For every row of a file: the uid of its pair and whether its videos are the other way round; None
for a pair that is not compared."""


def _find_pairs(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, Any],
    samples: Sequence[PreferenceSample] | None,
) -> _Keys:
    """Say which pair each row is about; raises `ImportedFileError` if most pairs are not there."""
    uid_column = next((columns[name] for name in UID_COLUMNS if name in columns), None)
    video_columns = [c for c in VIDEO_COLUMNS if set(c) <= set(columns)] if samples else []
    if uid_column is not None:
        names = [
            str(row.get(uid_column) if row.get(uid_column) is not None else "") for row in rows
        ]
        if "" in names:
            row = names.index("") + 1
            raise ImportedFileError(f"{path}, row {row}: a row without {uid_column}")
        found: _Keys = [(name, False) for name in names]
        if samples is None or _count_matches(found, samples) or not video_columns:
            _check_matches(path, found, names, samples)
            return found
    if samples is None or not video_columns:
        raise ImportedFileError(
            f"{path} names no pairs; it needs sample_uid, or the paths of both videos as video_1 "
            "and video_2"
        )
    one, two = (columns[name] for name in video_columns[0])
    videos = [(str(row.get(one)), str(row.get(two))) for row in rows]
    best: _Keys = max(
        (_match_videos(videos, samples, name) for name in (str, _last_parts, _file_name)),
        key=lambda keys: _count_matches(keys, samples),
    )
    _check_matches(path, best, [" and ".join(pair) for pair in videos], samples)
    return best


def _file_name(path: str) -> str:
    return PurePath(path).name


def _last_parts(path: str) -> str:
    return "/".join(PurePath(path).parts[-2:])


def _match_videos(
    videos: Sequence[tuple[str, str]],
    samples: Sequence[PreferenceSample],
    shorten: Callable[[str], str],
) -> _Keys:
    """Match pairs of paths in either order; names that several samples share match none."""
    known: dict[tuple[str, str], tuple[str, bool] | None] = {}
    for sample in samples:
        pair = (shorten(sample.video_1), shorten(sample.video_2))
        for key, is_swapped in ((pair, False), (pair[::-1], True)):
            known[key] = None if key in known else (sample.uid, is_swapped)
    return [known.get((shorten(one), shorten(two))) for one, two in videos]


def _count_matches(keys: _Keys, samples: Sequence[PreferenceSample]) -> int:
    uids = {sample.uid for sample in samples}
    return len({key[0] for key in keys if key is not None} & uids)


def _check_matches(
    path: Path,
    keys: _Keys,
    names: Sequence[str],
    samples: Sequence[PreferenceSample] | None,
) -> None:
    """Refuse a pair that has two rows, and a file that lacks most of the pairs."""
    rows_of: dict[str, int] = {}
    for number, key in enumerate(keys, 1):
        first = number if key is None else rows_of.setdefault(key[0], number)
        if first != number:
            raise ImportedFileError(
                f"{path}, row {number}: {names[number - 1]!r} has row {first} already (a "
                "sample_uid twice); give every pair exactly one row"
            )
    if not samples:
        return
    share = Rate(_count_matches(keys, samples), len(samples))
    if share.value < MIN_SHARE:
        uids, named = {sample.uid for sample in samples}, {key[0] for key in keys if key}
        example = next(sample for sample in samples if sample.uid not in named)
        unknown = [n for n, k in zip(names, keys, strict=True) if k is None or k[0] not in uids]
        raise ImportedFileError(
            f"{path} names {share} of the pairs, so its figures would say nothing; it has for "
            f"example {(unknown or names)[0]!r}, the pairs are called for example {example.uid!r} "
            f"(videos {example.video_1!r} and {example.video_2!r})"
        )


def _read_words(
    path: Path, rows: Sequence[Mapping[str, Any]], keys: _Keys, column: Any
) -> dict[str, int | None]:
    """Read one column of verdicts; raises `ImportedFileError` if most of its words are none, or one
    that many rows have."""
    words = [row.get(column) for row in rows]
    read = read_signed_column(words) or [_read_word(word) for word in words]
    _check_words(path, words, read, column)
    return {
        key[0]: swap_label(verdict) if key[1] else verdict
        for verdict, key in zip(read, keys, strict=True)
        if key is not None
    }


def _read_word(word: Any) -> int | None:
    try:
        return read_label_word(word)
    except BadLabel:
        return None


def _check_words(path: Path, words: Sequence[Any], read: Sequence[int | None], column: Any) -> None:
    """Refuse a column whose unread words are no accidents."""
    said = [(word, label) for word, label in zip(words, read, strict=True) if not is_empty(word)]
    unread = [word for word, label in said if label is None]
    if len(unread) > len(said) * (1 - MIN_SHARE):
        raise ImportedFileError(
            f"{path}: {len(unread)} of the {len(said)} words in {column!r} are no label, for "
            f"example {unread[0]!r}; allowed are {ALLOWED}"
        )
    for word, count in Counter(map(str, unread)).most_common(1):
        if count >= MIN_REPEATED and count > len(words) * MAX_REPEATED_SHARE:
            raise ImportedFileError(
                f"{path}: {word!r} stands in {count} of the {len(words)} rows of {column!r} and is "
                f"no label; allowed are {ALLOWED}, and an empty field or `invalid` where the judge "
                "gave no verdict"
            )


def _read_margins(
    path: Path, rows: Sequence[Mapping[str, Any]], keys: _Keys, columns: Mapping[str, Any]
) -> dict[str, float | None]:
    """Read the signed scores of the rows; raises `ImportedFileError` if most are no numbers."""
    named = {name: columns[name] for name in SCORE_COLUMNS if name in columns}
    margins: dict[str, float | None] = {}
    said, unread = 0, []
    for row, key in zip(rows, keys, strict=True):
        given = {name: row.get(column) for name, column in named.items()}
        margin = _read_margin(given)
        if words := [value for value in given.values() if not is_empty(value)]:
            said += 1
            unread += words[:1] if margin is None else []
        if key is not None:
            margins[key[0]] = -margin if key[1] and margin is not None else margin
    if len(unread) > said * (1 - MIN_SHARE):
        raise ImportedFileError(
            f"{path}: {len(unread)} of the {said} rows of {[*named.values()]} give no finite "
            f"number, for example {unread[0]!r}; write numbers such as 0.4, with a point, in "
            "margin or in both of score_1 and score_2"
        )
    return margins


def list_shared_keys(judges: Iterable[ComparedJudge]) -> list[str]:
    """Return the dimensions that at least one judge is scored on, in order."""
    return list(dict.fromkeys(key for judge in judges for key in judge.dimensions))


def _read_margin(given: Mapping[str, Any]) -> float | None:
    if not is_empty(given.get("margin")):
        return _read_number(given["margin"])
    one, two = _read_number(given.get("score_1")), _read_number(given.get("score_2"))
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
