"""The engine: every episode is played once, passing failures again, permanent ones never, and the
exit status says which it was."""

import asyncio
import os
import re
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests.episode_contract import pair_of
from tests.replies import ANSWER
from verl_videosearch.episode import Episode, EpisodeConfig, Reply
from verl_videosearch.failures import EpisodeFailure, FailureKind, ServerUnusable
from verl_videosearch.runs.folder import Journal, RunFolderError
from verl_videosearch.runs.jobs import (
    ExitStatus,
    Job,
    RunLimits,
    RunSummary,
    list_waiting,
    read_summary,
    run_jobs,
)
from verl_videosearch.runs.progress import LoggedProgress, show_progress, track
from verl_videosearch.runs.record import EpisodeRecord, RecordKind, record_episode
from verl_videosearch.sample import Order, PreferenceSample

CONFIG = EpisodeConfig(frames_per_video=4, initial_frames_per_video=1)
LABELS = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}
QUICK = RunLimits(concurrency=3, retry_delay_s=0.001)
URL = "http://127.0.0.1:9/v1"


def make_jobs(num: int) -> list[Job]:
    return [
        Job(PreferenceSample(f"pair-{number:02d}", "a cat", "1.mp4", "2.mp4", LABELS))
        for number in range(num)
    ]


JOBS = make_jobs(12)


def finish(job: Job) -> EpisodeRecord:
    episode = Episode(job.sample, pair_of(4, 4), CONFIG)
    episode.step(Reply(ANSWER))
    return record_episode(RecordKind.EVALUATION, job.key, job.sample, job.order, episode)


def passing(sentence: str = "busy", retry_after_s: float | None = None) -> EpisodeFailure:
    return EpisodeFailure(FailureKind.SERVER, sentence, retry_after_s=retry_after_s)


def refused() -> EpisodeFailure:
    return EpisodeFailure(FailureKind.SERVER, "no such field", cause="http_400", is_passing=False)


def broken() -> EpisodeFailure:
    return EpisodeFailure(FailureKind.VIDEO, "no frame 3", cause="truncated")


class Player:
    """Fails a job with the scripted errors, then does it."""

    def __init__(self, errors: dict[int, list[Exception]] | None = None) -> None:
        self.errors = {number: list(each) for number, each in (errors or {}).items()}
        self.played: list[int] = []
        self.num_at_once = self.max_at_once = 0

    async def __call__(self, job: Job) -> EpisodeRecord:
        number = int(job.sample.uid.split("-")[1])
        self.played.append(number)
        self.num_at_once += 1
        self.max_at_once = max(self.max_at_once, self.num_at_once)
        await asyncio.sleep(0.001)
        self.num_at_once -= 1
        if self.errors.get(number):
            raise self.errors[number].pop(0)
        return finish(job)


def run(path: Path, player: Player, limits: RunLimits = QUICK, jobs=JOBS, **options) -> RunSummary:
    with Journal(path / "journal.jsonl") as journal:
        return asyncio.run(run_jobs(jobs, player, journal, limits, server=URL, **options))


def test_every_job_is_done_once(tmp_path: Path) -> None:
    player = Player()
    summary = run(tmp_path, player)
    assert [record.key for record in summary.done] == [job.key for job in JOBS]
    assert sorted(player.played) == list(range(12)) and player.max_at_once == 3
    assert summary.status() is ExitStatus.COMPLETE
    assert summary.lines() == ["12 of 12 episodes done"]
    again = Player()
    assert run(tmp_path, again).done == summary.done and again.played == []


def test_a_passing_failure_is_tried_again_in_this_run(tmp_path: Path) -> None:
    player = Player({3: [passing(), EpisodeFailure(FailureKind.TIMEOUT, "slow")], 5: [passing()]})
    summary = run(tmp_path, player)
    assert len(summary.done) == 12 and not summary.passing
    assert (player.played.count(3), player.played.count(5)) == (3, 2)


