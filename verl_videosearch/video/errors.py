"""Why a video file gave no frames: one error, its kinds, and the check that a path names a file.

The one idea: whatever a file, a disk, a decoder or the machine's memory does wrong is a failure of
that one file with its cause; a run goes on without it. So everything at this boundary becomes a
`VideoError`, and only a mistake in our own code can end a run::

    VideoError(VideoErrorKind.EMPTY, "clip.mp4", "the file has 0 bytes")
"""

from __future__ import annotations

import stat
from enum import Enum
from os import PathLike, fspath
from pathlib import Path

MAX_SOURCE_PIXELS = 8192 * 8192
"""A frame larger than this is refused before it is decoded: 200 MB of RGB, twice an 8K frame."""


class VideoErrorKind(str, Enum):
    """Why a file gave no frames."""

    MISSING = "missing"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    DAMAGED = "damaged"
    """The decoder itself says that a picture is not what was encoded."""
    NOT_A_VIDEO = "not_a_video"
    NO_FRAMES = "no_frames"
    NO_DECODER = "no_decoder"
    """The container is fine, but nothing here decodes its codec."""
    SEVERAL_FILMS = "several_films"
    """Two or more video streams, and the file does not say which one is the film."""
    UNSUPPORTED = "unsupported"
    """Decodes, but cannot be shown as it was meant."""
    TOO_LARGE = "too_large"
    NO_MEMORY = "no_memory"
    TIMEOUT = "timeout"
    UNREADABLE = "unreadable"


_ADVICE = {
    VideoErrorKind.MISSING: "check the path and the root folder of the videos",
    VideoErrorKind.EMPTY: "fetch the file again",
    VideoErrorKind.TRUNCATED: "fetch the file again",
    VideoErrorKind.DAMAGED: "fetch the file again",
    VideoErrorKind.NOT_A_VIDEO: (
        "give an mp4, mov, mkv, webm, avi, mpeg, ts, ogv, wmv, flv, gif, or animated WebP, AVIF "
        "or PNG file"
    ),
    VideoErrorKind.NO_FRAMES: "leave the sample out or give a file with a video stream",
    VideoErrorKind.NO_DECODER: "re-encode it, for example as h264",
    VideoErrorKind.SEVERAL_FILMS: "keep one of them: ffmpeg -i FILE -map 0:v:0 -c copy ONE.mp4",
    VideoErrorKind.UNSUPPORTED: "re-encode the file or leave the sample out",
    VideoErrorKind.TOO_LARGE: "re-encode it with fewer pixels per frame",
    VideoErrorKind.NO_MEMORY: "decode fewer videos at once or give the process more memory",
    VideoErrorKind.TIMEOUT: "raise timeout_s, or check the disk and the file",
    VideoErrorKind.UNREADABLE: "re-encode the file or leave the sample out",
}


class VideoError(Exception):
    """A video file cannot be used: an infrastructure failure, never a score. It pickles, so it
    crosses processes."""

    def __init__(self, kind: VideoErrorKind, path: str, cause: str, uid: str | None = None) -> None:
        super().__init__(kind, path, cause, uid)
        self.kind, self.path, self.cause, self.uid = kind, path, cause, uid

    def __str__(self) -> str:
        sample = f" of sample {self.uid}" if self.uid is not None else ""
        path = self.path if self.path.isprintable() else repr(self.path)
        if len(path) > 300:
            path = f"{path[:200]}...{path[-80:]}"
        return f"video {path}{sample}: {self.kind.value}: {self.cause}; {_ADVICE[self.kind]}"


def check_file(path: str | PathLike[str], uid: str | None = None) -> None:
    """Raise `VideoError` unless `path` is a regular file with something in it."""
    name = fspath(path)
    try:
        status = Path(name).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VideoError(VideoErrorKind.MISSING, name, "no such file", uid) from error
    except OSError as error:
        cause = error.strerror or str(error)
        raise VideoError(VideoErrorKind.UNREADABLE, name, cause, uid) from error
    except ValueError as error:  # a NUL, or a lone surrogate: no file can have such a name
        raise VideoError(
            VideoErrorKind.MISSING, name, f"no file can have this name ({error})", uid
        ) from error
    if not stat.S_ISREG(status.st_mode):
        cause = "a folder or device, not a file"
        raise VideoError(VideoErrorKind.NOT_A_VIDEO, name, cause, uid)
    if status.st_size == 0:
        raise VideoError(VideoErrorKind.EMPTY, name, "the file has 0 bytes", uid)
