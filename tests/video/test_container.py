"""What the bytes of a file tell without a decoder."""

from pathlib import Path

import pytest
from PIL import Image

from tests.clips import SUFFIXES, grey_frames, write_clip
from tests.video.media import write_glass
from verl_videosearch.video.container import (
    is_cut_short,
    is_known,
    is_mp4,
    is_picture,
    name_other_kind,
    promised_size,
    read_head,
    read_webp_size,
    states_no_length,
)
from verl_videosearch.video.decode import FramePlan, VideoError, read_candidate_frames

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


@pytest.mark.parametrize("suffix", [".flv", ".ogv", ".wmv", ".png", ".avif"])
def test_every_cut_of_a_format_with_an_end_is_seen(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    if suffix in (".png", ".avif"):
        write_glass(path)
    else:
        write_clip(path, grey_frames(6), codec={".wmv": "wmv2"}.get(suffix))
    data = path.read_bytes()
    assert not is_cut_short(path)
    unseen = []
    for size in range(512, len(data) - 1, max(1, len(data) // 90)):
        path.write_bytes(data[:size])
        if not is_cut_short(path):
            unseen.append(size)
    assert unseen == []


def test_a_broadcast_wmv_states_no_length(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.wmv", grey_frames(6), codec="wmv2")
    data = bytearray(path.read_bytes())
    at = data.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    data[at + 88] |= 1
    assert promised_size(bytes(data)) == 0


@pytest.mark.parametrize(
    ("cut", "is_cut"), [(0, False), (1, True), (100, True), (187, True), (188, False)]
)
def test_a_ts_is_a_grid(tmp_path: Path, cut: int, is_cut: bool) -> None:
    path = write_clip(tmp_path / "clip.ts", grey_frames(6), codec="mpeg2video")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - cut])
    head = read_head(path)
    assert is_known(head) and states_no_length(head) and is_cut_short(path) == is_cut


OTHER_KINDS = {
    b"<!DOCTYPE html>\n<html><title>404</title>": "a web page",
    b"\xef\xbb\xbf  <HTML>": "a web page",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n": "git lfs pull",
    b"PK\x03\x04" + bytes(30): "a zip archive",
    b"\x1f\x8b\x08" + bytes(30): "a gzip file",
    bytes(257) + b"ustar" + bytes(200): "a tar archive",
    b'{"message": "Not Found"}': 'JSON text (\'{"message": "Not Found"}\')',
    b"[1, 2]": "JSON text",
    b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>": "an XML answer",
    b"#EXTM3U\nhttp://x/a.ts\n": "a playlist",
    b"ffconcat version 1.0\nfile other.mp4\n": "a playlist",
    b"\xff\xd8\xff\xe0" + bytes(30): "a JPEG picture",
    b"\x89PNG\r\n\x1a\n" + bytes(30): "a still PNG picture",
    b"only words, \xe2\x80\x9equoted\xe2\x80\x9c": "text",
    bytes(4096): "nothing but zeros",
}


@pytest.mark.parametrize("head", OTHER_KINDS)
def test_what_is_no_video_says_what_it_is(tmp_path: Path, head: bytes) -> None:
    found = name_other_kind(head)
    assert found is not None and OTHER_KINDS[head] in found
    path = tmp_path / "clip.mp4"
    path.write_bytes(head)
    with pytest.raises(VideoError, match="not_a_video: it is ") as caught:
        read_candidate_frames(path, FramePlan())
    assert OTHER_KINDS[head] in caught.value.cause


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".ts"])
def test_a_video_is_nothing_else(tmp_path: Path, suffix: str) -> None:
    path = write_clip(
        tmp_path / f"clip{suffix}", grey_frames(3), codec="mpeg2video" if suffix == ".ts" else None
    )
    assert name_other_kind(read_head(path)) is None


@pytest.mark.parametrize("is_lossless", [True, False])
@pytest.mark.parametrize("is_animated", [True, False])
def test_the_size_of_a_webp(tmp_path: Path, is_lossless: bool, is_animated: bool) -> None:
    images = [Image.fromarray(frame) for frame in grey_frames(2, 30, 50)]
    rest = images[1:] if is_animated else []
    path = tmp_path / "c.webp"
    images[0].save(path, save_all=is_animated, append_images=rest, lossless=is_lossless)
    assert read_webp_size(read_head(path)) == (30, 50)


@pytest.mark.parametrize("trailer", [b"\0", b"camera notes", b"\x7f\xff\xff\xffSEFT" + bytes(50)])
def test_trailer_behind_an_mp4_is_no_cut(tmp_path: Path, trailer: bytes) -> None:
    path = write_clip(tmp_path / "clip.mp4", grey_frames(3))
    path.write_bytes(path.read_bytes() + trailer)
    assert not is_cut_short(path)
