"""Strengths, intervals and cycles are those of the comparisons; the schedule finds the order
early."""

import math
from itertools import combinations

import numpy as np
import pytest

from verl_videosearch.judge.ranking import (
    PairResult,
    Ranking,
    Winner,
    choose_pairs,
    find_cycles,
    fit_ranking,
    win_probabilities,
)

WINNERS = {1: Winner.FIRST, 0: Winner.TIE, -1: Winner.SECOND}
Answers = dict[tuple[int, int], int]


def win(first: int, second: int) -> PairResult:
    return PairResult(first, second, Winner.FIRST)


def tau_b(a: list[float], b: list[float]) -> float:
    """Kendall's tau-b, by its definition."""
    pairs = list(combinations(range(len(a)), 2))
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in pairs]
    num_a, num_b = (sum(each[k] != 0 for each in signs) for k in (0, 1))
    return float(sum(x * y for x, y in signs)) / math.sqrt(num_a * num_b)


def test_a_chain_of_wins_is_an_order() -> None:
    ranking = fit_ranking(4, [win(0, 1), win(1, 2), win(2, 3)])
    assert ranking.order == (0, 1, 2, 3)
    assert ranking.strengths[0] == pytest.approx(-ranking.strengths[3], abs=1e-6)
    assert sum(ranking.strengths) == pytest.approx(0, abs=1e-9)


def test_nothing_compared_is_all_equal_and_wide_open() -> None:
    ranking = fit_ranking(3, [])
    assert ranking.ranks == (1, 1, 1) and ranking.win_rates == (0.5, 0.5, 0.5)
    low, high = ranking.intervals[0]
    assert low == -high and high > 2


def test_ties_make_equals() -> None:
    tied = fit_ranking(2, [PairResult(0, 1, Winner.TIE)] * 3)
    assert tied.ranks == (1, 1) and tied.ties > fit_ranking(2, [win(0, 1), win(1, 0)]).ties


def test_who_stands_first_does_not_matter() -> None:
    results = [win(0, 1), win(2, 1), PairResult(0, 2, Winner.TIE)]
    turned = {Winner.FIRST: Winner.SECOND, Winner.SECOND: Winner.FIRST, Winner.TIE: Winner.TIE}
    swapped = [PairResult(r.second, r.first, turned[r.winner]) for r in reversed(results)]
    assert fit_ranking(3, results).strengths == pytest.approx(fit_ranking(3, swapped).strengths)


def test_a_weight_counts_like_so_many_comparisons() -> None:
    heavy = fit_ranking(2, [PairResult(0, 1, Winner.FIRST, weight=3)])
    assert heavy.strengths == pytest.approx(fit_ranking(2, [win(0, 1)] * 3).strengths)
    light = fit_ranking(2, [PairResult(0, 1, Winner.FIRST, weight=0.5)])
    assert light.strengths[0] < fit_ranking(2, [win(0, 1)]).strengths[0]


def test_the_model_of_many_comparisons_is_found_again() -> None:
    rng = np.random.default_rng(5)
    truth, ties = np.array([1.0, 0.4, 0.0, -0.4, -1.0]), 0.3
    results = []
    for i, j in combinations(range(5), 2):
        p = win_probabilities(truth[i] - truth[j], ties)
        results += [PairResult(i, j, list(WINNERS.values())[k]) for k in rng.choice(3, 400, p=p)]
    ranking = fit_ranking(5, results)
    assert list(ranking.strengths) == pytest.approx(list(truth), abs=0.25)  # 4 standard errors
    assert ranking.ties == pytest.approx(ties, abs=0.1)
    inside = [low <= t <= high for t, (low, high) in zip(truth, ranking.intervals, strict=True)]
    assert sum(inside) >= 4 and all(high - low < 0.4 for low, high in ranking.intervals)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng, inside = np.random.default_rng(1), []
    for _ in range(60):
        truth = rng.normal(0, 1, 6)
        truth -= truth.mean()
        results = []
        for i, j in [*combinations(range(6), 2)] * 3:
            p = win_probabilities(truth[i] - truth[j], 0.0)
            results.append(PairResult(i, j, list(WINNERS.values())[rng.choice(3, p=p)]))
        intervals = fit_ranking(6, results).intervals
        inside += [low <= t <= high for t, (low, high) in zip(truth, intervals, strict=True)]
    assert 0.90 <= np.mean(inside) <= 0.99


