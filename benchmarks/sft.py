"""What a step of supervised training is made of, beside another commit, and what rows cost at 7B.

    python -m benchmarks.sft                                       # this checkout
    git clone . /tmp/before && git -C /tmp/before checkout cb51dec
    python -m benchmarks.sft --checkout /tmp/before --steps 60     # beside another one

The one idea: the same data, start, seed and steps go through verl's own SFT trainer once per
checkout (`sft_clock.py`, in a process of its own), and the losses are compared step by step: faster
counts only where the learning is equal. Seconds of a busy machine are noise, so CPU seconds stand
beside them and ratios are taken of medians.

The second table is arithmetic with one measured figure: the rows a core makes at the sizes of 7B
(one call, so 16 frames of 720p) against what eight cards train, by the formula printed with it.

Covers: the tiny cold start on CPUs; making rows for a card. Does not cover: a step on a card."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

ROOT = Path(__file__).resolve().parent.parent
CLOCK = Path(__file__).with_name("sft_clock.py")
RECIPE = "videosearch_cold_start_tiny"
LOSS_TOLERANCE = 2e-3
"""Most difference of a step's loss: float32 sums in another order, carried on by the optimiser."""
TARGET = 2.0
"""Times less CPU in the trainer's step than at the other commit (the issue's goal)."""
PARTS = ("waiting for rows", "forward", "backward", "optimiser", "rest")

CARD_FLOPS = 989e12
"""Dense bfloat16 of one H100 SXM (its data sheet)."""
UTILISATION = 0.4
NUM_CARDS = 8
NUM_PARAMETERS = 7.6e9
LABELS = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}
PASSES = 8
"""FLOPs per parameter and token: forward 2, backward 4, forward again for checkpointing 2."""


@dataclass(frozen=True)
class Run:
    """One training, step by step."""

    wall_s: dict[str, float]
    """Median seconds of each part of a step, and `step`."""
    cpu_s: dict[str, float]
    """The same in CPU seconds of the trainer; `loader` is the worker that makes rows."""
    start_s: tuple[float, float]
    """Wall and CPU seconds before the first step for all rows."""
    losses: tuple[float, ...]
    tokens: float
    """Mean of a step."""


def summarise(figures: dict[str, Any], skipped: int) -> Run:
    """Make medians of what the clock wrote, without the first steps.

    >>> step = {"step": [3.0, 2.0], "forward": [1.0, 0.5], "forward and backward": [2.0, 1.5]}
    >>> run = summarise({"steps": [step] * 3, "losses": [1, 1, 1], "tokens": [9, 9, 9],
    ...     "loader_cpu_s": [0.0, 1.0, 2.0], "at_start_s": [5, 4]}, 1)
    >>> run.wall_s["backward"], run.wall_s["rest"], run.cpu_s["loader"]
    (1.0, 1.0, 1.0)
    """
    kept = figures["steps"][skipped:]
    found: list[dict[str, float]] = []
    for place in (0, 1):
        medians = {
            name: statistics.median(step.get(name, (0.0, 0.0))[place] for step in kept)
            for name in ("step", "waiting for rows", "forward", "forward and backward", "optimiser")
        }
        both = medians.pop("forward and backward")
        medians["backward"] = both - medians["forward"]
        medians["rest"] = medians["step"] - both - medians["optimiser"]
        medians["rest"] -= medians["waiting for rows"]
        found.append(medians)
    found[1]["loader"] = measure_growth(figures["loader_cpu_s"][skipped:])
    return Run(
        *found,
        tuple(figures["at_start_s"]),
        tuple(figures["losses"]),
        statistics.mean(figures["tokens"]),
    )


def measure_growth(totals: Sequence[float]) -> float:
    """Return the mean growth a step of a total that starts again where an epoch's worker does.

    >>> measure_growth([1.0, 3.0, 5.0, 0.5, 2.5])
    2.0
    """
    steps = [after - before for before, after in pairwise(totals) if after >= before]
    return statistics.mean(steps) if steps else 0.0


