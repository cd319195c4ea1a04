"""Every shipped recipe composes, says nothing that verl does not know, and holds the paper's
numbers."""

import re
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("verl")

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from verl.utils.import_utils import load_extern_object
from verl.workers.config import RolloutConfig as VerlRolloutConfig

from tests.engine import compose_recipe
from verl_videosearch.recipe import find_recipes
from verl_videosearch.verl_plugin.settings import Settings

FOLDER = Path(__file__).parents[2] / "recipes" / "recipe"
MAIN_CONFIGS = {
    "videosearch_cold_start": "sft_trainer_engine",
    "videosearch_cold_start_tiny": "sft_trainer_engine",
    "videosearch_cold_start_looks": "sft_trainer_engine",
    "videosearch_rft_looks": "sft_trainer_engine",
    "videosearch_grpo_looks": "ppo_trainer",
    "videosearch_grpo": "ppo_trainer",
    "videosearch_grpo_tiny": "ppo_trainer",
    "videosearch_rft": "sft_trainer_engine",
    "videosearch_rft_tiny": "sft_trainer_engine",
    "vr_thinker": "ppo_trainer",
}
PROGRAMS = {
    "sft_trainer_engine": "verl.trainer.sft_trainer",
    "ppo_trainer": "verl.trainer.main_ppo",
}

OURS = {
    "videosearch": "our own settings: verl_plugin/settings.py refuses unknown ones",
    "data.videosearch": "verl hands `data` alone to the SFT dataset",
}
OPEN = {
    "reward.custom_reward_function.reward_kwargs": "arguments of the reward function: those of "
    "RewardConfig",
    "model.override_config": "fields of the model's own config",
    "actor_rollout_ref.model.override_config": "fields of the model's own config",
    "engine.mixed_precision": "a dict that verl's FSDP engine reads",
    "actor_rollout_ref.actor.fsdp_config.mixed_precision": "a dict that verl's FSDP engine reads",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision": "a dict that verl's FSDP engine reads",
    "actor_rollout_ref.rollout.engine_kwargs.vllm": "arguments of vLLM's engine",
    "actor_rollout_ref.rollout.enable_sleep_mode": "a field of verl's RolloutConfig that its "
    "YAML leaves out",
    "ray_kwargs.ray_init": "arguments of ray.init",
    "optim.override_optimizer_config": "arguments of torch's optimizer",
    "actor_rollout_ref.actor.optim.override_optimizer_config": "arguments of torch's optimizer",
}
"""Places in verl's config that take any key, so that a misspelt one would pass: each with what
reads it."""


def read_recipe(name: str) -> dict[str, Any]:
    """Return what the file itself says."""
    written = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    written.pop("defaults", None)
    return written


