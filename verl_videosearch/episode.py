"""Episode: one judgement of one pair, turn by turn; no pixels, no tokens, no waiting.

The one idea: everything that runs a judge - RL rollouts, rejection sampling, evaluation, the server
- drives this same object, so all of them read exactly the same text and frames. `messages()` is the
context of the next turn; `step(reply)` takes what the model wrote.

>>> sample = PreferenceSample("a", "a cat", "1.mp4", "2.mp4", {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1})
>>> candidates = CandidateFrames((0.0, 0.5, 1.0), (0.0, 0.5, 1.0))
>>> episode = Episode(sample, candidates, EpisodeConfig(initial_frames_per_video=1))
>>> call = '<tool_call>{"name": "select_frames", "arguments": {"target_frames": [2, 5]}}</tool_call>'
>>> guess = "<Recommend Answer>TA=0, VQ=0, MQ=0, OA=0, CF=3</Recommend Answer>"
>>> episode.step(Reply("<Snapshot>a</Snapshot><Think>b</Think>" + guess + call))
>>> [item["frame_number"] for item in images_of(episode.messages())]
[1, 4, 2, 5]
>>> episode.step(Reply("<Snapshot>c</Snapshot><Think>d</Think><Answer>TA=0, VQ=1, MQ=0, OA=1</Answer>"))
>>> episode.is_done, episode.result().ending, episode.result().verdict.overall
(True, <Ending.ANSWERED: 'answered'>, 1)

Covers: turn logic, limits, the memory window, the typed result. Does not cover: how a reply is made
(`rollout.py`), its worth (`reward.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from verl_videosearch import prompts
from verl_videosearch.config import at_least, check, read_config
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.judgement import (
    Fault,
    Judgement,
    Problem,
    Reading,
    Turn,
    Unreadable,
    parse_turn,
)
from verl_videosearch.memory import visible_outcomes
from verl_videosearch.prompts import PromptStyle
from verl_videosearch.reply import NativeThought, Reply
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.tool import ToolOutcome, call_tool, refuse_over_limit, refuse_unclosed

Message = dict[str, Any]
"""`{"role": ..., "content": list of items}`, see `prompts.Content`."""


@dataclass(frozen=True)
class EpisodeConfig:
    """How an episode runs; the defaults are method sections 1 to 3."""

    frames_per_video: int = 48
    """Candidate frames per video, evenly spaced over it; a shorter video gives all its frames."""
    initial_frames_per_video: int = 4
    """Frames of each video shown before the first turn."""
    max_frames_per_call: int = 8
    """Frames that one call may ask for."""
    max_tool_calls: int = 3
    """Calls per episode, valid or not; a call after that is told to answer, and one more ends the
    episode."""
    window: int | None = 1
    """Newest tool outcomes whose images stay visible; null keeps everything."""
    label_frames: bool = True
    """Write number, video and time before each frame; false is the paper's bare form."""
    initial_max_pixels: int = 512 * 28 * 28
    """Pixel budget of each frame of the initial view."""
    tool_max_pixels: int = 400 * 28 * 28
    """Pixel budget of each frame that a call brings."""
    patch_multiple: int = 28
    """Both sides of a frame are multiples of this: the model's patch size times its merge size
    (Qwen3-VL: 32)."""
    prompt_style: PromptStyle = PromptStyle.FULL
    """`full` instructions, or `brief` for models trained from scratch on them."""

    native_thought: NativeThought = NativeThought.AUTO
    """Whether a leading `<think>` in lower case is a thinking model's own thought, which is never
    read: `auto` where its chat template or tokenizer has one; `always`; `never`."""
    keep_native_thought: bool = False
    """Leave native thoughts in the context of later turns; false drops them, as the models' own
    templates do."""

    def __post_init__(self) -> None:
        counts = (
            "frames_per_video initial_frames_per_video max_frames_per_call window patch_multiple "
            "initial_max_pixels tool_max_pixels"
        )
        if self.prompt_style in list(PromptStyle):
            object.__setattr__(self, "prompt_style", PromptStyle(self.prompt_style))
        rules = {name: at_least(1) for name in counts.split()}
        check(self, max_tool_calls=at_least(0), **rules)
        check(self, self._find_contradictions())

    def _find_contradictions(self) -> list[str]:
        """Compare settings that are each fine with one another."""
        problems = []
        if self.initial_frames_per_video > self.frames_per_video:
            problems.append(
                f"initial_frames_per_video ({self.initial_frames_per_video}) must not exceed "
                f"frames_per_video ({self.frames_per_video})"
            )
        smallest = self.patch_multiple**2
        for name in ("initial_max_pixels", "tool_max_pixels"):
            if getattr(self, name) < smallest:
                problems.append(
                    f"{name} must hold one patch, patch_multiple ** 2 = {smallest}; "
                    f"got {getattr(self, name)}"
                )
        return problems

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> EpisodeConfig:
        """Make a config from plain settings; unknown names and bad values are one `ValueError` that
        lists them all."""
        return read_config(cls, settings)

    @property
    def max_turns(self) -> int:
        """Most replies an episode can take: every call, one over the limit, and the answer."""
        return self.max_tool_calls + 2


