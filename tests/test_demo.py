"""The demo, in its shortest real form: real clips, verl's SFT trainer, verl's GRPO with a real vLLM engine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.demo import list_stages, publish_result, read_steps
from verl_videosearch.rollout import FailureKind

WARM_STEPS, STEPS = 120, 2


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def run_demo(out: Path) -> str:
    command = [sys.executable, "-m", "recipes.demo", "--out", out, "--warm-steps", WARM_STEPS, "--steps", STEPS]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=1200, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def first_run(out: Path) -> str:
    return run_demo(out)


@pytest.mark.slow_start
@pytest.mark.timeout(1300)
def test_every_stage_runs_and_the_table_has_a_row_per_step(first_run: str, out: Path) -> None:
    assert "overall verdict right" in first_run
    assert list(read_steps(out)) == list(range(1, STEPS + 1))


@pytest.mark.slow_start
@pytest.mark.timeout(1300)
def test_episodes_really_search(first_run: str, out: Path) -> None:
    episodes = [json.loads(line) for line in (out / "episodes.jsonl").open()]
    assert len(episodes) >= STEPS * 8 * 4
    assert {episode["failure"] for episode in episodes} <= {None, *(kind.value for kind in FailureKind)}
    assert any(turn["frames"] for episode in episodes for turn in episode["turns"])
    assert any(episode["reward_parts"]["format"] > 0 for episode in episodes)
    assert all(episode["window"] == 1 for episode in episodes)


@pytest.mark.slow_start
@pytest.mark.timeout(1300)
def test_engine_and_trainer_agree(first_run: str, out: Path) -> None:
    """Contexts, pixels and positions are the same on both sides: only float noise remains after the warm-up."""
    for figures in read_steps(out).values():
        assert figures["videosearch/agreement/logprob_abs_diff_mean"] < 1e-5


@pytest.mark.slow_start
@pytest.mark.timeout(1300)
def test_a_second_run_repeats_nothing(first_run: str, out: Path) -> None:
    assert run_demo(out).count("done before") == len(list_stages(out, WARM_STEPS, STEPS))


def test_newest_checkpoint_is_published(tmp_path: Path) -> None:
    stage = list_stages(tmp_path, 1, 1)[3]
    assert stage.work is not None
    checkpoint = stage.work / "global_step_7" / "huggingface"
    checkpoint.mkdir(parents=True)
    publish_result(stage)
    assert stage.result.is_dir() and not checkpoint.exists()


def test_log_of_an_interrupted_run_is_read_too(tmp_path: Path) -> None:
    entry = {"step": 1, "data": {"videosearch/score": 1.0}}
    (tmp_path / "grpo.20260101-000000.jsonl").write_text(json.dumps(entry) + "\n")
    (tmp_path / "grpo.jsonl").write_text(json.dumps(entry | {"step": 2}) + '\n{"step": 3, "da')
    assert list(read_steps(tmp_path)) == [1, 2]
