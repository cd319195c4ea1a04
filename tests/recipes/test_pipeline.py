"""What the two pipelines call: every command, as a stand-in for Python sees it."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("verl")

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from benchmarks.sweep.variants import VARIANTS, Variant
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.reward import RewardConfig
from verl_videosearch.verl_plugin.preflight.model import fit_to_model

ROOT = Path(__file__).parents[2]
BIG = {
    "PROFILE": "7b",
    "PAIRS": "pairs.parquet",
    "VIDEOS": "videos",
    "TEACHER": "http://teacher/v1",
    "TEACHER_MODEL": "strong",
    "BENCHMARKS": "sets",
}
RECORD = """
import json, os, sys
print(json.dumps(sys.argv[1:]))
if sys.argv[2].endswith("planning.check") and os.environ.get("REFUSES_CHECK"):
    sys.exit(1)
sys.exit(int(os.environ.get("STATUS_OF_" + sys.argv[3].upper(), "0")) if len(sys.argv) > 3 else 0)
"""


def run_pipeline(folder: Path, *stages: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the pipeline with a stand-in for Python that prints what it is called with."""
    (folder / "record.py").write_text(RECORD)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {folder}/record.py "$@"\n')
    python.chmod(0o755)
    variables = {"PATH": os.environ["PATH"], "PYTHON": str(python), "OUT": str(folder / "out")}
    command = ["bash", str(ROOT / "recipes/pipeline.sh"), *stages]
    return subprocess.run(
        command, env=variables | settings, cwd=folder, capture_output=True, text=True
    )


def list_commands(folder: Path, *stages: str, **settings: str) -> dict[str, list[str]]:
    """Return, by stage, the words that `recipes.stage` got."""
    result = run_pipeline(folder, *stages, **settings)
    assert result.returncode == 0, result.stderr
    calls = [json.loads(line) for line in result.stdout.splitlines()]
    named = [call for call in calls if call[1] == "verl_videosearch.recipes.stage"]
    return {call[2]: call[3:] for call in named}


PARTS = ("cold_start", "rft")


def values_of(option: str, words: list[str]) -> list[str]:
    return [after for word, after in zip(words, words[1:], strict=False) if word == option]


def test_tiny_runs_every_stage(tmp_path: Path) -> None:
    commands = list_commands(tmp_path)
    assert list(commands) == [
        *("pairs", "start", "splits", "captions_cold_start", "captions_rft", "traces"),
        *("cold_start", "samples", "rft", "grpo"),
        *("judge_start", "judge_cold_start", "judge_rft", "judge_grpo"),
        *("judge_cold_start-sampled", "judge_rft-sampled", "judge_grpo-sampled"),
        *("judge_grpo-no-window", "probe_grpo"),
    ]
    assert all("--tiny" in words for words in commands.values())


def test_pairs_of_two_looks_run_the_same_stages(tmp_path: Path) -> None:
    commands = list_commands(tmp_path, PROFILE="looks")
    assert [name for name in commands if name != "memory_grpo"] == list(list_commands(tmp_path))
    assert values_of("--profile", commands["pairs"]) == ["looks"]
    assert values_of("--one-cue", commands["traces"]) == [".25"]
    with_notes = {"traces", "captions_cold_start", "captions_rft"}
    for made, notes in ((commands, "list"), (list_commands(tmp_path), "newest")):
        found = {name: values_of("--notes", words) for name, words in made.items()}
        assert {name for name, values in found.items() if values} == with_notes
        assert all(found[name] == [notes] for name in with_notes)
        marked = ["3"] if notes == "list" else []
        visible = ["4"] if notes == "list" else []
        for part in PARTS:
            assert values_of("--marked", made[f"captions_{part}"]) == marked
            assert values_of("--visible", made[f"captions_{part}"]) == visible
    assert values_of("--text-layers", commands["start"]) == ["3"]
    assert "trainer.total_training_steps=4000" in commands["cold_start"]
    assert values_of("--memory", commands["memory_grpo"]) == ["all"]
    recipes = {name: values_of("--recipe", words) for name, words in commands.items()}
    assert all(found[0].endswith("_looks") for found in recipes.values() if found)
    for name, main in (("cold_start", "sft_trainer_engine"), ("grpo", "ppo_trainer")):
        episode = compose_command(commands[name], main).videosearch.episode
        assert (episode.frames_per_video, episode.max_frames_per_call) == (28, 2)
        assert (episode.max_tool_calls, episode.get("window", 1)) == (3, 1)
    assert "window=null" in values_of("--set", commands["judge_grpo-no-window"])


