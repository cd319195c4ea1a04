"""Files of the kinds that go wrong in the real world, made on the spot."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from tests.clips import FPS, grey_frames, write_clip

IDENTITY = (1, 0, 0, 1)


def copy_packets(
    source: Path, target: Path, keep: Callable[[int, av.Packet], bool] = lambda number, packet: True
) -> Path:
    """Copy a film packet by packet into another container."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for number, packet in enumerate(reader.demux(video=0)):
            if packet.dts is not None and keep(number, packet):
                packet.stream = stream
                writer.mux(packet)
    return target


def write_streams(
    path: Path, streams: Iterable[tuple[str, str, np.ndarray]], default: Iterable[int] | None = None
) -> Path:
    """Write several video streams, each (codec, pixel format, frames), into one file."""
    with av.open(str(path), "w") as container:
        made = []
        for number, (codec, pixel_format, frames) in enumerate(streams):
            stream = container.add_stream(codec, rate=FPS)
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixel_format
            if default is not None:
                flag = av.stream.Disposition.default.value if number in default else 0
                stream.disposition = flag
            made.append((stream, frames))
        for stream, frames in made:
            for pixels in frames:
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
            container.mux(stream.encode())
    return path


def set_matrix(path: Path, matrix: tuple[float, float, float, float]) -> Path:
    """Write (a, b, c, d) of the display matrix into an mp4's track header."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (round(number * 65536) for number in matrix)
    start = data.index(b"tkhd") + 44
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def glass_frames(num_frames: int = 4, side: int = 56) -> np.ndarray:
    """Make uint8 (N, H, W, 4): the left half red and solid, the right half white and unseen."""
    frames = np.zeros((num_frames, side, side, 4), np.uint8)
    frames[:, :, : side // 2] = (255, 0, 0, 255)
    frames[:, :, side // 2 :] = (255, 255, 255, 0)
    return frames


def write_glass(path: Path, codec: str = "", pixel_format: str = "") -> Path:
    """Write transparent frames, by Pillow or as a film."""
    frames = glass_frames()
    if not codec:
        images = [Image.fromarray(frame) for frame in frames]
        for number, image in enumerate(images):
            image.putpixel((0, 0), (number * 40, 0, 0, 255))  # equal frames would be merged
        options = {"disposal": 2} if path.suffix == ".gif" else {}
        images[0].save(path, save_all=True, append_images=images[1:], duration=40, **options)
        return path
    with av.open(str(path), "w") as container:
        options = {"auto-alt-ref": "0"} if codec.startswith("libvpx") else {}
        stream = container.add_stream(codec, rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixel_format
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba")
            container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode())
    return path


def write_hdr(path: Path, levels: Iterable[int], transfer: str) -> Path:
    """Write one frame for each grey level whose numbers are said to be PQ or HLG light."""
    frames = np.stack([np.full((56, 56, 3), level, np.uint8) for level in levels])
    tags = f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    return write_clip(path, frames, options={"x264-params": tags, "qp": "0"})


def write_late_sound(path: Path) -> Path:
    """Write an flv whose header announces a film only, and whose sound starts after 5 s."""
    with av.open(str(path), "w", format="flv") as container:
        film = container.add_stream("flv1", rate=FPS)
        film.height, film.width, film.pix_fmt = 16, 16, "yuv420p"
        sound = container.add_stream("adpcm_swf", rate=44100, layout="mono")
        for pixels in grey_frames(130, 16, 16):
            container.mux(film.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(film.encode())
        num_samples = sound.codec_context.frame_size or 4096
        samples = np.zeros((1, num_samples), np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 44100, 5 * 44100, Fraction(1, 44100)
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    data = bytearray(path.read_bytes())
    data[4] = 1  # only a film is announced
    path.write_bytes(data)
    return path
