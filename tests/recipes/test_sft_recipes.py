"""The SFT recipes compose as verl composes them, name real things, and mean the same episodes as
the GRPO recipes."""

from pathlib import Path
from types import SimpleNamespace

import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("verl")

import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from transformers import AutoModelForImageTextToText
from verl.utils.import_utils import load_extern_object

from tests.engine import compose_recipe, model_dir
from verl_videosearch.verl_plugin.frozen_vision import freeze_in_engine, freeze_vision
from verl_videosearch.verl_plugin.settings import Settings

RECIPES = Path(__file__).parents[2] / "recipes" / "recipe"
TWINS = {
    "videosearch_cold_start": "videosearch_grpo",
    "videosearch_cold_start_tiny": "videosearch_grpo_tiny",
    "videosearch_cold_start_looks": "videosearch_grpo_looks",
    "videosearch_rft_looks": "videosearch_grpo_looks",
    "videosearch_rft": "videosearch_grpo",
    "videosearch_rft_tiny": "videosearch_grpo_tiny",
}
OURS = {"data.videosearch"}


def compose_sft(name: str) -> DictConfig:
    """Compose a recipe as `python -m verl.trainer.sft_trainer +recipe=NAME` does."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("sft_trainer_engine", overrides=[f"+recipe={name}"])


def list_keys(node: object, prefix: str = "") -> set[str]:
    """Return the dotted names of all leaves of a plain config."""
    if not isinstance(node, dict) or not node:
        return {prefix}
    return set().union(
        *(list_keys(value, f"{prefix}.{key}".lstrip(".")) for key, value in node.items())
    )


@pytest.mark.parametrize("name", TWINS)
def test_every_key_is_known_to_verl_or_ours(name: str) -> None:
    with initialize_config_module("verl.trainer.config", version_base=None):
        known = list_keys(OmegaConf.to_container(compose("sft_trainer_engine")))
    written = OmegaConf.to_container(OmegaConf.load(RECIPES / f"{name}.yaml"))
    written.pop("defaults", None)
    open_dicts = (
        "model.override_config",
        "engine.mixed_precision",
        "optim.override_optimizer_config",
    )
    unknown = {
        key
        for key in list_keys(written)
        if key not in known
        and key.split(".")[0] != "videosearch"
        and not key.startswith(open_dicts)
    }
    assert unknown <= OURS


@pytest.mark.parametrize(("sft", "grpo"), TWINS.items())
def test_sft_and_rl_mean_the_same_episodes(sft: str, grpo: str) -> None:
    node = compose_sft(sft).data.videosearch
    settings = Settings.from_dict(OmegaConf.to_container(node, resolve=True))
    rl = compose_recipe(grpo)
    assert (
        settings.episode
        == Settings.from_dict(OmegaConf.to_container(rl.videosearch, resolve=True)).episode
    )
    assert (
        compose_sft(sft).data.max_length == rl.data.max_prompt_length + rl.data.max_response_length
    )


@pytest.mark.parametrize("name", TWINS)
def test_the_data_set_class_exists(name: str) -> None:
    custom = compose_sft(name).data.custom_cls
    assert load_extern_object(custom.path, custom.name).__name__ == "VideoSearchSFTDataset"


def test_the_numbers_are_the_papers() -> None:
    config = compose_sft("videosearch_cold_start")
    assert (config.optim.lr, config.optim.lr_warmup_steps_ratio, config.data.train_batch_size) == (
        1.5e-6,
        0.2,
        32,
    )
    assert config.model.external_lib == "verl_videosearch.verl_plugin.frozen_vision"
    assert compose_sft("videosearch_cold_start_tiny").model.external_lib is None


def test_only_the_vision_tower_is_frozen() -> None:
    model = freeze_vision(AutoModelForImageTextToText.from_pretrained(model_dir()))
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if ".visual." in name} != set()


def test_no_gradient_runs_through_a_frozen_tower() -> None:
    """Whoever asks for gradients of what the embeddings put out: transformers 5 for checkpointing,
    verl for LoRA."""
    model = AutoModelForImageTextToText.from_pretrained(model_dir())
    patches, grid = torch.zeros(16, 1176), torch.tensor([[1, 4, 4]])
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert model.model.visual(patches, grid_thw=grid).pooler_output.requires_grad
    freeze_vision(model).enable_input_require_grads()
    assert not model.model.visual(patches, grid_thw=grid).pooler_output.requires_grad
    assert model.get_input_embeddings()(torch.zeros(1, 2, dtype=torch.long)).requires_grad


def test_the_engine_freezes_what_it_builds() -> None:
    class Engine:
        def _build_module(self) -> torch.nn.Module:
            return AutoModelForImageTextToText.from_pretrained(model_dir())

    freeze_in_engine(SimpleNamespace(FSDPEngine=Engine))
    assert not any(
        weight.requires_grad
        for weight in Engine()._build_module().get_encoder("image").parameters()
    )


def test_a_model_without_a_tower_is_refused() -> None:
    text_model = AutoModelForImageTextToText.from_pretrained(model_dir()).get_decoder()
    with pytest.raises(ValueError, match="has no vision tower"):
        freeze_vision(text_model)
