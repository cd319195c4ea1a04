"""select_frames: check a call and say what the model gets for it.

The one idea: the tool is a pure function of its arguments - no randomness, no repair. A model's
mistake is data: a typed `CallFault` answered with text; it never raises.

>>> pair = CandidateFrames(times_1=(0.0,) * 48, times_2=(0.0,) * 48)
>>> call_tool('{"name": "select_frames", "arguments": {"target_frames": [12, 60, 12]}}', pair, max_frames=8)
ToolOutcome(frame_numbers=(12, 60), fault=None, reason='', repeated=(12,))
>>> call_tool('{"name": "select_frames", "arguments": {"target_frames": [0, 97]}}', pair, max_frames=8).fault
<CallFault.OUT_OF_RANGE: 'out_of_range'>

Source: paper section 3.1; the table in method section 2. Pixels are looked up later, by number.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

from verl_videosearch import prompts
from verl_videosearch.frames import CandidateFrames, drop_repeats


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
class ToolOutcome:
    """What one call brought."""

    frame_numbers: tuple[int, ...] = ()
    """Frames to show, in the order asked; empty after a fault."""
    fault: CallFault | None = None
    reason: str = ""
    """The fault in words for the model."""
    repeated: tuple[int, ...] = ()
    """Numbers that were named more than once."""


def call_tool(call_text: str, candidates: CandidateFrames, max_frames: int) -> ToolOutcome:
    """Check the content of one `<tool_call>` and return the frames it gets."""
    arguments = _read_arguments(call_text)
    if isinstance(arguments, ToolOutcome):
        return arguments
    numbers = _read_numbers(arguments)
    if isinstance(numbers, ToolOutcome):
        return numbers
    unique, repeated = drop_repeats(numbers)
    outside = [number for number in unique if not 1 <= number <= len(candidates)]
    if outside:
        return _fault(CallFault.OUT_OF_RANGE, prompts.outside_reason(outside, candidates))
    if len(unique) > max_frames:
        return _fault(CallFault.TOO_MANY, prompts.too_many_reason(len(unique), max_frames))
    return ToolOutcome(frame_numbers=unique, repeated=repeated)


def refuse_unclosed() -> ToolOutcome:
    """Answer a `<tool_call>` that was never closed."""
    return _fault(
        CallFault.UNCLOSED_TAG,
        prompts.wrong_call_reason("the call was not closed with </tool_call>"),
    )


def refuse_over_limit(max_calls: int) -> ToolOutcome:
    """Answer a call after the call limit."""
    return _fault(CallFault.CALL_LIMIT, prompts.call_limit_reason(max_calls))


def _fault(fault: CallFault, reason: str) -> ToolOutcome:
    return ToolOutcome(fault=fault, reason=reason)


def _read_arguments(call_text: str) -> dict[str, Any] | ToolOutcome:
    """Read the JSON envelope of a call."""
    try:
        call = json.loads(call_text)
    except (ValueError, RecursionError):  # also integers beyond Python's digit limit
        return _fault(CallFault.BAD_JSON, prompts.wrong_call_reason("the call is not valid JSON"))
    if not isinstance(call, dict):
        return _fault(
            CallFault.NOT_AN_OBJECT, prompts.wrong_call_reason("the call is not a JSON object")
        )
    name, arguments = call.get("name"), call.get("arguments")
    if not isinstance(name, str) or not name:
        return _fault(
            CallFault.NO_TOOL_NAME, prompts.wrong_call_reason("the call has no tool name")
        )
    if name != prompts.TOOL_NAME:
        return _fault(
            CallFault.UNKNOWN_TOOL, prompts.wrong_call_reason(f"there is no tool {_show(name)}")
        )
    if not isinstance(arguments, dict) or prompts.TOOL_ARGUMENT not in arguments:
        reason = f'the call has no arguments with "{prompts.TOOL_ARGUMENT}"'
        return _fault(CallFault.NO_ARGUMENTS, prompts.wrong_call_reason(reason))
    unknown = [key for key in arguments if key != prompts.TOOL_ARGUMENT]
    if unknown:
        return _fault(
            CallFault.UNKNOWN_ARGUMENT,
            prompts.wrong_call_reason(f"unknown argument {_show(unknown[0])}"),
        )
    return arguments


def _read_numbers(arguments: dict[str, Any]) -> list[int] | ToolOutcome:
    """Read the list of frame numbers; whole numbers only, so `"3"`, `3.0` and `true` are
    refused."""
    numbers = arguments[prompts.TOOL_ARGUMENT]
    if not isinstance(numbers, list):
        return _fault(CallFault.NOT_A_LIST, prompts.wrong_list_reason(_show(numbers)))
    if not numbers:
        return _fault(CallFault.EMPTY_LIST, prompts.wrong_list_reason("an empty list"))
    wrong = [
        number for number in numbers if isinstance(number, bool) or not isinstance(number, int)
    ]
    if wrong:
        return _fault(CallFault.NOT_INTEGERS, prompts.wrong_list_reason(_show(wrong[0])))
    return numbers


def _show(value: Any, max_chars: int = 40) -> str:
    """Quote what the model wrote as plain ASCII, cut short, its markup made harmless."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    text = prompts.quote_prompt(json.dumps(value))
    return text if len(text) <= max_chars else text[:max_chars] + "..."
