"""The journal and the engine of before `runs.jobs`, for what has not moved onto records yet."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_videosearch.episode import Ending, Episode, EpisodeConfig, EpisodeResult
from verl_videosearch.failures import PASSING, EpisodeFailure, FailureKind
from verl_videosearch.judgement import Judgement
from verl_videosearch.rollout import GenerateFn, run_episode, to_record
from verl_videosearch.runs.folder import EPISODES, JOURNAL, SAMPLES, Line, RunFolder, to_line
from verl_videosearch.sample import Order, PreferenceSample, show_in_order, write_samples
from verl_videosearch.video.altered_frames import double_frames
from verl_videosearch.video.pair import PairFrames, load_pair
from verl_videosearch.video.store import FrameStore


class OldRunFolder(RunFolder):
    """A folder whose journal holds plain lines."""

    @contextmanager
    def claim(
        self, settings: Mapping[str, Any], samples: Sequence[PreferenceSample] | None = None
    ) -> Iterator[Journal]:
        """Begin the run or go on with it."""
        with self.lock():
            self.check_settings(settings)
            if not (self.path / SAMPLES).exists():
                write_samples(self.path / SAMPLES, samples or [])
            with Journal(self.path / JOURNAL) as journal:
                yield journal

    def read_lines(self, name: str = EPISODES) -> list[Line]:
        """Return the lines of a finished run."""
        return [json.loads(line) for line in self._existing(name).read_text("utf-8").splitlines()]


class Journal:
    """An append-only file of JSON lines; `lines` are those of earlier runs and of this one."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab+")
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        self.lines: list[Line] = [
            line for line in map(_read_line, whole.splitlines()) if line is not None
        ]

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, line: Line) -> None:
        """Write one line and wait until it is on the disk."""
        self._file.write(to_line(line).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.lines.append(line)


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


def _read_line(line: bytes) -> Line | None:
    """Read a line; one that a dying machine has damaged is None, so its job is done again."""
    try:
        return json.loads(line)
    except ValueError:
        return None
