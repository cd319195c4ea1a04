"""KnownFiles: what this process knows of files: the hash of their bytes, and which ones are broken.

The one idea: a file's state is (path, inode, size, time of change); while that stays the same, it
is neither read again for its hash nor decoded again to fail the same way.

    signature, content = known.identify("clip.mp4", uid=None)

Covers: one process. Does not cover: what is stored (`store`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

import xxhash

from verl_videosearch.video import films
from verl_videosearch.video.container import is_picture
from verl_videosearch.video.decode import look_at_head
from verl_videosearch.video.errors import VideoError, VideoErrorKind, check_file
from verl_videosearch.video.reading import Reading, run_in_time

_CHUNK = 1 << 20
_LARGE = 1 << 26  # a file of more bytes is opened by a decoder before it is read for its hash
_PASSING = (VideoErrorKind.NO_MEMORY,)  # what may be better at the next try
Signature = tuple[str, int, int, int]


class KnownFiles:
    """Hashes and failures of files by their state."""

    def __init__(self, timeout_s: float) -> None:
        """`timeout_s` bounds the hashing of one file."""
        self.timeout_s = timeout_s
        self._content_hashes: dict[Signature, str] = {}
        self._broken: dict[Signature, VideoError] = {}

    def identify(self, path: str | PathLike[str], uid: str | None) -> tuple[Signature, str]:
        """Name a file's state and its content, hashing it if this process has not; raises
        `VideoError`."""
        check_file(path, uid)
        signature = sign(path, uid)
        if signature in self._broken:
            known = self._broken[signature]
            raise VideoError(known.kind, str(path), known.cause, uid)
        if signature not in self._content_hashes:
            with self.remember_failure(signature):
                self._content_hashes[signature] = run_in_time(
                    signature[0], self.timeout_s, uid, _hash_file
                )
        return signature, self._content_hashes[signature]

    @contextmanager
    def remember_failure(self, signature: Signature) -> Iterator[None]:
        """Note a `VideoError` of the block, unless it may be better at the next try."""
        try:
            yield
        except VideoError as error:
            if error.kind not in _PASSING:
                self._broken[signature] = error
            raise


def sign(path: str | PathLike[str], uid: str | None) -> Signature:
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
