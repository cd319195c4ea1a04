"""How fast data is made: pairs, frames, label files and SFT rows per second, with 1 and 2 workers.

    python -m benchmarks.data [--pairs 24] [--films 4] [--rows 4000] [--episodes 400]

The one idea: each worker is a process that gets an equal share and calls what the programs call;
the clock runs from the first share handed out to the last one done, workers are warm. CPU seconds
beside it say what a worker costs when the machine is busy with other things.

| what | as in |
|---|---|
| pairs | `data_prep.hide_and_seek`: paint, check, store losslessly, read back |
| frames, tiny | `data_prep.frames` on those pairs' videos: decode, resize, store |
| frames, 720p | the same on films of 2 s at 7B sizes |
| label rows | `data_prep.build`: a csv of one's own pairs, videos not there yet |
| SFT rows | `data_prep.sft_rows`: read episodes, filter, choose, write |

Covers: the work. Does not cover: the start of Ray (`data_prep.frames` hands its videos out by it),
network disks."""

from __future__ import annotations

import multiprocessing
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer

NUM_WORKERS = (1, 2)
TINY, LARGE = "videosearch_cold_start_tiny", "videosearch_cold_start"


@dataclass(frozen=True)
class Task:
    """One kind of work, cut into shares."""

    name: str
    unit: str
    num: int
    work: Callable[[int, range], None]
    """(number of the worker's process, which of the items): does them all."""


