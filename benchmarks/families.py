"""Every family of base models through supervised training and GRPO on the CPU, from nothing.

    python -m benchmarks.families --pairs train.parquet --traces sft.parquet --video-root DIR \\
        --out DIR [--family qwen3_vl_thinking]

The one idea: the tiny model of a family has the family's architecture, patches and chat template,
so what only such a model would break breaks here: the end of a turn, thoughts, sizes of frames, and
that the trainer's log-probabilities are those of the engine that sampled. Each family gets the same
recipes and pairs; sizes of frames follow the model. The agent loop compares tokens and images of
every sequence with what the engine was given (`TokenMismatch` ends the run).

Covers: tiny sizes in float32; several turns, once the supervised steps suffice for a call. Does not
cover: whether a family learns the task, a GPU's kernels.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from verl_videosearch.report.table import Table

GRPO_STEPS = 2
TOLERANCE = 1e-5
"""Largest difference of a log-probability between engine and trainer."""
FAMILIES = ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_thinking", "qwen3_5")
COLUMNS = (
    *("family", "SFT loss, first and last", "episodes", "turns", "sequences", "answered"),
    *("gradient norm", "agreement, mean", "largest", "allowed", "minutes"),
)

REFUSAL = "This run cannot start:"
"""How preflight begins."""
LARGEST, ALLOWED = COLUMNS.index("largest"), COLUMNS.index("allowed")


@dataclass(frozen=True)
class Files:
    """What every family is trained on, and where its files go."""

    pairs: Path
    traces: Path
    video_root: Path
    out: Path
    settings: tuple[str, ...] = ()
    """Further Hydra overrides of both trainers."""
    grpo_settings: tuple[str, ...] = ()
    """Further Hydra overrides of GRPO."""


class Refused(RuntimeError):
    """Preflight says why a family cannot be trained here."""


def main(
    pairs: Annotated[Path, typer.Option(help="Parquet file of pairs.")],
    traces: Annotated[Path, typer.Option(help="sft.parquet of a cold start on them.")],
    video_root: Annotated[Path, typer.Option(help="Folder of the videos.")],
    out: Annotated[Path, typer.Option(help="Folder for models, checkpoints, logs.")],
    family: Annotated[list[str] | None, typer.Option(help="Repeatable; default: all.")] = None,
    sft_steps: Annotated[int, typer.Option(min=1, help="Supervised steps.")] = 200,
    timeout_s: Annotated[float, typer.Option(help="Most seconds of one training.")] = 1800.0,
    setting: Annotated[list[str] | None, typer.Option(help="name=value for both trainers.")] = None,
) -> None:
    """Train and print one row per family, or preflight's refusal; status 1 where one fails or
    disagrees."""
    files = Files(pairs, traces, video_root, out, tuple(setting or ()))
    rows, wrong = [], []
    for name in family or FAMILIES:
        try:
            rows.append(run_family(name, files, sft_steps, timeout_s))
        except Refused as refusal:
            typer.echo(f"{name}: GRPO is refused. {refusal}")
            continue
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            wrong.append(f"{name}: {error}")
            continue
        typer.echo("; ".join(f"{key} {cell}" for key, cell in zip(COLUMNS, rows[-1], strict=True)))
        if not float(rows[-1][LARGEST]) <= float(rows[-1][ALLOWED]):
            wrong.append(f"{name}: engine and trainer differ by {rows[-1][LARGEST]}")
    typer.echo(Table("Families of base models", COLUMNS, rows).to_markdown())
    if wrong:
        raise SystemExit("\n".join(wrong))


def run_family(name: str, files: Files, sft_steps: int, timeout_s: float) -> tuple[str, ...]:
    """Make a model, train it twice, and return its row; raises `RuntimeError` for a failed run."""
    start, folder = time.monotonic(), files.out / name
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "start"
    builder = [sys.executable, "-m", "verl_videosearch.from_scratch.tiny_model", str(model)]
    run([*builder, "--family", name], folder / "start.log", {}, timeout_s)
    losses = [line["train/loss"] for line in train_sft(model, files, folder, sft_steps, timeout_s)]
    trained = folder / "sft" / f"global_step_{sft_steps}" / "huggingface"
    steps = train_grpo(trained, files, folder, timeout_s)
    if len(steps) != GRPO_STEPS:
        raise RuntimeError(f"{len(steps)} GRPO steps were logged; see {folder / 'grpo.log'}")

    def mean(key: str) -> float:
        return sum(line[f"videosearch/{key}"] for line in steps) / len(steps)

    largest = max(line["videosearch/agreement/logprob_abs_diff_max"] for line in steps)
    return (
        name,
        f"{losses[0]:.2f} {losses[-1]:.2f}",
        f"{sum(line['videosearch/num_episodes'] for line in steps):.0f}",
        f"{mean('num_turns'):.2f}",
        f"{mean('num_sequences'):.2f}",
        f"{mean('ending_answered'):.2f}",
        f"{max(line['actor/grad_norm'] for line in steps):.2g}",
        f"{mean('agreement/logprob_abs_diff_mean'):.1e}",
        f"{largest:.1e}",
        f"{TOLERANCE:.0e}",
        f"{(time.monotonic() - start) / 60:.1f}",
    )


def train_sft(
    model: Path, files: Files, folder: Path, num_steps: int, timeout_s: float
) -> list[dict[str, Any]]:
    """Run the cold start's recipe; returns the figures of each step."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    settings = [
        "+recipe=videosearch_cold_start_tiny",
        f"model.path={model}",
        f"data.train_files={files.traces}",
        f"videosearch.frames.video_root={files.video_root}",
        f"trainer.total_training_steps={num_steps}",
        f"trainer.save_freq={num_steps}",
        f"trainer.default_local_dir={folder / 'sft'}",
        *files.settings,
    ]
    command = [sys.executable, *launcher, "-m", "verl.trainer.sft_trainer", *settings]
    return train(command, folder / "sft", timeout_s)


