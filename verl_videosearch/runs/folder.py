"""RunFolder and Journal: files of a run that survive a kill at any moment.

The one idea: a journal line is one `EpisodeRecord`, written once, whole and synced, or it does not
count. A killed run leaves at most one torn line at the end; it is cut off before anything is
appended. Final files are written under another name and moved.

    folder = RunFolder(out)
    with folder.claim(settings, samples) as journal:   # refuses other settings, a second process
        summary = asyncio.run(run_jobs(jobs, play, journal))
        folder.write_json("results.json", ...)

Covers: one writer at a time, by a lock; a full disk. Does not cover: what is played (`jobs`)."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from verl_videosearch.runs.pairs import adopt_pairs
from verl_videosearch.runs.record import EpisodeRecord
from verl_videosearch.runs.record_file import (
    DamagedLine,
    RecordFile,
    parse_record,
    read_records,
    write_record,
)
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
    """An append-only file of records; those of earlier runs and of this one, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[EpisodeRecord] = []
        self.damaged: list[str] = []
        """What is wrong with each line that does not count, file and line included."""
        self.num_relabelled = 0
        """Pairs whose labels are others than when their episodes were played."""
        with explain_disk(path):
            self._file = path.open("ab+")
            self._file.seek(0)
            content = self._file.read()
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):
                self.damaged.append(f"{path}: the last line was torn; its episode is played again")
                self._file.truncate(len(whole))
            sync_folder(path.parent)
        try:
            self._read(whole.splitlines())
        except ValueError:
            self._file.close()
            raise

    def _read(self, lines: Iterable[bytes]) -> None:
        for number, line in enumerate(lines, start=1):
            try:
                self.records.append(parse_record(line, f"{self.path}, line {number}"))
            except DamagedLine as error:
                self.damaged.append(str(error))

    def adopt(self, samples: Sequence[PreferenceSample]) -> None:
        """Take over the pairs as they are now; raises `OtherPairError` for other pairs."""
        self.records, self.num_relabelled = adopt_pairs(self.records, samples)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what could not be flushed has been cut off and reported
            self._file.close()

    def append(self, record: EpisodeRecord) -> None:
        """Write one record and wait until it is on the disk; one that cannot be written whole is
        cut off again and is a `RunFolderError`."""
        line = write_record(record).encode()
        with explain_disk(self.path):
            end = os.fstat(self._file.fileno()).st_size
            try:
                write_whole(self._file.fileno(), line)
            except OSError:
                with suppress(OSError):
                    self._file.truncate(end)
                raise
        self.records.append(record)


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @contextmanager
    def claim(
        self, settings: Mapping[str, Any], samples: Sequence[PreferenceSample] | None = None
    ) -> Iterator[Journal]:
        """Begin the run or go on with it; raises `RunFolderError` for other settings or a second
        process, and `OtherPairError` for episodes of other pairs.

        `settings` are plain data that decide what the episodes are; `samples` are kept beside them
        for whoever reads the run later, with the labels that they have now."""
        with self.lock():
            self.check_settings(settings)
            with Journal(self.path / JOURNAL) as journal:
                if samples is not None:
                    journal.adopt(samples)
                    with explain_disk(self.path):
                        write_samples(self.path / SAMPLES, samples)
                yield journal

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out of the folder."""
        with explain_disk(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock", timeout=0)
            try:
                lock.acquire()
            except Timeout as error:
                raise RunFolderError(
                    f"{self.path} is in use by another process; wait for it or choose another --out"
                ) from error
        try:
            yield
        finally:
            lock.release()

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Note the settings of a new run; raises `RunFolderError` that lists what differs from
        those
        that an old one was begun with."""
        if not (self.path / SETTINGS).exists():
            self.write_json(SETTINGS, settings)
            return
        found, given = self.read_settings(), json.loads(json.dumps(settings))
        if found.get("words_hash") and given.get("words_hash"):  # then a pack's name says nothing
            found, given = _forget_pack(found), _forget_pack(given)
        different = list_differences(found, given)
        if different:
            raise RunFolderError(
                f"{self.path} was begun with other settings ({'; '.join(different)}); choose "
                "another "
                "--out, or repeat its settings to go on with it"
            )

    def read_settings(self) -> dict[str, Any]:
        """Return what the run was begun with."""
        content = self.read_json(self._existing(SETTINGS).name)
        if not isinstance(content, dict):
            raise RunFolderError(f"{self.path / SETTINGS} holds no settings but {content!r}")
        return content

    def read_samples(self) -> list[PreferenceSample]:
        """Return the pairs of the run."""
        return read_samples(self._existing(SAMPLES))

    def read_records(self, name: str = EPISODES, *, keeps_words: bool = True) -> RecordFile:
        """Return the episodes of a finished run, damaged lines listed."""
        return read_records(self._existing(name), keeps_words=keeps_words)

    def read_json(self, name: str) -> Any:
        """Return the content of a file, None if there is none; `RunFolderError` for a torn one."""
        path = self.path / name
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise RunFolderError(
                f"{path} is empty or torn ({error}): without it nobody knows what the files beside "
                "it were made with; restore it, or delete the folder and begin again"
            ) from error

    def write_text(self, name: str, text: str) -> None:
        """Write a file in one step: a reader sees the old one or the whole new one."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file in one step: a reader sees the old one or the whole new one."""
        partial = self.path / f".{name}.partial"
        with explain_disk(self.path / name):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                partial.unlink(missing_ok=True)
                raise
            os.replace(partial, self.path / name)
            sync_folder(self.path)

    def write_json(self, name: str, content: Any) -> None:
        """Write plain data; equal content gives equal bytes."""
        self.write_text(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def write_lines(self, name: str, lines: Sequence[Line]) -> None:
        """Write one JSON object a line."""
        self.write_text(name, "".join(map(to_line, lines)))

    def write_records(self, name: str, records: Iterable[EpisodeRecord]) -> None:
        """Write a file of episodes."""
        self.write_text(name, "".join(map(write_record, records)))

    def _existing(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            raise RunFolderError(
                f"{self.path} is no finished run: it has no {name}; make one with `videosearch "
                "eval`"
            )
        return path


def _forget_pack(settings: Mapping[str, Any]) -> dict[str, Any]:
    episode = settings.get("episode")
    return {**settings, "episode": {**episode, "prompt_pack": None}} if episode else {**settings}


def list_differences(found: Any, given: Any, name: str = "") -> list[str]:
    """Say what differs between two settings of plain data, by path.

    >>> list_differences({"seed": 1, "episode": {"window": 1}}, {"episode": {"window": 2}})
    ['episode.window: 1 there, 2 now', 'seed: 1 there, absent now']
    """
    if isinstance(found, Mapping) and isinstance(given, Mapping):
        differences: list[str] = []
        for key in sorted({*found, *given}):
            path = f"{name}.{key}" if name else key
            differences += list_differences(found.get(key, _ABSENT), given.get(key, _ABSENT), path)
        return differences
    return [] if found == given else [f"{name}: {found!r} there, {given!r} now"]


class _Absent:
    """Stands for a setting that one side does not have."""

    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


@contextmanager
def explain_disk(path: Path) -> Iterator[None]:
    """Turn a full, read-only or otherwise refusing disk into one sentence."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "the disk is full: free some space and repeat the command",
            errno.EDQUOT: "your quota is used up: free some space and repeat the command",
        }.get(error.errno or 0, "choose another --out, or mend that and repeat the command")
        raise RunFolderError(
            f"cannot write {path}: {error.strerror or error}; {advice}; nothing that was finished "
            "is lost"
        ) from error


def write_whole(descriptor: int, content: bytes) -> None:
    """Append bytes and wait until they are on the disk."""
    while content:
        content = content[os.write(descriptor, content) :]
    os.fsync(descriptor)


def sync_folder(path: Path) -> None:
    """Wait until the names of a folder's files are on the disk, where the system can."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def to_line(line: Line) -> str:
    """Write one JSON line; equal content gives equal bytes."""
    return json.dumps(line, sort_keys=True, allow_nan=False) + "\n"
