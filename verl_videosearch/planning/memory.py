"""Add up what a 7B recipe needs of each GPU, of the host and of the disk: arithmetic, without a
GPU.

The one idea: every figure follows from the recipe itself, composed as verl composes it with the
same overrides as on the training command line, and from the shapes of the model (`shapes.py`).

    videosearch plan                                         # GRPO on 8 x 80 GB
    videosearch plan --recipe videosearch_cold_start
    videosearch plan --card-gib 22 actor_rollout_ref.model.lora_rank=64 ...

What stays an estimate is a constant below, with its reason. Cards report less than their name says:
80 GB are taken as 79 GiB, 24 GB as 22. Covers: GRPO and SFT under FSDP2 as in verl 0.9.1, frames by
reference. Does not cover: other strategies, the page cache, fragmentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.planning.setup import GIB, Engine, Setup
from verl_videosearch.planning.shapes import (
    ModelName,
    ModelSize,
    build_model,
    count_head_size,
    measure_model,
    measure_peak,
)
from verl_videosearch.report.table import Table

IMAGE_SHARE = 0.85
"""Of the tokens of a packed micro-batch: the most that docs/seven_b.md measures."""
TRAINER_RESERVE_GIB = 1.5
"""CUDA context, NCCL buffers and workspaces of the training process: an estimate."""
ENGINE_RESERVE_GIB = 2.0
"""What vLLM keeps while it sleeps: CUDA context, CUDA graphs: an estimate."""
ENGINE_PEAK_GIB = 5.0
"""vLLM's own activations when it measures how much is left for the KV cache, image encoder
included; divided by the tensor-parallel size: an estimate."""
TYPICAL_CONTEXT = 9500
"""Tokens of the longest context of a default episode (docs/seven_b.md)."""
TRAINER_HOST_GIB = 2.0
"""Host memory of a training process by itself, shared libraries left out: an estimate."""
SERVER_HOST_GIB = 4.0
"""Of a vLLM server's two processes, likewise."""
WORKER_HOST_GIB = 1.0
"""Of a process that runs episodes, likewise."""
DRIVER_HOST_GIB = 6.0
"""Of the trainer's driver, Ray's own processes and TransferQueue, likewise."""
HELD_BYTES_PER_PIXEL = 4 + 3 + 4 + 12
"""Of an image in a running request: PIL in the process of the episode (4), Ray's copy of the call
(3), PIL in vLLM's server (4), and its patches in bfloat16, each frame twice (12)."""
STORED_BYTES_PER_EPISODE = 2 * 10**6
"""In TransferQueue, at most, with frames by reference (measured: 0.45 MB at 1280 x 720)."""
PIXEL_BYTES_OF_MICRO_BATCH = 3 + 24
"""Per pixel, where a micro-batch's frames become `pixel_values`: the frame, and float32 patches."""
COMPUTE_BYTES = 2
"""FSDP2 gathers weights in bfloat16 ..."""
REDUCE_BYTES = 4
"""... and reduces gradients in float32 (verl's defaults)."""


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
    host: dict[str, dict[str, float]]
    """Phase to parts, of all nodes together."""
    disk: float
    """Of one checkpoint."""
    num_cached_tokens: int
    """That one vLLM server can hold."""
    model_length: int
    """Tokens of the longest context that the model knows; vLLM's limit where none is set."""


