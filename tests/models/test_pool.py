"""Several servers of one model: who gets an episode, and when there is none left to ask."""

import asyncio
from dataclasses import dataclass

import pytest

pytest.importorskip("httpx")

from verl_videosearch.failures import EpisodeFailure, FailureKind, ServerUnusable
from verl_videosearch.models.address import read_address
from verl_videosearch.models.endpoint import ClientConfig
from verl_videosearch.models.pool import Pool
from verl_videosearch.models.transport import Transport


@dataclass
class OwnServer:
    """What a pool asks of a server of ours."""

    is_ready: bool = True
    is_given_up: bool = False

    async def wait_until_ready(self) -> None:
        if self.is_given_up:
            raise ServerUnusable("no more starts")


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


def test_no_episode_begins_on_a_server_that_will_not_be_back() -> None:
    starting, dead = OwnServer(is_ready=False), OwnServer(is_ready=False, is_given_up=True)
    pool = make_pool(starting, dead)
    episodes = [pool.for_episode(f"{number}", None) for number in range(4)]
    assert pool._loads == [4, 0], len(episodes)


def test_an_episode_of_a_server_that_is_gone_goes_on_elsewhere() -> None:
    dead, well = OwnServer(is_ready=False, is_given_up=True), OwnServer()
    with pytest.raises(EpisodeFailure, match="gone for good: no more starts") as caught:
        asyncio.run(make_pool(dead, well).endpoints[0].send(b"{}"))
    assert caught.value.is_passing and caught.value.kind is FailureKind.SERVER
    with pytest.raises(ServerUnusable, match="no more starts"):
        asyncio.run(make_pool(dead, dead).endpoints[0].send(b"{}"))


def test_servers_that_their_user_ends_end_the_run() -> None:
    class Ending(OwnServer):
        async def wait_until_ready(self) -> None:
            raise ServerUnusable("ended by its user")

    with pytest.raises(ServerUnusable, match="ended by its user"):
        asyncio.run(make_pool(Ending(is_ready=False), OwnServer()).endpoints[0].send(b"{}"))


def test_who_is_closed_while_asked_fails_for_now() -> None:
    async def ask() -> None:
        transport = Transport(read_address("http://127.0.0.1:1/v1"), None, 1.0)
        await transport.close()
        await transport.get("/models")

    with pytest.raises(EpisodeFailure, match="was closed while it was asked") as caught:
        asyncio.run(ask())
    assert caught.value.is_passing
