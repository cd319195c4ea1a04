"""FrameStore: decoded candidate frames on disk, shared by every process: one decode per video, not
per rollout.

The one idea: an entry is a pure function of (bytes of the video, plan, format version) and its name
is the hash of the three. So entries are never updated, only written whole, evicted, and written
again; a moved or renamed video is still found, and a changed one is a new entry. A plan fixes the
size, so what a call needs lies there at its size and is never resized again::

    store = FrameStore("/local/disk/frames", max_bytes=50 * 2**30)
    video = store.open("clip.mp4", (FramePlan(), FramePlan(max_pixels=50_000, shown=4)))
    video.frame(12, 512 * 28 * 28)          # uint8 (H, W, 3), mapped: only this frame is read
    video.frame(12, None)                   # at the source's size; once decoded, an entry, too
    store.read_frames(video.key, [12], 512 * 28 * 28)   # in another process, from text alone

`entries` is the file format. A lock per video makes processes wait for the one that decodes; the
kernel frees the lock of a killed process. A lock only saves work: who waits in vain decodes too,
and the last move wins. A store on a full or read-only disk still serves what it holds, and the rest
without storing it; it says so once.

Covers: many processes and threads of one machine on a local disk. Does not cover: a folder shared
by machines whose file system has no `flock`, bits that flip while an entry is in use.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from threading import Lock

import numpy as np
import xxhash
from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from verl_videosearch.frames import sample_indices
from verl_videosearch.video import films
from verl_videosearch.video.container import is_picture
from verl_videosearch.video.decode import look_at_head, read_frames
from verl_videosearch.video.entries import (
    SUFFIX,
    DamagedEntry,
    Entry,
    make_header,
    open_entry,
    write_entry,
)
from verl_videosearch.video.errors import VideoError, VideoErrorKind, check_file
from verl_videosearch.video.plan import FramePlan
from verl_videosearch.video.reading import DECODE_TIMEOUT_S, Reading, run_in_time
from verl_videosearch.video.reference import FORMAT_VERSION, VideoKey
from verl_videosearch.video.space import (
    STALE_AFTER_S,
    StoredFile,
    count_free,
    count_limit,
    format_bytes,
    is_abandoned,
    scan_folder,
)

ROOT_VARIABLE = "VIDEOSEARCH_FRAME_STORE"
"""Environment variable that names another folder for the store."""

_LOG = logging.getLogger(__name__)
_SLACK = 0.01  # of the limit: what a process may write before it looks again what others wrote
_CHUNK = 1 << 20
_LARGE = 1 << 26  # a file of more bytes is opened by a decoder before it is read for its hash
_PASSING = (VideoErrorKind.NO_MEMORY,)  # what may be better at the next try
Signature = tuple[str, int, int, int]


@dataclass(frozen=True)
class FrameStoreStats:
    """What one `FrameStore` object (so one process) has done."""

    hits: int = 0
    """Entries served from disk, also those that waited for another process to decode."""
    misses: int = 0
    """Decodes, failed ones among them; one may fill several entries."""
    rebuilt: int = 0
    """Misses caused by a damaged entry."""
    evicted: int = 0
    """Entries removed to stay within the limit."""
    unstored: int = 0
    """Entries that the disk did not take: served, and decoded again the next time."""
    decode_s: float = 0.0
    """Seconds spent decoding."""


@dataclass(frozen=True)
class StoredFrames:
    """The frames of one video under one plan, as the store gives them."""

    frames: np.ndarray
    """RGB, uint8 (N, H, W, 3), read-only and memory-mapped; stays valid when the entry is
    evicted."""
    times_s: np.ndarray
    """Time of each of these frames in seconds from the video's first one, float64 (N,)."""
    num_decoded_frames: int
    """All frames that the decoder gave."""
    source_height: int
    """Pixels of an upright frame, before resizing."""
    source_width: int
    """Pixels of an upright frame, before resizing."""
    was_hit: bool
    """This call did not decode."""
    decode_s: float
    """Seconds this call spent decoding; 0 for a hit."""
    duration_s: float = 0.0
    """From the first frame of the video to the end of its last one."""
    indices: tuple[int, ...] = ()
    """Which candidates these are, 0-based."""
    candidate_times_s: tuple[float, ...] = ()
    """Time of every candidate, also of those that the plan does not keep."""
    notes: tuple[str, ...] = ()
    """What a user should know about the file though it can be used."""

    def covers(self, plan: FramePlan) -> bool:
        """Say whether all candidates are here, at the very size of another plan."""
        size = plan.fit(self.source_height, self.source_width)
        is_whole = len(self.indices) == len(self.candidate_times_s)
        return is_whole and self.frames.shape[1:3] == size