def test_a_lasting_passing_failure_is_for_the_next_run(tmp_path: Path) -> None:
    player = Player({3: [passing("queue is full")] * 3})
    summary = run(tmp_path, player)
    assert len(summary.done) == 11 and summary.status() is ExitStatus.INCOMPLETE
    assert player.played.count(3) == 3
    text = "\n".join(summary.lines())
    assert "1 to be repeated" in text and "queue is full" in text and "repeat the command" in text
    player = Player()
    summary = run(tmp_path, player)
    assert player.played == [3] and summary.status() is ExitStatus.COMPLETE


def test_a_permanent_failure_is_final_and_within_the_allowed_share(tmp_path: Path) -> None:
    jobs = make_jobs(60)
    player = Player({7: [broken()]})
    summary = run(tmp_path, player, jobs=jobs)
    assert player.played.count(7) == 1
    assert summary.status(0.02) is ExitStatus.COMPLETE  # 1 of 60
    assert summary.count_failures() == {"video_truncated": 1}
    assert any("'pair-07 AB': no frame 3" in line for line in summary.lines())
    player = Player()
    assert run(tmp_path, player, jobs=jobs).status() is ExitStatus.COMPLETE
    assert player.played == []


def test_too_many_permanent_failures_are_status_3_until_forgotten(tmp_path: Path) -> None:
    summary = run(tmp_path, Player({7: [broken()]}))
    assert summary.status() is ExitStatus.TOO_MANY_FAILED
    assert summary.status(0.1) is ExitStatus.COMPLETE
    advice = summary.lines()[-1]
    assert "8.3% of the pairs" in advice and "--max-failed-share 0.084" in advice
    assert summary.status(0.084) is ExitStatus.COMPLETE  # the advice is right
    player = Player()
    assert run(tmp_path, player).status() is ExitStatus.TOO_MANY_FAILED and player.played == []
    forgetting = RunLimits(3, retry_delay_s=0.001, forgets_failures=True)
    assert run(tmp_path, player, forgetting).status() is ExitStatus.COMPLETE
    assert player.played == [7]
    assert run(tmp_path, Player()).status() is ExitStatus.COMPLETE


def test_a_pair_that_fails_in_both_orders_is_one_pair(tmp_path: Path) -> None:
    samples = [job.sample for job in make_jobs(50)]
    jobs = [Job(sample, order) for sample in samples for order in Order]
    summary = run(tmp_path, Player({7: [broken(), broken()]}), jobs=jobs)
    assert len(summary.permanent) == 2 and summary.failed_share == 1 / 50
    assert summary.status() is ExitStatus.COMPLETE


def test_a_server_that_dies_half_way_stops_the_run_with_its_sentence(tmp_path: Path) -> None:
    player = Player({number: [passing("connection refused")] * 99 for number in range(6, 12)})
    limits = RunLimits(3, retry_delay_s=0.001, max_failures_in_a_row=8)
    summary = run(tmp_path, player, limits)
    assert summary.status() is ExitStatus.UNUSABLE
    assert "8 tries failed in a row" in summary.stopped
    assert "connection refused" in summary.stopped and URL in summary.stopped
    assert {record.key for record in summary.done} == {job.key for job in JOBS[:6]}
    player = Player()
    assert run(tmp_path, player).status() is ExitStatus.COMPLETE
    assert sorted(player.played) == list(range(6, 12))


def test_a_server_that_cannot_work_stops_the_run_at_once(tmp_path: Path) -> None:
    player = Player({4: [ServerUnusable("insufficient_quota: you exceeded your quota")]})
    summary = run(tmp_path, player)
    assert summary.status() is ExitStatus.UNUSABLE and "insufficient_quota" in summary.stopped
    assert player.played.count(4) == 1 and max(player.played) <= 7
    assert not summary.permanent and not summary.passing
    player = Player()
    assert run(tmp_path, player).status() is ExitStatus.COMPLETE
    assert 4 in player.played and len(player.played) + len(summary.done) == 12


