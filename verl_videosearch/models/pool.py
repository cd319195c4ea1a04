"""Pool: several servers of one model, each with its share of the episodes.

The one idea: an episode stays with the server that it began on, because its prefix and its frames
lie in that server's caches; a new one goes where fewest are under way. A server that has just
failed, or is being started again, gets no new episodes for a while, as long as another one works.

>>> choose_least([3, 1, 1], [0.0, 0.0, 0.0], now_s=100.0, start=2)
2
>>> choose_least([3, 0, 1], [0.0, 99.0, 0.0], now_s=100.0)      # server 1 failed a second ago
2
>>> choose_least([0, 8], [inf, 95.0], now_s=100.0)              # server 0 is away
1
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Sequence
from math import inf

from verl_videosearch.failures import ServerUnusable
from verl_videosearch.models.client import ChatClient
from verl_videosearch.models.endpoint import ClientConfig, Endpoint
from verl_videosearch.models.replica import Replica
from verl_videosearch.reply import ThoughtForm

PAUSE_S = 15.0
"""Seconds for which a server that has failed gets no new episode."""


class Pool:
    """The servers of a run."""

    def __init__(
        self,
        configs: Sequence[ClientConfig],
        thought: ThoughtForm | None = None,
        replicas: Sequence[Replica] = (),
    ) -> None:
        """`replicas` are the servers behind the addresses where they are ours, in their order."""
        own: Sequence[Replica | None] = replicas or [None] * len(configs)
        self.endpoints = [Endpoint(*each) for each in zip(configs, own, strict=True)]
        for endpoint in self.endpoints:
            endpoint.others = [each for each in self.endpoints if each is not endpoint]
        self._clients = [ChatClient(endpoint, thought) for endpoint in self.endpoints]
        self._loads = [0] * len(configs)
        self._next = 0

    async def __aenter__(self) -> Pool:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(endpoint.__aexit__() for endpoint in self.endpoints))

    async def meet(self) -> None:
        """Ask every server whether it can work; raises `ServerUnusable` for the first that
        cannot."""
        await asyncio.gather(*(endpoint.meet() for endpoint in self.endpoints))
        roots = {endpoint.model_root for endpoint in self.endpoints} - {None}
        if len(roots) > 1:
            raise ServerUnusable(
                f"the servers have loaded different checkpoints, {sorted(map(str, roots))}; "
                "give equal ones"
            )

    @property
    def is_away(self) -> bool:
        """True while no server of ours can be asked."""
        return all(endpoint.is_away for endpoint in self.endpoints)

    @property
    def is_given_up(self) -> bool:
        """True once all servers of ours have died for good."""
        return all(endpoint.is_given_up for endpoint in self.endpoints)

    def for_episode(self, name: str, seed: int | None) -> ChatClient:
        """Return the writer of one episode, on the server with the fewest of them."""
        now_s = time.monotonic()
        failed = [inf if each.is_away else each.failed_s for each in self.endpoints]
        loads = [
            inf if endpoint.is_given_up else load
            for endpoint, load in zip(self.endpoints, self._loads, strict=True)
        ]
        index = choose_least(loads, failed, now_s, self._next)
        self._next = (index + 1) % len(self.endpoints)
        client = self._clients[index].for_episode(seed, name)
        self._loads[index] += 1
        weakref.finalize(client, self._let_go, index)
        return client

    def _let_go(self, index: int) -> None:
        """An episode is over: nobody holds its writer any more."""
        self._loads[index] -= 1


def choose_least(
    loads: Sequence[float], failed_s: Sequence[float], now_s: float, start: int = 0
) -> int:
    """Return the index of the least loaded server that works, else of one that failed a while ago
    (`failed_s`), else of one that is away (inf); equal ones take turns from `start`. One that will
    never be back has an infinite load."""
    order = [(start + step) % len(loads) for step in range(len(loads))]
    present = [index for index in order if failed_s[index] < inf]
    working = [index for index in present if now_s - failed_s[index] >= PAUSE_S]
    return min(working or present or order, key=lambda index: loads[index])
