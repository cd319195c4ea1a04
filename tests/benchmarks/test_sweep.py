"""The sweep of ablations with a pipeline that only pretends: what is run, shared, kept, shown."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from benchmarks.sweep import __main__ as program
from benchmarks.sweep import runner
from benchmarks.sweep.finished import read_rows
from benchmarks.sweep.random_frames import RandomFrames
from benchmarks.sweep.runner import Sweep
from benchmarks.sweep.table import make_memory_table, make_table
from benchmarks.sweep.variants import COLD_START, PAIRS, RFT, VARIANTS
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.tool import CallContext

APP = typer.Typer()
APP.command()(program.main)
TIER_1 = [variant for variant in VARIANTS.values() if variant.tier == 1]


def describe_judge(right: float) -> dict[str, Any]:
    types = {"hidden": right, "both_hidden": right}
    return {
        "overall": {"accuracy": right},
        "by_type": {name: {"accuracy": share} for name, share in types.items()},
        "calls_by_type": {"hidden": 1.0, "both_hidden": 2.0},
        "calls": 1.5,
        "hit_rate": None,
    }


class FakePipeline:
    """Leaves what a pipeline leaves: each row is worse than the base, alike for every seed."""

    def __init__(self, fails: tuple[str, ...] = ()) -> None:
        self.calls: list[tuple[str, str]] = []
        self.settings: dict[str, Mapping[str, str]] = {}
        self.fails = fails

    def __call__(self, folder: Path, settings: Mapping[str, str]) -> int:
        name = f"{folder.name} {settings['SEED']}"
        self.calls.append((folder.name, settings["SEED"]))
        self.settings[name] = settings
        if folder.name in self.fails:
            return 1
        for model in ("start", "cold_start", "rft", "grpo"):
            path = folder / "models" / model / "model.safetensors"
            if not path.parent.exists():
                path.parent.mkdir(parents=True)
                path.write_text(f"{model} {folder.name} {settings['SEED']}")
        for shared in RFT:
            (folder / shared).mkdir(parents=True, exist_ok=True)
        right = 0.9 + 0.01 * int(settings["SEED"]) - (0.2 if folder.name != "base" else 0)
        memory = {
            "all": {"accuracy": {"value": right}},
            "both_hidden": {"accuracy": {"value": 0.5}},
        }
        results = {
            "stages": {name: describe_judge(right) for name in ("rft", "grpo")},
            "sampled": {name: describe_judge(right - 0.1) for name in ("rft", "grpo")},
            "controls": {"majority": {"overall": {"accuracy": 0.4}}},
            "memory": {
                "run": memory,
                "emptied": memory | {"both_hidden": {"accuracy": {"value": 0.2}}},
            },
        }
        (folder / "results.json").write_text(json.dumps(results))
        (folder / "logs").mkdir(exist_ok=True)
        (folder / "logs/times.jsonl").write_text('{"stage": "grpo", "seconds": 90}\n')
        return 0


def make_sweep(tmp_path: Path, **changes: Any) -> tuple[Sweep, list[str]]:
    said: list[str] = []
    settings = {"variants": TIER_1, "seeds": [0, 1, 2], "say": said.append} | changes
    return Sweep(tmp_path / "out", "looks", rows=tmp_path / "rows", **settings), said


def test_every_row_is_run_once_and_kept(tmp_path: Path) -> None:
    sweep, _ = make_sweep(tmp_path)
    pipeline = FakePipeline()
    assert sweep.run(pipeline) == 0
    names = [variant.name for variant in TIER_1]
    assert sorted(pipeline.calls) == sorted((name, str(s)) for name in names for s in range(3))
    for seed in "012":  # within a seed, the base comes first
        assert [name for name, own in pipeline.calls if own == seed] == names
    rows = read_rows("looks", tmp_path / "rows")
    assert [(row.row, row.seed) for row in rows] == sorted((n, s) for n in names for s in range(3))
    assert rows[0].minutes == 1.5 and rows[0].settings["TRACES"] == "--cued-gap 1"
    again = FakePipeline()
    assert make_sweep(tmp_path)[0].run(again) == 0 and again.calls == []


def test_what_is_shared_is_linked_and_not_made_again(tmp_path: Path) -> None:
    sweep, _ = make_sweep(tmp_path, seeds=[0])
    sweep.run(FakePipeline())
    seed = tmp_path / "out/seed-0"
    for name, shared in (("window-null", PAIRS), ("e-no-gain", RFT)):
        assert all((seed / name / each).is_symlink() for each in shared), name
    assert not (seed / "window-null/models/cold_start").is_symlink()
    assert not (seed / "e-no-gain/models/grpo").is_symlink()
    rows = {row.row: row for row in read_rows("looks", tmp_path / "rows")}
    assert rows["e-no-gain"].start == rows["base"].start == rows["c-random-frames"].start
    assert len({rows[name].start for name in ("base", "b-no-rft", "window-null")}) == 3
    assert not set(PAIRS) - set(COLD_START) and not set(COLD_START) - set(RFT)


def test_a_row_that_fails_is_tried_by_the_same_command(tmp_path: Path) -> None:
    sweep, said = make_sweep(tmp_path, seeds=[0])
    assert sweep.run(FakePipeline(fails=("e-no-gain",))) == 1
    assert any(line.startswith("e-no-gain, seed 0: failed; the same command") for line in said)
    pipeline = FakePipeline()
    assert make_sweep(tmp_path, seeds=[0])[0].run(pipeline) == 0
    assert pipeline.calls == [("e-no-gain", "0")]


def test_nothing_is_compared_with_a_base_that_failed(tmp_path: Path) -> None:
    sweep, said = make_sweep(tmp_path, seeds=[0])
    pipeline = FakePipeline(fails=("base",))
    assert sweep.run(pipeline) == 1 and pipeline.calls == [("base", "0")]
    assert "e-no-gain, seed 0: not run: base is not finished" in said


def test_no_row_is_started_when_the_time_is_up(tmp_path: Path) -> None:
    sweep, said = make_sweep(tmp_path, budget_s=0)
    pipeline = FakePipeline()
    assert sweep.run(pipeline) == 0 and pipeline.calls == []
    assert "base, seed 0: not run: the time of 0 minutes is up" in said


def test_the_table_has_every_row(tmp_path: Path) -> None:
    make_sweep(tmp_path)[0].run(FakePipeline())
    table = make_table("looks", tmp_path / "rows").to_markdown()
    lines = {line.split(" | ")[0].strip("| "): line for line in table.splitlines() if "|" in line}
    assert set(VARIANTS) < set(lines)
    assert "0 1 2 (3 of 5) | 91.0 ± 1.0 | 81.0 ± 1.0 |" in lines["base"]
    assert "| base | -20.0 [-20.0, -20.0] | 1.00 ± 0.00 | 2.00 ± 0.00 |" in lines["e-no-gain"]
    assert (
        "| not run |" in lines["d-alpha-0"] and "not run: this code" in lines["i-sequence-weights"]
    )
    memory = make_memory_table("looks", tmp_path / "rows").to_markdown()
    assert (
        "| base | both_hidden | 3 | 50.0 ± 0.0 | 20.0 ± 0.0 |  | -30.0 [-30.0, -30.0] |" in memory
    )


def test_rows_of_other_starts_are_no_pair(tmp_path: Path) -> None:
    make_sweep(tmp_path, seeds=[0])[0].run(FakePipeline())
    path = tmp_path / "rows/looks/e-no-gain/seed-0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"start": "other"}))
    with pytest.raises(ValueError, match="began with model other .* they are no pair"):
        make_table("looks", tmp_path / "rows")


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(APP, [str(word) for word in words])


def test_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, rows = FakePipeline(), ("--rows", tmp_path / "rows")
    monkeypatch.setattr(runner, "start_pipeline", pipeline)
    monkeypatch.setenv("GRPO_STEPS", "7")
    result = invoke(tmp_path / "out", "--seeds", "3", "--row", "base", "--row", "d-alpha-0", *rows)
    assert result.exit_code == 0, result.output
    assert pipeline.calls == [("base", "3"), ("d-alpha-0", "3")]
    assert pipeline.settings["d-alpha-0 3"] == {
        "PROFILE": "looks",
        "SEED": "3",
        "GRPO_STEPS": "7",
        "GRPO_SETTINGS": "videosearch.reward.overall_weight=0",
    }
    kept = invoke(tmp_path / "out/seed-3/base", "--keep", "base", "--seeds", "4", *rows)
    assert kept.exit_code == 0 and "base/seed-4.json" in "".join(kept.output.split())
    shown = invoke("table", *rows)
    assert shown.exit_code == 0 and "| 3 4 (2 of 5) |" in shown.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["out", "--row", "z"], "no row is called ['z']; choose among ['base'"),
        (["out", "--seeds", "one"], "write them as 0-4 or 0,2"),
        (["out", "--mix", "big"], "--mix is one of ['looks', 'tiny'], got 'big'"),
        (["out", "--keep", "base"], "--keep takes the one seed"),
        (["out", "--keep", "base", "--seeds", "0"], "is no finished pipeline"),
    ],
)
def test_wrong_use_is_refused(tmp_path: Path, words: list[str], said: str) -> None:
    result = invoke(str(tmp_path / words[0]), *words[1:], "--rows", tmp_path / "rows")
    assert result.exit_code == 2 and said in " ".join(result.output.split()), result.output


def test_random_frames_are_others_of_the_same_videos() -> None:
    context = CallContext(CandidateFrames((0.0,) * 8, (0.0,) * 8), max_frames=4, max_pixels=784)
    for asked in ([3], [3, 11], [1, 2, 9, 16]):
        outcome = RandomFrames().check({"target_frames": asked}, context)
        assert len(outcome.frame_numbers) == len(asked)
        assert not set(outcome.frame_numbers) & set(asked)
        assert [n > 8 for n in outcome.frame_numbers] == [n > 8 for n in asked]
        assert outcome == RandomFrames().check({"target_frames": asked}, context)
    assert RandomFrames().check({"target_frames": [17]}, context).fault is not None


def test_the_page_shows_what_the_command_prints(tmp_path: Path) -> None:
    page = Path(program.__file__).parents[2] / "docs/results.md"
    copy = tmp_path / "results.md"
    copy.write_text(page.read_text("utf-8"), "utf-8")
    result = invoke("table", "--into", copy)
    assert result.exit_code == 0 and copy.read_text("utf-8") == page.read_text("utf-8")
    copy.write_text("no marks")
    result = invoke("table", "--into", copy)
    assert result.exit_code == 2 and "lacks the marks" in result.output


def test_the_kept_rows_make_a_table() -> None:
    for mix in program.MIXES:
        assert len(make_table(mix).rows) == len(VARIANTS)
