"""Ready-made training runs: `recipe/*.yaml` are Hydra configs for `+recipe=NAME`, and each header
is its own manual.

It is a package so that the files travel in the wheel and are found from any working folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from verl_videosearch.extras import Extra, require

RECIPES = Path(__file__).with_name("recipe")
"""The folder of the recipes, for programs that read one without verl."""


def read_episode_settings(recipe: str) -> dict[str, Any]:
    """Return `videosearch.episode` of a recipe, so that whoever judges sees what training showed.

    >>> read_episode_settings("videosearch_grpo_tiny")["frames_per_video"]
    16
    """
    hydra, omegaconf = require("hydra", Extra.JUDGE), require("omegaconf", Extra.JUDGE)
    if not (RECIPES / f"{recipe}.yaml").is_file():
        known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
        raise ValueError(f"unknown recipe {recipe!r}; known are {known}")
    with hydra.initialize_config_dir(str(RECIPES), version_base=None):
        return omegaconf.OmegaConf.to_container(
            hydra.compose(recipe).videosearch.episode, resolve=True
        )
