"""Summary: every figure of one run, from its samples and its finished episodes.

The one idea: figures are computed from files alone, so that a run summarised twice, or killed and
gone on with, gives equal bytes. Every share is a `Rate` with its counts and an interval; beside the
judge stand three that never look.

Covers: accuracies (with ties, without, per dimension, per class, per subset), the orders against
each other, what the episodes did, and how risk falls when the judge abstains. Seconds are apart
(`read_timing`): no two runs share them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar

from verl_videosearch import metrics
from verl_videosearch.evaluation.calibration import Calibration
from verl_videosearch.evaluation.pages.header import RunHeader
from verl_videosearch.evaluation.subsets import find_subsets
from verl_videosearch.evaluation.verdicts import PairVerdicts
from verl_videosearch.judgement import OVERALL
from verl_videosearch.metrics import Accuracies, Baselines, Rate
from verl_videosearch.runs.record import EpisodeRecord
from verl_videosearch.sample import Order, PreferenceSample, normalise_prompt

T = TypeVar("T")


@dataclass(frozen=True)
class OrderFigures:
    """What the order of the two videos did to the overall verdict."""

    by_order: Mapping[str, Accuracies]
    """Accuracy of each order alone."""
    as_published: Accuracies
    """Mean over the single orders: what papers report, which judge each pair once."""
    consistency: metrics.SwapConsistency | None
    """None when only one order was run."""
    bias: metrics.PositionBias
    """Over the episodes of all orders, in the slots as the judge saw them."""


@dataclass(frozen=True)
class Behaviour:
    """What the episodes did; means are per episode."""

    searched: Rate
    """Episodes in which at least one call brought frames."""
    answered: Rate
    """Episodes with a readable verdict."""
    endings: Mapping[str, int]
    call_faults: Mapping[str, int]
    calls: float
    frames: float
    """Frames shown, the initial view included."""
    images_sent: float
    """Images in all contexts together, what a server without a cache has to read."""
    prompt_tokens: float | None
    """None when the server does not count."""
    reply_tokens: float | None
    gain: metrics.PairedDifference
    """Overall accuracy of the final verdict against the first one that the judge stated, over the
    scored pairs."""


@dataclass(frozen=True)
class Summary:
    """All figures of a run."""

    header: RunHeader
    overall: Accuracies
    """The headline: the overall verdict."""
    dimensions: Mapping[str, Accuracies]
    recall: Mapping[int, Rate]
    """Per gold label of the overall verdict."""
    confusion: list[list[int]]
    """Rows gold 0, 1, 2; columns predicted 0, 1, 2, unreadable."""
    baselines: Baselines
    subsets: Mapping[str, Accuracies]
    subset_baselines: Mapping[str, Accuracies]
    """The majority class of each subset."""
    subset_calls: Mapping[str, float]
    """Calls per episode in each subset."""
    dimensions_as_published: Mapping[str, Accuracies]
    """Each dimension, mean over the single orders."""
    subsets_as_published: Mapping[str, Accuracies]
    """Each subset, mean over the single orders."""
    num_derived: int
    """Pairs whose overall label was derived from the dimensions', not given by a person."""
    best_threshold: metrics.CalibratedAccuracy
    """Accuracy with ties if the tie threshold is chosen on these very pairs: an upper bound, not a
    result."""
    orders: OrderFigures
    behaviour: Behaviour
    risk: metrics.RiskCoverage
    """How often it is wrong when only the most confident pairs are answered."""
    calibration_error: metrics.CalibrationError | None
    """Of the mapped confidences; None without a calibration."""
    abstention: metrics.RiskPoint | None
    """What abstaining as the calibration says brings on these pairs; None without one."""
    failures: Mapping[str, int]
    """Episodes that failed, by kind; they are in no figure."""


