"""A killed training goes on with what was left of it, and says beside its checkpoints how long it
is.

The one idea: verl 0.9.1 saves inside the loop over an epoch's batches. After the last of them the
saved state of the data loader says "at the end", so a resumed run goes through one empty epoch: of
two epochs the second is never trained, and the run ends well. At the boundary of an epoch that
state says nothing that the step does not say, so it is not loaded there.

    SFT, RFT   CheckpointHandler._load_dataloader_state, load_checkpoint   wrapped on import
    GRPO       takes a new iterator by itself; VideoSearchTrainer.fit uses `note_total_steps`
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from verl.utils.checkpoint.checkpoint_handler import extract_step

TOTAL = "total_training_steps.txt"
"""Beside verl's checkpoints: the step with which the training ends."""


def begin_whole_epochs(load_state: Callable[..., None]) -> Callable[..., None]:
    """Wrap `CheckpointHandler._load_dataloader_state`: a checkpoint at the end of an epoch is
    followed by a whole one."""

    @wraps(load_state)
    def wrapper(self: Any, checkpoint_path: str) -> None:
        if extract_step(checkpoint_path) % len(self.train_dataloader):
            load_state(self, checkpoint_path)

    return wrapper


def say_total_steps(load_checkpoint: Callable[..., int]) -> Callable[..., int]:
    """Wrap `CheckpointHandler.load_checkpoint`, which every run calls before its first step: one
    rank notes the number of steps."""

    @wraps(load_checkpoint)
    def wrapper(self: Any) -> int:
        optimizer = getattr(self.engine, "optimizer_config", None)
        if self.rank == 0 and optimizer is not None:  # verl's trainer on Ray holds workers instead
            note_total_steps(self.default_local_dir, optimizer.total_training_steps)
        return load_checkpoint(self)

    return wrapper


def note_total_steps(folder: str, total: int) -> None:
    """Write with which step a training ends, in one step."""
    path = Path(folder).expanduser() / TOTAL
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(str(total), "utf-8")
    os.replace(part, path)
