"""FramePlan: which frames of a video become candidates, and at what size; and when they are shown.

The one idea: a plan and the bytes of a video decide every pixel, so a plan is a small value that
can be hashed, stored and sent. Sizes and times are plain arithmetic, kept apart from any decoder.

>>> FramePlan(frames_per_video=8, shown=4).choose(num_candidates=8)
(0, 2, 4, 6)
>>> FramePlan(shown=(5, 2)).choose(num_candidates=8)
(5, 2)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from verl_videosearch.config import at_least, check
from verl_videosearch.frames import sample_indices

NOMINAL_FPS = 25.0
"""Frame rate where the stamps are unusable and the file names no rate either."""


@dataclass(frozen=True)
class FramePlan:
    """Which frames of a video become candidates, and at what size."""

    frames_per_video: int = 48
    """Candidate frames, spread evenly from frame 0; a shorter video gives all its frames."""
    max_pixels: int | None = 512 * 28 * 28
    """Largest height * width of a candidate frame; larger videos are scaled down. None keeps the
    source's own size, whatever it is."""
    patch_multiple: int = 28
    """Both sides are multiples of this: 28 for Qwen2.5-VL, 32 for Qwen3-VL. Without a meaning
    where `max_pixels` is None."""
    shown: int | tuple[int, ...] | None = None
    """Which of the candidates are kept: None all of them; a number so many, spread evenly over
    them (a first view); a tuple exactly those 0-based ones, in that order."""

    def __post_init__(self) -> None:
        check(
            self,
            self._find_problems(),
            frames_per_video=at_least(1),
            max_pixels=at_least(1),
            patch_multiple=at_least(1),
        )

    def _find_problems(self) -> list[str]:
        problems = []
        sizes = (self.max_pixels, self.patch_multiple)
        if all(type(size) is int and size >= 1 for size in sizes):
            patch = self.patch_multiple**2
            if self.max_pixels is not None and self.max_pixels < patch:
                problems.append(
                    f"max_pixels must hold one patch ({patch} pixels), got {self.max_pixels}"
                )
        if isinstance(self.shown, tuple):
            is_known = all(type(index) is int and index >= 0 for index in self.shown)
        else:
            is_known = type(self.shown) is not int or self.shown >= 1
        if not is_known or self.shown == ():
            problems.append(f"shown must count or name candidate frames, got {self.shown!r}")
        return problems

    def choose(self, num_candidates: int) -> tuple[int, ...]:
        """Return the 0-based candidates that are kept; raises `ValueError` for one that is not
        there."""
        if self.shown is None:
            return tuple(range(num_candidates))
        if isinstance(self.shown, int):
            return tuple(sample_indices(num_candidates, self.shown))
        outside = [index for index in self.shown if index >= num_candidates]
        if outside:
            raise ValueError(f"the video has {num_candidates} candidate frames, got {outside[0]}")
        return self.shown

    def fit(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) at which a frame of this source size is kept."""
        if self.max_pixels is None:
            return height, width
        return fit_size(height, width, self.max_pixels, self.patch_multiple)


def fit_size(height: int, width: int, max_pixels: int, patch_multiple: int) -> tuple[int, int]:
    """Choose the (height, width) of a resized frame: multiples of `patch_multiple` within
    `max_pixels`.

    The nearest aspect ratio wins, then the nearest size, then the smaller one. Each side is rounded
    down or up by less than one patch, so a small frame is not blown up.

    >>> fit_size(720, 1280, 512 * 28 * 28, 28), fit_size(350, 350, 512 * 28 * 28, 28)
    ((476, 840), (336, 336))
    >>> fit_size(8, 8, 784, 28)
    (28, 28)
    """
    if min(height, width, patch_multiple) < 1 or max_pixels < patch_multiple**2:
        raise ValueError(
            f"a {width}x{height} frame needs sides of at least 1 and room for one patch of "
            f"{patch_multiple}**2 pixels, got max_pixels={max_pixels}"
        )
    scale = min(1.0, math.sqrt(max_pixels / (height * width)))

    def sides_near(side: int, other: int) -> set[int]:
        # beside a very long side the short one is a single patch: the long one then gets what is
        # left of the budget
        other_patches = math.floor(other * scale / patch_multiple)
        most = max_pixels // max(patch_multiple, other_patches * patch_multiple)
        patches = min(side * scale, most) / patch_multiple
        rounded = {math.floor(patches), math.ceil(patches)}
        return {max(1, number) * patch_multiple for number in rounded}

    def distance(size: tuple[int, int]) -> tuple[float, float, int]:
        aspect = abs(math.log(size[0] * width / (size[1] * height)))
        shrink = abs(size[0] - height * scale) + abs(size[1] - width * scale)
        return round(aspect, 9), shrink, size[0] * size[1]

    sizes = product(sides_near(height, width), sides_near(width, height))
    return min((size for size in sizes if size[0] * size[1] <= max_pixels), key=distance)


def times_from_stamps(stamps_s: Sequence[float | None], fps: float | None) -> np.ndarray:
    """Turn a decoder's time stamps into seconds from the first frame, never decreasing.

    Stamps count only as a whole: if one is missing or runs backwards, or if they never move, each
    time is index / fps.

    >>> times_from_stamps([0.5, 0.75, 1.5], fps=4.0).tolist()
    [0.0, 0.25, 1.0]
    >>> times_from_stamps([0.5, None, 0.25], fps=4.0).tolist()
    [0.0, 0.25, 0.5]
    """
    if are_usable(stamps_s):
        stamps = np.array(stamps_s, dtype=np.float64)
        return stamps - stamps[0]
    return np.arange(len(stamps_s)) / usable_fps(fps)


def are_usable(stamps_s: Sequence[float | None]) -> bool:
    """Say whether a decoder's time stamps can be believed: all there, in order, and moving."""
    known = [stamp for stamp in stamps_s if stamp is not None and math.isfinite(stamp)]
    if not known or len(known) < len(stamps_s):
        return False
    is_ordered = all(a <= b for a, b in pairwise(known))
    return is_ordered and (len(known) == 1 or known[0] < known[-1])


def usable_fps(fps: float | None) -> float:
    """Return the rate that a file names if it is a plausible one, else `NOMINAL_FPS`."""
    return fps if fps and 0 < fps <= 1000 else NOMINAL_FPS
