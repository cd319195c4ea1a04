"""What one worker of data_prep.frames does: decode a video in a process of its own and say how that
went.

The one idea: a decoder may take its process down with it. The worker hands each video to a child
process; if the child dies, that video is broken, the next child takes the next one, and neither Ray
nor the other videos notice.

Covers: every `VideoError` and the death of the child, as rows of plain values; the death of the
worker, which ends its child too. Does not cover: a child that hangs outside the decoder (the frame
store's timeout ends a decode).
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import parent_process
from threading import Thread
from typing import Any

from verl_videosearch.video.decode import FramePlan, VideoError
from verl_videosearch.video.store import FrameStore

WORKER_DIED = "worker_died"
"""Kind of a video that ended the process which decoded it."""


def fill_video(
    row: Mapping[str, str], store: str, plans: Sequence[FramePlan], timeout_s: float
) -> dict[str, Any]:
    """Put the video at `row["path"]` into the store; `kind` and `cause` say why it gave no
    frames."""
    try:
        stored = FrameStore(store, timeout_s=timeout_s).open(row["path"], plans, row["uid"])
    except VideoError as error:
        return make_result(row, kind=error.kind.value, cause=error.cause)
    return make_result(row, was_hit=stored.was_hit, num_bytes=stored.num_bytes)


def make_result(
    row: Mapping[str, str],
    *,
    kind: str = "",
    cause: str = "",
    was_hit: bool = False,
    num_bytes: int = 0,
) -> dict[str, Any]:
    """Make a row that has the same columns whatever happened."""
    return {**row, "kind": kind, "cause": cause, "was_hit": was_hit, "num_bytes": num_bytes}


def end_with_parent() -> None:
    """End this child as soon as the worker is gone: a killed worker cannot stop it, and it would
    wait for ever."""

    def wait() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=wait, name="end-with-parent", daemon=True).start()


class FrameFiller:
    """One worker: runs `fill` on a video in a child process."""

    def __init__(self, fill: Callable[[Mapping[str, str]], dict[str, Any]]) -> None:
        self.fill = fill
        self._pool = self._start_child()

    def _start_child(self) -> ProcessPoolExecutor:
        # spawn: the worker runs threads of Ray, which a forked child would inherit half dead
        return ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), initializer=end_with_parent
        )

    def __call__(self, row: Mapping[str, str]) -> dict[str, Any]:
        try:
            return self._pool.submit(self.fill, row).result()
        except BrokenProcessPool:
            self._pool = self._start_child()
            return make_result(row, kind=WORKER_DIED, cause="the process that decoded it ended")