class StoredVideo:
    """The frames of one video under the plans of an episode."""

    def __init__(self, key: VideoKey, entries: Sequence[StoredFrames], store: FrameStore) -> None:
        self.key = str(key)
        """Names it for other processes: see `FrameStore.read_frames`."""
        self._plan, self._entries, self._store = key.plans[0], tuple(entries), store
        first = entries[0]
        self.source_height, self.source_width = first.source_height, first.source_width
        self.times_s, self.duration_s = first.candidate_times_s, first.duration_s
        self.notes = first.notes
        self.was_hit = all(entry.was_hit for entry in entries)
        self.decode_s = max(entry.decode_s for entry in entries)
        self.num_bytes = sum(entry.frames.nbytes for entry in {id(e): e for e in entries}.values())
        self._places = [
            {index: place for place, index in enumerate(entry.indices)} for entry in entries
        ]

    @property
    def num_frames(self) -> int:
        """How many candidate frames the video has."""
        return len(self.times_s)

    def size_of(self, max_pixels: int | None) -> tuple[int, int]:
        """Return the (height, width) of its frames under a pixel budget."""
        plan = replace(self._plan, max_pixels=max_pixels)
        return plan.fit(self.source_height, self.source_width)

    def frame(self, index: int, max_pixels: int | None) -> np.ndarray:
        """Return one candidate at the size of a budget, uint8 (H, W, 3), from the memory map; a
        size or frame that no plan holds is decoded once and stored. Raises `VideoError`."""
        size = self.size_of(max_pixels)
        for entry, places in zip(self._entries, self._places, strict=True):
            if index in places and entry.frames.shape[1:3] == size:
                return entry.frames[places[index]]
        return self._store.read_frames(self.key, [index], max_pixels)[0]


