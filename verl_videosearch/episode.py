"""Episode: one judgement of one pair, turn by turn; no pixels, no tokens, no waiting.

The one idea: everything that runs a judge - RL rollouts, rejection sampling, evaluation, the server
- drives this same object, so all of them read exactly the same text and frames. `messages()` is the
context of the next turn; `step(reply)` takes what the model wrote.

>>> sample = PreferenceSample("a", "a cat", "1.mp4", "2.mp4", {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1})
>>> candidates = CandidateFrames((0.0, 0.5, 1.0), (0.0, 0.5, 1.0))
>>> episode = Episode(sample, candidates, EpisodeConfig(initial_frames_per_video=1))
>>> call = '{"name": "select_frames", "arguments": {"target_frames": [2, 5]}}'
>>> guess = "<Recommend Answer>TA=0, VQ=0, MQ=0, OA=0, CF=3</Recommend Answer>"
>>> notes = "<Snapshot>a</Snapshot><Think>b</Think>"
>>> episode.step(Reply(f"{notes}{guess}<tool_call>{call}</tool_call>"))
>>> [item["frame_number"] for item in images_of(episode.messages())]
[1, 4, 2, 5]
>>> episode.step(Reply(f"{notes}<Answer>TA=0, VQ=1, MQ=0, OA=1</Answer>"))
>>> episode.is_done, episode.result().ending, episode.result().verdict.overall
(True, <Ending.ANSWERED: 'answered'>, 1)

Covers: turn logic, limits, the memory window, the typed result. Does not cover: how a reply is made
(`rollout.py`), its worth (`reward.py`)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar

from verl_videosearch import prompts
from verl_videosearch.config import at_least, check, fulfils, read_config
from verl_videosearch.frames import CandidateFrames, ImageReference
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
from verl_videosearch.prompts import PromptPack, PromptStyle, load_pack
from verl_videosearch.prompts.pack import BUILT_IN
from verl_videosearch.reply import NativeThought, Reply
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.tool import (
    SELECT_FRAMES,
    CallContext,
    Tool,
    ToolOutcome,
    call_tool,
    describe_tools,
    load_tools,
    refuse_over_limit,
    refuse_unclosed,
)

Message = dict[str, Any]
"""`{"role": ..., "content": list of items}`, see `prompts.Content`."""


PATCH_MULTIPLE = 28
"""Of Qwen2.5-VL: patches of 14 pixels, merged 2 x 2. Budgets of pixels are written for it."""


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
    initial_max_pixels: int = 512 * PATCH_MULTIPLE**2
    """Pixel budget of each frame of the initial view."""
    tool_max_pixels: int = 400 * PATCH_MULTIPLE**2
    """Pixel budget of each frame that a call brings."""
    patch_multiple: int = PATCH_MULTIPLE
    """Both sides of a frame are multiples of this: the model's patch size times its merge size
    (Qwen3-VL: 32). A recipe's null is the model's own (`fit_patches`)."""
    prompt_pack: str = "full"
    """The words that the model reads: `full` instructions, `brief` for models trained from scratch
    on them, or the path of a .yaml file (docs/add_a_prompt_pack.md)."""
    tools: tuple[str, ...] = ("select_frames",)
    """What the model may call: `select_frames`, or `pkg://module:Class` of a tool of your own
    (docs/add_a_tool.md)."""
    native_thought: NativeThought = NativeThought.AUTO
    """Whether a leading `<think>` in lower case is a thinking model's own thought, which is never
    read: `auto` where its chat template or tokenizer has one; `always`; `never`."""
    keep_native_thought: bool = False
    """Leave native thoughts in the context of later turns; false drops them, as the models' own
    templates do."""

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {"prompt_style": "prompt_pack"}
    """Settings that older files call otherwise."""

    def __post_init__(self) -> None:
        counts = (
            "frames_per_video initial_frames_per_video max_frames_per_call window patch_multiple "
            "initial_max_pixels tool_max_pixels"
        )
        if isinstance(self.prompt_pack, PromptStyle):
            object.__setattr__(self, "prompt_pack", self.prompt_pack.value)
        rules = {name: at_least(1) for name in counts.split()}
        rules["prompt_pack"] = fulfils(
            f"that is one of {', '.join(map(repr, BUILT_IN))} or ends with .yaml",
            lambda name: name in BUILT_IN or name.endswith((".yaml", ".yml")),
        )
        rules["tools"] = fulfils(
            "of tool names",
            lambda names: len(names) > 0 and all(isinstance(name, str) for name in names),
        )
        rules["max_tool_calls"] = at_least(0)
        check(self, (), **rules)
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
        lists them all. Where no model was asked, `patch_multiple: null` is Qwen2.5-VL's."""
        return read_config(cls, fit_patches(settings, PATCH_MULTIPLE))

    @classmethod
    def from_changes(
        cls,
        settings: Mapping[str, Any],
        changes: Mapping[str, Any],
        multiple: int = PATCH_MULTIPLE,
    ) -> EpisodeConfig:
        """Make a config from plain settings and what is to be changed in them, each perhaps under a
        former name; `multiple` is what `patch_multiple: null` stands for."""
        new = {cls.FORMER_NAMES.get(name, name): value for name, value in changes.items()}
        old = {cls.FORMER_NAMES.get(name, name): value for name, value in settings.items()}
        return cls.from_dict(fit_patches(old | new, multiple))

    @property
    def pack(self) -> PromptPack:
        """The words; a `ValueError` names all mistakes of the file."""
        return load_pack(self.prompt_pack)

    @property
    def prompt_style(self) -> PromptStyle:
        """How terse the pack is."""
        return PromptStyle(self.pack.base)

    def check_words(self) -> None:
        """Raise `ValueError` unless the pack and the tools can be loaded and fit one another; to be
        called where a program starts."""
        load_tools(self.tools)
        if self.max_tool_calls > 0 and not self.pack.has_tool:
            raise ValueError(
                f"prompt pack {self.prompt_pack!r} has no words for calls (system is null): set "
                f"max_tool_calls=0, got {self.max_tool_calls}"
            )

    @property
    def max_turns(self) -> int:
        """Most replies an episode can take: every call, one over the limit, and the answer."""
        return self.max_tool_calls + 2


