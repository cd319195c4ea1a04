"""RewardMonitor: does a generator that is paid by a judge still get better, or does it cheat?

The one idea: what users of such rewards report can be seen in the winners. Every update takes the
groups of one training step; figures are compared with those of the first steps.

| alarm | sounds when | usual reason |
|---|---|---|
| `motion_collapsed` | winners move less than half of what they did | still pictures look better |
| `saturated` | in most groups all clips score alike | nothing left to learn, or a blind judge |
| `orders_flip` | the orders disagree in more than a third of the comparisons | the judge guesses |
| `length_drifted` | winners are a quarter longer or shorter than at first | length is rewarded |
| `brightness_drifted` | winners are 40 grey levels brighter or darker | light is rewarded |

An alarm says what to look at and stops nothing. Covers: figures per step. Does not cover: logging.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verl_videosearch.config import above, at_least, between, check
from verl_videosearch.judge.clips import ClipMeasures


@dataclass(frozen=True)
class MonitorConfig:
    """When an alarm sounds."""

    window_steps: int = 5
    """Steps that a figure is averaged over, at the start and now."""
    min_motion_share: float = 0.5
    """Motion of the winners, as a share of that at the start."""
    max_saturated_share: float = 0.5
    """Share of groups whose scores are all alike."""
    max_flip_share: float = 1 / 3
    """Share of comparisons whose orders disagree."""
    max_length_change: float = 0.25
    """Change of the winners' seconds, as a share."""
    max_brightness_change: float = 40.0
    """Change of the winners' brightness, in grey levels."""
    min_spread: float = 0.02
    """Scores of a group that lie closer together are alike."""

    def __post_init__(self) -> None:
        check(
            self,
            window_steps=at_least(1),
            min_motion_share=between(0, 1),
            max_saturated_share=between(0, 1),
            max_flip_share=between(0, 1),
            max_length_change=above(0),
            max_brightness_change=above(0),
            min_spread=at_least(0),
        )


@dataclass(frozen=True)
class WatchedGroup:
    """What the monitor sees of one prompt's clips."""

    scores: Sequence[float | None]
    measures: Sequence[ClipMeasures | None]
    """Of each clip, in the order of the scores; null for one that was not measured."""
    num_flips: int
    """Comparisons whose two orders disagree."""
    num_both_orders: int
    """Comparisons that have two orders."""


class RewardMonitor:
    """Feed it every training step; it remembers the first ones."""

    def __init__(self, config: MonitorConfig | None = None) -> None:
        self.config = config or MonitorConfig()
        self._first: list[dict[str, float]] = []
        self._newest: deque[dict[str, float]] = deque(maxlen=self.config.window_steps)

    def update(self, groups: Sequence[WatchedGroup]) -> dict[str, float]:
        """Take the groups of one step; returns figures, and the alarms as 0 or 1, by name."""
        figures = self._measure(groups)
        self._newest.append(figures)
        if len(self._first) < self.config.window_steps:
            self._first.append(figures)
        return figures | {f"alarm_{name}": float(on) for name, on in self._find_alarms().items()}

    def _measure(self, groups: Sequence[WatchedGroup]) -> dict[str, float]:
        winners, everybody, alike, num_unmeasured = [], [], [], 0
        for group in groups:
            scored = [
                (score, measures)
                for score, measures in zip(group.scores, group.measures, strict=True)
                if score is not None
            ]
            everybody += [measures for _, measures in scored if measures is not None]
            num_unmeasured += sum(measures is None for _, measures in scored)
            if len(scored) < 2:
                continue
            best, worst = max(s for s, _ in scored), min(s for s, _ in scored)
            alike.append(best - worst < self.config.min_spread)
            if not alike[-1]:
                winners += [each for score, each in scored if score == best and each is not None]
        num_compared = sum(group.num_both_orders for group in groups)
        return {
            "winner_motion": _mean([each.motion for each in winners]),
            "motion": _mean([each.motion for each in everybody]),
            "winner_seconds": _mean([each.seconds for each in winners]),
            "winner_brightness": _mean([each.brightness for each in winners]),
            "saturated_share": _mean(alike),
            "flip_share": sum(group.num_flips for group in groups) / num_compared
            if num_compared
            else float("nan"),
            "unmeasured": float(num_unmeasured),
        }

    def _find_alarms(self) -> dict[str, bool]:
        """Compare the newest steps with the first ones; a figure that is unknown alarms nobody."""
        config = self.config
        then = {name: _mean([each[name] for each in self._first]) for name in self._first[0]}
        now = {name: _mean([each[name] for each in self._newest]) for name in self._first[0]}
        change_s = abs(now["winner_seconds"] - then["winner_seconds"])
        change_grey = abs(now["winner_brightness"] - then["winner_brightness"])
        return {
            "motion_collapsed": now["winner_motion"]
            < config.min_motion_share * then["winner_motion"],
            "saturated": now["saturated_share"] > config.max_saturated_share,
            "orders_flip": now["flip_share"] > config.max_flip_share,
            "length_drifted": change_s > config.max_length_change * then["winner_seconds"],
            "brightness_drifted": change_grey > config.max_brightness_change,
        }


def _mean(values: Sequence[float]) -> float:
    """Return the mean of what is known; NaN if nothing is."""
    known = [value for value in values if value == value]
    return float(np.mean(known)) if known else float("nan")
