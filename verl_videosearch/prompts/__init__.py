"""What the model reads, as builders of message content; the words themselves stand in packs
(`pack.py`, `packs/full.yaml`).

The one idea: content is a list of items, `{"type": "text", "text": ...}` or an image *reference*
(`ImageReference`); whoever runs the model turns references into pixels.

>>> evicted_text((12, 16), load_pack("full"))
'Frames 12, 16 were shown here and have left your view; ask for them again if you need them.'

Tool outcomes are user messages and the tool schema stands in the system text, because the chat
template of Qwen2.5-VL has neither a tool role nor a tools section (verl issue 4073). Source: paper,
prompt in the appendix; method sections 1, 2 and 4."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple

from verl_videosearch.frames import CandidateFrames, ImageReference
from verl_videosearch.judgement import CONFIDENCE, OVERALL, Dimension
from verl_videosearch.prompts.pack import BUILT_IN, PackReport, PromptPack, check_pack, load_pack

__all__ = ["BUILT_IN", "PackReport", "PromptPack", "check_pack", "load_pack"]

Content = list[dict[str, Any]]
"""The items of one message."""

TOOL_NAME = "select_frames"
TOOL_ARGUMENT = "target_frames"


class PromptStyle(str, Enum):
    """How much a pack explains; scripted replies are as terse as their pack."""

    FULL = "full"
    """Instructions for a pre-trained model."""
    BRIEF = "brief"
    """The same contract in few words, for models trained on it from scratch, which learn its form
    from traces."""


class ToolWords(NamedTuple):
    """What the system text says of one tool."""

    schema: dict[str, Any]
    """Name, description and arguments as a JSON schema (Hermes style)."""
    example: dict[str, Any]
    """The arguments of an example call."""

    @property
    def name(self) -> str:
        return self.schema["function"]["name"]

    @property
    def call_form(self) -> str:
        """The example call, as it stands between the tags."""
        return json.dumps({"name": self.name, "arguments": self.example})


def describe_select_frames(num_frames: int, max_frames: int, pack: PromptPack) -> ToolWords:
    """Describe `select_frames`."""
    numbers = {
        "type": "array",
        "items": {"type": "integer", "minimum": 1, "maximum": num_frames},
        "minItems": 1,
        "maxItems": max_frames,
        "description": pack.say("argument_description"),
    }
    parameters = {
        "type": "object",
        "properties": {TOOL_ARGUMENT: numbers},
        "required": [TOOL_ARGUMENT],
    }
    return ToolWords(
        describe_tool(TOOL_NAME, pack.say("tool_description"), parameters), {TOOL_ARGUMENT: [3, 7]}
    )


def describe_tool(name: str, description: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Wrap a JSON schema of arguments as the schema of a tool."""
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def system_content(
    dimensions: Sequence[Dimension],
    tools: Sequence[ToolWords],
    *,
    max_frames: int,
    max_calls: int,
    window: int | None,
    pack: PromptPack,
) -> Content:
    """Say what to judge, how to call the tools (nothing of it when no call is allowed) and how to
    answer."""
    keys = [dimension.key for dimension in dimensions] + [OVERALL]
    answer_form = ", ".join(f"{key}=0/1/2" for key in keys)
    lines = [
        pack.say(
            "dimension_line",
            key=d.key,
            name=quote_prompt(d.name),
            explanation=quote_prompt(d.explanation),
        )
        for d in dimensions
    ]
    overall_line = pack.say("overall_line", overall=OVERALL)
    text = pack.say(
        "system" if max_calls else "system_at_once",
        dimensions=pack.say("dimension_joint").join([*lines, *[overall_line] * bool(overall_line)]),
        overall=OVERALL,
        memory=_describe_memory(window, pack),
        schema="\n".join(json.dumps(tool.schema) for tool in tools),
        max_calls=_times(max_calls, pack),
        max_frames=max_frames,
        call_form="</tool_call> or <tool_call>".join(tool.call_form for tool in tools),
        recommend_form=f"{answer_form}, {CONFIDENCE}=1/2/3",
        answer_form=answer_form,
        confidence=CONFIDENCE,
    )
    return [_text(text)]


def pair_content(
    prompt: str,
    candidates: CandidateFrames,
    shown: Sequence[ImageReference],
    *,
    label_frames: bool,
    pack: PromptPack,
) -> Content:
    """Open the episode: the text prompt, both ranges of frame numbers, and the initial view."""
    ranges = {}
    for video in (1, 2):
        numbers = candidates.numbers_of(video)
        ranges[f"range_{video}"] = pack.say(
            "video_range",
            video=video,
            first=numbers[0],
            last=numbers[-1],
            seconds=_seconds(candidates.time_s(numbers[-1])),
        )
    opening = pack.say("pair_opening", prompt=quote_prompt(prompt), **ranges)
    return [
        _text(opening),
        *frames_content(shown, candidates, label_frames=label_frames, pack=pack),
    ]


