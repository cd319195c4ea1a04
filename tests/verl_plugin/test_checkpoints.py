"""A checkpoint in Hugging Face form says how it was trained, before verl calls it the newest; a
killed run goes on where it was."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("verl")

from torch.utils.data import Dataset, DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader
from verl.utils.checkpoint import CheckpointHandler, OrchestrationMode
from verl_videosearch.recipes import stage

from verl_videosearch.checkpoint import read_checkpoint_settings
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.judgement import DEFAULT_DIMENSIONS
from verl_videosearch.verl_plugin.checkpoints import save_with_settings, saves_settings
from verl_videosearch.verl_plugin.resume import TOTAL

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


class Rows(Dataset):
    """83 rows: ten batches of four on each of two ranks, with a rest."""

    def __len__(self) -> int:
        return 83

    def __getitem__(self, item: int) -> int:
        return item

    def describe_training(self) -> tuple[EpisodeConfig, Any]:
        return EPISODE, DEFAULT_DIMENSIONS


class SavingEngine(Engine):
    optimizer_config = SimpleNamespace(total_training_steps=30)

    def load_checkpoint(self, path: str) -> None:
        assert (Path(path) / "huggingface").is_dir()


def train(folder: Path, num_workers: int, killed_after: int | None = None) -> list[list[int]]:
    """Go through three epochs as verl's SFT trainer does, a checkpoint every five steps; return
    what each step was trained on."""
    sampler = DistributedSampler(Rows(), num_replicas=2, rank=0, shuffle=True, drop_last=True)
    loader = StatefulDataLoader(
        Rows(), batch_size=4, sampler=sampler, num_workers=num_workers, drop_last=True
    )
    handler = CheckpointHandler(
        SavingEngine(), loader, default_local_dir=str(folder), mode=OrchestrationMode.RAY
    )
    step = handler.load_checkpoint()
    trained: list[list[int]] = []
    for epoch in range(step // len(loader), 3):
        sampler.set_epoch(epoch)
        for batch in loader:
            trained.append(batch.tolist())
            step += 1
            if step % 5 == 0:
                handler.save_checkpoint(step)
            if step == killed_after:
                return trained
    return trained


@pytest.mark.parametrize(
    ("killed_after", "num_workers"), [(5, 0), (10, 0), (10, 1), (15, 0), (20, 0), (30, 0)]
)
def test_a_killed_run_goes_on_with_the_batches_that_were_left(
    tmp_path: Path, killed_after: int, num_workers: int
) -> None:
    """verl 0.9.1 skips the whole epoch after a checkpoint at the end of one."""
    whole = train(tmp_path / "whole", num_workers)
    assert len(whole) == 30
    first = train(tmp_path / "killed", num_workers, killed_after)
    assert first + train(tmp_path / "killed", num_workers) == whole


def test_the_number_of_steps_lies_beside_the_checkpoints(tmp_path: Path) -> None:
    """A stage that ends before it is no result, and the recipe gives epochs only."""
    train(tmp_path / "run", 0, killed_after=1)
    assert (tmp_path / "run" / TOTAL).read_text() == "30"
    assert TOTAL == stage.TOTAL
