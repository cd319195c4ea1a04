"""Reading real files of every kind, whole and broken."""

import os
import pickle
import time
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clips import FPS, SUFFIXES, grey_frames, read_levels, write_clip, write_sound
from verl_videosearch.video import decode as video
from verl_videosearch.video.decode import (
    FramePlan,
    VideoError,
    VideoErrorKind,
    check_file,
    fit_size,
    probe_video,
    read_candidate_frames,
    times_from_stamps,
)


def kind_of_failure(path: Path, **limits: float) -> VideoErrorKind:
    with pytest.raises(VideoError) as caught:
        read_candidate_frames(path, FramePlan(), uid="pair-7", **limits)
    assert str(path) in str(caught.value) and "pair-7" in str(caught.value)
    return caught.value.kind


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_wanted_frames(tmp_path: Path, suffix: str) -> None:
    path = write_clip(tmp_path / f"clip{suffix}", grey_frames(13))
    clip = read_candidate_frames(path, FramePlan(frames_per_video=4))
    assert read_levels(clip.frames) == [0, 3, 6, 9]
    assert clip.frames.dtype == np.uint8 and clip.frames.shape == (4, 56, 84, 3)
    assert clip.times_s == pytest.approx([0.0, 3 / FPS, 6 / FPS, 9 / FPS], abs=0.0015)
    assert (clip.num_decoded_frames, clip.source_height, clip.source_width) == (13, 56, 84)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_probe_counts_decoded_frames(tmp_path: Path, suffix: str) -> None:
    info = probe_video(write_clip(tmp_path / f"clip{suffix}", grey_frames(9)))
    assert (info.num_frames, info.height, info.width, len(info.times_s)) == (9, 56, 84, 9)


def test_frames_are_exact(tmp_path: Path) -> None:
    source = np.random.default_rng(0).integers(0, 256, (40, 56, 84, 3), dtype=np.uint8)
    options = {"qp": "0", "g": "12", "bf": "3"}
    path = write_clip(
        tmp_path / "c.mp4", source, codec="libx264rgb", pixel_format="rgb24", options=options
    )
    clip = read_candidate_frames(path, FramePlan(frames_per_video=7))
    assert np.array_equal(clip.frames, source[[0, 5, 11, 17, 22, 28, 34]])


@pytest.mark.parametrize("num_frames", [1, 2, 3])
@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_short_clip_gives_each_frame_once(tmp_path: Path, suffix: str, num_frames: int) -> None:
    clip = read_candidate_frames(
        write_clip(tmp_path / f"c{suffix}", grey_frames(num_frames)), FramePlan()
    )
    assert read_levels(clip.frames) == list(range(num_frames))


def test_uneven_times_come_from_the_stamps(tmp_path: Path) -> None:
    stamps_ms = [500, 540, 900, 901, 2000]
    clip = read_candidate_frames(
        write_clip(tmp_path / "c.mkv", grey_frames(5), stamps_ms=stamps_ms), FramePlan()
    )
    assert clip.times_s == pytest.approx([0, 0.04, 0.4, 0.401, 1.5])


def test_wrong_durations_do_not_matter(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "c.mp4")
    honest, data = read_candidate_frames(path, FramePlan()), bytearray(path.read_bytes())
    for box, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
        at = data.index(box) + offset
        data[at : at + 4] = b"\x7f\xff\xff\xff"
    path.write_bytes(data)
    lying = read_candidate_frames(path, FramePlan())
    assert np.array_equal(lying.frames, honest.frames) and np.array_equal(
        lying.times_s, honest.times_s
    )


@pytest.mark.parametrize("predicted", [1, 5, 11, 13, 500])
def test_wrong_prediction_is_corrected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predicted: int
) -> None:
    path = write_clip(tmp_path / "c.mp4", grey_frames(12))
    monkeypatch.setattr(video, "_survey", lambda reading: video.Survey(predicted, FPS, 0))
    assert read_levels(read_candidate_frames(path, FramePlan(frames_per_video=4)).frames) == [
        0,
        3,
        6,
        9,
    ]


WHITE_CORNER = {
    0: (0, 0),
    90: (1, 0),
    180: (1, 1),
    -90: (0, 1),
}  # a quarter turn counter-clockwise takes it down


