"""run_jobs: play many episodes against a server that may drop, delay or refuse; none is lost and
none is scored falsely. The only engine of the project.

The one idea: an episode ends in one record of the journal - its result, or why there is none. A
*passing* failure (a server that is busy or away) says that the episode is still to be played: in
this run, or by the same command later. A *permanent* one (a truncated video) fails the same way
again: it is final, counted, and never asked again unless somebody says so.

    play -> record                   final
         -> passing failure          tried again after a while, `max_tries` times; then the next
                                     run's
         -> permanent failure        final
         -> ServerUnusable           the run stops at once
    many failures in a row           the run stops: the server is away

Exit status of every program that plays episodes (`ExitStatus`):

| status | when | what to do |
|---|---|---|
| 0 | complete; permanent failures of at most `--max-failed-share` of the pairs are counted | go on |
| 1 | passing failures are left | repeat the command |
| 2 | wrong use, or a server that cannot work | mend it, repeat the command |
| 3 | complete, but more pairs than `--max-failed-share` cannot be judged | look at the named pairs; accept them by the option, or mend them |

Covers: bounded concurrency, retries, pace, resuming, the summary. Does not cover: what a job does
(`play`), models."""  # noqa: E501

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

import stamina
from aiolimiter import AsyncLimiter

from verl_videosearch.config import above, at_least, check
from verl_videosearch.failures import EpisodeFailure, FailureKind, ServerUnusable
from verl_videosearch.runs.play import make_key
from verl_videosearch.runs.record import (
    EpisodeRecord,
    Identity,
    RecordedFailure,
    RecordKind,
    record_failure,
)
from verl_videosearch.runs.record_file import settle_records
from verl_videosearch.sample import Order, PreferenceSample

MAX_FAILED_SHARE = 0.02
"""Default of `--max-failed-share`: pairs that may fail for good in a complete run."""
_SERVER_KINDS = (FailureKind.SERVER, FailureKind.TIMEOUT, FailureKind.PROMPT_TOO_LONG)
"""Failures that say something about the server; a broken video does not."""


class ExitStatus(IntEnum):
    """How a program that plays episodes ends, see the table of this module."""

    COMPLETE = 0
    INCOMPLETE = 1
    UNUSABLE = 2
    TOO_MANY_FAILED = 3


@dataclass(frozen=True)
class Job:
    """One episode to play."""

    sample: PreferenceSample
    """In its own order."""
    order: Order = Order.AB
    attempt: int | None = None
    """Which of several episodes of the same input, from 0."""
    seed: int | None = None
    """Of the episode's sampling."""
    content: Any = None
    """What else `play` needs."""
    name: str | None = None
    """Its key in the journal; null makes one of sample, order and attempt."""

    @property
    def key(self) -> str:
        """Names the episode in the journal; unique in a run."""
        return self.name or make_key(self.sample.uid, self.order, self.attempt)


PlayFn = Callable[[Job], Awaitable[EpisodeRecord]]
"""Plays one job; raises `EpisodeFailure`, or `ServerUnusable` when no job can be played."""


@dataclass(frozen=True)
class RunLimits:
    """How hard a run pushes and how long it insists."""

    concurrency: int = 8
    """Episodes in flight."""
    max_tries: int = 3
    """Tries of one episode in one run."""
    retry_delay_s: float = 0.5
    """Wait before the second try; doubled before each further one."""
    max_wait_s: float = 120.0
    """Longest wait before a try; a server that asks for more has the episode left for a later
    run."""
    max_failures_in_a_row: int = 20
    """After so many failed tries without a result between them (at least two per episode in flight)
    the run stops."""
    max_episodes_per_minute: float | None = None
    """Episodes start evenly spaced at this rate; null does not limit."""
    forgets_failures: bool = False
    """Play permanent failures of earlier runs again."""

    def __post_init__(self) -> None:
        check(
            self,
            concurrency=at_least(1),
            max_tries=at_least(1),
            retry_delay_s=at_least(0),
            max_wait_s=at_least(0),
            max_failures_in_a_row=at_least(1),
            max_episodes_per_minute=above(0),
        )

    @property
    def patience(self) -> int:
        """Failed tries in a row after which the run stops."""
        return max(self.max_failures_in_a_row, 2 * self.concurrency)


