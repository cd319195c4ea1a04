"""FrameStore: decoded candidate frames on disk, shared by every process: one decode per video, not
per rollout.

The one idea: an entry is a pure function of (bytes of the video, sampling plan, format version) and
its name is the hash of the three. So entries are never updated, only written whole, evicted, and
written again; a moved or renamed video is still found, and a changed one is a new entry::

    store = FrameStore("/local/disk/frames", max_bytes=50 * 2**30)
    stored = store.get("clip.mp4", FramePlan())
    stored.frames[12]                       # uint8 (H, W, 3), memory-mapped: only this frame is read from disk
    store.stats.hits, store.stats.decode_s

One file per entry: magic, checksum and length of the header, the header as JSON, then the raw
frames. It is written under a temporary name and moved into place. Header and length are checked at
every open, the checksum of the frames at the first open of an entry in a process; what fails is
decoded again, never served. A lock per entry makes processes wait for the one that decodes; the
kernel frees the lock of a killed process. A lock only saves work: who waits in vain decodes too,
and the last move wins.

Covers: many processes and threads of one machine on a local disk. Does not cover: a folder shared
by machines whose file system has no `flock`, bits that flip while an entry is in use.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

import numpy as np
import xxhash
from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from verl_videosearch.video.decode import (
    DECODE_TIMEOUT_S,
    FramePlan,
    VideoError,
    VideoErrorKind,
    VideoFrames,
    check_file,
    read_candidate_frames,
)

ROOT_VARIABLE = "VIDEOSEARCH_FRAME_STORE"
"""Environment variable that names another folder for the store."""
FORMAT_VERSION = 1
"""Part of every entry's name: raise it when decoding, resizing or the file layout changes."""

_MAGIC = b"VSFRAMES"
_ALIGNMENT = 64
_PREAMBLE = len(_MAGIC) + 8 + 8  # magic, checksum of the header, length of the header
_STALE_AFTER_S = 3600.0  # a temporary file this old belongs to a process that died
_SLACK = 0.01  # of `max_bytes`: what a process may write before it looks again what the others have written
_CHUNK = 1 << 20


@dataclass(frozen=True)
class FrameStoreStats:
    """What one `FrameStore` object (so one process) has done."""

    hits: int = 0
    """Calls answered from disk, also those that waited for another process to decode."""
    misses: int = 0
    """Calls that decoded, failed ones among them."""
    rebuilt: int = 0
    """Misses caused by a damaged entry."""
    evicted: int = 0
    """Entries removed to stay within `max_bytes`."""
    decode_s: float = 0.0
    """Seconds spent decoding."""


@dataclass(frozen=True)
class StoredFrames:
    """The candidate frames of one video, as the store gives them."""

    frames: np.ndarray
    """RGB, uint8 (N, H, W, 3), read-only and memory-mapped; stays valid when the entry is
    evicted."""
    times_s: np.ndarray
    """Time of each frame in seconds from the video's first one, float64 (N,)."""
    num_decoded_frames: int
    """All frames that the decoder gave, of which N were kept."""
    source_height: int
    """Pixels of an upright frame, before resizing."""
    source_width: int
    """Pixels of an upright frame, before resizing."""
    was_hit: bool
    """This call did not decode."""
    decode_s: float
    """Seconds this call spent decoding; 0 for a hit."""


def default_root() -> Path:
    """Return the store's folder: $VIDEOSEARCH_FRAME_STORE, else one in the user's cache folder."""
    return Path(os.environ.get(ROOT_VARIABLE) or user_cache_path("verl-videosearch") / "frames")


class _DamagedEntry(Exception):
    """An entry is not what was written."""


