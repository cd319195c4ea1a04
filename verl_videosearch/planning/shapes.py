"""Qwen2.5-VL-7B and Qwen3-VL-8B as shapes: parameters, and the most memory that one training
micro-batch holds.

The one idea: on torch's `meta` device a tensor has a shape and a dtype but no storage.
transformers' own layers run on it, forward and backward with gradient checkpointing, and
`PeakMeter` adds up what would be alive at every moment. No weight is loaded, no number is computed,
and the 7B model is there in a tenth of a second.

>>> with PeakMeter() as meter:
...     x = torch.empty(1000, 1000, device="meta")
...     y = x + 1 - 1  # three tensors at once, for a moment
>>> meter.peak_bytes
12000000

Covers: parameters by FSDP2 unit, activations, logits, gradients inside a unit. Does not cover: what
kernels use inside, fragmentation of the allocator, communication buffers.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from verl_videosearch.verl_plugin.frozen_vision import freeze_vision
from verl_videosearch.verl_plugin.sharding import list_units


class ModelName(str, Enum):
    """The models whose shapes are known here."""

    QWEN2_5_VL_7B = "qwen2.5-vl-7b"
    QWEN3_VL_8B = "qwen3-vl-8b"


@dataclass(frozen=True)
class Architecture:
    """What transformers builds a model from; the numbers are those of its config.json."""

    config: type[PreTrainedConfig]
    model: type[nn.Module]
    text: Mapping[str, Any]
    vision: Mapping[str, Any]


ARCHITECTURES = {
    ModelName.QWEN2_5_VL_7B: Architecture(
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 128000,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1_000_000.0,
                "mrope_section": [16, 24, 24],
            },
        },
        {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
        },
    ),
    ModelName.QWEN3_VL_8B: Architecture(
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        {
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262144,
        },
        {
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_heads": 16,
            "out_hidden_size": 4096,
            "patch_size": 16,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [8, 16, 24],
        },
    ),
}


EPISODES = {
    ModelName.QWEN2_5_VL_7B: (),
    # patches of 16 pixels, merged 2 x 2: as many tokens a frame are more pixels (recipes/7b.sh)
    ModelName.QWEN3_VL_8B: (
        "patch_multiple=32",
        "initial_max_pixels=524288",
        "tool_max_pixels=409600",
    ),
}
"""What a model needs beside the settings of the recipe's `videosearch.episode`."""


class PeakMeter(TorchDispatchMode):
    """Add up the bytes of all storages that are made and still alive while it is on."""

    def __init__(self, known: Sequence[torch.Tensor] = ()) -> None:
        super().__init__()
        self.peak_bytes = self._bytes = 0
        self._sizes = {
            tensor.untyped_storage()._cdata: 0 for tensor in known
        }  # what was there before does not count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self._bytes += self._sizes[key]
            self.peak_bytes = max(self.peak_bytes, self._bytes)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._bytes -= self._sizes.pop(key)


@dataclass(frozen=True)
class ModelSize:
    """Numbers of parameters."""

    all: int
    vision: int
    trained: int
    adapter: int
    """Of LoRA, on top of the checkpoint."""
    largest_unit: int
    """The largest part that FSDP2 gathers at once: the embedding, or the output layer."""
    root_unit: int
    """What FSDP2 gathers first and keeps: patch embedding, merger, last norm."""


def build_model(
    name: ModelName = ModelName.QWEN2_5_VL_7B,
    *,
    lora_rank: int = 0,
    exclude_modules: str | None = None,
    is_vision_frozen: bool = False,
    **sizes: int,
) -> nn.Module:
    """Build the model as verl's FSDP2 engine sees it when it computes: bfloat16, checkpointed,
    perhaps with LoRA.

    `sizes` makes it smaller for tests: `num_hidden_layers=1`, `depth=1`.
    """
    ALL_ATTENTION_FUNCTIONS.register("shapes_only", attend_by_shape)
    architecture = ARCHITECTURES[name]
    config = architecture.config(
        text_config={key: sizes.get(key, value) for key, value in architecture.text.items()},
        vision_config={key: sizes.get(key, value) for key, value in architecture.vision.items()},
        tie_word_embeddings=False,
        attn_implementation="shapes_only",
    )
    with torch.device("meta"):
        model = architecture.model(config).to(torch.bfloat16)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if is_vision_frozen:
            freeze_vision(model)
        if lora_rank:  # as in verl's FSDPEngine._build_lora_module
            model.enable_input_require_grads()
            adapter = {
                "r": lora_rank,
                "target_modules": "all-linear",
                "exclude_modules": exclude_modules,
            }
            get_peft_model(model, LoraConfig(task_type=TaskType.CAUSAL_LM, **adapter)).to(
                torch.bfloat16
            )
    return model.train()