@pytest.mark.parametrize("rotation", WHITE_CORNER)
def test_rotated_clip_stands_upright(tmp_path: Path, rotation: int) -> None:
    clip = read_candidate_frames(write_clip(tmp_path / "c.mp4", rotation=rotation), FramePlan())
    assert clip.frames.shape[1:3] == ((84, 56) if rotation in (90, -90) else (56, 84))
    assert (clip.source_height, clip.source_width) == clip.frames.shape[1:3]
    frame, white = clip.frames[3], WHITE_CORNER[rotation]
    corners = {
        (down, right): frame[-5 if down else 4, -5 if right else 4, 0]
        for down in (0, 1)
        for right in (0, 1)
    }
    assert [place for place, level in corners.items() if level > 200] == [white]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".webp"])
@pytest.mark.parametrize("share", [0.4, 0.7, 0.97])
def test_cut_file_is_truncated(tmp_path: Path, suffix: str, share: float) -> None:
    path = write_clip(tmp_path / f"clip{suffix}", noise(30))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert kind_of_failure(path) is VideoErrorKind.TRUNCATED


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_cut_mp4_with_its_index_in_front_is_truncated(tmp_path: Path, share: float) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(path, noise(30))
    fast = tmp_path / "fast.mp4"
    with (
        av.open(str(path)) as source,
        av.open(str(fast), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    assert len(read_candidate_frames(fast, FramePlan()).frames) == 30
    data = fast.read_bytes()
    fast.write_bytes(data[: int(len(data) * share)])
    assert kind_of_failure(fast) is VideoErrorKind.TRUNCATED


def noise(num_frames: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (num_frames, 56, 84, 3), dtype=np.uint8)


def make_nothing(path: Path) -> None:
    pass


def make_huge_gif(path: Path) -> None:
    data = bytearray(write_clip(path.with_suffix(".gif")).read_bytes())
    data[6:10] = (9000).to_bytes(2, "little") * 2
    path.write_bytes(data)


def make_huge_webp(path: Path) -> None:
    data = bytearray(write_clip(path.with_suffix(".webp")).read_bytes())
    data[24:30] = (16000).to_bytes(3, "little") * 2
    path.write_bytes(data)


def make_damaged_mp4(path: Path) -> None:
    data = bytearray(write_clip(path, noise(30)).read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    path.write_bytes(data)


BROKEN_FILES = {
    "missing": (make_nothing, VideoErrorKind.MISSING),
    "empty": (lambda path: path.touch(), VideoErrorKind.EMPTY),
    "text": (
        lambda path: path.write_text("not a video at all, only words\n" * 50),
        VideoErrorKind.NOT_A_VIDEO,
    ),
    "one byte": (lambda path: path.write_bytes(b"\0"), VideoErrorKind.NOT_A_VIDEO),
    "random bytes": (lambda path: path.write_bytes(os.urandom(50_000)), VideoErrorKind.NOT_A_VIDEO),
    "playlist": (
        lambda path: path.write_text("ffconcat version 1.0\nfile other.mp4\n"),
        VideoErrorKind.NOT_A_VIDEO,
    ),
    "folder": (lambda path: path.mkdir(), VideoErrorKind.NOT_A_VIDEO),
    "pipe": (lambda path: os.mkfifo(path), VideoErrorKind.NOT_A_VIDEO),
    "below a file": (
        lambda path: path.parent.rmdir() or path.parent.touch(),
        VideoErrorKind.MISSING,
    ),
    "sound": (write_sound, VideoErrorKind.NO_FRAMES),
    "huge gif": (make_huge_gif, VideoErrorKind.TOO_LARGE),
    "huge webp": (make_huge_webp, VideoErrorKind.TOO_LARGE),
    "zeros inside": (make_damaged_mp4, VideoErrorKind.UNREADABLE),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_broken_file_says_what_is_wrong(tmp_path: Path, name: str) -> None:
    make, kind = BROKEN_FILES[name]
    path = tmp_path / "folder" / "clip.mp4"
    path.parent.mkdir()
    make(path)
    assert kind_of_failure(path) is kind


def test_slow_decode_times_out(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "c.mp4", np.zeros((60, 360, 640, 3), np.uint8))
    assert kind_of_failure(path, timeout_s=0.01) is VideoErrorKind.TIMEOUT


def test_decoder_that_hangs_does_not_hold_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "_survey", lambda reading: time.sleep(5))
    start = time.monotonic()
    assert kind_of_failure(write_clip(tmp_path / "c.mp4"), timeout_s=0.1) is VideoErrorKind.TIMEOUT
    assert time.monotonic() - start < 2


def test_error_crosses_processes() -> None:
    error = VideoError(VideoErrorKind.EMPTY, "a.mp4", "the file has 0 bytes", "pair-7")
    copy = pickle.loads(pickle.dumps(error))
    assert (
        str(copy)
        == str(error)
        == "video a.mp4 of sample pair-7: empty: the file has 0 bytes; fetch the file again"
    )
    assert copy.kind is VideoErrorKind.EMPTY


def test_check_file_accepts_a_file(tmp_path: Path) -> None:
    check_file(write_clip(tmp_path / "c.mp4"))


def test_frames_are_shrunk_to_the_budget(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "c.mp4", grey_frames(3, height=360, width=640))
    clip = read_candidate_frames(path, FramePlan(max_pixels=100 * 28 * 28))
    assert clip.frames.shape == (3, 196, 364, 3) and read_levels(clip.frames) == [0, 1, 2]
    assert (clip.source_height, clip.source_width) == (360, 640)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (1, 1, (28, 28)),
        (27, 29, (28, 28)),
        (144, 176, (140, 168)),
        (240, 320, (252, 336)),
        (350, 350, (336, 336)),
        (480, 832, (476, 812)),
        (720, 1280, (476, 840)),
        (1080, 1920, (476, 840)),
        (1920, 1080, (840, 476)),
        (4, 100_000, (28, 14336)),
    ],
)
def test_fit_size(height: int, width: int, expected: tuple[int, int]) -> None:
    assert fit_size(height, width, 512 * 28 * 28, 28) == expected


@given(
    height=st.integers(1, 10_000),
    width=st.integers(1, 10_000),
    num_patches=st.integers(1, 2000),
    patch_multiple=st.sampled_from([1, 14, 28, 32]),
)
def test_fitted_size_is_legal(
    height: int, width: int, num_patches: int, patch_multiple: int
) -> None:
    max_pixels = num_patches * patch_multiple**2
    fitted = fit_size(height, width, max_pixels, patch_multiple)
    assert all(side >= patch_multiple and side % patch_multiple == 0 for side in fitted)
    assert fitted[0] * fitted[1] <= max_pixels
    assert all(new < old + patch_multiple for new, old in zip(fitted, (height, width), strict=True))
    assert fit_size(width, height, max_pixels, patch_multiple) == fitted[::-1]


@given(height=st.integers(56, 4000), width=st.integers(56, 4000))
def test_fitting_twice_changes_nothing(height: int, width: int) -> None:
    fitted = fit_size(height, width, 512 * 28 * 28, 28)
    assert fit_size(*fitted, 512 * 28 * 28, 28) == fitted


@pytest.mark.parametrize(
    ("stamps_s", "fps", "expected"),
    [
        ([2.0, 2.5, 2.5, 4.0], 10.0, [0.0, 0.5, 0.5, 2.0]),
        ([0.0, 0.2, 0.1], 10.0, [0.0, 0.1, 0.2]),
        ([0.0, None, 0.4], 10.0, [0.0, 0.1, 0.2]),
        ([0.0, float("nan"), 0.4], 10.0, [0.0, 0.1, 0.2]),
        ([1.0, 1.0, 1.0], 10.0, [0.0, 0.1, 0.2]),
        ([None, None], None, [0.0, 0.04]),
        ([None, None], 90_000.0, [0.0, 0.04]),
        ([3.0], None, [0.0]),
        ([None], 10.0, [0.0]),
    ],
)
def test_times_from_stamps(
    stamps_s: list[float | None], fps: float | None, expected: list[float]
) -> None:
    assert times_from_stamps(stamps_s, fps).tolist() == pytest.approx(expected)


def test_plan_refuses_all_bad_values_at_once() -> None:
    with pytest.raises(ValueError, match=r"frames_per_video .* got 0; patch_multiple .* got 2\.5"):
        FramePlan(frames_per_video=0, patch_multiple=2.5)
    with pytest.raises(ValueError, match="one patch"):
        FramePlan(max_pixels=783)
    with pytest.raises(ValueError, match="got True"):
        FramePlan(frames_per_video=True)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_timeout_must_be_positive(tmp_path: Path, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        read_candidate_frames(tmp_path, FramePlan(), timeout_s=timeout_s)
