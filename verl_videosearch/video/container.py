"""What the bytes of a file tell before any decoder runs: its family, whether it was cut short, and
what it is if it is no video at all.

The one idea: most containers say how long they are or mark their end, so a broken download is found
by comparing that with the file, not by watching a decoder stop early (FFmpeg decodes the half of a
cut mkv, avi or gif without a word).

>>> promised_size(b"RIFF" + (16).to_bytes(4, "little") + b"AVI ")
24
>>> name_other_kind(b"<!DOCTYPE html><html>404 Not Found</html>")
"a web page ('<!DOCTYPE html><html>404 Not Found</html>')"

Covers: the length of mp4, mov, avi, webp, mkv, webm, wmv and flv, the end mark of gif, png and
ogg, the packet grid of ts. Does not cover: mpeg, and a ts cut between two packets (they state no
length: `states_no_length` says so), an mp4 or mkv made of pieces that is cut exactly between two of
them.
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

_EBML = b"\x1a\x45\xdf\xa3"
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_PNG = b"\x89PNG\r\n\x1a\n"
_MPEG_PACK, _MPEG_SEQUENCE, _MPEG_END = b"\0\0\1\xba", b"\0\0\1\xb3", b"\0\0\1\xb9"
_FAMILIES = (_EBML, b"RIFF", b"OggS", b"GIF8", b"FLV", _MPEG_PACK, _MPEG_SEQUENCE, _ASF)
_MP4_BOXES = frozenset(
    b"ftyp moov mdat free skip wide moof mfra sidx styp uuid pnot udta meta".split()
)
_AVIF_BRANDS = (b"avif", b"avis")
_LIVE_RIFF = 0xFFFFFFF0  # a writer that cannot seek back leaves a length of (almost) all ones
_NUM_HEAD_BYTES = 4096
_NUM_TAIL_BYTES = 1 << 17  # an ogg page has at most 65,307 bytes
_TS_GRIDS = ((188, 0), (192, 4))  # bytes per packet, place of its sync byte: ts, and m2ts
_OTHER_KINDS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"%PDF", "a PDF document"),
    (b"PAR1", "a parquet table"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (_PNG, "a still PNG picture"),
    (b"#EXTM3U", "a playlist, which names other files"),
    (b"ffconcat", "a playlist, which names other files"),
    (b"\x7fELF", "a program"),
)


def read_head(path: Path) -> bytes:
    """Read the bytes that the functions of this module look at; raises `OSError`."""
    with path.open("rb") as file:
        return file.read(_NUM_HEAD_BYTES)


def is_picture(head: bytes) -> bool:
    """Say whether Pillow reads this file: WebP and AVIF, still or animated, and animated PNG."""
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_animated_png = head.startswith(_PNG) and b"acTL" in head
    return is_webp or is_avif(head) or is_animated_png


def is_avif(head: bytes) -> bool:
    """Say whether a file of the mp4 family holds AVIF pictures."""
    size = int.from_bytes(head[:4], "big")
    brands = head[8 : min(size, len(head))]
    return head[4:8] == b"ftyp" and any(brand in brands for brand in _AVIF_BRANDS)


def is_mp4(head: bytes) -> bool:
    """Say whether a file is of the mp4 and mov family."""
    return head[4:8] in _MP4_BOXES


def is_transport_stream(head: bytes) -> bool:
    """Say whether a file is a grid of MPEG-TS packets."""
    return _find_ts_grid(head) is not None


def is_known(head: bytes) -> bool:
    """Say whether a file starts like a video container, so that a decoder's refusal means
    damage."""
    return (
        is_mp4(head) or head.startswith(_FAMILIES) or is_picture(head) or is_transport_stream(head)
    )


def name_other_kind(head: bytes) -> str | None:
    """Say what a file is that is certainly no video; None if it may be one.

    >>> name_other_kind(b'{"error": "expired"}')
    'JSON text (\\'{"error": "expired"}\\')'
    >>> name_other_kind(bytes(100))
    'nothing but zeros: a download that was never filled'
    """
    if is_known(head):
        return None
    for start, name in _OTHER_KINDS:
        if head.startswith(start):
            return name
    if head[257:262] == b"ustar":
        return "a tar archive"
    if len(head) >= 16 and not any(head):
        return "nothing but zeros: a download that was never filled"
    return _name_text(head)


def _name_text(head: bytes) -> str | None:
    try:
        text = head.decode("utf-8-sig", "strict" if len(head) < _NUM_HEAD_BYTES else "ignore")
    except UnicodeDecodeError:
        return None
    if any(ord(sign) < 32 and sign not in "\t\n\r\f" for sign in text) or not text.strip():
        return None
    words = " ".join(text.split())
    shown = repr(words if len(words) <= 60 else words[:57] + "...")
    if re.match(r"<(!doctype html|html|head|body|!--)", words, re.IGNORECASE):
        return f"a web page ({shown})"
    if words.startswith("<?xml") or re.match(r"<\w+[ >]", words):
        return f"an XML answer or page ({shown})"
    return f"JSON text ({shown})" if words[0] in "[{" else f"text ({shown})"


def is_cut_short(path: Path) -> bool:
    """Say whether a file visibly ends before the end that its container announces; raises
    `OSError`."""
    with path.open("rb") as file:
        head, size = file.read(_NUM_HEAD_BYTES), file.seek(0, 2)
        file.seek(max(0, size - _NUM_TAIL_BYTES))
        tail = file.read()
        if is_mp4(head):
            return size < _find_mp4_end(file, size)
        if head.startswith(b"FLV") and _is_flv_cut(file, size):
            return True
    return _lacks_end_mark(head, tail) or size < promised_size(head) or _is_off_grid(head, size)


def states_no_length(head: bytes) -> bool:
    """Say whether a file of this family can be cut without a trace."""
    return is_transport_stream(head) or head.startswith((_MPEG_PACK, _MPEG_SEQUENCE))


def _lacks_end_mark(head: bytes, tail: bytes) -> bool:
    if head.startswith(b"GIF8"):
        return not tail.rstrip(b"\0").endswith(b";")  # some writers pad with zeros
    if head.startswith(_PNG):
        return b"IEND" not in tail[-64:]
    if head.startswith(b"OggS"):
        return not _ends_with_last_ogg_page(tail)
    return False


def _ends_with_last_ogg_page(tail: bytes) -> bool:
    """True if the last page of an ogg file is whole and marked as the end of its stream."""
    start = tail.rfind(b"OggS")
    header = tail[start : start + 27]
    if start < 0 or len(header) < 27:
        return False
    lengths = tail[start + 27 : start + 27 + header[26]]
    end = start + 27 + header[26] + sum(lengths)
    return len(lengths) == header[26] and end <= len(tail) and bool(header[5] & 4)


def has_damaged_page(path: Path) -> bool:
    """Say whether a page of an ogg file is not what was written, by the checksum that each has;
    FFmpeg leaves such pages out without a word. Raises `OSError`."""
    with path.open("rb") as file:
        is_over = False
        while header := file.read(27):
            if len(header) < 27 or not header.startswith(b"OggS"):
                return not is_over  # what comes behind the end of the last stream is ignored
            lengths = file.read(header[26])
            page = header[:22] + bytes(4) + header[26:] + lengths + file.read(sum(lengths))
            if _sum_ogg_page(page) != int.from_bytes(header[22:26], "little"):
                return True
            is_over = bool(header[5] & 4)
    return False


_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _sum_ogg_page(page: bytes) -> int:
    """Return ogg's checksum: CRC-32 with the bits of each byte, and of the sum, the other way round
    than zlib's, from zero and not inverted."""
    crc = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{crc:032b}"[::-1], 2)