class FrameStore:
    """Decoded frames by video content and plan. Safe to use from many processes and threads at
    once."""

    def __init__(
        self,
        root: str | PathLike[str] | None = None,
        *,
        max_bytes: int | None = None,
        timeout_s: float = DECODE_TIMEOUT_S,
    ) -> None:
        """Open or create the store in `root` (default: `default_root()`).

        `max_bytes` bounds the disk space (None: no limit; the newest entry always stays); several
        processes that write at once may exceed it by a hundredth each. `timeout_s` bounds one
        decode; the wait for another process that decodes the same video is twice that.
        """
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(
                f"max_bytes must be at least 1 or None for no limit, got {max_bytes!r}"
            )
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be positive, got {timeout_s!r}")
        self.root = Path(root) if root is not None else default_root()
        self.max_bytes, self.timeout_s = max_bytes, timeout_s
        self._entries, self._locks = self.root / f"v{FORMAT_VERSION}", self.root / "locks"
        for folder in (self._entries, self._locks):
            folder.mkdir(parents=True, exist_ok=True)
        self._stats, self._mutex = FrameStoreStats(), Lock()
        self._content_hashes: dict[tuple[str, int, int, int], str] = {}
        self._verified: dict[Path, tuple[int, int]] = {}
        self._broken: dict[str, VideoError] = {}
        self._scanned_at_s, self._scanned_bytes, self._written_bytes = -math.inf, 0, 0

    @property
    def stats(self) -> FrameStoreStats:
        """What this object has done so far."""
        return self._stats

    def size_bytes(self) -> int:
        """Return the disk space of all entries."""
        return sum(size for _, size, path in self._scan() if path.suffix == ".frames")

    def get(
        self, path: str | PathLike[str], plan: FramePlan, uid: str | None = None
    ) -> StoredFrames:
        """Return the frames of a video, decoding it only if no process has done so; raises
        `VideoError`.

        A video that failed to decode fails again at once in this process, without a second try.
        """
        check_file(path, uid)
        signature = _signature(path)
        key = self._key(signature, plan)
        if key in self._broken:
            known = self._broken[key]
            raise VideoError(known.kind, str(path), known.cause, uid)
        entry = self._entries / f"{key}.frames"
        with suppress(FileNotFoundError, _DamagedEntry):
            return self._open_hit(entry)
        with self._lock(key):
            try:
                return self._open_hit(entry)
            except FileNotFoundError:
                pass
            except _DamagedEntry:
                self._count(rebuilt=1)
            return self._decode(signature, plan, key, entry, uid)

    def _key(self, signature: tuple[str, int, int, int], plan: FramePlan) -> str:
        if signature not in self._content_hashes:
            self._content_hashes[signature] = _hash_file(signature[0])
        named = {
            "format": FORMAT_VERSION,
            "content": self._content_hashes[signature],
            "plan": asdict(plan),
        }
        return xxhash.xxh3_128_hexdigest(json.dumps(named, sort_keys=True).encode())

    def _open_hit(self, entry: Path) -> StoredFrames:
        stored = self._open(entry)
        with suppress(FileNotFoundError):  # evicted since; the mapping keeps its data
            os.utime(entry)  # the time of last use, by which `_evict` goes
        self._count(hits=1)
        return stored

    def _decode(
        self,
        signature: tuple[str, int, int, int],
        plan: FramePlan,
        key: str,
        entry: Path,
        uid: str | None,
    ) -> StoredFrames:
        path, start = signature[0], time.perf_counter()
        try:
            video = read_candidate_frames(path, plan, timeout_s=self.timeout_s, uid=uid)
        except VideoError as error:
            self._broken[key] = error
            raise
        finally:
            decode_s = time.perf_counter() - start
            self._count(misses=1, decode_s=decode_s)
        if _signature(path) != signature:
            raise VideoError(
                VideoErrorKind.UNREADABLE, path, "the file changed while it was read", uid
            )
        _write_entry(entry, video)
        stored = replace(self._open(entry), was_hit=False, decode_s=decode_s)
        if self._is_scan_due(stored.frames.offset + stored.frames.nbytes):
            self._evict(keep=entry)
        return stored

    def _open(self, entry: Path) -> StoredFrames:
        """Map an entry; raises `FileNotFoundError`, or `_DamagedEntry` if it is not whole."""
        header, offset, identity = _read_header(entry)
        frames = np.memmap(
            entry, dtype=np.uint8, mode="r", offset=offset, shape=tuple(header["shape"])
        )
        if self._verified.get(entry) != identity:
            if xxhash.xxh3_128_hexdigest(frames) != header["checksum"]:
                raise _DamagedEntry(entry)
            self._verified[entry] = identity
        times_s = np.array(header["times_s"], dtype=np.float64)
        sizes = {
            name: header[name] for name in ("num_decoded_frames", "source_height", "source_width")
        }
        return StoredFrames(frames, times_s, **sizes, was_hit=True, decode_s=0.0)

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        # 4096 lock files for all entries, never removed: removing one under a waiting process would
        # split the lock
        lock = FileLock(self._locks / f"{key[:3]}.lock", timeout=2 * self.timeout_s)
        with suppress(Timeout):
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _is_scan_due(self, num_bytes: int) -> bool:
        """Note what was written; True now and then, so that a large folder is not read for every
        video."""
        with self._mutex:
            self._written_bytes += num_bytes
            if time.monotonic() - self._scanned_at_s >= _STALE_AFTER_S:
                return True
            if self.max_bytes is None:
                return False
            is_full = self._scanned_bytes + self._written_bytes > self.max_bytes
            return is_full or self._written_bytes > _SLACK * self.max_bytes

    def _evict(self, keep: Path) -> None:
        """Remove the least recently used entries beyond `max_bytes`, and what dead writers left
        behind."""
        with self._mutex:
            self._scanned_at_s, self._written_bytes = time.monotonic(), 0
        entries = []
        for used_s, size, path in sorted(self._scan()):
            if path.suffix == ".frames":
                entries.append((size, path))
            elif used_s < time.time() - _STALE_AFTER_S:
                path.unlink(missing_ok=True)
        total = sum(size for size, _ in entries)
        if self.max_bytes is not None and total > self.max_bytes:
            for size, path in entries:
                if total <= self.max_bytes and total - size < (1 - _SLACK) * self.max_bytes:
                    break
                if path != keep:
                    path.unlink(missing_ok=True)
                    total -= size
                    self._count(evicted=1)
        self._scanned_bytes = total

    def _scan(self) -> Iterator[tuple[float, int, Path]]:
        """Yield (time of last use, size, path) of entries and of files that are being written."""
        with os.scandir(self._entries) as found:
            for item in found:
                if item.name.endswith((".frames", ".part")):
                    with suppress(FileNotFoundError):  # removed by another process meanwhile
                        status = item.stat()
                        yield status.st_mtime, status.st_size, Path(item.path)

    def _count(self, **more: float) -> None:
        with self._mutex:
            self._stats = replace(
                self._stats,
                **{name: getattr(self._stats, name) + add for name, add in more.items()},
            )


