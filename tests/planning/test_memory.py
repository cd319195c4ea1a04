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

from tests.engine import model_dir
from verl_videosearch.planning import shapes
from verl_videosearch.planning.memory import (
    list_problems,
    make_plan,
    show_cache,
    show_disk,
    sum_pixels,
)
from verl_videosearch.planning.setup import GIB, compose_config, read_setup
from verl_videosearch.planning.shapes import (
    ARCHITECTURES,
    EPISODES,
    ModelName,
    build_model,
    measure_model,
    measure_peak,
)
from verl_videosearch.sample import PreferenceSample, write_samples
from verl_videosearch.verl_plugin.preflight.grpo import find_problems

PAGE = (Path(__file__).parents[2] / "docs" / "seven_b.md").read_text("utf-8")
COMMAND = ["videosearch", "plan"]
TEXT_CONFIG = ARCHITECTURES[ModelName.QWEN2_5_VL_7B].text
SMALL = {"num_hidden_layers": 2, "depth": 2}


def read_commands() -> list[list[str]]:
    """Return the arguments of each `memory_plan` on the page; a block of bare overrides goes on
    with the last one."""
    commands: list[list[str]] = []
    for block in re.findall(r"(?:^    .*\n)+", PAGE, re.MULTILINE):
        for line in block.replace("\\\n", "").splitlines():
            words = shlex.split(line, comments=True)
            if words[:2] == COMMAND and not {"...", "--check"} & set(words):
                commands.append(words[2:])
            elif words and all(re.match(r"[a-z_.]+=", word) for word in words):
                commands.append(commands[-1] + words)
    return commands


def split_options(words: list[str]) -> tuple[str, ModelName, float, tuple[str, ...]]:
    """Return recipe, model, card and overrides, those that the model needs included."""
    options = {"--recipe": "videosearch_grpo", "--card-gib": "79", "--model": "qwen2.5-vl-7b"}
    while words and words[0] in options:
        options[words[0]], words = words[1], words[2:]
    name = ModelName(options["--model"])
    episode = (f"videosearch.episode.{setting}" for setting in EPISODES[name])
    return options["--recipe"], name, float(options["--card-gib"]), (*episode, *words)


def test_the_page_has_commands() -> None:
    assert len(read_commands()) == 9
    assert sum("lora_rank=64" in " ".join(words) for words in read_commands()) == 3


@pytest.mark.parametrize(
    "words", read_commands(), ids=lambda words: " ".join(words)[:60] or "default"
)
def test_a_command_of_the_page_can_start_and_fits(words: list[str], tmp_path: Path) -> None:
    recipe, name, card_gib, overrides = split_options(words)
    config = compose_config(recipe, overrides)  # Hydra refuses a key that verl does not know
    if "grpo" in recipe:
        given = give_files(config, tmp_path)
        problems = find_problems(given)  # those of sight are about the tiny model of the tests
        assert [problem for problem in problems if "for this model" not in problem] == []
        verls_own = getattr(validate_config, "__wrapped__", validate_config)
        verls_own(given, use_reference_policy=True, use_critic=False)
        for node in (config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout):
            omega_conf_to_dataclass(node)  # verl's own checks
    else:
        omega_conf_to_dataclass(config.engine)
        assert config.data.max_token_len_per_gpu >= config.data.max_length
    setup = read_setup(config)
    assert setup.engine is None or setup.num_gpus % setup.engine.tensor_parallel == 0
    plan = make_plan(setup, card_gib, name)
    is_default = name is ModelName.QWEN2_5_VL_7B and not overrides
    assert list_problems(plan, setup, card_gib, 150 if is_default else 250) == []
    assert max(map(sum_pixels, plan.host.values())) < (60 if is_default else 62) * GIB
    for parts in (plan.update, plan.sync, plan.rollout):
        total = sum(parts.values()) / GIB
        assert total < card_gib
        assert not parts or f"{total:.1f}" in PAGE
    if setup.engine:
        assert plan.num_cached_tokens > 8 * setup.engine.max_context
        assert plan.num_cached_tokens >= (
            setup.engine.max_model_len or ARCHITECTURES[name].text["max_position_embeddings"]
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
    between = plan.host["episodes"]
    assert between["Adam between updates"] == 2 * between["weights between updates"]


def test_what_does_not_fit_is_said() -> None:
    setup = read_setup(compose_config("videosearch_grpo", ("trainer.n_gpus_per_node=1",)))
    setup = replace(setup, token_budget=1024)
    problems = list_problems(make_plan(setup, 22), setup, 22, 10)
    assert [problem.partition(" needs")[0] for problem in problems[:1]] == ["a card"]
    assert any("vLLM's cache holds 0 tokens" in problem for problem in problems)
    assert any("the host needs" in problem for problem in problems)


def test_images_are_those_of_running_episodes_and_caches_those_of_the_recipe() -> None:
    config = compose_config("videosearch_grpo", ("trainer.n_gpus_per_node=2",))
    engine = read_setup(config).engine
    assert (engine.num_episodes, engine.num_running, engine.num_validated) == (2048, 256, 256)
    assert engine.image_cache_gib == 1
    every = compose_config("videosearch_grpo", ("videosearch.rollout.max_running_episodes=9999",))
    assert read_setup(every).engine.num_running == 2048


def count(recipe: str, *overrides: str) -> int | None:
    return read_setup(compose_config(recipe, overrides)).num_kept


def test_checkpoints_that_nothing_limits_are_counted() -> None:
    grpo, keep_all = "videosearch_grpo", "trainer.max_actor_ckpt_to_keep=null"
    assert count(grpo) == 2
    assert count(grpo, keep_all) == 8, "of every tenth step, and of step 75"
    assert count(grpo, keep_all, "trainer.save_freq=-1") == 0
    cold_start, keep_all = "videosearch_cold_start", "trainer.max_ckpt_to_keep=null"
    assert count(cold_start) == count("videosearch_rft") == 2
    assert count(cold_start, keep_all) is None, "as the traces say"
    by_epoch = "trainer.save_freq=after_each_epoch"
    assert count(cold_start, keep_all, by_epoch) == 2 and count("videosearch_rft", by_epoch) == 1


def test_a_plan_whose_checkpoints_cannot_be_counted_is_shown() -> None:
    setup = read_setup(compose_config("videosearch_grpo"))
    plan = make_plan(setup, 79)
    assert ("8 are kept", "989") in show_disk(plan, replace(setup, num_kept=8)).rows
    assert "as many times as the run saves" in str(show_disk(plan, replace(setup, num_kept=None)))


def test_workers_are_counted_for_all_nodes() -> None:
    for overrides, running in (
        ((), "32"),
        (("trainer.nnodes=2",), "16"),
        (("trainer.nnodes=2", "actor_rollout_ref.rollout.agent.num_workers=16"), "32"),
    ):
        setup = read_setup(compose_config("videosearch_grpo", overrides))
        table = show_cache(make_plan(setup, 79), setup, setup.engine)
        assert table.rows[-1][1] == running and "episodes at once" in table.rows[-1][0]


def test_a_second_family() -> None:
    size = measure_model(build_model(ModelName.QWEN3_VL_8B))
    assert (size.all, size.vision) == (8_767_123_696, 576_388_336)
    small = {"num_hidden_layers": 2, "depth": 9}
    model = build_model(ModelName.QWEN3_VL_8B, **small)
    assert measure_peak(model, 2048, 1024) > measure_peak(model, 1024, 512) > 0
