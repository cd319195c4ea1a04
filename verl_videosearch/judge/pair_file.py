"""Read a file of pairs without labels: who wrote it, and whether labels stand in it, is no matter.

>>> import tempfile
>>> path = Path(tempfile.mkdtemp()) / "pairs.csv"
>>> _ = path.write_text("prompt,video_1,video_2\\na cat,1.mp4,2.mp4\\n")
>>> [(prompt, Path(video).name) for prompt, video, _ in read_pairs(path)]
[('a cat', '1.mp4')]

Paths are absolute, or relative to the file's folder. Covers: csv, JSON lines, our own parquet.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from verl_videosearch.models.address import hide_password
from verl_videosearch.sample import read_samples

COLUMNS = ("prompt", "video_1", "video_2")
_ADDRESS = re.compile(r"\w+://")
_EXAMPLE = '{"prompt": "a cat jumps", "video_1": "a.mp4", "video_2": "b.mp4"}'


def read_pairs(path: Path) -> list[tuple[str, str, str]]:
    """Return (prompt, video 1, video 2) of every row; a `ValueError` names file and row."""
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise ValueError(f"no such file: {str(path)!r}; give a csv, jsonl or parquet file of pairs")
    if path.suffix == ".parquet":
        samples = read_samples(path)
        return [_locate(path, (s.prompt, s.video_1, s.video_2)) for s in samples]
    read = {".csv": _read_csv, ".jsonl": _read_json_lines}.get(path.suffix)
    if read is None:
        raise ValueError(f"{path}: files of pairs end in .csv, .jsonl or .parquet")
    pairs = [_read_row(path, number, row) for number, row in read(path)]
    if not pairs:
        raise ValueError(f"{path} holds no pairs; a row is, for example, {_EXAMPLE}")
    return pairs


def _read_csv(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from enumerate(csv.DictReader(file, strict=True), start=1)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a csv file in UTF-8: {error}") from error


def _read_json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, row {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, row {number}: not an object; for example {_EXAMPLE}")
        yield number, row


def _read_row(path: Path, number: int, row: Mapping[str, Any]) -> tuple[str, str, str]:
    wrong = [n for n in COLUMNS if not isinstance(row.get(n), str) or not row[n].strip()]
    if wrong:
        raise ValueError(
            f"{path}, row {number}: {', '.join(wrong)} must be a text that is not empty; "
            f"the columns are {', '.join(COLUMNS)}, found {sorted(map(str, row))}"
        )
    return _locate(path, (row["prompt"], row["video_1"], row["video_2"]))


def _locate(path: Path, pair: tuple[str, str, str]) -> tuple[str, str, str]:
    prompt, *videos = pair
    video_1, video_2 = (
        hide_password(video) if _ADDRESS.match(video) else str(path.parent / video)
        for video in videos  # an address, which nobody fetches, stays one
    )
    return prompt, video_1, video_2
