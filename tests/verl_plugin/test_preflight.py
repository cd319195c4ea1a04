"""A run that cannot work is refused before Ray starts, with every mistake and what to do."""

import copy
import inspect
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("verl")

import pyarrow as pa
import pyarrow.parquet as pq
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from verl.trainer import sft_trainer
from verl_videosearch.data_prep.traces.sft_rows import SftRow, write_sft_rows

from tests.engine import compose_recipe, model_dir
from verl_videosearch.sample import PreferenceSample, write_samples
from verl_videosearch.sight import read_image_limits
from verl_videosearch.verl_plugin.preflight import engine, sft
from verl_videosearch.verl_plugin.preflight.grpo import find_problems
from verl_videosearch.verl_plugin.preflight.model import fit_to_model
from verl_videosearch.verl_plugin.preflight.run import describe_finished, has_wandb_key
from verl_videosearch.verl_plugin.settings import Settings

LABELS = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_samples(
        folder / "good.parquet", [PreferenceSample("a", "a cat", "1.mp4", "2.mp4", LABELS)]
    )
    for name in ("1.mp4", "2.mp4"):
        (folder / name).touch()
    many = [
        PreferenceSample(f"m{i}", "a cat", "1.mp4", "2.mp4" if i % 2 else f"gone{i}.mp4", LABELS)
        for i in range(200)
    ]
    write_samples(folder / "many.parquet", many)
    write_samples(folder / "enough.parquet", [replace(many[1], uid=f"e{i}") for i in range(256)])
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
    good = str(data_dir / "enough.parquet")
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
    settings = {
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": 768,
        "actor_rollout_ref.model.use_remove_padding": True,
        "trainer.n_gpus_per_node": 2,
    }
    older = settings | {"actor_rollout_ref.actor.ulysses_sequence_parallel_size": 2}
    assert find_problems(make_config(data_dir, older)) == []
    key = "actor_rollout_ref.{}.fsdp_config.ulysses_sequence_parallel_size"
    newer = settings | {key.format("actor"): 2}
    (problem,) = find_problems(make_config(data_dir, newer))
    assert "ref.log_prob_max_token_len_per_gpu (times ulysses" in problem, "its own engine's"
    assert key.format("ref") + " (now 1)" in problem
    assert find_problems(make_config(data_dir, newer | {key.format("ref"): 2})) == []
    without = newer | {"actor_rollout_ref.actor.use_kl_loss": False}
    assert find_problems(make_config(data_dir, without)) == []
    padded = older | {"actor_rollout_ref.model.use_remove_padding": False}
    assert "use_remove_padding must be true" in str(find_problems(make_config(data_dir, padded)))


