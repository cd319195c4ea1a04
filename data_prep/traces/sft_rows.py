"""Traces: a pair, the replies that judged it, and whether the filter took them; JSON lines and SFT
rows.

The one idea: a trace holds *what was written*, never a rendered context. Whoever reads it drives
`Episode` with the replies again, so there is one renderer and no second truth.

| file | one line or row | meaning |
|---|---|---|
| `accepted.jsonl` | the fields of `Trace` | passed the filter |
| `rejected.jsonl` | the same and `reasons` | did not, with every reason |
| `sft.parquet` | the columns of a sample, `replies`, `episode` | what `VideoSearchSFTDataset` reads |

`episode` is the JSON of the `EpisodeConfig` that the teacher saw. A line is appended in one write
and synced, so after a kill only the last line can be torn; `open_log` cuts it off.

>>> labels = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}
>>> trace = Trace(PreferenceSample("a", "a cat", "1.mp4", "2.mp4", labels), ("hm",), EpisodeConfig(), "someone")
>>> from_line(to_line(trace)) == trace
True

Covers: the format and its reader. Does not cover: making traces (`cold_start`), sequences
(`sft_dataset`)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO

import pyarrow as pa

from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.sample import SCHEMA, PreferenceSample, from_row, to_row, write_rows

SFT_SCHEMA = pa.schema([*SCHEMA, ("replies", pa.list_(pa.string())), ("episode", pa.string())])
"""The columns of a file of traces; a file of samples with two more."""


@dataclass(frozen=True)
class Trace:
    """One judged pair."""

    sample: PreferenceSample
    replies: tuple[str, ...]
    """What the teacher wrote, turn by turn, unchanged."""
    episode: EpisodeConfig
    teacher: str
    wrong: tuple[str, ...] | None = ()
    """Keys of the verdicts that differ from gold; None when there is no verdict."""
    num_calls: int = 0
    num_evictions: int = 0
    """Tool outcomes whose images left the window."""
    reasons: tuple[str, ...] = ()
    """Why the filter refused it; empty when it was accepted."""

    @property
    def is_accepted(self) -> bool:
        return not self.reasons


def to_line(trace: Trace) -> str:
    """Write a trace as one line of JSON; `from_line` reads it back."""
    record = {each.name: getattr(trace, each.name) for each in fields(trace)}
    return (
        json.dumps(record | {"sample": to_row(trace.sample), "episode": asdict(trace.episode)})
        + "\n"
    )


def from_line(line: str) -> Trace:
    """Read one line; raises `ValueError` for anything that `to_line` did not write."""
    try:
        record = json.loads(line)
        lists = {
            name: tuple(record[name])
            for name in ("replies", "reasons", "wrong")
            if record[name] is not None
        }
        sample, episode = from_row(record["sample"]), EpisodeConfig.from_dict(record["episode"])
        return Trace(**(record | lists | {"sample": sample, "episode": episode}))
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a trace, {error!r} is missing or wrong: {line[:80]!r}") from error


def read_traces(path: Path) -> Iterator[Trace]:
    """Yield the traces of a JSON lines file; a torn last line is left out, any other bad line is a
    `ValueError`."""
    if not path.exists():
        return
    for number, line in enumerate(_read_whole_lines(path), 1):
        try:
            yield from_line(line.decode())
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error


def _read_whole_lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def open_log(path: Path) -> IO[bytes]:
    """Open a file of traces for appending, without the torn line that a kill may have left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("ab")
    file.truncate(sum(map(len, _read_whole_lines(path))))
    return file


def append_trace(file: IO[bytes], trace: Trace) -> None:
    """Append one line and wait until it is on the disk."""
    file.write(to_line(trace).encode())
    file.flush()
    os.fsync(file.fileno())


def write_sft_rows(path: Path, traces: Iterable[Trace]) -> int:
    """Write accepted traces as a parquet file, atomically; returns how many."""
    rows = [
        to_row(trace.sample)
        | {"replies": list(trace.replies), "episode": json.dumps(asdict(trace.episode))}
        for trace in traces
    ]
    write_rows(path, pa.Table.from_pylist(rows, schema=SFT_SCHEMA))
    return len(rows)
