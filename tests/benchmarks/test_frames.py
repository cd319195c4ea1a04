"""The targets of `benchmarks.frames`, and its tables."""

import pytest

from benchmarks.frames.tables import print_table
from benchmarks.frames.targets import judge_call, judge_cold, judge_group
from benchmarks.frames.ways import Cost


def test_targets_of_frames_are_of_the_best_rival() -> None:
    costs = {
        "floor": Cost(1, 1),
        "ours": Cost(3, 3),
        "PyAV": Cost(90, 120),
        "OpenCV": Cost(60, 200),
    }
    (call_ms, ratio), (cold,) = judge_call(costs, "clip"), judge_cold(costs, "clip")
    assert call_ms.is_met and ratio.figure == 20 and ratio.is_met
    assert cold.figure == pytest.approx(0.05) and "MISSED" not in str(cold)
    slow = costs | {"ours": Cost(5, 5)}
    assert [each.is_met for each in judge_call(slow, "clip")] == [False, False]
    assert "MISSED" in str(judge_call(slow, "clip")[0])


def test_targets_of_a_group_are_of_cpu() -> None:
    costs = {
        "ours, warm": Cost(1, 10),
        "ours, cold": Cost(1, 60),
        "authors' way, PyAV": Cost(1, 250),
        "per call, PyAV": Cost(1, 20),
    }
    cold, warm = judge_group(costs, "clip")
    assert not cold.is_met and warm.figure == 25 and warm.is_met


def test_a_missing_rival_stands_in_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Cold", [], {"decord2": "decord2 is not installed"})
    assert "| all | decord2 | decord2 is not installed | | |" in capsys.readouterr().out
