"""Ready-made training runs: `recipe/*.yaml` are Hydra configs for `+recipe=NAME`, and each header
is its own manual.

It is a package so that the files travel in the wheel and are found from any working folder;
installed
it is `verl_videosearch.recipes`. `verl_videosearch.recipe` reads them without verl.
"""
