"""A GRPO run of the tiny recipe that a benchmark watches, kills or resumes.

Covers: the CPU, no validation, all groups. Does not cover: what is measured (`host_memory`,
`two_ranks`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[Path, typer.Option(help="Folder of a tiny model.")]
Pairs = Annotated[Path, typer.Option(help="Parquet file of pairs.")]
VideoRoot = Annotated[Path, typer.Option(help="Folder of the videos.")]
Out = Annotated[Path, typer.Option(help="Folder for checkpoints and logs.")]


@dataclass(frozen=True)
class TinyGrpo:
    """What a run is made from, and where its files go."""

    model: Path
    pairs: Path
    video_root: Path
    out: Path

    @property
    def episodes(self) -> Path:
        return self.out / "episodes"

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    def start(self, name: str, *settings: str) -> subprocess.Popen[bytes]:
        """Start verl's trainer in a process group of its own; its words go to NAME.log, its figures
        to NAME.jsonl."""
        self.out.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "verl.trainer.main_ppo", *self._settings, *settings]
        env = os.environ | {
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "VERL_FILE_LOGGER_PATH": str(self.out / f"{name}.jsonl"),
        }
        with (self.out / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True
            )

    @property
    def _settings(self) -> list[str]:
        return [
            "+recipe=videosearch_grpo_tiny",
            f"actor_rollout_ref.model.path={self.model}",
            f"data.train_files={self.pairs}",
            f"data.val_files={self.pairs}",
            f"videosearch.frames.video_root={self.video_root}",
            f"videosearch.rollout.episodes_dir={self.episodes}",
            f"trainer.default_local_dir={self.checkpoints}",
            "trainer.val_before_train=false",
            "trainer.test_freq=-1",
            "algorithm.filter_groups.enable=false",
        ]