def test_a_server_that_refuses_every_pair_is_no_reason_to_give_the_pairs_up(tmp_path: Path) -> None:
    jobs = make_jobs(40)
    player = Player({number: [refused()] * 9 for number in range(5, 40)})
    summary = run(tmp_path, player, jobs=jobs)
    assert summary.status() is ExitStatus.UNUSABLE and "no such field" in summary.stopped
    assert not summary.permanent and len(summary.done) == 5
    assert run(tmp_path, Player(), jobs=jobs).status() is ExitStatus.COMPLETE


def test_a_server_that_refuses_one_pair_gives_it_up(tmp_path: Path) -> None:
    for where, last in (("middle", 5), ("end", 11)):
        player = Player({last: [refused()] * 9})
        (tmp_path / where).mkdir()
        summary = run(tmp_path / where, player)
        assert player.played.count(last) == 1
        assert [record.uid for record in summary.permanent] == [f"pair-{last:02d}"]


def test_broken_videos_in_a_row_do_not_accuse_the_server(tmp_path: Path) -> None:
    jobs = make_jobs(50)
    player = Player({number: [broken()] for number in range(45)})
    summary = run(tmp_path, player, jobs=jobs)
    assert summary.stopped is None and summary.status() is ExitStatus.TOO_MANY_FAILED
    assert len(player.played) == 50


def test_everybody_waits_as_long_as_the_server_asks(tmp_path: Path) -> None:
    starts: list[float] = []

    class Timed(Player):
        async def __call__(self, job: Job) -> EpisodeRecord:
            starts.append(time.monotonic())
            return await super().__call__(job)

    player = Timed({0: [passing(retry_after_s=0.3)]})
    run(tmp_path, player, RunLimits(1, retry_delay_s=0.001))
    assert player.played[:2] == [0, 0] and starts[1] - starts[0] >= 0.3


def test_a_wait_that_is_too_long_is_left_for_a_later_run(tmp_path: Path) -> None:
    limits = RunLimits(1, retry_delay_s=0.001, max_wait_s=0.05)
    player = Player({0: [passing(retry_after_s=3600)]})
    start = time.monotonic()
    summary = run(tmp_path, player, limits)
    assert player.played.count(0) == 1 and time.monotonic() - start < 30
    assert summary.status() is ExitStatus.INCOMPLETE


def test_episodes_start_at_the_given_pace(tmp_path: Path) -> None:
    start = time.monotonic()
    run(tmp_path, Player(), RunLimits(8, max_episodes_per_minute=60 * 50))
    assert time.monotonic() - start >= 11 * 0.02 * 0.9


def test_a_mistake_of_ours_is_raised_and_stops_the_others(tmp_path: Path) -> None:
    player = Player({4: [ZeroDivisionError()]})
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, player)
    with Journal(tmp_path / "journal.jsonl") as journal:
        assert len(journal.records) < 12 and not journal.damaged


def test_damaged_lines_do_not_count_and_are_said(tmp_path: Path) -> None:
    run(tmp_path, Player())
    path = tmp_path / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0\0\0\n" + b"".join(lines[2:-1]) + lines[-1][:50])
    player = Player()
    summary = run(tmp_path, player)
    assert len(player.played) == 2 and summary.status() is ExitStatus.COMPLETE
    assert len(summary.damaged) == 2 and "line 2" in summary.damaged[1]
    assert "2 damaged lines of the journal do not count" in "\n".join(summary.lines())


def test_two_jobs_of_one_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two jobs have the same key: .'pair-00 AB'"):
        run(tmp_path, Player(), jobs=[JOBS[0], JOBS[0]])


def test_records_of_other_jobs_are_left_out(tmp_path: Path) -> None:
    run(tmp_path, Player())
    with Journal(tmp_path / "journal.jsonl") as journal:
        summary = read_summary(JOBS[:3], journal)
    assert len(summary.records) == 3 and list_waiting(summary) == []


