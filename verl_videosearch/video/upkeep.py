"""Upkeep: how much disk the frame store takes, and what goes when it is too much.

The one idea: the least recently used entries go first, down to a little below the limit, and a
large folder is not read for every video: only when what was written since could matter.

    upkeep = Upkeep(root, entries, max_bytes=None, trouble=Trouble(root), count_evicted=...)
    if upkeep.is_scan_due(num_bytes):
        upkeep.evict(keep=new_entries)

Covers: the limit, eviction, entries of older formats, files of dead writers. Does not cover: what
an entry is (`entries`), sizes in words and estimates (`space`)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from filelock import Timeout

from verl_videosearch.video.entries import SUFFIX
from verl_videosearch.video.space import (
    STALE_AFTER_S,
    StoredFile,
    count_free,
    count_limit,
    format_bytes,
    is_abandoned,
    scan_folder,
)

_LOG = logging.getLogger(__name__)
_SLACK = 0.01  # of the limit: what a process may write before it looks again what others wrote


class Trouble:
    """What the disk does not allow: said once each, never raised."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._said: set[str] = set()

    @contextmanager
    def caught(self, what: str) -> Iterator[None]:
        """Say what failed where the block meets a fault of the disk."""
        try:
            yield
        except Timeout:  # of a lock: an OSError, but no fault of the disk
            raise
        except (OSError, NotImplementedError) as error:
            self.say(what, error)

    def say(self, what: str, error: Exception) -> None:
        """Warn, unless it was said before."""
        if what not in self._said:
            self._said.add(what)
            _LOG.warning("frame store %s %s: %s (said once)", self.root, what, error)


class Upkeep:
    """The folder of entries and its limit; safe to use from several threads."""

    def __init__(
        self,
        root: Path,
        entries: Path,
        max_bytes: int | None,
        trouble: Trouble,
        count_evicted: Callable[[], None],
    ) -> None:
        """`max_bytes`: null for half of what is free; `count_evicted` is called for each entry that
        goes."""
        self.root, self.entries, self.max_bytes, self.trouble = root, entries, max_bytes, trouble
        self._count_evicted, self._mutex = count_evicted, Lock()
        self._scanned_at_s, self._scanned_bytes, self._written_bytes = -math.inf, 0, 0
        self._limit_bytes = max_bytes or 0  # 0: not known before the first scan

    def size_bytes(self) -> int:
        """Return the disk space of all entries."""
        return sum(file.num_bytes for file in self.scan() if file.path.suffix == SUFFIX)

    def limit_bytes(self) -> int:
        """Return the disk space that the entries may take."""
        return self.max_bytes or count_limit(self.root, self.size_bytes())

    def is_scan_due(self, num_bytes: int) -> bool:
        """Note what was written; True now and then, so that a large folder is not read for every
        video."""
        with self._mutex:
            self._written_bytes += num_bytes
            if time.monotonic() - self._scanned_at_s >= STALE_AFTER_S:
                return True
            is_full = self._scanned_bytes + self._written_bytes > self._limit_bytes
            return is_full or self._written_bytes > _SLACK * self._limit_bytes

    def evict(self, keep: Sequence[Path]) -> None:
        """Remove the least recently used entries beyond the limit, and what dead writers left
        behind."""
        with self._mutex:
            self._scanned_at_s, self._written_bytes = time.monotonic(), 0
        with self.trouble.caught("cannot be tidied up"):
            entries = []
            for file in sorted(self.scan()):
                if file.path.suffix == SUFFIX:
                    entries.append(file)
                elif is_abandoned(file):
                    file.path.unlink(missing_ok=True)
            total = sum(file.num_bytes for file in entries)
            self._limit_bytes = self.max_bytes or count_limit(self.root, total)
            if total > self._limit_bytes:
                goal = (1 - _SLACK) * self._limit_bytes
                total -= self._remove_oldest(entries, total, goal, keep)
            self._scanned_bytes = total

    def _remove_oldest(
        self, entries: Sequence[StoredFile], total: int, goal: float, keep: Sequence[Path]
    ) -> int:
        """Remove entries, oldest first, while more than the limit is left or the next one still
        lies above the goal; return the bytes that became free."""
        removed = 0
        for file in entries:
            left = total - removed
            if left <= self._limit_bytes and left - file.num_bytes < goal:
                break
            if file.path not in keep:
                file.path.unlink(missing_ok=True)
                removed += file.num_bytes
                self._count_evicted()
        return removed

    def scan(self) -> Iterator[StoredFile]:
        """Yield the entries and the files that are being written; a store that cannot be read has
        none."""
        with self.trouble.caught("cannot be read"), suppress(FileNotFoundError):
            yield from scan_folder(self.entries)

    def list_old_files(self) -> list[StoredFile]:
        """Return the entries of older formats, which nobody reads any more."""
        files: list[StoredFile] = []
        for folder in self.root.glob("v*"):
            if folder != self.entries and folder.name[1:].isdigit():
                with self.trouble.caught("cannot be read"):
                    files += scan_folder(folder)
        return files

    def describe(self) -> str:
        """Say in one line where the store is, what it holds and what it may."""
        files = [file for file in self.scan() if file.path.suffix == SUFFIX]
        total = sum(file.num_bytes for file in files)
        old = sum(file.num_bytes for file in self.list_old_files())
        parts = [
            f"{self.root}: {len(files)} entries, {format_bytes(total)}",
            f"limit {format_bytes(self.limit_bytes())}",
            f"{format_bytes(count_free(self.root))} free",
        ]
        if old:
            parts.append(f"{format_bytes(old)} of an older format (`videosearch store prune`)")
        return ", ".join(parts)

    def prune(self, max_bytes: int | None = None) -> int:
        """Remove entries of older formats, what dead writers left, and the least recently used
        entries beyond `max_bytes` (default: the store's limit); return the bytes that became
        free."""
        limit = self.limit_bytes() if max_bytes is None else max_bytes
        files = sorted(self.scan())
        entries = [file for file in files if file.path.suffix == SUFFIX]
        doomed = self.list_old_files() + [file for file in files if is_abandoned(file)]
        total = sum(file.num_bytes for file in entries)
        for file in entries:
            if total <= limit:
                break
            doomed.append(file)
            total -= file.num_bytes
        freed = 0
        with self.trouble.caught("cannot be tidied up"):
            for file in doomed:
                file.path.unlink(missing_ok=True)
                freed += file.num_bytes
        for folder in {file.path.parent for file in doomed} - {self.entries}:
            with suppress(OSError):  # something else lies in it
                folder.rmdir()
        return freed
