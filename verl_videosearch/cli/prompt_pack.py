"""`videosearch prompt-pack check FILE`: what is wrong with a prompt pack, before a run finds out.

Exit status: 0 when it can be used (notes are oversights, perhaps), 2 when not.
"""

from __future__ import annotations

from typing import Annotated

import typer

from verl_videosearch.cli.console import say

app = typer.Typer(
    help="Check the words that a model reads (docs/add_a_prompt_pack.md).",
    no_args_is_help=True,
    add_completion=False,
)


@app.callback()
def _describe() -> None:
    """Check the words that a model reads (docs/add_a_prompt_pack.md)."""


@app.command()
def check(
    pack: Annotated[str, typer.Argument(metavar="FILE", help="A .yaml file, or full, or brief.")],
) -> None:
    """Name every mistake and oversight of a prompt pack, and print the hash of its words."""
    from verl_videosearch.prompts import check_pack

    report = check_pack(pack)
    for problem in report.problems:
        say(f"error: {problem}")
    for note in report.notes:
        say(f"note: {note}")
    if report.pack is None:
        raise typer.Exit(2)
    say(f"{pack} can be used; hash of its words: {report.pack.words_hash}")
