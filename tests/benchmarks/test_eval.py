"""The replay sends each episode's requests in order and counts what the server counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from benchmarks import eval as bench
from benchmarks.eval import Cost, compare_sides, replay
from verl_videosearch.models.endpoint import ClientConfig, Endpoint
from verl_videosearch.models.transport import Answer

REPLY = json.dumps({"usage": {"completion_tokens": 3}}).encode()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Answer every request of a replay and note it."""
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return httpx.Response(200, content=REPLY)

    client: Callable[..., Any] = httpx.AsyncClient
    transport = httpx.MockTransport(answer)
    monkeypatch.setattr(
        bench.httpx, "AsyncClient", lambda **_: client(transport=transport, trust_env=False)
    )
    return bodies


def test_a_replay_sends_everything_once_and_in_order(sent: list[bytes]) -> None:
    episodes = [[b"a1", b"a2"], [b"b1"], [b"c1", b"c2", b"c3"]]
    cost = asyncio.run(replay(episodes, ["http://one/v1", "http://two/v1"], 2))
    assert sorted(sent) == sorted(body for bodies in episodes for body in bodies)
    assert [body for body in sent if body[:1] == b"c"] == episodes[2]
    assert cost.num_reply_tokens == 3 * len(sent)


def test_a_refused_request_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    client: Callable[..., Any] = httpx.AsyncClient
    transport = httpx.MockTransport(lambda request: httpx.Response(500))
    monkeypatch.setattr(bench.httpx, "AsyncClient", lambda **_: client(transport=transport))
    with pytest.raises(httpx.HTTPStatusError):
        asyncio.run(replay([[b"a"]], ["http://one/v1"], 1))


def test_the_watch_keeps_episodes_and_not_the_greeting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def send(endpoint: Endpoint, body: bytes, episode: str = "") -> Answer:
        return Answer(200, body=REPLY)

    monkeypatch.setattr(Endpoint, "send", send)
    watch = bench.Watch()

    async def ask() -> None:
        endpoint = Endpoint(ClientConfig("http://one/v1", "judge"))
        for body, episode in ((b"hello", ""), (b"1", "a AB"), (b"2", "a AB"), (b"1", "a BA")):
            await endpoint.send(body, episode)

    with watch.watch():
        asyncio.run(ask())
    assert dict(watch.requests) == {"a AB": [b"1", b"2"], "a BA": [b"1"]}
    assert watch.num_reply_tokens == 9
    assert Endpoint.send is send


def test_the_share_is_of_medians() -> None:
    ours = [Cost(seconds, 0.0, 0) for seconds in (10.0, 12.0, 50.0)]
    bare = [Cost(seconds, 0.0, 0) for seconds in (9.0, 6.0, 6.0)]
    assert compare_sides(ours, bare, 4) == pytest.approx((20.0, 40.0, 0.5))
