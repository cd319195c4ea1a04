"""Every checkpoint in Hugging Face form says how it was trained: `videosearch.json` beside its
weights.

The one idea: the file is written together with the weights, before verl 0.9.1 notes the checkpoint
as the newest one; so whatever a killed run is resumed from, or a pipeline takes over, has it.

    SFT, RFT   verl.utils.checkpoint.CheckpointHandler.save_checkpoint    wrapped on import
    GRPO       VideoSearchTrainer._save_checkpoint                        uses `saves_settings`
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from verl_videosearch.checkpoint import write_checkpoint_settings
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.judgement import Dimension

FOLDER = "huggingface"
"""verl's name for the folder of weights, tokenizer and configuration."""


@contextmanager
def saves_settings(
    owner: Any, episode: EpisodeConfig, dimensions: Sequence[Dimension], *, is_writer: bool = True
) -> Iterator[None]:
    """Let `owner.save_checkpoint(local_path, ...)` write `videosearch.json`, too, inside the
    block."""
    save = owner.save_checkpoint

    def save_both(local_path: str, *args: Any, **kwargs: Any) -> Any:
        result = save(local_path, *args, **kwargs)
        folder = Path(local_path) / FOLDER
        if is_writer and folder.is_dir():
            write_checkpoint_settings(folder, episode, dimensions)
        return result

    owner.save_checkpoint = save_both
    try:
        yield
    finally:
        owner.save_checkpoint = save


def save_with_settings(save_checkpoint: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `CheckpointHandler.save_checkpoint`: a run on our traces writes its settings."""

    @wraps(save_checkpoint)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        dataset = getattr(self.train_dataloader, "dataset", None)
        if not hasattr(dataset, "describe_training"):
            return save_checkpoint(self, *args, **kwargs)
        is_writer = int(os.environ.get("RANK", 0)) == 0
        with saves_settings(self.engine, *dataset.describe_training(), is_writer=is_writer):
            return save_checkpoint(self, *args, **kwargs)

    return wrapper
