"""`videosearch doctor`: is this machine ready? Each check with its fix, without a run.

The one idea: what would fail minutes into a run is found in seconds. Exit status 0, or 1 where
something is wrong; what not everybody needs is a note.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from verl_videosearch.cli.console import explain_errors, say

FAULTY = 1


def run_doctor(
    train: Annotated[
        bool, typer.Option("--train", help="What training needs must be there, too.")
    ] = False,
    store: Annotated[
        Path | None,
        typer.Option(help="Folder of the frame store; default: $VIDEOSEARCH_FRAME_STORE or cache."),
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(help="A server to ask, for example http://localhost:8000/v1."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name that the server knows the model by.")
    ] = None,
) -> None:
    """Check this machine: Python, extras, GPU, driver, decoders, frame store, wandb, server."""
    from verl_videosearch.machine.checks import Status, examine, has_gpu_build
    from verl_videosearch.models.source import ModelSource

    faults, lacking = 0, []
    with explain_errors():
        source = ModelSource(endpoints=tuple(endpoint), model=model) if endpoint else None
        for check in examine(trains=train, store=store, source=source):
            say(str(check))
            faults += check.status is Status.FAULT
            if check.status is Status.NOTE and check.name.startswith("extra "):
                lacking.append(check.name)
    if faults:
        say(f"{faults} to mend")
        raise typer.Exit(FAULTY)
    words = "ready to train" if train or has_gpu_build() else "ready; for training ask with --train"
    say(f"{words}; without {', '.join(lacking)}" if lacking else words)
