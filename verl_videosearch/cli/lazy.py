"""Verbs that are loaded when they are used, so that `--help` answers at once.

The one idea: a verb is a name, the place of its function and one line of help; only the verb that
was asked for is imported.

Covers: commands of a typer app. Does not cover: groups of commands."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

VERBS = {
    "judge": ("judge:run_judge", "Say which of two videos is better, and why."),
    "rank": ("rank:run_rank", "Rank several videos of one prompt."),
    "serve": ("serve:run_serve", "Serve the judge over HTTP."),
    "eval": ("evaluate:run_eval", "Judge a benchmark with a served model: greedy, resumable."),
    "probe": ("evaluate:run_probe", "Replay episodes with other frames: did the search matter?"),
    "report": ("report:run_report", "Write one page that shows episodes, frames and words."),
    "plan": ("plan:run_plan", "Memory, disk and hours of a run, before it is started."),
    "doctor": ("doctor:run_doctor", "Is this machine ready? What is missing, and how to mend it."),
    "episodes": ("episodes:run_episodes", "Count played episodes and choose among them."),
}
"""Verb to (module and function in this package, one line of help)."""


class LazyVerb(TyperCommand):
    """Stands for a command that is not imported yet; `place` is `module:function`."""

    def __init__(self, name: str, place: str, help_text: str) -> None:
        super().__init__(name, help=help_text)
        self._place = place

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Import the command and let it read its arguments."""
        return self.load().make_context(info_name, args, parent=parent, **extra)

    def load(self) -> Any:
        """Import the command."""
        module, _, function = self._place.partition(":")
        single = typer.Typer(add_completion=False)
        single.command(self.name)(getattr(import_module(module), function))
        return typer.main.get_command(single)


class LazyGroup(TyperGroup):
    """The verbs of `videosearch`, those of `VERBS` first."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        lazy = {
            name: LazyVerb(name, f"{__package__}.{place}", help_text)
            for name, (place, help_text) in VERBS.items()
        }
        self.commands = {**lazy, **self.commands}
