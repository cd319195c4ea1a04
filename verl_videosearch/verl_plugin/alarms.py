"""Alarms: the ways in which a run loses what it trains although nothing fails.

The one idea: an alarm is a pure function of the figures that every step logs (`videosearch/...`),
so the trainer, while it runs, and a report, that reads the log afterwards, say the same. An alarm
never stops training.

>>> history = [{"videosearch/num_episodes": 32.0, "videosearch/has_searched": rate} for rate in (0.9, 0.05)]
>>> [alarm.kind.value for alarm in find_alarms(history, AlarmConfig())]
['search_lost']
>>> find_alarms(history[:1], AlarmConfig())
[]

Does not cover failures (groups that failed, sampling without end): those stop a run, with their
reasons.
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from numbers import Real
from statistics import median
from typing import Any

from verl_videosearch.judgement import LABELS, OVERALL

PREFIX = "videosearch"
"""Every figure of ours is logged as `videosearch/NAME`."""


class AlarmKind(str, Enum):
    """What went wrong; logged as `videosearch/alarm_{value}`, 1 while it lasts."""

    SEARCH_LOST = "search_lost"
    """Few episodes search."""
    SIGNAL_LOST = "signal_lost"
    """Dynamic sampling filters nearly every prompt group."""
    ONE_VERDICT = "one_verdict"
    """Nearly all overall verdicts are the same."""
    REWARD_WITHOUT_ACCURACY = "reward_without_accuracy"
    """The reward rises, the overall accuracy does not."""


@dataclass(frozen=True)
class AlarmConfig:
    """When an alarm sounds; rates and shares are from 0 to 1."""

    min_search_rate: float = 0.2
    """`search_lost`: fewer of a step's episodes than this searched. 0 turns the alarm off (as for a
    judge without tool calls)."""
    max_filtered_group_rate: float = 0.8
    """`signal_lost`: more of a step's prompt groups than this were filtered. 1 turns the alarm off;
    so does `1 - 1 / max_sampled_batches` or more, where training has stopped before."""
    max_verdict_share: float = 0.9
    """`one_verdict`: one class has more of a step's overall verdicts than this. Keep it above the
    share of the most frequent label in the data; 1 turns the alarm off."""
    min_verdicts: int = 16
    """`one_verdict`: a step with fewer readable verdicts than this says nothing."""
    window_steps: int = 20
    """`reward_without_accuracy`: the steps whose two halves are compared; even, at least 4."""
    min_reward_rise: float = 0.05
    """`reward_without_accuracy`: a rise of the mean total reward, in its own scale, from here on
    counts."""
    max_accuracy_rise: float = 0.01
    """`reward_without_accuracy`: a rise of the overall accuracy up to here is none."""

    def __post_init__(self) -> None:
        share = ("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
        wanted = {
            "min_search_rate": share,
            "max_filtered_group_rate": share,
            "max_verdict_share": share,
            "min_verdicts": (
                "a whole number of at least 1",
                lambda value: type(value) is int and value >= 1,
            ),
            "window_steps": (
                "an even whole number of at least 4",
                lambda value: type(value) is int and value >= 4 and value % 2 == 0,
            ),
            "min_reward_rise": ("a positive number", lambda value: _is_number(value) and value > 0),
            "max_accuracy_rise": share,
        }
        problems = [
            f"{name} must be {words}, got {getattr(self, name)!r}"
            for name, (words, is_allowed) in wanted.items()
            if not is_allowed(getattr(self, name))
        ]
        if problems:
            raise ValueError("bad alarm settings: " + "; ".join(problems))


@dataclass(frozen=True)
class Alarm:
    """One alarm at one step."""

    kind: AlarmKind
    message: str
    """What was got, the limit, what usually helps."""


def find_alarms(history: Sequence[Mapping[str, Any]], config: AlarmConfig) -> list[Alarm]:
    """Return the alarms that are on at the last training step of `history`, at most one of each
    kind.

    `history` holds the logged figures of each step, oldest first, as in the `data` of the log's
    lines. Lines without `videosearch/num_episodes`, as of a validation, are no training steps and
    are left out. A figure that a step lacks (or that is NaN, null in the log) sounds no alarm.
    """
    steps = [figures for figures in history if _read(figures, "num_episodes") is not None]
    if not steps:
        return []
    found = {
        AlarmKind.SEARCH_LOST: _describe_lost_search(steps[-1], config),
        AlarmKind.SIGNAL_LOST: _describe_lost_signal(steps[-1], config),
        AlarmKind.ONE_VERDICT: _describe_one_verdict(steps[-1], config),
        AlarmKind.REWARD_WITHOUT_ACCURACY: _describe_empty_reward(steps, config),
    }
    return [
        Alarm(kind, f"{message} {_HELP[kind]}")
        for kind, message in found.items()
        if message is not None
    ]


_HELP = {
    AlarmKind.SEARCH_LOST: (
        "A policy that stopped searching seldom starts again by itself. What usually helps: go "
        "back to an earlier "
        "checkpoint; more cold-start traces that search; a lower "
        "actor_rollout_ref.actor.optim.lr; a higher "
        "actor_rollout_ref.actor.kl_loss_coef."
    ),
    AlarmKind.SIGNAL_LOST: (
        "Most rollouts are thrown away. What usually helps: pairs that the model sometimes "
        "judges right and sometimes "
        "wrong; more actor_rollout_ref.rollout.n; if all episodes have become alike, an "
        "earlier checkpoint."
    ),
    AlarmKind.ONE_VERDICT: (
        "Unless the labels are as one-sided, what usually helps: go back to an earlier "
        "checkpoint; balance the classes "
        "of the pairs and of the cold-start traces; a lower actor_rollout_ref.actor.optim.lr; "
        "a higher "
        "actor_rollout_ref.actor.kl_loss_coef."
    ),
    AlarmKind.REWARD_WITHOUT_ACCURACY: (
        "If only the format rose, the model is still learning the form. Otherwise read some "
        "episodes, compare the "
        "accuracy of validation, and go back to a checkpoint before the rise; what usually "
        "helps: a lower "
        "videosearch.reward weight of the part that rose; a higher "
        "actor_rollout_ref.actor.kl_loss_coef."
    ),
}
"""What usually helps."""


def _describe_lost_search(figures: Mapping[str, Any], config: AlarmConfig) -> str | None:
    rate = _read(figures, "has_searched")
    if rate is None or rate >= config.min_search_rate:
        return None
    return (
        f"The tool rate ({PREFIX}/has_searched) is {rate:.3g}, below "
        "videosearch.alarms.min_search_rate="
        f"{config.min_search_rate:g}."
    )


def _describe_lost_signal(figures: Mapping[str, Any], config: AlarmConfig) -> str | None:
    rate = _read(figures, "filtered_group_rate")
    if rate is None or rate <= config.max_filtered_group_rate:
        return None
    return (
        f"Of the prompt groups sampled, {rate:.3g} were filtered because their episodes are "
        "equally right "
        f"({PREFIX}/filtered_group_rate), above videosearch.alarms.max_filtered_group_rate="
        f"{config.max_filtered_group_rate:g}."
    )


def _describe_one_verdict(figures: Mapping[str, Any], config: AlarmConfig) -> str | None:
    num_verdicts = (_read(figures, "num_episodes") or 0.0) * (_read(figures, "has_verdict") or 0.0)
    shares = {label: _read(figures, f"verdict_{label}") or 0.0 for label in LABELS}
    label = max(shares, key=shares.__getitem__)
    if round(num_verdicts) < config.min_verdicts or shares[label] <= config.max_verdict_share:
        return None
    return (
        f"Of {num_verdicts:.0f} overall verdicts {shares[label]:.3g} are {label} "
        f"({PREFIX}/verdict_{label}), above "
        f"videosearch.alarms.max_verdict_share={config.max_verdict_share:g}."
    )


def _describe_empty_reward(steps: Sequence[Mapping[str, Any]], config: AlarmConfig) -> str | None:
    """Compare the halves of the last steps that have both figures; fewer than a window say
    nothing."""
    names = ("score", f"correct_{OVERALL}")
    both = [figures for figures in steps if all(_read(figures, name) is not None for name in names)]
    window = both[-config.window_steps :]
    if len(window) < config.window_steps:
        return None
    reward_rise, accuracy_rise = (_measure_rise(window, name) for name in names)
    if not (reward_rise >= config.min_reward_rise and accuracy_rise <= config.max_accuracy_rise):
        return None
    parts = (
        ", ".join(f"{part} {rise:+.3f}" for part, rise in _find_risen_parts(window))
        or "none by itself"
    )
    return (
        f"Over {config.window_steps} steps the reward ({PREFIX}/score) rose by "
        f"{reward_rise:.3g} (at least "
        f"videosearch.alarms.min_reward_rise={config.min_reward_rise:g}) and the overall accuracy "
        f"({PREFIX}/correct_{OVERALL}) by {accuracy_rise:.3g} (at most "
        "videosearch.alarms.max_accuracy_rise="
        f"{config.max_accuracy_rise:g}). Parts that rose: {parts}."
    )


def _find_risen_parts(window: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """Yield the reward's parts that rose, the largest rise first."""
    names = [name for name in window[0] if name.startswith(f"{PREFIX}/reward_")]
    parts = [name.removeprefix(f"{PREFIX}/") for name in names]
    known = [part for part in parts if all(_read(figures, part) is not None for figures in window)]
    rises = {part.removeprefix("reward_"): _measure_rise(window, part) for part in known}
    yield from sorted(
        ((part, rise) for part, rise in rises.items() if rise > 0), key=lambda pair: -pair[1]
    )


def _measure_rise(window: Sequence[Mapping[str, Any]], name: str) -> float:
    """Return the median of the second half minus that of the first: one wild step moves neither."""
    values = [float(figures[f"{PREFIX}/{name}"]) for figures in window]
    half = len(values) // 2
    return median(values[half:]) - median(values[:half])


def _read(figures: Mapping[str, Any], name: str) -> float | None:
    """Return a logged figure, or None where the step has no finite one."""
    value = figures.get(f"{PREFIX}/{name}")
    return float(value) if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
