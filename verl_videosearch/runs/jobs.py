"""Run many jobs at once against a server that may drop, delay or garble: none is lost and none is
scored falsely.

The one idea: a job ends in one of two lines of the journal. Either its row, which is final, or its
failure, which only says that the job is still to be done. Failures are tried again in this run, and
by the next run over the same folder.

    job  --play-->  {"key": ..., "row": {...}}                    done
         --fails->  {"key": ..., "failure": "server", ...}        counted apart, to be repeated

Covers: bounded concurrency, retries, a server that is gone (the run stops instead of failing every
job). Does not cover: what a job does (`play_episode`, `probes`)."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from verl_videosearch.episode import Ending, Episode, EpisodeConfig, EpisodeResult
from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.judgement import Judgement
from verl_videosearch.rollout import GenerateFn, run_episode, to_record
from verl_videosearch.runs.folder import Journal, Line
from verl_videosearch.sample import Order, PreferenceSample, show_in_order
from verl_videosearch.video.altered_frames import double_frames
from verl_videosearch.video.pair import PairFrames, load_pair
from verl_videosearch.video.store import FrameStore

PASSING = (FailureKind.SERVER, FailureKind.TIMEOUT)
"""Failures that another try may cure; a broken video stays broken."""


@dataclass(frozen=True)
class Job:
    """One thing to do once."""

    key: str
    """Names it in the journal; unique in a run."""
    content: Any


@dataclass(frozen=True)
class RunLimits:
    """How hard a run pushes and how long it insists."""

    concurrency: int = 8
    """Jobs in flight."""
    max_tries: int = 3
    """Tries of one job in one run."""
    retry_delay_s: float = 0.5
    """Wait before the second try; doubled before each further one."""
    max_failures_in_a_row: int = 20
    """After so many failed tries without one success between them (at least two per job in flight)
    the run stops."""

    @property
    def patience(self) -> int:
        return max(self.max_failures_in_a_row, 2 * self.concurrency)


class ServerGone(Exception):
    """Too many tries failed in a row; nothing is lost, the next run goes on."""


@dataclass(frozen=True)
class RunState:
    """Where a run stands."""

    rows: dict[str, Line]
    """Finished jobs by key."""
    failures: dict[str, Line]
    """The last failure of each job that is not finished."""

    def count_failures(self) -> dict[str, int]:
        """Count the unfinished jobs by kind of failure."""
        return dict(sorted(Counter(line["failure"] for line in self.failures.values()).items()))


def read_state(lines: Sequence[Line]) -> RunState:
    """Read a journal: a row is final, a failure counts until a row follows.

    >>> lines = [{"key": "a", "failure": "server"}, {"key": "b", "failure": "timeout"}, {"key": "a", "row": {"n": 1}}]
    >>> read_state(lines)
    RunState(rows={'a': {'n': 1}}, failures={'b': {'key': 'b', 'failure': 'timeout'}})
    """
    rows: dict[str, Line] = {}
    for line in lines:
        if "row" in line:
            rows.setdefault(line["key"], line["row"])
    failures = {
        line["key"]: line for line in lines if "failure" in line and line["key"] not in rows
    }
    return RunState(rows, failures)


async def run_jobs(
    jobs: Sequence[Job],
    play: Callable[[Any], Awaitable[Line]],
    journal: Journal,
    limits: RunLimits | None = None,
    on_done: Callable[[], None] = lambda: None,
) -> RunState:
    """Do every job that the journal does not hold yet; raises `ServerGone`, and whatever is a
    mistake of ours."""
    limits = limits or RunLimits()
    done = read_state(journal.lines).rows
    waiting = iter([job for job in jobs if job.key not in done])
    failures_in_a_row = 0

    async def do(job: Job) -> None:
        nonlocal failures_in_a_row
        for number in range(limits.max_tries):
            try:
                row = await play(job.content)
            except EpisodeFailure as failure:
                failures_in_a_row += failure.kind in PASSING
                if failures_in_a_row >= limits.patience:
                    raise ServerGone(
                        f"{failures_in_a_row} tries failed in a row, the last one: {failure}"
                    ) from failure
                if failure.kind not in PASSING or number + 1 == limits.max_tries:
                    journal.append(
                        {"key": job.key, "failure": failure.label, "detail": str(failure)}
                    )
                    return
                await asyncio.sleep(limits.retry_delay_s * 2**number)
            else:
                failures_in_a_row = 0
                journal.append({"key": job.key, "row": row})
                return

    async def work() -> None:
        for job in waiting:
            await do(job)
            on_done()

    await _run_together([work() for _ in range(limits.concurrency)])
    return read_state(journal.lines)


async def _run_together(works: Sequence[Awaitable[None]]) -> None:
    """Wait for all; the first error stops the others (Python 3.10 has no TaskGroup)."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True)
