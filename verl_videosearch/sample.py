"""PreferenceSample: the one row contract between data files and everything else.

The one idea: a row is what verl's RL dataset reads as it is, and `from_row` / `to_row` are the only
places that know the columns.

| column | type | meaning |
|---|---|---|
| `sample_uid` | string | unique in a file (verl puts its own id of a prompt group in `uid`) |
| `data_source` | string | where the pair came from; verl reports validation by it |
| `split` | string | `train`, `validation`, `test`, ... |
| `prompt` | list of {role, content} | one user message: the text prompt that both videos were made from |
| `video_1`, `video_2` | string | absolute path, or path relative to a root given at run time; never a URL |
| `dimensions` | list of {key, name, explanation, label} | what to judge, in the source's words; label 0, 1, 2 or null |
| `overall_label` | int8 | 0 tie, 1, 2 or null (not judged) |
| `reward_model` | {style, ground_truth} | verl's column for rewards: `rule` and the labels as JSON |
| `meta` | string | JSON: models, fps, frames, raw labels, defect spans, ... keys `*_1` and `*_2` swap with the videos |
| `agent_name` | string | `videosearch`: which agent loop verl runs |

Covers: the row, its checks, swapping the order of the videos. Does not cover: reading public
formats (`data_prep/sources`)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_videosearch.judgement import DEFAULT_DIMENSIONS, LABELS, OVERALL, Dimension, swap_label

AGENT_NAME = "videosearch"
"""The name of our agent loop in verl's registry."""

_TEXT = pa.string()
SCHEMA = pa.schema(
    {
        "sample_uid": _TEXT,
        "data_source": _TEXT,
        "split": _TEXT,
        "prompt": pa.list_(pa.struct({"role": _TEXT, "content": _TEXT})),
        "video_1": _TEXT,
        "video_2": _TEXT,
        "dimensions": pa.list_(
            pa.struct({"key": _TEXT, "name": _TEXT, "explanation": _TEXT, "label": pa.int8()})
        ),
        "overall_label": pa.int8(),
        "reward_model": pa.struct({"style": _TEXT, "ground_truth": _TEXT}),
        "meta": _TEXT,
        "agent_name": _TEXT,
    }
)
"""The columns and types of a file of samples."""


class Order(str, Enum):
    """In which order the judge sees the two videos of a pair."""

    AB = "AB"
    """As the sample has them."""
    BA = "BA"
    """Swapped; verdicts are kept as the judge gave them, so 1 means the sample's video 2."""


@dataclass(frozen=True)
class PreferenceSample:
    """Two videos of one prompt and which of them people preferred."""

    uid: str
    prompt: str
    """The text prompt that both videos were generated from."""
    video_1: str
    video_2: str
    labels: Mapping[str, int | None]
    """Every dimension key and `OA` to 0 (tie), 1, 2 or None (not judged)."""
    dimensions: tuple[Dimension, ...] = DEFAULT_DIMENSIONS
    source: str = "unknown"
    split: str = "train"
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = []
        if not self.uid:
            problems.append("uid is empty")
        for name in ("video_1", "video_2"):
            path = getattr(self, name)
            if not path or "://" in path:
                problems.append(f"{name} must be a local path, got {path!r}")
        if set(self.labels) != {*self.dimension_keys, OVERALL}:
            problems.append(
                f"labels must have the keys {[*self.dimension_keys, OVERALL]}, got {sorted(self.labels)}"
            )
        problems += [
            f"label {key} must be one of {LABELS} or null, got {label!r}"
            for key, label in self.labels.items()
            if label is not None and (isinstance(label, bool) or label not in LABELS)
        ]
        if problems:
            raise ValueError(f"sample {self.uid!r}: " + "; ".join(problems))

    @property
    def dimension_keys(self) -> tuple[str, ...]:
        return tuple(dimension.key for dimension in self.dimensions)

    def resolve_videos(self, root: str | Path | None) -> tuple[Path, Path]:
        """Return both video files; a relative path stays inside `root`, or `ValueError` says why
        not."""
        return self._resolve(self.video_1, root), self._resolve(self.video_2, root)

    def _resolve(self, path: str, root: str | Path | None) -> Path:
        if Path(path).is_absolute():
            return Path(path)
        if root is None:
            raise ValueError(
                f"sample {self.uid!r}: {path!r} is relative, so a video root is needed (video_root=...)"
            )
        resolved = Path(
            os.path.normpath(Path(root) / path)
        )  # by name: the files of a hub cache are links to elsewhere
        if not resolved.is_relative_to(os.path.normpath(root)):
            raise ValueError(
                f"sample {self.uid!r}: {path!r} leads out of the video root {str(root)!r}"
            )
        return resolved


