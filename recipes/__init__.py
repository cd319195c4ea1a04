"""Ready-made training runs: `recipe/*.yaml` are Hydra configs for `+recipe=NAME`, and each header is its own manual.

It is a package so that the files travel in the wheel and are found from any working folder.
"""

from pathlib import Path

RECIPES = Path(__file__).with_name("recipe")
"""The folder of the recipes, for programs that read one without verl."""
