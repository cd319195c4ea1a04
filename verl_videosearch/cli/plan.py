"""`videosearch plan`: memory, disk and hours of a run, before any card is rented.

The one idea: the plan reads the recipe that verl would read, with the overrides of the training
command line; what does not fit is said in a line, with exit status 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verl_videosearch.cli.console import explain_errors, say

if TYPE_CHECKING:
    from verl_videosearch.planning.setup import Setup

DOES_NOT_FIT = 1
MODELS = ("qwen2.5-vl-7b", "qwen3-vl-8b")


def run_plan(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Overrides, as on the training command line.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="A recipe of recipes/recipe/.")] = "videosearch_grpo",
    model: Annotated[str, typer.Option(help=f"One of {', '.join(MODELS)}.")] = MODELS[0],
    card_gib: Annotated[
        float, typer.Option(help="Memory of one card: 79 for 80 GB, 22 for 24 GB.")
    ] = 79,
    host_gib: Annotated[float, typer.Option(help="Memory of all nodes together.")] = 1000,
    pairs: Annotated[
        int, typer.Option(help="Pairs of the whole pipeline; for the hours.")
    ] = 180_000,
    hours: Annotated[bool, typer.Option(help="Hours of each stage, too.")] = True,
    check: Annotated[
        Path | None,
        typer.Option(help="Folder of a finished `make demo`: planned beside measured, instead."),
    ] = None,
) -> None:
    """Say what a run needs of cards, host and disk, and how long each stage takes."""
    with explain_errors():
        if check is not None:
            _check_demo(check)
            return
        name = _read_model(model)
        setup = _read_setup(recipe, name, tuple(overrides or ()))
        problems = _show_memory(setup, name, card_gib, host_gib)
        if hours:
            _show_hours(setup, name, pairs)
    if problems:
        for problem in problems:
            say(f"does not fit: {problem}")
        raise typer.Exit(DOES_NOT_FIT)
    say(f"fits: {card_gib:g} GiB a card, {host_gib:g} GiB of host memory")


def _read_model(model: str) -> Any:
    from verl_videosearch.extras import Extra, require

    require("verl", Extra.GPU)
    from verl_videosearch.planning.shapes import ModelName

    if model not in MODELS:
        raise ValueError(f"--model: got {model!r}; the shapes of {', '.join(MODELS)} are known")
    return ModelName(model)


def _read_setup(recipe: str, name: Any, overrides: tuple[str, ...]) -> Setup:
    from hydra.errors import HydraException

    from verl_videosearch.planning.setup import compose_config, read_setup
    from verl_videosearch.planning.shapes import EPISODES

    episode = tuple(f"videosearch.episode.{setting}" for setting in EPISODES[name])
    try:
        return read_setup(compose_config(recipe, (*episode, *overrides)))
    except HydraException as error:
        raise ValueError(f"{recipe}: {error}") from error


def _show_memory(setup: Setup, name: Any, card_gib: float, host_gib: float) -> list[str]:
    from verl_videosearch.planning.memory import list_problems, make_plan, show_plan

    plan = make_plan(setup, card_gib, name)
    for table in show_plan(plan, setup, card_gib, name):
        typer.echo(table.to_markdown())
    return list_problems(plan, setup, card_gib, host_gib)


def _show_hours(setup: Setup, name: Any, num_pairs: int) -> None:
    from verl_videosearch.planning.times import plan_pipeline, show_speed, show_stages

    typer.echo(show_speed().to_markdown())
    typer.echo(show_stages(plan_pipeline(setup, name, num_pairs)).to_markdown())


def _check_demo(folder: Path) -> None:
    from verl_videosearch.planning.demo import check_demo

    check = check_demo(folder)
    typer.echo(check.to_table().to_markdown())
    for problem in check.problems:
        say(f"the model of time fails: {problem}")
    if check.problems:
        raise typer.Exit(DOES_NOT_FIT)
    say(check.verdict)
