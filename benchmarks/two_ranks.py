"""Two ranks train what one rank trains: gradients, a supervised run, and GRPO that is killed and
resumed.

    python -m benchmarks.two_ranks gradients                       # 1 minute: one batch, one and
                                                                   two ranks
    python -m benchmarks.two_ranks sft --model DIR --traces sft.parquet --video-root DIR
    python -m benchmarks.two_ranks grpo --model DIR --pairs train.parquet --video-root DIR

The one idea: verl cuts a batch by rows, an episode is several rows, so only a run with two ranks
can
show that an episode weighs the same when its rows are trained on different ranks. `gradients` gives
the same episodes to one rank and to two (rows of one episode on both), through verl's own worker,
FSDP2 and loss, KL on, and compares every gradient. `sft` compares the losses of four steps. `grpo`
runs two ranks, two engines and two agent workers, is killed (SIGKILL) after the checkpoint of step
2,
and must go on at step 3.

Covers: the CPU (gloo). Does not cover: several machines.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.tiny_grpo import Model, Out, Pairs, TinyGrpo, VideoRoot

app = typer.Typer(add_completion=False, no_args_is_help=True)

EPISODES = ((9,), (7, 5, 2), (4, 11), (6,))
"""Sampled tokens of each sequence of each episode; two ranks get half of the rows each."""
TOLERANCE = 1e-5
"""Largest relative difference of gradients and losses between one rank and two."""
SFT_STEPS = 4


@app.command()
def gradients(out: Annotated[Path | None, typer.Option(hidden=True)] = None) -> None:
    """Compare the gradients of one batch on one rank and on two."""
    if out is not None:
        compute_gradients(out)
        return
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for num_ranks in (1, 2):
            files.append(Path(folder) / f"{num_ranks}.pt")
            run_ranks(num_ranks, ["benchmarks.two_ranks", "gradients", "--out", str(files[-1])])
        gap, num_parameters = compare_gradients(*files)
    typer.echo(f"{num_parameters} parameters, largest difference of a gradient {gap:.1e}")
    if gap > TOLERANCE:
        raise SystemExit(f"two ranks train something else: {gap:.1e} is above {TOLERANCE:.0e}")


def run_ranks(num_ranks: int, command: list[str], **environment: str) -> None:
    """Run a module under torchrun; raises `CalledProcessError`."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    subprocess.run(
        [*launcher, f"--nproc_per_node={num_ranks}", "-m", *command], check=True, env=env
    )


def compare_gradients(one: Path, two: Path) -> tuple[float, int]:
    """Return the largest difference, relative to the largest gradient, and how many are
    compared."""
    import torch

    gradients_one, gradients_two = torch.load(one), torch.load(two)
    assert set(gradients_one) == set(gradients_two)
    largest = max(float(gradient.abs().max()) for gradient in gradients_one.values())
    gaps = [
        float((gradient - gradients_two[name]).abs().max())
        for name, gradient in gradients_one.items()
    ]
    return max(gaps) / largest, len(gaps)


