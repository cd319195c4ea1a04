"""Moving pictures, read by Pillow: animated WebP, AVIF and PNG (FFmpeg reads no animated WebP, only
the still item of some AVIF, and no transparency of AVIF).

The one idea: the same contract as `films`: `survey`, then `decode`, and every error of the library
becomes one `VideoError`. Pillow composes the whole canvas of each frame; it is laid on the one
ground of pixels.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from verl_videosearch.video import container as containers
from verl_videosearch.video.errors import VideoErrorKind
from verl_videosearch.video.pixels import SIDEWAYS, FrameConverter, lay_on_ground, turn_upright
from verl_videosearch.video.reading import BUDGET, RawFrame, Reading, Survey

_BYTES_PER_PIXEL = 40
"""Canvases of the decoder, Pillow's copies, laying on the ground; measured at 2048 x 2048: 38 for
WebP, 30 for PNG."""
_FORMATS = ["WEBP", "AVIF", "PNG"]
_ORIENTATION = 0x0112  # EXIF, where Pillow also puts the turn and mirror of AVIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def survey(reading: Reading) -> Survey:
    """Count the frames; raises `VideoError`."""
    # Pillow's WebP decoder takes its memory when it opens a file, so the size comes from the bytes
    with _media_errors(reading):
        size = containers.read_webp_size(containers.read_head(reading.path))
    num_bytes = _BYTES_PER_PIXEL * size[0] * size[1]
    reading.check_dimensions(*size)
    with BUDGET.hold(num_bytes, reading), _open(reading) as image:
        num_bytes = _BYTES_PER_PIXEL * image.height * image.width
        return Survey(getattr(image, "n_frames", 1), None, num_bytes)


def decode(reading: Reading, found: Survey) -> Iterator[RawFrame]:
    """Decode all frames in order; raises `VideoError`."""
    converter = FrameConverter()
    with _open(reading) as image:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
        is_sideways = turn in SIDEWAYS
        stamp_s = 0.0
        for index in range(found.num_frames):
            image.seek(index)
            image.load()

            def convert(height: int, width: int, pixels: Image.Image = image) -> np.ndarray:
                rgb = lay_on_ground(np.asarray(pixels.convert("RGBA")))
                size = (width, height) if is_sideways else (height, width)
                return turn_upright(converter.resize(rgb, *size), turn)

            sides = (image.width, image.height) if is_sideways else (image.height, image.width)
            duration_s = image.info.get("duration", 0) / 1000
            yield RawFrame(stamp_s, duration_s or None, *sides, convert)
            stamp_s += duration_s


@contextmanager
def _open(reading: Reading) -> Iterator[Image.Image]:
    with _media_errors(reading), Image.open(reading.path, formats=_FORMATS) as image:
        reading.check_dimensions(image.height, image.width)
        yield image


@contextmanager
def _media_errors(reading: Reading) -> Iterator[None]:
    try:
        yield
    except Image.DecompressionBombError as error:
        raise reading.error(VideoErrorKind.TOO_LARGE, str(error)) from error
    except (OSError, EOFError, SyntaxError, ValueError, LookupError, RuntimeError) as error:
        cause = f"the picture decoder says {str(error)!r}"
        raise reading.error(VideoErrorKind.UNREADABLE, cause) from error