def default_root() -> Path:
    """Return the store's folder: $VIDEOSEARCH_FRAME_STORE, else one in the user's cache folder."""
    return Path(os.environ.get(ROOT_VARIABLE) or user_cache_path("verl-videosearch") / "frames")


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

        `max_bytes` bounds the disk space (None: half of what is free on the disk or the store's
        own; the newest entry always stays); several processes that write at once may exceed it by a
        hundredth each. `timeout_s` bounds the hashing and the decode of one video; the wait for
        another process that decodes the same one is twice that.
        """
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(
                "max_bytes must be at least 1, or None for half of the free disk, "
                f"got {max_bytes!r}"
            )
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be positive, got {timeout_s!r}")
        self.root = Path(root) if root is not None else default_root()
        self.max_bytes, self.timeout_s = max_bytes, timeout_s
        self._entries, self._locks = self.root / f"v{FORMAT_VERSION}", self.root / "locks"
        self._stats, self._mutex = FrameStoreStats(), Lock()
        self._said: set[str] = set()
        self._content_hashes: dict[Signature, str] = {}
        self._verified: dict[Path, tuple[int, int]] = {}
        self._broken: dict[Signature, VideoError] = {}
        self._scanned_at_s, self._scanned_bytes, self._written_bytes = -math.inf, 0, 0
        self._limit_bytes = max_bytes or 0  # 0: not known before the first scan
        with self._store_errors("cannot be created"):
            for folder in (self._entries, self._locks):
                folder.mkdir(parents=True, exist_ok=True)

    @property
    def stats(self) -> FrameStoreStats:
        """What this object has done so far."""
        return self._stats

    def size_bytes(self) -> int:
        """Return the disk space of all entries."""
        return sum(file.num_bytes for file in self.scan() if file.path.suffix == SUFFIX)

    def limit_bytes(self) -> int:
        """Return the disk space that the entries may take."""
        return self.max_bytes or count_limit(self.root, self.size_bytes())

    def get(
        self, path: str | PathLike[str], plan: FramePlan, uid: str | None = None
    ) -> StoredFrames:
        """Return the frames of a video under one plan, decoding it only if no process has done so;
        raises `VideoError`.

        A video that failed to decode fails again at once in this process, without a second try.
        """
        signature, content = self._identify(path, uid)
        return self._fetch(signature, content, (plan,), uid)[0]

    def open(
        self, path: str | PathLike[str], plans: Sequence[FramePlan], uid: str | None = None
    ) -> StoredVideo:
        """Return a video under several plans of the same candidates, with one decode for all that
        are missing; raises `VideoError`."""
        signature, content = self._identify(path, uid)
        key = VideoKey(content, tuple(plans), signature[0])
        return StoredVideo(key, self._fetch(signature, content, key.plans, uid), self)

    def find(
        self, path: str | PathLike[str], plans: Sequence[FramePlan], uid: str | None = None
    ) -> StoredVideo | None:
        """Return a video of which all plans lie here, without decoding; None where one does not.
        Raises `VideoError` for a file that is missing or known to be broken."""
        signature, content = self._identify(path, uid)
        key = VideoKey(content, tuple(plans), signature[0])
        entries = self._look_up(content, key.plans)
        found = [entry for entry in entries if entry is not None]
        return StoredVideo(key, found, self) if len(found) == len(entries) else None

    def read_frames(
        self, key: str, indices: Sequence[int], max_pixels: int | None, uid: str | None = None
    ) -> np.ndarray:
        """Return candidates of the video that `StoredVideo.key` names, at the size of a budget
        (None: the source's size), uint8 (len(indices), H, W, 3), in any process.

        They come from the memory map; what is missing is decoded and stored. Raises `VideoError`,
        also when the file is no longer the one that the key names.
        """
        wanted = VideoKey.parse(key)
        frames: dict[int, np.ndarray] = {}
        num_candidates = self._collect(frames, wanted, wanted.plans, max_pixels, uid)
        outside = [index for index in indices if not 0 <= index < num_candidates]
        if outside:
            cause = f"it has {num_candidates} candidate frames, asked for index {outside[0]}"
            raise VideoError(VideoErrorKind.NO_FRAMES, wanted.path, cause, uid)
        missing = [index for index in dict.fromkeys(indices) if index not in frames]
        if missing:
            base = replace(wanted.plans[0], max_pixels=max_pixels)
            singles = [replace(base, shown=(index,)) for index in missing]
            self._collect(frames, wanted, singles, max_pixels, uid)
        return np.stack([frames[index] for index in indices])

    def _collect(
        self,
        frames: dict[int, np.ndarray],
        wanted: VideoKey,
        plans: Sequence[FramePlan],
        max_pixels: int | None,
        uid: str | None,
    ) -> int:
        """Add what these plans hold at one size, decoding what is missing; return the number of
        candidates."""
        known = self._look_up(wanted.content, plans)
        stored = [one for one in known if one is not None]
        if len(stored) < len(known):
            signature, content = self._identify(wanted.path, uid)
            if content != wanted.content:
                cause = "another file has taken its place since it was first read"
                raise VideoError(VideoErrorKind.UNREADABLE, wanted.path, cause, uid)
            stored = self._fetch(signature, content, plans, uid)
        size = replace(plans[0], max_pixels=max_pixels).fit(
            stored[0].source_height, stored[0].source_width
        )
        for one in stored:
            if one.frames.shape[1:3] == size:
                frames.update(zip(one.indices, one.frames, strict=True))
        return len(stored[0].candidate_times_s)

    def _identify(self, path: str | PathLike[str], uid: str | None) -> tuple[Signature, str]:
        """Name a file's state and its content, hashing it if this process has not; raises
        `VideoError`."""
        check_file(path, uid)
        signature = _sign(path, uid)
        if signature in self._broken:
            known = self._broken[signature]
            raise VideoError(known.kind, str(path), known.cause, uid)
        if signature not in self._content_hashes:
            with self._remember_failure(signature):
                self._content_hashes[signature] = run_in_time(
                    signature[0], self.timeout_s, uid, _hash_file
                )
        return signature, self._content_hashes[signature]

    def _look_up(
        self, content: str, plans: Sequence[FramePlan], is_locked: bool = False
    ) -> list[StoredFrames | None]:
        """Return what is there, plan by plan; of a small video one entry may serve several."""
        found: list[StoredFrames | None] = []
        for plan in plans:
            whole = found[0] if found else None
            if whole is not None and whole.covers(plan):
                found.append(whole)
            else:
                found.append(self._open_hit(self._entry_of(content, plan), is_locked))
        return found

    def _fetch(
        self, signature: Signature, content: str, plans: Sequence[FramePlan], uid: str | None
    ) -> list[StoredFrames]:
        """Return the entries of several plans, decoding once what is missing."""
        stored = self._look_up(content, plans)
        if any(one is None for one in stored):
            with self._lock(content):
                stored = self._look_up(content, plans, is_locked=True)
                missing = [number for number, one in enumerate(stored) if one is None]
                made = self._decode(signature, content, [plans[i] for i in missing], uid)
            for number, one in zip(missing, made, strict=True):
                stored[number] = one
        return [one for one in stored if one is not None]

    def _entry_of(self, content: str, plan: FramePlan) -> Path:
        """Return where the entry of a video and a plan lies."""
        if plan.max_pixels is None:
            plan = replace(plan, patch_multiple=1)  # the source's size has no patches
        named = {"format": FORMAT_VERSION, "content": content, "plan": asdict(plan)}
        name = xxhash.xxh3_128_hexdigest(json.dumps(named, sort_keys=True).encode())
        return self._entries / f"{name}{SUFFIX}"

    def _open_hit(self, path: Path, is_locked: bool = False) -> StoredFrames | None:
        """Return an entry, None if there is none that can be used."""
        try:
            entry = open_entry(path)
            if self._verified.get(path) != entry.identity:
                entry.verify()
                self._verified[path] = entry.identity
        except FileNotFoundError:
            return None
        except DamagedEntry:
            if is_locked:
                self._count(rebuilt=1)
            return None
        except OSError as error:
            self._say("cannot be read", error)
            return None
        with suppress(OSError):  # evicted since, or a disk that cannot be written to
            os.utime(path)  # the time of last use, by which `_evict` goes
        self._count(hits=1)
        return _describe(entry, was_hit=True, decode_s=0.0)

    def _decode(
        self, signature: Signature, content: str, plans: Sequence[FramePlan], uid: str | None
    ) -> list[StoredFrames]:
        if not plans:
            return []
        path, start = signature[0], time.perf_counter()
        try:
            with self._remember_failure(signature):
                videos = read_frames(path, plans, timeout_s=self.timeout_s, uid=uid)
        finally:
            decode_s = time.perf_counter() - start
            self._count(misses=1, decode_s=decode_s)
        if _sign(path, uid) != signature:
            cause = "the file changed while it was read"
            raise VideoError(VideoErrorKind.UNREADABLE, path, cause, uid)
        stored: list[StoredFrames] = []
        kept: list[Path] = []
        for plan, video in zip(plans, videos, strict=True):
            if stored and stored[0].covers(plan):
                stored.append(stored[0])
                continue
            num_candidates = len(sample_indices(video.num_decoded_frames, plan.frames_per_video))
            header = make_header(video, plan.choose(num_candidates))
            entry_path = self._entry_of(content, plan)
            entry = self._write(entry_path, video.frames, header)
            kept.append(entry_path)
            stored.append(_describe(entry, was_hit=False, decode_s=decode_s))
        if self._is_scan_due(sum(one.frames.nbytes for one in stored)):
            self._evict(keep=kept)
        return stored

    def _write(self, path: Path, frames: np.ndarray, header: dict[str, object]) -> Entry:
        """Store an entry and map it; on a disk that does not take it, serve it from memory."""
        try:
            write_entry(path, frames, header)
            entry = open_entry(path)
            self._verified[path] = entry.identity
            return entry
        except (OSError, DamagedEntry) as error:
            self._say("cannot be written to, so videos are decoded again each time", error)
            self._count(unstored=1)
        frames.setflags(write=False)
        return Entry(frames, header, (0, 0))

    @contextmanager
    def _remember_failure(self, signature: Signature) -> Iterator[None]:
        try:
            yield
        except VideoError as error:
            if error.kind not in _PASSING:
                self._broken[signature] = error
            raise

    @contextmanager
    def _lock(self, content: str) -> Iterator[None]:
        # 4096 lock files for all entries, never removed: removing one under a waiting process would
        # split the lock
        lock = FileLock(self._locks / f"{content[:3]}.lock", timeout=2 * self.timeout_s)
        with suppress(Timeout), self._store_errors("cannot be locked"):
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
            if time.monotonic() - self._scanned_at_s >= STALE_AFTER_S:
                return True
            is_full = self._scanned_bytes + self._written_bytes > self._limit_bytes
            return is_full or self._written_bytes > _SLACK * self._limit_bytes

    def _evict(self, keep: Sequence[Path]) -> None:
        """Remove the least recently used entries beyond the limit, and what dead writers left
        behind."""
        with self._mutex:
            self._scanned_at_s, self._written_bytes = time.monotonic(), 0
        with self._store_errors("cannot be tidied up"):
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
                self._count(evicted=1)
        return removed

    def scan(self) -> Iterator[StoredFile]:
        """Yield the entries and the files that are being written; a store that cannot be read has
        none."""
        with self._store_errors("cannot be read"), suppress(FileNotFoundError):
            yield from scan_folder(self._entries)

    def list_old_files(self) -> list[StoredFile]:
        """Return the entries of older formats, which nobody reads any more."""
        files: list[StoredFile] = []
        for folder in self.root.glob("v*"):
            if folder != self._entries and folder.name[1:].isdigit():
                with self._store_errors("cannot be read"):
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
        with self._store_errors("cannot be tidied up"):
            for file in doomed:
                file.path.unlink(missing_ok=True)
                freed += file.num_bytes
        for folder in {file.path.parent for file in doomed} - {self._entries}:
            with suppress(OSError):  # something else lies in it
                folder.rmdir()
        return freed

    @contextmanager
    def _store_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except Timeout:  # of a lock: an OSError, but no fault of the disk
            raise
        except (OSError, NotImplementedError) as error:
            self._say(what, error)

    def _say(self, what: str, error: Exception) -> None:
        if what not in self._said:
            self._said.add(what)
            _LOG.warning("frame store %s %s: %s (said once)", self.root, what, error)

    def _count(self, **more: float) -> None:
        with self._mutex:
            self._stats = replace(
                self._stats,
                **{name: getattr(self._stats, name) + add for name, add in more.items()},
            )


def _describe(entry: Entry, *, was_hit: bool, decode_s: float) -> StoredFrames:
    header = entry.header
    times_s, indices = header["times_s"], tuple(header["indices"])
    return StoredFrames(
        entry.frames,
        np.array([times_s[index] for index in indices], dtype=np.float64),
        header["num_decoded_frames"],
        header["source_height"],
        header["source_width"],
        was_hit,
        decode_s,
        header["duration_s"],
        indices,
        tuple(times_s),
        tuple(header["notes"]),
    )


def _sign(path: str | PathLike[str], uid: str | None) -> Signature:
    """Name a state of a file without reading it: (absolute path, inode, size, time of change)."""
    try:
        status = os.stat(path)
    except OSError as error:
        cause = error.strerror or str(error)
        raise VideoError(VideoErrorKind.UNREADABLE, str(path), cause, uid) from error
    return os.path.abspath(path), status.st_ino, status.st_size, status.st_mtime_ns


def _hash_file(reading: Reading) -> str:
    """Hash a file's bytes, after a look at what it is."""
    head = look_at_head(reading)
    if reading.path.stat().st_size > _LARGE and not is_picture(head):
        films.check_opens(reading)
    digest = xxhash.xxh3_128()
    try:
        with reading.path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                reading.check_time()
                digest.update(chunk)
    except OSError as error:
        cause = error.strerror or str(error)
        raise reading.error(VideoErrorKind.UNREADABLE, cause) from error
    return digest.hexdigest()
