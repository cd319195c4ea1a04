"""What every verb shares: how it refuses, how `name=value` is read, where it may write."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from verl_videosearch.report.console import REFUSED, explain_errors, say

__all__ = ["REFUSED", "explain_errors", "say"]
INCOMPLETE = 1


def read_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Read `name=value`; a value is JSON, or plain text where it is not.

    >>> read_assignments(["window=null", "max_tool_calls=2", "prompt_style=brief"])
    {'window': None, 'max_tool_calls': 2, 'prompt_style': 'brief'}
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise ValueError(
                f"got {assignment!r}; write name=value, for example --set max_tool_calls=2"
            )
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
    return values


def check_out(out: Path, others: Iterable[Path | None]) -> None:
    """Raise `ValueError` unless `out` can be written: before a model is loaded, not after."""
    from verl_videosearch.runs.folder import explain_disk

    if not out.name or out.name == ".." or os.path.isdir(out):
        raise ValueError(f"--out names a file, got {str(out)!r}")
    here = os.path.realpath(out)
    if same := [each for each in others if each and os.path.realpath(each) == here]:
        raise ValueError(f"--out would replace {same[0]}, which is read; name another file")
    with explain_disk(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(out.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def check_page(out: Path, others: Iterable[Path | None] = ()) -> None:
    """Raise `ValueError` unless a page can be written to `out`, which is no file of another kind:
    a page in the place of episodes would be their end."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"a page is a file .html, got {str(out)!r}")
    check_out(out, others)
