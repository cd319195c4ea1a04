"""Let Qwen2-VL and Qwen2.5-VL train on a micro-batch without any image.

verl 0.9.1 still runs the vision tower on a dummy image then, so that every rank uses every
parameter, and takes `.mean()` of what it returns; since transformers 5 that is an object with a
pooled output and not a tensor. It happens on any device: verl's padding rows are text only. The
repair is the same dummy pass with the output unpacked as verl unpacks real images.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

DUMMY_GRID = (1, 4, 4)
"""Patches of the dummy image: time, height, width."""


def allow_text_only(get_input_embeds: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap verl's `_get_input_embeds` and answer its calls without pixels; all others pass
    through."""

    @wraps(get_input_embeds)
    def wrapper(
        model: Any,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if pixel_values is None and pixel_values_videos is None:
            embeds = model.get_input_embeddings()(input_ids)
            return embeds + 0.0 * dummy_image(model, embeds).mean(), attention_mask
        return get_input_embeds(
            model,
            input_ids,
            attention_mask,
            pixel_values,
            pixel_values_videos,
            image_grid_thw,
            video_grid_thw,
        )

    return wrapper


def dummy_image(model: Any, like: torch.Tensor) -> torch.Tensor:
    """Return the vision tower's output for one black image, on the device and in the dtype of
    `like`."""
    from verl.models.transformers.qwen2_vl import unpack_visual_output

    vision = model.config.vision_config
    patch_dim = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    num_patches = torch.Size(DUMMY_GRID).numel()
    pixels = torch.zeros((num_patches, patch_dim), dtype=like.dtype, device=like.device)
    embeds, _ = unpack_visual_output(
        model.visual(pixels, grid_thw=torch.tensor([DUMMY_GRID], device=like.device))
    )
    return embeds