def test_several_files_can_start(data_dir: Path) -> None:
    files = [str(data_dir / "enough.parquet"), str(data_dir / "good.parquet")]
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
        "data.train_batch_size (6) must be a multiple of "
        "actor_rollout_ref.actor.ppo_mini_batch_size (4)",
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
        "ppo_max_token_len_per_gpu (times ulysses_sequence_parallel_size: 1000) must hold one "
        "sequence",
    ),
    (
        {"videosearch.rollout.max_turn_tokens": 500},
        "a context may take 336 tokens of images and 2000 of replies, but",
    ),
    (
        {"actor_rollout_ref.model.lora_rank": 8},
        "actor_rollout_ref.model.exclude_modules must name the vision tower",
    ),
    ({"actor_rollout_ref.model.lora_rank": 8}, "save_contents must not have hf_model with LoRA"),
    (
        {"actor_rollout_ref.actor.freeze_vision_tower": True},
        "reads it nowhere; actor_rollout_ref.model.external_lib=verl_videosearch.verl_plugin.froz",
    ),
    (
        {"actor_rollout_ref.model.use_fused_kernels": True},
        "actor_rollout_ref.model.use_fused_kernels must be False, got True",
    ),
    (
        {"actor_rollout_ref.ref.log_prob_max_token_len_per_gpu": 1000},
        "ref.log_prob_max_token_len_per_gpu (times ulysses_sequence_parallel_size: 1000) must",
    ),
    (
        {"actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu": 1000},
        "rollout.log_prob_max_token_len_per_gpu (times ulysses_sequence_parallel_size: 1000) must",
    ),
    (
        {"actor_rollout_ref.model.path": "outputs/7b/models/rtf"},
        "no model in 'outputs/7b/models/rtf' (config.json is missing), and the Hugging Face hub",
    ),
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
        {"data.train_files": "{data}/many.parquet"},
        "many.parquet': of the videos of 20 rows",
    ),
    (
        {"data.train_files": "{data}/many.parquet"},
        "set videosearch.frames.video_root to the folder",
    ),
    ({"data.train_files": "{data}/good.parquet"}, "(8) is larger than data.train_files, 1 rows"),
    ({"actor_rollout_ref.rollout.temperature": 0}, "rollout.temperature must be above 0, got 0"),
    (
        {"actor_rollout_ref.rollout.gpu_memory_utilization": 60},
        "gpu_memory_utilization must be above 0 and at most 1, got 60",
    ),
    (
        {"actor_rollout_ref.rollout.tensor_model_parallel_size": 2},
        "tensor_model_parallel_size (2) must divide trainer.nnodes * trainer.n_gpus_per_node = 1",
    ),
    (
        {"actor_rollout_ref.actor.ulysses_sequence_parallel_size": 3},
        "ulysses_sequence_parallel_size (3) must divide",
    ),
    ({"trainer.n_gpus_per_node": 0}, "n_gpus_per_node must be at least 1, got 0"),
    (
        {"trainer.logger": ["console", "wandbb"]},
        "trainer.logger: unknown logger 'wandbb'; verl knows",
    ),
    (
        {"videosearch.episode.patch_multiple": 32},
        "patch_multiple must be 28 for this model, got 32",
    ),
    (
        {"videosearch.episode.tool_max_pixels": 2_000_000},
        "tool_max_pixels must be at most 1003520 for this model, got 2000000: it would shrink",
    ),
    (
        {"reward.custom_reward_function.path": "mine.py"},
        "reward.custom_reward_function.path ('mine.py') would not be called",
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


def make_sft_config(data_dir: Path, settings: dict[str, Any], recipe: str) -> DictConfig:
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("sft_trainer_engine", overrides=[f"+recipe={recipe}"])
    given = {
        "model.path": str(model_dir()),
        "videosearch.frames.video_root": str(data_dir),
    }
    given["data.train_files"] = write_traces(data_dir / f"{recipe}.parquet", config)
    for key, value in (given | settings).items():
        OmegaConf.update(config, key, value, force_add=True)
    return config


def write_traces(path: Path, config: DictConfig) -> str:
    """Write traces made with the settings of a recipe, 256 of them."""
    if not path.exists():
        ours = OmegaConf.to_container(config.videosearch, resolve=True)
        episode = Settings.from_dict(ours).episode
        samples = [PreferenceSample(f"{i}", "a cat", "1.mp4", "2.mp4", LABELS) for i in range(256)]
        write_sft_rows(path, [SftRow(sample, ("right",), episode) for sample in samples])
    return str(path)


SFT_RECIPES = (
    "videosearch_cold_start",
    "videosearch_cold_start_tiny",
    "videosearch_rft",
    "videosearch_rft_tiny",
)


@pytest.mark.parametrize("recipe", SFT_RECIPES)
def test_a_supervised_recipe_with_files_can_start(data_dir: Path, recipe: str) -> None:
    assert sft.find_problems(make_sft_config(data_dir, {}, recipe)) == []


SFT_MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"model.path": None}, "model.path is not set; give it on the command line as model.path=..."),
    ({"data.train_files": None}, "data.train_files is not set; give it on the command line"),
    ({"data.train_files": "nowhere.parquet"}, "data.train_files: no such file: 'nowhere.parquet'"),
    ({"data.train_files": "{data}/many.parquet"}, "of the videos of 20 rows"),
    ({"videosearch.episode.wndow": 1}, "unknown setting 'wndow', perhaps 'window'?"),
    ({"model.path": "./no_model"}, "model.path: no model in 'no_model'"),
    ({"videosearch.episode.patch_multiple": 14}, "patch_multiple must be 28 for this model"),
    ({"trainer.logger": ["console", "files"]}, "unknown logger 'files'"),
    ({"trainer.n_gpus_per_node": 3}, "data.train_batch_size (4) must be a multiple of the 3 ranks"),
    ({"data.train_batch_size": 5000}, "(5000) is larger than the data, 256 traces"),
    ({"data.max_token_len_per_gpu": 100}, "must hold one sequence of data.max_length = 1536"),
    ({"data.custom_cls.name": None}, "data.custom_cls.name must be 'VideoSearchSFTDataset'"),
    ({"data.pad_mode": "right"}, "data.pad_mode must be 'no_padding'"),
    ({"model.lora_rank": 8}, "checkpoint.save_contents must not have hf_model with LoRA"),
    ({"engine.model_dtype": "bf16"}, "engine.model_dtype must be 'fp32', got 'bf16'"),
    ({"model.use_fused_kernels": True}, "model.use_fused_kernels must be False, got True"),
    ({"engine.ulysses_sequence_parallel_size": 3}, "parallel_size (3) must divide the number of"),
    (
        {"engine.ulysses_sequence_parallel_size": 2, "trainer.n_gpus_per_node": 2},
        "engine.ulysses_sequence_parallel_size is 2, so model.use_remove_padding must be true",
    ),
    ({"model.path": "outputs/7b/models/cold_strat"}, "no model in 'outputs/7b/models/cold_strat'"),
    (
        {"videosearch.episode.window": 2},
        "was made with other settings: window is 2 here, was 1 there",
    ),
    ({"data.train_files": "{data}/enough.parquet"}, "lacks the columns ['episode', 'replies']"),
]


