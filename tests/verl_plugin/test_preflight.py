"""A run that cannot work is refused before Ray starts, with every mistake and what to do."""

import copy
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("verl")

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from tests.engine import compose_recipe, model_dir
from verl_videosearch.sample import PreferenceSample, write_samples
from verl_videosearch.verl_plugin.preflight import find_problems

LABELS = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_samples(
        folder / "good.parquet", [PreferenceSample("a", "a cat", "1.mp4", "2.mp4", LABELS)]
    )
    write_samples(folder / "empty.parquet", [])
    write_samples(
        folder / "outside.parquet", [PreferenceSample("b", "a cat", "../1.mp4", "2.mp4", LABELS)]
    )
    pq.write_table(pa.table({"prompt": ["a cat"]}), folder / "other.parquet")
    (folder / "broken.parquet").write_bytes(b"PAR1, said the file")
    return folder


def make_config(
    data_dir: Path, settings: dict[str, Any], recipe: str = "videosearch_grpo_tiny"
) -> DictConfig:
    config = copy.deepcopy(compose_recipe(recipe))
    good = str(data_dir / "good.parquet")
    given = {
        "data.train_files": good,
        "data.val_files": good,
        "videosearch.frames.video_root": str(data_dir),
    }
    for key, value in (given | settings).items():
        OmegaConf.update(config, key, value, force_add=True)
    return config


@pytest.mark.parametrize("recipe", ["videosearch_grpo", "videosearch_grpo_tiny"])
def test_a_recipe_with_files_can_start(data_dir: Path, recipe: str) -> None:
    assert find_problems(make_config(data_dir, {}, recipe)) == []


