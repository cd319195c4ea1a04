"""Runner: every row of a tier for every seed, two seeds at once, as far as the time reaches.

The one idea: a row is `recipes/pipeline.sh` in a folder of its own, with links to what it shares
with its parent. So the pipeline's own rule resumes it: what is there is not made again.

    OUT/seed-0/base            the pipeline
    OUT/seed-0/e-no-gain       models/rft -> ../../base/models/rft, ...; its own models/grpo

Rows go in the order of `VARIANTS`, each seed in a process of its own with one thread; the time
limit keeps a row from being started, and never cuts one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.sweep.finished import ROWS, collect_row
from benchmarks.sweep.variants import VARIANTS, Variant

ROOT = Path(__file__).parents[2]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
BUDGET = (
    *("TRAIN_PAIRS", "TEST_PAIRS", "COLD_START_STEPS", "RFT_STEPS", "GRPO_STEPS", "PARTS"),
    *("SIZE", "NOTES", "CAPTIONS"),
)
"""Variables of the pipeline that every row of a sweep must have in common; kept in its file."""
NUM_AT_ONCE = 2
"""Seeds that run beside each other."""

RunPipeline = Callable[[Path, Mapping[str, str]], int]
"""Folder and settings of a pipeline to its exit status."""


@dataclass
class Sweep:
    """What is to be run, and where."""

    out: Path
    mix: str
    variants: Sequence[Variant]
    seeds: Sequence[int]
    budget_s: float | None = None
    """No row is started after so many seconds; null: no limit."""
    rows: Path = ROWS
    say: Callable[[str], None] = lambda text: None
    begun: float = field(default_factory=time.monotonic)

    def run(self, run_pipeline: RunPipeline | None = None) -> int:
        """Run every row that is not there; returns how many failed."""
        play = run_pipeline or start_pipeline
        with ThreadPoolExecutor(NUM_AT_ONCE) as pool:
            return sum(pool.map(lambda seed: self._run_seed(seed, play), self.seeds))

    def _run_seed(self, seed: int, play: RunPipeline) -> int:
        num_failed = 0
        for variant in self.variants:
            name = f"{variant.name}, seed {seed}"
            if reason := self._find_obstacle(variant, seed):
                self.say(f"{name}: not run: {reason}")
            elif not self._run_row(variant, seed, play):
                num_failed += 1
                self.say(
                    f"{name}: failed; the same command goes on, see {self._place(variant, seed)}"
                )
            else:
                self.say(f"{name}: done")
        return num_failed

    def _find_obstacle(self, variant: Variant, seed: int) -> str:
        """Say why a row is not run now; empty: it is."""
        if variant.needs:
            return variant.needs
        if self._is_finished(variant, seed):
            return ""
        if not variant.is_base and not self._is_finished(VARIANTS[variant.parent], seed):
            return f"{variant.parent} is not finished"
        if self.budget_s is not None and time.monotonic() - self.begun > self.budget_s:
            return f"the time of {self.budget_s / 60:g} minutes is up"
        return ""

    def _run_row(self, variant: Variant, seed: int, play: RunPipeline) -> bool:
        folder, settings = self._place(variant, seed), self._list_settings(variant, seed)
        if not self._is_finished(variant, seed):
            link_shared(folder, self._place(VARIANTS[variant.parent], seed), variant.shares)
            if play(folder, settings):
                return False
        kept = {name: value for name, value in settings.items() if name != "SEED"}
        collect_row(folder, variant, seed, self.mix, kept).write(self.rows)
        return True

    def _list_settings(self, variant: Variant, seed: int) -> dict[str, str]:
        budget = {name: os.environ[name] for name in BUDGET if name in os.environ}
        return {"PROFILE": self.mix, "SEED": str(seed), **budget, **variant.settings}

    def _place(self, variant: Variant, seed: int) -> Path:
        return self.out / f"seed-{seed}" / variant.name

    def _is_finished(self, variant: Variant, seed: int) -> bool:
        return (self._place(variant, seed) / "results.json").exists()


def link_shared(folder: Path, parent: Path, shares: Sequence[str]) -> None:
    """Let a folder have results of another one; what it has is left alone."""
    for name in shares:
        link, target = folder / name, (parent / name).resolve()
        if link.exists():
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)


def start_pipeline(folder: Path, settings: Mapping[str, str]) -> int:
    """Run the pipeline in a folder with one thread; what it says is in `pipeline.log` there."""
    folder.mkdir(parents=True, exist_ok=True)
    ours = {"OUT": str(folder.resolve()), "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    with (folder / "pipeline.log").open("ab") as log:
        return subprocess.run(
            ["bash", str(ROOT / "recipes" / "pipeline.sh")],
            env={**os.environ, **ONE_THREAD, **ours, **settings},
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        ).returncode