def train_grpo(model: Path, files: Files, folder: Path, timeout_s: float) -> list[dict[str, Any]]:
    """Run some steps of the tiny GRPO recipe; returns the figures of each step."""
    settings = [
        "+recipe=videosearch_grpo_tiny",
        f"actor_rollout_ref.model.path={model}",
        f"data.train_files={files.pairs}",
        f"data.val_files={files.pairs}",
        f"videosearch.frames.video_root={files.video_root}",
        f"trainer.default_local_dir={folder / 'grpo'}",
        f"trainer.total_training_steps={GRPO_STEPS}",
        f"trainer.save_freq={GRPO_STEPS}",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "data.train_batch_size=4",
        "algorithm.filter_groups.enable=false",
        *files.settings,
        *files.grpo_settings,
    ]
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *settings]
    return train(command, folder / "grpo", timeout_s)


def train(command: list[str], place: Path, timeout_s: float) -> list[dict[str, Any]]:
    """Run a trainer of verl; returns the data of each line of its file logger."""
    log = place.with_suffix(".jsonl")
    log.unlink(missing_ok=True)
    variables = {"VERL_FILE_LOGGER_PATH": str(log), "HF_HUB_OFFLINE": "1"}
    run(command, place.with_suffix(".log"), variables, timeout_s)
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    return [line["data"] for line in lines]


def run(command: list[str], log: Path, variables: dict[str, str], timeout_s: float) -> None:
    """Run a program; raises `RuntimeError` that names its log."""
    env = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    with log.open("wb") as file:
        result = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=env, timeout=timeout_s
        )
    said = log.read_text("utf-8", "replace")
    if result.returncode and REFUSAL in said:
        raise Refused(said[said.index(REFUSAL) :].strip())
    if result.returncode:
        raise RuntimeError(f"{log.stem} ended with status {result.returncode}; see {log}")


if __name__ == "__main__":
    typer.run(main)
