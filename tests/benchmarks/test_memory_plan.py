"""The memory plan counts shapes right, and every command on its page is a run that can start and
fits the card."""

import copy
import doctest
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("verl")

import torch
from omegaconf import DictConfig, OmegaConf
from verl.utils.config import omega_conf_to_dataclass, validate_config

from benchmarks import shapes
from benchmarks.memory_plan import GIB, compose_config, make_plan, read_setup
from benchmarks.shapes import TEXT as TEXT_CONFIG
from benchmarks.shapes import build_model, measure_model, measure_peak
from tests.engine import model_dir
from verl_videosearch.sample import PreferenceSample, write_samples
from verl_videosearch.verl_plugin.preflight.grpo import find_problems

PAGE = (Path(__file__).parents[2] / "docs" / "seven_b.md").read_text("utf-8")
COMMAND = ["python", "-m", "benchmarks.memory_plan"]
SMALL = {"num_hidden_layers": 2, "depth": 2}


def read_commands() -> list[list[str]]:
    """Return the arguments of each `memory_plan` on the page; a block of bare overrides goes on
    with the last one."""
    commands: list[list[str]] = []
    for block in re.findall(r"(?:^    .*\n)+", PAGE, re.MULTILINE):
        for line in block.replace("\\\n", "").splitlines():
            words = shlex.split(line, comments=True)
            if words[:3] == COMMAND and "..." not in words:
                commands.append(words[3:])
            elif words and all(re.match(r"[a-z_.]+=", word) for word in words):
                commands.append(commands[-1] + words)
    return commands


def split_options(words: list[str]) -> tuple[str, float, tuple[str, ...]]:
    """Return recipe, card and overrides."""
    options = {"--recipe": "videosearch_grpo", "--card-gib": "79"}
    while words and words[0] in options:
        options[words[0]], words = words[1], words[2:]
    return options["--recipe"], float(options["--card-gib"]), tuple(words)


def test_the_page_has_commands() -> None:
    assert len(read_commands()) == 8
    assert sum("lora_rank=64" in " ".join(words) for words in read_commands()) == 3


@pytest.mark.parametrize(
    "words", read_commands(), ids=lambda words: " ".join(words)[:60] or "default"
)
def test_a_command_of_the_page_can_start_and_fits(words: list[str], tmp_path: Path) -> None:
    recipe, card_gib, overrides = split_options(words)
    config = compose_config(recipe, overrides)  # Hydra refuses a key that verl does not know
    if "grpo" in recipe:
        given = give_files(config, tmp_path)
        assert find_problems(given) == []
        validate_config(given, use_reference_policy=True, use_critic=False)
        for node in (config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout):
            omega_conf_to_dataclass(node)  # verl's own checks
    else:
        omega_conf_to_dataclass(config.engine)
        assert config.data.max_token_len_per_gpu >= config.data.max_length
    setup = read_setup(config)
    assert setup.engine is None or setup.num_gpus % setup.engine.tensor_parallel == 0
    plan = make_plan(setup, card_gib)
    for parts in (plan.update, plan.sync, plan.rollout):
        total = sum(parts.values()) / GIB
        assert total < card_gib
        assert not parts or f"{total:.1f}" in PAGE
    if setup.engine:
        assert plan.num_cached_tokens > 8 * setup.engine.max_context
        assert plan.num_cached_tokens >= (
            setup.engine.max_model_len or TEXT_CONFIG["max_position_embeddings"]
        )
    assert f"{plan.disk / GIB:,.0f}" in PAGE or setup.lora_rank


def give_files(config: DictConfig, folder: Path) -> DictConfig:
    labels = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}
    for name in ("1.mp4", "2.mp4"):
        (folder / name).touch()
    samples = [PreferenceSample(f"{i}", "a cat", "1.mp4", "2.mp4", labels) for i in range(256)]
    write_samples(folder / "pairs.parquet", samples)
    config, pairs = copy.deepcopy(config), str(folder / "pairs.parquet")
    given = {
        "data.train_files": pairs,
        "data.val_files": pairs,
        "videosearch.frames.video_root": str(folder),
    }
    for key, value in (given | {"actor_rollout_ref.model.path": str(model_dir())}).items():
        OmegaConf.update(config, key, value, force_add=True)
    return config


def test_lora_is_read() -> None:
    lora = (
        "actor_rollout_ref.model.lora_rank=8",
        "actor_rollout_ref.model.exclude_modules='.*visual.*'",
    )
    setup = read_setup(compose_config("videosearch_grpo", lora))
    assert (setup.lora_rank, setup.exclude_modules) == (8, ".*visual.*")
    assert setup.engine.is_adapter and not setup.engine.has_reference


def test_parameters() -> None:
    size = measure_model(build_model())
    assert (size.all, size.vision, size.trained) == (8_292_166_656, 676_550_144, size.all)
    assert f"{size.all:,}" in PAGE and f"{size.vision:,}" in PAGE
    frozen = measure_model(build_model(is_vision_frozen=True))
    assert frozen.trained == size.all - size.vision
    adapted = measure_model(build_model(lora_rank=64, exclude_modules=".*visual.*"))
    assert adapted.trained == adapted.adapter == adapted.all - size.all > 1e8
    assert measure_model(build_model(lora_rank=64)).trained > adapted.trained


def test_the_meter_counts_what_is_alive() -> None:
    assert doctest.testmod(shapes).failed == 0


def test_a_micro_batch_grows_with_its_tokens_and_layers() -> None:
    model = build_model(**SMALL)
    small, large = measure_peak(model, 1024, 512), measure_peak(model, 2048, 1024)
    logits = 1024 * TEXT_CONFIG["vocab_size"] * 2
    assert logits < large - small < 2 * logits
    deeper = measure_peak(build_model(**SMALL | {"num_hidden_layers": 4}), 2048, 1024)
    assert (
        deeper - large == 2 * 2048 * TEXT_CONFIG["hidden_size"] * 2
    )  # a checkpoint per layer, in bfloat16


def test_a_frozen_tower_keeps_no_checkpoints() -> None:
    model = build_model(**SMALL, is_vision_frozen=True)
    assert measure_peak(model, 1024, 1024, is_vision_frozen=True) < measure_peak(model, 1024, 1024)


def test_the_model_takes_no_memory() -> None:
    assert {weight.device for weight in build_model().parameters()} == {torch.device("meta")}


def test_offloads_leave_the_card() -> None:
    setup = read_setup(compose_config("videosearch_grpo"))
    small = replace(setup, token_budget=1024, offloads_weights=True, offloads_optimizer=True)
    plan = make_plan(small, 79)
    assert (
        plan.rollout["weights of the trainer"]
        == plan.rollout["Adam"]
        == plan.sync["weights of the trainer"]
        == 0
    )
    assert plan.host["Adam between updates"] == 2 * plan.host["weights between updates"]
