"""A tool that is called like `select_frames` and brings other frames of the same videos.

The one idea: the ablation "random frames" of the paper, as a tool. A tool is a pure function of its
arguments, so the frames are drawn by the numbers that are asked for.

>>> from verl_videosearch.frames import CandidateFrames
>>> from verl_videosearch.tool import CallContext
>>> context = CallContext(CandidateFrames((0.0,) * 8, (0.0,) * 8), max_frames=2, max_pixels=784)
>>> outcome = RandomFrames().check({"target_frames": [3, 11]}, context)
>>> [1 <= outcome.frame_numbers[0] <= 8 < outcome.frame_numbers[1] <= 16, len(outcome.images)]
[True, 2]
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from verl_videosearch.frames import CandidateFrames, ImageReference
from verl_videosearch.tool import CallContext, SelectFrames, ToolOutcome


class RandomFrames(SelectFrames):
    """Show other frames of the same videos than those that are asked for."""

    def check(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutcome:
        outcome = super().check(arguments, context)
        drawn: list[int] = []
        for number in outcome.frame_numbers:
            own = list_numbers(context.candidates, number)
            left = [n for n in own if n not in (*drawn, *outcome.frame_numbers)] or own
            drawn.append(random.Random(f"{outcome.frame_numbers} {number}").choice(left))
        images = tuple(ImageReference(number, context.max_pixels) for number in drawn)
        return replace(outcome, images=images)


def list_numbers(candidates: CandidateFrames, number: int) -> list[int]:
    """Return the frame numbers of the video that a frame belongs to."""
    video = candidates.locate(number).video
    return [n for n in range(1, len(candidates) + 1) if candidates.locate(n).video == video]
