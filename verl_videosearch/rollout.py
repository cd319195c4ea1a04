"""Drive an Episode with any model: frames in, replies out, one boundary for failures.

The one idea: `run_episode` knows no tokens and no servers. A `GenerateFn` turns a context and its images into a
reply; whatever goes wrong around it - a broken video, a dead server, a time-out - becomes one `EpisodeFailure` with
its kind, and is never a score.

>>> import asyncio
>>> async def always_tie(messages, images):
...     return Reply("<Snapshot>alike</Snapshot><Think>no</Think><Answer>TA=0, VQ=0, MQ=0, OA=0</Answer>")
>>> black = np.zeros((8, 28, 28, 3), np.uint8)
>>> pair = PairFrames(CandidateFrames((0.0,) * 8, (0.0,) * 8), black, black)
>>> sample = PreferenceSample("a", "a cat", "1.mp4", "2.mp4", {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1})
>>> asyncio.run(run_episode(Episode(sample, pair.candidates, EpisodeConfig()), pair, always_tie)).verdict.overall
0
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from verl_videosearch.episode import Episode, EpisodeConfig, EpisodeResult, Message, Reply, TurnRecord, images_of
from verl_videosearch.frame_store import FrameStore
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.judgement import Judgement, format_judgement
from verl_videosearch.reward import Score
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.video import FramePlan, VideoError, fit_size


class FailureKind(str, Enum):
    """What broke around an episode; a model's mistake is never one of these."""

    VIDEO = "video"
    SERVER = "server"
    TIMEOUT = "timeout"
    SIBLING = "sibling"
    """Another episode of the same group failed, so this one cannot be compared."""
    PROMPT_TOO_LONG = "prompt_too_long"
    """The first context alone does not fit: a setting, not the model, is wrong."""
    SAMPLE = "sample"
    """The row breaks the contract."""
    BUG = "bug"
    """Ours: what is trained would differ from what was sampled."""


class EpisodeFailure(Exception):
    """An infrastructure failure: the episode has no result and must not be scored."""

    def __init__(self, kind: FailureKind, detail: str, sample_uid: str = "", cause: str = "") -> None:
        super().__init__(f"episode of sample {sample_uid!r} failed ({kind.value}): {detail}")
        self.kind, self.detail, self.sample_uid, self.cause = kind, detail, sample_uid, cause

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, self.detail, self.sample_uid, self.cause)

    @property
    def label(self) -> str:
        """The name under which it is counted: its kind, and the cause where one is known (`video_truncated`)."""
        return f"{self.kind.value}_{self.cause}" if self.cause else self.kind.value


class ContextTooLong(Exception):
    """Raised by a `GenerateFn` when the next context does not fit the model; the episode ends as `overlong`."""


class GenerateFn(Protocol):
    """Any model: writes the reply to a context whose image references stand, in order, for `images`."""

    async def __call__(self, messages: list[Message], images: Sequence[Image.Image]) -> Reply: ...


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
        frame = np.asarray((self.frames_1 if location.video == 1 else self.frames_2)[location.index])
        height, width = fit_size(*frame.shape[:2], max_pixels, self.patch_multiple)
        image = Image.fromarray(frame)
        return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)

    def images(self, messages: list[Message]) -> list[Image.Image]:
        """Resolve the image references of a context, in the order in which the model sees them."""
        return [self.image(item["frame_number"], item["max_pixels"]) for item in images_of(messages)]


def plan_frames(config: EpisodeConfig) -> FramePlan:
    """Say how an episode's videos are decoded: at the larger of its two pixel budgets."""
    return FramePlan(
        frames_per_video=config.frames_per_video,
        max_pixels=max(config.initial_max_pixels, config.tool_max_pixels),
        patch_multiple=config.patch_multiple,
    )


def load_pair(
    sample: PreferenceSample, store: FrameStore, config: EpisodeConfig, video_root: str | Path | None = None
) -> PairFrames:
    """Read both videos through the store; blocking, so call it off the event loop. Raises `EpisodeFailure` of kind
    `video`."""
    plan = plan_frames(config)
    try:
        stored = [store.get(path, plan, uid=sample.uid) for path in sample.resolve_videos(video_root)]
    except VideoError as error:
        raise EpisodeFailure(FailureKind.VIDEO, str(error), sample.uid, cause=error.kind.value) from error
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


async def run_episode(
    episode: Episode, pair: PairFrames, generate: GenerateFn, *, timeout_s: float | None = None
) -> EpisodeResult:
    """Drive one episode to its end; `timeout_s` bounds the whole of it (an `EpisodeFailure` of kind `timeout`)."""

    async def drive() -> None:
        while not episode.is_done:
            messages = episode.messages()
            images = await asyncio.to_thread(pair.images, messages)
            try:
                episode.step(await generate(messages, images))
            except ContextTooLong:
                episode.stop_overlong()

    try:
        await asyncio.wait_for(drive(), timeout_s)
    except (asyncio.TimeoutError, TimeoutError) as error:  # two classes before Python 3.11; the model's own has words
        detail = str(error) or f"no result after {timeout_s} s"
        raise EpisodeFailure(FailureKind.TIMEOUT, detail, episode.sample.uid) from error
    return episode.result()


def to_record(
    sample: PreferenceSample,
    episode: Episode | None,
    result: EpisodeResult | None,
    score: Score | None,
    failure: EpisodeFailure | None = None,
) -> dict[str, Any]:
    """Write an episode as one JSON-ready object: context, frames by number, verdict, reward parts, failure kind."""
    record: dict[str, Any] = {
        "sample_uid": sample.uid,
        "source": sample.source,
        "prompt": sample.prompt,
        "videos": [sample.video_1, sample.video_2],
        "labels": dict(sample.labels),
        "failure": failure.label if failure else None,
        "failure_detail": failure.detail if failure else None,
    }
    if episode is not None:
        record |= {"window": episode.config.window, "messages": episode.messages()}
    if result is not None:
        is_read = isinstance(result.verdict, Judgement)
        record |= {
            "turns": [_to_turn_record(turn) for turn in result.turns],
            "ending": result.ending.value,
            "verdict": format_judgement(result.verdict) if is_read else None,
            "problem": None if is_read else result.verdict.problem.value,
        }
    if score is not None:
        record |= {"score": score.total, "reward_parts": dict(score.parts)}
    return record


def _to_turn_record(turn: TurnRecord) -> dict[str, Any]:
    """Write what one turn asked for and what was wrong with it."""
    outcome = turn.outcome
    return {
        "reply": turn.reply.text,
        "frames": list(outcome.frame_numbers) if outcome else [],
        "call_fault": outcome.fault.value if outcome and outcome.fault else None,
        "faults": [fault.value for fault in turn.faults],
        "num_visible_images": turn.num_visible_images,
    }
