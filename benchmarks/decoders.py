"""Compare video decoders on the job we have: 48 evenly spaced frames of a short clip, cold, as RGB.

    pip install -e ".[bench]"     # torchcodec also needs FFmpeg's shared libraries on the system
    python -m benchmarks.decoders --repeats 5 CLIP [CLIP ...]

Prints two Markdown tables. The first gives the median time of a cold read (open, decode, convert to
RGB, close; no resizing) and its ratio to PyAV's in the same run. The second says whether the frames
are the right ones: each wanted frame must be nearer to the same frame of a full sequential FFmpeg
decode than to any frame beside it (a decoder may round colours its own way, but not be off by one),
and whether damaged files are refused.

Every decoder gets two threads and finds the number of frames in its own documented way. They take
turns, so a machine that slows down slows all of them. docs/decoders.md holds a run and the
decision.
"""

from __future__ import annotations

import importlib.metadata
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import av
import numpy as np
import typer

from verl_videosearch.frames import sample_indices

NUM_WANTED = 48
NUM_THREADS = 2
Reader = Callable[[Path], np.ndarray]


def read_with_pyav(path: Path) -> np.ndarray:
    """Count packets, decode from start to end, convert only the wanted frames, as
    `verl_videosearch.video.decode` does."""
    with av.open(str(path)) as container:
        num_frames = sum(1 for packet in container.demux(video=0) if packet.size)
    wanted = set(sample_indices(num_frames, NUM_WANTED))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = "AUTO", NUM_THREADS
        stream.codec_context.flags |= av.codec.context.Flags.unaligned
        frames = (frame for index, frame in enumerate(container.decode(stream)) if index in wanted)
        return np.stack([frame.to_ndarray(format="rgb24", threads=1) for frame in frames])


def read_with_decord(path: Path) -> np.ndarray:
    """Ask decord2 for a batch of frames."""
    import decord

    reader = decord.VideoReader(str(path), num_threads=NUM_THREADS)
    return reader.get_batch(sample_indices(len(reader), NUM_WANTED)).asnumpy()


def read_with_torchcodec(path: Path) -> np.ndarray:
    """Ask torchcodec for frames by index, in its exact seek mode."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=NUM_THREADS)
    return decoder.get_frames_at(sample_indices(len(decoder), NUM_WANTED)).data.numpy()


def read_with_opencv(path: Path) -> np.ndarray:
    """Grab every frame and retrieve the wanted ones: OpenCV's seeking is documented as inexact."""
    import cv2

    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, NUM_THREADS])
    wanted = set(sample_indices(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), NUM_WANTED))
    frames: list[np.ndarray] = []
    index = 0
    while capture.grab():
        if index in wanted:
            frames.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
        index += 1
    capture.release()
    return np.stack(frames)


READERS: dict[str, tuple[str, Reader]] = {
    "PyAV": ("av", read_with_pyav),
    "decord2": ("decord2", read_with_decord),
    "torchcodec": ("torchcodec", read_with_torchcodec),
    "OpenCV": ("opencv-python-headless", read_with_opencv),
}


def attempt(reader: Reader, path: Path) -> np.ndarray | str:
    """Read a file; an error's name is a result too."""
    try:
        return reader(path)
    except Exception as error:  # noqa: BLE001 - four libraries, each with exceptions of its own, and all are findings
        return type(error).__name__


def judge_frames(found: np.ndarray | str, truth: np.ndarray) -> str:
    """Say whether `found` are the wanted frames of `truth`, the full decode."""
    if isinstance(found, str):
        return f"error: {found}"
    wanted = sample_indices(len(truth), NUM_WANTED)
    if len(found) != len(wanted) or found.shape[1:] != truth.shape[1:]:
        return f"{len(found)} of {len(wanted)} frames, {found.shape[2]}x{found.shape[1]}"
    num_wrong, worst = 0, 0.0
    for index, frame in zip(wanted, found, strict=True):
        near = range(max(0, index - 2), min(len(truth), index + 3))
        distance = {
            other: float(np.abs(truth[other].astype(np.int16) - frame).mean()) for other in near
        }
        num_wrong += distance[index] > min(distance.values())
        worst = max(worst, distance[index])
    return f"{num_wrong} wrong" if num_wrong else f"exact, colour ±{worst:.1f}"


def decode_everything(path: Path) -> np.ndarray:
    """Decode all frames in order on one thread: the truth that readers are compared with."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        container.streams.video[0].codec_context.flags |= av.codec.context.Flags.unaligned
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def time_readers(path: Path, repeats: int) -> dict[str, float | None]:
    """Return the median milliseconds of each reader that can read the file."""
    seconds: dict[str, list[float]] = {name: [] for name in READERS}
    for _ in range(repeats):
        for name, (_, reader) in READERS.items():
            start = time.perf_counter()
            if not isinstance(attempt(reader, path), str):
                seconds[name].append(time.perf_counter() - start)
    return {
        name: statistics.median(times) * 1000 if times else None for name, times in seconds.items()
    }


def make_odd_files(clip: Path, folder: Path) -> dict[str, Path]:
    """Derive damaged and unusual files from one mp4."""
    data = clip.read_bytes()
    copies = {
        "cut at 60 %": data[: len(data) * 6 // 10],
        "empty": b"",
        "text": b"only words\n" * 100,
    }
    for name, content in copies.items():
        (folder / f"{name}.mp4").write_bytes(content)
    files = {name: folder / f"{name}.mp4" for name in copies}
    cut_mkv = folder / "cut.mkv"
    with av.open(str(clip)) as source, av.open(str(folder / "whole.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    whole = (folder / "whole.mkv").read_bytes()
    cut_mkv.write_bytes(whole[: len(whole) * 6 // 10])
    return files | {"mkv cut at 60 %": cut_mkv}


def print_table(title: str, rows: list[list[str]]) -> None:
    """Print one Markdown table."""
    header = [title, *READERS]
    for row in (header, ["---"] * len(header), *rows):
        typer.echo("| " + " | ".join(row) + " |")
    typer.echo()


def main(
    clips: list[Path],
    repeats: Annotated[int, typer.Option(min=1, help="timed reads per clip and decoder")] = 5,
) -> None:
    """Compare the decoders on CLIPS, real video files."""
    versions = ", ".join(
        f"{name} {importlib.metadata.version(package)}" for name, (package, _) in READERS.items()
    )
    typer.echo(
        f"{versions}, Python {platform.python_version()}, {NUM_THREADS} threads, "
        f"median of {repeats}\n"
    )
    speed, frames = [], []
    for clip in clips:
        truth = decode_everything(clip)
        title = f"{clip.name}, {truth.shape[2]}x{truth.shape[1]}, {len(truth)} frames"
        frames.append(
            [title, *(judge_frames(attempt(reader, clip), truth) for _, reader in READERS.values())]
        )
        times = time_readers(clip, repeats)
        base = times["PyAV"] or float("nan")
        speed.append(
            [
                title,
                *(
                    "fails" if ms is None else f"{ms:.0f} ms, {ms / base:.2f}x"
                    for ms in times.values()
                ),
            ]
        )
    with tempfile.TemporaryDirectory() as folder:
        for name, path in make_odd_files(clips[0], Path(folder)).items():
            results = [attempt(reader, path) for _, reader in READERS.values()]
            frames.append(
                [name, *(r if isinstance(r, str) else f"reads {len(r)} frames" for r in results)]
            )
    print_table("cold read", speed)
    print_table("frames", frames)


if __name__ == "__main__":
    typer.run(main)
