"""The server that a judge started itself dies: comparisons wait for it to come back, and when it
does not, they say why."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("httpx")

from tests.judge.episodes import SETTINGS
from tests.models.dying_server import make_replica, read_pids
from tests.seeing_judge import CLIPS, write_clips
from verl_videosearch import Judge
from verl_videosearch.failures import EpisodeFailure, ServerUnusable
from verl_videosearch.models import source as source_module
from verl_videosearch.models.replica import Replica

pytestmark = pytest.mark.timeout(300)
CLEAN, OTHER, DEFECT = CLIPS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Clips, and a checkpoint `tiny` that is served by a program of the tests."""
    write_clips(tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")

    @contextmanager
    def serve(
        checkpoint: Path, model: str, log: Path, options: Sequence[str], num_replicas: int
    ) -> Iterator[list[Replica]]:
        replica = make_replica(tmp_path)
        replica.start()
        try:
            yield [replica]
        finally:
            replica.close()

    monkeypatch.setattr(source_module, "serve_replicas", serve)
    return tmp_path


def make_judge(folder: Path, **settings: object) -> Judge:
    given = {"episode": SETTINGS, "store": folder / "frames", "concurrency": 4} | settings
    return Judge.serve(folder / "tiny", **given)


def kill_last(folder: Path) -> None:
    os.kill(read_pids(folder)[-1], signal.SIGKILL)


def test_a_server_killed_during_twenty_comparisons_costs_none(folder: Path) -> None:
    pairs = [(f"cat {n}", folder / CLEAN, folder / DEFECT) for n in range(20)]
    heard = []

    def hear(record: object) -> None:
        heard.append(record)
        if len(heard) in (3, 20):
            kill_last(folder)

    with make_judge(folder, deadline_s=240.0) as judge:
        outcomes = judge.compare_many(pairs, on_episode=hear)
        assert [getattr(each, "overall", each) for each in outcomes] == [1] * 20
        assert len(read_pids(folder)) == 3
        assert judge.compare("a dog", folder / DEFECT, folder / OTHER).overall == 2
    with pytest.raises(ProcessLookupError):
        kill_last(folder)


def test_a_server_that_stays_dead_is_an_error_with_its_last_words_and_may_be_mended(
    folder: Path,
) -> None:
    with make_judge(folder, deadline_s=240.0) as judge:
        assert judge.compare("a cat", folder / CLEAN, folder / DEFECT).overall == 1
        (folder / "fail").touch()
        kill_last(folder)
        with pytest.raises(ServerUnusable, match=r"no memory left[\s\S]*is given up"):
            judge.compare("a dog", folder / CLEAN, folder / DEFECT)
        with pytest.raises(ServerUnusable, match="ended with status 7"):
            judge.compare("a dog", folder / CLEAN, folder / DEFECT)
        (folder / "fail").unlink()
        assert judge.compare("a dog", folder / CLEAN, folder / DEFECT).overall == 1


def test_a_deadline_ends_the_call_and_not_the_start_of_the_server(folder: Path) -> None:
    start = time.monotonic()
    with make_judge(folder, deadline_s=0.05) as judge:
        with pytest.raises(EpisodeFailure, match="no result after 0.05 s"):
            judge.compare("a cat", folder / CLEAN, folder / DEFECT)
        assert read_pids(folder) == [], f"the server was up after {time.monotonic() - start} s"
        assert judge.open() == "tiny"
        assert len(read_pids(folder)) == 1


def test_closing_while_the_server_starts_leaves_nothing_behind(folder: Path) -> None:
    with make_judge(folder, deadline_s=0.05) as judge, pytest.raises(EpisodeFailure):
        judge.compare("a cat", folder / CLEAN, folder / DEFECT)
    for pid in read_pids(folder):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
