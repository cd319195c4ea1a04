"""The whole pipeline in its shortest real form: killed in the middle, finished, every figure; then run again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = {
    "TRAIN_PAIRS": "200",
    "TEST_PAIRS": "20",
    "COLD_START_STEPS": "600",
    "RFT_STEPS": "2",
    "GRPO_STEPS": "2",
    "PARTS": "cold_start=.6,rft=.15,grpo=.2,validation=.05",
}
STAGES = ("start", "cold_start", "rft", "grpo")
CONTROLS = {"majority", "no_search", "random_frames", "blank_frames", "no_window"}

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(1500)]


def start_pipeline(out: Path, *stages: str) -> subprocess.Popen:
    environment = {**os.environ, **SMALL, "PROFILE": "tiny", "OUT": str(out), "PYTHON": sys.executable}
    command = ["bash", str(ROOT / "recipes" / "pipeline.sh"), *stages]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT,
        start_new_session=True,
    )  # fmt: skip


def run_pipeline(out: Path, *stages: str) -> str:
    process = start_pipeline(out, *stages)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a pipeline that was killed while its cold start was trained."""
    out = tmp_path_factory.mktemp("demo")
    process, saved = start_pipeline(out), out / "training/cold_start/latest_checkpointed_iteration.txt"
    while not saved.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return out


@pytest.fixture(scope="module")
def first_run(out: Path) -> str:
    return run_pipeline(out)


@pytest.fixture
def results(first_run: str, out: Path) -> dict:
    return json.loads((out / "results.json").read_text())


def test_every_stage_has_a_row(results: dict, first_run: str) -> None:
    assert tuple(results["stages"]) == STAGES and set(results["controls"]) == CONTROLS
    for row in results["stages"].values():
        share = row["overall"]
        assert share["n"] == 20 and 0 <= share["low"] <= share["accuracy"] <= share["high"] <= 1
        assert sum(each["n"] for each in row["by_type"].values()) == 20
    assert "index.html" in first_run


def test_it_went_on_where_it_was_killed(first_run: str, out: Path) -> None:
    said = first_run.splitlines()
    assert "traces: done before" in said and "cold_start: done before" not in said
    first_line = (out / "logs/cold_start.jsonl").open().readline()
    assert json.loads(first_line)["step"] > 1


def test_the_cold_start_taught_the_form(results: dict) -> None:
    assert results["stages"]["start"]["unreadable"] == 1.0
    assert results["stages"]["cold_start"]["unreadable"] < 0.5


def test_grpo_sampled_from_the_context_that_it_trained_on(results: dict, out: Path) -> None:
    """Contexts, pixels and positions are the same in engine and trainer: only float noise remains."""
    assert [figures["step"] for figures in results["training"]] == [1, 2]
    for figures in results["training"]:
        assert figures["videosearch/agreement/logprob_abs_diff_mean"] < 1e-5
    lines = [line for path in (out / "training/grpo/episodes").iterdir() for line in path.open()]
    episodes = [json.loads(line) for line in lines]
    assert len(episodes) >= 2 * 8 * 8 and all(episode["window"] == 1 for episode in episodes)
    assert any(turn["frames"] for episode in episodes for turn in episode.get("turns", []))


def test_a_second_run_repeats_nothing(first_run: str, out: Path) -> None:
    before = (out / "results.json").read_bytes()
    said = run_pipeline(out)
    names = [line.partition(":")[0] for line in first_run.splitlines() if line.endswith((" s", "done before"))]
    assert len(names) >= 18 and {f"{name}: done before" for name in names} <= set(said.splitlines())
    assert (out / "results.json").read_bytes() == before


def test_a_stage_can_be_run_alone(first_run: str, out: Path) -> None:
    said = run_pipeline(out, "judge_rft")
    assert [line.partition(":")[0] for line in said.splitlines()] == ["judge_rft"] and "done before" not in said
