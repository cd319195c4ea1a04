"""Comparison: which of two videos is better, why, and what was looked at.

The one idea: a comparison is the episodes that were played - one an order - and everything else is
read out of them: the verdict is what both orders say (a tie where they disagree; with a calibration
its tie threshold decides the overall one), the reasons are the model's own words turn by turn, and
every frame that it asked for has its number and its time.

Three things that are easily mixed up stay apart:

| field | is |
|---|---|
| `confidence` | share of right ones among such overall verdicts, by a calibration; null without |
| `stated_confidence` | what the model wrote (`CF`), 1 high to 3 low, an order |
| `orders_agree` | whether both orders prefer the same video |

Covers: one pair. Does not cover: playing it (`judge`), many of them (`ranking`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from verl_videosearch.judgement import OVERALL, Dimension, Tag, parse_turn
from verl_videosearch.runs.record import EpisodeRecord, PlayedTurn, swap_verdicts
from verl_videosearch.sample import Order
from verl_videosearch.video.store import FrameStore


@dataclass(frozen=True)
class FrameAsked:
    """One frame that the judge asked for and got."""

    order: Order
    turn: int
    """1-based turn of the call."""
    number: int
    """Frame number in that order, as the model names it."""
    video: int
    """1 or 2, in the caller's order."""
    time_s: float
    """Seconds from the start of its video."""


@dataclass(frozen=True)
class Reasoning:
    """What the judge wrote in one turn."""

    order: Order
    turn: int
    """1-based."""
    snapshot: str
    """What it noted of the newest frames."""
    thought: str
    """Its reasoning; the whole reply where it stands outside all tags."""
    verdicts: Mapping[str, int] | None
    """What the turn recommends or answers, in the caller's order; null when nothing is readable."""