def test_the_order_is_that_of_a_library() -> None:
    evalica = pytest.importorskip("evalica", reason="oracle of the ranking; pip install evalica")
    rng = np.random.default_rng(2)
    pairs = [tuple(int(i) for i in rng.choice(6, 2, replace=False)) for _ in range(300)]
    results = [
        PairResult(i, j, WINNERS[int(rng.choice([1, -1, 0], p=[0.6, 0.3, 0.1]))]) for i, j in pairs
    ]
    words = {
        Winner.FIRST: evalica.Winner.X,
        Winner.SECOND: evalica.Winner.Y,
        Winner.TIE: evalica.Winner.Draw,
    }
    scores = evalica.bradley_terry(
        [f"{r.first}" for r in results],
        [f"{r.second}" for r in results],
        [words[r.winner] for r in results],
    ).scores
    theirs = [float(np.log(scores[f"{i}"])) for i in range(6)]
    ours = list(fit_ranking(6, results).strengths)
    assert np.corrcoef(theirs, ours)[0, 1] > 0.99 and tau_b(theirs, ours) == 1


@pytest.mark.parametrize(
    ("wins", "cycles"),
    [
        ([(0, 1), (1, 2), (0, 2)], ()),
        ([(0, 1), (1, 2), (2, 0)], ((0, 1, 2),)),
        ([(0, 1), (1, 0)], ()),  # one each is no circle
        ([(0, 1), (1, 2), (2, 3), (3, 0), (1, 3)], ((0, 1, 3),)),
        ([(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3), (0, 3)], ((0, 1, 2), (3, 4, 5))),
    ],
)
def test_cycles(wins: list[tuple[int, int]], cycles: tuple[tuple[int, ...], ...]) -> None:
    assert find_cycles(6, [win(i, j) for i, j in wins]) == cycles


def test_pairs_are_chosen_once_and_no_clip_twice_at_a_time() -> None:
    chosen = choose_pairs(6, [], 9)
    assert len(chosen) == 3 and len({clip for pair in chosen for clip in pair}) == 6
    results = [win(i, j) for i, j in combinations(range(4), 2)]
    assert choose_pairs(4, results, 5) == []
    assert choose_pairs(3, [win(0, 1)], 5, skipped=[(0, 2)]) == [(1, 2)]


@pytest.mark.parametrize("wrong", [(0, 0), (-1, 2), (0, 3)])
def test_a_comparison_of_no_two_clips_is_refused(wrong: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="clip"):
        fit_ranking(3, [win(*wrong)])


def ask_judge(seed: int, kind: str, num_clips: int = 8) -> Answers:
    """Return the verdicts of a judge that is right in 85 % of the pairs: `flat`, the same for every
    pair; `near`, mostly wrong about neighbours; `orders`, an order, and a tie where they differ."""
    rng = np.random.default_rng(seed)
    quality = rng.permutation(num_clips)
    answers = {}
    for i, j in combinations(range(num_clips), 2):
        right, distance = (1 if quality[i] > quality[j] else -1), abs(quality[i] - quality[j])
        accuracy = 1 / (1 + math.exp(-0.74 * distance)) if kind == "near" else 0.85
        votes = [right if rng.random() < accuracy else -right for _ in range(2)]
        answers[i, j] = votes[0] if kind != "orders" or votes[0] == votes[1] else 0
    return answers


def play(answers: Answers, num_clips: int, budget: int) -> Ranking:
    results: list[PairResult] = []
    while len(results) < budget:
        for pair in choose_pairs(num_clips, results, 1):
            results.append(PairResult(*pair, WINNERS[answers[pair]]))
    return fit_ranking(num_clips, results)


def agree_with_all_pairs(kind: str, seeds: range) -> float:
    """Mean tau-b over groups of 8: 16 chosen comparisons against all 28."""
    taus = []
    for seed in seeds:
        answers = ask_judge(seed, kind)
        full = np.zeros(8)
        for (i, j), answer in answers.items():
            full[[i, j]] += answer, -answer
        taus.append(tau_b(list(np.round(play(answers, 8, 16).strengths, 6)), list(full)))
    return float(np.mean(taus))


def test_the_near_judge_is_right_in_85_per_cent() -> None:
    rates = [(8 - d, 1 / (1 + math.exp(-0.74 * d))) for d in range(1, 8)]
    assert sum(n * p for n, p in rates) / 28 == pytest.approx(0.85, abs=0.01)


@pytest.mark.parametrize(
    ("kind", "num_groups", "least"), [("near", 40, 0.85), ("orders", 40, 0.82), ("flat", 200, 0.8)]
)
def test_16_of_28_comparisons_nearly_give_the_full_tournament(
    kind: str, num_groups: int, least: float
) -> None:
    """One group's tau-b deviates by about 0.15, so the mean of 200 by 0.01."""
    assert agree_with_all_pairs(kind, range(num_groups)) >= least


def test_all_pairs_give_the_round_robin() -> None:
    answers = ask_judge(3, "flat")
    full = np.zeros(8)
    for (i, j), answer in answers.items():
        full[[i, j]] += answer, -answer
    assert tau_b(list(np.round(play(answers, 8, 28).strengths, 6)), list(full)) == pytest.approx(1)
