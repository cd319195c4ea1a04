"""What a perfect judge gets right on the pairs of each mix, by its calls."""

import pytest
from verl_videosearch.data_prep.hide_and_seek.profile import LOOKS_SHARES
from verl_videosearch.recipes.bounds import describe_optimum, solve_pairs

from tests.recipes.test_rows import make_sample


def make_pairs(profile: str, **counts: int) -> list:
    samples = [make_sample(name, pair_type=name) for name, n in counts.items() for _ in range(n)]
    for sample in samples:
        sample.meta["profile"] = profile
    return samples


def test_pairs_of_one_look() -> None:
    rows = describe_optimum(make_pairs("tiny", hidden=40, tie=20, visible=20, decoy=20))
    assert {name: row["overall"]["accuracy"] for name, row in rows.items()} == {
        "no_search": pytest.approx(0.4),
        "one_call": pytest.approx(1.0),
    }


def test_pairs_of_two_looks() -> None:
    """The figures of the data card, whatever the pairs' number."""
    counts = {name: round(50 * share) for name, share in LOOKS_SHARES.items()}
    rows = describe_optimum(make_pairs("looks", **counts))
    figures = {name: row["overall"]["accuracy"] for name, row in rows.items()}
    assert figures == pytest.approx(
        {"no_search": 0.498, "one_call": 0.727, "two_calls": 1}, abs=1e-3
    )
    one = rows["one_call"]["by_type"]
    assert one["both_hidden"]["accuracy"] == pytest.approx(6 / 11)
    assert one["tie"]["accuracy"] == one["hidden"]["accuracy"] == pytest.approx(1)


def test_the_shares_are_those_of_the_pairs() -> None:
    [at_first, *_] = solve_pairs(make_pairs("tiny", hidden=1, tie=3))
    assert at_first["hidden"] == at_first["tie"] == pytest.approx(3 / 4)


def test_where_a_look_may_miss_only_the_first_sight_is_known() -> None:
    assert list(describe_optimum(make_pairs("paper", hidden=4, tie=2))) == ["no_search"]
