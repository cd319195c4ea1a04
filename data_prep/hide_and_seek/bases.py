"""Clean videos to hide defects in: windows of real clips, and rendered scenes.

The one idea: a base is a name and a seed. Clips are decoded once into memory-mapped arrays that all
workers share, and the clips of the test split are never seen in training.

Covers: which clips each split uses, making one base. Does not cover: finding clips
(`data_prep.synthetic.clips`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from verl_videosearch.data_prep.hide_and_seek.profile import Profile
from verl_videosearch.data_prep.hide_and_seek.scenes import Scene, render_scene
from verl_videosearch.data_prep.synthetic.clips import ClipError, caption_of, cut_window, read_clip

from verl_videosearch.video.decode import fit_size

SCENE = "scene"
"""The base name of rendered scenes."""
# clips are kept at up to this many times a frame's pixels, because windows are cut from parts of
# them
_OVERSIZE = 9
_PATCH = 28


@dataclass(frozen=True)
class ClipSplit:
    """The names of the clips that each split may use."""

    train: tuple[str, ...]
    test: tuple[str, ...]


def split_clips(clips: Sequence[Path]) -> ClipSplit:
    """Hold out the last quarter of the clips, at least one, for the test split.

    >>> split_clips([Path("b.mp4"), Path("a.mp4"), Path("c.mkv")])
    ClipSplit(train=('a', 'b'), test=('c',))
    """
    names = sorted(path.stem for path in clips)
    if len(set(names)) < max(2, len(names)):
        raise ClipError(
            "training and test need different clips, at least two with different names; got "
            f"{names}"
        )
    num_test = ceil(len(names) / 4)
    return ClipSplit(tuple(names[:-num_test]), tuple(names[-num_test:]))


def decode_clips(clips: Sequence[Path], folder: Path, profile: Profile) -> None:
    """Decode each clip once into `folder`/NAME.npy; a finished one is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in clips:
        target = folder / f"{path.stem}.npy"
        if not target.exists():
            partial = folder / f".{path.stem}.{os.getpid()}.partial.npy"
            np.save(partial, read_clip(path, _OVERSIZE * profile.height * profile.width))
            os.replace(partial, target)


def make_base(name: str, seed: Sequence[int], folder: Path, profile: Profile) -> Scene:
    """Make the clean video of a pair from its base's name and seed."""
    rng = np.random.default_rng(list(seed))
    if name == SCENE:
        return render_scene(rng, profile.num_frames, profile.height, profile.width)
    clip = np.load(folder / f"{name}.npy", mmap_mode="r")
    height, width = profile.height, profile.width
    if profile.keeps_shape:
        height, width = fit_size(*clip.shape[1:3], height * width, _PATCH)
    return Scene(
        cut_window(clip, rng, num_frames=profile.num_frames, height=height, width=width),
        caption_of(name),
    )
