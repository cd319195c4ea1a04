"""From an unopened model to a summary: opened only when needed, its faults said, also in a
notebook."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.replies import ANSWER
from tests.runs.test_jobs import JOBS, finish
from verl_videosearch.episode import Reply
from verl_videosearch.failures import ServerUnusable
from verl_videosearch.reply import NativeThought
from verl_videosearch.runs.folder import Journal
from verl_videosearch.runs.jobs import ExitStatus, Job, RunLimits, RunSummary
from verl_videosearch.runs.record import EpisodeRecord, RecordKind
from verl_videosearch.runs.session import play_all, run_blocking


class OpenModel:
    num_replicas = 2

    def for_episode(self, key: str = "", seed: int | None = None):
        async def generate(messages, images) -> Reply:
            return Reply(ANSWER)

        return generate


class Source:
    endpoints = ("http://a/v1", "http://b/v1")

    def __init__(self, problem: str | None = None) -> None:
        self.problem, self.num_opened = problem, 0

    @asynccontextmanager
    async def open(
        self, log: Path | None = None, native_thought: NativeThought = NativeThought.AUTO
    ) -> AsyncIterator[OpenModel]:
        self.num_opened += 1
        if self.problem is not None:
            raise ServerUnusable(self.problem)
        yield OpenModel()


class Watch:
    """Plays jobs and counts how many at once."""

    def __init__(self) -> None:
        self.num_at_once = self.max_at_once = 0

    async def __call__(self, job: Job, model: OpenModel) -> EpisodeRecord:
        self.num_at_once += 1
        self.max_at_once = max(self.max_at_once, self.num_at_once)
        await asyncio.sleep(0.001)
        self.num_at_once -= 1
        return finish(job)


def play(path: Path, source: Source, watch: Watch | None = None) -> RunSummary:
    with Journal(path / "journal.jsonl") as journal:
        return play_all(
            JOBS,
            watch or Watch(),
            journal,
            source,
            "episodes",
            kind=RecordKind.JUDGE,
            limits=RunLimits(concurrency=3),
            shows_progress=False,
        )


def test_a_model_is_opened_only_when_something_is_left(tmp_path: Path) -> None:
    source, watch = Source(), Watch()
    assert play(tmp_path, source, watch).status() is ExitStatus.COMPLETE
    assert watch.max_at_once == 6  # three for each of two servers
    assert play(tmp_path, source).status() is ExitStatus.COMPLETE and source.num_opened == 1


def test_a_model_that_cannot_work_is_said(tmp_path: Path) -> None:
    summary = play(tmp_path, Source("http://a/v1 does not know model 'x'"))
    assert summary.status() is ExitStatus.UNUSABLE
    assert "stopped: http://a/v1 does not know model 'x'" in summary.lines()
    assert play(tmp_path, Source()).status() is ExitStatus.COMPLETE


def test_it_works_where_a_loop_runs_already(tmp_path: Path) -> None:
    async def notebook() -> RunSummary:
        return play(tmp_path, Source())

    assert asyncio.run(notebook()).status() is ExitStatus.COMPLETE


def test_errors_come_out_of_a_running_loop() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def notebook() -> None:
        run_blocking(fail())

    with pytest.raises(ZeroDivisionError):
        asyncio.run(notebook())
