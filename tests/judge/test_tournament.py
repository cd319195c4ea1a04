"""A tournament spends its budget on new pairs only, and says what it could not compare."""

import asyncio

import pytest

from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.judge.ranking import PairResult, Winner
from verl_videosearch.judge.tournament import (
    CompareFn,
    TournamentConfig,
    TournamentResult,
    play_tournament,
)


def judge_by_number(asked: list[tuple[int, int]]) -> CompareFn:
    """Prefer the lower number."""

    async def compare(first: int, second: int) -> PairResult:
        asked.append((first, second))
        await asyncio.sleep(0)
        return PairResult(first, second, Winner.FIRST if first < second else Winner.SECOND)

    return compare


def run(num_clips: int, compare: CompareFn, *args: object, **more: object) -> TournamentResult:
    return asyncio.run(play_tournament(num_clips, compare, *args, **more))


def test_without_a_budget_every_pair_is_compared_once() -> None:
    asked: list[tuple[int, int]] = []
    result = run(5, judge_by_number(asked))
    assert len(asked) == len({frozenset(pair) for pair in asked}) == 10 == result.num_new
    assert result.ranking.order == (0, 1, 2, 3, 4) and result.ranking.ranks == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_budget_is_kept(concurrency: int) -> None:
    asked: list[tuple[int, int]] = []
    run(8, judge_by_number(asked), TournamentConfig(16, concurrency))
    assert len(asked) == 16


def test_one_more_clip_costs_only_pairs_with_it() -> None:
    first = run(6, judge_by_number([]))
    asked: list[tuple[int, int]] = []
    run(7, judge_by_number(asked), known=first.results)
    assert len(asked) == 6 and all(6 in pair for pair in asked)
    run(6, judge_by_number(repeated := []), known=first.results)
    assert repeated == []


def test_pairs_that_fail_or_say_nothing_are_named_and_not_asked_again() -> None:
    asked = []

    async def compare(first: int, second: int) -> PairResult | None:
        asked.append((first, second))
        if first == 0 and second == 1:
            raise EpisodeFailure(FailureKind.VIDEO, "cut short")
        return None if (first, second) == (0, 2) else PairResult(first, second, Winner.FIRST)

    result = run(4, compare)
    assert len(asked) == 6
    assert [pair[:2] for pair in result.failed] == [(0, 1)] and result.undecided == ((0, 2),)
    assert result.ranking.num_comparisons == 4


def test_a_tournament_of_failures_is_a_failure() -> None:
    async def compare(first: int, second: int) -> PairResult:
        raise EpisodeFailure(FailureKind.SERVER, "away")

    with pytest.raises(EpisodeFailure, match="away"):
        run(3, compare)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_what_fails_in_passing_is_asked_once_more(concurrency: int) -> None:
    asked: list[tuple[int, int]] = []
    steps: list[None] = []

    async def compare(first: int, second: int) -> PairResult:
        asked.append((first, second))
        times = asked.count((first, second))
        if (first, second) == (0, 1) and times == 1:
            raise EpisodeFailure(FailureKind.SERVER, "busy")
        if (first, second) == (0, 2):
            raise EpisodeFailure(FailureKind.SERVER, "still away")
        if (first, second) == (1, 2):
            raise EpisodeFailure(FailureKind.VIDEO, "cut short", is_passing=False)
        return PairResult(first, second, Winner.FIRST)

    config = TournamentConfig(concurrency=concurrency)
    result = run(4, compare, config, on_comparison=lambda: steps.append(None))
    assert [asked.count(pair) for pair in ((0, 1), (0, 2), (1, 2), (2, 3))] == [2, 2, 1, 1]
    assert {pair[:2] for pair in result.failed} == {(0, 2), (1, 2)}
    assert result.ranking.num_comparisons == 4 and result.num_new == 6 == len(steps)


def test_pairs_known_to_have_no_verdict_are_not_bought_again() -> None:
    asked: list[tuple[int, int]] = []
    undecided = [(0, 1), (2, 3)]
    result = run(4, judge_by_number(asked), TournamentConfig(3, 1), known_undecided=undecided)
    assert result.num_new == len(asked) == 3 and not {*asked} & {*undecided}
    assert result.undecided == tuple(undecided)


def test_clips_that_no_result_is_about_can_be_told() -> None:
    result = run(6, judge_by_number([]), TournamentConfig(2, 1))
    assert sorted(result.nums_compared) in ([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 1, 1])
    assert run(2, judge_by_number([])).nums_compared == (1, 1)
