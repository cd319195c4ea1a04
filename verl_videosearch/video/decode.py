"""Read the candidate frames of one video file: exact frames, true times, bounded memory, errors
that name their cause.

The one idea: believe what was decoded, never what the container says. The packets of a file are
counted first, which predicts the number of frames; the file is then decoded once from start to end,
and only the wanted frames are converted and kept. If the decoder gave another number of frames than
predicted, it decodes once more with the true number::

    video = read_candidate_frames("clip.mp4", FramePlan(frames_per_video=48))
    video.frames.shape, video.times_s[:2]        # (48, 476, 840, 3), [0., 0.08]

Covers: mp4, mov, mkv, webm, avi, mpeg, ogv, flv, asf and gif through PyAV, animated WebP through
Pillow (FFmpeg has no decoder for it); rotation in steps of 90 degrees; a size that changes inside a
stream; files cut short where the container shows it (container.py); a caller who is never held
longer than `timeout_s`, whatever the decoder does. Does not cover: mirrored display matrices,
non-square pixels (shown as stored), transparency (becomes black), damage that demuxer or codec
hide, and a file without a length (mpeg, ogv) that is cut exactly between two packets.

This is the only module that imports a decoder; docs/decoders.md says why it is PyAV.
"""

from __future__ import annotations

import math
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from enum import Enum
from itertools import pairwise, product
from os import PathLike
from pathlib import Path
from threading import Thread
from typing import NamedTuple, TypeVar

import av
import numpy as np
from PIL import Image

from verl_videosearch.frames import sample_indices
from verl_videosearch.video import container as containers

MAX_SOURCE_PIXELS = 8192 * 8192
"""A frame larger than this is refused before it is decoded: 200 MB of RGB, twice an 8K frame."""
DECODE_TIMEOUT_S = 60.0
"""How long a caller waits for one file unless it says otherwise."""
NOMINAL_FPS = 25.0
"""Frame rate where the stamps are unusable and the file names no rate either."""

_DECODE_THREADS = 2  # a rollout worker decodes several videos at once: more threads each would only fight over cores
_DEMUXERS = "mov,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,gif,flv,asf"  # no playlists: those open other files
_UPRIGHT = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}
T = TypeVar("T")


class VideoErrorKind(str, Enum):
    """Why a file gave no frames."""

    MISSING = "missing"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    NOT_A_VIDEO = "not_a_video"
    NO_FRAMES = "no_frames"
    TOO_LARGE = "too_large"
    TIMEOUT = "timeout"
    UNREADABLE = "unreadable"


_ADVICE = {
    VideoErrorKind.MISSING: "check the path and the root folder of the videos",
    VideoErrorKind.EMPTY: "fetch the file again",
    VideoErrorKind.TRUNCATED: "fetch the file again",
    VideoErrorKind.NOT_A_VIDEO: "give an mp4, mov, mkv, webm, avi, mpeg, ogv, gif or animated WebP file",
    VideoErrorKind.NO_FRAMES: "leave the sample out or give a file with a video stream",
    VideoErrorKind.TOO_LARGE: f"re-encode it with at most {MAX_SOURCE_PIXELS} pixels per frame",
    VideoErrorKind.TIMEOUT: "raise timeout_s, or check the disk and the file",
    VideoErrorKind.UNREADABLE: "re-encode the file or leave the sample out",
}


class VideoError(Exception):
    """A video file cannot be used: an infrastructure failure, never a score. It pickles, so it
    crosses processes."""

    def __init__(self, kind: VideoErrorKind, path: str, cause: str, uid: str | None = None) -> None:
        super().__init__(kind, path, cause, uid)
        self.kind, self.path, self.cause, self.uid = kind, path, cause, uid

    def __str__(self) -> str:
        sample = f" of sample {self.uid}" if self.uid is not None else ""
        return f"video {self.path}{sample}: {self.kind.value}: {self.cause}; {_ADVICE[self.kind]}"


@dataclass(frozen=True)
class FramePlan:
    """Which frames of a video become candidates, and at what size."""

    frames_per_video: int = 48
    """Candidate frames, spread evenly from frame 0; a shorter video gives all its frames."""
    max_pixels: int = 512 * 28 * 28
    """Largest height * width of a candidate frame; larger videos are scaled down."""
    patch_multiple: int = 28
    """Both sides are multiples of this: 28 for Qwen2.5-VL, 32 for Qwen3-VL."""

    def __post_init__(self) -> None:
        wrong = [
            f"{field.name} must be a whole number of at least 1, got {value!r}"
            for field in fields(self)
            if type(value := getattr(self, field.name)) is not int or value < 1
        ]
        if not wrong and self.max_pixels < self.patch_multiple**2:
            wrong.append(
                f"max_pixels must hold one patch ({self.patch_multiple**2} pixels), got {self.max_pixels}"
            )
        if wrong:
            raise ValueError("FramePlan: " + "; ".join(wrong))


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


