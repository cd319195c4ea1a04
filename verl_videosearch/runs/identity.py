"""What made an episode, by content and not by path: pairs, a model's files, the commit of this
package.

>>> sample = PreferenceSample("a", "a cat", "x/1.mp4", "x/2.mp4", {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1})
>>> hash_pair(sample) == hash_pair(swap_videos(sample))
True
"""  # noqa: E501

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

import xxhash

from verl_videosearch.runs.record import Identity
from verl_videosearch.sample import PreferenceSample, normalise_prompt, swap_videos

CALIBRATION_NAME = "videosearch_calibration.json"
"""Lies beside a model's files and is none of them."""
UNKNOWN_MODEL = "unknown"
"""The hash of a model whose files cannot be seen from here."""
_MODEL_SUFFIXES = (".safetensors", ".bin", ".json", ".txt", ".jinja")
_CHUNK = 1 << 22


def hash_pair(sample: PreferenceSample) -> str:
    """Name a pair by its prompt, its videos' last two path parts and its origin; not by labels,
    uid, split or order."""
    return min(_hash_text(_identity(each)) for each in (sample, swap_videos(sample)))


def name_videos(sample: PreferenceSample) -> list[str]:
    """Name both videos by the last two parts of their paths, as `hash_pair` does."""
    return ["/".join(PurePath(path).parts[-2:]) for path in (sample.video_1, sample.video_2)]


def hash_names(sample: PreferenceSample) -> str:
    """Name a pair by its prompt's words and its two file names, wherever the files lie and whoever
    described them; other videos of one prompt may have the same name."""
    names = sorted(PurePath(path).name for path in (sample.video_1, sample.video_2))
    return _hash_text(json.dumps([normalise_prompt(sample.prompt), names]))


def is_turned(sample: PreferenceSample, other: PreferenceSample) -> bool:
    """True when two samples of one pair have its videos in different orders."""
    return _identity(sample) != _identity(other)


def hash_pairs(samples: Iterable[PreferenceSample]) -> str:
    """Name a set of pairs, whatever their order."""
    return _hash_text("".join(sorted(map(hash_pair, samples))))


def list_model_files(folder: Path) -> list[Path]:
    """List the files of a model's folder that decide what it writes, sorted by name."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in _MODEL_SUFFIXES]
    return [path for path in paths if path.name != CALIBRATION_NAME and path.is_file()]


def hash_model(folder: Path) -> str:
    """Name a model by the bytes of its weights, tokenizer and configuration."""
    digest = xxhash.xxh3_64()
    paths = list_model_files(folder)
    if not any(path.suffix in (".safetensors", ".bin") for path in paths):
        raise ValueError(
            f"{folder} holds no weights (.safetensors or .bin); give the folder of a Hugging "
            "Face model"
        )
    for path in paths:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def read_commit() -> str:
    """Return the commit of this package, `+` if files were changed since; its version where there
    is no checkout."""
    here = Path(__file__).parents[1]
    try:
        _git(here, "ls-files", "--error-unmatch", "episode.py")
        changes = _git(here, "diff", "--stat", "HEAD", ".")
        return _git(here, "rev-parse", "--short=12", "HEAD") + ("+" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        found = read_version()
        return "unknown" if found is None else f"version {found}"


def make_identity(
    model: str | None,
    model_hash: str | None,
    settings: Mapping[str, Any],
    words_hash: str | None = None,
) -> Identity:
    """Describe what makes the records of a run; `settings` are those of its folder."""
    return Identity(
        model=model,
        model_hash=None if model_hash == UNKNOWN_MODEL else model_hash,
        commit=read_commit(),
        package_version=read_version(),
        settings_hash=_hash_text(json.dumps(settings, sort_keys=True)),
        words_hash=words_hash,
    )


def read_version() -> str | None:
    """Return the version of this package; None where it is not installed."""
    try:
        return version("verl-videosearch")
    except PackageNotFoundError:
        return None


def _git(folder: Path, *arguments: str) -> str:
    command: Sequence[str] = ("git", "-C", str(folder), *arguments)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _identity(sample: PreferenceSample) -> str:
    named = [sample.source, sample.prompt, name_videos(sample), dict(sample.meta)]
    return json.dumps(named, sort_keys=True)


def _hash_text(text: str) -> str:
    return xxhash.xxh3_64_hexdigest(text.encode("utf-8", "surrogatepass"))
