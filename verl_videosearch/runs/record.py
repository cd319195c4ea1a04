"""EpisodeRecord: one played episode as one JSON line, the same for training, traces, sampling,
evaluation, probes and the judge.

The one idea: a record holds everything that was shown, asked, said and decided, so that whoever
reads it - to probe, compare, show, count or train - needs no other file. The sample stands in its
own order; everything that the judge saw or wrote (frame numbers, times, verdicts) stands as it was
shown, and `own_verdicts` turns it back.

    order AB   the judge's video 1 is the sample's video 1
    order BA   the judge's video 1 is the sample's video 2: verdict 1 means the sample's video 2

>>> from verl_videosearch.episode import Reply
>>> sample = PreferenceSample("a", "a cat", "1.mp4", "2.mp4", {"TA": 0, "VQ": 2, "MQ": 0, "OA": 2})
>>> shown = show_in_order(sample, Order.BA)
>>> episode = Episode(shown, CandidateFrames((0.0, 0.5), (0.0,)), EpisodeConfig())
>>> episode.step(Reply("<Snapshot>c</Snapshot><Think>d</Think><Answer>TA=0, VQ=1, MQ=0, OA=1</Answer>"))
>>> record = record_episode(RecordKind.EVALUATION, "a BA", sample, Order.BA, episode)
>>> record.verdicts["OA"], record.own_verdicts["OA"], record.is_right, record.turns[0].visible
(1, 2, True, (1, 2, 3))

Covers: the type, making one of a played or failed episode. Does not cover: files of them
(`record_file`), playing (`play`)."""  # noqa: E501

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec

from verl_videosearch.episode import (
    Ending,
    Episode,
    EpisodeConfig,
    EpisodeResult,
    Message,
    Reply,
    TurnRecord,
)
from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.judgement import OVERALL, Judgement, Reading, swap_label
from verl_videosearch.memory import visible_outcomes
from verl_videosearch.reward import Score
from verl_videosearch.sample import Order, PreferenceSample, show_in_order
from verl_videosearch.tool import ToolOutcome

FORMAT = 1
"""Version of the line; raised when an older reader would misread a newer line."""


class RecordKind(str, Enum):
    """Which program played the episode."""

    ROLLOUT = "rollout"
    """Reinforcement learning."""
    TRACE = "trace"
    """A teacher's, for the cold start."""
    SAMPLE = "sample"
    """One of several of a pair, for rejection sampling."""
    EVALUATION = "evaluation"
    PROBE = "probe"
    """Played again with other frames in the answers to its calls."""
    JUDGE = "judge"
    """Somebody's own videos."""


REPLACEMENT, MEMORY = "replacement", "memory"
"""Entries of a probe's `extra`: which frames it altered, or which of the judge's own words."""


class PlayedTurn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One turn: what the judge had in view, wrote, asked for and got."""

    reply: str
    """The text as the model wrote it."""
    thought: str = ""
    """The native thought of a thinking model that stood before it."""
    is_truncated: bool = False
    """The token limit of a turn cut it off."""
    visible: tuple[int, ...] = ()
    """Numbers of the frames that were in view when it was written."""
    forgotten: tuple[int, ...] = ()
    """Numbers shown before and no longer in view."""
    tool: str | None = None
    """The tool that the call names; null without a readable call."""
    asked: tuple[int, ...] = ()
    """Numbers that the call names, also of a call that was refused."""
    shown: tuple[int, ...] = ()
    """Numbers of the frames that came back."""
    regions: tuple[tuple[float, ...] | None, ...] | None = None
    """The part of each frame that came back (left, top, right, bottom as shares), null for a whole
    frame; null when all are whole."""
    repeated: tuple[int, ...] = ()
    """Numbers that the call names more than once."""
    num_new_frames: int | None = None
    """Frames that came back and were not in view; null in lines of older versions, see
    `brings_new`."""
    has_call: bool = False
    """The turn acted by a call, readable or not."""
    call_fault: str | None = None
    """Why the call brought no frames."""
    faults: tuple[str, ...] = ()
    """Why the turn is not well-formed."""
    verdicts: dict[str, int] | None = None
    """What the turn recommends or answers, by slot as shown; null when nothing is readable."""
    confidence: int | None = None
    """1 (most) to 3 (least) as the turn gives it."""
    problem: str | None = None
    """Why what the turn recommends or answers cannot be read."""
    num_prompt_tokens: int | None = None
    """Tokens of the context; null when unknown."""
    num_reply_tokens: int | None = None
    """Tokens of the reply; null when unknown."""

    @property
    def brings_new(self) -> bool:
        """True when the call brought frames that were not in view."""
        if self.num_new_frames is None:
            return bool(set(self.shown) - set(self.visible))
        return self.num_new_frames > 0


class RecordedFailure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why there is no result: something around the episode broke, which is never a verdict."""

    kind: FailureKind
    cause: str = ""
    """What exactly, where it is known (`truncated`)."""
    is_passing: bool
    """Another try may succeed; a permanent failure fails the same way again."""
    detail: str
    """In words; the server's own sentence where there is one."""

    @property
    def label(self) -> str:
        """The name under which it is counted (`video_truncated`)."""
        return f"{self.kind.value}_{self.cause}" if self.cause else self.kind.value


