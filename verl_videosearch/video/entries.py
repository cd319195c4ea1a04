"""One file of the frame store: magic, checksum and length of the header, the header as JSON, then
the raw frames.

The one idea: an entry is written whole or not at all (a temporary name, synced, moved into place)
and is never changed. Header and length are checked at every open, the checksum of the frames when
the caller asks for it; what fails is `DamagedEntry`, never pixels.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import xxhash

from verl_videosearch.video.decode import VideoFrames

SUFFIX, PART_SUFFIX = ".frames", ".part"
_MAGIC = b"VSFRAMES"
_ALIGNMENT = 64
_PREAMBLE = len(_MAGIC) + 8 + 8  # magic, checksum of the header, length of the header


class DamagedEntry(Exception):
    """An entry is not what was written."""


@dataclass(frozen=True)
class Entry:
    """An entry, mapped."""

    frames: np.ndarray
    """RGB, uint8 (N, H, W, 3), read-only and memory-mapped; stays valid when the file is
    removed."""
    header: dict[str, Any]
    identity: tuple[int, int]
    """Inode and size: another file has another one."""

    def verify(self) -> None:
        """Compare the frames with their checksum; raises `DamagedEntry`."""
        if xxhash.xxh3_128_hexdigest(self.frames.data) != self.header["checksum"]:
            raise DamagedEntry("its frames are not what was written")


def make_header(video: VideoFrames, indices: tuple[int, ...]) -> dict[str, Any]:
    """Say what an entry holds beside pixels; `indices` are the candidates that it keeps."""
    times_s = video.times_s if video.candidate_times_s is None else video.candidate_times_s
    return {
        "shape": video.frames.shape,
        "indices": list(indices),
        "times_s": times_s.tolist(),
        "num_decoded_frames": video.num_decoded_frames,
        "source_height": video.source_height,
        "source_width": video.source_width,
        "duration_s": video.duration_s,
        "notes": list(video.notes),
    }


def write_entry(path: Path, frames: np.ndarray, header: dict[str, Any]) -> None:
    """Write an entry whole or not at all; raises `OSError`."""
    frames = np.ascontiguousarray(frames)
    header = header | {"checksum": xxhash.xxh3_128_hexdigest(frames.data)}
    text = json.dumps(header).encode()
    text += b" " * (-(_PREAMBLE + len(text)) % _ALIGNMENT)
    part = path.with_name(f"{path.stem}.{uuid4().hex}{PART_SUFFIX}")
    try:
        with part.open("xb") as file:
            length = len(text).to_bytes(8, "little")
            file.write(_MAGIC + xxhash.xxh3_64_digest(text) + length + text)
            file.write(frames.data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def open_entry(path: Path) -> Entry:
    """Map an entry; raises `OSError`, or `DamagedEntry` if header or length are wrong."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        preamble = file.read(_PREAMBLE)
        num_header_bytes = int.from_bytes(preamble[16:], "little")
        offset = _PREAMBLE + num_header_bytes
        is_whole = len(preamble) == _PREAMBLE and preamble[:8] == _MAGIC
        is_whole = is_whole and offset <= status.st_size
        text = file.read(num_header_bytes) if is_whole else b""
        if not is_whole or xxhash.xxh3_64_digest(text) != preamble[8:16]:
            raise DamagedEntry(path)
        header = json.loads(text)
        shape = tuple(header["shape"])
        if status.st_size != offset + math.prod(shape):
            raise DamagedEntry(path)
        frames = np.memmap(file, dtype=np.uint8, mode="r", offset=offset, shape=shape)
    return Entry(frames, header, (status.st_ino, status.st_size))
