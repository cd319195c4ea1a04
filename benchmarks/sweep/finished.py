"""Finished rows: what a pipeline of the sweep ended with, as one small JSON file each.

The one idea: a row is kept in the repository, so that a table can be made again without a machine
that trains. `start` is the hash of the model that GRPO began with: only rows with the same one are
compared as the same start.

| file | holds |
|---|---|
| `rows/MIX/ROW/seed-N.json` | row, seed, mix, start, commit, settings, minutes, figures |

Covers: writing and reading them. Does not cover: running (`runner`), the table (`table`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.sweep.variants import Variant
from verl_videosearch.runs.identity import hash_model, read_commit

ROWS = Path(__file__).parent / "rows"
_BEHAVIOUR = ("calls", "search_rate", "hit_rate", "aim_rate", "cover_rate", "gain", "tokens")


@dataclass(frozen=True)
class FinishedRow:
    """One variant, one seed."""

    row: str
    seed: int
    mix: str
    """Which pairs: `tiny` or `looks`."""
    start: str
    """Hash of the model that GRPO began with."""
    commit: str
    settings: Mapping[str, str]
    """What the pipeline was given beside its defaults, budget included."""
    minutes: float
    """Of all programs that this row ran itself."""
    figures: Mapping[str, float]
    """Shares and means by name, such as `grpo.right` and `grpo.calls.hidden`."""

    @property
    def path(self) -> Path:
        """Where it is kept, below the folder of rows."""
        return Path(self.mix) / self.row / f"seed-{self.seed}.json"

    def write(self, rows: Path = ROWS) -> Path:
        """Keep it; returns the file."""
        path = rows / self.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", "utf-8")
        return path


def read_rows(mix: str, rows: Path = ROWS) -> list[FinishedRow]:
    """Read every kept row of a mix, sorted by name and seed."""
    paths = sorted((rows / mix).glob("*/seed-*.json"))
    found = [FinishedRow(**json.loads(path.read_text("utf-8"))) for path in paths]
    return sorted(found, key=lambda each: (each.row, each.seed))


def collect_row(
    folder: Path, variant: Variant, seed: int, mix: str, settings: Mapping[str, str]
) -> FinishedRow:
    """Read a finished pipeline; raises `ValueError` if it is not finished."""
    path = folder / "results.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no finished pipeline: it has no results.json")
    results = json.loads(path.read_text("utf-8"))
    return FinishedRow(
        row=variant.name,
        seed=seed,
        mix=mix,
        start=hash_model(folder / "models" / settings.get("GRPO_START", "rft")),
        commit=read_commit(),
        settings=dict(sorted(settings.items())),
        minutes=read_minutes(folder),
        figures={name: round(value, 5) for name, value in list_figures(results)},
    )


def read_minutes(folder: Path) -> float:
    """Return how long the programs of a pipeline ran, in minutes."""
    path = folder / "logs" / "times.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return round(sum(json.loads(line)["seconds"] for line in lines) / 60, 1)


def list_figures(results: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield name and value of what the table may show, of `results.json`."""
    for part, suffix in (("stages", ""), ("sampled", "-sampled"), ("controls", "")):
        for name, row in results[part].items():
            yield from _list_row(f"{name}{suffix}", row)
    for control, rows in results["memory"].items():
        for pairs, row in rows.items():
            yield f"memory.{control}.{pairs}", row["accuracy"]["value"]


def _list_row(name: str, row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    yield f"{name}.right", row["overall"]["accuracy"]
    for pairs, share in row.get("by_type", {}).items():
        yield f"{name}.right.{pairs}", share["accuracy"]
    for pairs, calls in row.get("calls_by_type", {}).items():
        yield f"{name}.calls.{pairs}", calls
    for key in _BEHAVIOUR:
        if row.get(key) is not None:
            yield f"{name}.{key}", row[key]
