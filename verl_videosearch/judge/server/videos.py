"""VideoShelf: the only videos that a request can name - uploads, and files below the roots.

The one idea: a name is resolved once, by this module, into a regular file that lies where it may; a
URL, a playlist, a path that leads out by `..` or by a link is none. What was uploaded is named by
its content. A video is looked at - type, pixels, frames, seconds - before any model hears of it,
and decoding it is bounded in time and memory (`video.reading`).

    shelf.resolve("upload-0f3c...")     -> STATE/uploads/0f3c...
    shelf.resolve("set_a/cat.mp4")      -> ROOT/set_a/cat.mp4
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

import xxhash

from verl_videosearch.judge.server.refusal import Reason, Refusal
from verl_videosearch.judge.server.settings import ServerConfig
from verl_videosearch.video.decode import probe_video, survey_video
from verl_videosearch.video.errors import VideoError

_UPLOAD = re.compile(r"upload-([0-9a-f]{32})")
_MAX_NAME = 1024
_PROBE_TIMEOUT_S = 30.0


class VideoShelf:
    """Finds videos by name; keeps uploads."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.uploads = config.state / "uploads"
        self.uploads.mkdir(parents=True, exist_ok=True)
        for torn in self.uploads.glob("*.part"):
            torn.unlink(missing_ok=True)
        self._roots = [Path(root).resolve(strict=True) for root in config.roots]
        self._looked_at: dict[tuple[str, int, int, int], str | None] = {}

    def resolve(self, name: str) -> Path:
        """Return the file that a name stands for; raises `Refusal` without saying what lies
        elsewhere."""
        if match := _UPLOAD.fullmatch(name):
            path = self.uploads / match[1]
            if not path.is_file():
                raise Refusal(Reason.BAD_VIDEO, f"no such upload: {name}; upload it again")
            return path
        for root in self._roots:
            found = self._find(root, name)
            if found is not None:
                return found
        where = "below the served folders" if self._roots else "and only uploads are served"
        raise Refusal(Reason.BAD_VIDEO, f"no such video: {name[:200]!r} ({where})")

    def _find(self, root: Path, name: str) -> Path | None:
        """Return the regular file that a relative (or absolute) name has inside a root, if any."""
        if not name or "\0" in name or "://" in name or len(name) > _MAX_NAME:
            return None
        try:
            path = (root / name).resolve(strict=True)
            is_file = stat.S_ISREG(path.stat().st_mode)
        except (OSError, ValueError, RuntimeError):
            return None  # absent, too long, a circle of links, not encodable
        return path if is_file and path.is_relative_to(root) else None

    def check(self, path: Path, name: str) -> None:
        """Raise `Refusal` unless a file is a video within the limits; blocking."""
        status = os.stat(path)
        signature = str(path), status.st_ino, status.st_size, status.st_mtime_ns
        if signature not in self._looked_at:
            self._looked_at[signature] = self._find_fault(path, status.st_size)
        fault = self._looked_at[signature]
        if fault is not None:
            raise Refusal(Reason.BAD_VIDEO, f"video {name}: {fault}")

    def _find_fault(self, path: Path, num_bytes: int) -> str | None:
        limits = self.config
        if num_bytes > limits.max_upload_bytes:
            return f"{num_bytes} bytes, allowed are {limits.max_upload_bytes}"
        try:
            survey = survey_video(path, timeout_s=_PROBE_TIMEOUT_S)
            if survey.num_frames > limits.max_frames:
                return f"{survey.num_frames} frames, allowed are {limits.max_frames}"
            info = probe_video(path, timeout_s=_PROBE_TIMEOUT_S)
        except VideoError as error:
            return f"{error.kind.value}: {error.cause}"
        seconds = float(info.times_s[-1])
        if info.height * info.width > limits.max_pixels:
            return f"{info.width}x{info.height} pixels, allowed are {limits.max_pixels}"
        if info.num_frames > limits.max_frames:
            return f"{info.num_frames} frames, allowed are {limits.max_frames}"
        if seconds > limits.max_seconds:
            return f"{seconds:.1f} s long, allowed are {limits.max_seconds:g} s"
        return None

    async def receive(self, chunks: AsyncIterator[bytes]) -> str:
        """Store an upload as it arrives; returns its name. A too large one is a `Refusal`."""
        part = self.uploads / f"{secrets.token_hex(8)}.part"
        digest, size = xxhash.xxh3_128(), 0
        try:
            with part.open("xb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > self.config.max_upload_bytes:
                        raise Refusal(
                            Reason.TOO_LARGE,
                            f"the upload has more than {self.config.max_upload_bytes} bytes",
                        )
                    digest.update(chunk)
                    file.write(chunk)
            if size == 0:
                raise Refusal(Reason.BAD_VIDEO, "the upload is empty")
            os.replace(part, self.uploads / digest.hexdigest())
        finally:
            part.unlink(missing_ok=True)
        self._make_room(keep=digest.hexdigest())
        return f"upload-{digest.hexdigest()}"

    def _make_room(self, keep: str) -> None:
        """Remove the oldest uploads beyond the limit."""
        found = []
        for path in self.uploads.iterdir():
            with suppress(FileNotFoundError):
                if path.suffix != ".part":
                    found.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.config.max_stored_bytes:
                return
            if path.name != keep:
                path.unlink(missing_ok=True)
                total -= size


def hide_paths(text: str, names: Sequence[tuple[Path | str, str]]) -> str:
    """Put the client's names in place of this machine's paths."""
    for path, name in names:
        text = text.replace(str(path), name)
    return text
