"""What every verb shares: how it refuses, how `name=value` is read."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