def compute_gradients(out: Path) -> None:
    """Train one step on this rank's rows and write the whole gradients, on rank 0."""
    import torch
    from torch.distributed.tensor import DTensor
    from verl.utils.distributed import initialize_global_process_group

    initialize_global_process_group()
    rank, num_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    folder = Path(tempfile.gettempdir()) / f"two_ranks_model_{os.environ['TORCHELASTIC_RUN_ID']}"
    worker = make_worker(folder, rank, num_ranks)
    found: dict[str, torch.Tensor] = {}

    def keep() -> float:
        for name, parameter in worker.engine.module.named_parameters():
            gradient = parameter.grad
            if gradient is not None:
                whole = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
                found[name] = whole.detach().clone()
        return 0.0

    worker.engine.optimizer_step = keep
    worker.train_batch(make_rows(worker.model_config, rank, num_ranks))
    if rank == 0:
        torch.save(found, out)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def make_worker(folder: Path, rank: int, num_ranks: int) -> Any:
    """Build verl's training worker of the tiny GRPO recipe, with its loss."""
    import torch
    from hydra import compose, initialize_config_module
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.engine_workers import TrainingWorker, TrainingWorkerConfig, ppo_loss

    from verl_videosearch.from_scratch.tiny_model import build_tiny_model

    if rank == 0:
        build_tiny_model(folder)
    torch.distributed.barrier()
    overrides = ["+recipe=videosearch_grpo_tiny", f"actor_rollout_ref.model.path={folder}"]
    overrides.append(f"trainer.n_gpus_per_node={num_ranks}")
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=overrides).actor_rollout_ref
    actor = omega_conf_to_dataclass(config.actor)
    actor.model_config = omega_conf_to_dataclass(config.model)
    worker = TrainingWorker(
        TrainingWorkerConfig(
            model_type="language_model",
            model_config=actor.model_config,
            engine_config=actor.engine,
            optimizer_config=actor.optim,
            checkpoint_config=actor.checkpoint,
        )
    )
    worker.engine_config.use_dynamic_bsz = True
    worker.engine_config.max_token_len_per_gpu = config.actor.ppo_max_token_len_per_gpu
    worker.engine_config.use_remove_padding = False
    worker.reset()
    worker.set_loss_fn(partial(ppo_loss, config=actor))
    return worker


def make_rows(model_config: Any, rank: int, num_ranks: int) -> Any:
    """Make this rank's rows of the batch: every second one, so that episodes are cut apart."""
    import torch
    from tensordict import NonTensorData, TensorDict
    from verl.utils import tensordict_utils as tu

    from verl_videosearch.verl_plugin.weights import SHARE_FIELD, compute_shares

    lengths = [length for episode in EPISODES for length in episode]
    names = [f"e_{i}" for i, episode in enumerate(EPISODES) for _ in episode]
    shares = compute_shares(names, lengths)
    generator = torch.Generator().manual_seed(0)
    rows: dict[str, list[torch.Tensor]] = {}
    for index, (length, share) in enumerate(zip(lengths, shares, strict=True)):
        row = make_row(length, 0.5 - names.index(names[index]) / 7, share, generator)
        if index % num_ranks == rank:
            for name, value in row.items():
                rows.setdefault(name, []).append(value)
    fields = {
        name: torch.nested.as_nested_tensor(values, layout=torch.jagged)
        for name, values in rows.items()
        if name not in ("position_ids", SHARE_FIELD)
    }
    fields["position_ids"] = tu.nested_tensor_from_tensor_list(rows["position_ids"])
    fields[SHARE_FIELD] = torch.stack(rows[SHARE_FIELD])
    data = TensorDict(fields, batch_size=len(rows["input_ids"]))
    tu.assign_non_tensor(
        data,
        temperature=1.0,
        global_batch_size=len(EPISODES),
        pad_token_id=model_config.tokenizer.pad_token_id,
        use_remove_padding=False,
        global_token_num=NonTensorData([len(ids) for ids in rows["input_ids"]]),
    )
    return data


def make_row(length: int, advantage: float, share: float, generator: Any) -> dict[str, Any]:
    """Make one sequence of random text: a prompt of 8 tokens and `length` sampled ones."""
    import torch

    from verl_videosearch.verl_plugin.weights import SHARE_FIELD

    ids = torch.randint(0, 256, (8 + length,), generator=generator)
    mask = torch.ones(length, dtype=torch.int64)
    noise = {
        name: -6.0 - torch.rand(length, generator=generator)
        for name in ("old_log_probs", "ref_log_prob")
    }
    return noise | {
        "prompts": ids[:8],
        "responses": ids[8:],
        "input_ids": ids,
        "position_ids": torch.arange(8 + length).expand(4, -1).contiguous(),
        "response_mask": mask,
        "loss_mask": mask,
        "advantages": torch.full((length,), advantage),
        SHARE_FIELD: torch.tensor([share]),
    }


