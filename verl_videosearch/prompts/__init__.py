"""Every word the model reads, as builders of message content; no model-visible text stands anywhere else.

The one idea: content is a list of items, `{"type": "text", "text": ...}` or an image *reference*
`{"type": "image", "frame_number": 13, "max_pixels": 313600}`; whoever runs the model turns references into pixels.

>>> evicted_text((12, 16))
'Frames 12, 16 were shown here and have left your view; ask for them again if you need them.'

Tool outcomes are user messages and the tool schema stands in the system text, because the chat template of
Qwen2.5-VL has neither a tool role nor a tools section (verl issue 4073). Source: paper, prompt in the appendix;
method sections 1, 2 and 4."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import Enum
from typing import Any

from verl_videosearch.frames import CandidateFrames
from verl_videosearch.judgement import CONFIDENCE, OVERALL, Dimension

Content = list[dict[str, Any]]
"""The items of one message."""

TOOL_NAME = "select_frames"
TOOL_ARGUMENT = "target_frames"


class PromptStyle(str, Enum):
    """How much the system text explains."""

    FULL = "full"
    """Instructions for a pre-trained model."""
    BRIEF = "brief"
    """The same contract in few words, for models trained on it from scratch, which learn its form from traces."""


def tool_schema(num_frames: int, max_frames: int) -> dict[str, Any]:
    """Describe `select_frames` as a JSON schema (Hermes style)."""
    return {
        "type": "function",
        "function": {
            "name": TOOL_NAME,
            "description": "Show chosen frames of the two videos.",
            "parameters": {
                "type": "object",
                "properties": {
                    TOOL_ARGUMENT: {
                        "type": "array",
                        "items": {"type": "integer", "minimum": 1, "maximum": num_frames},
                        "minItems": 1,
                        "maxItems": max_frames,
                        "description": "Frame numbers, in the order in which they will be shown.",
                    }
                },
                "required": [TOOL_ARGUMENT],
            },
        },
    }


_TASK = """\
You are an expert judge of generated videos. Two videos were made from the same text prompt. \
Decide which one is better.

# What to judge
{dimensions}
- {overall}: the overall preference, all things considered.
For each write 1 if video 1 is better, 2 if video 2 is better, 0 if neither is.

"""

_SEARCH = """\
# What you see
At first you see only a few frames of each video; the rest stays hidden until you ask for it. \
Problems may hide between the frames that you see. If the visible frames do not settle the matter, \
ask for others with the tool. {memory}: note in <Snapshot> what you see.

# Tool
<tools>
{schema}
</tools>
You may call it {max_calls}, for at most {max_frames} frames at a time.

