"""`videosearch data ...`: the programs of data_prep as verbs; the same functions as
`python -m verl_videosearch.data_prep.NAME`.

The one idea: a program is imported when it is called (`lazy`), not when the list of verbs is shown,
so that `--help` answers at once."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from verl_videosearch.cli.lazy import LazyVerb

PROGRAMS = {
    "build": ("build", "Read a preference set into a file of samples."),
    "split": ("split", "Split a file of samples without leaks."),
    "frames": ("frames", "Decode the videos of samples into the frame store."),
    "show": ("show", "Show pairs on a page: frames, labels, prompts."),
    "traces": ("cold_start", "Let a teacher judge pairs: rows for the cold start."),
    "sample": ("rejection_sampling", "Sample a policy and keep what is worth learning."),
    "sft-rows": ("sft_rows", "Make SFT rows of played episodes of any kind."),
    "captions": ("captions", "Write captions of frames, for a model that starts from nothing."),
    "hide-and-seek": ("hide_and_seek.__main__", "Make pairs whose defects are hidden."),
    "degrade": ("degrade", "Make pairs of a clip and its damaged copy."),
    "on-ray": ("on_ray", "Run a program's shards on a Ray cluster."),
}
"""Verb to (module below `verl_videosearch.data_prep`, one line of help), in the order of their
use."""


class DataGroup(TyperGroup):
    """The verbs of `videosearch data`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, (module, help_text) in PROGRAMS.items():
            place = f"verl_videosearch.data_prep.{module}:main"
            self.commands[name] = LazyVerb(name, place, help_text)


app = typer.Typer(cls=DataGroup, no_args_is_help=True)


@app.callback()
def _describe() -> None:
    """Make and look at what is trained on."""
