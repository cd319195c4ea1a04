"""Read the candidate frames of one video file: exact frames, true times, bounded memory, errors
that name their cause.

The one idea: believe what was decoded, never what the container says. The packets of a file are
counted first, which predicts the number of frames; the file is then decoded once from start to end,
and only the wanted frames are converted and kept. If the decoder gave another number of frames than
predicted, it decodes once more with the true number::

    video = read_candidate_frames("clip.mp4", FramePlan(frames_per_video=48))
    video.frames.shape, video.times_s[:2]        # (48, 476, 840, 3), [0., 0.08]

Several plans are served by one decode (`read_frames`). Covers: what `films` and `pictures` read;
files cut short where the container shows it (container.py); a caller who is never held longer than
`timeout_s`, and memory that is bounded over all decodes of the process (reading.py). Does not
cover: non-square pixels (shown as stored), damage that demuxer or codec hide, and a file without a
length (mpeg, ts) that is cut exactly between two packets: `VideoFrames.notes` says so.

docs/decoders.md says why the decoder is PyAV.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from os import PathLike
from types import ModuleType

import numpy as np

from verl_videosearch.frames import sample_indices
from verl_videosearch.video import container as containers
from verl_videosearch.video import films, pictures
from verl_videosearch.video.errors import (
    MAX_SOURCE_PIXELS,
    VideoError,
    VideoErrorKind,
    check_file,
)
from verl_videosearch.video.plan import (
    FramePlan,
    are_usable,
    fit_size,
    times_from_stamps,
    usable_fps,
)
from verl_videosearch.video.reading import (
    BUDGET,
    DECODE_TIMEOUT_S,
    RawFrame,
    Reading,
    Survey,
    run_in_time,
)

__all__ = [
    "DECODE_TIMEOUT_S",
    "MAX_SOURCE_PIXELS",
    "FramePlan",
    "VideoError",
    "VideoErrorKind",
    "VideoFrames",
    "VideoInfo",
    "check_file",
    "fit_size",
    "probe_video",
    "read_candidate_frames",
    "read_frames",
    "times_from_stamps",
]

_LOG = logging.getLogger(__name__)
_SAID: set[str] = set()  # notes that this process has logged: each once, with its first file


@dataclass(frozen=True)
class VideoInfo:
    """What one full decode of a file found."""

    num_frames: int
    """Frames that the decoder gave."""
    height: int
    """Pixels of an upright frame, before resizing."""
    width: int
    """Pixels of an upright frame, before resizing."""
    times_s: np.ndarray
    """Time of every frame in seconds from the first one, float64 (num_frames,), never
    decreasing."""
    duration_s: float
    """From the first frame to the end of the last one, whose own duration counts."""
    notes: tuple[str, ...] = ()
    """What a user should know about the file though it can be used."""


@dataclass(frozen=True)
class VideoFrames:
    """The frames of one video that a plan asks for."""

    frames: np.ndarray
    """RGB, uint8 (N, H, W, 3), upright."""
    times_s: np.ndarray
    """Time of each in seconds from the video's first frame, float64 (N,), never decreasing."""
    num_decoded_frames: int
    """All frames that the decoder gave, of which N were kept."""
    source_height: int
    """Pixels of an upright frame, before resizing."""
    source_width: int
    """Pixels of an upright frame, before resizing."""
    duration_s: float = 0.0
    """From the first frame of the video to the end of its last one."""
    candidate_times_s: np.ndarray | None = None
    """Time of every candidate, also of those that the plan does not keep."""
    notes: tuple[str, ...] = ()
    """What a user should know about the file though it can be used."""


def probe_video(
    path: str | PathLike[str], *, timeout_s: float = DECODE_TIMEOUT_S, uid: str | None = None
) -> VideoInfo:
    """Decode the whole file, keep nothing, and say what it holds; raises `VideoError`."""

    def probe(reading: Reading) -> VideoInfo:
        survey = _survey(reading)
        with BUDGET.hold(survey.num_decoder_bytes, reading):
            decoded = _decode(reading, survey, ())
        return VideoInfo(
            decoded.num_frames,
            decoded.height,
            decoded.width,
            times_from_stamps(decoded.stamps_s, survey.fps),
            decoded.duration_s(survey.fps),
            survey.notes,
        )

    return run_in_time(path, timeout_s, uid, probe)


def survey_video(
    path: str | PathLike[str], *, timeout_s: float = DECODE_TIMEOUT_S, uid: str | None = None
) -> Survey:
    """Say how many frames a file seems to hold, without decoding any; raises `VideoError`."""
    return run_in_time(path, timeout_s, uid, _survey)


def read_candidate_frames(
    path: str | PathLike[str],
    plan: FramePlan,
    *,
    timeout_s: float = DECODE_TIMEOUT_S,
    uid: str | None = None,
) -> VideoFrames:
    """Read the frames that `plan` asks for; raises `VideoError` naming the file, the sample `uid`
    and the cause."""
    return read_frames(path, (plan,), timeout_s=timeout_s, uid=uid)[0]


def read_frames(
    path: str | PathLike[str],
    plans: Sequence[FramePlan],
    *,
    timeout_s: float = DECODE_TIMEOUT_S,
    uid: str | None = None,
) -> list[VideoFrames]:
    """Read what several plans ask for in one decode; raises `VideoError`."""
    return run_in_time(path, timeout_s, uid, lambda reading: read_plans(reading, plans))