@pytest.mark.parametrize(("settings", "message"), SFT_MISTAKES, ids=lambda value: str(value)[:50])
def test_a_mistake_of_a_supervised_run_is_named(
    data_dir: Path, settings: dict[str, Any], message: str
) -> None:
    settings = {
        key: value.replace("{data}", str(data_dir)) if isinstance(value, str) else value
        for key, value in settings.items()
    }
    config = make_sft_config(data_dir, settings, "videosearch_cold_start_tiny")
    problems = sft.find_problems(config)
    assert [problem for problem in problems if message in problem], problems


def test_a_supervised_sequence_may_be_shared_by_gpus(data_dir: Path) -> None:
    settings = {
        "engine.ulysses_sequence_parallel_size": 2,
        "data.max_token_len_per_gpu": 768,
        "model.use_remove_padding": True,
        "trainer.n_gpus_per_node": 2,
    }
    config = make_sft_config(data_dir, settings, "videosearch_cold_start_tiny")
    assert sft.find_problems(config) == []


def test_as_many_processes_as_the_config_says(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_sft_config(data_dir, {}, "videosearch_cold_start")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert sft.find_problems(config) == []
    monkeypatch.setenv("WORLD_SIZE", "4")
    (problem,) = sft.find_problems(config)
    assert "started 4 processes, but trainer.nnodes * trainer.n_gpus_per_node is 8" in problem


@pytest.mark.parametrize("cards", [4, 8])
def test_cards_and_flash_attn_are_looked_for_where_there_is_a_gpu(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, cards: int
) -> None:
    """The recipes for GPUs need flash-attn, the ones for a CPU run on a machine with GPUs, too."""
    monkeypatch.setattr(engine, "count_cards", lambda config: cards)
    monkeypatch.setattr(engine, "find_flash_fault", lambda: "no such module")
    for recipe, make, find, model in (
        ("videosearch_grpo", make_config, find_problems, "actor_rollout_ref.model"),
        ("videosearch_cold_start", make_sft_config, sft.find_problems, "model"),
    ):
        problems = find(make(data_dir, {}, recipe))
        assert len(problems) == 1 + (cards == 4)
        assert f"go without: {model}.use_remove_padding=false +{model}.override" in problems[0]
        assert cards == 8 or "is 8, but this machine has 4" in problems[1]
        without = {
            f"{model}.use_remove_padding": False,
            f"{model}.override_config.attn_implementation": "sdpa",
            "trainer.n_gpus_per_node": cards,
        }
        assert find(make(data_dir, without, recipe)) == []
        half = without | {f"{model}.use_remove_padding": True}
        assert "use_remove_padding=True" in str(find(make(data_dir, half, recipe)))


def test_a_recipe_for_a_cpu_counts_no_cards(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert engine.count_cards(make_config(data_dir, {})) == 0
    assert engine.count_cards(make_config(data_dir, {}, "videosearch_grpo")) == 2


def test_verl_s_sft_trainer_asks_us_first(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`auto_set_device` is the first thing that its `main` calls."""
    source = inspect.getsource(sft_trainer.main.__wrapped__)
    assert source.index("auto_set_device(") < source.index("run_sft(")
    config = make_sft_config(data_dir, {"data.train_files": "gone"}, "videosearch_rft_tiny")
    with pytest.raises(SystemExit) as caught:
        sft_trainer.auto_set_device(config)
    assert caught.value.code == 1
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        sft_trainer.auto_set_device(config)
    text = capfd.readouterr().err
    assert text.count("This run cannot start:\n- data.train_files: no such file: 'gone'") == 1
    plain = OmegaConf.create({"trainer": {"device": "cpu"}})
    sft_trainer.auto_set_device(plain)  # another's run is not ours to check


def test_a_finished_run_says_so_and_ends_well(
    data_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = {"trainer.default_local_dir": str(tmp_path), "trainer.total_training_steps": 40}
    config = make_sft_config(data_dir, folder, "videosearch_cold_start_tiny")
    assert describe_finished(config) is None
    (tmp_path / "global_step_20").mkdir()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("20")
    assert describe_finished(config) is None, "half-way"
    (tmp_path / "global_step_40").mkdir()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("40")
    with pytest.raises(SystemExit) as caught:
        sft_trainer.auto_set_device(config)
    assert caught.value.code == 0
    assert "This run is complete: step 40 of 40" in capfd.readouterr().err
    grpo_run = make_config(data_dir, folder)
    assert "raise trainer.total_training_steps" in str(describe_finished(grpo_run))
    for changes in ({"trainer.total_training_steps": 41}, {"trainer.resume_mode": "disable"}):
        assert describe_finished(make_config(data_dir, folder | changes)) is None


@pytest.mark.parametrize(
    ("environment", "has_key"),
    [
        ({}, False),
        ({"WANDB_API_KEY": "x"}, True),
        ({"WANDB_API_KEY": ""}, False),
        ({"WANDB_MODE": "offline"}, True),
        ({"WANDB_MODE": "online"}, False),
        ({"NETRC": "{folder}/netrc"}, True),
        ({"NETRC": "{folder}/other"}, False),
    ],
)
def test_wandb_must_not_ask(environment: dict[str, str], has_key: bool, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password x\n")
    given = {"NETRC": "/nowhere"} | {
        name: value.replace("{folder}", str(tmp_path)) for name, value in environment.items()
    }
    assert has_wandb_key(given) is has_key


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        (
            {"preprocessor_config.json": {"patch_size": 14, "merge_size": 2, "min_pixels": 3136}},
            (28, 3136, None),
        ),
        (
            {
                "preprocessor_config.json": {
                    "patch_size": 16,
                    "merge_size": 2,
                    "size": {"shortest_edge": 65536, "longest_edge": 16777216},
                }
            },
            (32, 65536, 16777216),
        ),
        (
            {"processor_config.json": {"image_processor": {"patch_size": 14, "merge_size": 2}}},
            (28, None, None),
        ),
        ({"preprocessor_config.json": {"crop_size": 336}}, None),
        ({}, None),
    ],
)
def test_a_model_says_how_it_sees(
    files: dict[str, Any], limits: tuple | None, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    read = read_image_limits(str(tmp_path))
    assert (read and (read.patch_multiple, read.min_pixels, read.max_pixels)) == limits


def test_qwen3_vl_is_refused_with_the_settings_that_fit(data_dir: Path, tmp_path: Path) -> None:
    sight = {
        "patch_size": 16,
        "merge_size": 2,
        "size": {"shortest_edge": 65536, "longest_edge": 16777216},
    }
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(sight))
    settings = {"actor_rollout_ref.model.path": str(tmp_path)}
    wrong = settings | {"videosearch.episode.patch_multiple": 28}
    (problem,) = find_problems(make_config(data_dir, wrong, "videosearch_grpo"))
    assert "set videosearch.episode.patch_multiple=32" in problem
    settings["videosearch.episode.patch_multiple"] = 32
    assert find_problems(make_config(data_dir, settings, "videosearch_grpo")) == []


@pytest.mark.parametrize(
    ("given", "multiple", "budgets"),
    [
        ({}, 32, (524288, 409600)),  # as many tokens as with patches of 28
        ({"patch_multiple": 64}, 64, (401408, 313600)),  # said, so nothing is fitted
        ({"tool_max_pixels": 784 * 100}, 32, (524288, 1024 * 100)),
    ],
)
def test_sizes_that_a_recipe_leaves_open_are_the_model_s(
    data_dir: Path, tmp_path: Path, given: dict, multiple: int, budgets: tuple[int, int]
) -> None:
    sight = {"patch_size": 16, "merge_size": 2, "size": {"shortest_edge": 65536}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(sight))
    given = {"patch_multiple": None} | given
    settings = {f"videosearch.episode.{name}": value for name, value in given.items()}
    settings["actor_rollout_ref.model.path"] = str(tmp_path)
    config = make_config(data_dir, settings, "videosearch_grpo")
    fit_to_model(config)
    episode = config.videosearch.episode
    assert episode.patch_multiple == multiple
    assert (episode.initial_max_pixels, episode.tool_max_pixels) == budgets
    fit_to_model(config)
    assert episode.initial_max_pixels == budgets[0], "fitted once"


@pytest.mark.parametrize(
    ("layers", "device", "dtype", "is_refused"),
    [
        (["linear_attention", "full_attention"], "cpu", "float32", True),
        (["linear_attention", "full_attention"], "cpu", "bfloat16", False),
        (["linear_attention", "full_attention"], "cuda", "float32", False),
        (["full_attention"], "cpu", "float32", False),
        (None, "cpu", "float32", False),
    ],
)
def test_linear_attention_is_refused_where_vllm_cannot_compute_it(
    data_dir: Path, tmp_path: Path, layers: Any, device: str, dtype: str, is_refused: bool
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"layer_types": layers}}))
    settings = {
        "actor_rollout_ref.model.path": str(tmp_path),
        "trainer.device": device,
        "actor_rollout_ref.rollout.dtype": dtype,
    }
    problems = find_problems(make_config(data_dir, settings))
    assert len(problems) == is_refused
    assert all("train it on a GPU" in problem for problem in problems)


def test_a_model_that_does_not_say_how_it_sees_leaves_the_sizes(
    data_dir: Path, tmp_path: Path
) -> None:
    settings = {"actor_rollout_ref.model.path": str(tmp_path)}
    settings["videosearch.episode.patch_multiple"] = None
    config = make_config(data_dir, settings, "videosearch_grpo")
    fit_to_model(config)
    assert config.videosearch.episode.patch_multiple is None
    assert (
        Settings.from_dict(
            OmegaConf.to_container(config.videosearch, resolve=True)
        ).episode.patch_multiple
        == 28
    )


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
