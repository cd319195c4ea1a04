"""How much disk the frame store may take, takes, and would take.

The one idea: no store grows without a limit. Unless told otherwise it may use half of the disk that
is free or its own; and before a long run a plan's need can be compared with that.

>>> print(SpaceEstimate(num_videos=1000, needed_bytes=50 * 10**9, limit_bytes=80 * 10**9))
1000 videos need up to 50 GB of decoded frames; the store may take 80 GB: all fit
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from verl_videosearch.video.entries import PART_SUFFIX, SUFFIX
from verl_videosearch.video.plan import FramePlan

if TYPE_CHECKING:
    from verl_videosearch.video.store import FrameStore

STALE_AFTER_S = 3600.0
"""A temporary file this old belongs to a process that died."""


class StoredFile(NamedTuple):
    """A file of the store."""

    used_s: float
    """Time of last use."""
    num_bytes: int
    path: Path


@dataclass(frozen=True)
class SpaceEstimate:
    """What a run would like to keep, beside what it may."""

    num_videos: int
    needed_bytes: int
    """At most: shorter and smaller videos take less."""
    limit_bytes: int
    """What the store may take in all."""

    @property
    def fits(self) -> bool:
        """Nothing would have to be decoded twice."""
        return self.needed_bytes <= self.limit_bytes

    def __str__(self) -> str:
        verdict = (
            "all fit"
            if self.fits
            else "the least recently used are decoded again; give it more disk (--store on another "
            "disk, or a larger limit) or fewer frames"
        )
        return (
            f"{self.num_videos} videos need up to {format_bytes(self.needed_bytes)} of decoded "
            f"frames; the store may take {format_bytes(self.limit_bytes)}: {verdict}"
        )


def estimate_space(
    num_videos: int, plans: Sequence[FramePlan], store: FrameStore, source_pixels: int = 1280 * 720
) -> SpaceEstimate:
    """Say before a run what its videos need at most; `source_pixels` is the size of a frame as it
    lies in the files."""
    needed = num_videos * sum(_count_bytes(plan, source_pixels) for plan in plans)
    return SpaceEstimate(num_videos, needed, store.limit_bytes())


def _count_bytes(plan: FramePlan, source_pixels: int) -> int:
    pixels = source_pixels if plan.max_pixels is None else min(plan.max_pixels, source_pixels)
    return 3 * pixels * len(plan.choose(plan.frames_per_video))


def count_limit(root: Path, num_own_bytes: int) -> int:
    """Return half of what is free on the disk or the store's own."""
    return max(1, (count_free(root) + num_own_bytes) // 2)


def count_free(root: Path) -> int:
    """Return the free bytes of the disk that a folder is on, or will be on."""
    folder = root.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def scan_folder(folder: Path) -> Iterator[StoredFile]:
    """Yield the entries below a folder, and the files that are being written; raises `OSError`."""
    with os.scandir(folder) as found:
        for item in found:
            if item.name.endswith((SUFFIX, PART_SUFFIX)):
                with suppress(FileNotFoundError):  # removed by another process meanwhile
                    status = item.stat()
                    yield StoredFile(status.st_mtime, status.st_size, Path(item.path))


def is_abandoned(file: StoredFile) -> bool:
    """Say whether a file was begun by a process that died."""
    return file.path.suffix == PART_SUFFIX and file.used_s < time.time() - STALE_AFTER_S


def format_bytes(number: float) -> str:
    """Say a size in words.

    >>> format_bytes(1.5e12), format_bytes(2_500_000), format_bytes(17), format_bytes(999_700_000)
    ('1.5 TB', '2.5 MB', '17 bytes', '1 GB')
    """
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= 0.9995 * size:  # three digits of less would be 1e+03 of the smaller unit
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f} bytes"