def test_a_policy_can_be_trained_without_a_window(tmp_path: Path) -> None:
    commands = list_commands(tmp_path, PROFILE="looks", WINDOW="null")
    for name in ("captions_cold_start", "captions_rft", "traces", "samples"):
        assert values_of("--episode", commands[name]) == ["window=null"]
    assert values_of("--set", commands["judge_rft"]) == ["window=null"]
    for name, main in (
        ("cold_start", "sft_trainer_engine"),
        ("rft", "sft_trainer_engine"),
        ("grpo", "ppo_trainer"),
    ):
        assert compose_command(commands[name], main).videosearch.episode.window is None
    assert values_of("--set", commands["judge_grpo-window-1"]) == ["window=null", "window=1"]
    assert "judge_grpo-no-window" not in commands


def test_variants_change_one_thing(tmp_path: Path) -> None:
    changes = {"TRACES": "--direct .9 --cued-gap .1", "TRACE_FILTER": "correct"}
    commands = list_commands(tmp_path, **changes, SAMPLES="--max-ratio 1", GRPO_START="cold_start")
    assert values_of("--direct", commands["traces"]) == [".9"]
    assert values_of("--filter", commands["traces"]) == ["correct"]
    assert values_of("--max-ratio", commands["samples"]) == ["1"]
    model = compose_command(commands["grpo"], "ppo_trainer").actor_rollout_ref.model.path
    assert model == str(tmp_path / "out/models/cold_start")


@pytest.mark.parametrize(
    "variant", [v for v in VARIANTS.values() if v.settings], ids=lambda variant: variant.name
)
def test_every_row_of_the_sweep_composes(tmp_path: Path, variant: Variant) -> None:
    commands = list_commands(tmp_path, PROFILE="looks", **variant.settings)
    ours = compose_command(commands["grpo"], "ppo_trainer").videosearch
    EpisodeConfig.from_dict(OmegaConf.to_container(ours.episode)).check_words()
    RewardConfig.from_dict(OmegaConf.to_container(ours.reward))
    for name in ("traces", "samples"):
        module, *arguments = commands[name][commands[name].index("-m") + 1 :]
        command, rest = load_command(module, arguments)
        command.make_context(name, list(rest))


def test_an_unknown_mix_is_refused(tmp_path: Path) -> None:
    for settings in ({"MIX": "other"}, {"PROFILE": "other"}):
        result = run_pipeline(tmp_path, **settings)
        assert result.returncode == 2 and "got 'other'" in result.stderr and not result.stdout


def test_a_stage_alone(tmp_path: Path) -> None:
    commands = list_commands(tmp_path, "rft", "judge_rft")
    assert list(commands) == ["rft", "judge_rft"]
    assert all("--again" in words for words in commands.values())