@dataclass(frozen=True)
class RunSummary:
    """Where a run stands: every job is done, failed or waiting."""

    jobs: tuple[Job, ...]
    records: Mapping[str, EpisodeRecord]
    """Results and last failures by key."""
    damaged: tuple[str, ...] = ()
    """Lines of the journal that do not count, file and line included."""
    stopped: str | None = None
    """Why the run stopped before it was through; null when it did not."""
    seconds: float = 0.0
    """Wall-clock time of this run."""

    @property
    def done(self) -> list[EpisodeRecord]:
        """The results, sorted by key."""
        return sorted(
            (record for record in self.records.values() if record.has_result),
            key=lambda record: record.key,
        )

    @property
    def passing(self) -> list[EpisodeRecord]:
        """Failures that the same command will try again."""
        return [each for each in self._failures if _failure_of(each).is_passing]

    @property
    def permanent(self) -> list[EpisodeRecord]:
        """Failures that are final."""
        return [each for each in self._failures if not _failure_of(each).is_passing]

    @property
    def num_waiting(self) -> int:
        """Jobs that no run has tried yet."""
        return len(self.jobs) - len(self.records)

    @property
    def _failures(self) -> list[EpisodeRecord]:
        failed = [record for record in self.records.values() if not record.has_result]
        return sorted(failed, key=lambda record: record.key)

    @property
    def failed_share(self) -> float:
        """Share of the pairs with an episode that failed for good."""
        pairs = {job.sample.uid for job in self.jobs}
        return len({record.uid for record in self.permanent}) / len(pairs) if pairs else 0.0

    def count_failures(self) -> dict[str, int]:
        """Count the episodes without a result by kind of failure."""
        labels = Counter(_failure_of(record).label for record in self._failures)
        return dict(sorted(labels.items()))

    def status(self, max_failed_share: float = MAX_FAILED_SHARE) -> ExitStatus:
        """Return the exit status of a program that has done this."""
        if self.stopped is not None:
            return ExitStatus.UNUSABLE
        if self.passing or self.num_waiting:
            return ExitStatus.INCOMPLETE
        if self.failed_share > max_failed_share:
            return ExitStatus.TOO_MANY_FAILED
        return ExitStatus.COMPLETE

    def lines(self, max_failed_share: float = MAX_FAILED_SHARE) -> list[str]:
        """Say in words what was done, what is left and what to do; one line each."""
        return [
            *self._list_counts(),
            *(f"failed for good: {line}" for line in _list_examples(self.permanent)),
            *(f"to be repeated: {line}" for line in _list_examples(self.passing)),
            *([f"stopped: {self.stopped}"] if self.stopped else []),
            *self._list_advice(max_failed_share),
        ]

    def _list_counts(self) -> list[str]:
        parts = [f"{len(self.done)} of {len(self.jobs)} episodes done"]
        counts = {
            "to be repeated": len(self.passing),
            "failed for good": len(self.permanent),
            "not tried": self.num_waiting,
        }
        parts += [f"{count} {name}" for name, count in counts.items() if count]
        lines = [", ".join(parts)]
        if self.damaged:
            lines.append(
                f"{len(self.damaged)} damaged lines of the journal do not count, the first one: "
                f"{self.damaged[0]}"
            )
        return lines

    def _list_advice(self, max_failed_share: float) -> list[str]:
        status = self.status(max_failed_share)
        if status is ExitStatus.UNUSABLE:
            return ["nothing is lost: mend that and repeat the command"]
        if status is ExitStatus.INCOMPLETE:
            return ["nothing is lost: repeat the command to play what is left"]
        if status is ExitStatus.TOO_MANY_FAILED:
            share = self.failed_share
            return [
                f"{share:.1%} of the pairs cannot be judged, more than --max-failed-share "
                f"{max_failed_share:g}: the result is kept and repeating asks none of them again; "
                f"accept it with --max-failed-share {_round_up(share):g}, or mend the files "
                "above and "
                "repeat with --forget-failures"
            ]
        return []