def _find_ts_grid(head: bytes) -> int | None:
    """Return the bytes per packet of an MPEG-TS file."""
    for size, sync in _TS_GRIDS:
        places = range(sync, min(len(head), 5 * size), size)
        if len(places) >= 2 and all(head[place] == 0x47 for place in places):
            return size
    return None


def _is_off_grid(head: bytes, size: int) -> bool:
    grid = _find_ts_grid(head)
    return grid is not None and size % grid != 0


def _find_mp4_end(file: BinaryIO, file_size: int) -> int:
    """Return where the last known box of an mp4 ends by its own length; cameras add trailers of
    their own."""
    end = 0
    while end < file_size:
        file.seek(end)
        box = file.read(16)
        size = int.from_bytes(box[:4], "big")
        if size == 1:  # the real length is 64 bits wide and follows the type
            size = int.from_bytes(box[8:16], "big")
        if size < 8 or box[4:8] not in _MP4_BOXES:  # 0: to the end of the file, whatever that is
            return end
        end += size
    return end


def _is_flv_cut(file: BinaryIO, file_size: int) -> bool:
    """Follow the tags of an flv, each of which states its length; what comes after the last is
    ignored."""
    file.seek(5)
    end = int.from_bytes(file.read(4), "big") + 4  # the header, and the length of no tag before
    while end < file_size:
        file.seek(end)
        tag = file.read(4)
        if len(tag) < 4:
            return True
        if tag[0] & 0x1F not in (8, 9, 18):  # sound, picture, notes
            return False
        end += 11 + int.from_bytes(tag[1:4], "big") + 4
    file.seek(0)
    notes = file.read(_NUM_HEAD_BYTES)
    at = notes.find(b"filesize\0")
    promised = struct.unpack(">d", notes[at + 9 : at + 17])[0] if 0 < at <= len(notes) - 17 else 0
    return end > file_size or promised > file_size