@dataclass(frozen=True)
class Comparison:
    """What a judge says about one pair; verdicts are 1, 2 or 0 (tie), in the caller's order."""

    prompt: str
    video_1: str
    video_2: str
    records: tuple[EpisodeRecord, ...]
    """The episodes, one an order; all have a result."""
    confidence: float | None = None
    """Calibrated probability that the overall verdict is right; null without a calibration."""
    calibrated: int | None = None
    """The overall verdict by a calibration's tie threshold; null without one."""
    abstains: bool = False
    """The calibration says that pairs like this one are not to be answered."""
    num_cached: int = 0
    """Episodes that were remembered and not played now."""
    store: FrameStore | None = field(default=None, repr=False, compare=False)
    """Where `to_page` takes its pictures from; null: the default store."""

    def __post_init__(self) -> None:
        orders = [record.order for record in self.records]
        if not orders or len(set(orders)) < len(orders):
            raise ValueError(f"a comparison needs one episode an order, got {orders}")
        if failed := [record for record in self.records if not record.has_result]:
            raise ValueError(f"episode {failed[0].key!r} has no result: {failed[0].failure}")

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """What was judged, besides overall."""
        return self.records[0].own.dimensions

    @property
    def verdicts(self) -> dict[str, int] | None:
        """Verdict per dimension and overall (`OA`): what the orders agree on, else a tie, overall
        what a calibration says; None when an order has no readable verdict."""
        by_order = self.verdicts_by_order
        if any(verdicts is None for verdicts in by_order.values()):
            return None
        found = [dict(verdicts or {}) for verdicts in by_order.values()]
        shared = [key for key in found[0] if all(key in each for each in found)]
        agreed = {key: _agree([each[key] for each in found]) for key in shared}
        return agreed if self.calibrated is None else agreed | {OVERALL: self.calibrated}

    @property
    def verdicts_by_order(self) -> dict[Order, dict[str, int] | None]:
        """Verdicts of each order, in the caller's order."""
        return {record.order: record.own_verdicts for record in self.records}

    @property
    def overall(self) -> int | None:
        """The overall verdict: 1, 2, 0 for a tie, None when unreadable."""
        return None if self.verdicts is None else self.verdicts[OVERALL]

    @property
    def winner(self) -> str | None:
        """The better video's path; None for a tie and without a readable verdict."""
        return {1: self.video_1, 2: self.video_2}.get(self.overall or 0)

    @property
    def orders_agree(self) -> bool | None:
        """Whether both orders give the same overall verdict; None with one order or unreadable."""
        verdicts = [each and each[OVERALL] for each in self.verdicts_by_order.values()]
        if len(verdicts) < 2 or None in verdicts:
            return None
        return verdicts[0] == verdicts[1]

    @property
    def stated_confidence(self) -> dict[Order, int | None]:
        """What the model says of its own confidence: 1 high, 2 medium, 3 low, null unsaid."""
        return {record.order: record.confidence for record in self.records}

    @property
    def problems(self) -> dict[Order, str]:
        """Why an order has no readable verdict."""
        return {
            record.order: record.problem or record.outcome
            for record in self.records
            if record.verdicts is None
        }

    @property
    def frames_asked(self) -> tuple[FrameAsked, ...]:
        """Every frame that a call brought, in the order in which it was asked for."""
        return tuple(
            _locate(record, turn_number, number)
            for record in self.records
            for turn_number, turn in enumerate(record.turns, start=1)
            for number in turn.shown
        )

    @property
    def reasoning(self) -> tuple[Reasoning, ...]:
        """What was written, turn by turn."""
        return tuple(
            _read_reasoning(record, number, turn)
            for record in self.records
            for number, turn in enumerate(record.turns, start=1)
        )

    @property
    def num_prompt_tokens(self) -> int | None:
        """Tokens of all contexts; None when not counted."""
        return _add([record.usage.num_prompt_tokens for record in self.records])

    @property
    def num_reply_tokens(self) -> int | None:
        """Tokens of all replies; None when not counted."""
        return _add([record.usage.num_reply_tokens for record in self.records])

    @property
    def seconds(self) -> float:
        """Wall-clock time of the episodes, added up (they run side by side)."""
        return sum(record.seconds or 0.0 for record in self.records)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data; `from_json` reads it back."""
        return {
            "prompt": self.prompt,
            "video_1": self.video_1,
            "video_2": self.video_2,
            "overall": self.overall,
            "verdicts": self.verdicts,
            "winner": self.winner,
            "confidence": self.confidence,
            "calibrated": self.calibrated,
            "abstains": self.abstains,
            "orders_agree": self.orders_agree,
            "stated_confidence": {o.value: cf for o, cf in self.stated_confidence.items()},
            "problems": {order.value: words for order, words in self.problems.items()},
            "frames_asked": msgspec.to_builtins(self.frames_asked),
            "reasoning": msgspec.to_builtins(self.reasoning),
            "num_prompt_tokens": self.num_prompt_tokens,
            "num_reply_tokens": self.num_reply_tokens,
            "num_cached": self.num_cached,
            "seconds": round(self.seconds, 3),
            "episodes": msgspec.to_builtins(self.records),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Comparison:
        """Read what `to_json` wrote; only the episodes and the calibration's part are needed."""
        records = msgspec.convert(content["episodes"], tuple[EpisodeRecord, ...])
        names = ("prompt", "video_1", "video_2", "confidence", "abstains", "num_cached")
        given = {name: content[name] for name in names}
        return cls(records=records, calibrated=content.get("calibrated"), **given)

    def describe(self) -> str:
        """Say the verdict in one sentence.

        Names of files only, so that two of one name in two folders are told by 1 and 2."""
        overall, names = self.overall, [os.path.basename(p) for p in (self.video_1, self.video_2)]
        if self.abstains:
            return "no verdict: the judge abstains on pairs like this one"
        if overall is None:
            return "no verdict: " + "; ".join(
                f"order {order.value}: {words}" for order, words in self.problems.items()
            )
        if overall:
            doubt = ", though the two orders disagree" if self.orders_agree is False else ""
            return f"video {overall} is better: {names[overall - 1]}{doubt}"
        if self.orders_agree is False:
            return "a tie: the two orders disagree"
        return "a tie"

    def to_page(self, path: str | Path) -> Path:
        """Write one HTML file with films, frames asked for and words; returns its path."""
        from verl_videosearch.judge.comparison_page import write_comparison_page

        return write_comparison_page(self, Path(path))

    def _repr_html_(self) -> str:
        """Show the comparison in a notebook."""
        from verl_videosearch.judge.comparison_page import render_comparison

        return render_comparison(self)

    def __str__(self) -> str:
        return self.describe()


def _agree(verdicts: Sequence[int]) -> int:
    """Merge verdicts in one order of labels: equal ones stay, others are a tie."""
    return verdicts[0] if len(set(verdicts)) == 1 else 0


def _locate(record: EpisodeRecord, turn: int, number: int) -> FrameAsked:
    """Say which frame of the caller's videos a number means."""
    assert record.candidates is not None, "an episode with a result has its frames"
    shown_as = record.candidates.locate(number).video
    video = shown_as if record.order is Order.AB else 3 - shown_as
    return FrameAsked(record.order, turn, number, video, record.candidates.time_s(number))


def _read_reasoning(record: EpisodeRecord, number: int, turn: PlayedTurn) -> Reasoning:
    blocks = parse_turn(turn.reply, record.own.dimension_keys).blocks
    words = {tag: "\n".join(b.content.strip() for b in blocks if b.tag is tag) for tag in Tag}
    thought = words[Tag.THINK] if blocks else turn.reply.strip()
    verdicts = swap_verdicts(turn.verdicts, record.order)
    return Reasoning(record.order, number, words[Tag.SNAPSHOT], thought, verdicts)


def _add(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