def test_a_sequence_may_be_shared_by_gpus(data_dir: Path) -> None:
    settings = {"actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 768}
    assert (
        find_problems(
            make_config(
                data_dir, settings | {"actor_rollout_ref.actor.ulysses_sequence_parallel_size": 2}
            )
        )
        == []
    )


def test_several_files_can_start(data_dir: Path) -> None:
    files = [str(data_dir / "good.parquet")] * 2
    assert find_problems(make_config(data_dir, {"data.train_files": files})) == []


MISTAKES: list[tuple[dict[str, Any], str]] = [
    (
        {"algorithm.adv_estimator": "gae"},
        "algorithm.adv_estimator must be 'grpo', got 'gae': other estimators treat",
    ),
    ({"algorithm.adv_estimator": "rloo"}, "algorithm.adv_estimator must be 'grpo', got 'rloo'"),
    ({"algorithm.use_kl_in_reward": True}, "algorithm.use_kl_in_reward must be False, got True"),
    (
        {"trainer.v1.trainer_mode": "sync"},
        "trainer.v1.trainer_mode must be 'videosearch', got 'sync'",
    ),
    ({"trainer.use_v1": False}, "trainer.use_v1 must be True, got False"),
    (
        {"actor_rollout_ref.actor.loss_agg_mode": "token-mean"},
        "must be 'seq-mean-token-mean', got 'token-mean'",
    ),
    (
        {"actor_rollout_ref.actor.shuffle": True},
        "actor_rollout_ref.actor.shuffle must be False, got True",
    ),
    (
        {"trainer.v1.sampler.sync_refill_failed_groups": False},
        "sync_refill_failed_groups must be True, got False",
    ),
    (
        {"actor_rollout_ref.rollout.agent.default_agent_loop": "tool_agent"},
        "default_agent_loop must be 'videosearch'",
    ),
    (
        {"data.train_batch_size": 6},
        "data.train_batch_size (6) must be a multiple of actor_rollout_ref.actor.ppo_mini_batch_size (4)",
    ),
    (
        {"actor_rollout_ref.rollout.n": 1},
        "actor_rollout_ref.rollout.n must be at least 2, or a group has no baseline",
    ),
    (
        {"data.max_prompt_length": 100},
        "the first view alone may take 224 tokens but data.max_prompt_length is 100",
    ),
    (
        {"data.max_prompt_length": 300, "data.max_response_length": 100},
        "data.max_response_length is 400: raise",
    ),
    (
        {"actor_rollout_ref.rollout.max_model_len": 1000},
        "rollout.max_model_len (1000) must hold data.max_prompt_length",
    ),
    (
        {"actor_rollout_ref.actor.ppo_mini_batch_size": 0},
        "must be a multiple of actor_rollout_ref.actor.ppo_mini_batch_size (0)",
    ),
    (
        {"actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 1000},
        "ppo_max_token_len_per_gpu (times ulysses_sequence_parallel_size: 1000) must hold one sequence",
    ),
    (
        {"videosearch.rollout.max_turn_tokens": 500},
        "a context may take 336 tokens of images and 1500 of replies, but",
    ),
    (
        {"actor_rollout_ref.model.lora_rank": 8},
        "actor_rollout_ref.model.exclude_modules must name the vision tower",
    ),
    ({"actor_rollout_ref.model.lora_rank": 8}, "save_contents must not have hf_model with LoRA"),
    (
        {"actor_rollout_ref.ref.fsdp_config.model_dtype": "bf16"},
        "ref.fsdp_config.model_dtype must be 'fp32', got 'bf16'",
    ),
    (
        {"actor_rollout_ref.model.path": "???"},
        "actor_rollout_ref.model.path is not set; give it on the command line",
    ),
    (
        {"actor_rollout_ref.model.path": "./no_model"},
        "no model in 'no_model' (config.json is missing)",
    ),
    (
        {"data.train_files": "???"},
        "data.train_files is not set; give it on the command line as data.train_files=...",
    ),
    (
        {"data.train_files": "nowhere.parquet"},
        "data.train_files: no such file: 'nowhere.parquet'; make one with",
    ),
    ({"data.val_files": "{data}/empty.parquet"}, "empty.parquet' has no rows"),
    (
        {"data.val_files": "{data}/other.parquet"},
        "lacks the columns ['sample_uid', 'video_1', 'video_2', ",
    ),
    ({"data.val_files": "{data}/broken.parquet"}, "broken.parquet': "),
    ({"data.val_files": "{data}/outside.parquet"}, "'../1.mp4' leads out of the video root"),
    (
        {"videosearch.frames.video_root": None},
        "'1.mp4' is relative, so a video root is needed (video_root=...)",
    ),
    (
        {"videosearch.frames.video_root": "/nowhere"},
        "videosearch.frames.video_root: no such folder: '/nowhere'",
    ),
    (
        {"videosearch.episode.window": 0},
        "videosearch.episode: EpisodeConfig: window must be a whole number",
    ),
    (
        {"videosearch.rollout.typo": 1},
        "videosearch.rollout: RolloutConfig: unknown setting 'typo'",
    ),
    (
        {"videosearch.episode": "full"},
        "videosearch.episode must be a group of settings, got 'full'",
    ),
]


@pytest.mark.parametrize(("settings", "message"), MISTAKES, ids=lambda value: str(value)[:50])
def test_a_mistake_is_named(data_dir: Path, settings: dict[str, Any], message: str) -> None:
    settings = {
        key: value.replace("{data}", str(data_dir)) if isinstance(value, str) else value
        for key, value in settings.items()
    }
    problems = find_problems(make_config(data_dir, settings))
    assert [problem for problem in problems if message in problem], problems


def test_all_mistakes_are_named_at_once(data_dir: Path) -> None:
    settings = {
        "algorithm.adv_estimator": "gae",
        "data.train_batch_size": 6,
        "data.max_prompt_length": 100,
        "actor_rollout_ref.model.path": "./no_model",
        "data.train_files": "nowhere.parquet",
        "videosearch.frames.video_root": "/nowhere",
    }
    text = "\n".join(find_problems(make_config(data_dir, settings)))
    for word in (
        "adv_estimator",
        "train_batch_size",
        "max_prompt_length",
        "no_model",
        "nowhere.parquet",
        "'/nowhere'",
    ):
        assert word in text


@pytest.mark.slow_start
def test_the_program_stops_before_ray_starts(data_dir: Path) -> None:
    """`main_ppo` itself, from another folder: one message, no traceback, within the time of verl's
    import."""
    start = time.monotonic()
    command = [sys.executable, "-m", "verl.trainer.main_ppo", "+recipe=videosearch_grpo_tiny"]
    files = [
        f"data.train_files={data_dir}/good.parquet",
        f"data.val_files={data_dir}/empty.parquet",
    ]
    wrong = [f"actor_rollout_ref.model.path={model_dir()}", "algorithm.adv_estimator=gae"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [*command, *files, *wrong, f"videosearch.frames.video_root={data_dir}"],
        cwd=data_dir,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode != 0
    assert (
        "This run cannot start:\n- algorithm.adv_estimator must be 'grpo', got 'gae'"
        in result.stderr
    )
    assert f"- data.val_files: '{data_dir}/empty.parquet' has no rows" in result.stderr
    assert "Traceback" not in result.stderr and "ray init kwargs" not in result.stdout
    assert time.monotonic() - start < 240
