"""What the first and last bytes of a video file tell before any decoder runs: its family, and
whether it was cut short.

The one idea: most containers say how long they are, so a broken download is found by comparing that
with the file, not by watching a decoder stop early (FFmpeg decodes the half of a cut mkv, avi or
gif without a word).

>>> promised_size(b"RIFF" + (16).to_bytes(4, "little") + b"AVI ")
24

Covers: the length of mp4, mov, avi, webp, mkv and webm, the end mark of gif. Does not cover: mpeg
and ogv (they carry no length), an mp4 or mkv made of pieces that is cut exactly between two of
them.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_EBML = b"\x1a\x45\xdf\xa3"
_FAMILIES = (_EBML, b"RIFF", b"OggS", b"GIF8", b"FLV", b"\0\0\1\xba")
_MP4_BOXES = frozenset(
    b"ftyp moov mdat free skip wide moof mfra sidx styp uuid pnot udta meta".split()
)
_LIVE_RIFF = 0xFFFFFFF0  # a writer that cannot seek back leaves a length of (almost) all ones
_NUM_HEAD_BYTES = 64


def read_head(path: Path) -> bytes:
    """Read the bytes that the functions of this module look at."""
    with path.open("rb") as file:
        return file.read(_NUM_HEAD_BYTES)


def is_webp(head: bytes) -> bool:
    """Say whether a file is a WebP image, still or animated."""
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def is_mp4(head: bytes) -> bool:
    """Say whether a file is of the mp4 and mov family."""
    return head[4:8] in _MP4_BOXES


def is_known(head: bytes) -> bool:
    """Say whether a file starts like a video container, so that a decoder's refusal means
    damage."""
    return is_mp4(head) or head.startswith(_FAMILIES)


def is_cut_short(path: Path) -> bool:
    """Say whether a file visibly ends before the end that its container announces."""
    with path.open("rb") as file:
        head, size = file.read(_NUM_HEAD_BYTES), file.seek(0, 2)
        file.seek(max(0, size - _NUM_HEAD_BYTES))
        tail = file.read()
        if is_mp4(head):
            return size < _find_mp4_end(file)
    is_open_gif = head.startswith(b"GIF8") and not tail.rstrip(b"\0").endswith(
        b";"
    )  # some writers pad with zeros
    return is_open_gif or size < promised_size(head)


def _find_mp4_end(file: BinaryIO) -> int:
    """Return where the last known box of an mp4 ends by its own length; cameras add trailers of
    their own."""
    end = 0
    while True:
        file.seek(end)
        box = file.read(16)
        size = int.from_bytes(box[:4], "big")
        if size == 1:  # the real length is 64 bits wide and follows the type
            size = int.from_bytes(box[8:16], "big")
        if size < 8 or box[4:8] not in _MP4_BOXES:  # 0: to the end of the file, whatever that is
            return end
        end += size


def promised_size(head: bytes) -> int:
    """Return how many bytes the outermost element of an avi, webp, mkv or webm file claims; 0 if it
    does not say."""
    if head.startswith(b"RIFF"):
        size = int.from_bytes(head[4:8], "little")
        return size + 8 if size < _LIVE_RIFF else 0
    if not head.startswith(_EBML):
        return 0
    header_size, start = _read_ebml_size(head, len(_EBML))
    segment_size, start = _read_ebml_size(
        head, start + header_size + 4
    )  # behind the 4-byte id of the one Segment
    return start + segment_size if segment_size else 0


def _read_ebml_size(head: bytes, start: int) -> tuple[int, int]:
    """Read the EBML length at `start` as (length, where its content starts); length 0 if unknown or
    outside `head`.

    The number of leading zero bits of the first byte says how many bytes follow; all ones mean
    unknown (a live stream).

    >>> _read_ebml_size(bytes([0x84]), 0), _read_ebml_size(bytes([0x40, 0x02]), 0), _read_ebml_size(bytes([0xFF]), 0)
    ((4, 1), (2, 2), (0, 1))
    """
    if start >= len(head) or head[start] == 0:
        return 0, start
    num_bytes = 9 - head[start].bit_length()
    unknown = (1 << 7 * num_bytes) - 1
    size = int.from_bytes(head[start : start + num_bytes], "big") & unknown
    return (0 if size == unknown else size), start + num_bytes