class KeepsRecords(Protocol):
    """What is noted of a run: `runs.folder.Journal`, or one in memory."""

    records: list[EpisodeRecord]
    damaged: list[str]
    """What is wrong with each line that does not count."""

    def append(self, record: EpisodeRecord) -> None:
        """Note one record."""


async def run_jobs(
    jobs: Iterable[Job],
    play: PlayFn,
    journal: KeepsRecords,
    limits: RunLimits | None = None,
    *,
    kind: RecordKind = RecordKind.EVALUATION,
    identity: Identity | None = None,
    server: str = "",
    on_record: Callable[[EpisodeRecord], None] = lambda record: None,
) -> RunSummary:
    """Play every job that the journal does not hold yet, and say where the run stands.

    A server that cannot work or is away stops the run: `RunSummary.stopped` says why, with the
    server's own sentence and `server`, its URL. Raises what is a mistake of ours, and
    `RunFolderError` for a full disk. `kind` and `identity` are those of the records of failures;
    `on_record` is told every new result and final failure."""
    engine = _Engine(tuple(jobs), play, journal, limits or RunLimits(), server, on_record)
    engine.describe = {"kind": kind, "identity": identity or Identity()}
    return await engine.run()


def read_summary(jobs: Iterable[Job], journal: KeepsRecords, **details: Any) -> RunSummary:
    """Say where a run stands without playing anything."""
    jobs = tuple(jobs)
    keys = {job.key for job in jobs}
    if len(keys) < len(jobs):
        repeated = [key for key, count in Counter(job.key for job in jobs).items() if count > 1]
        raise ValueError(f"two jobs have the same key: {repeated[:3]}; keys are unique in a run")
    settled = settle_records(record for record in journal.records if record.key in keys)
    return RunSummary(
        jobs, {record.key: record for record in settled}, tuple(journal.damaged), **details
    )


def list_waiting(summary: RunSummary, *, forgets_failures: bool = False) -> list[Job]:
    """Return the jobs that are still to be played."""
    waiting = []
    for job in summary.jobs:
        record = summary.records.get(job.key)
        is_final = record is not None and (
            record.has_result or not (_failure_of(record).is_passing or forgets_failures)
        )
        if not is_final:
            waiting.append(job)
    return waiting


class _Stop(Exception):
    """The run cannot go on; its text says why."""


