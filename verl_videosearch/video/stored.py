"""What the frame store gives: the frames of one video, under one plan or under an episode's.

The one idea: frames are views of a memory map, so handing them around costs nothing, and they stay
valid when the entry behind them is evicted.

    video = store.open("clip.mp4", plans)          # StoredVideo
    video.frame(12, 512 * 28 * 28)                 # uint8 (H, W, 3)

Covers: values. Does not cover: how they come about (`store`), the file format (`entries`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from verl_videosearch.video.entries import Entry
from verl_videosearch.video.plan import FramePlan
from verl_videosearch.video.reference import VideoKey


class ReadsFrames(Protocol):
    """Where frames come from that a video's own entries do not hold: the store."""

    def read_frames(
        self, key: str, indices: Sequence[int], max_pixels: int | None, uid: str | None = None
    ) -> np.ndarray:
        """Return candidates of a named video, see `FrameStore.read_frames`."""


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

    def __init__(self, key: VideoKey, entries: Sequence[StoredFrames], store: ReadsFrames) -> None:
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


def describe_entry(entry: Entry, *, was_hit: bool, decode_s: float) -> StoredFrames:
    """Return an entry as the store gives it."""
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