def _signature(path: str | PathLike[str]) -> tuple[str, int, int, int]:
    """Name a state of a file without reading it: (absolute path, inode, size, time of change)."""
    status = os.stat(path)
    return os.path.abspath(path), status.st_ino, status.st_size, status.st_mtime_ns


def _hash_file(path: str) -> str:
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _write_entry(entry: Path, video: VideoFrames) -> None:
    """Write an entry whole or not at all."""
    frames = np.ascontiguousarray(video.frames)
    header = json.dumps(
        {
            "shape": frames.shape,
            "checksum": xxhash.xxh3_128_hexdigest(frames),
            "times_s": video.times_s.tolist(),
            "num_decoded_frames": video.num_decoded_frames,
            "source_height": video.source_height,
            "source_width": video.source_width,
        }
    ).encode()
    header += b" " * (-(_PREAMBLE + len(header)) % _ALIGNMENT)
    part = entry.with_name(f"{entry.stem}.{uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            file.write(
                _MAGIC + xxhash.xxh3_64_digest(header) + len(header).to_bytes(8, "little") + header
            )
            file.write(frames.data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, entry)
    finally:
        part.unlink(missing_ok=True)


def _read_header(entry: Path) -> tuple[dict[str, Any], int, tuple[int, int]]:
    """Return (header, where the frames start, identity of the file); raises `_DamagedEntry` if the
    length is wrong."""
    with entry.open("rb") as file:
        status = os.fstat(file.fileno())
        preamble = file.read(_PREAMBLE)
        num_header_bytes = int.from_bytes(preamble[16:], "little")
        offset = _PREAMBLE + num_header_bytes
        is_whole = (
            len(preamble) == _PREAMBLE and preamble[:8] == _MAGIC and offset <= status.st_size
        )
        header_bytes = file.read(num_header_bytes) if is_whole else b""
    if not is_whole or xxhash.xxh3_64_digest(header_bytes) != preamble[8:16]:
        raise _DamagedEntry(entry)
    header = json.loads(header_bytes)
    if status.st_size != offset + math.prod(header["shape"]):
        raise _DamagedEntry(entry)
    return header, offset, (status.st_ino, status.st_size)
