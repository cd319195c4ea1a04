"""Attack the package with hostile replies, films, servers and label files, and print what became of
them.

    python -m benchmarks.faults replies --count 300000 --seed 0
    python -m benchmarks.faults all --short

Stopped, it goes on where it was: what is done stands in `--out` (a small JSON file a trial). Exit
status 1 when anything was lost, wrong or crashed."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.faults import films, replies, samples, servers
from benchmarks.faults.tally import State, Trial, format_table, is_clean, read_state, run_trial

TRIALS: dict[str, Trial] = {
    trial.name: trial for trial in (replies.TRIAL, samples.TRIAL, films.TRIAL, servers.TRIAL)
}


class Choice(str, Enum):
    """What to attack with."""

    REPLIES = "replies"
    FILMS = "films"
    SERVERS = "servers"
    SAMPLES = "samples"
    ALL = "all"


def main(
    choice: Choice,
    count: Annotated[
        int | None, typer.Option(min=1, help="cases; default: the full number")
    ] = None,
    seed: int = 0,
    short: Annotated[bool, typer.Option("--short", help="the bounded form of `make fuzz`")] = False,
    out: Annotated[Path, typer.Option(help="folder of results")] = Path("outputs/faults"),
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 1,
    show: Annotated[bool, typer.Option("--show", help="only print what is done")] = False,
) -> None:
    """Run the chosen trials and print the table."""
    names = list(TRIALS) if choice is Choice.ALL else [choice.value]
    states: dict[str, State] = {}
    for name in names:
        trial, path = TRIALS[name], out / f"{name}.json"
        default = trial.short_count if short else trial.default_count
        if show:
            states[name] = read_state(path, seed)
        else:
            states[name] = run_trial(trial, count or default, seed, path, workers)
    typer.echo(format_table(states))
    for name, state in states.items():
        for kind, tally in state.kinds.items():
            for example in tally.examples:
                typer.echo(f"{name}: {kind}: {example}")
    raise typer.Exit(0 if all(is_clean(state) for state in states.values()) else 1)


if __name__ == "__main__":
    typer.run(main)
