"""Guard: what every request has to pass before anything reads it.

The one idea: token, host, size and speed are checked on raw ASGI messages, so that no parser, and
no form on a disk, ever sees a body that is too large or never ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from hmac import compare_digest
from typing import Any

from starlette.responses import JSONResponse

from verl_videosearch.judge.server.refusal import Reason, Refusal
from verl_videosearch.judge.server.settings import ServerConfig

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
OPEN_PATHS = ("/healthz",)
"""Paths that need no token: a load balancer asks them."""
UPLOAD_PATH, BATCH_PATH = "/v1/videos", "/v1/batches"
"""Paths whose bodies may be larger than others'."""


class Guard:
    """ASGI middleware."""

    def __init__(
        self, app: App, config: ServerConfig, on_answer: Callable[[str, int, float], None]
    ) -> None:
        self.app, self.config, self.on_answer = app, config, on_answer

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a refusal."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            self._check_host(headers)
            self._check_token(scope["path"], headers)
            limit = self._find_limit(scope["path"], headers)
            await self.app(scope, self._bound(receive, limit), watch)
        except Refusal as refusal:
            answer = JSONResponse(refusal.to_json(), refusal.status_code, refusal.headers)
            await answer(scope, receive, watch)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self.on_answer(route, status, time.monotonic() - start)

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        allowed = self.config.host_names
        if "*" in allowed:
            return
        host = headers.get(b"host", b"").decode("latin-1")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name not in allowed:
            raise Refusal(Reason.BAD_REQUEST, "this server is not known under that host name")

    def _check_token(self, path: str, headers: dict[bytes, bytes]) -> None:
        token = self.config.token
        if token is None or path in OPEN_PATHS:
            return
        scheme, _, shown = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not compare_digest(shown.strip(), token.encode()):
            raise Refusal(Reason.UNAUTHORIZED, "show the token: Authorization: Bearer TOKEN")

    def _find_limit(self, path: str, headers: dict[bytes, bytes]) -> int:
        """Return the most bytes of the body; refuse one that announces more."""
        own = {UPLOAD_PATH: self.config.max_upload_bytes, BATCH_PATH: self.config.max_batch_bytes}
        limit = own.get(path, self.config.max_body_bytes)
        announced = headers.get(b"content-length", b"0")
        if not announced.isdigit() or len(announced) > 18:
            raise Refusal(Reason.BAD_REQUEST, "Content-Length is no number")
        if int(announced) > limit:
            raise Refusal(Reason.TOO_LARGE, f"the body has {int(announced)} bytes, allowed {limit}")
        return limit

    def _bound(self, receive: Receive, limit: int) -> Receive:
        """Count the bytes of a body, and wait for all of them no longer than allowed."""
        size, deadline, is_complete = 0, time.monotonic() + self.config.body_timeout_s, False

        async def bounded() -> Message:
            nonlocal size, is_complete
            if is_complete:
                return await receive()  # waits for the client to hang up
            try:
                left_s = max(0.0, deadline - time.monotonic())
                message = await asyncio.wait_for(receive(), left_s)
            except (asyncio.TimeoutError, TimeoutError) as error:
                words = f"the body did not arrive within {self.config.body_timeout_s:g} s"
                raise Refusal(Reason.SLOW_BODY, words) from error
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                is_complete = not message.get("more_body", False)
                if size > limit:
                    raise Refusal(Reason.TOO_LARGE, f"the body has more than {limit} bytes")
            return message

        return bounded
