"""Run verl's SFT trainer and write down what its steps were made of; `benchmarks.sft` starts it.

    python benchmarks/sft_clock.py OUT.json +recipe=videosearch_cold_start_tiny ...

The one idea: it knows verl 0.9.1 and nothing of this package, so the same file measures any commit
of it that stands first on PYTHONPATH. Parts are the trainer's own calls, wall seconds and CPU
seconds of this process (all its threads); the CPU of the loader's worker is read from the system.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

PARTS = {"forward": "forward_step", "backward": "forward_backward_batch", "optimiser": ""}
"""Part to the engine's method; `backward` is what its method leaves beside `forward`."""


class Clock:
    """Seconds by part, a row a step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, list[float]]] = []
        self.losses: list[float] = []
        self.tokens: list[int] = []
        self.loader_cpu_s: list[float] = []
        self.at_start_s: list[float] = [0.0, 0.0]
        self._parts: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._last = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def time(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function: its seconds belong to a part."""

        @wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self._now()
            try:
                return call(*args, **kwargs)
            finally:
                self.add(part, start)

        return timed

    def add(self, part: str, start: tuple[float, float]) -> None:
        """Add the seconds since `start`."""
        for place, (now, then) in enumerate(zip(self._now(), start, strict=True)):
            self._parts[part][place] += now - then

    def end_step(self) -> None:
        """Close a step: all since the last one."""
        self.add("step", self._last)
        self._last = self._now()
        self.steps.append(dict(self._parts))
        self._parts.clear()

    def restart(self) -> None:
        """Forget what was counted before the first step."""
        self._last = self._now()
        self._parts.clear()

    def log(self, _tracking: Any, data: dict[str, Any], step: int, **_: Any) -> None:
        """Take a step's loss from what the trainer would print."""
        if "train/loss" in data:
            self.losses.append(float(data["train/loss"]))
            self.tokens.append(int(data["train/global_tokens"]))


def watch_loader(clock: Clock) -> Callable[..., Iterator[Any]]:
    """Return what stands for tqdm around the loader: it counts the time that the trainer waits."""

    def iterate(loader: Iterable[Any], **_: Any) -> Iterator[Any]:
        rows = iter(loader)
        if not clock.steps:
            clock.restart()
        while True:
            start = clock._now()
            try:
                batch = next(rows)
            except StopIteration:
                return
            clock.add("waiting for rows", start)
            clock.loader_cpu_s.append(read_children_cpu())
            yield batch
            clock.end_step()

    return iterate


def read_children_cpu() -> float:
    """Return the CPU seconds that this process's children have used so far."""
    total = 0.0
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children", encoding="ascii") as children:
            for child in children.read().split():
                total += read_cpu(child)
    return total


def read_cpu(process: str) -> float:
    """Return the CPU seconds of a process; 0 once it has gone."""
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def install(clock: Clock) -> Any:
    """Put the clock into verl's SFT trainer; returns its module."""
    from verl.trainer import sft_trainer
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead as Engine

    for part, method in (
        ("forward", "forward_step"),
        ("forward and backward", "forward_backward_batch"),
        ("optimiser", "optimizer_step"),
        ("optimiser", "optimizer_zero_grad"),
    ):
        setattr(Engine, method, clock.time(part, getattr(Engine, method)))
    create = clock.time("rows at the start", sft_trainer.create_sft_dataset)

    def create_dataset(*args: Any, **kwargs: Any) -> Any:
        dataset = create(*args, **kwargs)
        clock.at_start_s = list(clock._parts["rows at the start"])
        return dataset

    sft_trainer.create_sft_dataset = create_dataset
    sft_trainer.tqdm = watch_loader(clock)
    sft_trainer.Tracking.log = lambda tracking, data, step, **options: clock.log(
        tracking, data, step, **options
    )
    sft_trainer.CheckpointHandler.save_checkpoint = lambda *_, **__: None
    return sft_trainer


def main() -> None:
    """Train, then write the clock."""
    out, *overrides = sys.argv[1:]
    sys.argv = ["sft_trainer", *overrides]
    clock = Clock()
    trainer = install(clock)
    fit = trainer.SFTTrainer.fit

    def fit_and_write(self: Any) -> None:
        try:
            fit(self)
        finally:
            clock.end_step()  # the last step returns out of the loop
            names = ("steps", "losses", "tokens", "loader_cpu_s", "at_start_s")
            figures = {name: getattr(clock, name) for name in names}
            with open(out, "w", encoding="utf-8") as file:
                json.dump(figures, file)

    trainer.SFTTrainer.fit = fit_and_write
    trainer.main()


if __name__ == "__main__":
    main()
