"""BackgroundLoop: one event loop in a thread, so that the same object serves plain calls, notebooks
and async code.

>>> async def add(a, b):
...     return a + b
>>> loop = BackgroundLoop()
>>> loop.wait(add(1, 2))
3
>>> loop.close()

The one idea: a model stays open on the loop that opened it. Plain calls wait for that loop; async
ones await it from theirs; an interrupted wait cancels what it waited for.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class BackgroundLoop:
    """An event loop in a daemon thread; starts with the first call."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the loop; raises `RuntimeError` when it is closed."""
        with self._lock:
            if self._is_closed:
                work.close()
                raise RuntimeError("this judge is closed; make a new one")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="videosearch-judge", daemon=True
                )
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end from plain code; an interrupt cancels it. Raises
        `RuntimeError` on the loop's own thread, which would wait for itself."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError(
                "a callback of a judge (on_episode, on_comparison) cannot wait for that judge: it "
                "would wait for ever; note what is to be done and do it after the call"
            )
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def join(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end from another loop; cancelling it here cancels it there."""
        return await asyncio.wrap_future(self.submit(work))

    def close(self) -> None:
        """Cancel what runs and end the thread, for good."""
        with self._lock:
            self._is_closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_others() -> None:
    """Cancel every task of this loop and wait until they have ended."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