@pytest.mark.parametrize("settings", [{"PROFILE": "tiny"}, {"PROFILE": "looks"}, BIG])
def test_an_unknown_stage_ends_the_pipeline_before_it_begins(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    for words in (("rft", "judge_rtf"), ("3",), ("RFT",)):
        result = run_pipeline(tmp_path, *words, **settings)
        assert result.returncode == 2 and not result.stdout
        assert f"no stage is called '{words[-1]}'; there are " in result.stderr
        assert " rft grpo judge_" in result.stderr
    listed = run_pipeline(tmp_path, LIST="1", **settings)
    names = list(list_commands(tmp_path, **settings))
    assert [n for n in listed.stdout.split() if n != "results"] == names and not listed.stderr


def test_training_pairs_are_split_against_every_benchmark_that_is_reported(tmp_path: Path) -> None:
    commands = list_commands(tmp_path, **BIG)
    built = [name for name in commands if name.startswith("benchmark_")]
    assert list(commands)[:4] == [*built, "splits"] and len(built) == 3
    out = tmp_path / "out/benchmarks"
    names = [name.removeprefix("benchmark_") for name in built]
    assert values_of("--against", commands["splits"]) == [f"{out}/{name}.parquet" for name in names]
    assert values_of("--against-root", commands["splits"]) == [f"sets/{name}" for name in names]
    judged = {
        benchmark
        for name, words in commands.items()
        if name.startswith("judge_")
        for benchmark in values_of("--benchmark", words)
    }
    assert judged == set(names)


def test_no_judge_is_asked_about_what_it_was_trained_on(tmp_path: Path) -> None:
    commands = list_commands(tmp_path, **BIG)
    judges = [words for name, words in commands.items() if name.startswith("judge_")]
    assert len(judges) == 9
    for words in judges:
        trained = [Path(file) for file in values_of("--against", words)]
        assert [file.stem for file in trained] == ["cold_start", "rft", "grpo"]
        assert {file.parent for file in trained} == {tmp_path / "out/splits"}
        assert values_of("--against-root", words) == ["videos"] and "--allow-trained" not in words


def test_validation_is_capped(tmp_path: Path) -> None:
    [parts] = values_of("--fractions", list_commands(tmp_path, **BIG)["splits"])
    assert "validation=512" in parts.split(",")


def test_as_many_checkpoints_are_kept_as_are_validated(tmp_path: Path) -> None:
    trainer = compose_command(list_commands(tmp_path, **BIG)["grpo"], "ppo_trainer").trainer
    validated = -(-trainer.total_training_steps // trainer.test_freq)
    assert trainer.max_actor_ckpt_to_keep >= validated and trainer.save_freq == trainer.test_freq


@pytest.mark.parametrize("cards", ["8", "4"])
def test_both_trainings_take_the_cards_that_are_given(tmp_path: Path, cards: str) -> None:
    commands = list_commands(tmp_path, **BIG, GPUS=cards)
    for name, main in (
        *dict.fromkeys(PARTS, "sft_trainer_engine").items(),
        ("grpo", "ppo_trainer"),
    ):
        trainer = compose_command(commands[name], main).trainer
        assert trainer.n_gpus_per_node == int(cards)
        assert name == "grpo" or f"--nproc_per_node={cards}" in commands[name]


@pytest.mark.parametrize("settings", [{}, BIG], ids=["tiny", "7b"])
def test_every_training_takes_overrides(tmp_path: Path, settings: dict[str, str]) -> None:
    given = {
        "SFT_SETTINGS": "model.use_remove_padding=false model.lora_rank=8",
        "GRPO_SETTINGS": "actor_rollout_ref.model.use_remove_padding=false",
    }
    commands = list_commands(tmp_path, **settings, **given)
    for name in PARTS:
        model = compose_command(commands[name], "sft_trainer_engine").model
        assert (model.use_remove_padding, model.lora_rank) == (False, 8)
    grpo = compose_command(commands["grpo"], "ppo_trainer").actor_rollout_ref.model
    assert grpo.use_remove_padding is False and grpo.lora_rank == 0


def test_servers_play_as_many_episodes_at_once_as_the_plan_counts_with(tmp_path: Path) -> None:
    for name, words in list_commands(tmp_path, **BIG).items():
        if name == "samples" or name.startswith("judge_"):
            assert values_of("--concurrency", words) == ["32"], name


def test_a_training_that_would_be_refused_ends_the_pipeline_before_it_begins(
    tmp_path: Path,
) -> None:
    checked = run_pipeline(tmp_path, **BIG, CHECK="1", GPUS="4")
    calls = [json.loads(line) for line in checked.stdout.splitlines()]
    assert [call[1] for call in calls] == ["verl_videosearch.planning.check"] * 3
    for call, name in zip(calls, (*PARTS, "grpo"), strict=True):
        assert f"+recipe=videosearch_{name}" in call and "trainer.n_gpus_per_node=4" in call
    refused = run_pipeline(tmp_path, **BIG, REFUSES_CHECK="1")
    assert refused.returncode == 1 and not refused.stdout
    [one] = run_pipeline(tmp_path, "rft", **BIG, CHECK="1").stdout.splitlines()
    assert "+recipe=videosearch_rft" in json.loads(one)


def compose_command(words: list[str], main: str) -> DictConfig:
    """Compose what a stage gives to a trainer of verl."""
    command = words[words.index("--") + 1 :]
    overrides = [word for word in command if "=" in word and not word.startswith("-")]
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(main, overrides=overrides)


@pytest.mark.parametrize(("patch_size", "multiple"), [(14, 28), (16, 32)])
def test_the_model_picks_its_settings(tmp_path: Path, patch_size: int, multiple: int) -> None:
    (tmp_path / "model").mkdir()
    sight = {"patch_size": patch_size, "merge_size": 2}
    (tmp_path / "model/preprocessor_config.json").write_text(json.dumps(sight))
    commands = list_commands(tmp_path, **BIG, MODEL=str(tmp_path / "model"))
    assert not values_of("--episode", commands["traces"] + commands["samples"])
    for name, main in (("cold_start", "sft_trainer_engine"), ("grpo", "ppo_trainer")):
        config = compose_command(commands[name], main)
        node = config.model if name == "cold_start" else config.actor_rollout_ref.model
        node.path = str(tmp_path / "model")  # GRPO's start is made by the stages before
        fit_to_model(config)
        episode = config.videosearch.episode
        assert episode.patch_multiple == multiple
        assert episode.initial_max_pixels / multiple**2 == 512
        assert episode.tool_max_pixels / multiple**2 == 400


def test_a_failing_stage_ends_the_pipeline_with_its_status(tmp_path: Path) -> None:
    result = run_pipeline(tmp_path, STATUS_OF_TRACES="3")
    assert result.returncode == 3 and "cold_start" not in result.stdout.splitlines()[-1][:90]


@pytest.mark.parametrize("variable", ["PAIRS", "VIDEOS", "TEACHER", "TEACHER_MODEL", "BENCHMARKS"])
def test_what_is_missing_is_named(tmp_path: Path, variable: str) -> None:
    settings = {name: value for name, value in BIG.items() if name != variable}
    result = run_pipeline(tmp_path, **settings)
    assert result.returncode and f"{variable}: " in result.stderr and not result.stdout


def test_the_scripts_can_be_read() -> None:
    for path in (ROOT / "recipes").glob("*.sh"):
        lines = path.read_text("utf-8").splitlines()
        assert len(lines) <= 120 and max(map(len, lines)) <= 120, path


def load_command(module: str, words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the program that a stage calls, and its arguments."""
    if module == "verl_videosearch.cli":
        group = typer.main.get_command(importlib.import_module(module).app)
        return group.commands[words[0]].load(), words[1:]
    name = f"{module}.__main__" if module.endswith("hide_and_seek") else module
    app = typer.Typer()
    app.command()(importlib.import_module(name).main)
    return typer.main.get_command(app), words


@pytest.mark.parametrize("settings", [{}, {"PROFILE": "looks"}, BIG], ids=["tiny", "looks", "7b"])
def test_every_program_takes_the_options_that_it_gets(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    for name, words in list_commands(tmp_path, **settings).items():
        module, *arguments = words[words.index("-m") + 1 :]
        if module.startswith("verl_videosearch."):
            command, rest = load_command(module, arguments)
            command.make_context(name, list(rest))  # raises for an option that is none