def attend_by_shape(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *_: Any,
    **__: Any,
) -> tuple[torch.Tensor, None]:
    """Hold what flash attention holds; keys and values are repeated for every head, as in verl's
    patched layer."""
    num_groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(num_groups, 1) for tensor in (key, value))
    out = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True)[0]
    return out.transpose(1, 2).contiguous(), None


def measure_model(model: nn.Module) -> ModelSize:
    """Count parameters, and those of the units that verl shards."""
    units = [count(unit) for unit in list_units(model, model._no_split_modules)]
    return ModelSize(
        all=count(model),
        vision=count(model.get_encoder(modality="image")),
        trained=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        adapter=sum(weight.numel() for name, weight in model.named_parameters() if "lora_" in name),
        largest_unit=max(units),
        root_unit=count(model) - sum(units),
    )


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def measure_peak(
    model: nn.Module, num_tokens: int, num_image_tokens: int, *, is_vision_frozen: bool = False
) -> int:
    """Return the most bytes that the forward and backward pass of one packed micro-batch hold,
    weights left out.

    Gradients of weights leave as soon as they are complete: FSDP2 reduces them unit by unit.
    """
    for weight in model.parameters():
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(_drop_gradient)
    with torch.device("meta"), PeakMeter([*model.parameters(), *model.buffers()]) as meter:
        with torch.set_grad_enabled(not is_vision_frozen):
            images, extra = _see(model, num_image_tokens)
        hidden = _run_layers(model, _embed(model, num_tokens, images), extra)
        logits = model.lm_head(model.model.language_model.norm(hidden)).squeeze(0)
        del hidden
        log_probs = InPlaceCrossEntropy.apply(logits, torch.empty(num_tokens, dtype=torch.long))
        del logits
        log_probs.sum().backward()
    return meter.peak_bytes


def _drop_gradient(weight: torch.Tensor) -> None:
    weight.grad = None


def _see(model: nn.Module, num_image_tokens: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Run the vision tower on all images, layer by layer: its own forward reads sizes from
    values. Returns what replaces the image tokens, and what is added in the first text layers
    (Qwen3-VL)."""
    tower, config = model.model.visual, model.config.vision_config
    num_patches = num_image_tokens * config.spatial_merge_size**2
    pixels = torch.empty(
        num_patches, config.in_channels * config.temporal_patch_size * config.patch_size**2
    )  # float32
    hidden = tower.patch_embed(pixels.to(torch.bfloat16))
    angles = (
        torch.empty(num_patches, config.hidden_size // config.num_heads, dtype=torch.bfloat16),
    ) * 2
    lengths = torch.tensor([0, num_patches], device="cpu")  # the layer reads the values
    taps = getattr(config, "deepstack_visual_indexes", [])
    extra = []
    for number, block in enumerate(tower.blocks):
        hidden = block(hidden, cu_seqlens=lengths, position_embeddings=angles)
        if number in taps:
            extra.append(tower.deepstack_merger_list[taps.index(number)](hidden))
    return tower.merger(hidden), extra


def _embed(model: nn.Module, num_tokens: int, images: torch.Tensor) -> torch.Tensor:
    text = model.get_input_embeddings()(torch.empty(1, num_tokens, dtype=torch.long))
    return text.masked_scatter(torch.empty(text.shape, dtype=torch.bool), images)


def _run_layers(
    model: nn.Module, hidden: torch.Tensor, extra: Sequence[torch.Tensor]
) -> torch.Tensor:
    config, num_tokens = model.config.text_config, hidden.shape[1]
    axes = (3,) if model.config.model_type == "qwen2_5_vl" else ()  # the other one has mixed them
    angles = torch.empty(*axes, 1, num_tokens, count_head_size(config), dtype=torch.bfloat16)
    positions = torch.empty(1, num_tokens, dtype=torch.long)
    for number, layer in enumerate(model.model.language_model.layers):
        hidden = layer(
            hidden,
            attention_mask=None,
            position_ids=positions,
            position_embeddings=(angles, angles),
        )
        if number < len(extra):
            shown = torch.empty(hidden.shape, dtype=torch.bool)
            added = torch.zeros_like(hidden).masked_scatter(shown, extra[number])
            hidden = hidden + added
    return hidden


def count_head_size(text: Any) -> int:
    """Return the width of an attention head."""
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


class InPlaceCrossEntropy(torch.autograd.Function):
    """Hold what flash-attn's cross entropy holds in verl: the gradient takes the place of the
    logits."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(logits)
        return torch.empty(len(labels), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (logits,) = ctx.saved_tensors
        return logits.mul_(1), None
