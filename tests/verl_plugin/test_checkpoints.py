"""A checkpoint in Hugging Face form says how it was trained, before verl calls it the newest."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("verl")

from verl.utils.checkpoint import CheckpointHandler

from verl_videosearch.checkpoint import read_checkpoint_settings
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.judgement import DEFAULT_DIMENSIONS
from verl_videosearch.verl_plugin.checkpoints import save_with_settings, saves_settings

EPISODE = EpisodeConfig(window=2, max_tool_calls=1)


class Engine:
    """Writes a checkpoint as verl's does."""

    def save_checkpoint(self, local_path: str, **_: Any) -> str:
        (Path(local_path) / "huggingface").mkdir(parents=True)
        return "saved"


def test_the_settings_lie_beside_the_weights(tmp_path: Path) -> None:
    engine = Engine()
    with saves_settings(engine, EPISODE, DEFAULT_DIMENSIONS):
        assert engine.save_checkpoint(local_path=str(tmp_path / "a")) == "saved"
    settings = read_checkpoint_settings(tmp_path / "a" / "huggingface")
    assert settings is not None and settings.config == EPISODE
    assert settings.dimensions == tuple(DEFAULT_DIMENSIONS)
    engine.save_checkpoint(local_path=str(tmp_path / "b"))
    assert read_checkpoint_settings(tmp_path / "b" / "huggingface") is None


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    engine = Engine()
    with saves_settings(engine, EPISODE, DEFAULT_DIMENSIONS, is_writer=False):
        engine.save_checkpoint(local_path=str(tmp_path))
    assert read_checkpoint_settings(tmp_path / "huggingface") is None


@pytest.mark.parametrize("is_ours", [True, False])
def test_verl_s_handler_writes_them_before_it_notes_the_checkpoint(
    tmp_path: Path, is_ours: bool
) -> None:
    seen: list[bool] = []
    dataset = SimpleNamespace()
    if is_ours:
        dataset.describe_training = lambda: (EPISODE, DEFAULT_DIMENSIONS)
    handler = SimpleNamespace(engine=Engine(), train_dataloader=SimpleNamespace(dataset=dataset))

    def save_checkpoint(self: Any, step: int) -> None:
        self.engine.save_checkpoint(local_path=str(tmp_path / f"global_step_{step}"))
        seen.append((tmp_path / f"global_step_{step}/huggingface/videosearch.json").is_file())

    save_with_settings(save_checkpoint)(handler, 3)
    assert seen == [is_ours]


def test_verl_s_handler_is_wrapped() -> None:
    assert hasattr(CheckpointHandler.save_checkpoint, "__wrapped__")
