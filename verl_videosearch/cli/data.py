"""`videosearch data ...`: the programs of data_prep as verbs; the same functions as
`python -m verl_videosearch.data_prep.NAME`.

The one idea: a program is imported when it is called, not when the list of verbs is shown, so that
`--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click
import typer
from typer.core import TyperGroup


@dataclass(frozen=True)
class Program:
    """A program of data_prep."""

    module: str
    """Below `verl_videosearch.data_prep`."""
    summary: str
    """One line for the list of verbs."""

    def load(self, name: str) -> click.Command:
        """Import it and return it as a command."""
        main = import_module(f"verl_videosearch.data_prep.{self.module}").main
        app = typer.Typer(add_completion=False)
        app.command(name)(main)
        return typer.main.get_command(app)


PROGRAMS = {
    "build": Program("build", "Read a preference set into a file of samples."),
    "split": Program("split", "Split a file of samples without leaks."),
    "frames": Program("frames", "Decode the videos of samples into the frame store."),
    "show": Program("show", "Show pairs on a page: frames, labels, prompts."),
    "traces": Program("cold_start", "Let a teacher judge pairs: rows for the cold start."),
    "sample": Program("rejection_sampling", "Sample a policy and keep what is worth learning."),
    "sft-rows": Program("sft_rows", "Make SFT rows of played episodes of any kind."),
    "captions": Program("captions", "Write captions of frames, for a model that starts from nothing."),
    "hide-and-seek": Program("hide_and_seek.__main__", "Make pairs whose defects are hidden."),
    "degrade": Program("degrade", "Make pairs of a clip and its damaged copy."),
    "on-ray": Program("on_ray", "Run a program's shards on a Ray cluster."),
}
"""Verb to program, in the order of their use."""


class DataGroup(TyperGroup):
    """Knows the names and one line of each program, and imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs."""
        return list(PROGRAMS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return what the list of verbs needs."""
        if cmd_name not in PROGRAMS:
            return None
        return click.Command(cmd_name, help=PROGRAMS[cmd_name].summary)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the program that is called."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is None or command is None:
            return name, command, rest
        return name, PROGRAMS[name].load(name), rest


app = typer.Typer(
    cls=DataGroup, no_args_is_help=True, help="Make and look at what is trained on."
)


@app.callback()
def _describe(**_: Any) -> None:
    """Make and look at what is trained on."""
