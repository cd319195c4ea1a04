"""RunFolder and Journal: files of a run that survive a kill at any moment.

The one idea: a journal line is written once, whole and synced, or it does not count. A killed run
leaves at most one torn line at the end; it is cut off before anything is appended. Final files are
written under another name and moved.

>>> import tempfile
>>> path = Path(tempfile.mkdtemp()) / "journal.jsonl"
>>> with Journal(path) as journal:
...     journal.append({"key": "a", "row": 1})
>>> with path.open("ab") as file:
...     _ = file.write(b'{"key": "b", "ro')
>>> with Journal(path) as journal:
...     journal.append({"key": "c", "row": 3})
...     [line["key"] for line in journal.lines]
['a', 'c']

Covers: one writer at a time, by a lock. Does not cover: what the lines mean (`runner`)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from verl_videosearch.sample import PreferenceSample, read_samples, write_samples

Line = dict[str, Any]
"""One JSON object per line."""
SETTINGS = "run.json"
SAMPLES = "samples.parquet"
JOURNAL = "journal.jsonl"
EPISODES = "episodes.jsonl"


class RunFolderError(ValueError):
    """A folder cannot be used for this run; the text is for the user."""


class Journal:
    """An append-only file of JSON lines; `lines` are those of earlier runs and of this one."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab+")
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        self.lines: list[Line] = [
            line for line in map(_read_line, whole.splitlines()) if line is not None
        ]

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, line: Line) -> None:
        """Write one line and wait until it is on the disk."""
        self._file.write(to_line(line).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.lines.append(line)


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @contextmanager
    def claim(
        self, settings: Mapping[str, Any], samples: Sequence[PreferenceSample]
    ) -> Iterator[Journal]:
        """Begin the run or go on with it; raises `RunFolderError` for other settings or a second
        process."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            message = (
                f"{self.path} is in use by another process; wait for it or choose another --out"
            )
            raise RunFolderError(message) from error
        try:
            self._check_settings(settings)
            if not (self.path / SAMPLES).exists():
                write_samples(self.path / SAMPLES, samples)
            with Journal(self.path / JOURNAL) as journal:
                yield journal
        finally:
            lock.release()

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        if not (self.path / SETTINGS).exists():
            self.write_json(SETTINGS, settings)
            return
        found = self.read_settings()
        different = [
            f"{name}: {found.get(name)!r} there, {settings.get(name)!r} now"
            for name in sorted({*found, *settings})
            if found.get(name) != settings.get(name)
        ]
        if different:
            raise RunFolderError(
                f"{self.path} holds a run with other settings ({'; '.join(different)}); choose another --out, or "
                "repeat its settings to go on with it"
            )

    def read_settings(self) -> dict[str, Any]:
        return json.loads(self._existing(SETTINGS).read_text("utf-8"))

    def read_samples(self) -> list[PreferenceSample]:
        return read_samples(self._existing(SAMPLES))

    def read_lines(self, name: str = EPISODES) -> list[Line]:
        return [json.loads(line) for line in self._existing(name).read_text("utf-8").splitlines()]

    def read_json(self, name: str) -> Any:
        """Return the content of a file, None if there is none."""
        path = self.path / name
        return json.loads(path.read_text("utf-8")) if path.exists() else None

    def write_text(self, name: str, text: str) -> None:
        """Write a file in one step: a reader sees the old one or the whole new one."""
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self.path / f".{name}.partial"
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.path / name)

    def write_json(self, name: str, content: Any) -> None:
        self.write_text(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def write_lines(self, name: str, lines: Sequence[Line]) -> None:
        self.write_text(name, "".join(map(to_line, lines)))

    def _existing(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            raise RunFolderError(
                f"{self.path} is no finished run: it has no {name}; make one with `videosearch eval`"
            )
        return path


def to_line(line: Line) -> str:
    """Write one JSON line; equal content gives equal bytes."""
    return json.dumps(line, sort_keys=True, allow_nan=False) + "\n"


def _read_line(line: bytes) -> Line | None:
    """Read a line; one that a dying machine has damaged is None, so its job is done again."""
    try:
        return json.loads(line)
    except ValueError:
        return None
