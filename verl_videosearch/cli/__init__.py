"""`videosearch ...`: one command, few verbs; `videosearch VERB --help` says what each needs.

The one idea: a verb reads its options, calls the library and prints where the result lies. A verb is
imported when it is used (`lazy`), so that `--help` answers at once. Exit status: `runs.jobs`."""

import typer

from verl_videosearch.cli import figures, store
from verl_videosearch.cli.lazy import LazyGroup

app = typer.Typer(
    name="videosearch",
    cls=LazyGroup,
    help="Judge pairs of generated videos with a model that searches frames; measure such judges.",
    no_args_is_help=True,
    add_completion=False,
)
app.command("compare")(figures.run_compare)
app.command("baselines")(figures.run_baselines)
app.command("calibrate")(figures.run_calibrate)
app.add_typer(store.app, name="store")
