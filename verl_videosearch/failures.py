"""What can break around an episode: an infrastructure failure is never a score.

The one idea: a model's mistake is data and never raises; everything else that goes wrong - a broken
video, a dead server, a time-out - is one `EpisodeFailure` with its kind, and is counted apart from
verdicts.
"""

from __future__ import annotations

from enum import Enum
from typing import Any


class FailureKind(str, Enum):
    """What broke around an episode; a model's mistake is never one of these."""

    VIDEO = "video"
    SERVER = "server"
    TIMEOUT = "timeout"
    SIBLING = "sibling"
    """Another episode of the same group failed, so this one cannot be compared."""
    PROMPT_TOO_LONG = "prompt_too_long"
    """The first context alone does not fit: a setting, not the model, is wrong."""
    SAMPLE = "sample"
    """The row breaks the contract."""
    BUG = "bug"
    """Ours: what is trained would differ from what was sampled."""


PASSING = (FailureKind.SERVER, FailureKind.TIMEOUT)
"""Kinds that another try may cure, unless the failure itself says otherwise."""


class EpisodeFailure(Exception):
    """An infrastructure failure: the episode has no result and must not be scored."""

    def __init__(
        self,
        kind: FailureKind,
        detail: str,
        sample_uid: str = "",
        cause: str = "",
        *,
        is_passing: bool | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"episode of sample {sample_uid!r} failed ({kind.value}): {detail}")
        self.kind, self.detail, self.sample_uid, self.cause = kind, detail, sample_uid, cause
        self.is_passing = kind in PASSING if is_passing is None else is_passing
        """Another try may succeed; a permanent failure fails the same way again."""
        self.retry_after_s = retry_after_s
        """Seconds that the server asks to wait before the next try."""

    def __reduce__(self) -> tuple[Any, ...]:
        state = {"is_passing": self.is_passing, "retry_after_s": self.retry_after_s}
        return type(self), (self.kind, self.detail, self.sample_uid, self.cause), state

    @property
    def label(self) -> str:
        """The name under which it is counted: its kind, and the cause where one is known
        (`video_truncated`)."""
        return f"{self.kind.value}_{self.cause}" if self.cause else self.kind.value


class ContextTooLong(Exception):
    """Raised by a `GenerateFn` when the next context does not fit the model; the episode ends as
    `overlong`."""


class ServerUnusable(ValueError):
    """No request of this run can work: wrong key, unknown model, a quota that has ended, a server
    that
    cannot see. The run stops at once with exit status 2; nothing is lost and it can go on later."""
