"""A pipeline's page, tables and `results.json`, from run folders written by hand."""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner, Result
from verl_videosearch.recipes.bounds import check_needed
from verl_videosearch.recipes.results import (
    Pipeline,
    collect,
    list_alarms,
    main,
)
from verl_videosearch.recipes.tables import list_blocks, plot_training

from benchmarks import grpo_ablations, pipeline_seeds
from tests.recipes.test_rows import RIGHT, WRONG, make_record, make_sample
from verl_videosearch.report.page import Note, render_markdown
from verl_videosearch.runs.folder import EPISODES, SAMPLES, RunFolder
from verl_videosearch.runs.record import EpisodeRecord, Usage
from verl_videosearch.sample import write_samples
from verl_videosearch.verl_plugin.alarms import AlarmKind

TIE = dict.fromkeys(RIGHT, 0)
PAIRS = [
    *[make_sample(f"hidden-{number}") for number in range(4)],
    *[
        make_sample(f"tie-{number}", defects_2=(), pair_type="tie", labels=TIE)
        for number in range(2)
    ],
    make_sample("visible-0", defects_2=(), pair_type="visible"),
    make_sample("decoy-0", pair_type="decoy", labels=WRONG),
]
ALL_KNOWN = dict.fromkeys(("hidden", "tie", "visible", "decoy"), 1.0)
APP = typer.Typer()
APP.command()(main)


def judge_pairs(num_right: int, num_searched: int) -> list[EpisodeRecord]:
    """Write the episodes of a judge: the first so many pairs right, the first so many with a search
    that hits."""
    return [
        make_record(
            *([[7]] if number < num_searched else []),
            uid=pair.uid,
            verdicts=dict(pair.labels) if number < num_right else None,
            first=TIE,
        )
        for number, pair in enumerate(PAIRS)
    ]


def write_run(folder: Path, name: str, records: Sequence[EpisodeRecord]) -> None:
    write_samples(folder / "runs" / name / SAMPLES, PAIRS)
    RunFolder(folder / "runs" / name).write_records(EPISODES, records)


def write_log(path: Path, *steps: tuple[int, Mapping[str, float]]) -> None:
    path.parent.mkdir(exist_ok=True)
    entries = [
        {"step": step, "data": {f"videosearch/{k}": v for k, v in data.items()}}
        for step, data in steps
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))


