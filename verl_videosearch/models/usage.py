"""Usage: what an episode has consumed, as the server counts it.

>>> usage = Usage()
>>> usage.add(700, 30); usage.add(None, 12)
>>> usage
Usage(num_requests=2, num_prompt_tokens=None, num_reply_tokens=42)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Usage:
    """An account; a sum in which one part is unknown is unknown."""

    num_requests: int = 0
    num_prompt_tokens: int | None = 0
    num_reply_tokens: int | None = 0

    def add(self, num_prompt_tokens: int | None, num_reply_tokens: int | None) -> None:
        """Count one request."""
        self.num_requests += 1
        self.num_prompt_tokens = _add(self.num_prompt_tokens, num_prompt_tokens)
        self.num_reply_tokens = _add(self.num_reply_tokens, num_reply_tokens)


def _add(total: int | None, more: int | None) -> int | None:
    return None if total is None or more is None else total + more
