"""Sizes, grounds and light: what a decoded frame becomes."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.clips import write_clip
from tests.video.media import write_glass, write_hdr
from verl_videosearch.video.decode import FramePlan, read_candidate_frames
from verl_videosearch.video.pixels import FrameConverter, to_sdr

TRANSPARENT = {
    "gif": (".gif", "", ""),
    "webp": (".webp", "", ""),
    "apng": (".png", "", ""),
    "avif": (".avif", "", ""),
    "vp9": (".webm", "libvpx-vp9", "yuva420p"),
    "vp8": (".webm", "libvpx", "yuva420p"),
    "png in mov": (".mov", "png", "rgba"),
    "prores": (".mov", "prores_ks", "yuva444p10le"),
    "animation": (".mov", "qtrle", "argb"),
    "ffv1": (".mkv", "ffv1", "yuva420p"),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_one_ground_for_every_format(tmp_path: Path, name: str) -> None:
    suffix, codec, pixel_format = TRANSPARENT[name]
    path = write_glass(tmp_path / f"clip{suffix}", codec, pixel_format)
    frames = read_candidate_frames(path, FramePlan()).frames
    assert frames.shape == (4, 56, 56, 3)
    red, unseen = frames[:, 20:, 8:20].mean((0, 1, 2)), frames[:, 20:, 36:].mean((0, 1, 2))
    assert red == pytest.approx([255, 0, 0], abs=6)
    assert unseen == pytest.approx([0, 0, 0], abs=6)


@pytest.mark.parametrize(
    ("transfer", "levels", "expected"),
    [
        ("smpte2084", [0, 148, 104, 255], [0, 249, 123, 255]),  # 148 of 255: 203 nits, white
        ("arib-std-b67", [0, 191, 255], [0, 249, 255]),  # 75 %: white of HLG
    ],
)
def test_hdr_is_shown_as_bright_as_sdr(
    tmp_path: Path, transfer: str, levels: list[int], expected: list[int]
) -> None:
    frames = read_candidate_frames(
        write_hdr(tmp_path / "c.mp4", levels, transfer), FramePlan(frames_per_video=9)
    ).frames
    found = [int(value) for value in frames[:, 28, 28].mean(-1)]
    assert found == pytest.approx(expected, abs=4)


def test_sdr_is_not_touched(tmp_path: Path) -> None:
    path = write_hdr(tmp_path / "c.mp4", [0, 104, 148, 255], "bt709")
    frames = read_candidate_frames(path, FramePlan(frames_per_video=9)).frames
    assert [int(value) for value in frames[:, 28, 28, 0]] == pytest.approx(
        [0, 104, 148, 255], abs=2
    )


def test_grey_light_stays_grey_and_grows() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    for transfer in (16, 18):
        shown = to_sdr(ramp, transfer).astype(int)
        assert np.ptp(shown, axis=2).max() <= 2
        assert (np.diff(shown[0, :, 0]) >= 0).all()


def test_resizing_is_bicubic_and_flat_stays_flat() -> None:
    source = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(source).resize((640, 360), Image.Resampling.BICUBIC))
    found = FrameConverter().resize(smooth, 224, 392).astype(int)
    expected = np.asarray(Image.fromarray(smooth).resize((392, 224), Image.Resampling.BICUBIC))
    assert np.abs(found - expected).mean() < 1.5
    for level in (0, 7, 128, 254, 255):
        flat = np.full((90, 160, 3), level, np.uint8)
        assert (FrameConverter().resize(flat, 56, 84) == level).all()


def test_a_frame_of_the_right_size_is_not_touched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (56, 84, 3), dtype=np.uint8)
    assert FrameConverter().resize(pixels, 56, 84) is pixels
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    assert np.array_equal(FrameConverter().convert(frame, 56, 84), pixels)


def test_equal_pixels_at_equal_sizes_whatever_else_was_asked(tmp_path: Path) -> None:
    """The same frame at the same size is the same bytes under every plan: references rely on
    it."""
    frames = np.random.default_rng(0).integers(0, 256, (9, 112, 168, 3), dtype=np.uint8)
    path = write_clip(tmp_path / "c.mp4", frames)
    whole = read_candidate_frames(path, FramePlan(9, 56 * 84)).frames
    some = read_candidate_frames(path, FramePlan(9, 56 * 84, shown=(7, 2))).frames
    assert np.array_equal(some, whole[[7, 2]])
