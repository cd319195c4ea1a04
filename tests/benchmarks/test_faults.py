"""The short form of `make fuzz`, and that each trial notices a fault when there is one."""

import socket
from collections.abc import Iterable
from pathlib import Path

import pytest

from benchmarks.faults import films, replies, samples, servers
from benchmarks.faults.tally import End, Outcome, State, Tally, Trial, is_clean, run_trial


def list_bad(outcomes: Iterable[Outcome]) -> list[str]:
    state = State(0)
    for outcome in outcomes:
        state.kinds.setdefault(outcome.kind, Tally()).add(outcome)
    assert state.kinds, "nothing was tried"
    return [] if is_clean(state) else [str(tally.examples) for tally in state.kinds.values()]


def test_replies() -> None:
    assert not list_bad(replies.run(1, 1, 600))
    assert not list_bad(replies.measure_growth(2**14, 2**16))


def test_two_verdicts_for_one_text_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "is_finished", lambda text, thought: True)
    assert list_bad(replies.run(1, 1, 60))


def test_samples(tmp_path: Path) -> None:
    assert samples.NUM_KINDS >= 174
    assert not list_bad(samples.try_fault(each, tmp_path) for each in samples.list_faults())


def test_a_file_that_is_read_though_it_is_malformed_is_noticed(tmp_path: Path) -> None:
    fault = samples.list_faults()[0]._replace(read=lambda path: [])
    assert samples.try_fault(fault, tmp_path).end is End.WRONG


def test_films() -> None:
    assert not list_bad(films.run(1, 0, 40))


def test_baits_see_who_comes(tmp_path: Path) -> None:
    baits = films.Baits(tmp_path / "baits")
    assert baits.list_visits() == []
    (tmp_path / "baits" / "secret.txt").read_bytes()
    assert "a bait was opened" in baits.list_visits()[0]
    port = int(baits.names[-1].split(":")[-1].split("/")[0])
    socket.create_connection(("127.0.0.1", port)).close()
    assert baits.list_visits() == ["a bait's address was called"]
    baits.close()


@pytest.mark.slow_start
def test_servers() -> None:
    assert not list_bad(servers.run(1, 1, 40))


def test_wordings() -> None:
    assert not list_bad(servers.try_wordings())


def test_a_trial_goes_on_where_it_was(tmp_path: Path) -> None:
    asked: list[int] = []

    def run(seed: int, first: int, count: int) -> Iterable[Outcome]:
        asked.extend(range(first, first + count))
        yield Outcome("a", End.LOST if first == 4 else End.HANDLED, "why", count)
        if len(asked) == 6:
            raise KeyboardInterrupt

    trial, path = Trial("t", run, 2, 8, 8), tmp_path / "t.json"
    with pytest.raises(KeyboardInterrupt):
        run_trial(trial, 8, 0, path)
    state = run_trial(trial, 8, 0, path)
    assert asked == [0, 1, 2, 3, 4, 5, 4, 5, 6, 7]
    assert (state.num_done, state.kinds["a"].tried, state.kinds["a"].lost) == (8, 8, 2)
    assert not is_clean(state)
    with pytest.raises(ValueError, match="seed 0, got 1"):
        run_trial(trial, 8, 1, path)