@dataclass(frozen=True)
class VideoFrames:
    """The candidate frames of one video."""

    frames: np.ndarray
    """RGB, uint8 (N, H, W, 3), upright."""
    times_s: np.ndarray
    """Time of each candidate in seconds from the video's first frame, float64 (N,), never
    decreasing."""
    num_decoded_frames: int
    """All frames that the decoder gave, of which N were kept."""
    source_height: int
    """Pixels of an upright frame, before resizing."""
    source_width: int
    """Pixels of an upright frame, before resizing."""


def fit_size(height: int, width: int, max_pixels: int, patch_multiple: int) -> tuple[int, int]:
    """Choose the (height, width) of a resized frame: multiples of `patch_multiple` within
    `max_pixels`.

    The nearest aspect ratio wins, then the nearest size, then the smaller one. Each side is rounded
    down or up by less than one patch, so a small frame is not blown up.

    >>> fit_size(720, 1280, 512 * 28 * 28, 28), fit_size(350, 350, 512 * 28 * 28, 28), fit_size(8, 8, 784, 28)
    ((476, 840), (336, 336), (28, 28))
    """
    if min(height, width, patch_multiple) < 1 or max_pixels < patch_multiple**2:
        raise ValueError(
            f"a {width}x{height} frame needs sides of at least 1 and room for one patch of {patch_multiple}**2 pixels, "
            f"got max_pixels={max_pixels}"
        )
    scale = min(1.0, math.sqrt(max_pixels / (height * width)))

    def sides_near(side: int, other: int) -> set[int]:
        # beside a very long side the short one is a single patch: the long one then gets what is
        # left of the budget
        most = max_pixels // max(
            patch_multiple, math.floor(other * scale / patch_multiple) * patch_multiple
        )
        patches = min(side * scale, most) / patch_multiple
        return {
            max(1, rounded) * patch_multiple
            for rounded in (math.floor(patches), math.ceil(patches))
        }

    def distance(size: tuple[int, int]) -> tuple[float, float, int]:
        aspect = abs(math.log(size[0] * width / (size[1] * height)))
        return (
            round(aspect, 9),
            abs(size[0] - height * scale) + abs(size[1] - width * scale),
            size[0] * size[1],
        )

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
    known = [stamp for stamp in stamps_s if stamp is not None and math.isfinite(stamp)]
    is_complete = len(known) == len(stamps_s) and all(a <= b for a, b in pairwise(known))
    if is_complete and known and (len(known) == 1 or known[0] < known[-1]):
        return np.array(known, dtype=np.float64) - known[0]
    return np.arange(len(stamps_s)) / (fps if fps and 0 < fps <= 1000 else NOMINAL_FPS)


