"""BatchStore: many pairs in one request, done in the background, that survive a restart.

The one idea: every pair is a row with a state and a lease. Whoever works on it takes it in one
statement; a server that was killed leaves rows whose lease has run out, and the next one takes them
again. One that is given back is not taken again at once, so that others come before it. A result is
written once.

    waiting -> running (leased) -> done | failed
    waiting -> cancelled

SQLite in WAL mode, one file. Covers: rows and their states. Does not cover: judging (`service`).
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

_WAIT_S = 30.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY,
    created_s REAL NOT NULL,
    is_cancelled INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS pairs (
    batch TEXT NOT NULL REFERENCES batches(id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    pair TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting',
    lease_until_s REAL NOT NULL DEFAULT 0,
    result TEXT,
    PRIMARY KEY (batch, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS open_pairs ON pairs (state) WHERE state IN ('waiting', 'running');
"""
_TAKE = """
UPDATE pairs SET state = 'running', lease_until_s = :until
WHERE (batch, number) = (
    SELECT batch, number FROM pairs JOIN batches ON batches.id = pairs.batch
    WHERE state IN ('waiting', 'running') AND lease_until_s < :now AND NOT is_cancelled
    ORDER BY created_s, batch, number LIMIT 1
)
RETURNING batch, number, pair, lease_until_s
"""


@dataclass(frozen=True)
class TakenPair:
    """A pair that is being judged now."""

    batch: str
    number: int
    pair: Mapping[str, Any]
    until_s: float
    """Lease; whoever takes the pair after it has another one."""


class BatchStore:
    """Batches and their pairs; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = Lock()
        self._database = sqlite3.connect(str(path), timeout=_WAIT_S, check_same_thread=False)
        self._database.row_factory = sqlite3.Row
        with self._lock, self._database:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA foreign_keys = ON")
            self._database.executescript(_SCHEMA)

    def add(self, pairs: Sequence[Mapping[str, Any]]) -> str:
        """Store a batch; returns its id."""
        name = secrets.token_hex(12)
        rows = [(name, number, json.dumps(pair)) for number, pair in enumerate(pairs)]
        with self._lock, self._database:
            self._database.execute(
                "INSERT INTO batches (id, created_s) VALUES (?, ?)", (name, time.time())
            )
            self._database.executemany(
                "INSERT INTO pairs (batch, number, pair) VALUES (?, ?, ?)", rows
            )
        return name

    def free_all(self) -> int:
        """Give back what a killed server was working on; for a server that is alone. Returns how
        many."""
        with self._lock, self._database:
            return self._database.execute(
                "UPDATE pairs SET state = 'waiting', lease_until_s = 0 WHERE state = 'running'"
            ).rowcount

    def take(self, lease_s: float) -> TakenPair | None:
        """Take the next pair for `lease_s` seconds; None if nothing waits."""
        now = time.time()
        with self._lock, self._database:
            rows = self._database.execute(_TAKE, {"now": now, "until": now + lease_s}).fetchall()
        if not rows:
            return None
        batch, number, pair, until_s = rows[0]
        return TakenPair(batch, number, json.loads(pair), until_s)

    def give_back(self, taken: TakenPair, wait_s: float) -> None:
        """Let somebody do it later: after `wait_s` seconds, and others before."""
        self._set_state(taken, "waiting", None, time.time() + wait_s)

    def finish(self, taken: TakenPair, result: Mapping[str, Any], is_failed: bool = False) -> None:
        """Write the result of a pair, once."""
        self._set_state(taken, "failed" if is_failed else "done", json.dumps(result))

    def cancel(self, name: str) -> bool:
        """Cancel what waits and what runs; False if there is no such batch."""
        with self._lock, self._database:
            found = self._database.execute(
                "UPDATE batches SET is_cancelled = 1 WHERE id = ?", (name,)
            ).rowcount
            self._database.execute(
                "UPDATE pairs SET state = 'cancelled' "
                "WHERE batch = ? AND state IN ('waiting', 'running')",
                (name,),
            )
        return bool(found)

    def describe(self, name: str) -> dict[str, Any] | None:
        """Return where a batch stands; None if there is no such batch."""
        with self._lock:
            batch = self._database.execute(
                "SELECT created_s, is_cancelled FROM batches WHERE id = ?", (name,)
            ).fetchone()
            rows = self._database.execute(
                "SELECT state, count(*) FROM pairs WHERE batch = ? GROUP BY state", (name,)
            ).fetchall()
        if batch is None:
            return None
        counts = {state: count for state, count in rows}
        num_open = counts.get("waiting", 0) + counts.get("running", 0)
        is_cut = batch["is_cancelled"] and counts.get("cancelled", 0)
        state = "cancelled" if is_cut else "running" if num_open else "done"
        return {
            "id": name,
            "state": state,
            "created_s": round(batch["created_s"], 3),
            "num_pairs": sum(counts.values()),
            "num_done": counts.get("done", 0),
            "num_failed": counts.get("failed", 0),
            "num_cancelled": counts.get("cancelled", 0),
        }

    def read_results(self, name: str, offset: int, limit: int) -> list[dict[str, Any]]:
        """Return what became of some pairs, by number."""
        with self._lock:
            rows = self._database.execute(
                "SELECT number, state, result FROM pairs WHERE batch = ? AND number >= ? "
                "ORDER BY number LIMIT ?",
                (name, offset, limit),
            ).fetchall()
        return [
            {"number": number, "state": state, "result": json.loads(result) if result else None}
            for number, state, result in rows
        ]

    def list_batches(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest batches."""
        with self._lock:
            names = self._database.execute(
                "SELECT id FROM batches ORDER BY created_s DESC LIMIT ?", (limit,)
            ).fetchall()
        return [found for (name,) in names if (found := self.describe(name)) is not None]

    def count_open(self) -> int:
        """Count the pairs that wait or run."""
        with self._lock:
            return self._database.execute(
                "SELECT count(*) FROM pairs WHERE state IN ('waiting', 'running')"
            ).fetchone()[0]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def _set_state(
        self, taken: TakenPair, state: str, result: str | None, until_s: float = 0.0
    ) -> None:
        """Move a running pair on; one that was cancelled meanwhile, or that somebody else took when
        the lease was over, stays as it is."""
        with self._lock, self._database:
            self._database.execute(
                "UPDATE pairs SET state = ?, result = ?, lease_until_s = ? "
                "WHERE batch = ? AND number = ? AND state = 'running' AND lease_until_s = ?",
                (state, result, until_s, taken.batch, taken.number, taken.until_s),
            )
