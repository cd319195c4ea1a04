"""Decode every video of one or more files of samples into the frame store, before training needs
them.

    python -m data_prep.frames train.parquet --video-root ~/data --store /local/frames --workers 16
    RAY_ADDRESS=auto python -m data_prep.frames ...          # the same, on every machine of a Ray
                                                             cluster

The one idea: the store itself is the state. A video that is in it is only checked, so a run that
was killed is resumed by starting it again. A few videos are decoded first: they give the estimate
of disk space and time, and the run stops there if the disk is too small.

Covers: one process per worker through Ray Data; broken videos, also those that kill the process
which decodes them: they are listed in a JSON file with kind and cause, and left out of `--out`.
Does not cover: a store on the local disks of several machines; on a cluster give a folder that they
share.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from verl_videosearch.data_prep.sets.frame_filler import FrameFiller, fill_video

from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.extras import Extra, require
from verl_videosearch.models.option_groups import Store, VideoRoot
from verl_videosearch.report.console import explain_errors
from verl_videosearch.runs.jobs import ExitStatus
from verl_videosearch.runs.progress import make_bar
from verl_videosearch.sample import PreferenceSample, read_samples, write_samples
from verl_videosearch.video.decode import DECODE_TIMEOUT_S, FramePlan
from verl_videosearch.video.pair import plan_frames
from verl_videosearch.video.store import FrameStore, default_root

NUM_PROBED = 8
"""Videos decoded for the estimate."""
_ROWS_PER_BLOCK = 8  # what a worker takes at once


@dataclass
class FillReport:
    """What happened to the videos; filled while results arrive."""

    num_hits: int = 0
    """Videos that were in the store already."""
    num_decoded: int = 0
    num_bytes: int = 0
    """Size of the frames of both."""
    broken: list[dict[str, str]] = field(default_factory=list)
    """path, uid, kind and cause of every video that gave no frames."""
    seconds: float = 0.0
    """Wall time of the filling, without the start of Ray."""

    def add(self, result: dict[str, Any]) -> None:
        if result["kind"]:
            self.broken.append({name: result[name] for name in ("path", "uid", "kind", "cause")})
        else:
            self.num_hits += result["was_hit"]
            self.num_decoded += not result["was_hit"]
            self.num_bytes += result["num_bytes"]

    @property
    def num_good(self) -> int:
        return self.num_hits + self.num_decoded

    def describe(self, report_file: Path, num_workers: int) -> str:
        """Sum up in one line."""
        rate = (self.num_good + len(self.broken)) / max(self.seconds, 1e-9)
        return (
            f"{self.num_decoded:,} decoded, {self.num_hits:,} there already, "
            f"{len(self.broken):,} broken ({report_file}); {rate:.1f} videos/s with "
            f"{num_workers} workers, "
            f"{decimal(self.num_bytes // max(self.num_good, 1))} per video"
        )


def list_videos(samples: Sequence[PreferenceSample], root: Path | None) -> list[dict[str, str]]:
    """Return every video once, with the uid of the first sample that shows it."""
    uid_of: dict[str, str] = {}
    for sample in samples:
        for path in sample.resolve_videos(root):
            uid_of.setdefault(str(path), sample.uid)
    return [{"path": path, "uid": uid} for path, uid in uid_of.items()]


def spread(rows: Sequence[dict[str, str]], num: int) -> list[dict[str, str]]:
    """Pick `num` rows evenly over the list.

    >>> [row["path"] for row in spread([{"path": name} for name in "abcdef"], 3)]
    ['a', 'c', 'e']
    """
    return (
        [rows[index * len(rows) // num] for index in range(min(num, len(rows)))]
        if len(rows) > num
        else list(rows)
    )


def start_ray(num_workers: int) -> Any:
    """Connect to the cluster that RAY_ADDRESS names, or start Ray on this machine; returns
    `ray.data`."""
    os.environ.setdefault(
        "RAY_BACKEND_LOG_LEVEL", "fatal"
    )  # Ray 2.60 logs an error for every pool of actors
    ray = require("ray", Extra.GPU)
    data = require("ray.data", Extra.GPU)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if not ray.is_initialized():
        local = (
            {}
            if os.environ.get("RAY_ADDRESS")
            else {"num_cpus": num_workers + 1, "include_dashboard": False}
        )
        ray.init(log_to_driver=False, logging_level="ERROR", **local)
    data.DataContext.get_current().enable_progress_bars = False  # ours counts videos
    return data


def fill_store(
    rows: Sequence[dict[str, str]],
    fill: Callable[[Mapping[str, str]], dict[str, Any]],
    num_workers: int,
    report: FillReport,
    on_result: Callable[[], None] = lambda: None,
) -> None:
    """Run `fill` on every video with `num_workers` processes; fills `report`."""
    data = start_ray(num_workers)
    start = time.perf_counter()
    num_blocks = -(-len(rows) // _ROWS_PER_BLOCK)
    results = data.from_items(list(rows), override_num_blocks=num_blocks).map(
        FrameFiller,
        fn_constructor_args=(fill,),
        num_cpus=1,
        concurrency=min(num_workers, num_blocks),
    )
    for result in results.iter_rows():
        report.add(result)
        on_result()
    report.seconds += time.perf_counter() - start


def estimate(
    rows: Sequence[dict[str, str]],
    fill: Callable[[Mapping[str, str]], dict[str, Any]],
    store: Path,
    console: Console,
) -> bool:
    """Decode a few videos, print what all will need, and return whether the disk has room for
    it."""
    probe = FrameFiller(fill)
    first, *others = spread(rows, NUM_PROBED)
    results = [probe(first)]  # starts the child process; its time does not count
    start = time.perf_counter()
    results += map(probe, others)
    good = [result for result in results if not result["kind"]]
    if not good:
        console.print(
            f"none of {len(results)} probed videos can be read; first: {results[0]['cause']}",
            markup=False,
        )
        return True
    each = sum(result["num_bytes"] for result in good) / len(good)
    seconds = (time.perf_counter() - start) / max(len(others), 1)
    present = FrameStore(store).size_bytes()
    free = shutil.disk_usage(store).free
    needed = max(0, each * len(rows) - present)
    console.print(
        f"{len(rows):,} videos, about {decimal(int(each))} and {seconds:.2f} s each (from "
        f"{len(results)}): "
        f"{decimal(int(each * len(rows)))} in all, {decimal(present)} there already, "
        f"{decimal(free)} free",
        soft_wrap=True,
    )
    return needed < free


def write_report(path: Path, report: FillReport) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = {"hits": report.num_hits, "decoded": report.num_decoded, "broken": len(report.broken)}
    path.write_text(json.dumps({**counts, "videos": report.broken}, indent=1), "utf-8")


def main(
    files: Annotated[list[Path], typer.Argument(help="Parquet files of samples.")],
    video_root: VideoRoot = None,
    store: Store = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that decode.")] = max(
        1, (os.cpu_count() or 2) // 2
    ),
    frames_per_video: Annotated[
        int, typer.Option(help="As in training.")
    ] = FramePlan.frames_per_video,
    max_pixels: Annotated[
        int, typer.Option(help="As tool_max_pixels in training.")
    ] = EpisodeConfig.tool_max_pixels,
    initial_max_pixels: Annotated[
        int, typer.Option(help="As in training.")
    ] = EpisodeConfig.initial_max_pixels,
    initial_frames_per_video: Annotated[
        int, typer.Option(help="As in training.")
    ] = EpisodeConfig.initial_frames_per_video,
    patch_multiple: Annotated[int, typer.Option(help="As in training.")] = FramePlan.patch_multiple,
    timeout_s: Annotated[
        float, typer.Option(help="Longest time for one video.")
    ] = DECODE_TIMEOUT_S,
    report_file: Annotated[Path, typer.Option("--report", help="JSON of broken videos.")] = Path(
        "broken_videos.json"
    ),
    out: Annotated[
        Path | None, typer.Option(help="Write the samples whose videos are both good.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Go on although the disk looks too small.")
    ] = False,
) -> None:
    """Decode all videos into the frame store."""
    console, report, folder = Console(), FillReport(), store or default_root()
    with explain_errors():
        plans = plan_frames(
            EpisodeConfig(
                frames_per_video=frames_per_video,
                tool_max_pixels=max_pixels,
                initial_max_pixels=initial_max_pixels,
                initial_frames_per_video=min(initial_frames_per_video, frames_per_video),
                patch_multiple=patch_multiple,
            )
        )
        samples = [sample for file in files for sample in read_samples(file)]
        if not (rows := list_videos(samples, video_root)):
            raise ValueError(f"no samples in {', '.join(map(str, files))}")
        require("ray.data", Extra.GPU)
    fill = partial(fill_video, store=str(folder), plans=plans, timeout_s=timeout_s)
    with explain_errors():
        if not estimate(rows, fill, folder, console) and not force:
            raise ValueError("the disk is too small; free some, lower --max-pixels, or --force")
    with make_bar() as progress:
        task = progress.add_task("videos", total=len(rows), figures="")
        fill_store(rows, fill, workers, report, on_result=lambda: progress.advance(task))
    write_report(report_file, report)
    console.print(report.describe(report_file, workers), markup=False, soft_wrap=True)
    if out is not None:
        bad = {video["path"] for video in report.broken}
        good = [
            each
            for each in samples
            if not bad & {str(path) for path in each.resolve_videos(video_root)}
        ]
        console.print(
            f"wrote {write_samples(out, good):,} of {len(samples):,} samples to {out}", markup=False
        )
    if not report.num_good:
        raise typer.Exit(int(ExitStatus.TOO_MANY_FAILED))


if __name__ == "__main__":
    typer.run(main)