def read_plans(reading: Reading, plans: Sequence[FramePlan]) -> list[VideoFrames]:
    """Read what several plans ask for in one decode, inside a reading that has begun."""
    survey = _survey(reading)
    num_frames = survey.num_frames
    for _ in range(2):
        kept = [_Kept(plan, num_frames, reading) for plan in plans]
        num_bytes = survey.num_decoder_bytes + sum(one.num_bytes for one in kept)
        with BUDGET.hold(num_bytes, reading):
            decoded = _decode(reading, survey, kept)
        if decoded.num_frames == num_frames or all(
            one.is_same_choice(decoded.num_frames) for one in kept
        ):
            return [one.finish(decoded, survey) for one in kept]
        num_frames = decoded.num_frames
    cause = "two decodes gave two different numbers of frames"
    raise reading.error(VideoErrorKind.UNREADABLE, cause)


@dataclass
class _Decoded:
    """What one pass over a file found."""

    stamps_s: list[float | None]
    height: int
    width: int
    last_s: float | None
    """How long the last frame is shown."""

    @property
    def num_frames(self) -> int:
        return len(self.stamps_s)

    def duration_s(self, fps: float | None) -> float:
        if not are_usable(self.stamps_s):
            return self.num_frames / usable_fps(fps)
        last_s = self.last_s if self.last_s is not None else 1 / usable_fps(fps)
        times_s = times_from_stamps(self.stamps_s, fps)
        return float(times_s[-1] + last_s)


class _Kept:
    """The frames that one plan asks for, filled while the file is decoded."""

    def __init__(self, plan: FramePlan, num_frames: int, reading: Reading) -> None:
        self.plan = plan
        self.wanted = self._choose(num_frames, reading)
        self.slots: dict[int, list[int]] = defaultdict(list)
        for slot, index in enumerate(self.wanted):
            self.slots[index].append(slot)
        self.frames: np.ndarray | None = None
        source_pixels = MAX_SOURCE_PIXELS if plan.max_pixels is None else plan.max_pixels
        self.num_bytes = 0 if plan.max_pixels is None else 3 * source_pixels * len(self.wanted)

    def _choose(self, num_frames: int, reading: Reading) -> list[int]:
        candidates = sample_indices(num_frames, self.plan.frames_per_video)
        try:
            return [candidates[index] for index in self.plan.choose(len(candidates))]
        except ValueError as error:
            raise reading.error(VideoErrorKind.NO_FRAMES, str(error)) from error

    def is_same_choice(self, num_frames: int) -> bool:
        """True if another number of frames would have led to the same choice."""
        candidates = sample_indices(num_frames, self.plan.frames_per_video)
        try:
            return self.wanted == [candidates[i] for i in self.plan.choose(len(candidates))]
        except ValueError:
            return False

    def take(self, index: int, frame: RawFrame, first: RawFrame) -> None:
        """Keep a decoded frame if it is wanted; all get the size that fits the first frame."""
        if index not in self.slots:
            return
        height, width = self.plan.fit(first.height, first.width)
        if self.frames is None:
            self.frames = np.empty((len(self.wanted), height, width, 3), np.uint8)
        pixels = frame.convert(height, width)
        for slot in self.slots[index]:
            self.frames[slot] = pixels

    def finish(self, decoded: _Decoded, survey: Survey) -> VideoFrames:
        assert self.frames is not None, "a video with frames gives every plan at least one"
        times_s = times_from_stamps(decoded.stamps_s, survey.fps)
        candidates = sample_indices(decoded.num_frames, self.plan.frames_per_video)
        return VideoFrames(
            self.frames,
            times_s[self.wanted],
            decoded.num_frames,
            decoded.height,
            decoded.width,
            decoded.duration_s(survey.fps),
            times_s[candidates],
            survey.notes,
        )


def _survey(reading: Reading) -> Survey:
    """Predict the number of frames without decoding, and refuse a file that is visibly cut short or
    something else."""
    survey = _reader_of(look_at_head(reading)).survey(reading)
    if survey.num_frames == 0:
        raise reading.error(VideoErrorKind.NO_FRAMES, "its video stream is empty")
    for note in survey.notes:
        if note not in _SAID:
            _SAID.add(note)
            _LOG.warning("video %s: %s (said once)", reading.path, note)
    return survey


def look_at_head(reading: Reading) -> bytes:
    """Return a file's first bytes; raises `VideoError` if they, or its end, show that it is of no
    use."""
    try:
        head = containers.read_head(reading.path)
        other = containers.name_other_kind(head)
        if other is not None:
            raise reading.error(VideoErrorKind.NOT_A_VIDEO, f"it is {other}")
        is_cut = containers.is_cut_short(reading.path)
    except OSError as error:
        cause = error.strerror or str(error)
        raise reading.error(VideoErrorKind.UNREADABLE, cause) from error
    if is_cut:
        raise reading.error(VideoErrorKind.TRUNCATED, "the file ends before its container does")
    return head


def _reader_of(head: bytes) -> ModuleType:
    """Return one of two modules with the same two functions, `survey` and `decode`."""
    return pictures if containers.is_picture(head) else films


def _decode(reading: Reading, survey: Survey, kept: Sequence[_Kept]) -> _Decoded:
    """Decode and count every frame; give the wanted ones to their plans."""
    reader = _reader_of(containers.read_head(reading.path))
    stamps_s: list[float | None] = []
    first, last_s = None, None
    with closing(reader.decode(reading, survey)) as frames:
        for index, frame in enumerate(frames):
            reading.check_time()
            reading.check_dimensions(frame.height, frame.width)
            stamps_s.append(frame.stamp_s)
            first, last_s = first or frame, frame.duration_s
            for one in kept:
                one.take(index, frame, first)
    if first is None:
        raise reading.error(VideoErrorKind.NO_FRAMES, "no frame of it can be decoded")
    return _Decoded(stamps_s, first.height, first.width, last_s)
