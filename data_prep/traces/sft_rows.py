"""SFT rows: a pair, the replies that judged it, and the settings that the judge saw it with.

The one idea: a row holds *what was written*, never a rendered context. Whoever reads it drives
`Episode` with the replies again, so there is one renderer and no second truth. Rows are made of
`EpisodeRecord`s, whoever played them.

| column | holds |
|---|---|
| those of a sample | the pair as the judge saw it: swapped for order BA |
| `replies` | what was written, turn by turn, unchanged |
| `thoughts` | the native thought of a thinking model before each of them, tags included; empty: none |
| `episode` | JSON of the `EpisodeConfig` |

Covers: the format. Does not cover: which episodes are taught (`trace_filter`, `selection`),
sequences (`sft_dataset`)."""  # noqa: E501

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.runs.record import EpisodeRecord
from verl_videosearch.sample import SCHEMA, PreferenceSample, to_row, write_rows

SFT_ROWS = "sft.parquet"
_TEXTS = pa.list_(pa.string())
SFT_SCHEMA = pa.schema(
    [*SCHEMA, ("replies", _TEXTS), ("thoughts", _TEXTS), ("episode", pa.string())]
)
"""The columns of a file of traces; a file of samples with three more."""


@dataclass(frozen=True)
class SftRow:
    """One judged pair, to be taught."""

    sample: PreferenceSample
    """As the judge saw it."""
    replies: tuple[str, ...]
    """What was written, turn by turn, unchanged."""
    episode: EpisodeConfig
    thoughts: tuple[str, ...] = ()
    """The native thought that stood before each reply; empty for a model without."""


def make_sft_row(record: EpisodeRecord) -> SftRow:
    """Make a row of a finished episode of any kind; raises `ValueError` for a failure."""
    if not record.has_result:
        raise ValueError(f"episode {record.key!r} has no result and cannot be taught")
    replies = tuple(turn.reply for turn in record.turns)
    thoughts = tuple(turn.thought for turn in record.turns)
    return SftRow(record.shown, replies, record.episode_config, thoughts)


def write_sft_rows(path: Path, rows: Iterable[SftRow]) -> int:
    """Write a parquet file of rows, atomically; returns how many."""
    plain = [
        to_row(row.sample)
        | {
            "replies": list(row.replies),
            "thoughts": list(row.thoughts) or [""] * len(row.replies),
            "episode": json.dumps(asdict(row.episode)),
        }
        for row in rows
    ]
    write_rows(path, pa.Table.from_pylist(plain, schema=SFT_SCHEMA))
    return len(plain)