def compare_losses(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the largest difference of a step's loss; `ValueError` when steps are missing.

    >>> compare_losses([7.0, 6.0], [7.0, 6.5])
    0.5
    """
    if len(ours) != len(theirs):
        raise ValueError(f"got losses of {len(ours)} and {len(theirs)} steps; run both to the end")
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def make_environment(checkout: Path) -> dict[str, str]:
    """Return the environment of a run: one process, one thread, the checkout's own package."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    quiet = {"WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    threads = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    own = {"PYTHONPATH": str(checkout), "MASTER_PORT": "0"}
    return os.environ | alone | quiet | threads | own


def call(checkout: Path, log: Path, command: Sequence[str]) -> None:
    """Run a program in a checkout; its words go to a log, whose end is shown when it fails."""
    with log.open("a", encoding="utf-8") as file:
        ended = subprocess.run(
            [sys.executable, *command],
            cwd=checkout,
            env=make_environment(checkout),
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if ended.returncode:
        tail = log.read_text("utf-8")[-2000:]
        raise SystemExit(f"{' '.join(command)[:200]} ended with {ended.returncode}:\n{tail}")


def make_data(folder: Path, num_pairs: int) -> None:
    """Make pairs, a random model, traces and captions, as `recipes/tiny.sh` does."""
    pairs, log = folder / "pairs", folder / "data.log"
    train = ["--pairs", f"{pairs}/train.parquet", "--video-root", str(pairs), "--recipe", RECIPE]
    size = ["--train", str(num_pairs), "--test", "2", "--held-out", "0"]
    weights = ["--direct", ".5", "--cued-gap", ".45", "--detour", ".05", "--filter", "well_formed"]
    programs = (
        ("hide_and_seek", "--out", str(pairs), "--profile", "tiny", *size),
        ("captions", *train, "--out", f"{folder}/captions.parquet"),
        ("cold_start", *train, "--out", f"{folder}/traces", "--teacher", "template", *weights),
    )
    for name, *arguments in programs:
        call(ROOT, log, ["-m", f"verl_videosearch.data_prep.{name}", *arguments])
    call(ROOT, log, ["-m", "verl_videosearch.from_scratch.tiny_model", f"{folder}/start"])


def train(checkout: Path, folder: Path, steps: int, skipped: int, name: str) -> Run:
    """Train with a checkout's code and recipe."""
    out = folder / f"{name}.json"
    # not as a script: its folder would stand first on the path, and holds a `requests.py`
    program = f"import runpy; runpy.run_path({str(CLOCK)!r}, run_name='__main__')"
    files = f"[{folder}/traces/sft.parquet,{folder}/captions.parquet]"
    overrides = [
        f"+recipe={RECIPE}",
        f"model.path={folder}/start",
        f"data.train_files={files}",
        f"videosearch.frames.video_root={folder}/pairs",
        f"trainer.total_training_steps={steps}",
        f"trainer.default_local_dir={folder}/checkpoints-{name}",
        "trainer.resume_mode=disable",
        f"hydra.run.dir={folder}/hydra-{name}",
    ]
    call(checkout, folder / f"{name}.log", ["-c", program, str(out), *overrides])
    return summarise(json.loads(out.read_text("utf-8")), skipped)


def print_runs(runs: dict[str, Run]) -> None:
    """Print what a step is made of, a column per checkout."""
    names = list(runs)
    typer.echo(
        "| part of a step, ms | " + " | ".join(f"{n}, wall | {n}, CPU" for n in names) + " |"
    )
    typer.echo("| --- |" + " --- | --- |" * len(names))
    for part in (*PARTS, "step", "loader"):
        cells = []
        for run in runs.values():
            wall = run.wall_s.get(part)
            cells.append("" if wall is None else f"{1000 * wall:.0f}")
            cells.append(f"{1000 * run.cpu_s[part]:.0f}")
        said = "worker that makes rows" if part == "loader" else part
        typer.echo(f"| {said} | " + " | ".join(cells) + " |")
    for name, run in runs.items():
        wall, cpu = run.start_s
        typer.echo(
            f"{name}: {run.tokens:.0f} tokens a step; all rows before step 1 {wall:.1f} s "
            f"({cpu:.1f} s of CPU); loss {run.losses[0]:.4f} -> {run.losses[-1]:.4f}"
        )


def compare(runs: dict[str, Run]) -> bool:
    """Print the ratios; returns whether the goal is reached at equal learning."""
    ours, theirs = runs["ours"], runs["before"]
    gap = compare_losses(ours.losses, theirs.losses)
    ratio = theirs.cpu_s["step"] / ours.cpu_s["step"]
    total = sum(theirs.cpu_s[part] for part in ("step", "loader"))
    total /= sum(ours.cpu_s[part] for part in ("step", "loader"))
    wall = theirs.wall_s["step"] / ours.wall_s["step"]
    is_equal = gap <= LOSS_TOLERANCE
    typer.echo(
        f"losses of {len(ours.losses)} steps differ by at most {gap:.1e} "
        f"({'equal within' if is_equal else 'NOT within'} {LOSS_TOLERANCE})"
    )
    typer.echo(
        f"a step of the trainer: {ratio:.2f} times less CPU (target {TARGET}), with the worker "
        f"{total:.2f}; wall {wall:.2f}; rows before step 1: "
        f"{theirs.start_s[1] / ours.start_s[1]:.2f} times less CPU"
    )
    return is_equal and ratio >= TARGET


@dataclass(frozen=True)
class RowCost:
    """CPU seconds of one 7B row."""

    replay_s: float
    """Once per run."""
    item_s: float
    """In a loader's worker, per epoch."""
    pixels_s: float
    """From stored frames to what the model takes, per epoch; on a card this runs on the card."""
    num_tokens: float
    num_images: float


def measure_rows(folder: Path, num_rows: int) -> RowCost:
    """Make rows of the 7B recipe from 720p films: one call of eight frames, 16 in view."""
    from omegaconf import OmegaConf
    from verl_videosearch.data_prep.traces.sft_rows import SftRow, write_sft_rows

    from benchmarks.sequence_lengths import make_qwen_processor, write_replies
    from tests.clips import write_clip
    from verl_videosearch.recipe import read_episode
    from verl_videosearch.sample import PreferenceSample
    from verl_videosearch.verl_plugin.references import REFERENCES, make_pixels
    from verl_videosearch.verl_plugin.sft_dataset import VideoSearchSFTDataset
    from verl_videosearch.verl_plugin.tokens import ContextRenderer

    config = read_episode("videosearch_cold_start", ())
    processor = make_qwen_processor()
    renderer = ContextRenderer(processor.tokenizer, processor)
    frames = np.random.default_rng(0).integers(0, 256, (48, 720, 1280, 3), dtype=np.uint8)
    paths = [str(write_clip(folder / f"film-{side}.mp4", frames)) for side in (1, 2)]
    replies = write_replies(renderer, 1, 8, 2 * config.frames_per_video, 300)
    rows = [
        SftRow(PreferenceSample(f"pair-{n}", "a fox", *paths, LABELS), tuple(replies), config)
        for n in range(num_rows)
    ]
    write_sft_rows(folder / "rows.parquet", rows)
    node = {"episode": asdict(config), "frames": {"store_dir": f"{folder}/store"}}
    data = {"pad_mode": "no_padding", "max_length": 16384, "videosearch": "${videosearch}"}
    options = OmegaConf.create({"videosearch": node, "data": data}).data

    def open_rows() -> VideoSearchSFTDataset:
        path = str(folder / "rows.parquet")
        return VideoSearchSFTDataset(path, processor.tokenizer, options, processor)

    open_rows()  # the films are decoded
    start = time.process_time()
    dataset = open_rows()
    replayed = time.process_time()
    items = [dataset[number] for number in range(len(dataset))]
    made = time.process_time()
    images = [item["multi_modal_inputs"] for item in items]
    for each in images:
        make_pixels(processor, [each])
    end = time.process_time()
    count = len(items)
    return RowCost(
        (replayed - start) / count,
        (made - replayed) / count,
        (end - made) / count,
        statistics.mean(len(item["input_ids"]) for item in items),
        statistics.mean(len(each[REFERENCES]) for each in images),
    )


def count_trained_rows(num_tokens: float) -> float:
    """Return the rows a second that the cards train.

    >>> round(count_trained_rows(8000), 1)
    6.5
    """
    flops = PASSES * NUM_PARAMETERS * num_tokens
    return NUM_CARDS * CARD_FLOPS * UTILISATION / flops


def print_rows(cost: RowCost, num_cores: int) -> bool:
    """Print the arithmetic; returns whether rows are made faster than trained."""
    trained = count_trained_rows(cost.num_tokens)
    on_cpu = num_cores / (cost.item_s + cost.pixels_s)
    in_loader = num_cores / cost.item_s
    typer.echo(
        f"\na row of 7B: {cost.num_images:.0f} frames of 720p, {cost.num_tokens:.0f} tokens; CPU "
        f"ms of one core: replay {1000 * cost.replay_s:.0f} (once a run), item "
        f"{1000 * cost.item_s:.1f}, pixels {1000 * cost.pixels_s:.0f}"
    )
    typer.echo(
        f"{num_cores} cores make {on_cpu:.0f} rows/s with pixels on the CPU, {in_loader:.0f} when "
        f"the card makes them; {NUM_CARDS} H100 train {trained:.1f} rows/s ({PASSES} x "
        f"{NUM_PARAMETERS:.1e} FLOPs a token, {UTILISATION:.0%} of {CARD_FLOPS:.0f})"
    )
    typer.echo(
        f"cores that {NUM_CARDS} cards need: {trained * (cost.item_s + cost.pixels_s):.1f} with "
        f"pixels on the CPU, {trained * cost.item_s:.2f} without"
    )
    return on_cpu >= trained


def main(
    checkout: Annotated[Path | None, typer.Option(help="Another checkout, for before.")] = None,
    steps: Annotated[int, typer.Option(min=8, help="Steps of each run.")] = 24,
    pairs: Annotated[int, typer.Option(help="Pairs of the data.")] = 60,
    folder: Annotated[Path | None, typer.Option(help="Keep data and logs here.")] = None,
    cores: Annotated[int, typer.Option(help="Cores of the node with the cards.")] = 96,
    rows: Annotated[int, typer.Option(help="7B rows to make; 0 leaves them out.")] = 4,
) -> None:
    """Measure."""
    typer.echo(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python "
        f"{platform.python_version()}; {RECIPE}, 1 thread, medians of {steps - 4} steps"
    )
    is_well = True
    with tempfile.TemporaryDirectory() as temporary:
        root = (folder or Path(temporary)).resolve()
        root.mkdir(parents=True, exist_ok=True)
        if not (root / "start").exists():
            make_data(root, pairs)
        runs: dict[str, Run] = {}
        if checkout is not None:
            runs["before"] = train(checkout.resolve(), root, steps, 4, "before")
        runs["ours"] = train(ROOT, root, steps, 4, "ours")
        print_runs(runs)
        if checkout is not None:
            is_well = compare(runs)
        if rows:
            is_well = print_rows(measure_rows(root, rows), cores) and is_well
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    typer.echo(f"peak memory of a training: {peak:.1f} GB")
    raise typer.Exit(0 if is_well else 1)


if __name__ == "__main__":
    typer.run(main)
