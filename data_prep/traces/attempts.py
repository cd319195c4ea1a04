"""Attempts: every episode that rejection sampling played, in append-only logs that several
processes can share.

The one idea: an attempt has a key - (sample, order of the videos, index) - and is one synced line,
together with all that made it. Whoever asks what is done, or what to choose from, reads the logs;
the first line of a key counts.

    OUT/shard-0-of-4/run.json        the settings, equal in all shards
    OUT/shard-0-of-4/journal.jsonl   one line per finished episode, and per failure
    OUT/shard-1-of-4/...             another process, perhaps on another machine

To merge shards is to have their folders side by side. Covers: the line, reading, writing under a
lock. Does not cover: playing episodes (`rejection_sampling`), choosing among them (`selection`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from verl_videosearch.data_prep.traces.sft_rows import Trace, from_line, to_line

from verl_videosearch.evaluation.old_jobs import Journal, read_state
from verl_videosearch.runs.folder import JOURNAL, SETTINGS, Line, RunFolder, RunFolderError
from verl_videosearch.sample import Order, PreferenceSample, show_in_order

SHARDS = "shard-*-of-*"


class Input(NamedTuple):
    """What is sampled several times: a pair, in one order of its videos."""

    uid: str
    order: Order


class Key(NamedTuple):
    """Names one attempt."""

    uid: str
    order: Order
    index: int

    @property
    def input(self) -> Input:
        return Input(self.uid, self.order)

    def __str__(self) -> str:
        return f"{self.uid} {self.order.value} {self.index}"


@dataclass(frozen=True)
class Attempt:
    """One finished episode."""

    key: Key
    trace: Trace
    """Its sample is the pair as the model saw it: swapped for order BA."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Model, checkpoint hash, server, seed, sampling settings, tokens, commit."""


def to_row(attempt: Attempt) -> Line:
    """Write an attempt as plain data; `from_row` reads it back."""
    key = {"order": attempt.key.order.value, "index": attempt.key.index}
    return {
        "trace": json.loads(to_line(attempt.trace)),
        "provenance": dict(attempt.provenance),
    } | key


def from_row(row: Line) -> Attempt:
    """Read an attempt; raises `ValueError` for what `to_row` did not write."""
    trace = from_line(json.dumps(row["trace"]))
    return Attempt(
        Key(trace.sample.uid, Order(row["order"]), row["index"]), trace, row["provenance"]
    )


@dataclass(frozen=True)
class AttemptLogs:
    """What all shards hold."""

    attempts: Mapping[str, Attempt]
    """By key as text."""
    failures: Mapping[str, str]
    """Kind of the last failure of each episode that is still to be played, by key."""
    num_repeated: int
    """Lines left out because another shard had played the same key."""


def read_attempts(out: Path, settings: Mapping[str, Any]) -> AttemptLogs:
    """Read the logs of all shards; raises `RunFolderError` for one that was made with other
    settings."""
    attempts: dict[str, Attempt] = {}
    failures: dict[str, str] = {}
    num_repeated = 0
    for folder in sorted(out.glob(SHARDS)):
        if not (folder / SETTINGS).exists():
            continue  # a process that is just starting
        _check_settings(folder, settings)
        state = read_state(_read_lines(folder / JOURNAL))
        num_repeated += sum(key in attempts for key in state.rows)
        attempts = {key: from_row(row) for key, row in state.rows.items()} | attempts
        failures |= {key: line["failure"] for key, line in state.failures.items()}
    return AttemptLogs(
        attempts, {k: kind for k, kind in failures.items() if k not in attempts}, num_repeated
    )


def _read_lines(path: Path) -> list[Line]:
    """Read the lines of a journal that another process may be writing; a torn one does not count,
    as in `Journal`."""
    lines: list[Line] = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def check_attempts(attempts: Iterable[Attempt], samples: Mapping[str, PreferenceSample]) -> None:
    """Raise `ValueError` if an attempt was made with another pair than the one that has its uid
    now."""
    for attempt in attempts:
        sample = samples.get(attempt.key.uid)
        if sample is not None and attempt.trace.sample != show_in_order(sample, attempt.key.order):
            raise ValueError(
                f"the log holds an episode of another pair {sample.uid!r}: its videos, labels or texts were changed "
                "since; choose another --out"
            )


@contextmanager
def open_shard(folder: Path, settings: Mapping[str, Any]) -> Iterator[Journal]:
    """Open the log that this process writes; raises `RunFolderError` for other settings or a second
    process."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise RunFolderError(
            f"{folder} is in use by another process; wait for it or take another --shard"
        ) from error
    try:
        if (folder / SETTINGS).exists():
            _check_settings(folder, settings)
        else:
            RunFolder(folder).write_json(SETTINGS, settings)
        with Journal(folder / JOURNAL) as journal:
            yield journal
    finally:
        lock.release()


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    found = RunFolder(folder).read_settings()
    different = [
        f"{name} {found.get(name)!r} there, {settings.get(name)!r} now"
        for name in sorted({*found, *settings})
        if found.get(name) != settings.get(name)
    ]
    if different:
        raise RunFolderError(
            f"{folder} was begun with other settings ({'; '.join(different)}); choose another --out"
        )
