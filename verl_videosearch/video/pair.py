"""PairFrames: the candidate frames of a pair, numbers and pixels.

The one idea: an episode names frames by number; this is the one place where a number becomes a
picture. Each picture carries a reference by which another process finds the same pixels::

    image = pair.image(12, config.tool_max_pixels)
    image.info[REFERENCE]                   # FrameReference(key=..., index=11, max_pixels=313600)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from PIL import Image

from verl_videosearch.episode import EpisodeConfig, Message, images_of
from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.frames import CandidateFrames, Region
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.video.errors import VideoError
from verl_videosearch.video.pixels import FrameConverter
from verl_videosearch.video.plan import FramePlan, fit_size
from verl_videosearch.video.reference import FrameReference
from verl_videosearch.video.store import FrameStore

REFERENCE = "frame_reference"
"""Where `Image.info` holds the `FrameReference` of a picture that came from a store."""


class FrameSource(Protocol):
    """The candidate frames of one video, at any size."""

    def frame(self, index: int, max_pixels: int | None) -> np.ndarray:
        """Return one candidate, uint8 (H, W, 3)."""

    def size_of(self, max_pixels: int | None) -> tuple[int, int]:
        """Return the (height, width) of its frames under a pixel budget."""


@dataclass(frozen=True)
class ArrayFrames:
    """Frames that lie in memory, resized whenever they are asked for: for tests and benchmarks."""

    frames: np.ndarray
    """uint8 (N, H, W, 3)."""
    patch_multiple: int = 28

    def frame(self, index: int, max_pixels: int | None) -> np.ndarray:
        """Return one candidate, uint8 (H, W, 3)."""
        return FrameConverter().resize(np.asarray(self.frames[index]), *self.size_of(max_pixels))

    def size_of(self, max_pixels: int | None) -> tuple[int, int]:
        """Return the (height, width) of its frames under a pixel budget."""
        height, width = self.frames.shape[1:3]
        if max_pixels is None:
            return height, width
        return fit_size(height, width, max_pixels, self.patch_multiple)


@dataclass(frozen=True)
class PairFrames:
    """The candidate frames of a pair: numbers and pixels."""

    candidates: CandidateFrames
    video_1: FrameSource | np.ndarray
    """A plain uint8 (N, H, W, 3) array becomes `ArrayFrames`."""
    video_2: FrameSource | np.ndarray
    num_hits: int = 0
    """How many of the two videos were served without decoding."""
    decode_s: float = 0.0
    """Seconds spent on decoding, both videos."""
    patch_multiple: int = 28
    durations_s: tuple[float, float] | None = None
    """How long each video is, to the end of its last frame; None where that is not known."""

    def __post_init__(self) -> None:
        for name in ("video_1", "video_2"):
            frames = getattr(self, name)
            if isinstance(frames, np.ndarray):
                object.__setattr__(self, name, ArrayFrames(frames, self.patch_multiple))

    @property
    def sources(self) -> tuple[FrameSource, FrameSource]:
        """Video 1 and video 2; arrays became sources when the pair was made."""
        return cast(FrameSource, self.video_1), cast(FrameSource, self.video_2)

    def source_of(self, number: int) -> tuple[FrameSource, int]:
        """Return the video that a frame number belongs to, and its 0-based candidate there."""
        location = self.candidates.locate(number)
        return self.sources[location.video - 1], location.index

    def size_of(self, number: int, max_pixels: int | None) -> tuple[int, int]:
        """Return the (height, width) of the picture that `image` would give."""
        return self.source_of(number)[0].size_of(max_pixels)

    def image(
        self, number: int, max_pixels: int | None, region: Region | None = None
    ) -> Image.Image:
        """Return one frame, by number, within a pixel budget (None: the source's size).

        A `region` is cut out of the frame at the source's size, so it shows what the whole frame
        within that budget cannot; it carries no reference, for no store holds it."""
        source, index = self.source_of(number)
        if region is not None:
            part = cut_region(np.asarray(source.frame(index, None)), region, self.patch_multiple)
            if max_pixels is not None:
                size = fit_size(part.shape[0], part.shape[1], max_pixels, self.patch_multiple)
                part = FrameConverter().resize(part, *size)
            return Image.fromarray(part)
        image = Image.fromarray(np.asarray(source.frame(index, max_pixels)))
        key = getattr(source, "key", None)
        if key is not None:
            image.info[REFERENCE] = FrameReference(key, index, max_pixels)
        return image

    def images(self, messages: list[Message]) -> list[Image.Image]:
        """Resolve the image references of a context, in the order in which the model sees them."""
        return [
            self.image(each.number, each.max_pixels, each.region) for each in images_of(messages)
        ]


def cut_region(frame: np.ndarray, region: Region, least: int) -> np.ndarray:
    """Return a part of a frame, uint8 (H, W, 3); sides shorter than `least` pixels grow to it,
    inside the frame.

    >>> cut_region(np.zeros((100, 200, 3), np.uint8), (0.5, 0.0, 1.0, 0.5), 28).shape
    (50, 100, 3)
    """
    height, width = frame.shape[:2]
    left, right = _grow(round(region[0] * width), round(region[2] * width), least, width)
    top, bottom = _grow(round(region[1] * height), round(region[3] * height), least, height)
    return np.ascontiguousarray(frame[top:bottom, left:right])


def _grow(start: int, stop: int, least: int, size: int) -> tuple[int, int]:
    start = max(min(start, size - least), 0)
    return start, min(max(stop, start + least), size)


def plan_frames(config: EpisodeConfig) -> tuple[FramePlan, ...]:
    """Say what an episode needs of its videos: all candidates at the size of a call, and the first
    view at its own size."""
    called = FramePlan(config.frames_per_video, config.tool_max_pixels, config.patch_multiple)
    if config.initial_max_pixels == config.tool_max_pixels:
        return (called,)
    first_view = FramePlan(
        config.frames_per_video,
        config.initial_max_pixels,
        config.patch_multiple,
        shown=config.initial_frames_per_video,
    )
    return called, first_view


def load_pair(
    sample: PreferenceSample,
    store: FrameStore,
    config: EpisodeConfig,
    video_root: str | Path | None = None,
) -> PairFrames:
    """Read both videos through the store; blocking, so call it off the event loop. Raises
    `EpisodeFailure` of kind `video`."""
    plans = plan_frames(config)
    try:
        paths = sample.resolve_videos(video_root)
    except (ValueError, OSError) as error:
        raise EpisodeFailure(FailureKind.VIDEO, str(error), sample.uid, cause="bad_path") from error
    try:
        video_1, video_2 = (store.open(path, plans, uid=sample.uid) for path in paths)
    except VideoError as error:
        raise EpisodeFailure(
            FailureKind.VIDEO, str(error), sample.uid, cause=error.kind.value
        ) from error
    return PairFrames(
        CandidateFrames(video_1.times_s, video_2.times_s),
        video_1,
        video_2,
        num_hits=video_1.was_hit + video_2.was_hit,
        decode_s=video_1.decode_s + video_2.decode_s,
        patch_multiple=config.patch_multiple,
        durations_s=(video_1.duration_s, video_2.duration_s),
    )
