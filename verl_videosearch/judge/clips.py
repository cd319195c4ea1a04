"""Clips of a generator, as files: paths stay as they are, tensors are written without loss.

The one idea: a judge sees files, so a tensor becomes one - named by its content, so that the same
frames are the same clip for every cache behind it.

>>> import tempfile
>>> batch = np.zeros((2, 3, 4, 28, 56), np.float32)                    # [B, C, T, H, W] in 0..1
>>> [path.suffix for path in write_clips(batch, Path(tempfile.mkdtemp()))]
['.mkv', '.mkv']

| given | read as |
|---|---|
| a path | a video file |
| a 4-d array or tensor in a list | [T, C, H, W] |
| one 5-d array or tensor | [B, C, T, H, W] |

Values are uint8, or floats in 0..1. Torch is never imported: a tensor is asked for its numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from verl_videosearch.video.decode import FramePlan, read_candidate_frames
from verl_videosearch.video.lossless import FPS, SUFFIX, write_lossless

Clips = Sequence[Any] | Any
"""Paths, arrays or tensors of one prompt; or one batch."""
_SLACK = 1e-3
"""How far a float may lie outside 0..1: rounding of a decoder, which is cut off."""
_CHUNK = 1 << 20
_MEASURED_FRAMES, _MEASURED_PIXELS = 16, 112 * 112


@dataclass(frozen=True)
class ClipMeasures:
    """What the monitors watch of one clip."""

    motion: float
    """Mean change from one looked-at frame to the next, in grey levels (0 to 255)."""
    brightness: float
    """Mean grey level."""
    seconds: float
    """Time of the last frame."""


def write_clips(clips: Clips, folder: Path, fps: int = FPS) -> list[Path]:
    """Return a file for every clip, in their order; those that are no files yet are written into
    `folder`. Raises `ValueError` for a shape or values that are not as in the module's table."""
    return [
        Path(clip) if isinstance(clip, str | PathLike) else _write(clip, folder, fps)
        for clip in _split(clips)
    ]


def name_clip(clip: Any) -> str:
    """Name a clip: a file by its path, an array or tensor [T, C, H, W] by all of its values.

    >>> dark, light = np.zeros((2, 1, 90, 90), np.uint8), np.zeros((2, 1, 90, 90), np.uint8)
    >>> light[0, 0, 45, 45] = 255
    >>> str(dark) == str(light), name_clip(dark) == name_clip(light)
    (True, False)
    """
    if isinstance(clip, str | PathLike):
        return fspath(clip)
    return _name_frames(to_frames(clip), FPS)


def find_distinct(videos: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the files of different content, each by its first path, and for every video which of
    them it is. What cannot be read is told by its path: looking at it says why."""
    contents = [_name_content(video) for video in videos]
    firsts = dict(zip(reversed(contents), reversed(videos), strict=True))
    order = list(dict.fromkeys(contents))
    return [firsts[content] for content in order], [order.index(content) for content in contents]


def hash_file(path: Path) -> str:
    """Hash a file's bytes; raises `OSError`."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def measure_clip(path: Path) -> ClipMeasures:
    """Measure a file in at most 16 small frames; raises `VideoError`."""
    plan = FramePlan(_MEASURED_FRAMES, _MEASURED_PIXELS, patch_multiple=2)
    video = read_candidate_frames(path, plan)
    grey = video.frames.astype(np.float32).mean(axis=3)
    motion = np.abs(np.diff(grey, axis=0)).mean() if len(grey) > 1 else 0.0
    return ClipMeasures(float(motion), float(grey.mean()), float(video.times_s[-1]))


def to_frames(clip: Any) -> np.ndarray:
    """Turn one [T, C, H, W] array or tensor into uint8 (T, H, W, 3) frames.

    >>> to_frames(np.ones((1, 1, 2, 2))).tolist()[0][0]
    [[255, 255, 255], [255, 255, 255]]
    """
    values = _to_array(clip)
    if values.ndim != 4 or values.shape[1] not in (1, 3) or 0 in values.shape:
        raise ValueError(
            f"a clip must have the shape [T, C, H, W] with 1 or 3 channels, got "
            f"{list(values.shape)}; "
            "a batch [B, C, T, H, W] is given as one array"
        )
    if values.dtype != np.uint8:
        values = _from_floats(values)
    frames = values.transpose(0, 2, 3, 1)
    return np.repeat(frames, 3, axis=3) if frames.shape[3] == 1 else frames


def _name_content(video: str) -> str:
    try:
        return hash_file(Path(video))
    except (OSError, ValueError):
        return video


def _split(clips: Clips) -> list[Any]:
    """Return the clips one by one, a batch as [T, C, H, W] each."""
    if isinstance(clips, str | PathLike):
        raise ValueError(f"got one path {str(clips)!r}; give a list of clips")
    if not hasattr(clips, "shape"):
        return list(clips)
    batch = _to_array(clips)
    if batch.ndim != 5:
        raise ValueError(
            f"a batch must have the shape [B, C, T, H, W], got {list(batch.shape)}; "
            "a single clip [T, C, H, W] is given in a list"
        )
    return list(batch.transpose(0, 2, 1, 3, 4))


def _to_array(values: Any) -> np.ndarray:
    """Take the numbers of an array, or of a tensor on any device."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values if "uint8" in str(values.dtype) else values.float()
        values = values.numpy()
    return np.asarray(values)


def _from_floats(values: np.ndarray) -> np.ndarray:
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"values must be uint8 or floats in 0..1, got {values.dtype}")
    low, high = float(values.min()), float(values.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):
        raise ValueError(
            f"float values must lie in 0..1, got {low:g} to {high:g}; "
            "scale them, for example (x + 1) / 2 for a decoder that gives -1..1"
        )
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def _write(clip: Any, folder: Path, fps: int) -> Path:
    frames = np.ascontiguousarray(to_frames(clip))
    path = folder / f"{_name_frames(frames, fps)}{SUFFIX}"
    if not path.exists():
        write_lossless(path, frames, fps)
    return path


def _name_frames(frames: np.ndarray, fps: int) -> str:
    return xxhash.xxh3_128_hexdigest(frames.tobytes() + str((frames.shape, fps)).encode())