def summarise(
    header: RunHeader,
    samples: Sequence[PreferenceSample],
    pairs: Sequence[PairVerdicts],
    failures: Mapping[str, int],
    calibration: Calibration | None = None,
) -> Summary:
    """Compute all figures; `samples` may hold more pairs than were scored, in any order."""
    by_uid = {sample.uid: sample for sample in samples}
    shown = [by_uid[pair.uid] for pair in pairs]
    prompts = [normalise_prompt(sample.prompt) for sample in shown]
    gold = [sample.labels[OVERALL] for sample in shown]
    predicted = predict(pairs, calibration)
    confidence = [
        calibration.map_confidence(pair) if calibration else pair.confidence for pair in pairs
    ]
    correct = [a == b for a, b in zip(gold, predicted, strict=True) if a is not None]
    known = [value for value, label in zip(confidence, gold, strict=True) if label is not None]
    subsets = find_subsets(shown, pairs)
    return Summary(
        header=header,
        overall=metrics.score_verdicts(gold, predicted, prompts),
        dimensions=_score_dimensions(shown, pairs, _score_merged),
        recall=_recall(gold, predicted, prompts),
        confusion=metrics.confusion(gold, predicted).tolist(),
        baselines=metrics.score_baselines(gold),
        subsets={
            name: metrics.score_verdicts(
                _take(gold, rows), _take(predicted, rows), _take(prompts, rows)
            )
            for name, rows in subsets.items()
        },
        subset_baselines={
            n: metrics.score_baselines(_take(gold, rows)).majority for n, rows in subsets.items()
        },
        subset_calls={n: _mean_calls(_take(pairs, rows)) for n, rows in subsets.items()},
        dimensions_as_published=_score_dimensions(shown, pairs, _score_as_published),
        subsets_as_published={
            name: _score_as_published(
                OVERALL, _take(gold, rows), _take(pairs, rows), _take(prompts, rows)
            )
            for name, rows in subsets.items()
        },
        num_derived=sum(bool(sample.meta.get("overall_is_derived")) for sample in shown),
        best_threshold=metrics.accuracy_with_ties_calibrated(gold, [pair.margin for pair in pairs]),
        orders=_compare_orders(gold, pairs, prompts),
        behaviour=_describe_behaviour(gold, pairs, prompts),
        risk=metrics.risk_coverage(known, correct),
        calibration_error=metrics.expected_calibration_error(known, correct)
        if calibration
        else None,
        abstention=_abstain(known, correct, calibration),
        failures=failures,
    )


def predict(pairs: Sequence[PairVerdicts], calibration: Calibration | None) -> list[int | None]:
    """Return the overall verdict of each pair, by the calibrated tie threshold if there is one."""
    if calibration is None:
        return [pair.verdict() for pair in pairs]
    return [calibration.judge(pair) for pair in pairs]


def _abstain(
    confidence: Sequence[float | None], correct: Sequence[bool], calibration: Calibration | None
) -> metrics.RiskPoint | None:
    """Answer only where the calibration is sure enough; a limit above every confidence answers
    nothing."""
    if calibration is None:
        return None
    threshold = calibration.min_confidence
    known = [
        (value, flag) for value, flag in zip(confidence, correct, strict=True) if value is not None
    ]
    answered = [flag for value, flag in known if value >= threshold]
    return metrics.RiskPoint(
        threshold, Rate(len(answered), len(correct)), Rate(answered.count(False), len(answered))
    )


_Labels = Sequence[int | None]
_Score = Callable[[str, _Labels, Sequence[PairVerdicts], Sequence[str]], Accuracies]


def _score_merged(
    key: str, gold: _Labels, pairs: Sequence[PairVerdicts], prompts: Sequence[str]
) -> Accuracies:
    """Score the verdict that both orders agree on, one row per pair."""
    return metrics.score_verdicts(gold, [pair.verdict(key) for pair in pairs], prompts)


def _score_as_published(
    key: str, gold: _Labels, pairs: Sequence[PairVerdicts], prompts: Sequence[str]
) -> Accuracies:
    """Score every order by itself, one row per episode: the mean over the orders."""
    labels: list[int | None] = []
    given: list[int | None] = []
    clusters: list[str] = []
    for label, pair, prompt in zip(gold, pairs, prompts, strict=True):
        for order in pair.episodes:
            labels.append(label if order is Order.AB else metrics.swap_verdict(label))
            given.append(pair.raw_verdict(key, order))
            clusters.append(prompt)
    return metrics.score_verdicts(labels, given, clusters)


def _score_dimensions(
    samples: Sequence[PreferenceSample], pairs: Sequence[PairVerdicts], score: _Score
) -> dict[str, Accuracies]:
    """Score each dimension over the samples that have it and a label for it."""
    rows: dict[str, list[tuple[int | None, PairVerdicts, str]]] = {}
    for sample, pair in zip(samples, pairs, strict=True):
        for key in sample.dimension_keys:
            if sample.labels[key] is not None:
                row = (sample.labels[key], pair, normalise_prompt(sample.prompt))
                rows.setdefault(key, []).append(row)
    return {key: score(key, *zip(*each, strict=True)) for key, each in rows.items()}


def _recall(
    gold: _Labels, predicted: Sequence[int | None], prompts: Sequence[str]
) -> dict[int, Rate]:
    """Return for each gold label how many of its pairs were recognised."""
    recall = {}
    for label in metrics.LABELS:
        rows = [row for row, each in enumerate(gold) if each == label]
        flags = [predicted[row] == label for row in rows]
        recall[label] = Rate.over(flags, _take(prompts, rows))
    return recall


