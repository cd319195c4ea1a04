"""Checks of the model: it is there, and it sees the frames that the episode cuts.

The one idea: a frame is sized once, by us, to whole patches of the model and within its limits.
Where the settings do not fit the model's own image processor, it would quietly resize every frame
again (Qwen3-VL at patch_multiple 28), so such a run is refused with the settings that fit. A
recipe's `patch_multiple: null` is the model's own and is filled in before the checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_videosearch.episode import EpisodeConfig, fit_patches
from verl_videosearch.sight import find_patch_multiple, read_image_limits, read_model_file


def check_folder(key: str, model: str) -> Iterator[str]:
    """Look for a model: a folder, or a name that the Hugging Face hub (or its cache) knows; what
    verl fetches from elsewhere (`hdfs://...`) passes."""
    if "://" in model or read_model_file(model, "config.json") is not None:
        return
    path = Path(model).expanduser()
    is_folder = path.is_dir() or model.startswith(("/", ".", "~"))
    hub = "" if is_folder else ", and the Hugging Face hub gives no model of this name"
    yield f"{key}: no model in {str(path)!r} (config.json is missing){hub}"


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


def check_thoughts(
    model: str, episode: EpisodeConfig, template_kwargs: Mapping[str, Any] | None = None
) -> Iterator[str]:
    """Refuse to keep native thoughts where the model's own chat template drops them."""
    if not episode.keep_native_thought:
        return
    from verl.utils.tokenizer import hf_processor

    from verl_videosearch.verl_plugin.tokens import ContextRenderer

    processor = hf_processor(model)
    if processor is None:
        return
    renderer = ContextRenderer(
        processor.tokenizer, processor, dict(template_kwargs or {}), episode.native_thought
    )
    if renderer.thought is not None and not renderer.keeps_thoughts():
        yield (
            "videosearch.episode.keep_native_thought is true, but this model's chat template drops "
            "thoughts from the history: set it to false, or give the model a template that keeps "
            "them (chat_template.jinja of its folder)"
        )


def fit_to_model(config: DictConfig) -> None:
    """Fill in what `videosearch.episode` leaves to the model, in place; left alone where the model
    does not say how it sees."""
    episode = OmegaConf.select(config, "videosearch.episode")
    model = OmegaConf.select(config, "actor_rollout_ref.model.path") or OmegaConf.select(
        config, "model.path"
    )
    if not isinstance(episode, DictConfig) or episode.get("patch_multiple", 0) is not None:
        return
    multiple = find_patch_multiple(model)
    if multiple is not None:
        fitted = fit_patches(OmegaConf.to_container(episode, resolve=True), multiple)
        for name in ("patch_multiple", "initial_max_pixels", "tool_max_pixels"):
            OmegaConf.update(config, f"videosearch.episode.{name}", fitted[name], force_add=True)
