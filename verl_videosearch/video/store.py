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
from verl_videosearch.video.decode import read_frames
from verl_videosearch.video.entries import (
    SUFFIX,
    DamagedEntry,
    Entry,
    make_header,
    open_entry,
    write_entry,
)
from verl_videosearch.video.errors import VideoError, VideoErrorKind
from verl_videosearch.video.known_files import KnownFiles, Signature, sign
from verl_videosearch.video.plan import FramePlan
from verl_videosearch.video.reading import DECODE_TIMEOUT_S
from verl_videosearch.video.reference import FORMAT_VERSION, VideoKey
from verl_videosearch.video.stored import StoredFrames, StoredVideo, describe_entry
from verl_videosearch.video.upkeep import Trouble, Upkeep

ROOT_VARIABLE = "VIDEOSEARCH_FRAME_STORE"
"""Environment variable that names another folder for the store."""


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
        self._known, self._trouble = KnownFiles(timeout_s), Trouble(self.root)
        self._verified: dict[Path, tuple[int, int]] = {}
        self.upkeep = Upkeep(
            self.root, self._entries, max_bytes, self._trouble, lambda: self._count(evicted=1)
        )
        with self._trouble.caught("cannot be created"):
            for folder in (self._entries, self._locks):
                folder.mkdir(parents=True, exist_ok=True)

    @property
    def stats(self) -> FrameStoreStats:
        """What this object has done so far."""
        return self._stats

    def get(
        self, path: str | PathLike[str], plan: FramePlan, uid: str | None = None
    ) -> StoredFrames:
        """Return the frames of a video under one plan, decoding it only if no process has done so;
        raises `VideoError`.

        A video that failed to decode fails again at once in this process, without a second try.
        """
        signature, content = self._known.identify(path, uid)
        return self._fetch(signature, content, (plan,), uid)[0]

    def open(
        self, path: str | PathLike[str], plans: Sequence[FramePlan], uid: str | None = None
    ) -> StoredVideo:
        """Return a video under several plans of the same candidates, with one decode for all that
        are missing; raises `VideoError`."""
        signature, content = self._known.identify(path, uid)
        key = VideoKey(content, tuple(plans), signature[0])
        return StoredVideo(key, self._fetch(signature, content, key.plans, uid), self)

    def find(
        self, path: str | PathLike[str], plans: Sequence[FramePlan], uid: str | None = None
    ) -> StoredVideo | None:
        """Return a video of which all plans lie here, without decoding; None where one does not.
        Raises `VideoError` for a file that is missing or known to be broken."""
        signature, content = self._known.identify(path, uid)
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
            signature, content = self._known.identify(wanted.path, uid)
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
            self._trouble.say("cannot be read", error)
            return None
        with suppress(OSError):  # evicted since, or a disk that cannot be written to
            os.utime(path)  # the time of last use, by which `_evict` goes
        self._count(hits=1)
        return describe_entry(entry, was_hit=True, decode_s=0.0)

    def _decode(
        self, signature: Signature, content: str, plans: Sequence[FramePlan], uid: str | None
    ) -> list[StoredFrames]:
        if not plans:
            return []
        path, start = signature[0], time.perf_counter()
        try:
            with self._known.remember_failure(signature):
                videos = read_frames(path, plans, timeout_s=self.timeout_s, uid=uid)
        finally:
            decode_s = time.perf_counter() - start
            self._count(misses=1, decode_s=decode_s)
        if sign(path, uid) != signature:
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
            stored.append(describe_entry(entry, was_hit=False, decode_s=decode_s))
        if self.upkeep.is_scan_due(sum(one.frames.nbytes for one in stored)):
            self.upkeep.evict(keep=kept)
        return stored

    def _write(self, path: Path, frames: np.ndarray, header: dict[str, object]) -> Entry:
        """Store an entry and map it; on a disk that does not take it, serve it from memory."""
        try:
            write_entry(path, frames, header)
            entry = open_entry(path)
            self._verified[path] = entry.identity
            return entry
        except (OSError, DamagedEntry) as error:
            self._trouble.say("cannot be written to, so videos are decoded again each time", error)
            self._count(unstored=1)
        frames.setflags(write=False)
        return Entry(frames, header, (0, 0))

    @contextmanager
    def _lock(self, content: str) -> Iterator[None]:
        # 4096 lock files for all entries, never removed: removing one under a waiting process would
        # split the lock
        lock = FileLock(self._locks / f"{content[:3]}.lock", timeout=2 * self.timeout_s)
        with suppress(Timeout), self._trouble.caught("cannot be locked"):
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def size_bytes(self) -> int:
        """Return the disk space of all entries."""
        return self.upkeep.size_bytes()

    def limit_bytes(self) -> int:
        """Return the disk space that the entries may take."""
        return self.upkeep.limit_bytes()

    def describe(self) -> str:
        """Say in one line where the store is, what it holds and what it may."""
        return self.upkeep.describe()

    def prune(self, max_bytes: int | None = None) -> int:
        """Remove what is old or beyond a limit; return the bytes that became free, see
        `Upkeep.prune`."""
        return self.upkeep.prune(max_bytes)

    def _count(self, **more: float) -> None:
        with self._mutex:
            self._stats = replace(
                self._stats,
                **{name: getattr(self._stats, name) + add for name, add in more.items()},
            )