def _compare_orders(
    gold: _Labels, pairs: Sequence[PairVerdicts], prompts: Sequence[str]
) -> OrderFigures:
    orders = [order for order in Order if pairs and order in pairs[0].episodes]
    given = {order: [pair.raw_verdict(OVERALL, order) for pair in pairs] for order in orders}
    slots = {
        order: gold if order is Order.AB else [metrics.swap_verdict(label) for label in gold]
        for order in orders
    }
    has_both = len(orders) == len(Order)
    return OrderFigures(
        by_order={
            order.value: metrics.score_verdicts(slots[order], given[order], prompts)
            for order in orders
        },
        as_published=_score_as_published(OVERALL, gold, pairs, prompts),
        consistency=metrics.swap_consistency(given[Order.AB], given[Order.BA])
        if has_both
        else None,
        bias=metrics.position_bias(
            [label for order in orders for label in slots[order]],
            [v for order in orders for v in given[order]],
        ),
    )


def _mean_calls(pairs: Sequence[PairVerdicts]) -> float:
    """Return the calls per episode, answered or refused."""
    records = [record for pair in pairs for record in pair.episodes.values()]
    return _mean([record.num_calls for record in records])


def _describe_behaviour(
    gold: _Labels, pairs: Sequence[PairVerdicts], prompts: Sequence[str]
) -> Behaviour:
    records = [record for pair in pairs for record in pair.episodes.values()]
    calls = [turn for record in records for turn in record.turns if turn.has_call]
    episode_prompts = [
        prompt for pair, prompt in zip(pairs, prompts, strict=True) for _ in pair.episodes
    ]
    known_prompts = [
        prompt for label, prompt in zip(gold, prompts, strict=True) if label is not None
    ]
    labelled = [(label, pair) for label, pair in zip(gold, pairs, strict=True) if label is not None]
    final = [pair.verdict() == label for label, pair in labelled]
    first = [pair.first_verdict() == label for label, pair in labelled]
    return Behaviour(
        searched=Rate.over((record.has_searched for record in records), episode_prompts),
        answered=Rate.of(record.verdicts is not None for record in records),
        endings=_count(record.outcome for record in records),
        call_faults=_count(turn.call_fault for turn in calls if turn.call_fault),
        calls=_mean([len(calls) / len(records)] if records else []),
        frames=_mean([count_frames(record) for record in records]),
        images_sent=_mean([sum(len(turn.visible) for turn in record.turns) for record in records]),
        prompt_tokens=_mean_known([record.usage.num_prompt_tokens for record in records]),
        reply_tokens=_mean_known([record.usage.num_reply_tokens for record in records]),
        gain=metrics.paired_bootstrap(final, first, known_prompts),
    )


def count_frames(record: EpisodeRecord) -> int:
    """Count the frames that an episode showed, the initial view included."""
    return len(record.initial_frames) + sum(len(turn.shown) for turn in record.turns)


def measure_costs(pairs: Sequence[PairVerdicts]) -> dict[str, float | None]:
    """Return means per pair over all its episodes: frames shown, tokens read and written (None: not
    counted)."""
    sums: list[dict[str, float | None]] = []
    for pair in pairs:
        records = list(pair.episodes.values())
        sums.append(
            {
                "frames": sum(map(count_frames, records)),
                "prompt_tokens": _sum_known([each.usage.num_prompt_tokens for each in records]),
                "reply_tokens": _sum_known([each.usage.num_reply_tokens for each in records]),
            }
        )
    return {
        name: _mean_known([each[name] for each in sums])
        for name in ("frames", "prompt_tokens", "reply_tokens")
    }


def read_timing(records: Sequence[EpisodeRecord], concurrency: int | None) -> dict[str, Any]:
    """Return seconds per episode and per pair, as measured with so many episodes in flight."""
    timed = [record for record in records if record.seconds is not None]
    seconds = [record.seconds or 0.0 for record in timed]
    per_pair = sum(seconds) / len({record.uid for record in timed}) if timed else None
    return {
        "episodes": len(timed),
        "concurrency": concurrency,
        "seconds_per_episode": round(_mean(seconds), 3) if timed else None,
        "seconds_per_pair": None if per_pair is None else round(per_pair, 3),
    }


def to_plain(value: Any) -> Any:
    """Turn figures into plain data for JSON: a rate also carries its share, what is not a number
    becomes null.

    >>> to_plain({1: Rate(1, 2)})
    {'1': {'value': 0.5, 'correct': 1, 'total': 2, 'low': None, 'high': None}}
    """
    if isinstance(value, Rate):
        plain = {"value": to_plain(value.value)}
        plain |= {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
        if value.num_clusters is None:
            del plain["num_clusters"]
        return plain
    if is_dataclass(value):
        plain = {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
        if isinstance(value, metrics.PairedDifference | metrics.PositionBias):
            plain["value"] = to_plain(value.value)
        return plain
    if isinstance(value, Mapping):
        return {str(to_plain(key)): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _take(column: Sequence[T], rows: Sequence[int]) -> list[T]:
    return [column[row] for row in rows]


def _count(names: Any) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _mean_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if known and len(known) == len(values) else None


def _sum_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
