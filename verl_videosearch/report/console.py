"""What every program prints in one way: lines as they are, and what it refuses.

The one idea: whatever comes from files, servers and paths reaches the terminal harmless, and what a
user can mend is one line and status 2, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from verl_videosearch.report.plain_text import clean_text

REFUSED = 2
"""Exit status of wrong use, and of a server that cannot work."""


@contextmanager
def explain_errors(*also: type[Exception]) -> Iterator[None]:
    """Turn what the user can mend into one line and exit status 2; `also` are further kinds of
    it."""
    try:
        yield
    except (ValueError, ImportError, *also) as error:
        text = clean_text(f"error: {error}")
        Console(stderr=True).print(text, markup=False, soft_wrap=True, highlight=False)
        raise typer.Exit(REFUSED) from error


def say(text: str) -> None:
    """Print one line as it is."""
    Console().print(clean_text(text), markup=False, soft_wrap=True, highlight=False)