def make_plan(setup: Setup, card_gib: float, name: ModelName = ModelName.QWEN2_5_VL_7B) -> Plan:
    """Add up what a setup needs."""
    model = build_model(
        name,
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
        model_length=text.max_position_embeddings,
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
    width = text.num_key_value_heads * count_head_size(text)
    return 2 * text.num_hidden_layers * width * COMPUTE_BYTES


def plan_host(setup: Setup, size: ModelSize) -> dict[str, dict[str, float]]:
    """Host memory of all nodes, by phase, without the page cache that frames are read through."""
    weights, engine = size.all * setup.weight_bytes, setup.engine
    always = {"processes": plan_processes(setup)}
    if engine is not None and engine.has_reference:
        # its own model_dtype, which the recipe leaves at float32
        always["reference model, pinned"] = size.all * 4
    between: dict[str, float] = {}
    if setup.offloads_weights:
        between["weights between updates"] = weights
    if setup.offloads_optimizer:
        between["Adam between updates"] = 2 * size.trained * setup.weight_bytes
    whole = {"the whole model on rank 0": weights}
    loading = {"loading and saving": always | between | whole}
    if engine is None:
        return loading | {"training": always | between | plan_micro_batches(setup)}
    asleep: dict[str, float] = {}
    if engine.is_adapter:
        base = (size.all - size.adapter) * COMPUTE_BYTES
        asleep["vLLM's weights while it sleeps"] = base * count_servers(setup)
    stored = {"batch in TransferQueue": engine.num_episodes * STORED_BYTES_PER_EPISODE}
    cache = {"vLLM's image caches": plan_image_cache(setup, engine)}
    seen = between | cache
    episodes = plan_images(setup, engine, engine.num_running)
    validated = plan_images(setup, engine, min(engine.num_running, engine.num_validated))
    return loading | {
        "episodes": always | seen | stored | episodes,
        "validation": always | seen | validated,
        "training": always | asleep | cache | stored | plan_micro_batches(setup),
    }


def plan_processes(setup: Setup) -> float:
    """Return what all processes take by themselves: estimates, see the constants."""
    trainers = setup.num_gpus * TRAINER_HOST_GIB
    if setup.engine is None:
        return trainers * GIB
    servers = count_servers(setup) * SERVER_HOST_GIB
    workers = setup.engine.num_workers * WORKER_HOST_GIB
    return (trainers + servers + workers + DRIVER_HOST_GIB) * GIB


def count_servers(setup: Setup) -> int:
    """Return the number of vLLM servers."""
    return setup.num_gpus // setup.engine.tensor_parallel if setup.engine else 0


def plan_image_cache(setup: Setup, engine: Engine) -> float:
    """Return what vLLM may keep of processed images: each server in two processes."""
    return 2 * engine.image_cache_gib * GIB * count_servers(setup)


def plan_images(setup: Setup, engine: Engine, num_running: int) -> dict[str, float]:
    """Return the images of all running requests: every episode in its longest context."""
    pixels = num_running * count_context_pixels(setup.settings.episode)
    return {f"images of {num_running} running episodes": pixels * HELD_BYTES_PER_PIXEL}


def plan_micro_batches(setup: Setup) -> dict[str, float]:
    """Return the pixels of the micro-batches that all GPUs work on."""
    one_token = setup.settings.episode.patch_multiple**2
    tokens = setup.num_gpus * setup.token_budget * setup.sequence_parallel * IMAGE_SHARE
    return {"pixels of micro-batches": tokens * one_token * PIXEL_BYTES_OF_MICRO_BATCH}


def count_context_pixels(episode: EpisodeConfig) -> int:
    """Return the most pixels that are visible at once."""
    calls = episode.max_tool_calls
    window = calls if episode.window is None else min(episode.window, calls)
    first = 2 * episode.initial_frames_per_video * episode.initial_max_pixels
    return first + window * episode.max_frames_per_call * episode.tool_max_pixels


def plan_checkpoint(setup: Setup, size: ModelSize) -> float:
    parts = {
        "model": size.all * setup.weight_bytes,
        "optimizer": 2 * size.trained * setup.weight_bytes,
        "hf_model": size.all * setup.weight_bytes,  # verl 0.9.1 writes it in the trainer's dtype
    }
    return sum(parts.get(name, 0) for name in setup.save_contents)


def sum_pixels(parts: dict[str, float]) -> float:
    """Return what of a phase's host memory are pixels."""
    words = ("image", "pixel", "TransferQueue")
    return sum(value for name, value in parts.items() if any(word in name for word in words))


def list_problems(plan: Plan, setup: Setup, card_gib: float, host_gib: float) -> list[str]:
    """Say what does not fit; empty: everything does."""
    problems = []
    phases = {
        "while it trains": plan.update,
        "while weights are sent": plan.sync,
        "while episodes run": plan.rollout,
    }
    for phase, parts in phases.items():
        total = sum(parts.values()) / GIB
        if total > card_gib:
            problems.append(f"a card needs {total:.1f} GiB {phase} and has {card_gib:g}")
    for phase, parts in plan.host.items():
        total = sum(parts.values()) / GIB
        if total > host_gib:
            problems.append(f"the host needs {total:.0f} GiB ({phase}) and has {host_gib:g}")
    engine = setup.engine
    if engine is not None:
        longest = engine.max_model_len or plan.model_length
        if plan.num_cached_tokens < longest:
            problems.append(
                f"vLLM's cache holds {max(plan.num_cached_tokens, 0):,} tokens and must hold one "
                f"context of {longest:,}; this recipe's longest is {engine.max_context:,}: set "
                f"actor_rollout_ref.rollout.max_model_len={engine.max_context}, or give vLLM more"
            )
    return problems


def show_sum(title: str, parts: dict[str, float], card_gib: float) -> Table:
    """List the parts of what one GPU holds, and the sum against the card."""
    total = sum(parts.values())
    rows = [(name, f"{value / GIB:.1f}") for name, value in parts.items()]
    rows.append(("**sum**", f"**{total / GIB:.1f}** of {card_gib:g}"))
    return Table(title, ("per GPU", "GiB"), rows)


def show_cache(plan: Plan, setup: Setup, engine: Engine) -> Table:
    """List what vLLM's share of a card holds, and how much of it the running episodes use."""
    rows = [(name, f"{value / GIB:.1f}") for name, value in plan.cache.items()]
    rows.append(("tokens that the cache holds", f"{plan.num_cached_tokens:,}"))
    for length in (TYPICAL_CONTEXT, engine.max_context):
        number = f"{plan.num_cached_tokens / length:.0f}"
        rows.append((f"contexts of {length:,} tokens at once", number))
    running = f"{engine.num_running / count_servers(setup):.0f}"
    rows.append(
        (f"episodes at once, of {engine.num_running} in {engine.num_workers} workers", running)
    )
    return Table("vLLM", ("per server", "GiB per GPU, or number"), rows)


def show_host(plan: Plan) -> Table:
    """List host memory, one column a phase."""
    names = dict.fromkeys(name for parts in plan.host.values() for name in parts)
    rows = []
    for name in names:
        values = (parts.get(name) for parts in plan.host.values())
        rows.append((name, *("" if value is None else f"{value / GIB:.1f}" for value in values)))
    sums = (sum(parts.values()) / GIB for parts in plan.host.values())
    rows.append(("**sum**", *(f"**{total:.0f}**" for total in sums)))
    pixels = (sum_pixels(parts) / GIB for parts in plan.host.values())
    rows.append(("of these pixels", *(f"{total:.0f}" for total in pixels)))
    return Table("Host", ("all nodes, GiB", *plan.host), rows)


def show_disk(plan: Plan, setup: Setup) -> Table:
    """List what a run leaves on the disk."""
    rows = [("one checkpoint", f"{plan.disk / GIB:,.0f}")]
    if setup.num_kept is None:
        rows.append(("all are kept", "as many times as the run saves"))
    else:
        rows.append((f"{setup.num_kept} are kept", f"{plan.disk * setup.num_kept / GIB:,.0f}"))
    store = setup.settings.frames.max_gigabytes * 1e9 / GIB
    rows.append(("frame store, at most", f"{store:,.0f}"))
    return Table("Disk", ("what", "GiB"), rows)


def show_model(name: ModelName) -> Table:
    """Say how large the model is."""
    size = measure_model(build_model(name))
    rows = [
        ("all", f"{size.all:,}"),
        ("of these the vision tower", f"{size.vision:,}"),
        ("the largest part that FSDP2 gathers (embedding; output layer)", f"{size.largest_unit:,}"),
    ]
    return Table(name.value, ("parameters", "number"), rows)


def show_plan(plan: Plan, setup: Setup, card_gib: float, name: ModelName) -> list[Table]:
    """Return the whole plan as tables."""
    tables = [show_model(name), show_sum("While it trains", plan.update, card_gib)]
    if setup.engine:
        tables += [
            show_sum("While weights are sent", plan.sync, card_gib),
            show_sum("While episodes run", plan.rollout, card_gib),
            show_cache(plan, setup, setup.engine),
        ]
    return [*tables, show_host(plan), show_disk(plan, setup)]
