"""Films, read by FFmpeg through PyAV: which stream is the film, and its frames in order.

The one idea: nothing is shown that a player would not show. The film is the stream that the file
calls its default one, covers and thumbnails aside; where two could be meant, the file is refused.
Frames start at the first keyframe (what stands before it cannot be decoded), a frame that the
decoder itself marks as corrupt makes the file damaged, and every error of the libraries becomes one
`VideoError`.

Covers: mp4, mov, mkv, webm, avi, mpeg, ts, ogv, flv, asf and gif. Does not cover: damage that the
decoder does not notice (most of it in hevc, vp9 and av1).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.stream import Disposition

from verl_videosearch.video import container as containers
from verl_videosearch.video.errors import MAX_SOURCE_PIXELS, VideoErrorKind
from verl_videosearch.video.pixels import (
    SIDEWAYS,
    FrameConverter,
    OddTurn,
    find_turn,
    turn_upright,
)
from verl_videosearch.video.reading import RawFrame, Reading, Survey

_DECODE_THREADS = 2  # a rollout worker decodes several videos at once: more would fight over cores
_DEMUXERS = "mov,matroska,webm,avi,mpeg,mpegts,mpegvideo,ogg,gif,flv,asf"
"""What may be opened: no playlists, for those open other files."""
_LATE_STREAMS = {"analyzeduration": "100000000", "probesize": "50000000"}
"""Microseconds and bytes to look for streams that a file without a list of them starts late."""
_NOT_THE_FILM = (
    Disposition.attached_pic
    | Disposition.timed_thumbnails
    | Disposition.still_image
    | Disposition.dependent
)
_DPB_PIXELS = 178_000_000  # h264 level 6.2: all reference frames together
_NUM_REFERENCES = {"h264": 16, "hevc": 16, "vvc": 16, "vp9": 8, "vp8": 4, "libdav1d": 10, "av1": 10}
_MAX_BYTES_PER_PIXEL = 8
_LIBRARY_FAULTS = (OSError, LookupError, ValueError, ArithmeticError, AttributeError, RuntimeError)
"""What PyAV raises for files that it does not understand (FFmpeg's own errors are among them)."""


@dataclass
class _Tally:
    """What was counted of one stream."""

    num_packets: int = 0
    num_before_keyframe: int = 0
    has_keyframe: bool = False
    is_last_partial: bool = False

    def add(self, packet: av.Packet) -> None:
        self.num_packets += 1
        self.is_last_partial = packet.is_corrupt
        self.has_keyframe |= packet.is_keyframe
        self.num_before_keyframe += not self.has_keyframe


def survey(reading: Reading) -> Survey:
    """Choose the film and count its packets without decoding; raises `VideoError`."""
    with _open(reading) as container:
        if container.format.name == "ogg" and containers.has_damaged_page(reading.path):
            raise reading.error(VideoErrorKind.DAMAGED, "the checksum of a page is wrong")
        streams = _find_films(container, reading)
        tallies = {stream.index: _Tally() for stream in streams}
        with closing(_demux(container, *streams)) as packets:
            for packet in packets:
                reading.check_time()
                if packet.size:  # the last one, of size 0, only flushes the decoder
                    tallies[packet.stream_index].add(packet)
        stream = _choose(streams, tallies, reading)
        tally = tallies[stream.index]
        _check_film(stream, tally, reading)
        reading.check_dimensions(stream.codec_context.height, stream.codec_context.width)
        rate = stream.average_rate or stream.guessed_rate
        return Survey(
            tally.num_packets - tally.num_before_keyframe,
            float(rate) if rate else None,
            _count_decoder_bytes(stream.codec_context),
            stream.index,
            _note(reading, tally),
        )


def check_opens(reading: Reading) -> None:
    """Let a demuxer look at a file's first bytes; raises `VideoError` if it holds no film."""
    with _open(reading) as container:
        _find_films(container, reading)


def decode(reading: Reading, found: Survey) -> Iterator[RawFrame]:
    """Decode the film from its first keyframe to its end; raises `VideoError`."""
    converter = FrameConverter()
    with _open(reading) as container:
        stream = cast(av.VideoStream, container.streams[found.stream_index])
        with closing(_decode_packets(container, stream)) as frames:
            for number, frame in enumerate(frames):
                if frame.is_corrupt:
                    cause = f"the decoder marks its frame {number} as corrupt"
                    raise reading.error(VideoErrorKind.DAMAGED, cause)
                yield _make_raw(frame, cast(Fraction, stream.time_base), converter)


def _make_raw(frame: av.VideoFrame, time_base: Fraction, converter: FrameConverter) -> RawFrame:
    turn = find_turn(frame)
    is_sideways = turn in SIDEWAYS

    def convert(height: int, width: int) -> np.ndarray:
        size = (width, height) if is_sideways else (height, width)
        return turn_upright(converter.convert(frame, *size), turn)

    sides = (frame.width, frame.height) if is_sideways else (frame.height, frame.width)
    stamp_s = None if frame.pts is None else float(frame.pts * time_base)
    duration_s = float(frame.duration * time_base) if frame.duration else None
    return RawFrame(stamp_s, duration_s, *sides, convert)


def _decode_packets(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Generator[av.VideoFrame, None, None]:
    decoder, has_begun = _make_decoder(stream), False
    with closing(_demux(container, stream)) as packets:
        for packet in packets:
            has_begun |= packet.is_keyframe or not packet.size or _starts_anywhere(stream)
            if has_begun:
                yield from decoder.decode(packet if packet.size else None)


def _demux(
    container: av.container.InputContainer, *streams: av.VideoStream
) -> Generator[av.Packet, None, None]:
    """Read packets; PyAV's own type does not say that this can be closed."""
    return cast("Generator[av.Packet, None, None]", container.demux(*streams))


def _make_decoder(stream: av.VideoStream) -> av.VideoCodecContext:
    decoder = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and decoder.name in ("vp8", "vp9"):
        # FFmpeg's own decoders drop the transparency of webm
        name = "libvpx-vp9" if decoder.name == "vp9" else "libvpx"
        with_alpha = cast(av.VideoCodecContext, av.CodecContext.create(name, "r"))
        with_alpha.extradata = decoder.extradata
        decoder = with_alpha
    decoder.thread_type, decoder.thread_count = "AUTO", _DECODE_THREADS
    decoder.options = {"max_pixels": str(MAX_SOURCE_PIXELS)}
    # without it libav crops to aligned columns only: a 214 pixel wide theora frame comes out 218
    decoder.flags |= av.codec.context.Flags.unaligned
    return decoder


@contextmanager
def _open(reading: Reading) -> Iterator[av.container.InputContainer]:
    """Open a file; the libraries' errors, also those of the `with` body, become `VideoError`.

    Nothing that belongs to a container may be used, or be left to the garbage collector, once it is
    closed: PyAV 18.1 then reads freed memory. So every generator over it is closed first.
    """
    refusal = VideoErrorKind.UNREADABLE
    try:
        head = containers.read_head(reading.path)
        refusal = _name_refusal(head)
        options = {"format_whitelist": _DEMUXERS}
        if head.startswith(b"FLV") or containers.states_no_length(head):
            options |= _LATE_STREAMS
        with av.open(
            f"file:{reading.path}", container_options=options, metadata_errors="replace"
        ) as container:
            refusal = VideoErrorKind.UNREADABLE
            yield container
    except OddTurn as error:
        raise reading.error(VideoErrorKind.UNSUPPORTED, str(error)) from error
    except av.error.FFmpegError as error:
        raise reading.error(refusal, f"the decoder says {error.strerror!r}") from error
    except OSError as error:
        cause = error.strerror or str(error)
        raise reading.error(VideoErrorKind.UNREADABLE, cause) from error
    except _LIBRARY_FAULTS as error:
        cause = f"the decoder cannot follow it ({type(error).__name__}: {error})"
        raise reading.error(VideoErrorKind.UNREADABLE, cause) from error


def _name_refusal(head: bytes) -> VideoErrorKind:
    """Say what it means when no demuxer takes a file that begins so."""
    if containers.is_mp4(head):  # its index often stands at the end: what a broken download lacks
        return VideoErrorKind.TRUNCATED
    is_known = containers.is_known(head)
    return VideoErrorKind.UNREADABLE if is_known else VideoErrorKind.NOT_A_VIDEO


def _find_films(container: av.container.InputContainer, reading: Reading) -> list[av.VideoStream]:
    streams = [
        stream for stream in container.streams.video if not stream.disposition & _NOT_THE_FILM
    ]
    if not streams:
        raise reading.error(VideoErrorKind.NO_FRAMES, "it has no video stream")
    return streams


def _choose(
    streams: list[av.VideoStream], tallies: dict[int, _Tally], reading: Reading
) -> av.VideoStream:
    """Return the film: the only stream that moves, or the only default one of those that do."""
    filled = [stream for stream in streams if tallies[stream.index].num_packets]
    moving = [stream for stream in filled if tallies[stream.index].num_packets > 1] or filled
    if not moving:
        raise reading.error(VideoErrorKind.NO_FRAMES, "its video stream is empty")
    default = [stream for stream in moving if stream.disposition & Disposition.default]
    for choice in (moving, default):
        if len(choice) == 1:
            return choice[0]
    sizes = ", ".join(
        f"{stream.index}: {tallies[stream.index].num_packets} frames of {_describe_size(stream)}"
        for stream in moving
    )
    cause = f"it has {len(moving)} video streams and none is the default ({sizes})"
    raise reading.error(VideoErrorKind.SEVERAL_FILMS, cause)


def _describe_size(stream: av.VideoStream) -> str:
    codec = stream.codec_context
    return f"{codec.width}x{codec.height}" if codec is not None else "an unknown codec"


def _check_film(stream: av.VideoStream, tally: _Tally, reading: Reading) -> None:
    if stream.codec_context is None:
        raise reading.error(VideoErrorKind.NO_DECODER, "nothing here decodes its codec")
    if tally.is_last_partial:
        raise reading.error(VideoErrorKind.TRUNCATED, "the file ends inside its video stream")
    if not tally.has_keyframe and not _starts_anywhere(stream):
        raise reading.error(VideoErrorKind.DAMAGED, "its video stream has no keyframe")


def _starts_anywhere(stream: av.VideoStream) -> bool:
    """True for formats whose packets carry no keyframe flag and always begin with a whole
    picture."""
    return stream.codec_context.name == "gif"


def _count_decoder_bytes(codec: av.VideoCodecContext) -> int:
    pixels = max(1, codec.height * codec.width)
    references = _NUM_REFERENCES.get(codec.name, 3)
    if references == 16:
        references = min(16, max(6, _DPB_PIXELS // pixels))
    kind = codec.format
    per_pixel = kind.padded_bits_per_pixel / 8 if kind is not None else _MAX_BYTES_PER_PIXEL
    return int(pixels * per_pixel * (references + _DECODE_THREADS + 2)) + 3 * pixels


def _note(reading: Reading, tally: _Tally) -> tuple[str, ...]:
    notes = []
    if containers.states_no_length(containers.read_head(reading.path)):
        notes.append("its format states no length: if it was cut short, that cannot be seen")
    if tally.num_before_keyframe:
        count = tally.num_before_keyframe
        notes.append(f"{count} frames before its first keyframe cannot be decoded: left out")
    return tuple(notes)
