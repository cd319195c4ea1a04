"""What the bytes of a file tell without a decoder."""

from pathlib import Path

import pytest

from tests.clips import SUFFIXES, grey_frames, write_clip
from verl_videosearch.video.container import (
    is_cut_short,
    is_known,
    is_mp4,
    is_picture,
    promised_size,
    read_head,
)

EBML_HEADER = b"\x1a\x45\xdf\xa3\x82\x42\x86"
SEGMENT = b"\x18\x53\x80\x67"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"", 0),
        (b"RIFF", 8),
        (b"RIFF\x04\x01\x00\x00AVI ", 268),
        (b"RIFF\xff\xff\xff\xffAVI ", 0),
        (EBML_HEADER + SEGMENT + b"\x8a", 22),
        (EBML_HEADER + SEGMENT + b"\x01\x00\x00\x00\x00\x00\x01\x00", 275),
        (EBML_HEADER + SEGMENT + b"\x01" + b"\xff" * 7, 0),
        (EBML_HEADER + SEGMENT + b"\xff", 0),
        (EBML_HEADER + SEGMENT, 0),
        (b"\x1a\x45\xdf\xa3\x00", 0),
        (b"\x1a\x45\xdf\xa3", 0),
        (b"GIF89a", 0),
    ],
)
def test_promised_size(head: bytes, expected: int) -> None:
    assert promised_size(head) == expected


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_whole_file_is_known_and_not_cut(tmp_path: Path, suffix: str) -> None:
    path = write_clip(tmp_path / f"clip{suffix}", grey_frames(3))
    assert not is_cut_short(path)
    head = read_head(path)
    assert is_known(head)
    assert is_picture(head) == (suffix == ".webp") and is_mp4(head) == (suffix in (".mp4", ".mov"))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".webp"])
def test_every_cut_is_seen(tmp_path: Path, suffix: str) -> None:
    data = write_clip(tmp_path / f"clip{suffix}", grey_frames(6)).read_bytes()
    path = tmp_path / "cut"
    boundaries = {
        data.index(box) - 4
        for box in (b"free", b"wide", b"mdat", b"moov")
        if is_mp4(data) and box in data
    }
    unseen = []
    for size in range(64, len(data), 7):
        path.write_bytes(data[:size])
        if not is_cut_short(path) and not any(
            boundary <= size < boundary + 8 for boundary in boundaries
        ):
            unseen.append(size)
    allowed = 3 if suffix == ".gif" else 0  # a pixel byte can look like the end mark
    assert len(unseen) <= allowed


@pytest.mark.parametrize("trailer", [b"\0", b"camera notes", b"\x7f\xff\xff\xffSEFT" + bytes(50)])
def test_trailer_behind_an_mp4_is_no_cut(tmp_path: Path, trailer: bytes) -> None:
    path = write_clip(tmp_path / "clip.mp4", grey_frames(3))
    path.write_bytes(path.read_bytes() + trailer)
    assert not is_cut_short(path)