def check_file(path: str | PathLike[str], uid: str | None = None) -> None:
    """Raise `VideoError` unless `path` is a regular file with something in it."""
    try:
        status = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VideoError(VideoErrorKind.MISSING, str(path), "no such file", uid) from error
    except OSError as error:
        raise VideoError(
            VideoErrorKind.UNREADABLE, str(path), error.strerror or str(error), uid
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(
            VideoErrorKind.NOT_A_VIDEO, str(path), "a folder or device, not a file", uid
        )
    if status.st_size == 0:
        raise VideoError(VideoErrorKind.EMPTY, str(path), "the file has 0 bytes", uid)


def probe_video(
    path: str | PathLike[str], *, timeout_s: float = DECODE_TIMEOUT_S, uid: str | None = None
) -> VideoInfo:
    """Decode the whole file, keep nothing, and say what it holds; raises `VideoError`."""

    def probe(job: _Job) -> VideoInfo:
        fps = _survey(job).fps
        decoded = _decode(job, (), FramePlan())
        return VideoInfo(
            len(decoded.stamps_s),
            decoded.height,
            decoded.width,
            times_from_stamps(decoded.stamps_s, fps),
        )

    return _run_in_time(path, timeout_s, uid, probe)


def read_candidate_frames(
    path: str | PathLike[str],
    plan: FramePlan,
    *,
    timeout_s: float = DECODE_TIMEOUT_S,
    uid: str | None = None,
) -> VideoFrames:
    """Read the frames that `plan` asks for; raises `VideoError` naming the file, the sample `uid`
    and the cause."""

    def read(job: _Job) -> VideoFrames:
        num_frames, fps = _survey(job)
        for _ in range(2):
            wanted = sample_indices(num_frames, plan.frames_per_video)
            decoded = _decode(job, wanted, plan)
            num_frames = len(decoded.stamps_s)
            if wanted == sample_indices(num_frames, plan.frames_per_video):
                times_s = times_from_stamps(decoded.stamps_s, fps)[wanted]
                return VideoFrames(
                    np.stack(decoded.frames), times_s, num_frames, decoded.height, decoded.width
                )
        raise job.error(
            VideoErrorKind.UNREADABLE, "two decodes gave two different numbers of frames"
        )

    return _run_in_time(path, timeout_s, uid, read)


class _Survey(NamedTuple):
    num_packets: int
    fps: float | None


class _RawFrame(NamedTuple):
    stamp_s: float | None
    height: int
    width: int
    make_image: Callable[[], Image.Image]


class _Decoded(NamedTuple):
    stamps_s: list[float | None]
    frames: list[np.ndarray]
    height: int
    width: int


@dataclass(frozen=True)
class _Job:
    """One file being read: all that an error message and a time check need."""

    path: Path
    uid: str | None
    timeout_s: float
    deadline: float

    def error(self, kind: VideoErrorKind, cause: str) -> VideoError:
        return VideoError(kind, str(self.path), cause, self.uid)

    def check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise self.error(
                VideoErrorKind.TIMEOUT, f"decoding took longer than {self.timeout_s:g} s"
            )

    def check_dimensions(self, height: int, width: int) -> None:
        if height * width > MAX_SOURCE_PIXELS:
            raise self.error(VideoErrorKind.TOO_LARGE, f"a frame has {width}x{height} pixels")


def _run_in_time(
    path: str | PathLike[str], timeout_s: float, uid: str | None, work: Callable[[_Job], T]
) -> T:
    """Run `work` on a thread of its own and wait for at most `timeout_s`.

    A decoder that hangs inside one call cannot be stopped, only left behind: its thread is a daemon
    and ends at its next time check.
    """
    if not timeout_s > 0:
        raise ValueError(f"timeout_s must be positive, got {timeout_s!r}")
    check_file(path, uid)
    job = _Job(Path(path), uid, timeout_s, time.monotonic() + timeout_s)
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work(job))
        except BaseException as error:  # handed over to the waiting caller, nothing is swallowed
            future.set_exception(error)

    Thread(target=run, name="video-decode", daemon=True).start()
    try:
        return future.result(timeout_s)
    except FutureTimeoutError as error:
        raise job.error(
            VideoErrorKind.TIMEOUT, f"decoding took longer than {timeout_s:g} s"
        ) from error


def _survey(job: _Job) -> _Survey:
    """Predict the number of frames without decoding, and refuse a file that is visibly cut
    short."""
    try:
        is_cut, head = containers.is_cut_short(job.path), containers.read_head(job.path)
    except OSError as error:
        raise job.error(VideoErrorKind.UNREADABLE, error.strerror or str(error)) from error
    if is_cut:
        raise job.error(VideoErrorKind.TRUNCATED, "the file ends before its container does")
    survey = _survey_webp(job) if containers.is_webp(head) else _survey_libav(job)
    if survey.num_packets == 0:
        raise job.error(VideoErrorKind.NO_FRAMES, "its video stream is empty")
    return survey


def _decode(job: _Job, wanted: Sequence[int], plan: FramePlan) -> _Decoded:
    """Decode and count every frame; resize the wanted ones, all to the size that fits the first
    frame."""
    is_webp = containers.is_webp(containers.read_head(job.path))
    chosen, stamps_s, frames, first = frozenset(wanted), [], [], None
    with closing(_decode_webp(job) if is_webp else _decode_libav(job)) as raw_frames:
        for index, frame in enumerate(raw_frames):
            job.check_time()
            job.check_dimensions(frame.height, frame.width)
            stamps_s.append(frame.stamp_s)
            first = first or frame
            if index in chosen:
                height, width = fit_size(
                    first.height, first.width, plan.max_pixels, plan.patch_multiple
                )
                frames.append(
                    np.asarray(frame.make_image().resize((width, height), Image.Resampling.BICUBIC))
                )
    if first is None:
        raise job.error(VideoErrorKind.NO_FRAMES, "no frame of it can be decoded")
    return _Decoded(stamps_s, frames, first.height, first.width)


