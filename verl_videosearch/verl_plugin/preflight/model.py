"""Checks of the model: it is there, and it sees the frames that the episode cuts.

The one idea: a frame is sized once, by us, to whole patches of the model and within its limits.
Where the settings do not fit the model's own image processor, it would quietly resize every frame
again (Qwen3-VL at patch_multiple 28), so such a run is refused with the settings that fit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_videosearch.episode import EpisodeConfig

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


def check_folder(key: str, model: str) -> Iterator[str]:
    """Look for a model that is given as a folder."""
    path = Path(model).expanduser()
    if model.startswith(("/", ".", "~")) and not (path / "config.json").is_file():
        yield f"{key}: no model in {str(path)!r} (config.json is missing)"


def check_sight(model: str, episode: EpisodeConfig) -> Iterator[str]:
    """Compare the sizes of frames with the model's own; a model whose file cannot be read, or that
    sizes images in another way, passes."""
    limits = read_image_limits(model)
    if limits is None:
        return
    if episode.patch_multiple != limits.patch_multiple:
        yield (
            f"videosearch.episode.patch_multiple must be {limits.patch_multiple} for this "
            "model, got "
            f"{episode.patch_multiple}: it would resize every frame again; set "
            f"videosearch.episode.patch_multiple={limits.patch_multiple}"
        )
    for name in ("initial_max_pixels", "tool_max_pixels"):
        budget = getattr(episode, name)
        if limits.min_pixels is not None and budget < limits.min_pixels:
            yield (
                f"videosearch.episode.{name} must be at least {limits.min_pixels} for this "
                "model, got "
                f"{budget}: it would enlarge every frame again"
            )
        if limits.max_pixels is not None and budget > limits.max_pixels:
            yield (
                f"videosearch.episode.{name} must be at most {limits.max_pixels} for this "
                "model, got "
                f"{budget}: it would shrink large frames again"
            )


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
    """Return the settings of a model's image processor, from its folder or the hub's cache (a file
    of 1 kB, fetched where the model itself would be)."""
    from transformers.utils import cached_file

    for name in _FILES:
        path = Path(model).expanduser() / name
        if not path.parent.is_dir():
            try:
                path = Path(cached_file(model, name))
            except (OSError, ValueError):
                continue
        try:
            settings = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        return settings.get("image_processor") or settings
    return {}
