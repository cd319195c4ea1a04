"""`videosearch ...`: one command, few verbs; `videosearch VERB --help` says what each needs.

The one idea: a verb reads its options, calls the library and prints where the result lies. A verb
is
imported when it is used (`lazy`), so that `--help` answers at once. Exit status: `runs.jobs`."""

from typing import Annotated

import typer

from verl_videosearch.cli import data, figures, prompt_pack, store
from verl_videosearch.cli.lazy import LazyGroup

app = typer.Typer(
    name="videosearch",
    cls=LazyGroup,
    help="Judge pairs of generated videos with a model that searches frames; measure such judges.",
    no_args_is_help=True,
)
app.command("compare")(figures.run_compare)
app.command("baselines")(figures.run_baselines)
app.command("calibrate")(figures.run_calibrate)
app.add_typer(store.app, name="store")
app.add_typer(prompt_pack.app, name="prompt-pack")
app.add_typer(data.app, name="data")


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        typer.echo(f"verl-videosearch {version('verl-videosearch')}")
        raise typer.Exit


@app.callback()
def _describe(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Judge pairs of generated videos with a model that searches frames; measure such judges."""
