"""Checks of what both of verl's programs hand to its FSDP engine: the model's settings and ranks.

The one idea: SFT and GRPO train with the same engine, so what it refuses, ignores or spoils is said
once; only the places of the settings differ (`SFT`, `GRPO`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from verl_videosearch.extras import find_flash_fault

ULYSSES = "ulysses_sequence_parallel_size"
FLASH_ATTENTION = "flash_attention_2"
"""What verl 0.9.1 takes where `override_config.attn_implementation` says nothing."""


@dataclass(frozen=True)
class Places:
    """Where a program of verl keeps what its engine reads."""

    model: str
    engines: tuple[str, ...]
    checkpoint: str


SFT = Places("model", ("engine",), "checkpoint")
ACTOR_ENGINE = "actor_rollout_ref.actor.fsdp_config"
REFERENCE_ENGINE = "actor_rollout_ref.ref.fsdp_config"
GRPO = Places(
    "actor_rollout_ref.model",
    (ACTOR_ENGINE, REFERENCE_ENGINE),
    "actor_rollout_ref.actor.checkpoint",
)


def check_engine(config: DictConfig, places: Places) -> Iterator[str]:
    """Name every setting that the engine would refuse later, ignore, or spoil the run with."""
    yield from _check_saved(config, places)
    yield from _check_dtypes(config, places)
    yield from _check_kernels(config, places)
    yield from _check_attention(config, places)
    yield from _check_sequence_parallel(config, places)
    yield from _check_cards(config)


def find_sequence_parallel(config: DictConfig, engine: str) -> tuple[str, int]:
    """Return how many ranks share a sequence, and the key that says so: the older one, beside
    `fsdp_config`, wins where it is above 1, as in verl 0.9.1."""
    older = f"{engine.removesuffix('.fsdp_config')}.{ULYSSES}"
    size = OmegaConf.select(config, older) or 1
    if size > 1:
        return older, size
    key = f"{engine}.{ULYSSES}"
    return key, OmegaConf.select(config, key)


def count_ranks(config: DictConfig) -> int:
    """Return the number of processes that train."""
    return config.trainer.nnodes * config.trainer.n_gpus_per_node


def _check_saved(config: DictConfig, places: Places) -> Iterator[str]:
    saved = f"{places.checkpoint}.save_contents"
    if OmegaConf.select(config, places.model).lora_rank > 0 and "hf_model" in OmegaConf.select(
        config, saved
    ):
        yield (
            f"{saved} must not have hf_model with LoRA: verl writes a folder that nothing can "
            "load; use [model,optimizer,extra] and see docs/seven_b.md"
        )


def _check_dtypes(config: DictConfig, places: Places) -> Iterator[str]:
    for engine in places.engines:
        dtype = OmegaConf.select(config, f"{engine}.model_dtype")
        if dtype not in ("fp32", "float32"):
            yield (
                f"{engine}.model_dtype must be 'fp32', got {dtype!r}: verl would round the "
                "frequencies of the rotary embedding, too; it computes in bfloat16 anyway"
            )


def _check_kernels(config: DictConfig, places: Places) -> Iterator[str]:
    if OmegaConf.select(config, f"{places.model}.use_fused_kernels"):
        yield (
            f"{places.model}.use_fused_kernels must be False, got True: under FSDP2 the output "
            "layer is still sharded when the kernel takes its weight, and verl 0.9.1 ends there"
        )


def _check_attention(config: DictConfig, places: Places) -> Iterator[str]:
    """flash-attn runs on a GPU only; the recipes for a CPU say what they use instead."""
    model = OmegaConf.select(config, places.model)
    attention = model.override_config.get("attn_implementation", FLASH_ATTENTION)
    if not (model.use_remove_padding or attention == FLASH_ATTENTION) or not count_cards(config):
        return
    fault = find_flash_fault()
    if fault is not None:
        yield (
            f"flash-attn cannot be imported ({fault}), and {places.model} needs it "
            f"(use_remove_padding={model.use_remove_padding}, attn_implementation={attention}): "
            f"install it, or go without: {places.model}.use_remove_padding=false "
            f"+{places.model}.override_config.attn_implementation=sdpa (docs/seven_b.md says "
            "what that costs)"
        )


def _check_sequence_parallel(config: DictConfig, places: Places) -> Iterator[str]:
    ranks = count_ranks(config)
    is_packed = OmegaConf.select(config, f"{places.model}.use_remove_padding")
    for key, size in dict(find_sequence_parallel(config, name) for name in places.engines).items():
        if size < 1 or ranks % size:
            yield (
                f"{key} ({size}) must divide the number of ranks, trainer.nnodes * "
                f"trainer.n_gpus_per_node = {ranks}"
            )
        if size > 1 and not is_packed:
            yield (
                f"{key} is {size}, so {places.model}.use_remove_padding must be true (and "
                f"flash-attn installed), or {key} 1: verl shares out packed sequences only"
            )


def _check_cards(config: DictConfig) -> Iterator[str]:
    """One node must have its cards; what a cluster of several has is for Ray to say."""
    wanted, found = config.trainer.n_gpus_per_node, count_cards(config)
    if found and config.trainer.nnodes == 1 and wanted > found:
        yield (
            f"trainer.n_gpus_per_node is {wanted}, but this machine has {found} (CUDA_VISIBLE_"
            f"DEVICES counts): set trainer.n_gpus_per_node={found}; recipes/7b.sh takes "
            f"GPUS={found}"
        )


def count_cards(config: DictConfig) -> int:
    """Return the CUDA cards that this process sees; 0 for a run that is not for them."""
    import torch

    if config.trainer.device != "cuda" or not torch.cuda.is_available():
        return 0
    return torch.cuda.device_count()