class Ending(str, Enum):
    """How an episode ended."""

    ANSWERED = "answered"
    """With a readable verdict."""
    UNREADABLE = "unreadable"
    """With an answer tag that holds no verdict."""
    NO_ANSWER = "no_answer"
    """With a turn that neither called nor answered."""
    TRUNCATED = "truncated"
    """With a turn cut off by its token limit."""
    CALL_LIMIT = "call_limit"
    """With a call although an answer was due."""
    OVERLONG = "overlong"
    """The context of the next turn would not fit the model."""


@dataclass(frozen=True)
class TurnRecord:
    """One finished turn."""

    reply: Reply
    turn: Turn
    outcome: ToolOutcome | None
    """What the turn's call brought; None when it did not call."""
    faults: tuple[Fault, ...]
    """Empty when the turn was well-formed."""
    num_visible_images: int
    """Images in the context that the turn was written from."""
    num_new_frames: int = 0
    """Frames that its call brought and that were not in view."""


@dataclass(frozen=True)
class EpisodeResult:
    """A finished episode; everything rewards, metrics and reports need."""

    ending: Ending
    verdict: Reading
    """The final judgement, or why there is none."""
    turns: tuple[TurnRecord, ...]
    num_evictions: int
    """Tool outcomes whose images left the window."""

    @property
    def outcomes(self) -> tuple[ToolOutcome, ...]:
        return tuple(record.outcome for record in self.turns if record.outcome is not None)

    @property
    def has_searched(self) -> bool:
        """True when at least one call brought frames that were not in view."""
        return any(record.num_new_frames for record in self.turns)

    @property
    def recommendations(self) -> tuple[Judgement, ...]:
        """The readable verdicts in order: recommendations, then the answer."""
        readings = [record.turn.recommendation for record in self.turns] + [self.verdict]
        return tuple(reading for reading in readings if isinstance(reading, Judgement))

    @property
    def is_well_formed(self) -> bool:
        return self.ending is Ending.ANSWERED and not any(record.faults for record in self.turns)


