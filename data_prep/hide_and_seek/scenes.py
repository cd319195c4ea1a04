"""Rendered scenes: two muted shapes drift over a textured background, and a prompt says so.

The one idea: endless clean videos with a true prompt, from a seed alone. Colours stay muted and
nothing is square, so that a coloured square, a cast or an inverted frame is never part of a clean
scene.

>>> scene = render_scene(np.random.default_rng(3), num_frames=16, height=56, width=56)
>>> scene.frames.shape, scene.prompt
((16, 56, 56, 3), 'A small sand ring moves up and a large rust triangle moves down over a navy background.')
"""  # noqa: E501

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

BACKGROUNDS = {
    "slate": (70, 84, 99),
    "khaki": (92, 96, 66),
    "brown": (98, 78, 64),
    "navy": (48, 58, 92),
}
SHAPE_COLOURS = {
    "sand": (196, 172, 128),
    "rust": (168, 92, 66),
    "teal": (72, 138, 134),
    "plum": (132, 84, 122),
    "moss": (112, 140, 82),
}
SHAPES = ("circle", "ring", "triangle", "diamond")
SIZES = {"small": 0.11, "large": 0.19}
"""Radius as a share of the shorter side."""
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
"""(down, right) per unit of motion."""
TEXTURE = 12
"""Grey levels by which the background varies."""


@dataclass(frozen=True)
class Scene:
    """A clean video and its text prompt."""

    frames: np.ndarray
    """uint8 (N, H, W, 3)."""
    prompt: str


def render_scene(rng: np.random.Generator, num_frames: int, height: int, width: int) -> Scene:
    """Draw a scene; the same generator state gives the same pixels."""
    background = str(rng.choice(list(BACKGROUNDS)))
    frames = np.repeat(
        _texture(rng, height, width)[None] + np.array(BACKGROUNDS[background]), num_frames, axis=0
    )
    colours = rng.permutation(list(SHAPE_COLOURS))[:2]
    shapes = rng.permutation(SHAPES)[:2]
    phrases = [
        _add_shape(frames, str(s), str(c), rng) for s, c in zip(shapes, colours, strict=True)
    ]
    frames = np.clip(np.rint(frames), 0, 255).astype(np.uint8)
    return Scene(frames, f"A {' and a '.join(phrases)} over a {background} background.")


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Make smooth blotches, float (H, W, 1)."""
    coarse = Image.fromarray(rng.uniform(-TEXTURE, TEXTURE, (5, 5)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))[..., None]


def _add_shape(frames: np.ndarray, shape: str, colour: str, rng: np.random.Generator) -> str:
    """Draw a shape that crosses part of the frame, in place; returns what it does in words."""
    num_frames, height, width = frames.shape[:3]
    size, direction = str(rng.choice(list(SIZES))), str(rng.choice(list(DIRECTIONS)))
    radius = SIZES[size] * min(height, width)
    middle = rng.uniform(0.3, 0.7, 2) * (height, width)
    travel = np.array(DIRECTIONS[direction]) * rng.uniform(0.3, 0.6) * (height, width)
    rows, columns = np.mgrid[:height, :width]
    for index in range(num_frames):
        row, column = middle + travel * (index / max(1, num_frames - 1) - 0.5)
        frames[index][_is_inside(shape, (rows - row) / radius, (columns - column) / radius)] = (
            SHAPE_COLOURS[colour]
        )
    return f"{size} {colour} {shape} moves {direction}"


def _is_inside(shape: str, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Say which pixels belong to a shape of radius 1 around the origin."""
    if shape == "diamond":
        return np.abs(down) + np.abs(right) <= 1.2
    if shape == "triangle":
        return (down <= 0.8) & (down >= 2 * np.abs(right) - 1)
    distance = np.hypot(down, right)
    return (distance <= 1) & (distance >= 0.5) if shape == "ring" else distance <= 1
