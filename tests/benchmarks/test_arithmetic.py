"""The arithmetic of benchmark programs, without timing anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import data, growth, rank
from benchmarks.growth import fit_exponent


def test_a_judge_is_right_in_85_per_cent() -> None:
    rng = np.random.default_rng(0)
    for kind in rank.JUDGES:
        right = []
        for _ in range(200):
            group = rank.draw_group(8, kind, rng)
            for (i, j), winner in group.answers.items():
                is_first = group.quality[i] > group.quality[j]
                right.append((winner is rank.Winner.FIRST) == is_first)
        assert np.mean(right) == pytest.approx(rank.ACCURACY, abs=0.02)


def test_a_judge_that_never_errs_needs_fewer_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "ACCURACY", 1.0)
    group = rank.draw_group(8, "flat", np.random.default_rng(1))
    curve = rank.play_chosen(group)
    assert len(curve) == 28 and curve[-1] == pytest.approx(1.0)
    assert rank.find_enough(curve) < 20


def test_exponents_of_known_curves() -> None:
    assert fit_exponent([500, 2000, 8000], [5, 20, 80]) == pytest.approx(1.0)
    assert fit_exponent([500, 2000, 8000], [5, 80, 1280]) == pytest.approx(2.0)


def test_steps_that_grow_too_fast_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    def cost(seconds: float) -> tuple[float, float, float]:
        return seconds, seconds, 0.1

    found = {n: {"good": cost(n), "bad": cost(n**1.5)} for n in (1, 4, 16)}
    assert growth.print_sizes(found) == ["bad"]
    assert "1.50 (!)" in capsys.readouterr().out


def test_all_steps_run_on_few_rows(tmp_path: Path) -> None:
    steps = growth.run_steps(tmp_path, 60).steps
    assert set(growth.NEEDED) <= set(steps)


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_shares_are_whole(num_workers: int) -> None:
    shares = data.share_out(7, num_workers)
    assert [item for share in shares for item in share] == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