@contextmanager
def _open_libav(job: _Job) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open the first real video stream of a file; libav's errors, also those of the `with` body,
    become `VideoError`.

    Nothing that belongs to a container may be used, or be left to the garbage collector, once it is
    closed: PyAV 18.1 then reads freed memory. So every generator over it is closed first.
    """
    options = {"format_whitelist": _DEMUXERS}
    kind_of_refusal = _kind_of_refusal(job.path)
    try:
        with av.open(
            f"file:{job.path}", container_options=options, metadata_errors="replace"
        ) as container:
            kind_of_refusal = VideoErrorKind.UNREADABLE
            cover = av.stream.Disposition.attached_pic
            streams = [
                stream for stream in container.streams.video if not stream.disposition & cover
            ]
            if not streams:
                raise job.error(VideoErrorKind.NO_FRAMES, "it has no video stream")
            streams[0].thread_type, streams[0].thread_count = "AUTO", _DECODE_THREADS
            streams[0].codec_context.options = {"max_pixels": str(MAX_SOURCE_PIXELS)}
            # without it libav crops to aligned columns only: a 214 pixel wide theora frame comes
            # out 218 wide
            streams[0].codec_context.flags |= av.codec.context.Flags.unaligned
            yield container, streams[0]
    except av.error.FFmpegError as error:
        raise job.error(kind_of_refusal, f"the decoder says {error.strerror!r}") from error


def _kind_of_refusal(path: Path) -> VideoErrorKind:
    head = containers.read_head(path)
    if containers.is_mp4(
        head
    ):  # its index often stands at the end and is what a broken download lacks
        return VideoErrorKind.TRUNCATED
    return VideoErrorKind.UNREADABLE if containers.is_known(head) else VideoErrorKind.NOT_A_VIDEO


def _survey_libav(job: _Job) -> _Survey:
    with _open_libav(job) as (container, stream):
        job.check_dimensions(stream.codec_context.height, stream.codec_context.width)
        num_packets, is_last_partial = 0, False
        with closing(container.demux(stream)) as packets:
            for packet in packets:
                job.check_time()
                if packet.size:  # the last one, of size 0, only flushes the decoder
                    num_packets, is_last_partial = num_packets + 1, packet.is_corrupt
        if is_last_partial:
            raise job.error(VideoErrorKind.TRUNCATED, "the file ends inside its video stream")
        rate = stream.average_rate or stream.guessed_rate
        return _Survey(num_packets, float(rate) if rate else None)


def _decode_libav(job: _Job) -> Iterator[_RawFrame]:
    with _open_libav(job) as (container, stream), closing(container.decode(stream)) as frames:
        for frame in frames:
            turn = frame.rotation % 360  # counter-clockwise degrees that make the frame upright

            def make_image(frame: av.VideoFrame = frame, turn: int = turn) -> Image.Image:
                # PyAV 18.1 builds a converter per frame: with threads of its own it is about ten
                # times slower
                image = Image.fromarray(frame.to_ndarray(format="rgb24", threads=1))
                return image.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else image

            sides = (
                (frame.width, frame.height) if turn in (90, 270) else (frame.height, frame.width)
            )
            yield _RawFrame(frame.time, *sides, make_image)


@contextmanager
def _open_webp(job: _Job) -> Iterator[Image.Image]:
    try:
        with Image.open(job.path, formats=["WEBP"]) as image:
            job.check_dimensions(image.height, image.width)
            yield image
    except Image.DecompressionBombError as error:
        raise job.error(VideoErrorKind.TOO_LARGE, str(error)) from error
    except (OSError, EOFError, SyntaxError) as error:
        raise job.error(
            VideoErrorKind.UNREADABLE, f"the WebP decoder says {str(error)!r}"
        ) from error


def _survey_webp(job: _Job) -> _Survey:
    with _open_webp(job) as image:
        return _Survey(image.n_frames, None)


def _decode_webp(job: _Job) -> Iterator[_RawFrame]:
    with _open_webp(job) as image:
        black = Image.new("RGBA", image.size, "black")
        for index in range(image.n_frames):
            image.seek(index)
            image.load()

            def make_image(pixels: Image.Image = image) -> Image.Image:
                return Image.alpha_composite(black, pixels.convert("RGBA")).convert("RGB")

            yield _RawFrame(
                image.info.get("timestamp", 0) / 1000, image.height, image.width, make_image
            )