class Usage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an episode cost; null where nobody counted, never 0."""

    num_prompt_tokens: int | None = None
    """Tokens of all contexts."""
    num_reply_tokens: int | None = None
    """Tokens of all replies."""
    num_requests: int | None = None
    """Requests sent to a server, repeated ones included."""


class Identity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What made a record; null where it is unknown."""

    model: str | None = None
    """Name or path of the model."""
    model_hash: str | None = None
    """Of its files (`identity.hash_model`)."""
    commit: str | None = None
    """Of this package (`identity.read_commit`)."""
    package_version: str | None = None
    settings_hash: str | None = None
    """Of the settings of the run."""
    words_hash: str | None = None
    """Of the words that the model reads."""


class EpisodeRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One played or failed episode; every line of every file of episodes is one."""

    format: int = FORMAT
    """Version of this type."""
    kind: RecordKind
    """Which program played it."""
    key: str
    """Names the episode; one key has one result in a file."""
    uid: str
    """Of the sample."""
    sample: PreferenceSample | None = None
    """The pair in its own order; null only when its row broke the contract."""
    order: Order = Order.AB
    """In which order the judge saw the videos."""
    attempt: int | None = None
    """Which of several episodes of the same input, from 0."""
    seed: int | None = None
    """Of the episode's sampling."""
    step: int | None = None
    """Training step."""
    group: str | None = None
    """Name of the prompt group in training."""
    config: dict[str, Any] = {}
    """`EpisodeConfig` as plain data."""
    candidates: CandidateFrames | None = None
    """Times of the candidate frames as shown, in seconds; null when the videos were not read."""
    initial_frames: tuple[int, ...] = ()
    """Numbers of the frames in view before the first turn."""
    turns: tuple[PlayedTurn, ...] = ()
    messages: list[Message] | None = None
    """The final context with references in place of images; null when it was not kept."""
    ending: Ending | None = None
    """Null for a failure."""
    verdicts: dict[str, int] | None = None
    """The final judgement by slot as shown; null when there is none."""
    confidence: int | None = None
    """The last one given."""
    problem: str | None = None
    """Why there is no final judgement."""
    num_evictions: int = 0
    """Tool outcomes whose images left the window."""
    score: float | None = None
    """Reward; null outside training."""
    reward_parts: dict[str, float | None] | None = None
    """What the reward consists of."""
    failure: RecordedFailure | None = None
    """Set when there is no result."""
    usage: Usage = Usage()
    seconds: float | None = None
    """Wall-clock time of the episode, frames included."""
    identity: Identity = Identity()
    extra: dict[str, Any] = {}
    """What only this kind of program knows: a probe's `replacement`, a server's name, ..."""

    @property
    def own(self) -> PreferenceSample:
        """The pair in its own order; `ValueError` for a row that could not be read."""
        if self.sample is None:
            raise ValueError(f"episode {self.key!r} has no sample: its row broke the contract")
        return self.sample

    @property
    def shown(self) -> PreferenceSample:
        """The pair as the judge saw it."""
        return show_in_order(self.own, self.order)

    @property
    def episode_config(self) -> EpisodeConfig:
        """The settings that it was played with."""
        return EpisodeConfig.from_dict(self.config)

    @property
    def has_result(self) -> bool:
        """True when it was played to its end, with a verdict or not."""
        return self.failure is None

    @property
    def altered(self) -> str | None:
        """What a probe altered, such as `blank` or `emptied`; None for other programs."""
        found: str | None = self.extra.get(REPLACEMENT, self.extra.get(MEMORY))
        return found

    @property
    def outcome(self) -> str:
        """Its ending, or `failed`."""
        return "failed" if self.ending is None else self.ending.value

    @property
    def first_verdicts(self) -> dict[str, int] | None:
        """The first readable verdicts of any turn, by slot as shown."""
        return next((turn.verdicts for turn in self.turns if turn.verdicts is not None), None)

    @property
    def own_verdicts(self) -> dict[str, int] | None:
        """The final verdicts in the sample's own order."""
        return swap_verdicts(self.verdicts, self.order)

    @property
    def own_first_verdicts(self) -> dict[str, int] | None:
        """The first readable verdicts in the sample's own order."""
        return swap_verdicts(self.first_verdicts, self.order)

    @property
    def has_searched(self) -> bool:
        """True when at least one call brought frames that were not in view."""
        return any(turn.brings_new for turn in self.turns)

    @property
    def num_calls(self) -> int:
        """Calls, refused ones included."""
        return sum(turn.has_call for turn in self.turns)

    @property
    def is_right(self) -> bool | None:
        """Whether the overall verdict is the label's; None without a label or a result."""
        label = self.own.labels[OVERALL] if self.sample is not None else None
        if label is None or not self.has_result:
            return None
        return self.own_verdicts is not None and self.own_verdicts[OVERALL] == label


