"""Sight: how a model's own image processor sizes an image.

The one idea: a frame is sized once, by us, to whole patches of the model. The model's folder says
how large they are, so `patch_multiple: null` of a recipe means: as the model that is trained or
asked (`find_patch_multiple`, `episode.fit_patches`).

Covers: processors with patches that are merged (Qwen2-VL to Qwen3.5). Does not cover: servers of
which no folder is known.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FILES = ("preprocessor_config.json", "processor_config.json")
"""Where a model says how it sees; transformers 5 writes the second one."""


@dataclass(frozen=True)
class ImageLimits:
    """How a model's image processor sizes an image."""

    patch_multiple: int
    """Both sides become multiples of this, in pixels."""
    min_pixels: int | None
    """An image of fewer pixels is enlarged; None: no limit is known."""
    max_pixels: int | None
    """An image of more pixels is shrunk; None: no limit is known."""


def find_patch_multiple(model: str | Path | None) -> int | None:
    """Return what both sides of a frame must be multiples of; None where a model does not say."""
    limits = None if model is None else read_image_limits(str(model))
    return None if limits is None else limits.patch_multiple


def read_image_limits(model: str) -> ImageLimits | None:
    """Read a model's image processor; None when it has none that we can read."""
    settings = _read_settings(model)
    patch, merge = settings.get("patch_size"), settings.get("merge_size")
    if not isinstance(patch, int) or not isinstance(merge, int):
        return None
    size = settings.get("size") or {}
    return ImageLimits(
        patch_multiple=patch * merge,
        min_pixels=settings.get("min_pixels") or size.get("shortest_edge"),
        max_pixels=settings.get("max_pixels") or size.get("longest_edge"),
    )


def _read_settings(model: str) -> dict[str, Any]:
    """Return the settings of a model's image processor."""
    for name in _FILES:
        settings = read_model_file(model, name)
        if settings is not None:
            return dict(settings.get("image_processor") or settings)
    return {}


def read_model_file(model: str, name: str) -> dict[str, Any] | None:
    """Read a JSON file of a model, from its folder or the hub's cache (a file of 1 kB, fetched
    where the model itself would be); None where there is none that can be read."""
    from transformers.utils import cached_file

    path = Path(model).expanduser() / name
    if not path.parent.is_dir():
        try:
            found = cached_file(model, name)
        except (OSError, ValueError):
            return None
        if found is None:
            return None
        path = Path(found)
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
