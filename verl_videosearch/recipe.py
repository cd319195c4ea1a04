"""A recipe's name, and `name=value` pairs, to the settings of an episode.

The one idea: whoever judges must show what training showed, so every program reads the episode's
settings from the recipe that trained, and says on the command line only what it changes.

>>> read_episode("videosearch_grpo_tiny", ["window=2"]).window
2

Covers: recipes that travel with the package (`recipes/recipe/*.yaml`, whose headers are their
manuals), composed by Hydra. Does not cover: the rest of a recipe (verl's own settings).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from verl_videosearch.checkpoint import read_checkpoint_settings
from verl_videosearch.episode import PATCH_MULTIPLE, EpisodeConfig
from verl_videosearch.extras import Extra, require
from verl_videosearch.sight import find_patch_multiple

PACKAGE = "verl_videosearch.recipes"
"""Holds the recipes; in a checkout it is the folder `recipes`."""


@cache
def find_recipes() -> Path:
    """Return the folder of the recipes."""
    found = find_spec(PACKAGE)
    assert found is not None and found.submodule_search_locations, f"{PACKAGE} is not installed"
    return Path(found.submodule_search_locations[0]) / "recipe"


def read_episode_settings(recipe: str) -> dict[str, Any]:
    """Return `videosearch.episode` of a recipe; an unknown name is a `ValueError` with the known
    ones.

    >>> read_episode_settings("videosearch_grpo_tiny")["frames_per_video"]
    16
    """
    hydra, omegaconf = require("hydra", Extra.JUDGE), require("omegaconf", Extra.JUDGE)
    folder = find_recipes()
    if not (folder / f"{recipe}.yaml").is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise ValueError(f"unknown recipe {recipe!r}; known are {known}")
    with hydra.initialize_config_dir(str(folder), version_base=None):
        node = hydra.compose(recipe).videosearch.episode
        return omegaconf.OmegaConf.to_container(node, resolve=True)


def read_episode(
    recipe: str | None, overrides: Sequence[str], checkpoint: str | Path | None = None
) -> EpisodeConfig:
    """Read the episode settings of a recipe, changed by `name=value` pairs.

    Without a recipe they are those that a `checkpoint` of ours was trained with, where its folder
    says so; else `EpisodeConfig`'s own. `patch_multiple: null` is that of the checkpoint."""
    changes = dict(read_override(text) for text in overrides)
    return make_episode(find_settings(recipe, checkpoint), changes, checkpoint)


def find_settings(recipe: str | None, checkpoint: str | Path | None) -> Mapping[str, Any]:
    """Return the episode settings of a recipe, else those that a checkpoint's folder holds, else
    none."""
    if recipe is not None:
        return read_episode_settings(recipe)
    trained = None if checkpoint is None else read_checkpoint_settings(checkpoint)
    return {} if trained is None else trained.episode


def make_episode(
    settings: Mapping[str, Any],
    changes: Mapping[str, Any],
    model: str | Path | None = None,
) -> EpisodeConfig:
    """Make a config whose pack and tools are known to load; `patch_multiple: null` is that of the
    folder of a model, where one is given. Budgets of pixels are fitted to it after the changes, as
    in training."""
    multiple = find_patch_multiple(model) or PATCH_MULTIPLE
    if settings.get("patch_multiple") is not None and changes.get("patch_multiple", 0) is None:
        changes = {**changes, "patch_multiple": settings["patch_multiple"]}  # fitted already
    config = EpisodeConfig.from_changes(settings, changes, multiple)
    config.check_words()
    return config


def read_override(text: str) -> tuple[str, Any]:
    """Read one `name=value`; the value is JSON, or else a word.

    >>> read_override("window=2"), read_override("window=null"), read_override("prompt_style=brief")
    (('window', 2), ('window', None), ('prompt_style', 'brief'))
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"an episode setting is name=value, such as window=2; got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
