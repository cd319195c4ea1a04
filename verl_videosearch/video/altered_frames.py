"""Show a judge other pixels than the truth: frames twice, and what a probe puts in their place.

The one idea: only pixels change; numbers, labels and text stay as they are. Whatever changes in the
verdict comes from the frames that were altered.

| replacement | shown instead | what it measures |
|---|---|---|
| `same` | what was asked for | the noise of a server that is not deterministic |
| `random` | other frames of the same video, drawn by a seed | trust in the frames returned |
| `blank` | grey | the same |
| `other_video` | the frames at the same relative place of the other video | the same |
| `reversed` | what was asked for, reversed within each video | does it read the labels? |
| `first_blank` | grey in the first view | does it look at the first view at all? |
| `first_swapped` | the other video's frames in the first view | does it judge what it sees? |

Two more answer the question whether a search was *needed*; they change no pixel but the answer to
the call (`evaluation.probes`): `refused` and `in_view`. So does `other_prompt`, another pair's
prompt.

>>> black = np.zeros((2, 28, 28, 3), np.uint8)
>>> pair = PairFrames(CandidateFrames((0.0, 1.0), (0.0, 1.0)), black, black)
>>> AlteredPair.of(pair, Replacement.OTHER_VIDEO, seed="").shown_instead([1, 4])
[3, 2]
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

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
    REFUSED = "refused"
    """No frames; the model is told to answer now."""
    IN_VIEW = "in_view"
    """Frames of the first view, under their own numbers: nothing new."""
    RANDOM = "random"
    BLANK = "blank"
    OTHER_VIDEO = "other_video"
    REVERSED = "reversed"
    FIRST_BLANK = "first_blank"
    FIRST_SWAPPED = "first_swapped"
    OTHER_PROMPT = "other_prompt"
    """The prompt of another pair."""


NEED = (Replacement.REFUSED, Replacement.IN_VIEW)
"""Nothing new comes back: what is lost then needed the search."""
TRUST = (Replacement.RANDOM, Replacement.BLANK, Replacement.OTHER_VIDEO, Replacement.REVERSED)
"""Something false comes back: what is lost then shows trust in what is returned, not need."""
READING = (Replacement.FIRST_BLANK, Replacement.FIRST_SWAPPED, Replacement.OTHER_PROMPT)
"""The opening is altered: a judge that reads and looks must change its mind."""


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
        """Resolve a context: the first view and each call's frames, truly or by the replacement."""
        if self.replacement in (Replacement.FIRST_BLANK, Replacement.FIRST_SWAPPED):
            opening, later = messages[:_NUM_OPENING], messages[_NUM_OPENING:]
            return [*self._show(images_of(opening)), *super().images(later)]
        images = super().images(messages[:_NUM_OPENING])
        for message in messages[_NUM_OPENING:]:
            images += self._show(images_of([message]))
        return images

    def _show(self, items: Sequence[Mapping[str, Any]]) -> list[Image.Image]:
        """Return the pictures of one message, altered."""
        is_blank = self.replacement in (Replacement.BLANK, Replacement.FIRST_BLANK)
        images = []
        shown = self.shown_instead([item["frame_number"] for item in items])
        for item, number in zip(items, shown, strict=True):
            image = self.image(number, item["max_pixels"])
            images.append(Image.new("RGB", image.size, _GREY) if is_blank else image)
        return images

    def shown_instead(self, asked: Sequence[int]) -> list[int]:
        """Return the numbers of the frames that are shown, one for each that was asked for."""
        if self.replacement is Replacement.REVERSED:
            return self._reverse(asked)
        if self.replacement is Replacement.RANDOM:
            return self._draw(asked)
        if self.replacement in (Replacement.OTHER_VIDEO, Replacement.FIRST_SWAPPED):
            return [self._twin(number) for number in asked]
        return list(asked)

    def _reverse(self, asked: Sequence[int]) -> list[int]:
        """Reverse the frames of each video among the places of that video."""
        videos = [self.candidates.locate(number).video for number in asked]
        own = {
            video: [n for n, v in zip(asked, videos, strict=True) if v == video] for video in (1, 2)
        }
        return [own[video].pop() for video in videos]

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
class RepeatedFrames:
    """The frames of a video with copies among them, without a copy of the pixels."""

    source: FrameSource
    indices: tuple[int, ...]
    """The candidate that stands at each place."""

    def frame(self, index: int, max_pixels: int | None) -> np.ndarray:
        """Return one candidate, uint8 (H, W, 3)."""
        return self.source.frame(self.indices[index], max_pixels)

    def size_of(self, max_pixels: int | None) -> tuple[int, int]:
        """Return the (height, width) of its frames under a pixel budget."""
        return self.source.size_of(max_pixels)


def double_frames(pair: PairFrames) -> PairFrames:
    """Return the pair with as many copies of frames as it has frames, at random places: nothing new
    to see, twice as many numbers (the paper's redundant set).

    A copy stands next to its frame and has its time. Which frames are copied, some several times,
    is drawn by the times of the video: the same in both orders of a pair.

    >>> black = np.zeros((4, 28, 28, 3), np.uint8)
    >>> times = (0.0, 1.0, 2.0, 3.0)
    >>> double_frames(PairFrames(CandidateFrames(times, times), black, black)).candidates.times_1
    (0.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0)
    """
    times, films = [], []
    both = (pair.candidates.times_1, pair.candidates.times_2)
    for own, film in zip(both, pair.sources, strict=True):
        copies = random.Random(f"copies {own}").choices(range(len(own)), k=len(own))
        indices = tuple(sorted([*range(len(own)), *copies]))
        times.append(tuple(own[index] for index in indices))
        films.append(RepeatedFrames(film, indices))
    return replace(pair, candidates=CandidateFrames(*times), video_1=films[0], video_2=films[1])