def fit_patches(settings: Mapping[str, Any], multiple: int) -> dict[str, Any]:
    """Fill in `patch_multiple: null`; the budgets of pixels, written for patches of 28 pixels, then
    hold as many visual tokens of this model. Any other `patch_multiple` leaves them alone.

    >>> fit_patches({"patch_multiple": None, "tool_max_pixels": 3136}, 32)
    {'patch_multiple': 32, 'tool_max_pixels': 4096, 'initial_max_pixels': 524288}
    >>> fit_patches({"patch_multiple": 28, "tool_max_pixels": 3136}, 32)
    {'patch_multiple': 28, 'tool_max_pixels': 3136}
    """
    if settings.get("patch_multiple", multiple) is not None or "patch_multiple" not in settings:
        return dict(settings)
    fitted = dict(settings) | {"patch_multiple": multiple}
    for name in ("initial_max_pixels", "tool_max_pixels"):
        budget = settings.get(name, getattr(EpisodeConfig, name))
        if type(budget) is int:
            fitted[name] = budget * multiple**2 // PATCH_MULTIPLE**2
    return fitted


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
    tools: tuple[Tool, ...] = (SELECT_FRAMES,)
    """What could be called."""

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
        config.check_words()
        self.sample, self.candidates, self.config = sample, candidates, config
        self.pack, self.tools = config.pack, load_tools(config.tools)
        self._context = CallContext(
            candidates, config.max_frames_per_call, config.tool_max_pixels, self.pack
        )
        self._records: list[TurnRecord] = []
        self._shown: dict[tuple[int, bool], prompts.Content] = {}
        self._ending: Ending | None = None

    @property
    def is_done(self) -> bool:
        return self._ending is not None

    @property
    def num_turns(self) -> int:
        return len(self._records)

    def messages(self) -> list[Message]:
        """Render the whole windowed context: the next turn's prompt, or the transcript when done.

        What stays is rendered once: contents are shared between calls and are only to be read."""
        visible = self._visible(self._num_answered)
        messages = [
            _message("system", self._system_content),
            _message("user", self._pair_content),
        ]
        for index, record in enumerate(self._records):
            messages.append(_message("assistant", self._reply_content(record.reply)))
            if index < self._num_answered:
                messages.append(_message("user", self._show_outcome(index, index in visible)))
        return messages

    def context_grew(self) -> bool:
        """Return True when the next prompt only appends to the last one: nothing was evicted in
        between (method section 3)."""
        return self._visible() >= self._visible(len(self._records) - 1)

    def step(self, reply: Reply) -> None:
        """Take one reply: run its call, or end the episode."""
        assert not self.is_done, "the episode is over"
        turn = parse_turn(reply.text, self.sample.dimension_keys, self.pack.answer_words)
        in_view = self._images_in_view()
        outcome = self._run_call(turn, reply) if turn.acts_by_call else None
        self._ending = self._find_ending(turn, outcome, reply)
        self._records.append(
            TurnRecord(
                reply=reply,
                turn=turn,
                outcome=outcome,
                faults=self._find_faults(turn),
                num_visible_images=len(in_view),
                num_new_frames=_count_new(outcome, in_view),
            )
        )

    def _images_in_view(self) -> list[tuple[int, Any]]:
        """List number and region of every image in the context of the turn that is due."""
        outcomes = self._outcomes(self._num_answered)
        shown = images_of([_message("user", self._pair_content)])
        for index in sorted(self._visible(self._num_answered)):
            shown += outcomes[index].images
        return [(image.number, image.region) for image in shown]

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
            verdict = self._records[-1].turn.answer or verdict
        elif self._ending is Ending.TRUNCATED:
            verdict = Unreadable(Problem.TRUNCATED)
        with_frames = sum(bool(outcome.images) for outcome in self._outcomes(self._num_answered))
        return EpisodeResult(
            ending=self._ending,
            verdict=verdict,
            turns=tuple(self._records),
            num_evictions=with_frames - len(self._visible(self._num_answered)),
            tools=self.tools,
        )

    def _run_call(self, turn: Turn, reply: Reply) -> ToolOutcome | None:
        """Answer the turn's first call."""
        if not turn.tool_calls and reply.is_truncated:
            return None
        if len(self._outcomes()) >= self.config.max_tool_calls:
            return refuse_over_limit(self.config.max_tool_calls, self._context)
        if not turn.tool_calls:
            return refuse_unclosed(self._context, self.tools)
        return call_tool(turn.tool_calls[0], self._context, self.tools)

    def _find_faults(self, turn: Turn) -> tuple[Fault, ...]:
        """List the turn's faults of form, but for those that the pack allows."""
        faults = turn.faults(expects_snapshot=self._has_new_frames())
        return tuple(fault for fault in faults if fault not in self.pack.allowed_faults)

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
        return visible_outcomes([bool(each.images) for each in outcomes], self.config.window)

    def _has_new_frames(self) -> bool:
        """True when the context's newest message brought frames."""
        return not self._records or bool(
            self._records[-1].outcome and self._records[-1].outcome.images
        )

    @cached_property
    def _system_content(self) -> prompts.Content:
        return prompts.system_content(
            self.sample.dimensions,
            describe_tools(self.tools, self._context),
            max_frames=self.config.max_frames_per_call,
            max_calls=self.config.max_tool_calls,
            window=self.config.window,
            pack=self.pack,
        )

    @cached_property
    def _pair_content(self) -> prompts.Content:
        numbers = self.candidates.initial_view(self.config.initial_frames_per_video)
        return prompts.pair_content(
            self.sample.prompt,
            self.candidates,
            [ImageReference(number, self.config.initial_max_pixels) for number in numbers],
            label_frames=self.config.label_frames,
            pack=self.pack,
        )

    def _reply_content(self, reply: Reply) -> prompts.Content:
        thought = reply.thought if self.config.keep_native_thought else ""
        return [{"type": "text", "text": thought + reply.text}]

    def _show_outcome(self, index: int, is_visible: bool) -> prompts.Content:
        """Render the answer to call `index` once, as it stands in view and after it left."""
        key = (index, is_visible)
        if key not in self._shown:
            self._shown[key] = self._outcome_content(index, is_visible)
        return self._shown[key]

    def _outcome_content(self, index: int, is_visible: bool) -> prompts.Content:
        """Render the answer to call `index`: frames, a fault, or the line that remains after
        eviction."""
        outcome, calls = self._records[index].outcome, self._records[index].turn.tool_calls
        assert outcome is not None, "only the last turn of an episode makes no call"
        if outcome.images and not is_visible:
            text = prompts.evicted_text(outcome.frame_numbers, self.pack)
            return [{"type": "text", "text": text}]
        notes = [self.pack.say("second_call")] if len(calls) > 1 else []
        if outcome.repeated:
            notes.append(prompts.repeated_text(outcome.repeated, self.pack))
        calls_left = max(self.config.max_tool_calls - index - 1, 0)
        notes.append(prompts.calls_left_text(calls_left, self.pack))
        if outcome.fault is not None:
            return prompts.fault_reply(outcome.reason, notes, self.pack)
        return prompts.frames_reply(
            outcome.images,
            self.candidates,
            notes,
            label_frames=self.config.label_frames,
            pack=self.pack,
        )


def _count_new(outcome: ToolOutcome | None, in_view: Collection[Any]) -> int:
    """Count the images that a call brought and that were not in view."""
    if outcome is None:
        return 0
    return sum((image.number, image.region) not in in_view for image in outcome.images)


def images_of(messages: Iterable[Message]) -> list[ImageReference]:
    """Return the image references of a context, in the order in which the model sees them."""
    return [
        ImageReference.from_item(item)
        for message in messages
        for item in message["content"]
        if item["type"] == "image"
    ]


def _message(role: str, content: prompts.Content) -> Message:
    return {"role": role, "content": content}
