"""`videosearch ...`: one command, few verbs; `videosearch VERB --help` says what each needs.

The one idea: a verb reads its options, calls the library and prints where the result lies. Heavy
modules are imported inside the verbs, so that `--help` answers at once. Exit status: 0 done, 1 done
but incomplete, 2 refused."""

import typer

from verl_videosearch.cli import episodes, evaluate, figures, judge, rank, store

app = typer.Typer(
    name="videosearch",
    help="Judge pairs of generated videos with a model that searches frames; measure such judges.",
    no_args_is_help=True,
    add_completion=False,
)
app.command("judge")(judge.run_judge)
app.command("rank")(rank.run_rank)
app.command("eval")(evaluate.run_eval)
app.command("probe")(evaluate.run_probe)
app.command("compare")(figures.run_compare)
app.command("baselines")(figures.run_baselines)
app.command("calibrate")(figures.run_calibrate)
app.command("episodes")(episodes.run_episodes)
app.add_typer(store.app, name="store")
