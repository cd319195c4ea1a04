"""ServerConfig: where the judge listens, what it may read, and how much anyone may ask of it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from verl_videosearch.config import above, at_least, between, check

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1", "[::1]")


@dataclass(frozen=True)
class ServerConfig:
    """How the server behaves; the defaults suit one machine and its user."""

    state: Path
    """Folder of uploads, batches and remembered episodes; survives restarts, one server."""
    roots: tuple[Path, ...] = ()
    """Folders whose videos may be named by path; none: uploads only."""
    host: str = "127.0.0.1"
    """Address to listen on; others than loopback need a token."""
    port: int = 8080
    token: str | None = None
    """Bearer token that every request must show; null asks for none."""
    allowed_hosts: tuple[str, ...] | None = None
    """Names by which clients may call the server; `*` allows any. Null: those of loopback, which
    keeps web pages from reaching it under a name of their own; any where a token is asked for."""
    max_running: int = 4
    """Requests that are judged at a time."""
    max_queued: int = 64
    """Requests that wait for that; more are answered 429."""
    max_batch_running: int = 2
    """Pairs of batches that are judged at a time, besides."""
    deadline_s: float = 300.0
    """Most seconds of a request, waiting included; a request may ask for less."""
    drain_s: float = 60.0
    """Seconds that requests in flight get after SIGTERM."""
    body_timeout_s: float = 60.0
    """Most seconds for a request's body to arrive."""
    max_body_bytes: int = 1 << 20
    """Of any other request."""
    max_batch_bytes: int = 4 << 20
    """Of one request that brings a batch."""
    max_upload_bytes: int = 256 << 20
    """Of one request that brings a video."""
    max_uploads: int = 8
    """Uploads that arrive at a time; more are answered 429."""
    max_stored_bytes: int = 8 << 30
    """Of all uploads kept; the oldest make room."""
    max_seconds: float = 120.0
    """Length of a video."""
    max_pixels: int = 4096 * 2304
    """Pixels of a frame."""
    max_frames: int = 7200
    """Frames of a video."""
    max_clips: int = 32
    """Clips of a ranking."""
    max_pairs: int = 10_000
    """Pairs of a batch."""
    max_prompt_chars: int = 10_000

    def __post_init__(self) -> None:
        check(
            self,
            self._find_problems(),
            port=between(0, 65535),
            max_running=at_least(1),
            max_queued=at_least(0),
            max_batch_running=at_least(1),
            deadline_s=above(0),
            drain_s=above(0),
            body_timeout_s=above(0),
            max_body_bytes=at_least(1),
            max_batch_bytes=at_least(1),
            max_upload_bytes=at_least(1),
            max_uploads=at_least(1),
            max_stored_bytes=at_least(1),
            max_seconds=above(0),
            max_pixels=at_least(1),
            max_frames=at_least(1),
            max_clips=at_least(2),
            max_pairs=at_least(1),
            max_prompt_chars=at_least(1),
        )

    @property
    def host_names(self) -> tuple[str, ...]:
        """Names by which clients may call the server; `*` is any."""
        if self.allowed_hosts is not None:
            return self.allowed_hosts
        return ("*",) if self.token is not None else (*LOOPBACK_NAMES, self.host)

    def _find_problems(self) -> list[str]:
        problems = [
            f"root {str(root)!r} is no folder" for root in self.roots if not Path(root).is_dir()
        ]
        if self.token is not None and len(self.token) < 16:
            problems.append("the token must have at least 16 characters")
        if self.token is None and not is_loopback(self.host):
            problems.append(
                f"host {self.host} can be reached from other machines: set a token "
                "(--token-variable NAME), or listen on 127.0.0.1"
            )
        return problems


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
