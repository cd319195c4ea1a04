"""The reward of an episode: r = w_format * f_fmt + f_acc + f_cot + eta * f_explo (paper section
3.3).

The one idea: each part is a small pure function of the typed `EpisodeResult` and the gold labels,
and is logged under its own name.

>>> RewardConfig().accuracy({"TA": 1, "OA": 1}, {"TA": 2, "OA": 1})
0.5

No verdict and a wrong verdict both earn 0 accuracy but are counted apart (`ending`,
`unreadable_*`). An infrastructure failure has no `EpisodeResult`, so it can never be scored. There
is no cost per call: measured, it makes a policy stop searching; needless calls may have a price."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from verl_videosearch.config import between, check, fulfils, import_object, read_config
from verl_videosearch.episode import Ending, EpisodeResult
from verl_videosearch.judgement import LABELS, OVERALL, Fault, Judgement, Problem, Unreadable
from verl_videosearch.tool import CallFault


@dataclass(frozen=True)
class RewardConfig:
    """Weights of the reward's parts; defaults are the paper's unless said otherwise."""

    overall_weight: float = 0.5
    """alpha: share of the overall verdict in f_acc; the dimensions share the rest."""
    format_weight: float = 1.0
    """w_format (the paper gives no scale)."""
    gain_weight: float = 0.2
    """k of f_cot; above 0.2 the paper saw it gamed: neutral first, then right."""
    exploration_weight: float = 0.5
    """eta."""
    exploration_target: float = 0.2
    """omega: the bonus is paid while the group's share of searching episodes is below this."""
    needless_call_price: float = 0.0
    """What a call costs whose own turn recommended the right verdicts already; 0 is the paper's. A
    price on every call makes a policy stop searching (measured)."""
    function: str | None = None
    """`pkg://module:name` of your own reward, called as `name(result, labels, score)` with what we
    would pay; it returns the reward, or a `Score` with parts of its own (docs/add_a_reward.md)."""

    def __post_init__(self) -> None:
        weight = fulfils("of at least 0 that is finite", lambda value: 0 <= value < math.inf)
        share = between(0, 1)
        check(
            self,
            overall_weight=share,
            format_weight=weight,
            gain_weight=weight,
            exploration_weight=weight,
            exploration_target=share,
            needless_call_price=weight,
            function=fulfils("of the form pkg://module:name", lambda name: name[:6] == "pkg://"),
        )

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> RewardConfig:
        """Make a config from plain settings; unknown names and bad values are one `ValueError` that
        lists them all."""
        return read_config(cls, settings)

    def accuracy(self, verdicts: Mapping[str, int], labels: Mapping[str, int | None]) -> float:
        """f_acc of one set of verdicts; dimensions without gold are left out, without any (or
        without overall) the other part counts alone."""
        hits = [
            verdicts.get(key) == label
            for key, label in labels.items()
            if key != OVERALL and label is not None
        ]
        dimension_part = sum(hits) / len(hits) if hits else None
        overall_part = (
            None if labels[OVERALL] is None else float(verdicts[OVERALL] == labels[OVERALL])
        )
        if overall_part is None or dimension_part is None:
            return next((part for part in (overall_part, dimension_part) if part is not None), 0.0)
        return self.overall_weight * overall_part + (1 - self.overall_weight) * dimension_part


@dataclass(frozen=True)
class Score:
    """What an episode earned."""

    total: float
    parts: Mapping[str, float]
    """`format`, `accuracy`, `gain`, `exploration`, `needless`: weighted, they add up to `total`."""


class RewardFunction(Protocol):
    """A user's own reward."""

    def __call__(
        self, result: EpisodeResult, labels: Mapping[str, int | None], score: Score
    ) -> Score | float: ...


def score_episode(
    result: EpisodeResult,
    labels: Mapping[str, int | None],
    search_rate: float,
    config: RewardConfig,
) -> Score:
    """Score one finished episode; `search_rate` is the share of its group's episodes that searched,
    this one included."""
    accuracy = (
        config.accuracy(result.verdict.verdicts, labels)
        if isinstance(result.verdict, Judgement)
        else 0.0
    )
    parts = {
        "format": config.format_weight * float(result.is_well_formed),
        "accuracy": accuracy,
        "gain": config.gain_weight * measure_gain(result, labels, config),
        "exploration": config.exploration_weight * measure_exploration(result, search_rate, config),
        "needless": -config.needless_call_price * count_needless_calls(result, labels, config),
    }
    score = Score(total=sum(parts.values()), parts=parts)
    return score if config.function is None else _ask_function(config, result, labels, score)


def load_function(config: RewardConfig) -> RewardFunction | None:
    """Import the user's own reward; `ValueError` says why it cannot be used. Programs call this
    before they start."""
    if config.function is None:
        return None
    function = import_object(config.function)
    if not callable(function):
        raise ValueError(f"reward function {config.function!r} is no function, got {function!r}")
    return function