def promised_size(head: bytes) -> int:
    """Return how many bytes the outermost element of an avi, webp, mkv, webm or wmv file claims; 0
    if it does not say."""
    if head.startswith(b"RIFF"):
        size = int.from_bytes(head[4:8], "little")
        return size + 8 if size < _LIVE_RIFF else 0
    if head.startswith(_ASF):
        return _read_asf_size(head)
    if not head.startswith(_EBML):
        return 0
    header_size, start = _read_ebml_size(head, len(_EBML))
    # behind the 4-byte id of the one Segment
    segment_size, start = _read_ebml_size(head, start + header_size + 4)
    return start + segment_size if segment_size else 0


def _read_asf_size(head: bytes) -> int:
    """Read the file's length from the file properties of an asf; 0 for a broadcast (ASF
    specification, 3.2)."""
    at = head.find(_ASF_FILE_PROPERTIES)
    properties = head[at : at + 104]
    if at < 0 or len(properties) < 104 or properties[88] & 1:
        return 0
    return int.from_bytes(properties[40:48], "little")


def _read_ebml_size(head: bytes, start: int) -> tuple[int, int]:
    """Read the EBML length at `start` as (length, where its content starts); length 0 if unknown or
    outside `head`.

    The number of leading zero bits of the first byte says how many bytes follow; all ones mean
    unknown (a live stream).

    >>> _read_ebml_size(bytes([0x84]), 0), _read_ebml_size(bytes([0x40, 0x02]), 0)
    ((4, 1), (2, 2))
    >>> _read_ebml_size(bytes([0xFF]), 0)
    (0, 1)
    """
    if start >= len(head) or head[start] == 0:
        return 0, start
    num_bytes = 9 - head[start].bit_length()
    unknown = (1 << 7 * num_bytes) - 1
    size = int.from_bytes(head[start : start + num_bytes], "big") & unknown
    return (0 if size == unknown else size), start + num_bytes


def read_webp_size(head: bytes) -> tuple[int, int]:
    """Return the (height, width) of a WebP file's canvas; (0, 0) if it is none (RFC 9649).

    >>> read_webp_size(b"RIFF....WEBPVP8X" + bytes(8) + (99).to_bytes(3, "little") + bytes(3))
    (1, 100)
    """
    if head[8:12] != b"WEBP" or len(head) < 30:
        return 0, 0
    if head[12:16] == b"VP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return height, width
