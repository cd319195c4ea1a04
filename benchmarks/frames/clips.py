"""Clips to measure on, and what a call asks of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
from verl_videosearch.data_prep.synthetic.clips import find_clips

from tests.clips import keep_schedule
from verl_videosearch.frames import sample_indices
from verl_videosearch.video.decode import FramePlan

CALL = FramePlan(frames_per_video=48, max_pixels=400 * 28 * 28)
FIRST_VIEW = FramePlan(frames_per_video=48, max_pixels=512 * 28 * 28, shown=4)
NUM_IN_CALL = 8
CODECS: tuple[tuple[str, int, str, dict[str, str]], ...] = (
    ("h264 360p.mp4", 360, "libx264", {}),
    ("h264 1080p.mp4", 1080, "libx264", {"preset": "veryfast"}),
    ("hevc 720p.mp4", 720, "libx265", {"preset": "ultrafast", "x265-params": "log-level=none"}),
    ("vp9 720p.webm", 720, "libvpx-vp9", {"cpu-used": "8", "deadline": "realtime"}),
    ("av1 720p.mp4", 720, "libsvtav1", {"preset": "12"}),
    ("mpeg4 720p.avi", 720, "mpeg4", {}),
)
"""File, height, encoder and its options."""


def make_clip(
    path: Path, seconds: float, height: int, codec: str = "libx264", options: dict | None = None
) -> Path:
    """Cut the real clip to a length (played to and fro) and scale it to a height."""
    source = next(clip for clip in find_clips() if clip.stem == "bigbuckbunny")
    with av.open(str(source)) as reader:
        frames = list(reader.decode(video=0))
    order = [*range(len(frames)), *reversed(range(len(frames)))]
    with keep_schedule(), av.open(str(path), "w") as writer:
        stream = writer.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = height, height * 16 // 9 // 2 * 2
        stream.pix_fmt = "yuv420p"
        for number in range(int(seconds * 25)):
            frame = frames[order[number % len(order)]]
            frame = frame.reformat(stream.width, stream.height, "yuv420p", threads=1)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            writer.mux(stream.encode(frame))
        writer.mux(stream.encode())
    return path


def list_candidates(path: Path) -> list[int]:
    """Return which decoded frames of a clip are its candidates."""
    with av.open(str(path)) as container:
        num_frames = sum(1 for packet in container.demux(video=0) if packet.size)
    return sample_indices(num_frames, CALL.frames_per_video)


def choose_call(path: Path) -> tuple[list[int], list[int]]:
    """Return 8 candidates of a clip, and which decoded frames they are."""
    candidates = list_candidates(path)
    chosen = [(7 * number) % len(candidates) for number in range(NUM_IN_CALL)]
    return chosen, [candidates[index] for index in chosen]
