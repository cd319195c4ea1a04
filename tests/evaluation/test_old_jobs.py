"""Journal, folder and runner: what is written survives, what fails is done again, what is ours is
raised."""

import asyncio
from pathlib import Path

import pytest

from verl_videosearch.evaluation.old_jobs import (
    Job,
    Journal,
    RunLimits,
    RunState,
    ServerGone,
    read_state,
    run_jobs,
)
from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.runs.folder import to_line

JOBS = [Job(f"{number:02d}", number) for number in range(12)]
QUICK = RunLimits(concurrency=3, retry_delay_s=0.001)


class Player:
    """Fails a job as often as told, then does it."""

    def __init__(self, failures: dict[int, list[FailureKind]] | None = None) -> None:
        self.failures = {number: list(kinds) for number, kinds in (failures or {}).items()}
        self.played: list[int] = []
        self.num_at_once = self.max_at_once = 0

    async def __call__(self, number: int) -> dict:
        self.played.append(number)
        self.num_at_once += 1
        self.max_at_once = max(self.max_at_once, self.num_at_once)
        await asyncio.sleep(0.001)
        self.num_at_once -= 1
        if self.failures.get(number):
            raise EpisodeFailure(self.failures[number].pop(0), "scripted", f"{number}")
        return {"square": number**2}


def run(path: Path, player: Player, limits: RunLimits = QUICK) -> RunState:
    with Journal(path) as journal:
        return asyncio.run(run_jobs(JOBS, player, journal, limits))


def test_every_job_is_done_once(tmp_path: Path) -> None:
    player = Player()
    state = run(tmp_path / "journal.jsonl", player)
    assert (
        state.rows == {job.key: {"square": job.content**2} for job in JOBS} and state.failures == {}
    )
    assert sorted(player.played) == list(range(12)) and player.max_at_once == 3


def test_a_passing_failure_is_tried_again(tmp_path: Path) -> None:
    player = Player({3: [FailureKind.SERVER, FailureKind.TIMEOUT], 5: [FailureKind.TIMEOUT]})
    state = run(tmp_path / "journal.jsonl", player)
    assert len(state.rows) == 12 and state.failures == {}
    assert (player.played.count(3), player.played.count(5)) == (3, 2)


def test_a_lasting_failure_is_for_the_next_run(tmp_path: Path) -> None:
    player = Player({3: [FailureKind.SERVER] * 4, 7: [FailureKind.VIDEO]})
    state = run(tmp_path / "journal.jsonl", player)
    assert len(state.rows) == 10 and state.count_failures() == {"server": 1, "video": 1}
    assert (player.played.count(3), player.played.count(7)) == (3, 1)  # a broken video stays broken
    player.played.clear()
    state = run(tmp_path / "journal.jsonl", player)
    assert len(state.rows) == 12 and state.failures == {}
    assert sorted(player.played) == [3, 3, 7]


def test_a_server_that_is_gone_stops_the_run(tmp_path: Path) -> None:
    player = Player({number: [FailureKind.SERVER] * 99 for number in range(6, 12)})
    with pytest.raises(ServerGone, match="8 tries failed in a row"):
        run(
            tmp_path / "journal.jsonl",
            player,
            RunLimits(3, retry_delay_s=0.001, max_failures_in_a_row=8),
        )
    state = run(tmp_path / "journal.jsonl", Player())
    assert len(state.rows) == 12


def test_a_mistake_of_ours_is_raised_and_stops_the_others(tmp_path: Path) -> None:
    async def play(number: int) -> dict:
        await asyncio.sleep(0.001 * number)
        if number == 4:
            raise ZeroDivisionError
        return {}

    with Journal(tmp_path / "journal.jsonl") as journal, pytest.raises(ZeroDivisionError):
        asyncio.run(run_jobs(JOBS, play, journal, QUICK))
    with Journal(tmp_path / "journal.jsonl") as journal:
        assert len(journal.lines) < 11 and all("row" in line for line in journal.lines)


@pytest.mark.parametrize("num_bytes", range(0, 60, 7))
def test_a_journal_cut_anywhere_keeps_its_whole_lines(tmp_path: Path, num_bytes: int) -> None:
    lines = [{"key": "a", "row": {"n": 1}}, {"key": "b", "row": {"n": 2}}]
    content = "".join(map(to_line, lines)).encode()
    path = tmp_path / "journal.jsonl"
    path.write_bytes(content[:num_bytes])
    with Journal(path) as journal:
        num_whole = content[:num_bytes].count(b"\n")
        assert journal.lines == lines[:num_whole]
        journal.append({"key": "c"})
    with Journal(path) as journal:
        assert journal.lines == [*lines[:num_whole], {"key": "c"}]


def test_a_damaged_line_counts_as_not_done(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"key": "a", "row": 1}\n\0\0\0\n{"key": "b", "row": 2}\n')
    with Journal(path) as journal:
        assert read_state(journal.lines).rows == {"a": 1, "b": 2}


def test_any_text_survives_the_journal(tmp_path: Path) -> None:
    text = "line\u2028separator \x85 \ud800 alone \n and é"
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append({"key": "a", "row": text})
    with Journal(tmp_path / "journal.jsonl") as journal:
        assert journal.lines == [{"key": "a", "row": text}]


def test_the_first_row_of_a_job_counts() -> None:
    assert read_state(
        [{"key": "a", "row": 1}, {"key": "a", "row": 2}, {"key": "a", "failure": "server"}]
    ).rows == {"a": 1}
