"""A model's folder says how large its patches are, and a recipe may leave the sizes to it."""

import json
from pathlib import Path

import pytest

from verl_videosearch.episode import EpisodeConfig, fit_patches
from verl_videosearch.recipe import make_episode, read_episode
from verl_videosearch.sight import find_patch_multiple


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "preprocessor_config.json").write_text('{"patch_size": 16, "merge_size": 2}')
    return tmp_path


def test_without_a_model_nothing_is_known(tmp_path: Path) -> None:
    assert find_patch_multiple(None) is None
    assert find_patch_multiple(tmp_path) is None


def test_an_episode_of_a_recipe_is_the_model_s(model: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("hydra")
    for recipe, tokens in (("videosearch_cold_start", 512), ("videosearch_cold_start_tiny", 4)):
        config = read_episode(recipe, [], model)
        assert (config.patch_multiple, config.initial_max_pixels) == (32, tokens * 32**2)
        config = read_episode(recipe, [])
        assert (config.patch_multiple, config.initial_max_pixels) == (28, tokens * 28**2)


@pytest.mark.parametrize("setting", ["patch_multiple=28", "patch_multiple=64"])
def test_what_is_said_is_not_fitted(model: Path, setting: str) -> None:
    pytest.importorskip("hydra")
    config = read_episode("videosearch_grpo", [setting], model)
    assert config.patch_multiple == int(setting[-2:])
    assert config.initial_max_pixels == 512 * 28**2


@pytest.mark.parametrize(
    "changes", [["initial_max_pixels=200704"], ["patch_multiple=null", "initial_max_pixels=200704"]]
)
def test_a_budget_that_is_changed_is_fitted_as_in_training(model: Path, changes: list[str]) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("hydra")
    from omegaconf import OmegaConf

    from verl_videosearch.verl_plugin.preflight.model import fit_to_model

    episode = {"patch_multiple": None, "initial_max_pixels": 200704}
    run = OmegaConf.create({"videosearch": {"episode": episode}, "model": {"path": str(model)}})
    fit_to_model(run)
    config = read_episode("videosearch_grpo", changes, model)
    assert (config.patch_multiple, config.initial_max_pixels) == (32, 262144)
    assert config.initial_max_pixels == run.videosearch.episode.initial_max_pixels


def test_null_does_not_fit_what_is_fitted_already(model: Path) -> None:
    fitted = {"patch_multiple": 32, "initial_max_pixels": 262144}
    for changes in ({}, {"patch_multiple": None}):
        config = make_episode(fitted, changes, model)
        assert (config.patch_multiple, config.initial_max_pixels) == (32, 262144)


def test_a_checkpoint_s_own_settings_are_not_fitted(model: Path) -> None:
    """They are what it was trained with, sizes included."""
    pytest.importorskip("transformers")
    assert read_episode(None, [], model) == EpisodeConfig()


def test_null_without_a_model_is_qwen2_5_vl_s() -> None:
    assert EpisodeConfig.from_dict({"patch_multiple": None}) == EpisodeConfig()
    assert EpisodeConfig.from_dict({}) == EpisodeConfig()


def test_wrong_budgets_are_left_to_the_check() -> None:
    settings = {"patch_multiple": None, "tool_max_pixels": "many"}
    assert fit_patches(settings, 32)["tool_max_pixels"] == "many"
    with pytest.raises(ValueError, match="tool_max_pixels must be a whole number"):
        EpisodeConfig.from_dict(settings)


def test_settings_are_plain_json(model: Path) -> None:
    assert json.loads(json.dumps(fit_patches({"patch_multiple": None}, 32)))["patch_multiple"] == 32
