"""A second tool: zoom into a part of one frame, cut out at the video's full resolution.

One file, and one line of settings:

    videosearch.episode.tools: [select_frames, pkg://examples.zoom_tool:ZoomTool]

>>> from verl_videosearch.frames import CandidateFrames
>>> from verl_videosearch.tool import call_tool
>>> context = CallContext(CandidateFrames((0.0,) * 8, (0.0,) * 8), max_frames=4, max_pixels=784)
>>> call = '{"name": "zoom", "arguments": {"frame": 9, "box": [0.5, 0, 1, 0.5]}}'
>>> call_tool(call, context, (ZoomTool(),)).images
({'type': 'image', 'frame_number': 9, 'max_pixels': 784, 'region': [0.5, 0.0, 1.0, 0.5]},)

A zoom is an outcome like any other: its image leaves the view with the memory window, a call counts
against the limit of calls, and each fault is counted (`invalid_zoom_bad_box`)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from verl_videosearch.frames import ImageReference, Region
from verl_videosearch.prompts import describe_tool
from verl_videosearch.tool import CallContext, Tool, ToolOutcome, refuse

MIN_SIDE = 0.05
"""Shortest side of a box, as a share of the frame's."""


class ZoomFault(str, Enum):
    """Why a zoom got no image."""

    BAD_ARGUMENTS = "bad_arguments"
    BAD_FRAME = "bad_frame"
    BAD_BOX = "bad_box"


class ZoomTool(Tool):
    """Show a part of one frame at full resolution."""

    name = "zoom"
    example = {"frame": 3, "box": [0.25, 0.25, 0.75, 0.75]}
    faults = ZoomFault

    def schema(self, context: CallContext) -> dict[str, Any]:
        share = {"type": "number", "minimum": 0, "maximum": 1}
        box = {"type": "array", "items": share, "minItems": 4, "maxItems": 4}
        frame = {"type": "integer", "minimum": 1, "maximum": len(context.candidates)}
        parameters = {
            "type": "object",
            "properties": {
                "frame": {**frame, "description": "Frame number."},
                "box": {**box, "description": "Left, top, right, bottom, from 0 to 1."},
            },
            "required": ["frame", "box"],
        }
        return describe_tool(self.name, "Show a part of a frame in full detail.", parameters)

    def check(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutcome:
        if set(arguments) != {"frame", "box"}:
            problem = 'zoom takes exactly "frame" and "box"'
            return refuse(ZoomFault.BAD_ARGUMENTS, problem, self, context)
        number, box = arguments["frame"], read_box(arguments["box"])
        if type(number) is not int or not 1 <= number <= len(context.candidates):
            problem = f'"frame" must be a frame number from 1 to {len(context.candidates)}'
            return refuse(ZoomFault.BAD_FRAME, problem, self, context)
        if box is None:
            problem = '"box" must be [left, top, right, bottom], numbers from 0 to 1, not too thin'
            return refuse(ZoomFault.BAD_BOX, problem, self, context)
        return ToolOutcome((ImageReference(number, context.max_pixels, box),))


def read_box(box: Any) -> Region | None:
    """Read a box; None unless it is four numbers that enclose a part of the frame.

    >>> read_box([0, 0, 1, 1]), read_box([0.5, 0, 0.5, 1]), read_box("all")
    ((0.0, 0.0, 1.0, 1.0), None, None)
    """
    if not isinstance(box, list) or len(box) != 4:
        return None
    if any(type(share) not in (int, float) or not 0 <= share <= 1 for share in box):
        return None
    left, top, right, bottom = map(float, box)
    if right - left < MIN_SIDE or bottom - top < MIN_SIDE:
        return None
    return left, top, right, bottom
