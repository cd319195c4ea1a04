"""Checks of data files: they exist, their rows can be read, and their videos are there.

The one idea: a look at the first row finds a wrong file, a look at some rows anywhere finds a
wrong folder or half a download. `NUM_ROWS` rows are drawn with a fixed seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import DictConfig, ListConfig

from verl_videosearch.sample import PreferenceSample, from_row
from verl_videosearch.verl_plugin.settings import Settings

NUM_ROWS = 20
"""Rows of each file whose videos are looked for."""
_NUM_NAMED = 3
"""Missing videos that are named; the others are counted."""


def list_files(files: Any) -> list[str]:
    """Return the files of a setting that holds one, several or none.

    >>> list_files("a.parquet"), list_files(None)
    (['a.parquet'], [])
    """
    if files is None:
        return []
    return list(files) if isinstance(files, list | tuple | ListConfig) else [files]


def check_data(config: DictConfig, settings: Settings, key: str, made_with: str) -> Iterator[str]:
    """Look at the files of `data.{key}`; `made_with` is the command that makes one."""
    for file in list_files(config.data[key]):
        path = Path(file).expanduser()
        if not path.is_file():
            yield f"data.{key}: no such file: {str(path)!r}; make one with `{made_with}`"
        else:
            yield from check_rows(f"data.{key}", path, settings)


def check_video_root(settings: Settings) -> Iterator[str]:
    """Look for the folder that relative paths start from."""
    root = settings.frames.video_root
    if root is not None and not Path(root).expanduser().is_dir():
        yield f"videosearch.frames.video_root: no such folder: {root!r}"


def check_rows(key: str, path: Path, settings: Settings) -> Iterator[str]:
    """Read some rows and look for their videos."""
    try:
        rows = draw_rows(path)
        if not rows:
            yield f"{key}: {str(path)!r} has no rows"
            return
        root = settings.frames.video_root
        videos = [video for row in rows for video in from_row(row).resolve_videos(root)]
    except (ValueError, OSError, pa.ArrowException) as error:
        yield f"{key}: {str(path)!r}: {error}"
        return
    missing = [str(video) for video in dict.fromkeys(videos) if not Path(video).is_file()]
    if missing and (root is None or Path(root).is_dir()):
        shown = ", ".join(map(repr, missing[:_NUM_NAMED]))
        more = f" and {len(missing) - _NUM_NAMED} more" if len(missing) > _NUM_NAMED else ""
        yield (
            f"{key}: {str(path)!r}: of the videos of {len(rows)} rows {len(missing)} do not exist: "
            f"{shown}{more}; set videosearch.frames.video_root to the folder that their paths "
            "start from"
        )


def draw_rows(path: Path) -> list[dict[str, Any]]:
    """Return the first row and others drawn with a fixed seed, `NUM_ROWS` in all."""
    table = pq.read_table(path)
    drawn = random.Random(0).sample(range(table.num_rows), min(NUM_ROWS, table.num_rows))
    return table.take(sorted({0, *drawn[1:]})).to_pylist() if drawn else []


def count_rows(files: Any) -> int:
    """Return the number of rows of one or several files."""
    paths = [Path(file).expanduser() for file in list_files(files)]
    return sum(pq.ParquetFile(path).metadata.num_rows for path in paths)


def read_first_sample(files: Any) -> PreferenceSample:
    """Return the first sample of the first file."""
    path = Path(list_files(files)[0]).expanduser()
    (row,) = next(pq.ParquetFile(path).iter_batches(batch_size=1)).to_pylist()
    return from_row(row)
