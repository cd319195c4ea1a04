"""What makes two samples the same: the words of the prompt, or the bytes of one video.

The one idea: every sample gets a few keys, and two samples overlap exactly if they share one; no
pair is ever compared.

Covers: prompts that differ in case, punctuation, blanks or the form of their letters; videos copied
under other names. Does not cover: a video that was re-encoded, a prompt that was reworded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import xxhash

from verl_videosearch.runs.identity import name_videos
from verl_videosearch.sample import PreferenceSample, normalise_prompt

_CHUNK = 1 << 20
_NUM_READERS = 8  # hashing waits for the disk, and xxhash releases the interpreter lock


@dataclass(frozen=True)
class Keys:
    """What makes two samples the same: equal prompt, or one video in common."""

    prompt: str
    videos: frozenset[str]

    def __iter__(self) -> Iterator[str]:
        return iter((f"prompt {self.prompt}", *sorted(self.videos)))


def identify_videos(paths: Collection[Path]) -> dict[Path, str]:
    """Give every file a name that two files share exactly if their bytes are equal.

    Only files of equal size are read: the others differ anyway. Raises `ValueError` naming the
    missing ones.
    """
    if missing := sorted(str(path) for path in paths if not path.is_file()):
        raise ValueError(
            f"{len(missing)} videos are missing, first {missing[:3]}; "
            "check --video-root, or compare names with --by-path"
        )
    sizes = {path: path.stat().st_size for path in paths}
    num_of_size = Counter(sizes.values())
    doubtful = [path for path in paths if num_of_size[sizes[path]] > 1]
    with ThreadPoolExecutor(_NUM_READERS) as pool:
        hashes = dict(zip(doubtful, pool.map(_hash_file, doubtful), strict=True))
    return {path: f"video {size} {hashes.get(path, 'unique size')}" for path, size in sizes.items()}


def _hash_file(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def make_keys(
    files: Sequence[tuple[Sequence[PreferenceSample], Path | None]], by_path: bool = False
) -> list[list[Keys]]:
    """Return the keys of the samples of every (samples, video root); videos are compared across all
    of them, `by_path` by the last two parts of their paths instead of their bytes."""
    if by_path:
        return [
            [_keys(sample, [f"video {name}" for name in name_videos(sample)]) for sample in samples]
            for samples, _ in files
        ]
    resolved = [[sample.resolve_videos(root) for sample in samples] for samples, root in files]
    identity = identify_videos({path for each in resolved for pair in each for path in pair})
    return [
        [
            _keys(sample, [identity[path] for path in pair])
            for sample, pair in zip(samples, pairs, strict=True)
        ]
        for (samples, _), pairs in zip(files, resolved, strict=True)
    ]


def _keys(sample: PreferenceSample, videos: Iterable[str]) -> Keys:
    return Keys(normalise_prompt(sample.prompt), frozenset(videos))
