"""EpisodeCache: episodes that were played before, by what decides them and not by where they lie.

The one idea: an episode is decided by its prompt, the bytes of the two videos in the order shown,
the model and the settings. So the same pair costs nothing the second time, whatever its files are
called, and (B, A) finds what was played for (A, B).

    cache = EpisodeCache(Path("judge.sqlite"))
    key = cache.name(shown_sample, ("model-hash", {"temperature": 0.0}))
    record = cache.get(key)                     # None: play it, then cache.put(key, record)

One SQLite file that several processes may use at once; null keeps it in memory. Only results are
kept, never failures. Covers: greedy judges; who samples puts the seed into the settings.
"""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from threading import Lock
from typing import Any

import xxhash

from verl_videosearch.judge.clips import hash_file
from verl_videosearch.runs.record import EpisodeRecord
from verl_videosearch.runs.record_file import DamagedLine, RecordError, parse_record, write_record
from verl_videosearch.sample import PreferenceSample

MAX_EPISODES = 100_000
"""Default of `max_episodes`; about 10 kB each."""
_WAIT_S = 30.0
NAMES = ["key", "line", "number"]
_COLUMNS = "PRAGMA table_info(episodes)"
_TABLE = """
CREATE TABLE IF NOT EXISTS episodes (
    key TEXT PRIMARY KEY,
    line TEXT NOT NULL,
    number INTEGER NOT NULL
)"""


class EpisodeCache:
    """Finished episodes in a SQLite file; safe to use from several threads and processes."""

    def __init__(self, path: Path | None = None, max_episodes: int = MAX_EPISODES) -> None:
        if max_episodes < 1:
            raise ValueError(f"max_episodes must be at least 1, got {max_episodes!r}")
        self.max_episodes = max_episodes
        self.num_hits = self.num_misses = 0
        self._lock = Lock()
        self._hashes: dict[tuple[str, int, int, int], str] = {}
        self._database = self._open(path)

    def _open(self, path: Path | None) -> sqlite3.Connection:
        target = ":memory:" if path is None else str(path)
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(target, timeout=_WAIT_S, check_same_thread=False)
            with database:
                names = [row[1] for row in database.execute(_COLUMNS)]
                if names not in ([], NAMES):
                    raise sqlite3.DatabaseError(f"the columns of its episodes are {names}")
                database.execute("PRAGMA journal_mode = WAL")
                database.execute(_TABLE)
            database.execute("BEGIN IMMEDIATE")  # a file that is read only is refused now
            database.rollback()
        except (OSError, sqlite3.OperationalError) as error:  # no folder, no right, locked
            raise ValueError(
                f"cannot use {path} as cache of episodes: {error}; mend that or name another file"
            ) from error
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{path} is no cache of episodes ({error}); name another file"
            ) from error
        return database

    def make_room(self, num_episodes: int) -> None:
        """Keep at least so many: a call that plays more than fit would forget its own."""
        self.max_episodes = max(self.max_episodes, num_episodes)

    def __len__(self) -> int:
        with self._lock:
            return self._database.execute("SELECT count(*) FROM episodes").fetchone()[0]

    def name(self, shown: PreferenceSample, decided_by: Any) -> str | None:
        """Name the episode of a pair as shown; `decided_by` is plain data. None if a video cannot
        be read: playing it says why."""
        try:
            videos = [self._hash_file(path) for path in shown.resolve_videos(None)]
        except (OSError, ValueError):
            return None
        dimensions = [[d.key, d.name, d.explanation] for d in shown.dimensions]
        named = [shown.prompt, videos, dimensions, decided_by]
        text = json.dumps(named, sort_keys=True, default=str)
        return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))

    def get(self, key: str | None) -> EpisodeRecord | None:
        """Return an episode, None if it was not played yet or its line is damaged."""
        if key is None:
            return None
        with self._lock:
            row = self._database.execute(
                "SELECT line FROM episodes WHERE key = ?", (key,)
            ).fetchone()
        try:
            record = parse_record(row[0], "cache") if row else None
        except (DamagedLine, RecordError):
            record = None
        self.num_hits += record is not None
        self.num_misses += record is None
        return record

    def put(self, key: str | None, record: EpisodeRecord) -> None:
        """Keep an episode that has a result; the oldest ones make room."""
        if key is None or not record.has_result:
            return
        with self._lock, self._database:
            self._database.execute(
                "INSERT OR REPLACE INTO episodes (key, line, number) "
                "VALUES (?, ?, (SELECT coalesce(max(number), 0) + 1 FROM episodes))",
                (key, write_record(record)),
            )
            self._database.execute(
                "DELETE FROM episodes WHERE number <= (SELECT max(number) FROM episodes) - ?",
                (self.max_episodes,),
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def _hash_file(self, path: Path) -> str:
        """Hash a file's bytes; one that did not change is read once."""
        status = os.stat(path)
        signature = str(path), status.st_ino, status.st_size, status.st_mtime_ns
        if signature not in self._hashes:
            self._hashes[signature] = hash_file(path)
        return self._hashes[signature]