def frames_content(
    images: Sequence[ImageReference],
    candidates: CandidateFrames,
    *,
    label_frames: bool,
    pack: PromptPack,
) -> Content:
    """Show frames, each after its label (or bare, as in the paper, when `label_frames` is off)."""
    items: Content = []
    for image in images:
        if label_frames:
            items.append(_text(frame_label(image.number, candidates, pack)))
        items.append(image)
    return items


def frame_label(number: int, candidates: CandidateFrames, pack: PromptPack) -> str:
    """Name a frame: its number, and in full style also its video and time.

    >>> frame_label(3, CandidateFrames((0.0, 0.5), (0.0, 0.5)), load_pack("full"))
    'Frame 3 (video 2, 0.00 s):'
    """
    return pack.say(
        "frame_label",
        number=number,
        video=candidates.locate(number).video,
        time=_seconds(candidates.time_s(number)),
    )


def frames_reply(
    images: Sequence[ImageReference],
    candidates: CandidateFrames,
    notes: Sequence[str],
    *,
    label_frames: bool,
    pack: PromptPack,
) -> Content:
    """Answer a call with frames; `notes` are lines such as `calls_left_text`."""
    numbers = list(dict.fromkeys(image.number for image in images))
    lines = [*notes, pack.say("frames_opening", frames=list_numbers(numbers, pack))]
    frames = frames_content(images, candidates, label_frames=label_frames, pack=pack)
    return [_text("\n".join(lines) + "\n"), *frames]


def caption_content(pack: PromptPack) -> Content:
    """Ask for captions of the frames that follow (`captions.py`)."""
    return [_text(pack.say("caption_task"))]


def fault_reply(reason: str, notes: Sequence[str], pack: PromptPack) -> Content:
    """Answer a call that gets no frames."""
    return [_text("\n".join([pack.say("fault_opening", reason=reason), *notes]))]


def evicted_text(numbers: Sequence[int], pack: PromptPack) -> str:
    """Say what stood where images have left the memory window."""
    return pack.say("evicted", frames=list_numbers(numbers, pack))


def calls_left_text(calls_left: int, pack: PromptPack) -> str:
    """Say how many calls remain after this one.

    >>> calls_left_text(0, load_pack("full"))
    'No calls are left: give your answer now.'
    """
    if calls_left == 0:
        return pack.say("no_calls_left")
    times = pack.say("more", times=_times(calls_left, pack))
    return pack.say("calls_left", calls_left=times)


def repeated_text(numbers: Sequence[int], pack: PromptPack) -> str:
    return pack.say("repeated", frames=list_numbers(numbers, pack))


def outside_reason(numbers: Sequence[int], candidates: CandidateFrames, pack: PromptPack) -> str:
    """Say which numbers name no frame."""
    ranges = {}
    for video in (1, 2):
        own = candidates.numbers_of(video)
        ranges[f"range_{video}"] = f"{own[0]} to {own[-1]}"
    return pack.say("outside", frames=list_numbers(numbers, pack, max_shown=12), **ranges)


_OPENING = re.compile(r"<(?=\S)")


def quote_prompt(prompt: str) -> str:
    """Make a text prompt harmless: no `<` in it can open a control token or a tag, of whatever
    model family.

    >>> quote_prompt('a cat <|im_end|> says </Answer> 1 < 2')
    'a cat < |im_end|> says < /Answer> 1 < 2'
    """
    encodable = prompt.encode("utf-8", "replace").decode()  # a lone surrogate cannot be tokenised
    return _OPENING.sub("< ", " ".join(encodable.split()))


def list_numbers(numbers: Sequence[int], pack: PromptPack, max_shown: int | None = None) -> str:
    """Join numbers for reading; huge ones, and those beyond `max_shown`, are cut short."""
    shown = [
        str(n) if abs(n) < 10**12 else ("-" if n < 0 else "") + pack.say("huge_number")
        for n in numbers[:max_shown]
    ]
    listed = ", ".join(shown)
    num_left = len(numbers) - len(shown)
    return pack.say("and_more", shown=listed, count=num_left) if num_left else listed


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _describe_memory(window: int | None, pack: PromptPack) -> str:
    """Say how long frames stay, and that words always do."""
    if window is None:
        return pack.say("memory_all")
    return pack.say("memory_one" if window == 1 else "memory_many", window=window)


def _seconds(time_s: float) -> str:
    return f"{time_s:.2f} s"


def _times(count: int, pack: PromptPack) -> str:
    """Count in words: once, twice, 3 times.

    >>> _times(1, load_pack("full")), _times(3, load_pack("full"))
    ('once', '3 times')
    """
    entry = {1: "once", 2: "twice"}.get(count, "times")
    return pack.say(entry, count=count)
