"""Several servers of one model: who gets an episode, and when there is none left to ask."""

import asyncio
from dataclasses import dataclass

import pytest

pytest.importorskip("httpx")

from verl_videosearch.failures import EpisodeFailure
from verl_videosearch.models.address import read_address
from verl_videosearch.models.endpoint import ClientConfig
from verl_videosearch.models.pool import Pool
from verl_videosearch.models.transport import Transport


@dataclass
class OwnServer:
    """What a pool asks of a server of ours."""

    is_ready: bool = True
    is_given_up: bool = False


def make_pool(*servers: OwnServer) -> Pool:
    configs = [ClientConfig(f"http://127.0.0.1:{port + 1}/v1", "m") for port in range(len(servers))]
    return Pool(configs, replicas=servers)


def test_a_pool_is_given_up_when_nobody_is_left() -> None:
    dead, well = OwnServer(is_ready=False, is_given_up=True), OwnServer()
    assert not make_pool(dead, well).is_given_up and make_pool(dead, dead).is_given_up
    assert not make_pool(dead, well).is_away and make_pool(dead, dead).is_away


def test_episodes_go_to_the_server_that_can_be_asked_however_loaded() -> None:
    pool = make_pool(OwnServer(is_ready=False), OwnServer())
    episodes = [pool.for_episode(f"{number}", None) for number in range(5)]
    assert pool._loads == [0, 5], len(episodes)


def test_who_is_closed_while_asked_fails_for_now() -> None:
    async def ask() -> None:
        transport = Transport(read_address("http://127.0.0.1:1/v1"), None, 1.0)
        await transport.close()
        await transport.get("/models")

    with pytest.raises(EpisodeFailure, match="was closed while it was asked") as caught:
        asyncio.run(ask())
    assert caught.value.is_passing