@app.command()
def sft(
    model: Annotated[Path, typer.Option(help="Folder of a tiny model.")],
    traces: Annotated[Path, typer.Option(help="sft.parquet of a cold start.")],
    video_root: Annotated[Path, typer.Option(help="Folder of the videos.")],
) -> None:
    """Compare the losses of some supervised steps on one rank and on two."""
    with tempfile.TemporaryDirectory() as folder:
        losses = {n: train_sft(Path(folder), n, model, traces, video_root) for n in (1, 2)}
    for step, (one, two) in enumerate(zip(losses[1], losses[2], strict=True), start=1):
        typer.echo(f"step {step}: loss {one:.7f} on one rank, {two:.7f} on two")
    gap = max(abs(a - b) / a for a, b in zip(losses[1], losses[2], strict=True))
    if len(losses[1]) != SFT_STEPS or gap > TOLERANCE:
        raise SystemExit(f"two ranks train something else: losses differ by {gap:.1e}")
    typer.echo(f"largest relative difference {gap:.1e}")


def train_sft(folder: Path, num_ranks: int, model: Path, traces: Path, root: Path) -> list[float]:
    """Run verl's SFT trainer and return the loss of each step."""
    log = folder / f"sft{num_ranks}.jsonl"
    settings = [
        "+recipe=videosearch_cold_start_tiny",
        f"model.path={model}",
        f"data.train_files={traces}",
        f"videosearch.frames.video_root={root}",
        f"trainer.n_gpus_per_node={num_ranks}",
        f"trainer.total_training_steps={SFT_STEPS}",
        f"trainer.default_local_dir={folder / f'sft{num_ranks}'}",
    ]
    run_ranks(num_ranks, ["verl.trainer.sft_trainer", *settings], VERL_FILE_LOGGER_PATH=str(log))
    return [line["train/loss"] for line in read_log(log)]


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the figures of each step of a log of verl's file logger."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [json.loads(line)["data"] | {"step": json.loads(line)["step"]} for line in lines]


@app.command()
def grpo(
    model: Model,
    pairs: Pairs,
    video_root: VideoRoot,
    out: Out,
    timeout_s: Annotated[float, typer.Option(help="Most seconds of each of the two runs.")] = 900.0,
) -> None:
    """Run GRPO on two ranks, kill it after the checkpoint of step 2, and resume it."""
    run = TinyGrpo(model, pairs, video_root, out)
    settings = (
        "trainer.n_gpus_per_node=2",
        "trainer.total_training_steps=3",
        "trainer.save_freq=1",
        "actor_rollout_ref.rollout.agent.num_workers=2",
        "actor_rollout_ref.rollout.n=4",
    )
    first = run.start("first", *settings)
    wait_for(run.checkpoints / "latest_checkpointed_iteration.txt", "2", first, timeout_s)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    stop_ray()
    second = run.start("second", *settings)
    if second.wait(timeout_s) != 0:
        raise SystemExit(f"the resumed run failed; see {out / 'second.log'}")
    steps = {name: read_log(out / f"{name}.jsonl") for name in ("first", "second")}
    report_grpo(steps)


def wait_for(path: Path, text: str, run: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Wait until a file holds a text; raises `SystemExit` when the run ends before."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if path.exists() and path.read_text().strip() == text:
            return
        if run.poll() is not None:
            raise SystemExit(f"the run ended with status {run.returncode} before it was killed")
        time.sleep(0.2)
    os.killpg(run.pid, signal.SIGKILL)
    raise SystemExit(f"no checkpoint of step {text} after {timeout_s:.0f} s")


def stop_ray() -> None:
    """Give what a killed run has left behind (Ray's daemons end with their driver) time to end."""
    time.sleep(10 + random.random())


def report_grpo(steps: dict[str, list[dict[str, Any]]]) -> None:
    """Print what both runs logged; raises `SystemExit` when the second did not go on at step 3."""
    for name, lines in steps.items():
        for line in lines:
            figures = {
                "loss": line.get("actor/loss"),
                "kl": line.get("actor/kl_loss"),
                "agreement": line.get("videosearch/agreement/logprob_abs_diff_max"),
                "episodes": line.get("videosearch/num_episodes"),
            }
            shown = ", ".join(f"{key} {value:.3g}" for key, value in figures.items() if value)
            typer.echo(f"{name} run, step {line['step']}: {shown}")
    if [line["step"] for line in steps["second"]] != [3]:
        raise SystemExit("the second run did not go on at step 3")


if __name__ == "__main__":
    app()
