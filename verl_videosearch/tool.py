"""Tools: check a call and say what the model gets for it.

The one idea: a tool is a pure function of its arguments - no randomness, no repair. A model's
mistake is data: a typed fault answered with text; it never raises.

>>> pair = CandidateFrames(times_1=(0.0,) * 48, times_2=(0.0,) * 48)
>>> context = CallContext(pair, max_frames=8, max_pixels=784)
>>> call = '{"name": "select_frames", "arguments": {"target_frames": [12, 60, 12]}}'
>>> outcome = call_tool(call, context)
>>> outcome.frame_numbers, outcome.fault, outcome.repeated
((12, 60), None, (12,))
>>> call_tool('{"name": "select_frames", "arguments": {"target_frames": [0, 97]}}', context).fault
<CallFault.OUT_OF_RANGE: 'out_of_range'>

`select_frames` is built in (paper section 3.1; the table in method section 2). Another tool is a
subclass of `Tool` in a file of its own, named in `videosearch.episode.tools` (docs/add_a_tool.md).
Pixels are looked up later, by the references of the outcome."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any, ClassVar

from verl_videosearch import prompts
from verl_videosearch.config import import_object
from verl_videosearch.frames import CandidateFrames, ImageReference, drop_repeats
from verl_videosearch.prompts import PromptPack, ToolWords, load_pack


class CallFault(str, Enum):
    """Why a call got no frames; each is counted under its own name."""

    UNCLOSED_TAG = "unclosed_tag"
    BAD_JSON = "bad_json"
    NOT_AN_OBJECT = "not_an_object"
    NO_TOOL_NAME = "no_tool_name"
    UNKNOWN_TOOL = "unknown_tool"
    NO_ARGUMENTS = "no_arguments"
    UNKNOWN_ARGUMENT = "unknown_argument"
    NOT_A_LIST = "not_a_list"
    EMPTY_LIST = "empty_list"
    NOT_INTEGERS = "not_integers"
    OUT_OF_RANGE = "out_of_range"
    TOO_MANY = "too_many"
    CALL_LIMIT = "call_limit"


@dataclass(frozen=True)
class CallContext:
    """What a tool may know when it is called."""

    candidates: CandidateFrames
    max_frames: int
    """Frames that one call may bring."""
    max_pixels: int
    """Pixel budget of each image that a call brings."""
    pack: PromptPack = field(default_factory=lambda: load_pack("full"))
    """The words of its answers."""


@dataclass(frozen=True)
class ToolOutcome:
    """What one call brought."""

    images: tuple[ImageReference, ...] = ()
    """Images to show, in order; empty after a fault."""
    fault: Enum | None = None
    """A `CallFault`, or one of the tool's own faults."""
    reason: str = ""
    """The fault in words for the model."""
    repeated: tuple[int, ...] = ()
    """Frame numbers that were named more than once."""
    tool: str = ""
    """Name of the tool that was called; empty when the call names none that is known."""

    @property
    def frame_numbers(self) -> tuple[int, ...]:
        """Frames that are shown, each once, in the order asked."""
        return tuple(dict.fromkeys(image.number for image in self.images))


