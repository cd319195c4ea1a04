"""From a decoded frame to the RGB that is kept: upright, in SDR, on one ground, at its size.

The one idea: each of these is done once, in this order, by one function for every format:

1. **size**: bicubic, by FFmpeg's scaler, in the frame's own planes, bit-exact on every machine;
   nothing is touched where the size is right already. RGB is scaled as RGB.
2. **ground**: transparent pixels are laid on black (`GROUND`), before anything is scaled.
3. **colour**: HDR (PQ, HLG) becomes SDR: 203 nits are white (ITU-R BT.2408), brighter light is
   rolled off, BT.2020 colours are brought to BT.709. SDR is not touched.
4. **turn**: the display matrix is applied, all eight ways; one that turns by another angle is
   refused.

Does not cover: non-square pixels (shown as stored), Dolby Vision without an HDR10 base.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

GROUND = (0, 0, 0)
"""What shows through transparent pixels, RGB."""
SDR_WHITE_NITS = 203.0
"""Light of white in HDR (ITU-R BT.2408): what becomes 255."""
_BICUBIC = int(Interpolation.BICUBIC)
_EXACT = 0x40000 | 0x80000  # SWS_ACCURATE_RND | SWS_BITEXACT: the same bytes on every machine
_PQ, _HLG = 16, 18  # transfer characteristics of ITU-T H.273
_KNEE = 0.85  # of white: darker light is kept as it is, brighter rolled off
_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)  # ITU-R BT.2087
_TURNS = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
"""How to put a picture upright, by the signs of (a, b, c, d) of its display matrix: the stored
pixel (x, y) is shown at (a x + c y, b x + d y)."""
SIDEWAYS = frozenset(
    {
        Image.Transpose.ROTATE_90,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSPOSE,
        Image.Transpose.TRANSVERSE,
    }
)
"""Turns that exchange height and width."""


class OddTurn(ValueError):
    """A display matrix that turns by an angle which is no multiple of 90 degrees."""


def read_turn(matrix: bytes) -> Image.Transpose | None:
    """Say how to put a picture upright, from the nine numbers of its display matrix; raises
    `OddTurn`.

    >>> read_turn(struct.pack("=9i", -65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)).name
    'FLIP_LEFT_RIGHT'
    """
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    if not (a or b) or not (c or d):
        return None  # not a matrix at all: FFmpeg, too, shows the picture as it is stored
    lengths = math.hypot(a, b), math.hypot(c, d)
    unit = (a / lengths[0], b / lengths[0], c / lengths[1], d / lengths[1])
    signs = tuple(round(number) for number in unit)
    if max(abs(number - sign) for number, sign in zip(unit, signs, strict=True)) > 0.02:
        raise OddTurn(
            f"its display matrix turns it by {math.degrees(math.atan2(b, a)):.0f} degrees"
        )
    if signs not in _TURNS:
        raise OddTurn("its display matrix cannot be understood")
    return _TURNS[signs]


def find_turn(frame: av.VideoFrame) -> Image.Transpose | None:
    """Say how to put a decoded frame upright; raises `OddTurn`."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    return None if matrix is None else read_turn(bytes(matrix))


class FrameConverter:
    """Turns the frames of one video into RGB of one size; keeps FFmpeg's converters between
    frames."""

    def __init__(self) -> None:
        self._to_planes, self._scale, self._to_rgb = (VideoReformatter() for _ in range(3))
        self._to_rgba = VideoReformatter()

    def convert(self, frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
        """Return uint8 (height, width, 3), not turned yet."""
        if has_alpha(frame):
            rgba = self._to_rgba.reformat(frame, format="rgba", threads=1).to_ndarray()
            frame = av.VideoFrame.from_ndarray(lay_on_ground(rgba), format="rgb24")
        if (frame.height, frame.width) != (height, width):
            if frame.format.is_rgb and frame.format.name != "gbrp":
                frame = self._to_planes.reformat(frame, format="gbrp", threads=1)
            frame = self._scale.reformat(
                frame, width, height, interpolation=_BICUBIC | _EXACT, threads=1
            )
        pixels = self._to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return to_sdr(pixels, int(frame.color_trc)) if is_hdr(frame) else pixels

    def resize(self, pixels: np.ndarray, height: int, width: int) -> np.ndarray:
        """Return uint8 (height, width, 3) of uint8 (H, W, 3)."""
        if pixels.shape[:2] == (height, width):
            return pixels
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        return self.convert(frame, height, width)


def turn_upright(pixels: np.ndarray, turn: Image.Transpose | None) -> np.ndarray:
    """Turn uint8 (H, W, 3) as `find_turn` says."""
    if turn is None:
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(turn))


def has_alpha(frame: av.VideoFrame) -> bool:
    """Say whether a decoded frame may have transparent pixels."""
    return frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components)


def lay_on_ground(rgba: np.ndarray) -> np.ndarray:
    """Lay uint8 (H, W, 4) on the ground: uint8 (H, W, 3)."""
    alpha = rgba[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    image = Image.fromarray(rgba)
    ground = Image.new("RGBA", image.size, (*GROUND, 255))
    return np.asarray(Image.alpha_composite(ground, image).convert("RGB"))


def is_hdr(frame: av.VideoFrame) -> bool:
    """Say whether a frame's numbers mean HDR light."""
    return int(frame.color_trc) in (_PQ, _HLG)


def to_sdr(pixels: np.ndarray, transfer: int) -> np.ndarray:
    """Turn RGB numbers of PQ or HLG light, uint8 (H, W, 3), into SDR."""
    steps = np.linspace(0, 1, 256)
    if transfer == _PQ:
        light = (_light_of_pq(steps) / SDR_WHITE_NITS).astype(np.float32)[pixels]
    else:
        light = _show_hlg(_scene_of_hlg(steps).astype(np.float32)[pixels]) / SDR_WHITE_NITS
    light = np.maximum(light @ _BT2020_TO_BT709.T.astype(np.float32), 0)
    peak = light.max(axis=-1, keepdims=True)
    light *= _roll_off(peak) / np.maximum(peak, 1e-9)  # all three alike: the hue stays
    shown = 255 * light ** (1 / 2.4)  # as an SDR screen shows its numbers (ITU-R BT.1886)
    return np.rint(shown).astype(np.uint8)


def _light_of_pq(signal: np.ndarray) -> np.ndarray:
    """Return nits (SMPTE ST 2084)."""
    power = signal ** (1 / 78.84375)
    base = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
    return 10_000 * base ** (1 / 0.1593017578125)


def _scene_of_hlg(signal: np.ndarray) -> np.ndarray:
    """Return the light of the scene, 0 to 1 (ITU-R BT.2100)."""
    bright = (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return np.where(signal <= 0.5, signal**2 / 3, bright)


def _show_hlg(scene: np.ndarray) -> np.ndarray:
    """Return nits on a display of 1,000 nits (ITU-R BT.2100)."""
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    return 1000 * scene * np.maximum(luminance, 1e-9)[..., None] ** 0.2


def _roll_off(light: np.ndarray) -> np.ndarray:
    room = 1 - _KNEE
    bright = _KNEE + room * (1 - np.exp(-(np.maximum(light, _KNEE) - _KNEE) / room))
    return np.where(light <= _KNEE, light, bright)