def share_out(num: int, num_workers: int) -> list[range]:
    """Cut `num` items into a share per worker, as equal as possible.

    >>> share_out(5, 2)
    [range(0, 3), range(3, 5)]
    """
    bounds = [-(-num * worker // num_workers) for worker in range(num_workers + 1)]
    return [range(*pair) for pair in zip(bounds, bounds[1:], strict=False)]


def do_share(task: Task, share: range) -> float:
    """Do one share; returns its CPU seconds."""
    start = time.process_time()
    task.work(os.getpid(), share)
    return time.process_time() - start


def warm_up(task: Task) -> None:
    """Import what the work needs, by one item of it."""
    task.work(os.getpid(), range(1))


def measure(task: Task, num_workers: int) -> tuple[float, float]:
    """Return wall and CPU seconds of all items."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context) as pool:
        # as many as there are workers; one that is quick may take two, then the other warms up late
        list(pool.map(warm_up, [task] * num_workers))
        start = time.perf_counter()
        shares = share_out(task.num, num_workers)
        spent = pool.map(do_share, [task] * num_workers, shares)
        cpu = sum(spent)
        return time.perf_counter() - start, cpu


def make_pairs(folder: Path, num_pairs: int, worker: int, share: range) -> None:
    """Make a share of the hide-and-seek pairs, from drawn scenes."""
    from verl_videosearch.data_prep.hide_and_seek.bases import ClipSplit
    from verl_videosearch.data_prep.hide_and_seek.build import build_pair
    from verl_videosearch.data_prep.hide_and_seek.plan import PlanConfig, plan_split
    from verl_videosearch.data_prep.hide_and_seek.profile import PROFILES

    profile = replace(PROFILES["tiny"], clip_share=0.0)
    config = PlanConfig(profile, num_pairs, 0, 0, None, 0.0)
    plans = list(plan_split(config, "train", ClipSplit((), ())))
    out = fresh(folder / f"pairs-{worker}")
    for index in share:
        build_pair(plans[index], out, profile, config.seed)


def fill_frames(folder: Path, films: Sequence[str], recipe: str, worker: int, share: range) -> None:
    """Decode a share of the films into a store of its own."""
    from verl_videosearch.data_prep.sets.frame_filler import fill_video

    from verl_videosearch.recipe import read_episode
    from verl_videosearch.video.decode import DECODE_TIMEOUT_S
    from verl_videosearch.video.pair import plan_frames

    plans, store = plan_frames(read_episode(recipe, ())), fresh(folder / f"store-{worker}")
    for index in share:
        row = {"path": films[index], "uid": f"film-{index}"}
        result = fill_video(row, str(store), plans, DECODE_TIMEOUT_S)
        assert not result["kind"], result


def read_label_rows(folder: Path, worker: int, share: range) -> None:
    """Read a label file of as many rows as the share has."""
    from benchmarks.growth import build, write_labels

    own = fresh(folder / f"labels-{worker}")
    write_labels(own / "labels.csv", len(share))
    assert len(build(own)) == len(share)


def write_sft(folder: Path, worker: int, share: range) -> None:
    """Make SFT rows of as many episodes as the share has."""
    from verl_videosearch.data_prep.sft_rows import make_rows
    from verl_videosearch.data_prep.traces.trace_filter import Filter

    lines = (folder / "episodes.jsonl").read_text("utf-8").splitlines(keepends=True)
    own = fresh(folder / f"sft-{worker}")
    (own / "episodes.jsonl").write_text("".join(lines[share.start : share.stop]), "utf-8")
    make_rows([own / "episodes.jsonl"], own / "sft.parquet", None, Filter.WELL_FORMED)


def fresh(folder: Path) -> Path:
    """Return an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def write_episodes(path: Path, num_episodes: int) -> None:
    """Write episodes of two searches each, all of different pairs."""
    from benchmarks.report import play
    from verl_videosearch.runs.record_file import write_record
    from verl_videosearch.sample import Order, PreferenceSample

    labels = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 0}
    sample = PreferenceSample("pair", "a fox in the snow", "a.mp4", "b.mp4", labels)
    record = play(sample, Order.AB, 0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_episodes):
            own = replace(sample, uid=f"pair-{number}")
            named = msgspec.structs.replace(record, key=f"{own.uid} AB", uid=own.uid, sample=own)
            file.write(write_record(named))


def list_tasks(folder: Path, pairs: int, films: int, rows: int, episodes: int) -> list[Task]:
    """Prepare what the tasks read."""
    from benchmarks.frames.clips import make_clip

    make_pairs(folder, pairs, 0, range(pairs))
    tiny = sorted(str(path) for path in (folder / "pairs-0").rglob("*.mkv"))
    large = [str(make_clip(folder / f"film-{n}.mp4", 2 + n / 25, 720)) for n in range(films)]
    write_episodes(folder / "episodes.jsonl", episodes)
    return [
        Task("pairs", "pairs", pairs, partial(make_pairs, folder, pairs)),
        Task("frames, tiny", "videos", len(tiny), partial(fill_frames, folder, tiny, TINY)),
        Task("frames, 720p", "videos", films, partial(fill_frames, folder, large, LARGE)),
        Task("label rows", "rows", rows, partial(read_label_rows, folder)),
        Task("SFT rows", "episodes", episodes, partial(write_sft, folder)),
    ]


def main(
    pairs: Annotated[int, typer.Option(min=2)] = 24,
    films: Annotated[int, typer.Option(min=2, help="Of 720p.")] = 4,
    rows: Annotated[int, typer.Option(min=4)] = 4000,
    episodes: Annotated[int, typer.Option(min=2)] = 400,
) -> None:
    """Measure."""
    typer.echo(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python "
        f"{platform.python_version()}"
    )
    heads = " | ".join(f"per s, {n} | CPU ms each, {n}" for n in NUM_WORKERS)
    typer.echo(f"\n| what | {heads} | 2 workers against 1 |\n" + "| --- " * 6 + "|")
    with tempfile.TemporaryDirectory() as name:
        for task in list_tasks(Path(name), pairs, films, rows, episodes):
            costs = [measure(task, workers) for workers in NUM_WORKERS]
            cells = " | ".join(
                f"{task.num / wall:.1f} | {1000 * cpu / task.num:.1f}" for wall, cpu in costs
            )
            gain = costs[0][0] / costs[1][0]
            typer.echo(f"| {task.name} ({task.num} {task.unit}) | {cells} | {gain:.2f} |")


if __name__ == "__main__":
    typer.run(main)
