"""Run the server until it is told to end: one process, one state folder, a drain on SIGTERM."""

from __future__ import annotations

from collections.abc import Callable

from filelock import FileLock, Timeout

from verl_videosearch.extras import Extra, require
from verl_videosearch.judge.judge import Judge
from verl_videosearch.judge.server.settings import ServerConfig


def run_server(
    judge: Judge, config: ServerConfig, on_ready: Callable[[str], None] = lambda url: None
) -> None:
    """Serve until SIGTERM or Ctrl-C; requests in flight get `drain_s` seconds to end.

    Raises `ValueError` when the state folder is in use, and `ServerUnusable` when the model cannot
    work."""
    uvicorn = require("uvicorn", Extra.JUDGE)
    from verl_videosearch.judge.server.app import make_app

    config.state.mkdir(parents=True, exist_ok=True)
    lock = FileLock(config.state / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"{config.state} is in use by another server; choose another") from error
    try:
        judge.open()
        server = uvicorn.Server(
            uvicorn.Config(
                make_app(judge, config),
                host=config.host,
                port=config.port,
                timeout_graceful_shutdown=int(config.drain_s),
                timeout_keep_alive=5,
                h11_max_incomplete_event_size=64 << 10,
                log_level="warning",
                access_log=False,
            )
        )
        on_ready(f"http://{config.host}:{config.port}")
        server.run()
    finally:
        judge.close()
        lock.release()
