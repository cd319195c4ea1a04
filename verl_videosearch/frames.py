"""Frame numbers, frame indices and the initial view: pure maths on the frames of one pair of
videos.

The one idea: both videos' candidate frames stand in one list, and the model names them by *frame
number* (1-based) while a decoder takes a *frame index* (0-based, inside one video). Only this
module converts between the two::

    video 1 (3 candidates)      video 2 (5 candidates)
    number   1   2   3          4   5   6   7   8
    index    0   1   2          0   1   2   3   4

>>> pair = CandidateFrames(times_1=(0.0, 0.5, 1.0), times_2=(0.0, 0.2, 0.4, 0.6, 0.8))
>>> pair.locate(5)
FrameLocation(video=2, index=1)
>>> pair.number_of(video=2, index=1)
5
>>> pair.initial_view(2)
(1, 2, 4, 6)

Covers: which frames are candidates, numbering, the initial view. Does not cover: pixels
(`video.py`), what a call may ask (`tool.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


def sample_indices(num_frames: int, max_candidates: int) -> list[int]:
    """Spread at most `max_candidates` frame indices evenly over a video of `num_frames`, starting
    at frame 0.

    A shorter video gives all its frames and is never padded with copies (method: each video is
    sampled on its own).

    >>> sample_indices(96, 4)
    [0, 24, 48, 72]
    >>> sample_indices(3, 8)
    [0, 1, 2]
    """
    if num_frames < 1 or max_candidates < 1:
        raise ValueError(
            f"num_frames and max_candidates must be at least 1, got {num_frames} and "
            f"{max_candidates}"
        )
    num_candidates = min(num_frames, max_candidates)
    return [i * num_frames // num_candidates for i in range(num_candidates)]


@dataclass(frozen=True)
class FrameLocation:
    """Where a frame number points."""

    video: int
    """1 or 2."""
    index: int
    """0-based position among that video's candidate frames."""


@dataclass(frozen=True)
class CandidateFrames:
    """The numbered candidate frames of a pair; a value, no pixels."""

    times_1: tuple[float, ...]
    """Time of each candidate frame of video 1, in seconds."""
    times_2: tuple[float, ...]
    """Time of each candidate frame of video 2, in seconds."""

    def __post_init__(self) -> None:
        if not self.times_1 or not self.times_2:
            raise ValueError(
                f"both videos need frames, got {len(self.times_1)} and {len(self.times_2)}"
            )

    def __len__(self) -> int:
        return len(self.times_1) + len(self.times_2)

    def numbers_of(self, video: int) -> range:
        """Return the frame numbers of one video as a half-open range.

        >>> CandidateFrames((0.0, 1.0), (0.0,)).numbers_of(2)
        range(3, 4)
        """
        if video == 1:
            return range(1, len(self.times_1) + 1)
        if video == 2:
            return range(len(self.times_1) + 1, len(self) + 1)
        raise ValueError(f"video must be 1 or 2, got {video!r}")

    def locate(self, number: int) -> FrameLocation:
        """Convert a frame number into (video, index); raises `ValueError` outside 1..N."""
        for video in (1, 2):
            numbers = self.numbers_of(video)
            if number in numbers:
                return FrameLocation(video, number - numbers.start)
        raise ValueError(f"frame number must be in 1..{len(self)}, got {number}")

    def number_of(self, video: int, index: int) -> int:
        """Convert (video, index) into a frame number; the inverse of `locate`."""
        numbers = self.numbers_of(video)
        if not 0 <= index < len(numbers):
            raise ValueError(
                f"index of video {video} must be in 0..{len(numbers) - 1}, got {index}"
            )
        return numbers[index]

    def time_s(self, number: int) -> float:
        """Return the time of a frame in its own video, in seconds."""
        location = self.locate(number)
        return (self.times_1 if location.video == 1 else self.times_2)[location.index]

    def initial_view(self, frames_per_video: int) -> tuple[int, ...]:
        """Return the frame numbers shown before any call: evenly spaced inside each video's own
        range.

        >>> CandidateFrames((0.0,) * 48, (0.0,) * 48).initial_view(4)
        (1, 13, 25, 37, 49, 61, 73, 85)
        """
        return tuple(
            self.number_of(video, index)
            for video in (1, 2)
            for index in sample_indices(len(self.numbers_of(video)), frames_per_video)
        )


Region = tuple[float, float, float, float]
"""Part of a frame: left, top, right, bottom as shares of its width and height, from 0 to 1."""


class ImageReference(dict[str, Any]):
    """An image in a context: which frame, within which budget of pixels, and which part of it.

    It is the JSON of itself, so contexts are recorded as they are.

    >>> ImageReference(13, 784)
    {'type': 'image', 'frame_number': 13, 'max_pixels': 784}
    >>> ImageReference(13, 784, (0.5, 0.0, 1.0, 0.5)).region
    (0.5, 0.0, 1.0, 0.5)
    """

    def __init__(self, number: int, max_pixels: int, region: Region | None = None) -> None:
        super().__init__(type="image", frame_number=number, max_pixels=max_pixels)
        if region is not None:
            self["region"] = list(region)

    @classmethod
    def from_item(cls, item: Mapping[str, Any]) -> ImageReference:
        """Read one from a recorded context."""
        if isinstance(item, cls):
            return item
        region = item.get("region")
        return cls(item["frame_number"], item["max_pixels"], tuple(region) if region else None)

    @property
    def number(self) -> int:
        """Frame number, 1-based."""
        return self["frame_number"]

    @property
    def max_pixels(self) -> int:
        """Most pixels of the image."""
        return self["max_pixels"]

    @property
    def region(self) -> Region | None:
        """The part of the frame that is shown; None shows all of it."""
        return tuple(self["region"]) if "region" in self else None

    def is_shown_by(self, other: ImageReference) -> bool:
        """True when `other` shows the same at least as large."""
        is_same = (self.number, self.region) == (other.number, other.region)
        return is_same and other.max_pixels >= self.max_pixels


def drop_repeats(numbers: Iterable[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split numbers into (each one once, in first order) and (those that came again, each once).

    >>> drop_repeats([5, 3, 5, 5, 3, 1])
    ((5, 3, 1), (5, 3))
    """
    unique: dict[int, None] = {}
    repeated: dict[int, None] = {}
    for number in numbers:
        (repeated if number in unique else unique)[number] = None
    return tuple(unique), tuple(repeated)
