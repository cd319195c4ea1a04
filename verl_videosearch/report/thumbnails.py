"""Thumbnails: small pictures of the frames that a page shows, each kept once.

The one idea: a film is named by the bytes of its video and how many candidates it has, so a frame
that fifty episodes show is one picture. Frames come from the store where it holds them at any size
that an episode used; else the video is decoded once, small.

    thumbnails = Thumbnails(store, video_root)
    film = thumbnails.open(sample, 1, config)      # Film(name="f0", problem="")
    thumbnails.add(film, 12)                       # later in `thumbnails.pictures["f0"][12]`

Covers: WebP of at most `MAX_PIXELS`. Does not cover: which frames are shown (`episode_view`)."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.video.errors import VideoError
from verl_videosearch.video.pair import plan_frames
from verl_videosearch.video.plan import FramePlan
from verl_videosearch.video.reference import VideoKey
from verl_videosearch.video.store import FrameStore
from verl_videosearch.video.stored import StoredVideo

MAX_PIXELS = 160 * 90
"""Of a thumbnail; about 3 kB."""
_QUALITY = 55


@dataclass(frozen=True)
class Film:
    """One video as a page shows it."""

    name: str
    """Names its pictures; equal for equal bytes and equal candidates."""
    path: str
    problem: str = ""
    """Why there are no pictures; empty when there are."""
    times_s: tuple[float, ...] = ()
    """Of its candidate frames; empty without pictures."""


@dataclass
class Thumbnails:
    """The pictures of one page."""

    store: FrameStore
    video_root: Path | None = None
    """Folder of relative video paths."""
    pictures: dict[str, dict[int, str]] = field(default_factory=dict)
    """Name of a film to (0-based candidate to WebP as base64)."""
    _films: dict[tuple[str, int], Film] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)
    _videos: dict[str, StoredVideo] = field(default_factory=dict)

    def open(self, sample: PreferenceSample, video: int, config: EpisodeConfig) -> Film:
        """Return a video of a pair (1 or 2, in the sample's own order), read or with its
        problem."""
        path = sample.video_1 if video == 1 else sample.video_2
        known = (path, config.frames_per_video)
        if known not in self._films:
            self._films[known] = self._open(sample, video, config)
        return self._films[known]

    def add(self, film: Film, index: int) -> None:
        """Make the picture of one candidate unless it is there; raises `VideoError` for a video
        that broke since it was opened."""
        pictures = self.pictures[film.name]
        if index not in pictures:
            video, budget = self._videos[film.name], self._budgets[film.name]
            pictures[index] = encode_thumbnail(np.asarray(video.frame(index, budget)))

    def has(self, film: Film, index: int) -> bool:
        """True when a picture of this candidate can be made."""
        return not film.problem and 0 <= index < len(film.times_s)

    _budgets: dict[str, int | None] = field(default_factory=dict)

    def _open(self, sample: PreferenceSample, video: int, config: EpisodeConfig) -> Film:
        path = sample.video_1 if video == 1 else sample.video_2
        try:
            file = sample.resolve_videos(self.video_root)[video - 1]
            stored, budget = self._read(file, config, sample.uid)
        except (VideoError, ValueError, OSError) as error:
            return Film("", path, str(error))
        content = f"{VideoKey.parse(stored.key).content}/{config.frames_per_video}"
        name = self._names.setdefault(content, f"f{len(self._names)}")
        if name not in self._videos:
            self._videos[name], self._budgets[name] = stored, budget
            self.pictures[name] = {}
        return Film(name, path, times_s=tuple(stored.times_s))

    def _read(self, file: Path, config: EpisodeConfig, uid: str) -> tuple[StoredVideo, int | None]:
        """Return a video and the budget at which its frames lie ready."""
        small = FramePlan(config.frames_per_video, MAX_PIXELS, patch_multiple=2)
        called = plan_frames(config)[0]
        for plan in (small, called):
            if (found := self.store.find(file, (plan,), uid)) is not None:
                return found, plan.max_pixels
        return self.store.open(file, (small,), uid), small.max_pixels


def encode_thumbnail(frame: np.ndarray) -> str:
    """Return a frame, uint8 (H, W, 3), as a small WebP in base64.

    >>> encode_thumbnail(np.zeros((720, 1280, 3), np.uint8))[:5]
    'UklGR'
    """
    image = Image.fromarray(frame)
    scale = min(1.0, (MAX_PIXELS / (image.width * image.height)) ** 0.5)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    buffer = BytesIO()
    image.save(buffer, "WEBP", quality=_QUALITY, method=2)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
