"""Transport: one request, one answer, and nothing that can pass for another's.

The one idea: each request has a connection of its own. A server or a proxy that sends an answer
twice on a kept-alive connection cannot have the second copy taken for the next episode's answer; a
connection costs less than a thousandth of a reply. The whole of a request has one time limit, and
a body one limit of size, also after unpacking.

    async with Transport(address, key, timeout_s=120) as transport:
        answer = await transport.post("/chat/completions", b"{...}")

`httpx` and not the `openai` package: the body of a turn is spliced from frames that are encoded
already, an answer must be capped while it is read, and a wrong one must be a typed failure.

Covers: broken and refused connections, time-outs, endless bodies. Does not cover: what an answer
means (`refusal`, `completion`), another try (`runs.jobs`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from verl_videosearch.extras import Extra, require
from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.models.address import Address
from verl_videosearch.models.said import quote

MAX_BODY_BYTES = 16 * 2**20
"""A reply of 1,024 tokens has a few kB; with log-probabilities some hundred."""


@dataclass(frozen=True)
class Answer:
    """What a server sent back."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    """By lower-case name."""
    body: bytes = b""


class NotReached(EpisodeFailure):
    """No connection came about: nothing listens there, or the name is unknown."""


class Transport:
    """Sends requests to one server; for many episodes at once on one event loop."""

    def __init__(self, address: Address, key: str | None, timeout_s: float) -> None:
        httpx = require("httpx", Extra.JUDGE)
        self.address, self.timeout_s, self._httpx = address, timeout_s, httpx
        headers = {"Connection": "close", "Accept": "application/json"}
        is_open = address.user is None
        if is_open:
            headers["Authorization"] = f"Bearer {key or 'none'}"
        self._client = httpx.AsyncClient(
            headers=headers,
            auth=None if is_open else (address.user, address.password or ""),
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            trust_env=not address.is_local,
        )

    async def __aenter__(self) -> Transport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close what is open."""
        await self._client.aclose()

    async def get(self, path: str, timeout_s: float | None = None) -> Answer:
        """Ask for something, `path` below the API's base; raises `EpisodeFailure`."""
        return await self._send("GET", path, timeout_s)

    async def post(self, path: str, body: bytes, timeout_s: float | None = None) -> Answer:
        """Send JSON; raises `EpisodeFailure` of kind `server` or `timeout`, both passing."""
        return await self._send("POST", path, timeout_s, body)

    async def _send(
        self, method: str, path: str, timeout_s: float | None, body: bytes | None = None
    ) -> Answer:
        limit_s = timeout_s or self.timeout_s
        try:
            return await asyncio.wait_for(self._read(method, path, body), limit_s)
        except (asyncio.TimeoutError, TimeoutError, self._httpx.TimeoutException) as error:
            detail = f"{self.address.url} did not answer within {limit_s:g} s"
            raise EpisodeFailure(FailureKind.TIMEOUT, detail, is_passing=True) from error
        except self._httpx.ConnectError as error:
            raise NotReached(
                FailureKind.SERVER, self._describe(error), cause="connection", is_passing=True
            ) from error
        except self._httpx.HTTPError as error:
            raise EpisodeFailure(
                FailureKind.SERVER, self._describe(error), cause="connection", is_passing=True
            ) from error
        except RuntimeError as error:
            if not self._client.is_closed:
                raise
            detail = f"the connection to {self.address.url} was closed while it was asked"
            raise EpisodeFailure(
                FailureKind.SERVER, detail, cause="connection", is_passing=True
            ) from error

    async def _read(self, method: str, path: str, body: bytes | None) -> Answer:
        headers = None if body is None else {"Content-Type": "application/json"}
        url = self.address.url + path
        async with self._client.stream(method, url, content=body, headers=headers) as response:
            chunks, size = [], 0
            async for chunk in response.aiter_bytes():
                chunks.append(chunk)
                size += len(chunk)
                if size > MAX_BODY_BYTES:
                    raise EpisodeFailure(
                        FailureKind.SERVER,
                        f"{self.address.url} sent more than {MAX_BODY_BYTES // 2**20} MB "
                        "for one reply",
                        cause="endless_body",
                    )
            return Answer(response.status_code, dict(response.headers), b"".join(chunks))

    def _describe(self, error: Any) -> str:
        words = quote(error, 300) or type(error).__name__
        return f"the connection to {self.address.url} failed: {words}"
