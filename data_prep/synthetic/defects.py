"""Defects with a known place, kind and severity, painted into the frames of a video.

The one idea: a `Defect` is a value that says everything, its own random seed included. The same
value paints the same pixels, and a pair's labels, traces and hit rate all follow from its defects,
never from the pixels.

>>> clean = np.full((16, 56, 56, 3), 90, np.uint8)
>>> damaged = apply_defect(clean, Defect("snow", severity=3, first_index=5, num_frames=2, is_hidden=True, seed=1))
>>> [index for index in range(16) if (damaged[index] != clean[index]).any()]
[5, 6]

Severity 1 is mild, 3 severe. The `EASY` types move the mean colour of a frame, which a model of a
million parameters learns to see in minutes; the `FINE` ones are closer to what generators really
do; the `PAIRED` ones show only between neighbouring frames.

Covers: the catalogue, painting, labels from severities. Does not cover: where a defect may hide
(`hide_and_seek`).
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from verl_videosearch.judgement import DEFAULT_DIMENSIONS, OVERALL

COLOURS = {
    "red": (235, 30, 30),
    "green": (30, 210, 40),
    "blue": (40, 60, 240),
    "yellow": (240, 225, 30),
    "magenta": (235, 40, 225),
    "cyan": (30, 220, 230),
}
"""Colours of `tint` and `square`, red, green and blue in 0..255."""
_NOMINAL_SIDE = (
    56  # sizes in pixels below are for a frame whose shorter side is this long, and grow with it
)


@dataclass(frozen=True)
class Defect:
    """One defect in one video; `meta.defects_1` and `meta.defects_2` of a sample are lists of
    these."""

    type: str
    severity: int
    """1 (mild) to 3 (severe)."""
    first_index: int
    """0-based index of the first damaged frame."""
    num_frames: int
    is_hidden: bool
    """True when no damaged frame is in the initial view."""
    seed: int
    """All randomness of its look."""
    colour: str | None = None
    """A key of `COLOURS`, for the types that have a colour."""

    def __post_init__(self) -> None:
        if self.type not in DEFECT_TYPES:
            raise ValueError(
                f"unknown defect type {self.type!r}; known are {', '.join(DEFECT_TYPES)}"
            )
        if self.severity not in (1, 2, 3) or self.first_index < 0 or self.num_frames < 1:
            raise ValueError(
                "severity must be 1 to 3, first_index at least 0 and num_frames at least 1; "
                f"got {self}"
            )
        if (self.colour in COLOURS) != DEFECT_TYPES[self.type].is_coloured:
            allowed = (
                f"one of {', '.join(COLOURS)}" if DEFECT_TYPES[self.type].is_coloured else "None"
            )
            raise ValueError(f"the colour of {self.type} must be {allowed}; got {self.colour!r}")

    @property
    def dimension(self) -> str:
        return DEFECT_TYPES[self.type].dimension

    @property
    def frame_indices(self) -> range:
        return range(self.first_index, self.first_index + self.num_frames)

    def to_meta(self) -> dict[str, Any]:
        """Write as plain data; `defect_from_meta` reads it back."""
        return {"dimension": self.dimension, **asdict(self)}


def defect_from_meta(meta: dict[str, Any]) -> Defect:
    """Read what `Defect.to_meta` wrote.

    >>> defect_from_meta({"dimension": "VQ", "type": "lines", "severity": 1, "first_index": 0, "num_frames": 16,
    ...     "is_hidden": False, "seed": 7, "colour": None}).frame_indices
    range(0, 16)
    """  # noqa: E501
    return Defect(**{name: value for name, value in meta.items() if name != "dimension"})


def apply_defect(frames: np.ndarray, defect: Defect) -> np.ndarray:
    """Return a copy of uint8 (N, H, W, 3) frames in which only the frames of `defect` are
    damaged."""
    damaged = frames.copy()
    span = slice(defect.first_index, defect.first_index + defect.num_frames)
    rng = np.random.default_rng(defect.seed)
    painted = DEFECT_TYPES[defect.type].paint(frames[span].astype(np.float32), defect, rng)
    damaged[span] = np.clip(np.rint(painted), 0, 255).astype(np.uint8)
    return damaged


def total_severity(defects: Iterable[Defect], dimension: str) -> int:
    """Return the severity of the worst defect in a dimension; 0 when it has none."""
    return max((defect.severity for defect in defects if defect.dimension == dimension), default=0)


def labels_from_defects(defects_1: Iterable[Defect], defects_2: Iterable[Defect]) -> dict[str, int]:
    """Label each dimension by its worst defect, and overall by their sum: less severe is better,
    equal is a tie.

    >>> mild = Defect("lines", severity=1, first_index=0, num_frames=16, is_hidden=False, seed=0)
    >>> severe = Defect("inverted", severity=3, first_index=5, num_frames=2, is_hidden=True, seed=0)
    >>> labels_from_defects([mild], [severe])
    {'TA': 0, 'VQ': 2, 'MQ': 1, 'OA': 1}
    """
    sides = [list(defects_1), list(defects_2)]
    severities = {
        d.key: [total_severity(side, d.key) for side in sides] for d in DEFAULT_DIMENSIONS
    }
    severities[OVERALL] = [sum(side) for side in zip(*severities.values(), strict=True)]
    return {
        key: 0 if one == two else 1 if one < two else 2 for key, (one, two) in severities.items()
    }


Paint = Callable[[np.ndarray, Defect, np.random.Generator], np.ndarray]


def _paint_snow(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    is_flake = rng.random(frames.shape[:3]) < (0.25, 0.5, 0.8)[defect.severity - 1]
    return np.where(is_flake[..., None], rng.uniform(150, 255, frames.shape[:3])[..., None], frames)


def _paint_tint(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    share = (0.25, 0.45, 0.65)[defect.severity - 1]
    return frames * (1 - share) + np.array(COLOURS[defect.colour]) * share


def _paint_square(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    height, width = frames.shape[1:3]
    side = round(min(height, width) * (0.35, 0.5, 0.65)[defect.severity - 1])
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    frames[:, top : top + side, left : left + side] = COLOURS[defect.colour]
    return frames


def _paint_lines(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    frames[:, int(rng.integers(3)) :: 3] += (70, 110, 150)[defect.severity - 1]
    return frames


def _paint_dim(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    return frames * (0.6, 0.35, 0.15)[defect.severity - 1]


def _paint_grey(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    share = (0.5, 0.75, 1.0)[defect.severity - 1]
    return frames * (1 - share) + 128 * share


def _paint_inverted(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    channels = rng.permutation(3)[: defect.severity]
    frames[..., channels] = 255 - frames[..., channels]
    return frames


def _paint_comb(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    shift = _scaled((3, 5, 8)[defect.severity - 1], frames)
    frames[:, 1::3] = np.roll(frames[:, 1::3], shift, axis=2) - (50, 80, 110)[defect.severity - 1]
    return frames


def _paint_flash(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    share = (0.35, 0.6, 0.85)[defect.severity - 1]
    return frames * (1 - share) + 255 * share


def _paint_recolour(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    share = (0.4, 0.7, 1.0)[defect.severity - 1]
    return frames * (1 - share) + np.roll(frames, int(rng.integers(1, 3)), axis=3) * share


def _paint_noise(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    return frames + rng.normal(0, (12, 25, 45)[defect.severity - 1], frames.shape)


def _paint_blur(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    blur = ImageFilter.GaussianBlur((0.8, 1.5, 2.5)[defect.severity - 1] * _scale_of(frames))
    return np.stack(
        [np.asarray(Image.fromarray(frame.astype(np.uint8)).filter(blur)) for frame in frames]
    )


def _paint_blocks(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    side = _scaled((2, 4, 7)[defect.severity - 1], frames)
    rows, columns = (np.arange(length) // side * side for length in frames.shape[1:3])
    return frames[:, rows][:, :, columns]


def _paint_patch(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    side = _scaled((8, 14, 22)[defect.severity - 1], frames)
    top, left = (int(rng.integers(length - side + 1)) for length in frames.shape[1:3])
    frames[:, top : top + side, left : left + side] = rng.uniform(
        0, 255, (len(frames), side, side, 3)
    )
    return frames


def _paint_tearing(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    shift = _scaled((6, 12, 20)[defect.severity - 1], frames)
    for frame in frames:
        row = int(rng.integers(frame.shape[0] // 4, frame.shape[0] // 2))
        frame[row:] = np.roll(frame[row:], shift, axis=1)
    return frames


def _paint_ghost(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    share, shift = ((0.25, 4), (0.4, 7), (0.5, 10))[defect.severity - 1]
    return frames * (1 - share) + np.roll(frames, _scaled(shift, frames), axis=2) * share


def _paint_freeze(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    held = (2, 4, len(frames))[defect.severity - 1]
    return frames[np.arange(len(frames)) // held * held]


def _paint_flicker(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    change = (0.15, 0.3, 0.55)[defect.severity - 1]
    signs = np.where((np.arange(len(frames)) + rng.integers(2)) % 2, 1, -1)
    return frames * (1 + change * signs)[:, None, None, None]


def _paint_jitter(frames: np.ndarray, defect: Defect, rng: np.random.Generator) -> np.ndarray:
    reach = _scaled((2, 5, 10)[defect.severity - 1], frames)
    for index, frame in enumerate(frames):
        down, right = reach if index % 2 else -reach, int(rng.integers(-reach, reach + 1))
        frames[index] = np.roll(frame, (down, right), axis=(0, 1))
    return frames


def _scale_of(frames: np.ndarray) -> float:
    return min(frames.shape[1:3]) / _NOMINAL_SIDE


def _scaled(pixels: int, frames: np.ndarray) -> int:
    return max(1, round(pixels * _scale_of(frames)))


@dataclass(frozen=True)
class DefectType:
    """An entry of the catalogue."""

    name: str
    dimension: str
    """The dimension that it spoils: TA, VQ or MQ."""
    paint: Paint
    """Damage float32 (n, H, W, 3) frames; may change them in place; the result is rounded and
    clipped."""
    words: str
    """What one sees, for captions and traces."""
    is_coloured: bool = False


DEFECT_TYPES = {
    entry.name: entry
    for entry in (
        DefectType("snow", "VQ", _paint_snow, "bright snow over the picture"),
        DefectType("tint", "VQ", _paint_tint, "a colour cast", is_coloured=True),
        DefectType(
            "square", "VQ", _paint_square, "a coloured square over the picture", is_coloured=True
        ),
        DefectType("lines", "VQ", _paint_lines, "bright lines across the picture"),
        DefectType("dim", "VQ", _paint_dim, "an underexposed picture"),
        DefectType("grey", "MQ", _paint_grey, "a dropped frame, grey instead of a picture"),
        DefectType("inverted", "MQ", _paint_inverted, "a flash in inverted colours"),
        DefectType("comb", "MQ", _paint_comb, "dark combing lines from bad interlacing"),
        DefectType("flash", "MQ", _paint_flash, "a flash to white"),
        DefectType("recolour", "TA", _paint_recolour, "colours other than the prompt's"),
        DefectType("noise", "VQ", _paint_noise, "grainy noise"),
        DefectType("blur", "VQ", _paint_blur, "a blurred picture"),
        DefectType("blocks", "VQ", _paint_blocks, "coarse compression blocks"),
        DefectType("patch", "VQ", _paint_patch, "a patch of garbage"),
        DefectType(
            "tearing", "MQ", _paint_tearing, "a torn picture, its lower part shifted sideways"
        ),
        DefectType("ghost", "MQ", _paint_ghost, "a double image"),
        DefectType("freeze", "MQ", _paint_freeze, "motion that stops and jumps"),
        DefectType("flicker", "MQ", _paint_flicker, "flickering brightness"),
        DefectType("jitter", "MQ", _paint_jitter, "a picture that jumps about"),
    )
}
"""Every defect type by name."""

EASY = ("snow", "tint", "square", "lines", "dim", "grey", "inverted", "comb", "flash", "recolour")
FINE = ("noise", "blur", "blocks", "patch", "tearing", "ghost")
PAIRED = ("freeze", "flicker", "jitter")