def swap_videos(sample: PreferenceSample) -> PreferenceSample:
    """Return the same pair with the videos in the other order: paths, labels and `*_1` / `*_2`
    entries of meta swap."""
    return replace(
        sample,
        video_1=sample.video_2,
        video_2=sample.video_1,
        labels={key: swap_label(label) for key, label in sample.labels.items()},
        meta=_swap_meta(sample.meta),
    )


def show_in_order(sample: PreferenceSample, order: Order) -> PreferenceSample:
    """Return the pair as the judge sees it in that order."""
    return sample if order is Order.AB else swap_videos(sample)


def _swap_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Exchange the values of `name_1` and `name_2`; a name without its partner moves to the other
    side."""
    other_side = {"_1": "_2", "_2": "_1"}
    return {
        name[:-2] + other_side[name[-2:]] if name[-2:] in other_side else name: value
        for name, value in meta.items()
    }


def to_row(sample: PreferenceSample) -> dict[str, Any]:
    """Write a sample as a row of the contract; `from_row` reads it back."""
    return {
        "sample_uid": sample.uid,
        "data_source": sample.source,
        "split": sample.split,
        "prompt": [{"role": "user", "content": sample.prompt}],
        "video_1": sample.video_1,
        "video_2": sample.video_2,
        "dimensions": [
            {
                "key": d.key,
                "name": d.name,
                "explanation": d.explanation,
                "label": sample.labels[d.key],
            }
            for d in sample.dimensions
        ],
        "overall_label": sample.labels[OVERALL],
        "reward_model": {"style": "rule", "ground_truth": json.dumps(dict(sample.labels))},
        "meta": json.dumps(dict(sample.meta), sort_keys=True),
        "agent_name": AGENT_NAME,
    }


def from_row(row: Mapping[str, Any]) -> PreferenceSample:
    """Read a row of the contract; raises `ValueError` that names the sample and every missing
    column."""
    needed = ("sample_uid", "prompt", "video_1", "video_2", "dimensions", "overall_label")
    missing = [name for name in needed if name not in row]
    if missing:
        raise ValueError(
            f"row {row.get('sample_uid', '?')!r} lacks the columns {missing}; "
            "see verl_videosearch/sample.py for the contract"
        )
    dimensions = [dict(dimension) for dimension in row["dimensions"]]
    labels = {d["key"]: _to_label(d["label"]) for d in dimensions} | {
        OVERALL: _to_label(row["overall_label"])
    }
    return PreferenceSample(
        uid=row["sample_uid"],
        prompt=row["prompt"][0]["content"],
        video_1=row["video_1"],
        video_2=row["video_2"],
        labels=labels,
        dimensions=tuple(Dimension(d["key"], d["name"], d["explanation"]) for d in dimensions),
        source=row.get("data_source", "unknown"),
        split=row.get("split", "train"),
        meta=json.loads(row.get("meta") or "{}"),
    )


def _to_label(value: Any) -> int | None:
    """Turn a parquet value into a label; NaN (pandas' null) is None."""
    return None if value is None or value != value else int(value)


def write_samples(path: str | Path, samples: Iterable[PreferenceSample]) -> int:
    """Write samples to a parquet file, atomically; returns how many."""
    rows = [to_row(sample) for sample in samples]
    write_rows(path, pa.Table.from_pylist(rows, schema=SCHEMA))
    return len(rows)


def write_rows(path: str | Path, table: pa.Table) -> None:
    """Write a table to `path` in one step: a reader sees the old file or the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    pq.write_table(table, partial)
    os.replace(partial, path)


def read_samples(path: str | Path) -> list[PreferenceSample]:
    """Read every sample of a parquet file; raises `ValueError` for a file that is missing or breaks
    the contract."""
    if not Path(path).is_file():
        raise ValueError(
            f"no such file: {str(path)!r}; make one with `python -m data_prep.build` (see README)"
        )
    return [from_row(row) for row in pq.read_table(path).to_pylist()]
