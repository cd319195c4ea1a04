"""The plan of time counts what the stages do, and says so when it is off."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from verl_videosearch.cli import app
from verl_videosearch.planning.demo import RATES, check_demo, count_units

ROWS = {
    "pairs/train": 3600,
    "pairs/test": 400,
    "splits/cold_start": 2592,
    "splits/rft": 396,
}
UNITS = {
    "pairs": 4000,
    "start": 1,
    "captions_rft": 396,
    "traces": 2592,
    "cold_start": 1900,
    "samples": 1584,
    "rft": 120,
    "grpo": 24 * 128,
    "judge_grpo-sampled": 400,
    "probe_grpo": 1200,
}


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """Make a finished demo in which every stage took three times what is planned."""
    for name, number in ROWS.items():
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"uid": list(map(str, range(number)))}), path)
    (tmp_path / "logs").mkdir()
    for name, steps in {"cold_start": 1900, "rft": 120, "grpo": 24}.items():
        lines = (json.dumps({"step": step, "data": {}}) for step in range(1, steps + 1))
        (tmp_path / "logs" / f"{name}.jsonl").write_text("\n".join(lines))
    write_times(tmp_path, {})
    return tmp_path


def write_times(folder: Path, factors: dict[str, float]) -> None:
    with (folder / "logs" / "times.jsonl").open("w") as file:
        for name in [*UNITS, "results"]:
            kind, units = count_units(folder, name)
            start, each = RATES[kind] if kind else (1.0, 0.0)
            seconds = 3 * (start + units * each) * factors.get(name, 1)
            file.write(json.dumps({"stage": name, "seconds": seconds}) + "\n")
            file.write(json.dumps({"stage": name, "seconds": 0.1}) + "\n")  # run again: done


def test_units(demo: Path) -> None:
    assert {stage.name: stage.units for stage in check_demo(demo).stages} == UNITS


def test_a_slow_machine_is_no_failure_and_a_wrong_stage_is(demo: Path) -> None:
    check = check_demo(demo)
    assert check.machine_factor == pytest.approx(3) and check.problems == []
    write_times(demo, {"grpo": 2.1, "cold_start": 1.9})
    assert [problem.split()[0] for problem in check_demo(demo).problems] == ["grpo"]
    write_times(demo, {"samples": 0.4})
    assert [problem.split()[0] for problem in check_demo(demo).problems] == ["samples"]


def test_the_constants_add_up_to_the_run_of_the_page(demo: Path) -> None:
    """docs/tiny.md: cold start 12.4 minutes, rejection sampling 3.7, GRPO 10.6."""
    planned = {stage.name: stage.planned_s / 60 for stage in check_demo(demo).stages}
    assert planned["traces"] + planned["cold_start"] == pytest.approx(12.4, rel=0.15)
    assert planned["samples"] + planned["rft"] == pytest.approx(3.7, rel=0.25)
    assert planned["grpo"] == pytest.approx(10.6, rel=0.15)


def test_the_command(demo: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["plan", "--check", str(demo)])
    assert result.exit_code == 0
    assert "stages judged, the worst off by a factor of 1.00" in result.output
    write_times(demo, {"grpo": 5})
    result = CliRunner().invoke(app, ["plan", "--check", str(demo)])
    assert result.exit_code == 1 and "the model of time fails: grpo" in result.output
    result = CliRunner().invoke(app, ["plan", "--check", str(tmp_path / "nothing")])
    assert result.exit_code == 2


def test_hours_grow_with_the_work() -> None:
    pytest.importorskip("verl")
    from verl_videosearch.planning.setup import compose_config, read_setup
    from verl_videosearch.planning.shapes import ModelName
    from verl_videosearch.planning.times import count_steps, plan_pipeline

    setup = read_setup(compose_config("videosearch_grpo"))
    half = read_setup(compose_config("videosearch_grpo", ("trainer.n_gpus_per_node=4",)))
    name = ModelName.QWEN2_5_VL_7B
    hours = {stage.name: stage.seconds for stage in plan_pipeline(setup, name, 180_000)}
    fewer = {stage.name: stage.seconds for stage in plan_pipeline(half, name, 180_000)}
    assert hours["grpo"] > hours["rft"] > hours["cold_start"] > 0
    assert 1.9 < fewer["grpo"] / hours["grpo"] < 2
    more = read_setup(compose_config("videosearch_grpo", ("trainer.total_training_steps=300",)))
    longer = {stage.name: stage for stage in plan_pipeline(more, name, 180_000)}
    assert 3.8 < longer["grpo"].seconds / hours["grpo"] < 4.1
    assert longer["grpo"].work.startswith("300 steps")
    never = ("trainer.test_freq=-1", "trainer.save_freq=-1", "trainer.total_training_steps=300")
    assert count_steps(read_setup(compose_config("videosearch_grpo", never))) == (300, 0, 0)
    assert count_steps(setup)[:2] == (75, 7)
    small = {stage.name: stage.seconds for stage in plan_pipeline(setup, name, 18_000)}
    page = (Path(__file__).parents[2] / "docs" / "seven_b.md").read_text("utf-8")
    assert f"75 steps of 2,048 episodes | {hours['grpo'] / 3600:.1f} |" in page
    assert f"**{sum(hours.values()) / 3600:.1f}**" in page
    assert small["samples"] < hours["samples"] and small["grpo"] == hours["grpo"]


def test_every_recipe_can_be_planned() -> None:
    pytest.importorskip("verl")
    from verl_videosearch.planning.setup import compose_config, read_setup
    from verl_videosearch.recipe import find_recipes

    names = [path.stem for path in find_recipes().glob("*.yaml")]
    assert len(names) > 8
    for name in names:
        is_sft = read_setup(compose_config(name)).engine is None
        assert is_sft == ("cold_start" in name or "rft" in name), name
