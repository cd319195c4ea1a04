"""Read rows from csv, json, jsonl and parquet files, lazily and with one clear error for a wrong
file.

    for row in read_rows(find_files(root, ("data.json", "**/test-*.parquet")), columns=("prompt",
    "vote_type")):
        ...                                                    # a dict, or whatever else a json list holds

Covers: several shards, a byte order mark, rows with too few fields (None). Does not cover: what the
fields mean.
"""  # noqa: E501

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_videosearch.sources.source import SourceError

_DELIMITERS = (";", "\t", "|")
_NUM_CHECKED = 20  # rows in which every column must turn up at least once
_UNREADABLE = (
    OSError,
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


def read_rows(
    paths: Sequence[Path],
    columns: Sequence[str],
    foreign: Sequence[str] = (),
    *,
    is_own: bool = False,
) -> Iterator[Any]:
    """Yield the rows of all files in order; raises `SourceError` for a file that cannot be read,
    lacks a column or has one of another set (`foreign`). `is_own`: the user made the file, so the
    advice is about how to write it."""
    for path in paths:
        rows = _read_file(path, is_own)
        head = list(islice(rows, _NUM_CHECKED))
        _check_columns(path, head, columns, is_own)
        if found := [name for name in foreign if any(name in row for row in head)]:
            raise SourceError(
                f"{path} has the columns {found}, which this set has not: another set's file; "
                "is it the right --source?"
            )
        yield from chain(head, rows)


def _check_columns(path: Path, head: Sequence[Any], columns: Sequence[str], is_own: bool) -> None:
    if not head:
        advice = "a first line with names, then a row per pair" if is_own else "fetch it again"
        raise SourceError(f"{path} holds no rows; {advice}")
    known = {name for row in head if isinstance(row, Mapping) for name in row if name is not None}
    if not (lacking := [name for name in columns if name not in known]):
        return
    advice = "is it the right --source?"
    if is_own:
        advice = f"its first line must name {', '.join(columns)}"
    if found := [mark for mark in _DELIMITERS if len(known) == 1 and mark in next(iter(known))]:
        advice = f"its columns are separated by {found[0]!r}: save it with commas"
    raise SourceError(f"{path} lacks the columns {lacking}, it has {sorted(known)}; {advice}")


def _read_file(path: Path, is_own: bool) -> Iterator[Any]:
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
    except UnicodeDecodeError as error:
        raise _explain_encoding(path, error) from error
    except _UNREADABLE as error:
        cause = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        advice = "write it again" if is_own else "fetch it again"
        raise SourceError(f"{path} cannot be read as {path.suffix}: {cause}; {advice}") from error


def _explain_encoding(path: Path, error: UnicodeDecodeError) -> SourceError:
    """Say what a file of another encoding is, and, if it is one of lines, in which it shows."""
    if path.suffix == ".parquet":  # the damage hit a text
        return SourceError(f"{path} cannot be read as .parquet: {error.reason}; write it again")
    lines = path.read_bytes().splitlines()
    number = next(number for number, line in enumerate(lines, 1) if not _is_utf_8(line))
    return SourceError(f"{path}, line {number}: not UTF-8 ({error.reason}); save it as UTF-8")


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a csv; a short row has None at its end.

    A quote that is never closed takes the rest of the file, or all rows up to the next quote, into
    one field: both are errors that name the line where the row began."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        names: list[str] | None = None
        while True:
            line = reader.line_num + 1
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise _explain_csv_error(path, line, error) from error
            if not values:
                continue
            if names is None:
                names = _read_header(path, values)
                continue
            _check_row(path, line, names, values)
            yield dict(zip_longest(names, values))


def _explain_csv_error(path: Path, line: int, error: csv.Error) -> SourceError:
    return SourceError(
        f"{path}, line {line}: {error}; a quote is not closed in the row that begins there, or "
        'stands in the middle of a quoted text (write it twice: "")'
    )


def _read_header(path: Path, values: Sequence[str]) -> list[str]:
    names = [name.strip() for name in values]
    if repeated := sorted({name for name in names if name and names.count(name) > 1}):
        raise SourceError(f"{path} has the columns {repeated} more than once; keep one of each")
    return names


def _check_row(path: Path, line: int, names: Sequence[str], values: Sequence[str]) -> None:
    if len(values) > len(names):
        raise SourceError(
            f"{path}, line {line}: {len(values)} fields, but the first line names {len(names)}; "
            'put texts with commas in quotes: "..."'
        )
    for value in values:
        inner = value.split("\n")[1:-1]
        if any(_looks_like_row(each, names, values) for each in inner):
            raise SourceError(
                f"{path}, line {line}: a quote is not closed in the row that begins there, it "
                f"takes {len(inner) + 1} more lines into one field"
            )


def _looks_like_row(text: str, names: Sequence[str], values: Sequence[str]) -> bool:
    """True for a line inside a quoted field that has the fields of a row, file names included."""
    fields = text.rstrip("\r").split(",")
    if len(names) < 3 or len(fields) != len(names):
        return False
    pairs = zip(values, fields, strict=False)
    suffixes = [(PurePath(a).suffix, PurePath(b).suffix) for a, b in pairs if PurePath(a).suffix]
    return any(a == b for a, b in suffixes)


def _read_json(path: Path) -> Iterable[Any]:
    content = json.loads(path.read_text("utf-8-sig"))
    if not isinstance(content, list):
        raise SourceError(
            f"{path} holds a {type(content).__name__}, not a list of rows; "
            "is it the right --source?"
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