class Episode:
    """Drive with: while not `is_done`: write a reply to `messages()`, then `step(reply)`."""

    def __init__(
        self, sample: PreferenceSample, candidates: CandidateFrames, config: EpisodeConfig
    ) -> None:
        self.sample, self.candidates, self.config = sample, candidates, config
        self._records: list[TurnRecord] = []
        self._ending: Ending | None = None

    @property
    def is_done(self) -> bool:
        return self._ending is not None

    @property
    def num_turns(self) -> int:
        return len(self._records)

    def messages(self) -> list[Message]:
        """Render the whole windowed context: the next turn's prompt, or the transcript when
        done."""
        visible = self._visible(self._num_answered)
        messages = [
            _message("system", self._system_content()),
            _message("user", self._pair_content()),
        ]
        for index, record in enumerate(self._records):
            messages.append(_message("assistant", self._reply_content(record.reply)))
            if index < self._num_answered:
                messages.append(_message("user", self._outcome_content(index, index in visible)))
        return messages

    def context_grew(self) -> bool:
        """Return True when the next prompt only appends to the last one: nothing was evicted in
        between (method section 3)."""
        return self._visible() >= self._visible(len(self._records) - 1)

    def step(self, reply: Reply) -> None:
        """Take one reply: run its call, or end the episode."""
        assert not self.is_done, "the episode is over"
        turn = parse_turn(reply.text, self.sample.dimension_keys)
        in_view = [image["frame_number"] for image in images_of(self.messages())]
        outcome = self._run_call(turn, reply) if turn.acts_by_call else None
        self._ending = self._find_ending(turn, outcome, reply)
        self._records.append(
            TurnRecord(
                reply=reply,
                turn=turn,
                outcome=outcome,
                faults=turn.faults(expects_snapshot=self._has_new_frames()),
                num_visible_images=len(in_view),
                num_new_frames=len(set(outcome.frame_numbers) - {*in_view}) if outcome else 0,
            )
        )

    def stop_overlong(self) -> None:
        """End the episode because its next context does not fit the model; whole messages are never
        cut."""
        assert not self.is_done, "the episode is over"
        self._ending = Ending.OVERLONG

    def result(self) -> EpisodeResult:
        """Return the typed result of a finished episode."""
        assert self._ending is not None, "the episode is still running"
        verdict: Reading = Unreadable(Problem.NO_ANSWER, self._ending.value)
        if self._ending in (Ending.ANSWERED, Ending.UNREADABLE):
            verdict = self._records[-1].turn.answer
        elif self._ending is Ending.TRUNCATED:
            verdict = Unreadable(Problem.TRUNCATED)
        with_frames = sum(
            bool(outcome.frame_numbers) for outcome in self._outcomes(self._num_answered)
        )
        return EpisodeResult(
            ending=self._ending,
            verdict=verdict,
            turns=tuple(self._records),
            num_evictions=with_frames - len(self._visible(self._num_answered)),
        )

    def _run_call(self, turn: Turn, reply: Reply) -> ToolOutcome | None:
        """Answer the turn's first call."""
        if not turn.tool_calls and reply.is_truncated:
            return None
        if len(self._outcomes()) >= self.config.max_tool_calls:
            return refuse_over_limit(self.config.max_tool_calls)
        if not turn.tool_calls:
            return refuse_unclosed()
        return call_tool(turn.tool_calls[0], self.candidates, self.config.max_frames_per_call)

    def _find_ending(self, turn: Turn, outcome: ToolOutcome | None, reply: Reply) -> Ending | None:
        """Say whether and how this turn ends the episode."""
        if outcome is not None:
            return Ending.CALL_LIMIT if len(self._outcomes()) > self.config.max_tool_calls else None
        if isinstance(turn.answer, Judgement):
            return Ending.ANSWERED
        if reply.is_truncated:
            return Ending.TRUNCATED
        return Ending.NO_ANSWER if turn.answer is None else Ending.UNREADABLE

    @property
    def _num_answered(self) -> int:
        """Turns whose call was answered in the context: all but the last one of a finished
        episode."""
        return max(len(self._records) - self.is_done, 0)

    def _outcomes(self, num_records: int | None = None) -> list[ToolOutcome]:
        return [
            record.outcome for record in self._records[:num_records] if record.outcome is not None
        ]

    def _visible(self, num_records: int | None = None) -> frozenset[int]:
        """Return which outcomes' images the context after `num_records` turns shows (None: after
        all)."""
        outcomes = self._outcomes(num_records)
        return visible_outcomes(
            [bool(outcome.frame_numbers) for outcome in outcomes], self.config.window
        )

    def _has_new_frames(self) -> bool:
        """True when the context's newest message brought frames."""
        return not self._records or bool(
            self._records[-1].outcome and self._records[-1].outcome.frame_numbers
        )

    def _system_content(self) -> prompts.Content:
        return prompts.system_content(
            self.sample.dimensions,
            len(self.candidates),
            max_frames=self.config.max_frames_per_call,
            max_calls=self.config.max_tool_calls,
            window=self.config.window,
            style=self.config.prompt_style,
        )

    def _pair_content(self) -> prompts.Content:
        return prompts.pair_content(
            self.sample.prompt,
            self.candidates,
            self.candidates.initial_view(self.config.initial_frames_per_video),
            max_pixels=self.config.initial_max_pixels,
            label_frames=self.config.label_frames,
            style=self.config.prompt_style,
        )

    def _reply_content(self, reply: Reply) -> prompts.Content:
        thought = reply.thought if self.config.keep_native_thought else ""
        return [{"type": "text", "text": thought + reply.text}]

    def _outcome_content(self, index: int, is_visible: bool) -> prompts.Content:
        """Render the answer to call `index`: frames, a fault, or the line that remains after
        eviction."""
        outcome, calls = self._records[index].outcome, self._records[index].turn.tool_calls
        assert outcome is not None, "only the last turn of an episode makes no call"
        if outcome.frame_numbers and not is_visible:
            return [{"type": "text", "text": prompts.evicted_text(outcome.frame_numbers)}]
        notes = [prompts.second_call_text()] if len(calls) > 1 else []
        if outcome.repeated:
            notes.append(prompts.repeated_text(outcome.repeated))
        notes.append(prompts.calls_left_text(max(self.config.max_tool_calls - index - 1, 0)))
        if outcome.fault is not None:
            return prompts.fault_reply(outcome.reason, notes)
        return prompts.frames_reply(
            outcome.frame_numbers,
            self.candidates,
            notes,
            max_pixels=self.config.tool_max_pixels,
            label_frames=self.config.label_frames,
            style=self.config.prompt_style,
        )


def images_of(messages: list[Message]) -> list[dict[str, Any]]:
    """Return the image references of a context, in the order in which the model sees them."""
    return [item for message in messages for item in message["content"] if item["type"] == "image"]


def _message(role: str, content: prompts.Content) -> Message:
    return {"role": role, "content": content}
