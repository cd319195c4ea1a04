"""Real video files for tests, written on the spot: frame i is a flat grey of `GREY_STEP * i` with a
white corner."""

import math
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

GREY_STEP = 8
CODECS = {
    ".mp4": "libx264",
    ".mov": "libx264",
    ".mkv": "libx264",
    ".webm": "libvpx-vp9",
    ".avi": "mpeg4",
    ".mpeg": "mpeg2video",
    ".ogv": "libvpx",
    ".flv": "flv1",
}
SUFFIXES = [*CODECS, ".gif", ".webp"]
FPS = 25  # the mpeg formats know few other rates


def grey_frames(num_frames: int, height: int = 56, width: int = 84) -> np.ndarray:
    """Make the frames of a clip, uint8 (N, H, W, 3); the upper left quarter is white."""
    levels = (np.arange(num_frames) * GREY_STEP % 256).astype(np.uint8)
    frames = np.repeat(levels, height * width * 3).reshape(num_frames, height, width, 3)
    frames[:, : height // 2, : width // 2] = 255
    return frames


def read_levels(frames: np.ndarray) -> list[int]:
    """Recover the frame numbers from the grey of the lower right quarter."""
    height, width = frames.shape[1:3]
    corner = frames[:, height // 2 + 4 :, width // 2 + 4 :]
    return [round(float(level) / GREY_STEP) for level in corner.mean(axis=(1, 2, 3))]


@contextmanager
def keep_schedule() -> Iterator[None]:
    """Give this thread back its scheduling: SVT-AV1 makes whoever opens it as root, and so every
    process that is started later, a real-time one that lets no other run."""
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameter)


def write_clip(
    path: Path,
    frames: np.ndarray | None = None,
    *,
    codec: str | None = None,
    pixel_format: str = "yuv420p",
    stamps_ms: Sequence[int] | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
) -> Path:
    """Write frames (default: 12 grey ones) in the format that the suffix of `path` names."""
    frames = grey_frames(12) if frames is None else frames
    if path.suffix in (".gif", ".webp"):
        images = [Image.fromarray(frame) for frame in frames]
        images[0].save(
            path, save_all=True, append_images=images[1:], duration=1000 // FPS, lossless=True
        )
        return path
    with keep_schedule(), av.open(str(path), "w") as container:
        stream = container.add_stream(codec or CODECS[path.suffix], rate=FPS, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixel_format
        if stamps_ms:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if stamps_ms:
                frame.pts, frame.time_base = stamps_ms[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if rotation:
        _rotate_mp4(path, rotation)
    return path


def _rotate_mp4(path: Path, degrees: int) -> None:
    """Tell players to turn an mp4 counter-clockwise, by the matrix in its track header (PyAV 17
    cannot write it)."""
    data = bytearray(path.read_bytes())
    cos, sin = round(math.cos(math.radians(degrees))), round(math.sin(math.radians(degrees)))
    matrix = struct.pack(">9i", cos << 16, -sin << 16, 0, sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    start = data.index(b"tkhd") + 44
    data[start : start + len(matrix)] = matrix
    path.write_bytes(data)


def write_sound(path: Path) -> Path:
    """Write a file that holds sound only."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