def _ask_function(
    config: RewardConfig, result: EpisodeResult, labels: Mapping[str, int | None], score: Score
) -> Score:
    """Score with the user's own function; what it adds to a plain number is the part `own`."""
    function = load_function(config)
    assert function is not None
    own = function(result, labels, score)
    total = own.total if isinstance(own, Score) else own
    is_number = isinstance(total, int | float) and not isinstance(total, bool)
    if not is_number or not math.isfinite(total):
        raise ValueError(
            f"reward function {config.function!r} must return a finite number or a reward.Score, "
            f"got {own!r}"
        )
    if isinstance(own, Score):
        return own
    return Score(float(total), {**score.parts, "own": float(total) - score.total})


def measure_gain(
    result: EpisodeResult, labels: Mapping[str, int | None], config: RewardConfig
) -> float:
    """Return f_acc of the final verdict minus that of the first recommendation: the sum of changes
    telescopes (f_cot without k).

    A turn without a readable recommendation is skipped; without a final verdict, or any
    recommendation before it, the gain is 0 (method section 5).
    """
    judgements = result.recommendations
    if not isinstance(result.verdict, Judgement) or len(judgements) < 2:
        return 0.0
    first, last = (
        config.accuracy(judgement.verdicts, labels) for judgement in (judgements[0], judgements[-1])
    )
    return last - first


def count_needless_calls(
    result: EpisodeResult, labels: Mapping[str, int | None], config: RewardConfig
) -> int:
    """Count the calls whose own turn recommended the right verdicts already.

    Right is right in every slot that has a label; without any label no call is needless."""
    if all(label is None for label in labels.values()):
        return 0
    advice = [record.turn.recommendation for record in result.turns if record.outcome is not None]
    return sum(
        isinstance(each, Judgement) and config.accuracy(each.verdicts, labels) == 1.0
        for each in advice
    )


def measure_exploration(result: EpisodeResult, search_rate: float, config: RewardConfig) -> float:
    """Return f_explo: how far the group's search rate is below its target, for an episode that did
    search."""
    return max(config.exploration_target - search_rate, 0.0) * float(result.has_searched)


def measure_episode(
    result: EpisodeResult, score: Score, labels: Mapping[str, int | None]
) -> dict[str, float]:
    """Return the figures of one episode under their log names; every episode has the same keys, NaN
    where there is no gold label (`correct_*`) or no verdict (`verdict_*`).

    Averaged over the episodes that are not NaN, `has_searched` is the tool-use rate, `ending_*`,
    `unreadable_*` and `verdict_*` (overall verdicts of each class) are shares, `invalid_*` are
    calls and `fault_*` turns per episode."""
    verdicts = result.verdict.verdicts if isinstance(result.verdict, Judgement) else {}
    problem = result.verdict.problem if isinstance(result.verdict, Unreadable) else None
    outcomes = result.outcomes
    accuracy = RewardConfig().accuracy(verdicts, labels) if verdicts else 0.0
    measures = {f"reward_{name}": value for name, value in score.parts.items()}
    measures |= {
        "score": score.total,
        "acc": _round_exactly(score.parts.get("accuracy", accuracy)),
        "has_searched": float(result.has_searched),
        "has_verdict": float(bool(verdicts)),
        "is_well_formed": float(result.is_well_formed),
        "num_calls": float(len(outcomes)),
        "num_invalid_calls": float(sum(outcome.fault is not None for outcome in outcomes)),
        "num_turns": float(len(result.turns)),
        "num_evictions": float(result.num_evictions),
        "num_needless_calls": float(count_needless_calls(result, labels, RewardConfig())),
        "num_quoted_acts": float(sum(record.turn.num_quoted_acts for record in result.turns)),
        "num_unclosed_acts": float(sum(record.turn.has_unclosed_act for record in result.turns)),
        "num_frames_asked": float(sum(len(outcome.frame_numbers) for outcome in outcomes)),
        "visible_images_per_turn": sum(r.num_visible_images for r in result.turns)
        / max(len(result.turns), 1),
    }
    measures |= {
        f"fault_{fault.value}": float(sum(fault in record.faults for record in result.turns))
        for fault in Fault
    }
    measures |= {
        f"verdict_{label}": float(verdicts[OVERALL] == label) if verdicts else float("nan")
        for label in LABELS
    }
    measures |= {f"ending_{ending.value}": float(result.ending is ending) for ending in Ending}
    measures |= {f"unreadable_{each.value}": float(problem is each) for each in Problem}
    measures |= {
        f"invalid_{fault.value}": float(sum(o.fault is fault for o in outcomes))
        for fault in CallFault
    }
    for tool in result.tools:
        own = [outcome for outcome in outcomes if outcome.tool == tool.name]
        measures[f"num_calls_{tool.name}"] = float(len(own))
        measures |= {
            f"invalid_{tool.name}_{fault.value}": float(sum(o.fault is fault for o in own))
            for fault in tool.faults or ()
        }
    for key, label in labels.items():
        measures[f"correct_{key}"] = (
            float("nan") if label is None else float(verdicts.get(key) == label)
        )
    return measures


def _round_exactly(value: float) -> float:
    """Round to a multiple of 2 ** -20, so that equal values add up without error.

    verl 0.9.1 drops a group as one without signal only if the standard deviation of `acc` over its
    sequences is exactly 0; ten times 2/3 already misses that.
    """
    return round(value * 2**20) / 2**20
