"""Which stream is the film, what its pixels mean, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from tests.clips import grey_frames, read_levels, write_clip
from tests.video.media import copy_packets, set_matrix, write_late_sound, write_streams
from verl_videosearch.video.decode import (
    FramePlan,
    VideoError,
    VideoErrorKind,
    probe_video,
    read_candidate_frames,
)

WHOLE = FramePlan(frames_per_video=1000)


def read(path: Path) -> np.ndarray:
    return read_candidate_frames(path, WHOLE).frames


def refuse(path: Path) -> VideoError:
    with pytest.raises(VideoError) as caught:
        read_candidate_frames(path, WHOLE, uid="pair-7")
    assert str(path) in str(caught.value) and "pair-7" in str(caught.value)
    return caught.value


FILM = ("libx264", "yuv420p", grey_frames(12))
STILL = ("mjpeg", "yuvj420p", grey_frames(1, 64, 64))
OTHER = ("libx264", "yuv420p", grey_frames(9, 112, 168))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("streams", [[STILL, FILM], [FILM, STILL]])
def test_a_preview_is_not_the_film(tmp_path: Path, suffix: str, streams: list) -> None:
    path = write_streams(tmp_path / f"c{suffix}", streams)
    assert read_levels(read(path)) == list(range(12))


@pytest.mark.parametrize("default", [0, 1])
def test_of_two_films_the_default_one_is_shown(tmp_path: Path, default: int) -> None:
    path = write_streams(tmp_path / "c.mkv", [FILM, OTHER], default=[default])
    assert len(read(path)) == (12, 9)[default]


@pytest.mark.parametrize("default", [[0, 1], []])
def test_two_films_of_equal_standing_are_refused(tmp_path: Path, default: list[int]) -> None:
    error = refuse(write_streams(tmp_path / "c.mkv", [FILM, OTHER], default=default))
    assert error.kind is VideoErrorKind.SEVERAL_FILMS
    assert "12 frames of 84x56" in error.cause and "9 frames of 168x112" in error.cause


def test_most_damage_is_noticed(tmp_path: Path) -> None:
    field = np.random.default_rng(0).normal(size=(112, 168, 3)).cumsum(0).cumsum(1)
    field = 255 * (field - field.min()) / np.ptp(field)
    source = np.stack([np.roll(field, 2 * shift, 1) for shift in range(60)]).astype(np.uint8)
    path = write_clip(tmp_path / "c.mp4", source, options={"g": "24"})
    data, refused, rng = path.read_bytes(), 0, np.random.default_rng(1)
    for _ in range(20):
        place = int(rng.integers(len(data) // 5, len(data) * 4 // 5))
        path.write_bytes(data[:place] + rng.bytes(4) + data[place + 4 :])
        try:
            read(path)
        except VideoError as error:
            assert error.kind in (VideoErrorKind.DAMAGED, VideoErrorKind.UNREADABLE)
            refused += 1
    assert refused >= 15


@pytest.mark.parametrize(("codec", "suffix"), [("mpeg4", ".avi"), ("libx264", ".mkv")])
def test_frames_before_the_first_keyframe_are_left_out(
    tmp_path: Path, codec: str, suffix: str
) -> None:
    options = {"g": "5", "bf": "0"}
    whole = write_clip(tmp_path / f"whole{suffix}", grey_frames(12), codec=codec, options=options)
    cut = copy_packets(whole, tmp_path / f"cut{suffix}", lambda number, packet: number >= 2)
    found = read_candidate_frames(cut, WHOLE)
    first = 12 - len(found.frames)
    assert 5 <= first < 12 and np.array_equal(found.frames, read(whole)[first:])
    assert any("before its first keyframe" in note for note in found.notes)


def test_a_film_without_any_keyframe_is_damaged(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.avi", grey_frames(12), options={"g": "100"})
    cut = copy_packets(whole, tmp_path / "cut.avi", lambda number, packet: number >= 2)
    assert refuse(cut).kind is VideoErrorKind.DAMAGED


def test_a_codec_that_nobody_decodes(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "c.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    assert refuse(path).kind is VideoErrorKind.NO_DECODER


def test_sound_that_starts_late(tmp_path: Path) -> None:
    assert len(read(write_late_sound(tmp_path / "c.flv"))) == 130


@pytest.mark.parametrize("size", [2**63, 2**63 + 7, 2**64 - 1])
def test_a_box_longer_than_any_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "c.mp4"
    head = b"\0\0\0\x10ftypisom\0\0\2\0" + b"\0\0\0\1mdat" + size.to_bytes(8, "big")
    path.write_bytes(head + bytes(8))
    assert refuse(path).kind is VideoErrorKind.TRUNCATED


QUARTERS = {  # where the white upper left quarter is shown: (is it down, is it right)
    (1, 0, 0, 1): (0, 0),
    (-1, 0, 0, 1): (0, 1),
    (1, 0, 0, -1): (1, 0),
    (-1, 0, 0, -1): (1, 1),
    (0, 1, -1, 0): (0, 1),
    (0, -1, 1, 0): (1, 0),
    (0, 1, 1, 0): (0, 0),
    (0, -1, -1, 0): (1, 1),
}


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("matrix", QUARTERS)
def test_all_eight_orientations(tmp_path: Path, matrix: tuple, scale: int) -> None:
    frames = grey_frames(3)
    frames[:, :28, 42:] = 128  # the upper right quarter: turns and mirrors differ
    path = write_clip(tmp_path / "c.mp4", frames)
    shown = read(set_matrix(path, tuple(scale * number for number in matrix)))[0, ..., 0]
    height, width = shown.shape
    assert (height, width) == ((56, 84) if matrix[0] else (84, 56))

    def level_at(down: int, right: int) -> int:
        return int(shown[height * (1 + 2 * down) // 4, width * (1 + 2 * right) // 4])

    a, b, c, d = matrix
    down, right = QUARTERS[matrix]
    assert level_at(down, right) > 240
    # a step to the right in the file is a step by (a, b) on the screen
    assert level_at(down + b, right + a) == pytest.approx(128, abs=4)


@pytest.mark.parametrize("matrix", [(0.7071, 0.7071, -0.7071, 0.7071), (1, 0.3, 0, 1)])
def test_an_odd_angle_is_refused(tmp_path: Path, matrix: tuple) -> None:
    path = set_matrix(write_clip(tmp_path / "c.mp4"), matrix)
    assert refuse(path).kind is VideoErrorKind.UNSUPPORTED


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".webp", ".avi"])
def test_the_last_frame_has_a_duration(tmp_path: Path, suffix: str) -> None:
    info = probe_video(write_clip(tmp_path / f"c{suffix}", grey_frames(10)))
    assert info.duration_s == pytest.approx(0.4, abs=0.002)


def test_a_frozen_end_counts(tmp_path: Path) -> None:
    from PIL import Image

    images = [Image.fromarray(frame) for frame in grey_frames(6)]
    path = tmp_path / "c.gif"
    durations = [200] * 5 + [2000]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations)
    assert probe_video(path).duration_s == pytest.approx(3.0)


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("is_inserted", [False, True])
def test_a_damaged_page_of_an_ogg_is_noticed(
    tmp_path: Path, place: float, is_inserted: bool
) -> None:
    path = write_clip(tmp_path / "c.ogv", grey_frames(24))
    assert len(read(path)) == 24
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    content[at : at + (not is_inserted)] = bytes([content[at] ^ 0x55])
    path.write_bytes(content)
    assert refuse(path).kind is VideoErrorKind.DAMAGED  # FFmpeg leaves the page out without a word
