"""PairFrames: the candidate frames of a pair, numbers and pixels.

The one idea: an episode names frames by number; this is the one place where a number becomes a
picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from verl_videosearch.episode import EpisodeConfig, Message, images_of
from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.video.decode import FramePlan, VideoError, fit_size
from verl_videosearch.video.store import FrameStore


@dataclass(frozen=True)
class PairFrames:
    """The candidate frames of a pair: numbers and pixels."""

    candidates: CandidateFrames
    frames_1: np.ndarray
    """uint8 (N1, H, W, 3), usually a memory map of the frame store."""
    frames_2: np.ndarray
    """uint8 (N2, H, W, 3)."""
    num_hits: int = 0
    """How many of the two videos were served without decoding."""
    decode_s: float = 0.0
    """Seconds spent on decoding, both videos."""
    patch_multiple: int = 28

    def image(self, number: int, max_pixels: int) -> Image.Image:
        """Return one frame, by number, within a pixel budget (lossless unless it has to shrink)."""
        location = self.candidates.locate(number)
        frame = np.asarray(
            (self.frames_1 if location.video == 1 else self.frames_2)[location.index]
        )
        height, width = fit_size(*frame.shape[:2], max_pixels, self.patch_multiple)
        image = Image.fromarray(frame)
        return (
            image
            if image.size == (width, height)
            else image.resize((width, height), Image.Resampling.BICUBIC)
        )

    def images(self, messages: list[Message]) -> list[Image.Image]:
        """Resolve the image references of a context, in the order in which the model sees them."""
        return [
            self.image(item["frame_number"], item["max_pixels"]) for item in images_of(messages)
        ]


def plan_frames(config: EpisodeConfig) -> FramePlan:
    """Say how an episode's videos are decoded: at the larger of its two pixel budgets."""
    return FramePlan(
        frames_per_video=config.frames_per_video,
        max_pixels=max(config.initial_max_pixels, config.tool_max_pixels),
        patch_multiple=config.patch_multiple,
    )


def load_pair(
    sample: PreferenceSample,
    store: FrameStore,
    config: EpisodeConfig,
    video_root: str | Path | None = None,
) -> PairFrames:
    """Read both videos through the store; blocking, so call it off the event loop. Raises
    `EpisodeFailure` of kind `video`."""
    plan = plan_frames(config)
    try:
        stored = [
            store.get(path, plan, uid=sample.uid) for path in sample.resolve_videos(video_root)
        ]
    except VideoError as error:
        raise EpisodeFailure(
            FailureKind.VIDEO, str(error), sample.uid, cause=error.kind.value
        ) from error
    except ValueError as error:
        raise EpisodeFailure(FailureKind.VIDEO, str(error), sample.uid, cause="bad_path") from error
    return PairFrames(
        candidates=CandidateFrames(*(tuple(float(t) for t in video.times_s) for video in stored)),
        frames_1=stored[0].frames,
        frames_2=stored[1].frames,
        num_hits=sum(video.was_hit for video in stored),
        decode_s=sum(video.decode_s for video in stored),
        patch_multiple=config.patch_multiple,
    )