def make_figures(has_searched: float, **figures: float) -> dict[str, float]:
    """Return what GRPO logs in one step, as far as the page reads it."""
    return {
        "num_episodes": 64,
        "has_searched": has_searched,
        "correct_OA": 0.5,
        "reward_accuracy": 0.7,
    } | figures


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a finished pipeline: each stage has two pairs more right than the one before."""
    folder = tmp_path_factory.mktemp("pipeline")
    for number, stage in enumerate(("start", "cold_start", "rft", "grpo")):
        write_run(folder, stage, judge_pairs(2 * number, 2 * number))
        if stage != "start":
            write_run(folder, f"{stage}-sampled", judge_pairs(2 * number - 1, 2 * number))
    write_run(folder, "grpo-no-window", judge_pairs(4, 6))
    searched = judge_pairs(6, 6)[:6]
    replays = [
        msgspec.structs.replace(
            record,
            key=f"{record.key} {name}",
            verdicts=verdicts,
            usage=Usage(),
            extra={"replacement": name, "probed": record.key},
        )
        for record in searched
        for name, verdicts in (
            ("random", TIE),
            ("blank", None),
            ("same", record.verdicts),
            ("refused", None),
            ("in_view", TIE),
        )
    ]
    write_run(folder, "grpo-probe", replays)
    write_log(
        folder / "logs/grpo.jsonl", (0, {"val": 1}), (1, make_figures(0.5)), (2, make_figures(0.1))
    )
    times = [
        ("pairs", 60),
        ("start", 6),
        ("cold_start", 30),
        ("cold_start", 90),
        ("grpo", 61),
        ("judge_grpo", 99),
    ]
    lines = [{"stage": stage, "seconds": seconds} for stage, seconds in times]
    RunFolder(folder / "logs").write_lines("times.jsonl", lines)
    return folder


@pytest.fixture(scope="module")
def results(pipeline: Path) -> dict[str, Any]:
    return collect(Pipeline(pipeline))


@pytest.fixture
def folder(pipeline: Path, tmp_path: Path) -> Path:
    """Return a copy of the pipeline to change."""
    return Path(shutil.copytree(pipeline, tmp_path / "pipeline"))


def run(folder: Path) -> Result:
    return CliRunner(env={"COLUMNS": "250"}).invoke(APP, [str(folder)])


def test_each_stage_has_its_figures(results: dict[str, Any]) -> None:
    stages = results["stages"]
    assert {name: row["overall"]["accuracy"] for name, row in stages.items()} == {
        "start": 0.0,
        "cold_start": 0.25,
        "rft": 0.5,
        "grpo": 0.75,
    }
    assert [row["minutes"] for row in stages.values()] == [1.1, 2.0, 0.0, 1.0]
    assert {name: each["accuracy"] for name, each in stages["grpo"]["by_type"].items()} == {
        "hidden": 1.0,
        "tie": 1.0,
        "visible": 0.0,
        "decoy": 0.0,
    }
    assert (stages["grpo"]["search_rate"], stages["grpo"]["hit_rate"]) == (0.75, 0.8)
    assert stages["grpo"]["gain"] == 0.5  # both ties were right at first sight
    assert stages["grpo"]["tokens"] == 110 * (6 * 2 + 2) / 8


def test_sampled_replies_have_a_table_of_their_own(results: dict[str, Any]) -> None:
    sampled = results["sampled"]
    assert {name: row["overall"]["accuracy"] for name, row in sampled.items()} == {
        "cold_start": 1 / 8,
        "rft": 3 / 8,
        "grpo": 5 / 8,
    }


def test_controls_stand_beside_the_last_stage(results: dict[str, Any]) -> None:
    controls = results["controls"]
    assert {name: row["overall"]["accuracy"] for name, row in controls.items()} == {
        "majority": 5 / 8,  # hidden and visible
        # of 6 clean pairs at first sight 4 hide something: 2 of each side; of 2 visible ones 1
        "no_search": pytest.approx((2 + 1) / 8),
        "one_call": 1.0,
        "random_frames": 0.25,
        "blank_frames": 0.0,
        "no_window": 0.5,
    }
    assert controls["no_search"]["by_type"]["tie"]["accuracy"] == 1 / 3
    assert (
        controls["random_frames"]["tokens"] is None and controls["no_window"]["tokens"] is not None
    )


def test_calls_stand_by_pair_type(results: dict[str, Any]) -> None:
    calls = {name: row["calls_by_type"] for name, row in results["stages"].items()}
    assert calls["start"] == dict.fromkeys(("decoy", "hidden", "tie", "visible"), 0.0)
    assert calls["grpo"] == {"decoy": 0.0, "hidden": 1.0, "tie": 1.0, "visible": 0.0}
    assert calls["rft"] == {"decoy": 0.0, "hidden": 1.0, "tie": 0.0, "visible": 0.0}


def test_needed_is_what_no_replay_without_the_search_gets_right(results: dict[str, Any]) -> None:
    needed = results["needed"]
    # refused: none of the 6 right ones has a verdict; in view: the 2 ties are right
    assert needed["lost"] == {"refused": 6, "in_view": 4}
    assert (needed["needed"], needed["right"], needed["can_need"]) == (4, 6, 3)
    assert needed["by_type"] == {"hidden": 4} and needed["allowance"] == 5


@pytest.mark.parametrize(("needed", "is_fine"), [(3, True), (8, True), (9, False)])
def test_more_than_can_need_the_search_is_an_error(needed: int, is_fine: bool) -> None:
    found = {"needed": needed, "can_need": 3, "allowance": 5}
    with nullcontext() if is_fine else pytest.raises(ValueError, match="at most 3 can need it"):
        check_needed(found)


def test_an_impossible_need_ends_the_program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verl_videosearch.recipes.bounds.solve_pairs", lambda pairs: [ALL_KNOWN])
    result = run(folder)
    assert result.exit_code == 1 and "at most 0 can need it" in result.output
    assert (folder / "results.json").exists(), "the figures are there to be looked at"


def test_a_probe_without_these_replays_says_nothing_about_need(folder: Path) -> None:
    path = folder / "runs/grpo-probe" / EPISODES
    lines = [line for line in path.read_text().splitlines() if '"refused"' not in line]
    path.write_text("\n".join(lines) + "\n")
    assert Pipeline(folder).read_needed("grpo") is None


def test_altered_memories_have_a_table(folder: Path) -> None:
    row = {"accuracy": {"value": 0.5}, "change": None, "calls": 1.5, "tokens": None}
    lost = row | {"change": {"value": -0.25, "low": -0.5, "high": 0.0}}
    rows = {"run": {"all": row}, "no_text": {"all": lost, "hidden": lost}}
    (folder / "runs/grpo-memory").mkdir()
    RunFolder(folder / "runs/grpo-memory").write_json("results.json", {"rows": rows})
    assert run(folder).exit_code == 0
    page = (folder / "results.md").read_text()
    assert "| no text | hidden | 50.0 % | -25.0 [-50.0, +0.0] | 1.50 |  |" in page


def test_a_policy_trained_without_a_window_is_judged_with_one(folder: Path) -> None:
    (folder / "runs/grpo-no-window").rename(folder / "runs/grpo-window-1")
    assert collect(Pipeline(folder))["controls"]["window_1"]["overall"]["accuracy"] == 0.5


def test_tests_go_pair_by_pair(results: dict[str, Any]) -> None:
    tests = results["tests"]
    assert {
        name: (each["accuracy"]["won"], each["accuracy"]["lost"]) for name, each in tests.items()
    } == {
        "rft against cold_start": (2, 0),
        "grpo against rft": (2, 0),
        "rft against cold_start, sampled": (2, 0),
        "grpo against rft, sampled": (2, 0),
        "random_frames against grpo": (0, 4),
        "blank_frames against grpo": (0, 6),
        "no_window against grpo": (0, 2),
    }
    kinds = {name: set(each) for name, each in tests.items()}
    assert kinds["grpo against rft"] == {"accuracy", "search_rate", "hit_rate"}
    assert kinds["random_frames against grpo"] == kinds["no_window against grpo"] == {"accuracy"}


def test_seeds_stand_side_by_side(folder: Path) -> None:
    run(folder)
    app = typer.Typer()
    app.command()(pipeline_seeds.main)
    result = CliRunner().invoke(app, [str(folder), str(folder)])
    assert result.exit_code == 0, result.output
    assert "| GRPO, greedy: right | 75.0 | 75.0 | 75.0 | 0.0 |" in result.output
    assert "| rejection sampling, sampled: right | 37.5 | 37.5 | 37.5 | 0.0 |" in result.output
    assert (
        "| GRPO, random frames returned, greedy: right | 25.0 | 25.0 | 25.0 | 0.0 |"
        in result.output
    )
    assert CliRunner().invoke(app, [str(folder)]).exit_code == 2


def test_ablations_are_compared_with_all_parts(folder: Path) -> None:
    shutil.copytree(folder / "runs/rft", folder / "runs/no-gain-term")
    shutil.copytree(folder / "runs/rft-sampled", folder / "runs/no-gain-term-sampled")
    (folder / "splits").mkdir()
    write_samples(folder / "splits/grpo.parquet", PAIRS[:2])
    for run_name, num_groups in (("grpo", 3), ("no-gain-term", 2)):
        lines = [
            {"sample_uid": pair.uid} for pair in (*PAIRS[:2] * num_groups, PAIRS[3])
        ]  # the last: validation
        RunFolder(folder / "training" / run_name / "episodes").write_lines(
            "episodes-1.jsonl", lines
        )
    base, other = (grpo_ablations.describe(folder, name) for name in ("grpo", "no-gain-term"))
    assert (base[0], base[-2:]) == ("all parts", ("", "6")) and base[2].startswith("75.0 % [")
    assert (
        other[0] == "no gain term"
        and other[2].startswith("50.0 % [")
        and other[5].startswith("37.5 % [")
    )
    assert other[-2].startswith("-25.0 [") and other[-1] == "4"


def test_the_pages_say_what_was_found(folder: Path, results: dict[str, Any]) -> None:
    result = run(folder)
    assert result.exit_code == 0, result.output
    markdown = (folder / "results.md").read_text()
    assert (
        "| GRPO | 75.0 % [" in markdown
        and "] of 8 | 100.0 % | 100.0 % | 0.0 % | 0.0 % |" in markdown
    )
    assert "| majority class | 62.5 % of 8 |" in markdown
    assert re.search(
        r"\| grpo against rft \| accuracy \| \+25\.0 \[\+0\.0, \+\d+\.\d] \| \+2 / -0 \| 0\.5 \|",
        markdown,
    )
    assert markdown.index(
        "Alarm in GRPO, at 1 steps from step 2 on: The tool rate"
    ) < markdown.index("Stages")
    shown = " ".join(result.output.split())
    assert (
        "Alarm in GRPO" in shown
        and "GRPO 75.0 " in shown
        and "majority class 62.5" in shown
        and "…" not in shown
    )
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(results))
    assert [figures["step"] for figures in results["training"]] == [1, 2]
    before = {
        name: (folder / name).read_bytes() for name in ("results.md", "index.html", "results.json")
    }
    assert run(folder).exit_code == 0
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_the_page_asks_nobody_for_anything(folder: Path) -> None:
    run(folder)
    page = (folder / "index.html").read_text()
    tags = set(re.findall(r"<\s*([a-z]+)", page))
    assert not tags & {
        "script",
        "img",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "audio",
        "video",
        "use",
    }
    page = page.replace('<a href="episodes.html">', "<a>")
    assert not re.search(r"""<[^>]*\s(?:src|href|srcset|xlink:href|on\w+)\s*=""", page)
    assert "url(" not in page and "@import" not in page and "default-src 'none'" in page
    assert page.count("<svg") == 2 and "polyline" in page


@pytest.mark.parametrize(
    "name", ["start/samples.parquet", "rft-sampled/episodes.jsonl", "grpo-probe/episodes.jsonl"]
)
def test_an_unfinished_run_is_one_line(folder: Path, name: str) -> None:
    (folder / "runs" / name).unlink()
    result = run(folder)
    assert (
        result.exit_code == 1
        and f"is no finished run: it has no {Path(name).name}" in result.output
    )
    assert "Traceback" not in result.output and not (folder / "results.json").exists()


def test_a_run_that_lacks_episodes_is_one_line(folder: Path) -> None:
    write_run(folder, "rft", judge_pairs(4, 4)[:-1])
    result = run(folder)
    assert result.exit_code == 1 and "1 pairs have none, such as ['decoy-0']" in result.output


def test_runs_over_other_pairs_are_one_line(folder: Path) -> None:
    write_samples(folder / "runs/rft" / SAMPLES, PAIRS[::-1])
    result = run(folder)
    assert result.exit_code == 1 and "the runs are over different pairs" in result.output


def test_a_resumed_training_is_read_as_one(folder: Path) -> None:
    logs = folder / "logs"
    write_log(
        logs / "grpo.20260101-000000.jsonl",
        *((step, make_figures(0.3, old=1)) for step in (1, 2, 3)),
    )
    with (logs / "grpo.20260101-000000.jsonl").open("a") as file:
        file.write('{"step": 4, "da')  # what a kill leaves
    os.utime(logs / "grpo.20260101-000000.jsonl", (0, 0))
    write_log(logs / "grpo.jsonl", (3, make_figures(0.4)), (4, make_figures(0.5)))
    write_log(logs / "grpo-other.jsonl", (3, make_figures(0.9)), (9, make_figures(0.9)))
    training = Pipeline(folder).read_training()
    assert [(each["step"], each["videosearch/has_searched"]) for each in training] == [
        (1, 0.3),
        (2, 0.3),
        (3, 0.4),  # the newest
        (4, 0.5),
    ]


def test_an_alarm_is_listed_once_with_its_steps() -> None:
    rates = {1: 0.5, 2: 0.1, 3: 0.9, 4: 0.0}
    lost = {3: 0.95}
    steps = [
        {"step": step, "videosearch/num_episodes": 8, "videosearch/has_searched": rate}
        | {"videosearch/filtered_group_rate": lost.get(step, 0.0)}
        for step, rate in rates.items()
    ]
    search, signal = list_alarms(steps)
    assert (search["kind"], search["steps"]) == (AlarmKind.SEARCH_LOST.value, [2, 4])
    assert (signal["kind"], signal["steps"]) == (AlarmKind.SIGNAL_LOST.value, [3])
    assert "is 0.1, below videosearch.alarms.min_search_rate=0.2" in search["text"]  # as it began
    assert list_alarms(steps[:1]) == []


def test_a_page_has_a_note_for_each_alarm_only(results: dict[str, Any]) -> None:
    assert [type(block) is Note for block in list_blocks(results)].count(True) == 1
    calm = list(list_blocks(results | {"alarms": []}))
    assert not any(isinstance(block, Note) for block in calm) and "Alarm" not in render_markdown(
        "Pipeline", calm
    )


def test_a_training_is_drawn_over_its_steps() -> None:
    training = [
        {"step": 1, "videosearch/correct_OA": 0.25, "videosearch/reward_accuracy": 1.2},
        {
            "step": 8,
            "videosearch/correct_OA": 0.5,
            "videosearch/reward_accuracy": None,
            "videosearch/has_searched": 1,
        },
    ]
    svg = plot_training(training).svg
    assert [svg.count(f'<circle class="series-{number}"') for number in range(5)] == [2, 1, 0, 1, 0]
    assert ">8</text>" in svg and ">tool rate</text>" in svg
    assert "<circle" not in plot_training([]).svg


def test_a_pipeline_without_a_log_has_no_training(folder: Path) -> None:
    for path in (folder / "logs").iterdir():
        path.unlink()
    assert run(folder).exit_code == 0
    results = json.loads((folder / "results.json").read_text())
    assert (results["training"], results["alarms"]) == ([], [])
    assert {row["minutes"] for row in results["stages"].values()} == {0.0}
