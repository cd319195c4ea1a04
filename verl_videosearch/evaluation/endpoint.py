"""A served model for many episodes: shared connections, tokens counted per episode.

async with open_endpoint(ClientConfig(base_url=url, model=name, temperature=0.0)) as start_episode:
    line = await play_episode(sample, Order.AB, stage, start_episode())
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from verl_videosearch.judge.client import ChatClient, ClientConfig, Usage
from verl_videosearch.rollout import GenerateFn


@asynccontextmanager
async def open_endpoint(config: ClientConfig) -> AsyncIterator[Callable[[], GenerateFn]]:
    """Yield a function that returns the `GenerateFn` of a new episode."""
    async with ChatClient(config) as client:

        def start_episode() -> GenerateFn:
            own = copy.copy(client)  # one pool of connections and one pace, but an account of its own
            own.usage = Usage()
            return own

        yield start_episode
