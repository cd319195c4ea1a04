"""A frame named by text: which video's bytes, which candidate, at which size.

The one idea: pixels never travel between processes; a line of text does, and whoever needs the
pixels reads them from the memory-mapped store (`FrameStore.read_frames`), or decodes the file that
the line names. The content's hash in it makes sure that it is still the same file.

>>> plans = (FramePlan(48, 313600), FramePlan(48, 401408, shown=4))
>>> key = VideoKey("0123abcd", plans, "/videos/a.mp4")
>>> str(key)
'2:0123abcd:48x28:313600,401408/4:/videos/a.mp4'
>>> VideoKey.parse(str(key)) == key
True
>>> reference = FrameReference(str(key), 7, 313600)
>>> FrameReference.parse(str(reference)) == reference
True
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from verl_videosearch.video.plan import FramePlan

FORMAT_VERSION = 2
"""Part of every key and entry's name: raise it when decoding, resizing or the layout changes."""
_SOURCE = "source"


class VideoKey(NamedTuple):
    """The bytes of a video and the plans under which an episode sees it."""

    content: str
    """Hash of the file."""
    plans: tuple[FramePlan, ...]
    """All of the same candidates and patch size."""
    path: str
    """Where the file was, absolute."""

    def __str__(self) -> str:
        first = self.plans[0]
        plans = ",".join(_format_plan(plan) for plan in self.plans)
        grid = f"{first.frames_per_video}x{first.patch_multiple}"
        return f"{FORMAT_VERSION}:{self.content}:{grid}:{plans}:{self.path}"

    @classmethod
    def parse(cls, text: str) -> VideoKey:
        """Read what `str` wrote; raises `ValueError`."""
        parts = text.split(":", 4)
        if len(parts) != 5 or parts[0] != str(FORMAT_VERSION):
            raise ValueError(
                f"got the video key {text!r}; a key of this version is "
                f"'{FORMAT_VERSION}:HASH:FRAMESxPATCH:SIZES:PATH'"
            )
        frames_per_video, _, patch = parts[2].partition("x")
        base = FramePlan(int(frames_per_video), None, int(patch))
        plans = tuple(_parse_plan(base, plan) for plan in parts[3].split(","))
        return cls(parts[1], plans, parts[4])


class FrameReference(NamedTuple):
    """One frame of one video at one size."""

    key: str
    """A `VideoKey` as text."""
    index: int  # type: ignore[assignment]  # hides the method of a tuple, which nobody needs
    """0-based candidate of that video."""
    max_pixels: int | None
    """The budget that fixes its size; None is the source's size."""

    def __str__(self) -> str:
        return f"{self.index}@{_format_size(self.max_pixels)}:{self.key}"

    @classmethod
    def parse(cls, text: str) -> FrameReference:
        """Read what `str` wrote; raises `ValueError`."""
        place, _, key = text.partition(":")
        index, _, size = place.partition("@")
        if not index.isdigit() or not key:
            raise ValueError(f"got the frame reference {text!r}; it reads 'INDEX@SIZE:KEY'")
        return cls(key, int(index), _parse_size(size))


def _format_size(max_pixels: int | None) -> str:
    return _SOURCE if max_pixels is None else str(max_pixels)


def _parse_size(text: str) -> int | None:
    return None if text == _SOURCE else int(text)


def _format_plan(plan: FramePlan) -> str:
    if isinstance(plan.shown, tuple):
        raise ValueError("single frames belong to a reference, not to the key of their video")
    shown = "" if plan.shown is None else f"/{plan.shown}"
    return _format_size(plan.max_pixels) + shown


def _parse_plan(base: FramePlan, text: str) -> FramePlan:
    size, _, shown = text.partition("/")
    return replace(base, max_pixels=_parse_size(size), shown=int(shown) if shown else None)
