"""The whole pipeline in its shortest real form: killed three times, finished, every figure; then
run again."""

import json
import re
import time
from pathlib import Path

import pytest

from benchmarks.kill_stages import kill_all, start_pipeline
from verl_videosearch.runs.record_file import read_records
from verl_videosearch.sample import read_samples

SMALL = {
    "TRAIN_PAIRS": "200",
    "TEST_PAIRS": "20",
    "TRACES": "--direct .1 --cued-gap .9",  # so few steps must be enough to search at times
    "COLD_START_STEPS": "400",
    "SAMPLES": "--temperature 0.3",  # hot, such a young model is right as good as never
    "RFT_STEPS": "2",
    "GRPO_STEPS": "2",
    "PROFILE": "tiny",
    "PARTS": "cold_start=.6,rft=.15,grpo=.2,validation=.05",
}
STAGES = ("start", "cold_start", "rft", "grpo")
CONTROLS = {"majority", "no_search", "one_call", "random_frames", "blank_frames", "no_window"}

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(2400)]


def run_pipeline(out: Path, *stages: str) -> str:
    process = start_pipeline(out, *stages, **SMALL)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


def kill_pipeline(out: Path, sign: str) -> str:
    """Start the pipeline and kill it, and all that it has started, as soon as a file that matches
    is not empty."""
    process = start_pipeline(out, **SMALL)
    while not any(path.stat().st_size for path in out.glob(sign)):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    return kill_all(process)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def tries(out: Path) -> list[str]:
    """Return what the pipeline said each time: killed in three stages, then left alone."""
    signs = (
        "training/cold_start/latest_checkpointed_iteration.txt",
        "samples/shard-0-of-1/journal.jsonl",
        "training/grpo/episodes/*.jsonl",
    )
    return [*(kill_pipeline(out, sign) for sign in signs), run_pipeline(out)]


@pytest.fixture(scope="module")
def first_run(tries: list[str]) -> str:
    return tries[-1]


@pytest.fixture
def results(first_run: str, out: Path) -> dict:
    return json.loads((out / "results.json").read_text())


def list_stages(said: str) -> list[str]:
    """Return the stage of each line that is about one."""
    lines = [line for line in said.splitlines() if re.match(r"[\w-]+: ", line)]
    return [line.partition(":")[0] for line in lines]


def test_every_stage_has_a_row(results: dict, first_run: str) -> None:
    assert tuple(results["stages"]) == STAGES and set(results["controls"]) == CONTROLS
    for row in results["stages"].values():
        share = row["overall"]
        assert share["n"] == 20 and 0 <= share["low"] <= share["accuracy"] <= share["high"] <= 1
        assert sum(each["n"] for each in row["by_type"].values()) == 20
    assert "index.html" in first_run


def test_it_went_on_where_it_was_killed(tries: list[str], out: Path) -> None:
    for stage, before, after in zip(
        ("cold_start", "samples", "grpo"), tries[:-1], tries[1:], strict=True
    ):
        *complete, killed = dict.fromkeys(list_stages(before))
        assert killed == stage and f"{stage}: started, " in after
        assert [
            line.partition(":")[0] for line in after.splitlines() if line.endswith(": done before")
        ] == complete
    first_line = (out / "logs/cold_start.jsonl").open().readline()
    assert json.loads(first_line)["step"] > 1
    journal = (out / "samples/shard-0-of-1/journal.jsonl").read_text().splitlines()
    keys = [json.loads(line)["key"] for line in journal]
    assert len(keys) == len(set(keys)) == 4 * len(read_samples(out / "splits/rft.parquet"))


def test_the_cold_start_taught_the_form(results: dict) -> None:
    assert results["stages"]["start"]["unreadable"] == 1.0
    assert results["stages"]["cold_start"]["unreadable"] < 0.5


def test_grpo_sampled_from_the_context_that_it_trained_on(results: dict, out: Path) -> None:
    """Contexts, pixels and positions are the same in engine and trainer: only float noise
    remains."""
    assert [figures["step"] for figures in results["training"]] == [1, 2]
    for figures in results["training"]:
        assert figures["videosearch/agreement/logprob_abs_diff_mean"] < 1e-5
    files = [read_records(path) for path in sorted((out / "training/grpo/episodes").iterdir())]
    episodes = [record for file in files for record in file.records]
    assert len(episodes) >= 2 * 8 * 8
    assert all(record.config["window"] == 1 for record in episodes if record.config)
    assert any(record.has_searched for record in episodes)


def test_a_second_run_repeats_nothing(first_run: str, out: Path) -> None:
    before = (out / "results.json").read_bytes()
    said = run_pipeline(out)
    names = [
        line.partition(":")[0]
        for line in first_run.splitlines()
        if line.endswith((" s", "done before"))
    ]
    assert len(names) >= 18 and {f"{name}: done before" for name in names} <= set(said.splitlines())
    assert (out / "results.json").read_bytes() == before


def test_a_stage_can_be_run_alone(first_run: str, out: Path) -> None:
    said = run_pipeline(out, "judge_rft")
    assert [line.partition(":")[0] for line in said.splitlines()] == [
        "judge_rft"
    ] * 2 and "done before" not in said
