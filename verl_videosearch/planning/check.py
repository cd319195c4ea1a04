"""Check the settings of a training long before its turn, when its model and data are not there yet.

    python -m verl_videosearch.planning.check +recipe=videosearch_grpo trainer.n_gpus_per_node=4 ...

The one idea: preflight names a mistake when a training starts, which in `recipes/7b.sh` may be a
day later; all of it that looks at neither model nor data is asked here. Words that are no settings
are those of a launcher and are skipped. Exit status 1: the training would be refused.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hydra.errors import HydraException
from omegaconf import OmegaConf

from verl_videosearch.planning.setup import compose_config
from verl_videosearch.verl_plugin.preflight import grpo, sft
from verl_videosearch.verl_plugin.settings import Settings

RECIPE = "+recipe="


def find_problems(words: Sequence[str]) -> list[str]:
    """Return what is wrong with the settings of a training command, in words."""
    settings = [word for word in words if "=" in word and not word.startswith("-")]
    recipes = [word.removeprefix(RECIPE) for word in settings if word.startswith(RECIPE)]
    if len(recipes) != 1:
        return [f"name one recipe: {RECIPE}videosearch_grpo; got {recipes or 'none'}"]
    [recipe] = recipes
    overrides = tuple(word for word in settings if not word.startswith(RECIPE))
    try:
        config = compose_config(recipe, overrides)
        ours = Settings.from_dict(OmegaConf.to_container(config.videosearch, resolve=True))
    except (HydraException, ValueError) as error:
        return str(error).splitlines()
    program = grpo if "actor_rollout_ref" in config else sft
    return [f"{recipe}: {problem}" for problem in program.find_setting_problems(config, ours)]


if __name__ == "__main__":
    problems = find_problems(sys.argv[1:])
    for line in ("This training could not start:", *problems) if problems else ():
        print(line, file=sys.stderr)
    sys.exit(1 if problems else 0)
