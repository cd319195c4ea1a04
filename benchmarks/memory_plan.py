"""Add up what a 7B recipe needs of each GPU, of the host and of the disk: arithmetic, without a
GPU.

The one idea: every figure follows from the recipe itself, composed as verl composes it with the
same overrides as on the training command line, and from the shapes of Qwen2.5-VL-7B
(`benchmarks/shapes.py`).

    python -m benchmarks.memory_plan                                         # GRPO on 8 x 80 GB
    python -m benchmarks.memory_plan --recipe videosearch_cold_start
    python -m benchmarks.memory_plan --card-gib 22 actor_rollout_ref.model.lora_rank=64 ...

What stays an estimate is a constant below, with its reason. Cards report less than their name says:
80 GB are taken as 79 GiB, 24 GB as 22. Covers: GRPO and SFT under FSDP2 as in verl 0.9.1. Does not
cover: other strategies, speed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from torch import nn

from benchmarks.sequence_lengths import BYTES_PER_PIXEL
from benchmarks.shapes import ModelSize, build_model, measure_model, measure_peak
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.report.table import Table

GIB = 2**30
IMAGE_SHARE = 0.85
"""Of the tokens of a packed micro-batch: the most that docs/seven_b.md measures."""
TRAINER_RESERVE_GIB = 1.5
"""CUDA context, NCCL buffers and workspaces of the training process: an estimate."""
ENGINE_RESERVE_GIB = 2.0
"""What vLLM keeps while it sleeps: CUDA context, CUDA graphs: an estimate."""
ENGINE_PEAK_GIB = 5.0
"""vLLM's own activations when it measures how much is left for the KV cache, image encoder
included; divided by the tensor-parallel size: an estimate."""
IMAGE_CACHE_GIB = 2 * 4.0
"""Most that one vLLM server caches of processed images: its default of 4, in two processes."""
TYPICAL_CONTEXT = 9500
"""Tokens of the longest context of a default episode (docs/seven_b.md)."""
BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2}
COMPUTE_BYTES = 2
"""FSDP2 gathers weights in bfloat16 ..."""
REDUCE_BYTES = 4
"""... and reduces gradients in float32 (verl's defaults)."""


@dataclass(frozen=True)
class Engine:
    """vLLM beside the trainer."""

    utilization: float
    tensor_parallel: int
    max_context: int
    max_model_len: int | None
    is_adapter: bool
    """LoRA is sent as an adapter; the weights sleep in host memory."""
    has_reference: bool
    """A second copy of the model, for the KL term; with LoRA the model without its adapter is the
    reference."""
    bucket_bytes: int
    """Buffer through which the trainer sends weights to vLLM."""
    num_episodes: int
    """Of one rollout batch."""
    episode: EpisodeConfig


@dataclass(frozen=True)
class Setup:
    """What a composed recipe decides about memory."""

    num_gpus: int
    num_nodes: int
    weight_bytes: int
    """Of a stored weight; gradients and both of Adam's moments have the same dtype."""
    token_budget: int
    """Tokens of a micro-batch per GPU."""
    sequence_parallel: int
    lora_rank: int
    exclude_modules: str | None
    is_vision_frozen: bool
    offloads_weights: bool
    offloads_optimizer: bool
    save_contents: tuple[str, ...]
    max_checkpoints: int
    engine: Engine | None
    """None for SFT."""


def compose_config(recipe: str, overrides: tuple[str, ...] = ()) -> DictConfig:
    """Compose a recipe as verl's programs do."""
    main_config = "ppo_trainer" if "grpo" in recipe else "sft_trainer_engine"
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(main_config, overrides=[f"+recipe={recipe}", *overrides])


def read_setup(config: DictConfig) -> Setup:
    """Read what decides about memory; the two programs of verl name it differently."""
    is_grpo = "actor_rollout_ref" in config
    model = config.actor_rollout_ref.model if is_grpo else config.model
    actor = config.actor_rollout_ref.actor if is_grpo else config
    fsdp = actor.fsdp_config if is_grpo else config.engine
    keep = config.trainer.max_actor_ckpt_to_keep if is_grpo else config.trainer.max_ckpt_to_keep
    return Setup(
        num_gpus=config.trainer.nnodes * config.trainer.n_gpus_per_node,
        num_nodes=config.trainer.nnodes,
        weight_bytes=BYTES[fsdp.model_dtype],
        token_budget=actor.ppo_max_token_len_per_gpu
        if is_grpo
        else config.data.max_token_len_per_gpu,
        sequence_parallel=max(
            fsdp.ulysses_sequence_parallel_size, actor.get("ulysses_sequence_parallel_size", 1)
        ),
        lora_rank=model.lora_rank,
        exclude_modules=model.exclude_modules,
        is_vision_frozen=str(model.external_lib).endswith("frozen_vision"),
        offloads_weights=fsdp.param_offload,
        offloads_optimizer=fsdp.optimizer_offload,
        save_contents=tuple(actor.checkpoint.save_contents),
        max_checkpoints=keep,
        engine=read_engine(config) if is_grpo else None,
    )


def read_engine(config: DictConfig) -> Engine:
    rollout, model = config.actor_rollout_ref.rollout, config.actor_rollout_ref.model
    return Engine(
        utilization=rollout.gpu_memory_utilization,
        tensor_parallel=rollout.tensor_model_parallel_size,
        max_context=rollout.prompt_length + rollout.response_length,
        max_model_len=rollout.max_model_len,
        is_adapter=model.lora_rank > 0 and not model.lora.merge,
        has_reference=config.actor_rollout_ref.actor.use_kl_loss and model.lora_rank == 0,
        bucket_bytes=rollout.checkpoint_engine.update_weights_bucket_megabytes << 20,
        num_episodes=config.data.train_batch_size * rollout.n,
        episode=EpisodeConfig.from_dict(
            OmegaConf.to_container(config.videosearch.episode, resolve=True)
        ),
    )


@dataclass(frozen=True)
class Plan:
    """The parts of each sum, in bytes."""

    update: dict[str, float]
    """Of one GPU while it trains."""
    rollout: dict[str, float]
    """Of one GPU while episodes run; empty for SFT."""
    sync: dict[str, float]
    """Of one GPU while the trainer sends its weights to vLLM; empty for SFT."""
    cache: dict[str, float]
    """vLLM's share of one GPU."""
    host: dict[str, float]
    """Of all nodes together."""
    disk: float
    """Of one checkpoint."""
    num_cached_tokens: int
    """That one vLLM server can hold."""


def make_plan(setup: Setup, card_gib: float) -> Plan:
    """Add up what a setup needs."""
    model = build_model(
        lora_rank=setup.lora_rank,
        exclude_modules=setup.exclude_modules,
        is_vision_frozen=setup.is_vision_frozen,
    )
    size = measure_model(model)
    engine, text = setup.engine, model.config.text_config
    cache = plan_cache(engine, size, card_gib) if engine else {}
    return Plan(
        update=plan_update(setup, size, model),
        rollout=plan_rollout(setup, size, engine, card_gib) if engine else {},
        sync=plan_sync(setup, size, engine) if engine else {},
        cache=cache,
        host=plan_host(setup, size),
        disk=plan_checkpoint(setup, size),
        num_cached_tokens=int(cache["KV cache"] / count_token_bytes(text) * engine.tensor_parallel)
        if engine
        else 0,
    )


def plan_update(setup: Setup, size: ModelSize, model: nn.Module) -> dict[str, float]:
    trained, shard = size.trained * setup.weight_bytes, 1 / setup.num_gpus
    gathered = size.root_unit + 2 * size.largest_unit  # the one in use and the next
    reduced = 0 if setup.lora_rank else size.largest_unit
    images = int(
        setup.token_budget * setup.sequence_parallel * IMAGE_SHARE
    )  # every rank sees all images of its group
    peak = measure_peak(model, setup.token_budget, images, is_vision_frozen=setup.is_vision_frozen)
    asleep = ENGINE_RESERVE_GIB if setup.engine else 0
    return {
        f"weights, {describe_dtype(setup)}": size.all * setup.weight_bytes * shard,
        "gradients": trained * shard,
        "Adam, two moments": 2 * trained * shard,
        "gathered by FSDP2": gathered * COMPUTE_BYTES + reduced * REDUCE_BYTES,
        f"micro-batch of {setup.token_budget:,} tokens": peak,
        "processes, and vLLM asleep" if setup.engine else "process": (TRAINER_RESERVE_GIB + asleep)
        * GIB,
    }


def describe_dtype(setup: Setup) -> str:
    return {4: "float32", 2: "bfloat16"}[setup.weight_bytes]


def plan_rollout(
    setup: Setup, size: ModelSize, engine: Engine, card_gib: float
) -> dict[str, float]:
    return {
        "weights of the trainer": 0
        if setup.offloads_weights
        else size.all * setup.weight_bytes / setup.num_gpus,
        "Adam": 0
        if setup.offloads_optimizer
        else 2 * size.trained * setup.weight_bytes / setup.num_gpus,
        f"vLLM, {engine.utilization:g} of the card": engine.utilization * card_gib * GIB,
        "process": TRAINER_RESERVE_GIB * GIB,
    }


def plan_sync(setup: Setup, size: ModelSize, engine: Engine) -> dict[str, float]:
    """vLLM has its weights again, but no cache yet."""
    stays = (
        engine.is_adapter or not setup.offloads_weights
    )  # without LoRA, offloaded weights pass through one by one
    return {
        "weights of the trainer": size.all * setup.weight_bytes / setup.num_gpus if stays else 0,
        "Adam": 0
        if setup.offloads_optimizer
        else 2 * size.trained * setup.weight_bytes / setup.num_gpus,
        "weights of vLLM": (size.all - size.adapter) * COMPUTE_BYTES / engine.tensor_parallel,
        "one whole weight": 0 if engine.is_adapter else size.largest_unit * setup.weight_bytes,
        "buffer": engine.bucket_bytes,
        "processes": (TRAINER_RESERVE_GIB + ENGINE_RESERVE_GIB) * GIB,
    }


def plan_cache(engine: Engine, size: ModelSize, card_gib: float) -> dict[str, float]:
    """Say what vLLM's share of a GPU is made of."""
    weights = (size.all - size.adapter) * COMPUTE_BYTES / engine.tensor_parallel
    working = ENGINE_PEAK_GIB * GIB / engine.tensor_parallel
    cache = engine.utilization * card_gib * GIB - weights - working
    return {"weights, bfloat16": weights, "activations": working, "KV cache": cache}


def count_token_bytes(text: Any) -> int:
    """Return the bytes of one token in the KV cache, over all GPUs of a server."""
    head_size = text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * text.num_key_value_heads * head_size * COMPUTE_BYTES


def plan_host(setup: Setup, size: ModelSize) -> dict[str, float]:
    """Host memory of all nodes, without the page cache that frames are read through."""
    weights, engine = size.all * setup.weight_bytes, setup.engine
    parts = {"the whole model on rank 0, while loading and saving": weights}
    if setup.offloads_weights:
        parts["weights between updates"] = weights
    if setup.offloads_optimizer:
        parts["Adam between updates"] = 2 * size.trained * setup.weight_bytes
    if engine is None:
        return parts
    if engine.has_reference:
        parts["reference model, pinned"] = (
            size.all * 4
        )  # its own model_dtype, which the recipe leaves at float32
    num_servers = setup.num_gpus // engine.tensor_parallel
    if engine.is_adapter:
        parts["vLLM's weights while it sleeps"] = (
            (size.all - size.adapter) * COMPUTE_BYTES * num_servers
        )
    parts["vLLM's image caches, at most"] = IMAGE_CACHE_GIB * GIB * num_servers
    for num_calls in (1, engine.episode.max_tool_calls):
        calls = "call" if num_calls == 1 else "calls"
        pixels = (
            engine.num_episodes * count_episode_pixels(engine.episode, num_calls) * BYTES_PER_PIXEL
        )
        parts[f"pixels of a batch, episodes of {num_calls} {calls}"] = pixels
    return parts


def count_episode_pixels(episode: EpisodeConfig, num_calls: int) -> int:
    """Return the pixels in all training sequences of an episode of full calls and full pixel
    budgets."""
    window = num_calls if episode.window is None else min(episode.window, num_calls)
    num_sequences = num_calls - window + 1
    first = 2 * episode.initial_frames_per_video * episode.initial_max_pixels
    called = window * episode.max_frames_per_call * episode.tool_max_pixels
    return num_sequences * (first + called)


def plan_checkpoint(setup: Setup, size: ModelSize) -> float:
    parts = {
        "model": size.all * setup.weight_bytes,
        "optimizer": 2 * size.trained * setup.weight_bytes,
        "hf_model": size.all * setup.weight_bytes,  # verl 0.9.1 writes it in the trainer's dtype
    }
    return sum(parts.get(name, 0) for name in setup.save_contents)


def show_sum(title: str, parts: dict[str, float], card_gib: float) -> Table:
    """List the parts of what one GPU holds, and the sum against the card."""
    total = sum(parts.values())
    rows = [(name, f"{value / GIB:.1f}") for name, value in parts.items()]
    rows.append(("**sum**", f"**{total / GIB:.1f}** of {card_gib:g}"))
    return Table(title, ("per GPU", "GiB"), rows)


def show_cache(plan: Plan, engine: Engine) -> Table:
    rows = [(name, f"{value / GIB:.1f}") for name, value in plan.cache.items()]
    rows.append(("tokens that the cache holds", f"{plan.num_cached_tokens:,}"))
    for length in (TYPICAL_CONTEXT, engine.max_context):
        rows.append(
            (f"contexts of {length:,} tokens at once", f"{plan.num_cached_tokens / length:.0f}")
        )
    return Table("vLLM", ("per server", "GiB per GPU, or number"), rows)


def show_host(plan: Plan, setup: Setup) -> Table:
    rows = [(name, f"{value / GIB:,.0f}") for name, value in plan.host.items()]
    rows.append(
        (f"disk: one checkpoint; {setup.max_checkpoints} are kept", f"{plan.disk / GIB:,.0f}")
    )
    return Table("Host and disk", ("all nodes", "GiB"), rows)


def show_model() -> Table:
    size = measure_model(build_model())
    rows = [
        ("all", size.all),
        ("of these the vision tower", size.vision),
        ("the largest part that FSDP2 gathers (embedding; output layer)", size.largest_unit),
    ]
    return Table(
        "Qwen2.5-VL-7B", ("parameters", "number"), [(name, f"{number:,}") for name, number in rows]
    )


def main(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Overrides, as on the training command line.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="A 7B recipe.")] = "videosearch_grpo",
    card_gib: Annotated[
        float, typer.Option(help="Memory of one card: 79 for 80 GB, 22 for 24 GB.")
    ] = 79,
) -> None:
    """Print the memory plan of a recipe."""
    setup = read_setup(compose_config(recipe, tuple(overrides or ())))
    plan = make_plan(setup, card_gib)
    tables = [show_model(), show_sum("While it trains", plan.update, card_gib)]
    if setup.engine:
        tables += [
            show_sum("While weights are sent", plan.sync, card_gib),
            show_sum("While episodes run", plan.rollout, card_gib),
            show_cache(plan, setup.engine),
        ]
    for table in (*tables, show_host(plan, setup)):
        typer.echo(table.to_markdown())


if __name__ == "__main__":
    typer.run(main)
