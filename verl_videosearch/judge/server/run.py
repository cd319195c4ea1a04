"""Run the server until it is told to end: one process, one state folder, a drain on SIGTERM."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

from filelock import FileLock, Timeout

from verl_videosearch.extras import Extra, require
from verl_videosearch.judge.judge import Judge
from verl_videosearch.judge.server.settings import ServerConfig


def run_server(
    judge: Judge, config: ServerConfig, on_ready: Callable[[str], None] = lambda url: None
) -> None:
    """Serve until SIGTERM or Ctrl-C; requests in flight get `drain_s` seconds to end.

    Raises `ValueError` when the state folder or the port is in use, and `ServerUnusable` when the
    model cannot work."""
    uvicorn = require("uvicorn", Extra.JUDGE)
    from verl_videosearch.judge.server.app import make_app

    config.state.mkdir(parents=True, exist_ok=True)
    lock = FileLock(config.state / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"{config.state} is in use by another server; choose another") from error
    try:
        port = _take_port(config)
        judge.open()
        server = uvicorn.Server(
            uvicorn.Config(
                make_app(judge, config),
                timeout_graceful_shutdown=int(config.drain_s),
                timeout_keep_alive=5,
                h11_max_incomplete_event_size=64 << 10,
                log_level="warning",
                access_log=False,
            )
        )
        with port:
            on_ready(f"http://{config.host}:{port.getsockname()[1]}")
            server.run([port])
    finally:
        judge.close()
        lock.release()


def _take_port(config: ServerConfig) -> socket.socket:
    """Take the port before a model is loaded; nobody is heard yet. Port 0 takes a free one."""
    host = config.host.strip("[]")
    port = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        port.bind((host, config.port))
        return port
    except OSError as error:
        port.close()
        words = os.strerror(error.errno) if error.errno else str(error)
        raise ValueError(
            f"cannot listen on {config.host}, port {config.port}: {words}; choose another with "
            "--host and --port"
        ) from error
