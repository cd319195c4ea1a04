"""play_all: from jobs, a journal and a model that is not open yet to the summary of a run.

The one idea: a model is opened only when something is left to play, and whatever is wrong with it
is said in the summary like any other reason to stop. It works in a notebook, too, where an event
loop runs already.

    with RunFolder(out).claim(settings, samples) as journal:
        summary = play_all(jobs, play, journal, source, "episodes", kind=RecordKind.TRACE)

Covers: the event loop, the progress bar, several servers. Does not cover: what is played (`play`),
how many at once (`jobs`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from verl_videosearch.failures import ServerUnusable
from verl_videosearch.reply import NativeThought
from verl_videosearch.rollout import GenerateFn
from verl_videosearch.runs.folder import Journal
from verl_videosearch.runs.jobs import (
    Job,
    RunLimits,
    RunSummary,
    list_waiting,
    read_summary,
    run_jobs,
)
from verl_videosearch.runs.progress import show_progress
from verl_videosearch.runs.record import EpisodeRecord, Identity, RecordKind

Result = TypeVar("Result")
SERVER_LOG = "server.log"
"""Beside the journal: what a server that was started for the run has said."""


class EpisodeModel(Protocol):
    """A model that is ready to write replies."""

    @property
    def num_replicas(self) -> int:
        """Servers that share the work; a run's concurrency counts for each."""

    def for_episode(self, key: str = "", seed: int | None = None) -> GenerateFn:
        """Return what writes the replies of one episode."""


class EpisodeSource(Protocol):
    """Where replies come from: a `ModelSource`, or a stand-in of a test."""

    def open(
        self, log: Path | None = None, native_thought: NativeThought = NativeThought.AUTO
    ) -> AbstractAsyncContextManager[Any]:
        """Yield an `EpisodeModel`; raises `ServerUnusable`."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """URLs as they may be shown."""


PlayWithModel = Callable[[Job, EpisodeModel], Awaitable[EpisodeRecord]]
"""Plays one job with an open model; raises `EpisodeFailure`."""


def play_all(
    jobs: Sequence[Job],
    play: PlayWithModel,
    journal: Journal,
    source: EpisodeSource,
    what: str,
    *,
    kind: RecordKind,
    identity: Identity | None = None,
    limits: RunLimits | None = None,
    shows_progress: bool = True,
    on_start: Callable[[RunSummary], None] = lambda summary: None,
    native_thought: NativeThought = NativeThought.AUTO,
) -> RunSummary:
    """Play what the journal does not hold yet and say where the run stands.

    `what` stands beside the progress bar; `on_start` is told where the run stands before the first
    request, if there is one; `native_thought` is the episodes' setting. Never raises for servers:
    `RunSummary.stopped` says
    why."""
    limits = limits or RunLimits()
    before = read_summary(jobs, journal)
    if not list_waiting(before, forgets_failures=limits.forgets_failures):
        return before
    on_start(before)
    server = ", ".join(source.endpoints)
    bar: AbstractContextManager[Callable[[EpisodeRecord], None]]
    bar = show_progress(what, before) if shows_progress else nullcontext(lambda record: None)

    async def drive(on_record: Callable[[EpisodeRecord], None]) -> RunSummary:
        async with source.open(journal.path.with_name(SERVER_LOG), native_thought) as model:
            return await run_jobs(
                jobs,
                lambda job: play(job, model),
                journal,
                replace(limits, concurrency=limits.concurrency * model.num_replicas),
                kind=kind,
                identity=identity,
                server=server,
                on_record=on_record,
            )

    with bar as on_record:
        try:
            return run_blocking(drive(on_record))
        except ServerUnusable as error:
            return read_summary(jobs, journal, stopped=str(error))


def run_blocking(work: Coroutine[Any, Any, Result]) -> Result:
    """Wait for a coroutine, also where an event loop runs already (a notebook).

    >>> async def one():
    ...     return 1
    >>> run_blocking(one())
    1
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, work).result()