class Stage:
    """Everything that playing an episode needs besides the pair and the model."""

    store: FrameStore
    config: EpisodeConfig
    video_root: str | Path | None = None
    timeout_s: float | None = None
    """For one whole episode."""
    is_redundant: bool = False
    """Double every candidate frame: the same videos, twice as many numbers to choose from."""
    commit: str = "unknown"
    """Of this package; each line names the code that made it."""

    async def load(self, sample: PreferenceSample) -> PairFrames:
        """Read the frames of a pair off the event loop."""
        pair = await asyncio.to_thread(load_pair, sample, self.store, self.config, self.video_root)
        return double_frames(pair) if self.is_redundant else pair


async def play_episode(
    sample: PreferenceSample, order: Order, stage: Stage, generate: GenerateFn
) -> Line:
    """Judge one pair in one order and return its line; raises `EpisodeFailure`, which is never a
    verdict.

    `generate` is this episode's own: if it counts what it used (`ChatClient.usage`), the line has
    the tokens."""
    shown = show_in_order(sample, order)
    pair = await stage.load(shown)
    episode, start = Episode(shown, pair.candidates, stage.config), time.monotonic()
    result = await run_episode(episode, pair, generate, timeout_s=stage.timeout_s)
    line = describe_episode(shown, order, episode, result) | read_usage(generate)
    return line | {"commit": stage.commit, "seconds": round(time.monotonic() - start, 3)}


def derive_seed(seed: int, key: str) -> int:
    """Give each episode a seed of its own, the same in every run.

    >>> derive_seed(0, "a AB") != derive_seed(0, "a BA"), 0 <= derive_seed(1, "a AB") < 2**31
    (True, True)
    """
    return xxhash.xxh3_64_intdigest(f"{seed} {key}".encode()) % 2**31


def read_usage(generate: GenerateFn) -> Line:
    """Return the tokens that an episode's own `GenerateFn` has counted, None where it does not
    count."""
    usage = getattr(generate, "usage", None)
    return {name: getattr(usage, name, None) for name in ("num_prompt_tokens", "num_reply_tokens")}


def describe_episode(
    shown: PreferenceSample, order: Order, episode: Episode, result: EpisodeResult
) -> Line:
    """Write a finished episode; `verdicts` name slots, as the judge gave them."""
    if result.ending is Ending.OVERLONG and not result.turns:
        detail = "the first context does not fit the model; show fewer or smaller frames at first"
        raise EpisodeFailure(FailureKind.PROMPT_TOO_LONG, detail, shown.uid)
    readings = result.recommendations
    initial = episode.candidates.initial_view(episode.config.initial_frames_per_video)
    times = episode.candidates.times_1, episode.candidates.times_2
    return to_record(shown, episode, result, None) | {
        "order": order.value,
        "verdicts": dict(result.verdict.verdicts)
        if isinstance(result.verdict, Judgement)
        else None,
        "first_verdicts": dict(readings[0].verdicts) if readings else None,
        "confidence": next(
            (r.confidence for r in reversed(readings) if r.confidence is not None), None
        ),
        "initial_frames": list(initial),
        "num_candidates": [len(each) for each in times],
        "last_times_s": [each[-1] for each in times],
        "num_evictions": result.num_evictions,
    }