@dataclass
class _Engine:
    """The state of one `run_jobs`."""

    jobs: tuple[Job, ...]
    play: PlayFn
    journal: KeepsRecords
    limits: RunLimits
    server: str
    on_record: Callable[[EpisodeRecord], None]
    describe: dict[str, Any] = field(default_factory=dict)
    """Kind and identity of the records of failures."""
    num_failures_in_a_row: int = 0
    unproven: list[EpisodeRecord] = field(default_factory=list)
    """Permanent failures that blame the server: noted once another episode shows that it works."""
    resume_at_s: float = 0.0
    """Loop time before which the server asked not to be asked again."""

    async def run(self) -> RunSummary:
        """Do what is waiting, bounded by the limits."""
        start = time.monotonic()
        before = read_summary(self.jobs, self.journal)
        waiting = iter(list_waiting(before, forgets_failures=self.limits.forgets_failures))
        rate = self.limits.max_episodes_per_minute
        pace = None if rate is None else AsyncLimiter(1, 60 / rate)

        async def work() -> None:
            for job in waiting:
                if pace is not None:
                    await pace.acquire()
                await self.do(job)

        stopped = None
        try:
            await run_together([work() for _ in range(self.limits.concurrency)])
            self.note_unproven()
        except ServerUnusable as error:
            stopped = self.name_server(str(error))
        except _Stop as error:
            stopped = self.name_server(str(error))
        seconds = time.monotonic() - start
        return read_summary(self.jobs, self.journal, stopped=stopped, seconds=seconds)

    def name_server(self, sentence: str) -> str:
        """Say which server it was, unless the sentence does."""
        return sentence if self.server in sentence else f"{sentence} ({self.server})"

    async def do(self, job: Job) -> None:
        """Play one job to a record of the journal."""
        try:
            record = await self.try_repeatedly(job)
        except EpisodeFailure as failure:
            self.note_failure(job, failure)
        else:
            self.num_failures_in_a_row = 0
            self.note_unproven()
            self.note(record)

    async def try_repeatedly(self, job: Job) -> EpisodeRecord:
        """Play a job, again after a passing failure; raises the last one."""
        tries = stamina.retry_context(
            on=self.choose_wait,
            attempts=self.limits.max_tries,
            timeout=None,
            wait_initial=self.limits.retry_delay_s,
            wait_max=self.limits.max_wait_s,
            wait_jitter=self.limits.retry_delay_s / 2,
        )
        async for one_try in tries:
            with one_try:
                await self.wait_for_server()
                try:
                    return await self.play(job)
                except EpisodeFailure as failure:
                    self.count_failure(job, failure)
                    raise
        raise AssertionError("the last try returns or raises")

    def choose_wait(self, error: Exception) -> bool | float:
        """Say whether to try again: as the policy waits, or as long as the server asks."""
        if not isinstance(error, EpisodeFailure) or not error.is_passing:
            return False
        if error.retry_after_s is None:
            return True
        return error.retry_after_s if error.retry_after_s <= self.limits.max_wait_s else False

    async def wait_for_server(self) -> None:
        """Wait as long as a server has asked all of us to wait."""
        await asyncio.sleep(self.resume_at_s - asyncio.get_running_loop().time())

    def count_failure(self, job: Job, failure: EpisodeFailure) -> None:
        """Count a failed try; too many in a row stop the run."""
        if failure.kind not in _SERVER_KINDS:
            return
        if failure.retry_after_s is not None:
            wait_s = min(failure.retry_after_s, self.limits.max_wait_s)
            now = asyncio.get_running_loop().time()
            self.resume_at_s = max(self.resume_at_s, now + wait_s)
        self.num_failures_in_a_row += 1
        if self.num_failures_in_a_row >= self.limits.patience:
            raise _Stop(
                f"{self.num_failures_in_a_row} tries failed in a row, the last one of {job.key!r} "
                f"({failure.label}): {failure.detail}"
            ) from failure

    def note_failure(self, job: Job, failure: EpisodeFailure) -> None:
        """Note why a job has no result."""
        record = record_failure(
            self.describe["kind"],
            job.key,
            job.sample,
            job.order,
            failure,
            attempt=job.attempt,
            seed=job.seed,
            identity=self.describe["identity"],
        )
        if failure.kind in _SERVER_KINDS and not failure.is_passing:
            self.unproven.append(record)
        else:
            self.note(record)

    def note_unproven(self) -> None:
        """Note the permanent failures that wait for a sign that the server works."""
        while self.unproven:
            self.note(self.unproven.pop())

    def note(self, record: EpisodeRecord) -> None:
        """Write a record, and tell whoever watches."""
        self.journal.append(record)
        self.on_record(record)


async def run_together(works: Sequence[Awaitable[None]]) -> None:
    """Wait for all; the first error stops the others (Python 3.10 has no TaskGroup)."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def check_share(max_failed_share: float) -> float:
    """Return the share; `ValueError` for one that is none."""
    if not 0 <= max_failed_share <= 1:
        raise ValueError(f"--max-failed-share must be from 0 to 1, got {max_failed_share:g}")
    return max_failed_share


def _failure_of(record: EpisodeRecord) -> RecordedFailure:
    assert record.failure is not None, "asked of a record with a result"
    return record.failure


def _list_examples(records: Sequence[EpisodeRecord]) -> list[str]:
    """Return a line per kind of failure: how many, the first of them and its words."""
    by_label: dict[str, list[EpisodeRecord]] = {}
    for record in records:
        by_label.setdefault(_failure_of(record).label, []).append(record)
    return [
        f"{label} {len(found)}, for example {found[0].key!r}: {_failure_of(found[0]).detail}"
        for label, found in sorted(by_label.items())
    ]


def _round_up(share: float) -> float:
    """Return a short share that is not below the given one.

    >>> _round_up(1 / 3)
    0.334
    """
    return -(-share * 1000 // 1) / 1000