def swap_verdicts(verdicts: Mapping[str, int] | None, order: Order) -> dict[str, int] | None:
    """Turn verdicts as shown into those of the sample's own order, and back.

    >>> swap_verdicts({"TA": 0, "OA": 1}, Order.BA)
    {'TA': 0, 'OA': 2}
    """
    if verdicts is None:
        return None
    if order is Order.AB:
        return dict(verdicts)
    return {key: swap_label(verdict) or 0 for key, verdict in verdicts.items()}


def record_episode(
    kind: RecordKind,
    key: str,
    sample: PreferenceSample,
    order: Order,
    episode: Episode,
    *,
    score: Score | None = None,
    has_messages: bool = True,
    **details: Any,
) -> EpisodeRecord:
    """Write a finished episode; `sample` in its own order, `episode` played in `order`.

    `details` are any other fields of `EpisodeRecord` (attempt, seed, step, group, usage, seconds,
    identity, extra). Raises `EpisodeFailure` when not even the first context fitted the model."""
    result = episode.result()
    if result.ending is Ending.OVERLONG and not result.turns:
        detail = "the first context does not fit the model; show fewer or smaller frames at first"
        raise EpisodeFailure(FailureKind.PROMPT_TOO_LONG, detail, sample.uid)
    confidences = [reading.confidence for reading in result.recommendations]
    return EpisodeRecord(
        kind=kind,
        key=key,
        uid=sample.uid,
        sample=sample,
        order=order,
        config=json.loads(json.dumps(msgspec.to_builtins(episode.config))),
        candidates=episode.candidates,
        initial_frames=episode.candidates.initial_view(episode.config.initial_frames_per_video),
        turns=describe_turns(episode, result),
        messages=episode.messages() if has_messages else None,
        ending=result.ending,
        confidence=next((each for each in reversed(confidences) if each is not None), None),
        num_evictions=result.num_evictions,
        score=None if score is None else to_finite(score.total),
        reward_parts=None
        if score is None
        else {name: to_finite(value) for name, value in sorted(score.parts.items())},
        **_describe_reading(result.verdict),
        **details,
    )


def record_failure(
    kind: RecordKind,
    key: str,
    sample: PreferenceSample | None,
    order: Order,
    failure: EpisodeFailure,
    **details: Any,
) -> EpisodeRecord:
    """Write an episode that has no result, because something around it broke."""
    return EpisodeRecord(
        kind=kind,
        key=key,
        uid=sample.uid if sample is not None else failure.sample_uid,
        sample=sample,
        order=order,
        failure=RecordedFailure(
            kind=failure.kind,
            cause=failure.cause,
            is_passing=failure.is_passing,
            detail=failure.detail,
        ),
        **details,
    )


