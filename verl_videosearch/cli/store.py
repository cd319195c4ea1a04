"""`videosearch store show|prune|empty`: how much disk the decoded frames take, and how to free it.

The one idea: everything in the store can be made again from the videos, so all of it may be removed
at any time, also while programs run (they keep what they have open).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from verl_videosearch.cli.console import explain_errors, say

app = typer.Typer(
    help="Show, prune or empty the store of decoded frames.",
    no_args_is_help=True,
    add_completion=False,
)
Store = Annotated[
    Path | None,
    typer.Option(help="Folder of the store; default: $VIDEOSEARCH_FRAME_STORE, else your cache."),
]


@app.command()
def show(store: Store = None) -> None:
    """Print place, size, limit and free disk."""
    from verl_videosearch.video.store import FrameStore, default_root

    with explain_errors():
        root = store or default_root()
        say(FrameStore(root).describe() if root.exists() else _describe_none(root))


@app.command()
def prune(
    store: Store = None,
    max_gigabytes: Annotated[
        float | None,
        typer.Option(min=0, help="Keep at most so many 10^9 bytes; default: the store's limit."),
    ] = None,
) -> None:
    """Remove what older versions left, and the least recently used entries beyond the limit."""
    _remove(store, None if max_gigabytes is None else int(max_gigabytes * 1e9))


@app.command()
def empty(store: Store = None) -> None:
    """Remove all entries; they are decoded again when they are needed."""
    _remove(store, 0)


def _remove(root: Path | None, max_bytes: int | None) -> None:
    from verl_videosearch.video.space import format_bytes
    from verl_videosearch.video.store import FrameStore, default_root

    with explain_errors():
        root = root or default_root()
        if not root.exists():
            say(_describe_none(root))
            return
        store = FrameStore(root)
        freed = store.prune(max_bytes)
        say(f"freed {format_bytes(freed)}; {store.describe()}")


def _describe_none(root: Path) -> str:
    return f"no store in {root}: no frame was decoded into it yet"