class Tool(ABC):
    """Something that a model may call; register a subclass by naming it in the settings."""

    name: ClassVar[str]
    """As the model calls it."""
    example: ClassVar[Mapping[str, Any]]
    """Arguments of the example call that the prompt shows."""
    faults: ClassVar[type[Enum] | None] = None
    """The tool's own faults, beyond `CallFault`; each is counted as `invalid_NAME_FAULT`."""

    @abstractmethod
    def schema(self, context: CallContext) -> dict[str, Any]:
        """Describe the tool and its arguments to the model (`prompts.describe_tool`)."""

    @abstractmethod
    def check(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutcome:
        """Say what a call gets; never raises, for any arguments that JSON can hold. At most
        `context.max_frames` images, each within `context.max_pixels`."""


class SelectFrames(Tool):
    """Show chosen frames of the two videos."""

    name = prompts.TOOL_NAME
    example = {prompts.TOOL_ARGUMENT: [3, 7]}

    def schema(self, context: CallContext) -> dict[str, Any]:
        num_frames = len(context.candidates)
        return prompts.describe_select_frames(num_frames, context.max_frames, context.pack).schema

    def check(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutcome:
        unknown = [key for key in arguments if key != prompts.TOOL_ARGUMENT]
        if prompts.TOOL_ARGUMENT not in arguments:
            problem = context.pack.say("no_arguments", argument=prompts.TOOL_ARGUMENT)
            return refuse(CallFault.NO_ARGUMENTS, problem, self, context)
        if unknown:
            problem = context.pack.say("unknown_argument", name=quote_value(unknown[0], context))
            return refuse(CallFault.UNKNOWN_ARGUMENT, problem, self, context)
        numbers = _read_numbers(arguments[prompts.TOOL_ARGUMENT], context)
        if isinstance(numbers, ToolOutcome):
            return numbers
        return _select(numbers, context)


SELECT_FRAMES = SelectFrames()


def _select(numbers: Sequence[int], context: CallContext) -> ToolOutcome:
    """Return the frames of a list of numbers, or say which limit it breaks."""
    unique, repeated = drop_repeats(numbers)
    outside = [number for number in unique if not 1 <= number <= len(context.candidates)]
    if outside:
        reason = prompts.outside_reason(outside, context.candidates, context.pack)
        return ToolOutcome(fault=CallFault.OUT_OF_RANGE, reason=reason)
    if len(unique) > context.max_frames:
        limits = {"count": len(unique), "max_frames": context.max_frames}
        return ToolOutcome(fault=CallFault.TOO_MANY, reason=context.pack.say("too_many", **limits))
    images = tuple(ImageReference(number, context.max_pixels) for number in unique)
    return ToolOutcome(images, repeated=repeated)


def _read_numbers(numbers: Any, context: CallContext) -> list[int] | ToolOutcome:
    """Read the list of frame numbers; whole numbers only, so `"3"`, `3.0` and `true` are
    refused."""
    if not isinstance(numbers, list):
        return _refuse_list(CallFault.NOT_A_LIST, quote_value(numbers, context), context)
    if not numbers:
        return _refuse_list(CallFault.EMPTY_LIST, context.pack.say("empty_list"), context)
    wrong = [number for number in numbers if type(number) is not int]
    if wrong:
        return _refuse_list(CallFault.NOT_INTEGERS, quote_value(wrong[0], context), context)
    return numbers


def _refuse_list(fault: CallFault, got: str, context: CallContext) -> ToolOutcome:
    reason = context.pack.say("wrong_list", argument=prompts.TOOL_ARGUMENT, got=got)
    return ToolOutcome(fault=fault, reason=reason)


def describe_tools(tools: Iterable[Tool], context: CallContext) -> list[ToolWords]:
    """Return what the system text says of each tool."""
    return [ToolWords(tool.schema(context), dict(tool.example)) for tool in tools]


def call_tool(
    call_text: str, context: CallContext, tools: Sequence[Tool] = (SELECT_FRAMES,)
) -> ToolOutcome:
    """Check the content of one `<tool_call>` and return what it gets."""
    first = tools[0]
    try:
        call = json.loads(call_text)
    except (ValueError, RecursionError):  # also integers beyond Python's digit limit
        return refuse(CallFault.BAD_JSON, context.pack.say("bad_json"), first, context)
    if not isinstance(call, dict):
        return refuse(CallFault.NOT_AN_OBJECT, context.pack.say("not_an_object"), first, context)
    name, arguments = call.get("name"), call.get("arguments")
    if not isinstance(name, str) or not name:
        return refuse(CallFault.NO_TOOL_NAME, context.pack.say("no_tool_name"), first, context)
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None:
        problem = context.pack.say("unknown_tool", name=quote_value(name, context))
        return refuse(CallFault.UNKNOWN_TOOL, problem, first, context)
    if not isinstance(arguments, dict):
        argument = next(iter(tool.example))
        problem = context.pack.say("no_arguments", argument=argument)
        return _name(refuse(CallFault.NO_ARGUMENTS, problem, tool, context), tool)
    return _name(tool.check(arguments, context), tool)


def _name(outcome: ToolOutcome, tool: Tool) -> ToolOutcome:
    """Write down whose outcome it is."""
    return ToolOutcome(
        outcome.images, outcome.fault, outcome.reason, outcome.repeated, tool=tool.name
    )


def refuse(fault: Enum, problem: str, tool: Tool, context: CallContext) -> ToolOutcome:
    """Answer a wrong call with what is wrong and the form of a right one."""
    call_form = ToolWords(tool.schema(context), dict(tool.example)).call_form
    reason = context.pack.say("wrong_call", problem=problem, call_form=call_form)
    return ToolOutcome(fault=fault, reason=reason)


def refuse_unclosed(context: CallContext, tools: Sequence[Tool] = (SELECT_FRAMES,)) -> ToolOutcome:
    """Answer a `<tool_call>` that was never closed."""
    problem = context.pack.say("unclosed_call")
    return refuse(CallFault.UNCLOSED_TAG, problem, tools[0], context)


def refuse_over_limit(max_calls: int, context: CallContext) -> ToolOutcome:
    """Answer a call after the call limit."""
    reason = context.pack.say("call_limit", max_calls=max_calls)
    return ToolOutcome(fault=CallFault.CALL_LIMIT, reason=reason)


@lru_cache(maxsize=16)
def load_tools(names: tuple[str, ...]) -> tuple[Tool, ...]:
    """Return the tools of an episode: `select_frames`, or `pkg://module:Class` of a user's own."""
    tools = tuple(map(_load_tool, names))
    called = [tool.name for tool in tools]
    if not tools or len(set(called)) < len(called):
        raise ValueError(f"tools must be one or more of different names, got {called}")
    return tools


def _load_tool(name: str) -> Tool:
    if name == SELECT_FRAMES.name:
        return SELECT_FRAMES
    found = import_object(name)
    if not (isinstance(found, type) and issubclass(found, Tool)):
        raise ValueError(f"{name!r} is no class of tool.Tool, got {found!r}")
    return found()


def quote_value(value: Any, context: CallContext, max_chars: int = 40) -> str:
    """Quote what the model wrote as plain ASCII, cut short, its markup made harmless."""
    if isinstance(value, list | dict):
        return context.pack.say("a_list" if isinstance(value, list) else "an_object")
    text = prompts.quote_prompt(json.dumps(value))
    return text if len(text) <= max_chars else text[:max_chars] + "..."
