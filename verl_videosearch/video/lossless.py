"""Write a video file that gives back exactly the pixels that went in, and the same bytes every
time.

The one idea: a lossy codec tells about a defect long before and after it (H.264 at crf 23 shifts
frames ten steps away by three grey levels), so pairs whose point is a hidden defect are stored
without loss: FFV1 in Matroska, RGB.

>>> import tempfile
>>> frames = np.arange(2 * 56 * 56 * 3, dtype=np.uint8).reshape(2, 56, 56, 3)
>>> with tempfile.TemporaryDirectory() as folder:
...     write_lossless(Path(folder) / "two.mkv", frames)
...     has_frames(Path(folder) / "two.mkv", frames)
True

docs/hide_and_seek.md compares containers. Does not cover: sound, transparency, variable frame rate.
"""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np

from verl_videosearch.video.decode import FramePlan, VideoError, VideoFrames, read_candidate_frames

SUFFIX = ".mkv"
FPS = 8
"""Frames per second of the files; synthetic pairs have no speed of their own."""
_REPEATABLE = {
    "fflags": "+bitexact"
}  # Matroska otherwise writes a random id and the version of the library


def write_lossless(path: Path, frames: np.ndarray, fps: int = FPS) -> None:
    """Write uint8 (N, H, W, 3) frames to `path`, in one step: a reader sees no file or the whole
    one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{SUFFIX}")
    with av.open(str(partial), "w", format="matroska", options=_REPEATABLE) as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        stream.codec_context.thread_count = 1  # the number of threads would change the bytes
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="bgr0", threads=1)))
        container.mux(stream.encode())
    os.replace(partial, path)


def read_lossless(path: Path, frames: np.ndarray) -> VideoFrames:
    """Read all frames of a file, unscaled, where `frames` has the expected shape; raises
    `VideoError`."""
    num_frames, height, width = frames.shape[:3]
    return read_candidate_frames(path, FramePlan(num_frames, height * width, patch_multiple=2))


def has_frames(path: Path, frames: np.ndarray) -> bool:
    """Say whether `path` decodes to exactly these frames; a missing, damaged or different file does
    not."""
    try:
        video = read_lossless(path, frames)
    except VideoError:
        return False
    return video.num_decoded_frames == len(frames) and np.array_equal(video.frames, frames)


def store_lossless(path: Path, frames: np.ndarray) -> bool:
    """Make sure that `path` holds exactly these frames; returns False when it already did (resuming
    after a kill)."""
    if has_frames(path, frames):
        return False
    write_lossless(path, frames)
    if not has_frames(path, frames):
        raise RuntimeError(
            f"{path} does not decode to the frames just written; this FFmpeg's ffv1 is not lossless"
        )
    return True
