"""EpisodeGroup: what the n episodes of one prompt tell each other before they are scored.

The one idea: all sessions of a prompt run in one worker process and are started in one pass of its
event loop (verl
0.9.1, `AgentLoopWorkerTQ._run_prompt`), so a plain object in that process is enough. A session
joins before its
first `await`; the group's size is therefore known once the first of them resumes. A failed episode
fails its whole group at once (method section 5: an infrastructure failure is never a score, and a
group of survivors has no baseline)."""

from __future__ import annotations

import asyncio

from verl_videosearch.failures import EpisodeFailure, FailureKind


class EpisodeGroup:
    """The sessions of one prompt group; make it with `join_group`."""

    def __init__(self) -> None:
        self.size = 0
        self.num_present = 0
        self.failure: EpisodeFailure | None = None
        self._has_searched: list[bool] = []
        self._is_settled = asyncio.Event()

    def fail(self, failure: EpisodeFailure) -> None:
        """Fail the group; sessions that wait or ask are told at once."""
        self.failure = self.failure or failure
        self._is_settled.set()

    def raise_if_failed(self, sample_uid: str) -> None:
        """Stop a session whose sibling failed, before it spends more on a group that will be
        dropped."""
        if self.failure is not None:
            raise EpisodeFailure(
                FailureKind.SIBLING, f"a sibling failed: {self.failure.detail}", sample_uid
            )

    async def share_search(self, has_searched: bool, *, timeout_s: float, sample_uid: str) -> float:
        """Tell the siblings whether this episode searched, wait for all of them, and return the
        group's search rate."""
        self._has_searched.append(has_searched)
        if len(self._has_searched) == self.size:
            self._is_settled.set()
        try:
            await asyncio.wait_for(self._is_settled.wait(), timeout_s)
        except asyncio.TimeoutError as error:
            waiting = self.size - len(self._has_searched)
            failure = EpisodeFailure(
                FailureKind.TIMEOUT,
                f"{waiting} of {self.size} siblings not done after {timeout_s} s",
                sample_uid,
            )
            self.fail(failure)
            raise failure from error
        self.raise_if_failed(sample_uid)
        return sum(self._has_searched) / len(self._has_searched)


_groups: dict[str, EpisodeGroup] = {}


def join_group(uid: str) -> EpisodeGroup:
    """Join the group of a prompt; call it before the first `await` of a session."""
    group = _groups.setdefault(uid, EpisodeGroup())
    group.size += 1
    group.num_present += 1
    return group


def leave_group(uid: str, group: EpisodeGroup) -> None:
    """Leave a group; the last one out forgets it."""
    group.num_present -= 1
    if group.num_present == 0 and _groups.get(uid) is group:
        del _groups[uid]
