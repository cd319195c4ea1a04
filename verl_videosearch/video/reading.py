"""The reading of one file: what an error message and a time check need, and the bounds that hold
over all readings of a process.

The one idea: a caller is never held longer than its time limit, and all decodes of a process
together never need more memory than `DecodeBudget.max_bytes`. A decode says what it will need
before it starts and waits until so much is free; waiting for others does not count as its own time.

Covers: Python's and a decoder's own slowness, a disk that hangs, memory of frames and references.
Does not cover: ending a thread that hangs inside a library: it is left behind, and what it holds of
the budget stays held until it ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from threading import Condition, Thread
from typing import NamedTuple, TypeVar

import numpy as np

from verl_videosearch.video.errors import (
    MAX_SOURCE_PIXELS,
    VideoError,
    VideoErrorKind,
    check_file,
)

DECODE_TIMEOUT_S = 60.0
"""How long a caller waits for one file unless it says otherwise."""
MAX_DECODE_BYTES = 3 * 2**29
"""Memory that all decodes of a process may need at once, frames and references counted: 1.5 GiB."""
_MAX_WAIT_S = (
    600.0  # for other decodes; only a decoder that hangs for good makes anyone wait so long
)
T = TypeVar("T")


class Survey(NamedTuple):
    """What a look at a file told before its frames were decoded."""

    num_frames: int
    """Frames that it seems to hold."""
    fps: float | None
    """The rate that it names."""
    num_decoder_bytes: int
    """Memory that decoding needs, references counted, the frames that are kept not."""
    stream_index: int = 0
    """Which of the file's streams is the film."""
    notes: tuple[str, ...] = ()
    """What a user should know about the file though it can be used."""


class RawFrame(NamedTuple):
    """One decoded frame; valid until the next one is asked for."""

    stamp_s: float | None
    duration_s: float | None
    height: int
    """Pixels of the upright frame."""
    width: int
    """Pixels of the upright frame."""
    convert: Callable[[int, int], np.ndarray]
    """(height, width) -> upright RGB of that size, uint8 (height, width, 3)."""


class Reading:
    """One file being read, by whom, and until when."""

    def __init__(self, path: str | PathLike[str], uid: str | None, timeout_s: float) -> None:
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be positive, got {timeout_s!r}")
        self.path, self.uid, self.timeout_s = Path(path), uid, timeout_s
        self.deadline = time.monotonic() + timeout_s
        """Moves while the reading waits for others."""
        self.is_waiting = False

    def error(self, kind: VideoErrorKind, cause: str) -> VideoError:
        """Make an error that names the file and the sample."""
        return VideoError(kind, fspath(self.path), cause, self.uid)

    def check_time(self) -> None:
        """Raise `VideoError` once the time limit has passed."""
        if time.monotonic() > self.deadline:
            raise self.late()

    def late(self) -> VideoError:
        """Make the error of a file that took too long."""
        cause = f"reading and decoding took longer than {self.timeout_s:g} s"
        return self.error(VideoErrorKind.TIMEOUT, cause)

    def check_dimensions(self, height: int, width: int) -> None:
        """Raise `VideoError` for a frame that is too large to be decoded at all."""
        if height * width > MAX_SOURCE_PIXELS:
            cause = f"a frame has {width}x{height} pixels, allowed are {MAX_SOURCE_PIXELS}"
            raise self.error(VideoErrorKind.TOO_LARGE, cause)


class DecodeBudget:
    """A number of bytes that concurrent decodes share."""

    def __init__(self, max_bytes: int = MAX_DECODE_BYTES) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._changed = Condition()

    @contextmanager
    def hold(self, num_bytes: int, reading: Reading) -> Iterator[None]:
        """Hold so many bytes during the `with` body, waiting until they are free; raises
        `VideoError` if they never can be."""
        if num_bytes > self.max_bytes:
            raise reading.error(
                VideoErrorKind.TOO_LARGE,
                f"decoding it needs about {num_bytes / 1e9:.1f} GB of memory, "
                f"allowed are {self.max_bytes / 1e9:.1f} GB",
            )
        self._take(num_bytes, reading)
        try:
            yield
        finally:
            with self._changed:
                self.held_bytes -= num_bytes
                self._changed.notify_all()

    def _take(self, num_bytes: int, reading: Reading) -> None:
        start, reading.is_waiting = time.monotonic(), True
        with self._changed:
            is_free = self._changed.wait_for(
                lambda: self.held_bytes + num_bytes <= self.max_bytes, _MAX_WAIT_S
            )
            if is_free:
                self.held_bytes += num_bytes
        reading.deadline += time.monotonic() - start
        reading.is_waiting = False
        if not is_free:
            cause = f"other decodes held the memory for {_MAX_WAIT_S:g} s"
            raise reading.error(VideoErrorKind.TIMEOUT, cause)


BUDGET = DecodeBudget()
"""What all decodes of this process share."""


def run_in_time(
    path: str | PathLike[str], timeout_s: float, uid: str | None, work: Callable[[Reading], T]
) -> T:
    """Run `work` on a thread of its own and wait until its time limit has passed.

    A library that hangs inside one call cannot be stopped, only left behind: its thread is a daemon
    and ends at its next time check. Raises `VideoError`; running out of memory is one, too.
    """
    reading = Reading(path, uid, timeout_s)
    check_file(path, uid)
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work(reading))
        except MemoryError as error:
            failure = reading.error(VideoErrorKind.NO_MEMORY, "the machine has no memory left")
            failure.__cause__ = error
            future.set_exception(failure)
        except BaseException as error:  # handed over to the waiting caller, nothing is swallowed
            future.set_exception(error)

    try:
        Thread(target=run, name="video-decode", daemon=True).start()
    except RuntimeError as error:  # "can't start new thread"
        raise reading.error(VideoErrorKind.NO_MEMORY, str(error)) from error
    return _await_result(future, reading)


def _await_result(future: Future[T], reading: Reading) -> T:
    while True:
        # the deadline moves while the reading waits for others: look again when it passes
        left_s = 1.0 if reading.is_waiting else max(0.001, reading.deadline - time.monotonic())
        try:
            return future.result(left_s)
        except FutureTimeoutError as error:
            if future.done():
                raise
            if not reading.is_waiting and time.monotonic() > reading.deadline:
                raise reading.late() from error
