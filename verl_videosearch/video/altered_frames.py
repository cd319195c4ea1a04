"""Show a judge other pixels than the truth: doubled frames, and what a probe puts in the place of
asked frames.

The one idea: only pixels change. Numbers, labels and all text stay as they are, and the initial
view stays true; so whatever changes in the verdict comes from the frames that the calls brought
back.

| replacement | a call for frames gets |
|---|---|
| `same` | what it asked for: the noise floor of a server that is not deterministic |
| `random` | other frames of the same video, drawn by a seed |
| `blank` | grey |
| `other_video` | the frames at the same relative place of the other video |
| `reversed` | what it asked for, in reversed order under unchanged labels |

>>> black = np.zeros((2, 28, 28, 3), np.uint8)
>>> pair = PairFrames(CandidateFrames((0.0, 1.0), (0.0, 1.0)), black, black)
>>> AlteredPair.of(pair, Replacement.OTHER_VIDEO, seed="").shown_instead([1, 4])
[3, 2]
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from PIL import Image

from verl_videosearch.episode import Message, images_of
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.video.pair import FrameSource, PairFrames

_NUM_OPENING = 2  # system text and initial view; whatever follows with images answers a call
_GREY = (128, 128, 128)


class Replacement(str, Enum):
    """What a call gets in the place of the frames it asked for."""

    SAME = "same"
    RANDOM = "random"
    BLANK = "blank"
    OTHER_VIDEO = "other_video"
    REVERSED = "reversed"


@dataclass(frozen=True)
class AlteredPair(PairFrames):
    """A pair whose calls bring replaced frames."""

    replacement: Replacement = Replacement.SAME
    seed: str = ""
    """Of `random`; equal seeds replace a call's frames alike, also when it is rendered again."""

    @classmethod
    def of(cls, pair: PairFrames, replacement: Replacement, seed: str) -> AlteredPair:
        values = {name: getattr(pair, name) for name in PairFrames.__dataclass_fields__}
        return cls(**values, replacement=replacement, seed=seed)

    def images(self, messages: list[Message]) -> list[Image.Image]:
        """Resolve a context: the initial view truly, each call's frames by the replacement."""
        images = super().images(messages[:_NUM_OPENING])
        for message in messages[_NUM_OPENING:]:
            items = images_of([message])
            shown = self.shown_instead([item["frame_number"] for item in items])
            for item, number in zip(items, shown, strict=True):
                image = self.image(number, item["max_pixels"])
                is_blank = self.replacement is Replacement.BLANK
                images.append(Image.new("RGB", image.size, _GREY) if is_blank else image)
        return images

    def shown_instead(self, asked: Sequence[int]) -> list[int]:
        """Return the numbers of the frames that are shown, one for each that was asked for."""
        if self.replacement is Replacement.REVERSED:
            return list(reversed(asked))
        if self.replacement is Replacement.RANDOM:
            return self._draw(asked)
        if self.replacement is Replacement.OTHER_VIDEO:
            return [self._twin(number) for number in asked]
        return list(asked)

    def _draw(self, asked: Sequence[int]) -> list[int]:
        """Draw frames of the same videos that were not asked for; with none left, any."""
        rng, drawn = random.Random(f"{self.seed} {list(asked)}"), []
        for number in asked:
            own = self.candidates.numbers_of(self.candidates.locate(number).video)
            free = [each for each in own if each not in asked and each not in drawn]
            drawn.append(rng.choice(free or own))
        return drawn

    def _twin(self, number: int) -> int:
        location = self.candidates.locate(number)
        own, other = (
            self.candidates.numbers_of(video) for video in (location.video, 3 - location.video)
        )
        return other[location.index * len(other) // len(own)]


@dataclass(frozen=True)
class DoubledFrames:
    """Each frame of a video twice, without a copy of the pixels."""

    source: FrameSource

    def frame(self, index: int, max_pixels: int | None) -> np.ndarray:
        """Return one candidate, uint8 (H, W, 3)."""
        return self.source.frame(index // 2, max_pixels)

    def size_of(self, max_pixels: int | None) -> tuple[int, int]:
        """Return the (height, width) of its frames under a pixel budget."""
        return self.source.size_of(max_pixels)


def double_frames(pair: PairFrames) -> PairFrames:
    """Return the pair with every candidate frame twice in a row: nothing new to see, twice as many
    numbers.

    >>> black = np.zeros((2, 28, 28, 3), np.uint8)
    >>> double_frames(PairFrames(CandidateFrames((0.0, 1.0), (0.0, 1.0)), black, black)).candidates.times_1
    (0.0, 0.0, 1.0, 1.0)
    """
    times = [
        tuple(time for time in own for _ in (0, 1))
        for own in (pair.candidates.times_1, pair.candidates.times_2)
    ]
    return replace(
        pair,
        candidates=CandidateFrames(*times),
        video_1=DoubledFrames(pair.video_1),
        video_2=DoubledFrames(pair.video_2),
    )