def test_nothing_to_do_is_complete(tmp_path: Path) -> None:
    assert run(tmp_path, Player(), jobs=[]).status() is ExitStatus.COMPLETE


def test_a_full_disk_is_said_and_costs_no_finished_episode(tmp_path: Path, monkeypatch) -> None:
    run(tmp_path, Player(), jobs=JOBS[:4])
    whole = (tmp_path / "journal.jsonl").read_bytes()

    def write_half(descriptor: int, content: bytes) -> int:
        if len(content) < 100:
            raise OSError(28, "No space left on device")
        return real(descriptor, content[: len(content) // 2])

    real = os.write
    monkeypatch.setattr("verl_videosearch.runs.folder.os.write", write_half)
    with pytest.raises(RunFolderError, match="disk is full: free some space"):
        run(tmp_path, Player())
    monkeypatch.undo()
    assert (tmp_path / "journal.jsonl").read_bytes() == whole
    assert len(run(tmp_path, Player()).done) == 12


@pytest.mark.parametrize(
    "wrong",
    [{"concurrency": 0}, {"max_tries": 0}, {"retry_delay_s": -1}, {"max_episodes_per_minute": 0}],
    ids=str,
)
def test_wrong_limits_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RunLimits(**wrong)


def test_a_log_gets_a_line_now_and_then() -> None:
    clock = iter(range(0, 10_000, 25))
    console = Console(file=StringIO(), width=40)
    with LoggedProgress(console=console, get_time=lambda: next(clock)) as bar:
        task = bar.add_task("[episodes]", total=1200, figures="right 50.0 % (1/2)")
        for _ in range(6):
            bar.update(task, advance=200)
    lines = console.file.getvalue().splitlines()
    assert 1 < len(lines) <= 7, lines
    time = r"0:\d\d:\d\d"
    line = rf"\[episodes\]: [\d,]+ of 1,200 done, {time} gone, {time} left, right 50.0 % \(1/2\)"
    assert re.fullmatch(line, lines[1])


@pytest.mark.parametrize(("num_at_once", "every_s"), [(1, 40), (8, 61), (1, 700)])
def test_the_time_left_is_told_of_slow_and_of_bursty_runs(num_at_once: int, every_s: int) -> None:
    now = [0.0]
    console = Console(file=StringIO(), width=200)
    with LoggedProgress(console=console, get_time=lambda: now[0]) as bar:
        task = bar.add_task("pairs", total=80, figures="")
        for step in range(1, 7):
            now[0] = step * every_s
            for _ in range(num_at_once):
                bar.advance(task)
                now[0] += 0.1
    assert " left" in console.file.getvalue().splitlines()[2]


def test_a_bar_that_knows_no_total_counts() -> None:
    console = Console(file=StringIO(), width=200)
    with LoggedProgress(console=console, line_every_s=0) as bar:
        bar.advance(bar.add_task("pairs", total=None, figures=""))
    assert console.file.getvalue().startswith("pairs: 1 done")


def test_items_are_tracked_and_a_terminal_gets_a_bar_alone() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=80)
    assert list(track([1, 2, 3], "pairs", console=console)) == [1, 2, 3]
    assert "3/3" in console.file.getvalue() and "done" not in console.file.getvalue()
    assert list(track(iter("ab"), "pairs", 2, Console(file=StringIO()))) == ["a", "b"]


def test_the_bar_shows_how_many_are_right(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        console = Console(file=StringIO(), force_terminal=True, width=200)
        with show_progress("episodes", read_summary(JOBS, journal), console) as on_record:
            player = Player({2: [broken()]})
            asyncio.run(run_jobs(JOBS, player, journal, QUICK, on_record=on_record))
        text = console.file.getvalue()
    assert "12/12" in text and "right 100.0 % (11/11), failed 1" in text
