"""Compare lossless ways to store a short clip: time to write, time to read back through our own
reader, size.

    python -m benchmarks.containers

Uses frames of a real clip at the sizes of the hide-and-seek profiles, checks that every pixel comes
back, and prints a Markdown table. One thread writes. docs/hide_and_seek.md holds a run and the
decision.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import typer
from PIL import Image
from verl_videosearch.data_prep.synthetic.clips import cut_window, find_clips, read_clip

from verl_videosearch.video.decode import FramePlan, read_candidate_frames

SHAPES = ((16, 56, 56), (48, 252, 448))
"""Frames, height, width."""
FPS = 8


class Container(NamedTuple):
    """One way to store frames."""

    codec: str
    pixel_format: str
    suffix: str
    options: dict[str, str]


CONTAINERS = (
    Container("ffv1", "bgr0", ".mkv", {}),
    Container("libx264rgb", "bgr0", ".mkv", {"qp": "0", "preset": "ultrafast"}),
    Container("huffyuv", "rgb24", ".avi", {}),
    Container("utvideo", "gbrp", ".avi", {}),
    Container("png", "rgb24", ".mov", {"compression_level": "1"}),
    Container("webp", "lossless", ".webp", {}),
)


def write(path: Path, frames: np.ndarray, container: Container) -> None:
    """Store frames in one of the ways."""
    if container.suffix == ".webp":
        images = [Image.fromarray(frame) for frame in frames]
        images[0].save(
            path, save_all=True, append_images=images[1:], lossless=True, quality=0, method=0
        )
        return
    with av.open(str(path), "w") as output:
        stream = output.add_stream(container.codec, rate=FPS, options=container.options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], container.pixel_format
        stream.codec_context.thread_count = 1
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            output.mux(stream.encode(frame.reformat(format=container.pixel_format, threads=1)))
        output.mux(stream.encode())


def time_ms(work: Callable[[], object], repeats: int) -> float:
    """Return the median time of a call in milliseconds."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds)


def main(repeats: int = 7) -> None:
    """Print the table."""
    clip = read_clip(next(path for path in find_clips() if path.stem == "bigbuckbunny"), 1280 * 720)
    print(
        "| frames | codec | suffix | write ms | read ms | KiB |\n"
        "| --- | --- | --- | --- | --- | --- |"
    )
    for num_frames, height, width in SHAPES:
        rng = np.random.default_rng(0)
        frames = cut_window(clip, rng, num_frames=num_frames, height=height, width=width)
        plan = FramePlan(num_frames, height * width)
        for container in CONTAINERS:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"clip{container.suffix}"
                write_ms = time_ms(lambda p=path, f=frames, c=container: write(p, f, c), repeats)
                read_ms = time_ms(lambda p=path, n=plan: read_candidate_frames(p, n), repeats)
                assert np.array_equal(read_candidate_frames(path, plan).frames, frames), (
                    f"{container} is not lossless"
                )
                size = f"{path.stat().st_size / 1024:.0f}"
            name = f"{container.codec} {container.pixel_format}"
            shape = f"{num_frames} x {height} x {width}"
            print(
                f"| {shape} | {name} | {container.suffix} "
                f"| {write_ms:.1f} | {read_ms:.1f} | {size} |"
            )


if __name__ == "__main__":
    typer.run(main)