def compose_plain(main_config: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_module("verl.trainer.config", version_base=None):
        return OmegaConf.to_container(compose(main_config, overrides=list(overrides)))


def list_leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from list_leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def is_below(key: str, parents: dict[str, str]) -> bool:
    return any(key == parent or key.startswith(f"{parent}.") for parent in parents)


@pytest.mark.parametrize("name", [name for name, main in MAIN_CONFIGS.items() if "ppo" in main])
def test_vllm_reserves_nothing_for_videos(name: str) -> None:
    # 7B on a GPU: the longest video that fits is larger than the processor cache, and vLLM dies
    engine = compose_recipe(name).actor_rollout_ref.rollout.engine_kwargs.vllm
    assert engine.limit_mm_per_prompt == {"video": 0}


def test_validation_holds_both_orders_of_every_pair() -> None:
    """verl draws single rows of a larger file: of most pairs one order only."""
    [num_pairs] = re.findall(r"validation=(\d+)", (FOLDER.parent / "7b.sh").read_text())
    assert compose_recipe("videosearch_grpo").data.val_max_samples == 2 * int(num_pairs)


def test_every_recipe_is_listed_here() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(MAIN_CONFIGS)


@pytest.mark.parametrize("name", MAIN_CONFIGS)
def test_a_recipe_composes_with_known_keys(name: str) -> None:
    main_config = MAIN_CONFIGS[name]
    known = compose_plain(main_config)
    known_keys = {key for key, _ in list_leaves(known)}
    unknown = [
        key
        for key, _ in list_leaves(read_recipe(name))
        if key not in known_keys and not is_below(key, OURS | OPEN)
    ]
    # an empty group of verl's counts as a leaf, so what we put into it must be listed as open
    assert unknown == []
    assert compose_plain(main_config, f"+recipe={name}")["videosearch"]


def test_open_places_are_used_and_real() -> None:
    used = {key for name in MAIN_CONFIGS for key, _ in list_leaves(read_recipe(name))}
    assert [
        place for place in OURS | OPEN if not any(is_below(key, {place: ""}) for key in used)
    ] == []
    assert "enable_sleep_mode" in {field.name for field in fields(VerlRolloutConfig)}


@pytest.mark.parametrize("name", MAIN_CONFIGS)
def test_a_recipe_is_portable_and_says_nothing_to_the_model(name: str) -> None:
    for key, value in list_leaves(read_recipe(name)):
        texts = [
            text
            for text in (value if isinstance(value, list) else [value])
            if isinstance(text, str)
        ]
        assert not [
            text
            for text in texts
            if text.startswith(("/", "~")) or "://" in text.replace("pkg://", "")
        ], key
        assert not [text for text in texts if len(text) > 80 or re.search(r"[<>\n]", text)], key


@pytest.mark.parametrize("name", MAIN_CONFIGS)
def test_the_header_is_the_manual(name: str) -> None:
    header = (FOLDER / f"{name}.yaml").read_text("utf-8").split("\n\n")[0]
    assert header.startswith("# @package _global_\n#\n# ")
    for word in ("Hardware  ", "Command   ", "Result    ", "Numbers   ", f"+recipe={name} "):
        assert word in header
    assert f"-m {PROGRAMS[MAIN_CONFIGS[name]]} " in header


@pytest.mark.parametrize(
    "name", ["videosearch_cold_start", "videosearch_grpo"]
)  # the others inherit the node
def test_every_number_has_a_source_or_a_reason(name: str) -> None:
    """In our own settings; verl's are explained where they are surprising."""
    text = (FOLDER / f"{name}.yaml").read_text("utf-8")
    node = text[text.index("\nvideosearch:") : text.index("\n\n", text.index("\nvideosearch:"))]
    numbers = [line for line in node.splitlines() if re.search(r": [\d.]+", line)]
    unexplained = [line.split(":")[0].strip() for line in numbers if "#" not in line]
    assert set(unexplained) <= {"decode_timeout_s", "episode_timeout_s", "group_timeout_s"}


def flatten(config: DictConfig) -> dict[str, Any]:
    return dict(list_leaves(OmegaConf.to_container(config)))


PAPER = {
    "algorithm.adv_estimator": "grpo",
    "algorithm.filter_groups.enable": True,
    "algorithm.filter_groups.metric": "acc",
    "algorithm.norm_adv_by_std_in_grpo": True,
    "algorithm.use_kl_in_reward": False,
    "data.train_batch_size": 256,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 64,
    "actor_rollout_ref.actor.ppo_epochs": 1,
    "actor_rollout_ref.actor.optim.lr": 1e-6,
    "actor_rollout_ref.actor.use_kl_loss": True,
    "actor_rollout_ref.actor.kl_loss_coef": 0.01,
    "actor_rollout_ref.actor.freeze_vision_tower": False,
    "actor_rollout_ref.actor.clip_ratio_low": 0.2,
    "actor_rollout_ref.actor.clip_ratio_high": 0.35,
    "actor_rollout_ref.actor.entropy_coeff": 0,
    "actor_rollout_ref.rollout.n": 8,
    "actor_rollout_ref.rollout.temperature": 1.0,
    "actor_rollout_ref.rollout.top_p": 1.0,
    "trainer.n_gpus_per_node": 8,
    "trainer.nnodes": 1,
    "trainer.total_training_steps": 75,
    "trainer.resume_mode": "auto",
    "trainer.logger": ["console", "file"],
    "actor_rollout_ref.actor.checkpoint.save_contents": ["model", "optimizer", "extra", "hf_model"],
    "videosearch.episode.frames_per_video": 48,
    "videosearch.episode.initial_frames_per_video": 4,
    "videosearch.episode.max_frames_per_call": 8,
    "videosearch.episode.max_tool_calls": 3,
    "videosearch.episode.window": 1,
    "videosearch.episode.initial_max_pixels": 512 * 28 * 28,
    "videosearch.episode.tool_max_pixels": 400 * 28 * 28,
    "videosearch.reward.overall_weight": 0.5,
    "videosearch.reward.gain_weight": 0.2,
    "videosearch.reward.exploration_weight": 0.5,
    "videosearch.reward.exploration_target": 0.2,
}


def test_the_paper_s_values() -> None:
    recipe = flatten(compose_recipe("videosearch_grpo"))
    assert {key: recipe[key] for key in PAPER} == PAPER


LABELS = {
    "videosearch_grpo": {
        **dict.fromkeys(("initial_frames_per_video", "window", "train_batch_size"), "paper"),
        **dict.fromkeys(("ppo_mini_batch_size", "use_kl_loss", "kl_loss_coef", "lr"), "paper"),
        **dict.fromkeys(("n", "filter_groups", "reward"), "paper"),
        **dict.fromkeys(("max_frames_per_call", "max_tool_calls", "initial_max_pixels"), "script"),
        **dict.fromkeys(("tool_max_pixels", "freeze_vision_tower", "clip_ratio"), "script"),
        **dict.fromkeys(("clip_ratio_low", "clip_ratio_high", "temperature"), "script"),
        **dict.fromkeys(("frames_per_video", "label_frames", "top_p", "format_weight"), "decided"),
        **dict.fromkeys(("total_training_steps",), "decided"),
    },
    "videosearch_cold_start": {
        **dict.fromkeys(("initial_frames_per_video", "window", "lr"), "paper"),
        "lr_warmup_steps_ratio": "paper",
        **dict.fromkeys(("max_frames_per_call", "max_tool_calls", "initial_max_pixels"), "script"),
        **dict.fromkeys(("tool_max_pixels", "train_batch_size", "external_lib"), "script"),
        **dict.fromkeys(("frames_per_video", "label_frames", "total_epochs"), "decided"),
        **dict.fromkeys(("lr_scheduler_type", "train_native_thought"), "decided"),
    },
}
"""Where a setting comes from: stated in the paper, only in the authors' scripts, or ours."""


@pytest.mark.parametrize("recipe", LABELS)
def test_a_number_says_where_it_comes_from(recipe: str) -> None:
    lines = (find_recipes() / f"{recipe}.yaml").read_text("utf-8").splitlines()
    found = [re.match(r" *(\w+): *([^#]*)# *(\w+)", line) for line in lines]
    first: dict[str, str] = {}
    for match in filter(None, found):
        first.setdefault(match[1], match[3])
    assert {name: first.get(name) for name in LABELS[recipe]} == LABELS[recipe]


def test_the_recipe_repeats_the_defaults_of_our_settings() -> None:
    node = OmegaConf.to_container(compose_recipe("videosearch_grpo").videosearch, resolve=True)
    written, default = asdict(Settings.from_dict(node)), asdict(Settings.from_dict({}))
    differing = {
        group: {k for k in default[group] if written[group][k] != default[group][k]}
        for group in default
    }
    expected = dict.fromkeys(default, set()) | {
        "rollout": {"episodes_dir"},
        "frames": {"max_gigabytes"},
    }
    assert differing == expected
    assert {group: set(node[group]) for group in node} == {
        group: set(default[group])
        for group in default
        if group != "sft"  # in the recipes of supervised training
    }, "all are written, so that videosearch.GROUP.NAME=VALUE works on the command line"


TINY_DIFFERS = {
    "videosearch.episode": {
        "frames_per_video",
        "max_frames_per_call",
        "max_tool_calls",
        "initial_max_pixels",
        "tool_max_pixels",
        "prompt_pack",
    },
    "videosearch.rollout": {
        "max_running_episodes",
        "max_turn_tokens",
        "episode_timeout_s",
        "group_timeout_s",
        "max_failed_groups",
    },
    "videosearch.frames": {"max_gigabytes"},
    "data": {
        "train_batch_size",
        "max_prompt_length",
        "max_response_length",
        "dataloader_num_workers",
    },
    "actor_rollout_ref.model": {"enable_gradient_checkpointing", "use_remove_padding"},
    "actor_rollout_ref.model.override_config": {"attn_implementation"},
    "actor_rollout_ref.actor": {
        "ppo_mini_batch_size",
        "ppo_max_token_len_per_gpu",
        "use_torch_compile",
    },
    "actor_rollout_ref.actor.optim": {"lr", "lr_scheduler_type"},
    "actor_rollout_ref.actor.optim.override_optimizer_config": {"fused"},
    "actor_rollout_ref.actor.fsdp_config": {"model_dtype", "dtype", "use_torch_compile"},
    "actor_rollout_ref.actor.fsdp_config.mixed_precision": {
        "param_dtype",
        "reduce_dtype",
        "buffer_dtype",
    },
    "actor_rollout_ref.ref.fsdp_config": {
        "param_offload",
        "model_dtype",
        "dtype",
        "use_torch_compile",
    },
    "actor_rollout_ref.ref.fsdp_config.mixed_precision": {
        "param_dtype",
        "reduce_dtype",
        "buffer_dtype",
    },
    "actor_rollout_ref.rollout": {
        "n",
        "temperature",
        "dtype",
        "load_format",
        "enforce_eager",
        "free_cache_engine",
        "enable_sleep_mode",
        "gpu_memory_utilization",
        "max_num_batched_tokens",
        "max_num_seqs",
    },
    "actor_rollout_ref.rollout.agent": {"num_workers"},
    "actor_rollout_ref.rollout.checkpoint_engine": {"update_weights_bucket_megabytes"},
    "actor_rollout_ref.rollout.engine_kwargs.vllm": {"skip_mm_profiling"},
    "transfer_queue.backend.SimpleStorage": {"num_data_storage_units"},
    "trainer": {
        "device",
        "n_gpus_per_node",
        "total_training_steps",
        "experiment_name",
        "save_freq",
        "max_actor_ckpt_to_keep",
        "test_freq",
    },
    "ray_kwargs.ray_init": {"num_cpus", "num_gpus", "include_dashboard"},
    "ray_kwargs.ray_init.runtime_env.env_vars": {"TQ_NUM_THREADS"},
}
"""Sizes and what a CPU needs; whatever decides the method stays as in the paper's recipe."""


def test_tiny_changes_sizes_and_what_a_cpu_needs() -> None:
    allowed = {f"{group}.{name}" for group, names in TINY_DIFFERS.items() for name in names}
    assert {key for key, _ in list_leaves(read_recipe("videosearch_grpo_tiny"))} == allowed
    full, tiny = (
        flatten(compose_recipe("videosearch_grpo")),
        flatten(compose_recipe("videosearch_grpo_tiny")),
    )
    differing = {key for key in full.keys() | tiny.keys() if full.get(key) != tiny.get(key)}
    groups_made = {
        "actor_rollout_ref.model.override_config",
        "actor_rollout_ref.rollout.engine_kwargs.vllm",
        "actor_rollout_ref.actor.optim.override_optimizer_config",
    }
    groups_made |= {
        f"actor_rollout_ref.{role}.fsdp_config.mixed_precision" for role in ("actor", "ref")
    }
    assert differing - groups_made <= allowed


@pytest.mark.parametrize(
    "name", [name for name, main in MAIN_CONFIGS.items() if main == "ppo_trainer"]
)
def test_what_a_recipe_names_exists(name: str) -> None:
    recipe = compose_recipe(name)
    function = recipe.reward.custom_reward_function
    assert callable(load_extern_object(function.path, function.name))
    assert OmegaConf.to_container(function.reward_kwargs) == OmegaConf.to_container(
        recipe.videosearch.reward
    )


def test_our_settings_are_plain_overrides() -> None:
    with initialize_config_module("verl.trainer.config", version_base=None):
        recipe = compose(
            "ppo_trainer", ["+recipe=videosearch_grpo", "videosearch.episode.window=null"]
        )
        assert recipe.videosearch.episode.window is None
        with pytest.raises(Exception, match="Could not override 'videosearch.episode.windw'"):
            compose("ppo_trainer", ["+recipe=videosearch_grpo", "videosearch.episode.windw=1"])
