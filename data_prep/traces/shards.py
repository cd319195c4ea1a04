"""Shards: the folders that several processes of rejection sampling write side by side.

The one idea: a process writes one folder and reads all. Whoever asks what is done, or what to
choose
from, reads every journal; the first result of a key counts.

    OUT/shard-0-of-4/run.json        the settings, equal in all shards
    OUT/shard-0-of-4/journal.jsonl   one record per finished episode, and per failure
    OUT/shard-1-of-4/...             another process, perhaps on another machine

To merge shards is to have their folders side by side. Covers: reading, refusing what does not
belong together. Does not cover: playing (`rejection_sampling`), choosing (`selection`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_videosearch.runs.folder import JOURNAL, SETTINGS, RunFolder
from verl_videosearch.runs.record import EpisodeRecord
from verl_videosearch.runs.record_file import read_records, settle_records

SHARDS = "shard-*-of-*"


@dataclass(frozen=True)
class Shard:
    """Which part of the inputs a process plays: every `count`-th, from `index`."""

    index: int = 0
    count: int = 1

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        return f"shard-{self.index}-of-{self.count}"

    @property
    def is_whole(self) -> bool:
        """True when it is everything."""
        return self.count == 1

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """Read `i/n`.

        >>> Shard.parse("1/4"), Shard.parse(None)
        (Shard(index=1, count=4), Shard(index=0, count=1))
        """
        index, slash, count = (text or "0/1").partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ValueError(f"--shard takes i/n with 0 <= i < n, such as 0/4; got {text!r}")
        return cls(int(index), int(count))


@dataclass(frozen=True)
class Played:
    """What all shards hold."""

    records: Mapping[str, EpisodeRecord]
    """Results and last failures, by key."""
    num_repeated: int
    """Results left out because another shard had played the same key."""
    damaged: tuple[str, ...]
    """Lines that do not count, file and line included."""


def read_shards(out: Path, settings: Mapping[str, Any]) -> Played:
    """Read the journals of all shards; raises `RunFolderError` for one that was begun with other
    settings. Another process may be writing: a line that is not whole yet does not count."""
    found: list[EpisodeRecord] = []
    damaged: list[str] = []
    num_results = 0
    for folder in sorted(out.glob(SHARDS)):
        if not (folder / SETTINGS).exists() or not (folder / JOURNAL).exists():
            continue  # a process that is just starting
        RunFolder(folder).check_settings(settings)
        file = read_records(folder / JOURNAL)
        settled = settle_records(file.records)
        num_results += sum(record.has_result for record in settled)
        found += settled
        damaged += file.damaged
    records = {record.key: record for record in settle_records(found)}
    num_distinct = sum(record.has_result for record in records.values())
    return Played(records, num_results - num_distinct, tuple(damaged))
