"""The decoders that a user has today: each opens a file and returns frames at a size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image

NUM_THREADS = 2
Fetch = Callable[[Path, Sequence[int], int, int], Sequence[np.ndarray]]
"""(file, indices, height, width) -> the frames, at that size."""


def fetch_with_pyav(
    path: Path, indices: Sequence[int], height: int, width: int
) -> list[np.ndarray]:
    """Decode from the start up to the last frame that is wanted."""
    wanted, frames = set(indices), {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = "AUTO", NUM_THREADS
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                frames[index] = frame.to_ndarray(
                    format="rgb24", width=width, height=height, threads=1, interpolation="BICUBIC"
                )
            if index >= max(wanted):
                break
    return [frames[index] for index in indices]


def seek_with_pyav(path: Path, indices: Sequence[int], height: int, width: int) -> list[np.ndarray]:
    """Seek to the keyframe before each wanted frame (constant rate assumed), decode from there."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = "AUTO", NUM_THREADS
        step = 1 / (stream.average_rate * stream.time_base)
        for index in indices:
            stamp = int(index * step) + (stream.start_time or 0)
            container.seek(stamp, stream=stream)
            frame = next(f for f in container.decode(stream) if f.pts >= stamp)
            frames.append(
                frame.to_ndarray(
                    format="rgb24", width=width, height=height, threads=1, interpolation="BICUBIC"
                )
            )
    return frames


def fetch_with_decord(
    path: Path, indices: Sequence[int], height: int, width: int
) -> Sequence[np.ndarray]:
    """Ask decord2 for a batch of frames; it resizes while it decodes."""
    import decord

    reader = decord.VideoReader(str(path), width=width, height=height, num_threads=NUM_THREADS)
    return reader.get_batch(list(indices)).asnumpy()


def fetch_with_opencv(
    path: Path, indices: Sequence[int], height: int, width: int
) -> list[np.ndarray]:
    """Grab up to the last wanted frame: OpenCV's seeking is documented as inexact."""
    import cv2

    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, NUM_THREADS])
    wanted, frames = set(indices), {}
    for index in range(max(wanted) + 1):
        capture.grab()
        if index in wanted:
            pixels = cv2.resize(
                capture.retrieve()[1], (width, height), interpolation=cv2.INTER_AREA
            )
            frames[index] = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    capture.release()
    return [frames[index] for index in indices]


def fetch_with_torchcodec(
    path: Path, indices: Sequence[int], height: int, width: int
) -> Sequence[np.ndarray]:
    """Ask torchcodec for frames by index in its exact mode; Pillow resizes."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=NUM_THREADS)
    frames = decoder.get_frames_at(list(indices)).data.numpy()
    size = (width, height)
    return [
        np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
        for frame in frames
    ]


RIVALS: dict[str, tuple[str, Fetch]] = {
    "PyAV": ("av", fetch_with_pyav),
    "PyAV, seeking": ("av", seek_with_pyav),
    "decord2": ("decord2", fetch_with_decord),
    "OpenCV": ("opencv-python-headless", fetch_with_opencv),
    "torchcodec": ("torchcodec", fetch_with_torchcodec),
}


class Rivals(NamedTuple):
    """The decoders that can be used here, and why the others cannot."""

    usable: dict[str, Fetch]
    missing: dict[str, str]


def find_rivals(clip: Path) -> Rivals:
    """Try every decoder on a clip."""
    rivals = Rivals({}, {})
    for name, (package, fetch) in RIVALS.items():
        try:
            fetch(clip, [0], 56, 84)
            rivals.usable[name] = fetch
        except ModuleNotFoundError:
            rivals.missing[name] = f"{package} is not installed"
        except Exception as error:  # noqa: BLE001 - four libraries, each with exceptions of its own
            reason = str(error).splitlines()[0] if str(error) else ""
            rivals.missing[name] = f"{type(error).__name__} {reason[:60]}"
    return rivals