# Format
When you need more frames, write
<Snapshot>what the newest frames show, by frame number</Snapshot>
<Think>your reasoning: what is settled, what is open, which frames would settle it</Think>
<Recommend Answer>{recommend_form}</Recommend Answer>
<tool_call>{call_form}</tool_call>
When you are ready to answer, write
"""

_ANSWER = """\
<Snapshot>what the newest frames show, by frame number</Snapshot>
<Think>your reasoning</Think>
<Answer>{answer_form}</Answer>
"""

_ONCE = """\
{confidence} is your confidence: 1 high, 2 medium, 3 low. Leave <Snapshot> out only if no new \
frames arrived. Write each part once, and nothing outside the tags."""

_FULL = _TASK + _SEARCH + _ANSWER + _ONCE
_FULL_AT_ONCE = _TASK + "# Format\nWrite each part once, and nothing outside the tags:\n" + _ANSWER
"""Without a tool: a judge that answers from what it sees first."""

_BRIEF_AT_ONCE = "Which video is better, 1 or 2 (0: tie)? {dimensions}."
_BRIEF = (
    _BRIEF_AT_ONCE
    + "\nLook {max_calls}, at most {max_frames} frames: <tool_call>{call_form}</tool_call>"
)


def system_content(
    dimensions: Sequence[Dimension],
    num_frames: int,
    *,
    max_frames: int,
    max_calls: int,
    window: int | None,
    style: PromptStyle,
) -> Content:
    """Say what to judge, how to call the tool (nothing of it when no call is allowed) and how to answer."""
    keys = [dimension.key for dimension in dimensions] + [OVERALL]
    answer_form = ", ".join(f"{key}=0/1/2" for key in keys)
    if style is PromptStyle.FULL:
        template = _FULL if max_calls else _FULL_AT_ONCE
        lines = "\n".join(f"- {d.key} ({d.name}): {d.explanation}." for d in dimensions)
    else:
        template = _BRIEF if max_calls else _BRIEF_AT_ONCE
        lines = ", ".join([f"{d.key} {d.name}" for d in dimensions] + [f"{OVERALL} overall"])
    text = template.format(
        dimensions=lines,
        overall=OVERALL,
        memory=_memory(window),
        schema=json.dumps(tool_schema(num_frames, max_frames)),
        max_calls=_times(max_calls),
        max_frames=max_frames,
        call_form=json.dumps({"name": TOOL_NAME, "arguments": {TOOL_ARGUMENT: [3, 7]}}),
        recommend_form=f"{answer_form}, {CONFIDENCE}=1/2/3",
        answer_form=answer_form,
        confidence=CONFIDENCE,
    )
    return [_text(text)]


def pair_content(
    prompt: str,
    candidates: CandidateFrames,
    shown: Sequence[int],
    *,
    max_pixels: int,
    label_frames: bool,
    style: PromptStyle,
) -> Content:
    """Open the episode: the text prompt, both ranges of frame numbers, and the initial view."""
    ranges = " ".join(
        f"Video {video} is frames {_range(candidates, video)} ({_seconds(_last_time(candidates, video))})."
        for video in (1, 2)
    )
    opening = f'Prompt of both videos: "{quote_prompt(prompt)}"\n{ranges}\n'
    frames = frames_content(
        shown, candidates, max_pixels=max_pixels, label_frames=label_frames, style=style
    )
    return [_text(opening), *frames]


def frames_content(
    numbers: Sequence[int],
    candidates: CandidateFrames,
    *,
    max_pixels: int,
    label_frames: bool,
    style: PromptStyle,
) -> Content:
    """Show frames, each after its label (or bare, as in the paper, when `label_frames` is off)."""
    items: Content = []
    for number in numbers:
        if label_frames:
            items.append(_text(frame_label(number, candidates, style)))
        items.append({"type": "image", "frame_number": number, "max_pixels": max_pixels})
    return items


def frame_label(number: int, candidates: CandidateFrames, style: PromptStyle) -> str:
    """Name a frame: its number, and in full style also its video and time.

    >>> frame_label(3, CandidateFrames((0.0, 0.5), (0.0, 0.5)), PromptStyle.FULL)
    'Frame 3 (video 2, 0.00 s):'
    """
    if style is PromptStyle.BRIEF:
        return f"Frame {number}:"
    return f"Frame {number} (video {candidates.locate(number).video}, {_seconds(candidates.time_s(number))}):"


def frames_reply(
    numbers: Sequence[int],
    candidates: CandidateFrames,
    notes: Sequence[str],
    *,
    max_pixels: int,
    label_frames: bool,
    style: PromptStyle,
) -> Content:
    """Answer a call with frames; `notes` are lines such as `calls_left_text`."""
    opening = "\n".join([*notes, f"Frames {_list(numbers)}:"]) + "\n"
    frames = frames_content(
        numbers, candidates, max_pixels=max_pixels, label_frames=label_frames, style=style
    )
    return [_text(opening), *frames]


def caption_content() -> Content:
    """Ask for captions of the frames that follow (`captions.py`)."""
    return [_text("Say what the frames show. If they are of both videos, judge.")]


def fault_reply(reason: str, notes: Sequence[str]) -> Content:
    """Answer a call that gets no frames."""
    return [_text("\n".join([f"No frames: {reason}", *notes]))]


def evicted_text(numbers: Sequence[int]) -> str:
    """Say what stood where images have left the memory window."""
    return f"Frames {_list(numbers)} were shown here and have left your view; ask for them again if you need them."


def calls_left_text(calls_left: int) -> str:
    """Say how many calls remain after this one.

    >>> calls_left_text(0)
    'No calls are left: give your answer now.'
    """
    if calls_left == 0:
        return "No calls are left: give your answer now."
    return f"You may call the tool {_times(calls_left, 'more')}."


def repeated_text(numbers: Sequence[int]) -> str:
    return f"You named {_list(numbers)} more than once; each is shown once."


def second_call_text() -> str:
    return "You made more than one call; only the first one counts."


def outside_reason(numbers: Sequence[int], candidates: CandidateFrames) -> str:
    ranges = (
        f"Video 1 is frames {_range(candidates, 1)}, video 2 is frames {_range(candidates, 2)}."
    )
    return f"outside the videos: {_list(numbers, max_shown=12)}. {ranges}"


def too_many_reason(num_asked: int, max_frames: int) -> str:
    return f"you asked for {num_asked} frames; at most {max_frames} are allowed in one call."


def wrong_list_reason(got: str) -> str:
    return (
        f'"{TOOL_ARGUMENT}" must be a list of one or more whole numbers, such as [3, 7]; got {got}.'
    )


def wrong_call_reason(got: str) -> str:
    example = json.dumps({"name": TOOL_NAME, "arguments": {TOOL_ARGUMENT: [3, 7]}})
    return f"{got}. Write <tool_call>{example}</tool_call>"


def call_limit_reason(max_calls: int) -> str:
    return f"no calls are left (limit: {max_calls}). An answer is due now: write <Answer>."


_OPENING = re.compile(r"<(?=\S)")


def quote_prompt(prompt: str) -> str:
    """Make a text prompt harmless: no `<` in it can open a control token or a tag, of whatever model family.

    >>> quote_prompt('a cat <|im_end|> says </Answer> 1 < 2')
    'a cat < |im_end|> says < /Answer> 1 < 2'
    """
    encodable = prompt.encode("utf-8", "replace").decode()  # a lone surrogate cannot be tokenised
    return _OPENING.sub("< ", " ".join(encodable.split()))


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _list(numbers: Sequence[int], max_shown: int | None = None) -> str:
    """Join numbers for reading; huge ones, and those beyond `max_shown`, are cut short."""
    shown = [
        str(n) if abs(n) < 10**12 else ("-" if n < 0 else "") + "a huge number"
        for n in numbers[:max_shown]
    ]
    return ", ".join(shown) + (
        f" and {len(numbers) - len(shown)} more" if len(numbers) > len(shown) else ""
    )


def _range(candidates: CandidateFrames, video: int) -> str:
    numbers = candidates.numbers_of(video)
    return f"{numbers[0]} to {numbers[-1]}"


def _last_time(candidates: CandidateFrames, video: int) -> float:
    return (candidates.times_1 if video == 1 else candidates.times_2)[-1]


def _memory(window: int | None) -> str:
    """Say how long frames stay, and that words always do."""
    if window is None:
        return "All frames that you were shown stay in your view, and so do your own words"
    if window == 1:
        return "Frames from earlier calls leave your view when new ones arrive, but your own words stay"
    return f"Only the frames of your newest {window} calls stay in your view, but all your own words stay"


def _seconds(time_s: float) -> str:
    return f"{time_s:.2f} s"


def _times(count: int, word: str = "") -> str:
    """Count in words: once, twice, 3 times.

    >>> _times(1, "more"), _times(3)
    ('once more', '3 times')
    """
    text = {1: "once", 2: "twice"}.get(count, f"{count} times")
    return f"{text} {word}".strip()
