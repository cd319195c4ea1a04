"""Read rows from csv, json, jsonl and parquet files, lazily and with one clear error for a wrong
file.

    for row in read_rows(find_files(root, ("data.json", "**/test-*.parquet")), columns=("prompt",
    "vote_type")):
        ...                                                    # a dict, or whatever else a json list holds

Covers: several shards, a byte order mark, rows with too few fields (None). Does not cover: what the
fields mean.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_videosearch.sources.source import SourceError

_NUM_CHECKED = 20  # rows in which every column must turn up at least once
_UNREADABLE = (
    OSError,
    UnicodeDecodeError,
    csv.Error,
    json.JSONDecodeError,
    pa.ArrowException,
    RecursionError,
)


def find_files(root: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the files of the first pattern that matches below `root`; `root` may also be the file
    itself."""
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise SourceError(
            f"no such folder: {str(root)!r}; --root is the folder that holds the label file"
        )
    for pattern in patterns:
        if found := sorted(path for path in root.glob(pattern) if path.is_file()):
            return found
    raise SourceError(
        f"no label file below {str(root)!r}: looked for {', '.join(patterns)}; "
        "give --root its folder, or the file itself"
    )


def read_rows(paths: Sequence[Path], columns: Sequence[str]) -> Iterator[Any]:
    """Yield the rows of all files in order; raises `SourceError` for a file that cannot be read or
    lacks a column."""
    for path in paths:
        rows = _read_file(path)
        head = list(islice(rows, _NUM_CHECKED))
        _check_columns(path, head, columns)
        yield from chain(head, rows)


def _check_columns(path: Path, head: Sequence[Any], columns: Sequence[str]) -> None:
    if not head:
        raise SourceError(f"{path} holds no rows; fetch it again")
    known = {name for row in head if isinstance(row, Mapping) for name in row if name is not None}
    if lacking := [name for name in columns if name not in known]:
        raise SourceError(
            f"{path} lacks the columns {lacking}, it has {sorted(known)}; is it the right --source?"
        )


def _read_file(path: Path) -> Iterator[Any]:
    read = {
        ".csv": _read_csv,
        ".json": _read_json,
        ".jsonl": _read_jsonl,
        ".parquet": _read_parquet,
    }.get(path.suffix)
    if read is None:
        raise SourceError(
            f"{path} is none of .csv, .json, .jsonl, .parquet; convert it or name another file"
        )
    try:
        yield from read(path)
    except _UNREADABLE as error:
        cause = str(error).splitlines()[0][:200]
        raise SourceError(
            f"{path} cannot be read as {path.suffix}: {cause}; fetch it again"
        ) from error


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _read_json(path: Path) -> Iterable[Any]:
    content = json.loads(path.read_text("utf-8-sig"))
    if not isinstance(content, list):
        raise SourceError(
            f"{path} holds a {type(content).__name__}, not a list of rows; is it the right --source?"
        )
    return content


def _read_jsonl(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as file:
        yield from (json.loads(line) for line in file if line.strip())


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        names = [field.name for field in file.schema_arrow if not _holds_bytes(field.type)]
        for batch in file.iter_batches(batch_size=1024, columns=names):
            yield from batch.to_pylist()


def _holds_bytes(kind: pa.DataType) -> bool:
    """True for embedded images: some sets carry them beside the labels, and they would fill the
    memory."""
    if pa.types.is_struct(kind):
        return any(_holds_bytes(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
