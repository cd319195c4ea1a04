"""Predict the stages of `make demo` from what they work on, beside what they took.

    videosearch plan --check outputs/demo

The one idea: seconds = start + units x seconds per unit. The constants are those of two quiet
cores; another machine, or a busy one, is slower in all stages alike, so one factor, the median of
measured over planned, is taken out first and printed. A stage that is then off by more than 2 is a
failure of the model.

Covers: the accounting of stages, steps and episodes. Does not cover: the rates of a GPU.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq

from verl_videosearch.report.table import Table

MAX_FACTOR = 2.0
"""Off by more is a failure of the model."""
MIN_SECONDS = 30.0
"""A stage that is shorter, planned and measured, is mostly imports: shown, not judged."""
RATES = {
    "pairs": (5.0, 0.02),
    "start": (10.0, 0.0),
    "splits": (8.0, 0.0005),
    "captions": (8.0, 0.008),
    "traces": (8.0, 0.015),
    "sft": (30.0, 0.33),
    "samples": (60.0, 0.06),
    "grpo": (110.0, 0.165),
    "judge": (12.0, 0.04),
    "probe": (12.0, 0.04),
}
"""Start and seconds per unit of each kind of stage on two quiet cores: drawn from the run of
docs/tiny.md (cold start 12.4 minutes, rejection sampling 3.7, GRPO 10.6, figures 4.9, rest 1.8)."""
GRPO_BATCH, SAMPLED_SHARE = 64, 2.0
"""Episodes of a step, and how many are played for one that is trained on (docs/tiny.md: 108 to 168
for 64)."""
SAMPLES_PER_PAIR, NUM_PROBES = 4, 3


@dataclass(frozen=True)
class StageCheck:
    """One stage, planned and measured."""

    name: str
    units: int
    planned_s: float
    measured_s: float

    @property
    def is_judged(self) -> bool:
        """True when the stage is long enough to say anything."""
        return max(self.planned_s, self.measured_s) >= MIN_SECONDS


@dataclass(frozen=True)
class DemoCheck:
    """All stages of one folder."""

    stages: tuple[StageCheck, ...]

    @property
    def machine_factor(self) -> float:
        """Return how much slower this machine was than two quiet cores."""
        judged = [stage for stage in self.stages if stage.is_judged] or list(self.stages)
        return median(stage.measured_s / stage.planned_s for stage in judged)

    def measure_error(self, stage: StageCheck) -> float:
        """Return measured over planned, the machine taken out."""
        return stage.measured_s / (stage.planned_s * self.machine_factor)

    @property
    def problems(self) -> list[str]:
        """Name the stages that are off by more than `MAX_FACTOR`."""
        found = []
        for stage in self.stages:
            error = self.measure_error(stage)
            if stage.is_judged and not 1 / MAX_FACTOR <= error <= MAX_FACTOR:
                found.append(f"{stage.name} took {error:.2f} times what was planned")
        return found

    @property
    def verdict(self) -> str:
        """Say in one line how far the plan was off."""
        errors = [self.measure_error(stage) for stage in self.stages if stage.is_judged]
        worst = max((max(error, 1 / error) for error in errors), default=1.0)
        return f"{len(errors)} stages judged, the worst off by a factor of {worst:.2f}"

    def to_table(self) -> Table:
        """List planned beside measured seconds."""
        rows = [
            (
                stage.name,
                f"{stage.units:,}",
                f"{stage.planned_s:.0f}",
                f"{stage.measured_s:.0f}",
                f"{self.measure_error(stage):.2f}" + ("" if stage.is_judged else " (short)"),
            )
            for stage in self.stages
        ]
        title = f"Planned and measured; this machine took {self.machine_factor:.2f} times as long"
        return Table(
            title, ("stage", "units", "planned, s", "measured, s", "off, machine out"), rows
        )


def check_demo(folder: Path) -> DemoCheck:
    """Compare plan and measurement of a finished demo; raises `ValueError` when it is none."""
    times = read_times(folder / "logs" / "times.jsonl")
    stages = []
    for name, seconds in times.items():
        kind, units = count_units(folder, name)
        if kind is not None:
            start, each = RATES[kind]
            stages.append(StageCheck(name, units, start + units * each, seconds))
    if not stages:
        raise ValueError(f"{folder}: no stage of the tiny pipeline in logs/times.jsonl")
    return DemoCheck(tuple(stages))


def read_times(path: Path) -> dict[str, float]:
    """Return the seconds of each stage's longest run; finding a result done is no run."""
    if not path.is_file():
        raise ValueError(f"got no {path}; give the folder of a finished `make demo`")
    times: dict[str, float] = {}
    for line in path.read_text("utf-8").splitlines():
        entry = json.loads(line)
        times[entry["stage"]] = max(times.get(entry["stage"], 0.0), float(entry["seconds"]))
    return times


def count_units(folder: Path, name: str) -> tuple[str | None, int]:
    """Return the kind of a stage and how much it had to do; None: not one of the model's."""
    kind, _, part = name.partition("_")
    test = folder / "pairs" / "test.parquet"
    train = folder / "pairs" / "train.parquet"
    if name in ("cold_start", "rft"):
        return "sft", count_steps(folder, name)
    if name == "grpo":
        return "grpo", int(count_steps(folder, name) * GRPO_BATCH * SAMPLED_SHARE)
    counts = {
        "pairs": lambda: count_rows(train) + count_rows(test),
        "start": lambda: 1,
        "splits": lambda: count_rows(train),
        "captions": lambda: count_rows(folder / "splits" / f"{part}.parquet"),
        "traces": lambda: count_rows(folder / "splits" / "cold_start.parquet"),
        "samples": lambda: SAMPLES_PER_PAIR * count_rows(folder / "splits" / "rft.parquet"),
        "judge": lambda: count_rows(test),
        "probe": lambda: NUM_PROBES * count_rows(test),
    }
    return (kind, counts[kind]()) if kind in counts else (None, 0)


def count_rows(path: Path) -> int:
    """Return the rows of a parquet file."""
    return pq.ParquetFile(path).metadata.num_rows


def count_steps(folder: Path, name: str) -> int:
    """Return the last step of a training's log."""
    lines = (folder / "logs" / f"{name}.jsonl").read_text("utf-8").splitlines()
    return max(json.loads(line)["step"] for line in lines if line.endswith("}"))
