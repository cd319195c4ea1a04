"""How cost grows with size: the steps around the model at 1x, 4x and 16x, and 100,000 rows of them.

    python -m benchmarks.growth                       # 500, 2,000 and 8,000 rows
    python -m benchmarks.growth --rows 100000 --once  # the issue's size, alone

The one idea: every step runs on N rows in one process per size, through the functions that the
programs call: a label file is read (build), split without leaks, planned for eval (hashes, jobs,
the claim of a folder, what is left), judged by an instant judge (journal, with its fsync), resumed,
compared with another judge, made into SFT rows, indexed for the page of episodes. CPU seconds give
the exponent of a straight line in log-log; above 1.1 a step is marked. Memory is the peak of the
process after each step.

Covers: rows. Does not cover: videos (`benchmarks.frames`), a server (`benchmarks.faults`)."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer

MAX_EXPONENT = 1.1
MAX_SECONDS, MAX_GIGABYTES = 600, 2.0
"""Of 100,000 rows through all steps (the issue's target)."""
NEEDED = ("build", "split", "eval: plan", "eval: resume", "compare", "report: index")
"""The steps that the target counts; the others stand beside them."""


def fit_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return k of cost = c * size**k, by least squares of the logarithms.

    >>> round(fit_exponent([1, 4, 16], [3, 12, 48]), 3), round(fit_exponent([1, 4], [1, 16]), 3)
    (1.0, 2.0)
    """
    logs = np.log(np.maximum(costs, 1e-6))
    return float(np.polyfit(np.log(sizes), logs, 1)[0])


class Stopwatch:
    """Wall and CPU seconds by step, and the memory after each."""

    def __init__(self) -> None:
        self.steps: dict[str, tuple[float, float, float]] = {}

    def run(self, name: str, step: Callable[[], Any]) -> Any:
        """Run a step; returns what it returns."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = step()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        spent = time.perf_counter() - wall, time.process_time() - cpu
        self.steps[name] = (*spent, peak)
        return result


def write_labels(path: Path, num_rows: int) -> None:
    """Write a label file of pairs; three of a prompt, as sets have them."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path_a", "path_b", "prompt", "TA", "VQ", "MQ", "OA"])
        for number in range(num_rows):
            prompt = f"A fox walks through fresh snow, take {number // 3}, and stops."
            labels = [str(number % 3), "tie", "A", str((number + 1) % 3)]
            writer.writerow([f"clips/{number}a.mp4", f"clips/{number}b.mp4", prompt, *labels])


def build(folder: Path) -> Any:
    """Read the label file as `data_prep.build` does, videos not there yet."""
    from verl_videosearch.sample import write_samples
    from verl_videosearch.sources.read import choose_split, read_samples_of
    from verl_videosearch.sources.source import ReadOptions, ReadReport
    from verl_videosearch.sources.video_finder import VideoFinder

    source, split = choose_split("pairs_csv", None)
    finder = VideoFinder(folder, source.video_folders)
    found = read_samples_of(
        source, split, folder / "labels.csv", finder, ReadOptions(), ReadReport(), keep_missing=True
    )
    samples = list(found)
    write_samples(folder / "samples.parquet", samples)
    return samples


def split(folder: Path) -> None:
    """Split the samples and keep a benchmark out, by name: there are no files."""
    from verl_videosearch.data_prep.split import Against, parse_fractions, split_file

    (folder / "parts").mkdir()
    wanted = parse_fractions("train=.9,validation=.1")
    against = [Against(folder / "benchmark.parquet", None)]
    split_file(folder / "samples.parquet", folder / "parts", wanted, against=against, by_path=True)


class Judged:
    """A run of an instant judge, step by step as `evaluation.evaluate` makes it."""

    def __init__(self, folder: Path, name: str, samples: Sequence[Any]) -> None:
        from benchmarks.report import play
        from verl_videosearch.runs.folder import RunFolder
        from verl_videosearch.sample import Order

        self.folder, self.samples = RunFolder(folder / name), samples
        self.template = play(samples[0], Order.AB, 0)
        self.settings: dict[str, Any] = {}
        self.jobs: list[Any] = []

    def plan(self) -> None:
        """Hash the pairs, list the jobs, claim the folder and ask what is left."""
        from verl_videosearch.evaluation.results import RunSettings
        from verl_videosearch.runs.identity import hash_pairs
        from verl_videosearch.runs.jobs import Job, list_waiting, read_summary
        from verl_videosearch.sample import Order

        settings = RunSettings(
            benchmark="rows",
            split="all",
            pairs_hash=hash_pairs(self.samples),
            num_pairs=len(self.samples),
            orders=(Order.AB,),
            model="instant",
            model_hash="none",
            max_turn_tokens=None,
            episode=self.template.episode_config,
        )
        self.settings = settings.to_json()
        self.jobs = [Job(sample, Order.AB) for sample in self.samples]
        with self.folder.claim(self.settings, self.samples) as journal:
            self.waiting = list_waiting(read_summary(self.jobs, journal))

    def play(self) -> None:
        """Judge all pairs through `run_jobs`."""
        from verl_videosearch.runs.jobs import RunLimits, run_jobs
        from verl_videosearch.runs.record import Identity, RecordKind

        async def answer(job: Any) -> Any:
            return msgspec.structs.replace(
                self.template, key=job.key, uid=job.sample.uid, sample=job.sample
            )

        with self.folder.claim(self.settings, self.samples) as journal:
            asyncio.run(
                run_jobs(
                    self.jobs,
                    answer,
                    journal,
                    RunLimits(concurrency=8),
                    kind=RecordKind.EVALUATION,
                    identity=Identity(model="instant"),
                )
            )
            self.folder.write_records("episodes.jsonl", journal.records)


def compare(folder: Path) -> None:
    """Compare the run with a second one of other verdicts."""
    from verl_videosearch.evaluation.compared_runs import compare_paths

    compare_paths([folder / "first", folder / "second"])


def copy_run(folder: Path) -> None:
    """Make the second judge's run of the first one's files."""
    second = folder / "second"
    second.mkdir()
    for name in ("run.json", "samples.parquet", "episodes.jsonl"):
        (second / name).symlink_to(folder / "first" / name)


def index(folder: Path) -> None:
    """Read the run and draw what the page of episodes shows; the rest is `benchmarks.report`."""
    from verl_videosearch.report.episode_page import MAX_EPISODES, draw_episodes, read_sources

    sources, _ = read_sources([folder / "first"])
    draw_episodes(sources, MAX_EPISODES, 0)


def make_sft_rows(folder: Path) -> None:
    """Filter the episodes and write rows for supervised training."""
    from verl_videosearch.data_prep.sft_rows import make_rows
    from verl_videosearch.data_prep.traces.trace_filter import Filter

    make_rows([folder / "first" / "episodes.jsonl"], folder / "sft.parquet", None, Filter.LABELLED)


def run_steps(folder: Path, num_rows: int) -> Stopwatch:
    """Run all steps on so many rows."""
    from verl_videosearch.sample import write_samples

    watch = Stopwatch()
    write_labels(folder / "labels.csv", num_rows)
    samples = watch.run("build", lambda: build(folder))
    write_samples(folder / "benchmark.parquet", samples[: max(1, num_rows // 20)])
    watch.run("split", lambda: split(folder))
    judged = Judged(folder, "first", samples)
    watch.run("eval: plan", judged.plan)
    watch.run("eval: instant judge", judged.play)
    watch.run("eval: resume", judged.plan)
    assert not judged.waiting
    copy_run(folder)
    watch.run("compare", lambda: compare(folder))
    watch.run("report: index", lambda: index(folder))
    watch.run("SFT rows", lambda: make_sft_rows(folder))
    return watch


def run_alone(num_rows: int, folder: Path | None) -> dict[str, tuple[float, float, float]]:
    """Run all steps in a process of their own, so that its peak memory is theirs."""
    with tempfile.TemporaryDirectory(dir=folder) as root:
        command = [sys.executable, "-m", "benchmarks.growth", "--child", root]
        ended = subprocess.run(
            [*command, "--rows", str(num_rows)], capture_output=True, text=True, check=False
        )
    if ended.returncode:
        raise SystemExit(f"{num_rows} rows: status {ended.returncode}\n{ended.stderr[-2000:]}")
    steps: dict[str, tuple[float, float, float]] = json.loads(ended.stdout.splitlines()[-1])
    return steps


def print_sizes(found: dict[int, dict[str, tuple[float, float, float]]]) -> list[str]:
    """Print seconds and memory by size; returns the steps that grow faster than they may."""
    sizes = list(found)
    heads = " | ".join(f"{size:,} rows, CPU s | wall s | peak GB" for size in sizes)
    typer.echo(f"\n| step | {heads} | exponent |\n" + "| --- " * (3 * len(sizes) + 2) + "|")
    steep = []
    for step in found[sizes[0]]:
        costs = [found[size][step] for size in sizes]
        cells = [f"{cpu:.2f} | {wall:.2f} | {peak:.2f}" for wall, cpu, peak in costs]
        said = ""
        if len(sizes) > 1:
            exponent = fit_exponent(sizes, [cpu for _, cpu, _ in costs])
            said = f"{exponent:.2f}"
            if exponent > MAX_EXPONENT:
                steep.append(step)
                said += " (!)"
        typer.echo(f"| {step} | {' | '.join(cells)} | {said} |")
    return steep


def main(
    rows: Annotated[int, typer.Option(min=60, help="Rows at 1x.")] = 500,
    once: Annotated[bool, typer.Option("--once", help="Only this size, no growth.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Where files may lie for a while.")] = None,
    child: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure."""
    if child is not None:
        typer.echo(json.dumps(run_steps(child, rows).steps))
        return
    typer.echo(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python "
        f"{platform.python_version()}"
    )
    sizes = [rows] if once else [rows, 4 * rows, 16 * rows]
    found = {size: run_alone(size, folder) for size in sizes}
    steep = print_sizes(found)
    largest = found[sizes[-1]]
    cpu = sum(largest[step][1] for step in NEEDED)
    wall = sum(largest[step][0] for step in NEEDED)
    peak = max(each[2] for each in largest.values())
    typer.echo(
        f"{sizes[-1]:,} rows through {', '.join(NEEDED)}: {wall:.0f} s ({cpu:.0f} s of CPU), peak "
        f"{peak:.2f} GB (target for 100,000: {MAX_SECONDS} s, {MAX_GIGABYTES} GB)"
    )
    typer.echo(f"above {MAX_EXPONENT}: {', '.join(steep) or 'none'}")
    is_missed = steep or wall > MAX_SECONDS or peak > MAX_GIGABYTES
    raise typer.Exit(1 if is_missed else 0)


if __name__ == "__main__":
    typer.run(main)
