"""What `benchmarks.sft` makes of a clock's figures."""

from __future__ import annotations

import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("verl")

from benchmarks import sft
from benchmarks.sft_clock import Clock, watch_loader


def make_run(step_s: float, losses: tuple[float, ...]) -> sft.Run:
    step = {"step": [step_s, step_s], "forward and backward": [0.1, 0.1], "forward": [0.04, 0.04]}
    figures = {
        "steps": [step] * len(losses),
        "losses": losses,
        "tokens": [100] * len(losses),
        "loader_cpu_s": [0.1 * number for number in range(len(losses))],
        "at_start_s": [2.0, 1.0],
    }
    return sft.summarise(figures, 1)


def test_parts_add_up_to_the_step() -> None:
    run = make_run(0.2, (7.0, 6.0, 5.0))
    assert sum(run.cpu_s[part] for part in sft.PARTS) == pytest.approx(run.cpu_s["step"])
    assert run.cpu_s["backward"] == pytest.approx(0.06)
    assert run.cpu_s["loader"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("step_s", "losses", "is_well"),
    [(0.1, (7.0, 6.0, 5.0), True), (0.2, (7.0, 6.0, 5.0), False), (0.1, (7.0, 6.0, 5.1), False)],
)
def test_faster_counts_only_at_equal_losses(
    step_s: float, losses: tuple[float, ...], is_well: bool
) -> None:
    before = make_run(0.21, (7.0, 6.0, 5.0))
    assert sft.compare({"before": before, "ours": make_run(step_s, losses)}) is is_well


def test_runs_of_different_length_are_not_compared() -> None:
    with pytest.raises(ValueError, match="steps"):
        sft.compare_losses([1.0], [1.0, 2.0])


def test_the_clock_makes_a_row_a_step() -> None:
    clock = Clock()
    for _ in watch_loader(clock)([1, 2, 3]):
        clock.time("forward", lambda: None)()
    assert len(clock.steps) == 3
    assert all({"step", "forward", "waiting for rows"} <= set(step) for step in clock.steps)