def replay_episode(record: EpisodeRecord) -> Episode:
    """Play a record's replies again, without a model: the finished `Episode` that it was made of.

    Raises `ValueError` for a failure, and when the replies end otherwise than they did (another
    version of the package played them)."""
    if record.candidates is None or record.ending is None:
        raise ValueError(f"episode {record.key!r} has no result to play again: {record.failure}")
    episode = Episode(record.shown, record.candidates, record.episode_config)
    for turn in record.turns:
        if episode.is_done:
            break
        episode.step(Reply(turn.reply, turn.is_truncated, turn.thought))
    if not episode.is_done and record.ending is Ending.OVERLONG:
        episode.stop_overlong()
    if not episode.is_done or episode.result().ending is not record.ending:
        raise ValueError(
            f"episode {record.key!r} ended {record.ending.value} and ends otherwise when its "
            "replies "
            "are read again: it was played by another version of the package; play it again"
        )
    return episode


def describe_turns(episode: Episode, result: EpisodeResult) -> tuple[PlayedTurn, ...]:
    """Write every turn of an episode with what was in view and what had been forgotten."""
    initial = episode.candidates.initial_view(episode.config.initial_frames_per_video)
    brought: list[tuple[int, ...]] = []
    turns = []
    for turn in result.turns:
        window = visible_outcomes([bool(each) for each in brought], episode.config.window)
        visible = [*initial, *(n for index in sorted(window) for n in brought[index])]
        seen = dict.fromkeys(number for numbers in brought for number in numbers)
        forgotten = tuple(number for number in seen if number not in visible)
        turns.append(_describe_turn(turn, tuple(visible), forgotten))
        if turn.outcome is not None:
            brought.append(tuple(turn.outcome.frame_numbers))
    return tuple(turns)


def _list_regions(outcome: ToolOutcome | None) -> tuple[tuple[float, ...] | None, ...] | None:
    regions = tuple(image.region for image in outcome.images) if outcome else ()
    return regions if any(regions) else None


def _describe_turn(
    record: TurnRecord, visible: tuple[int, ...], forgotten: tuple[int, ...]
) -> PlayedTurn:
    turn, outcome = record.turn, record.outcome
    calls = turn.tool_calls if outcome is not None else ()
    tool, asked = read_call(calls[0]) if calls else (None, ())
    reading = turn.answer if turn.answer is not None and outcome is None else turn.recommendation
    return PlayedTurn(
        reply=record.reply.text,
        thought=record.reply.thought,
        is_truncated=record.reply.is_truncated,
        visible=visible,
        forgotten=forgotten,
        tool=tool,
        asked=asked,
        shown=tuple(outcome.frame_numbers) if outcome else (),
        regions=_list_regions(outcome),
        repeated=tuple(outcome.repeated) if outcome else (),
        num_new_frames=record.num_new_frames,
        has_call=outcome is not None,
        call_fault=outcome.fault.value if outcome and outcome.fault else None,
        faults=tuple(fault.value for fault in record.faults),
        confidence=reading.confidence if isinstance(reading, Judgement) else None,
        **_describe_reading(reading),
    )


def _describe_reading(reading: Reading | None) -> dict[str, Any]:
    """Write a judgement or why there is none."""
    if isinstance(reading, Judgement):
        return {"verdicts": dict(reading.verdicts), "problem": None}
    return {"verdicts": None, "problem": None if reading is None else reading.problem.value}


def read_call(call_text: str) -> tuple[str | None, tuple[int, ...]]:
    """Return the tool and the whole numbers that a call names, valid or not.

    >>> read_call('{"name": "select_frames", "arguments": {"target_frames": [0, 97, "x"]}}')
    ('select_frames', (0, 97))
    >>> read_call("not JSON")
    (None, ())
    """
    try:
        call = json.loads(call_text)
    except (ValueError, RecursionError):
        return None, ()
    if not isinstance(call, dict):
        return None, ()
    name, arguments = call.get("name"), call.get("arguments")
    numbers: list[int] = []
    for value in arguments.values() if isinstance(arguments, dict) else ():
        for number in value if isinstance(value, list) else [value]:
            if type(number) is int and abs(number) < 2**63:
                numbers.append(number)
    return (name if isinstance(name, str) else None), tuple(numbers)


def to_finite(value: float) -> float | None:
    """Return the number; None for one that JSON cannot hold."""
    return float(value) if math.isfinite(value) else None
