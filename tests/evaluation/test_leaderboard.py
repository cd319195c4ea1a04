"""A comparison as files: leaderboards that are read back, plots of equal bytes."""

import csv
import io

import pytest

from tests.evaluation.test_figures import GOLD, judge, label_samples
from verl_videosearch.evaluation.comparison import Comparison, compare_judges
from verl_videosearch.evaluation.pages.comparison_plots import draw_comparison
from verl_videosearch.evaluation.pages.leaderboard import escape_latex, write_leaderboard


@pytest.fixture
def comparison() -> Comparison:
    orders = [dict(zip(GOLD, verdicts, strict=True)) for verdicts in ([1, 2, 0, 1, 2, 1],) * 2]
    judges = [judge("weak_50%", 1, 1, 1, 1), judge("a|b$", 1, 2, 0, 1, 2, 1, orders=orders)]
    return compare_judges(judges, label_samples(GOLD))


def test_the_csv_has_every_figure(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(write_leaderboard(comparison)["leaderboard.csv"])))
    assert [row["judge"] for row in rows][:2] == ["a|b$", "weak_50%"]
    best, weak = rows[:2]
    assert (best["with_ties"], best["with_ties_correct"], best["with_ties_total"]) == (
        "1.0",
        "5",
        "5",
    )
    assert float(best["with_ties_low"]) == pytest.approx(0.5655, abs=1e-3)
    assert best["published_with_ties_total"] == "10" and weak["published_with_ties"] == ""
    assert (weak["missing"], weak["unreadable"]) == ("2", "0")
    assert {row["judge"] for row in rows[2:]} == {"majority class", "always tie", "random"}


def test_markdown_and_latex_show_names_as_they_are(comparison: Comparison) -> None:
    files = write_leaderboard(comparison)
    assert "| a\\|b$ | 100.0 [56.6, 100.0] |" in files["leaderboard.md"]
    assert r"weak\_50\% & 40.0" in files["leaderboard.tex"]
    assert r"a|b\$ & 100.0" in files["leaderboard.tex"]
    assert files["leaderboard.tex"].count(r" \\") == 6
    assert escape_latex("\x1b{x}\\") == r"\textbackslash{}x1b\{x\}\textbackslash{}"


def test_plots_have_equal_bytes(comparison: Comparison) -> None:
    pytest.importorskip("matplotlib")
    first, second = draw_comparison(comparison), draw_comparison(comparison)
    assert first == second and set(first) == {
        f"accuracy_{name}.{kind}"
        for name in ("with_ties", "without_ties")
        for kind in ("svg", "png")
    }
    assert b"<dc:date>" not in first["accuracy_with_ties.svg"]
    assert first["accuracy_with_ties.png"].startswith(b"\x89PNG")
