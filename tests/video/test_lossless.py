"""Files give back exactly what went in and always have the same bytes; a lossy codec would give
defects away."""

from pathlib import Path

import numpy as np
import pytest
from verl_videosearch.data_prep.synthetic.defects import Defect, apply_defect

from tests.clips import write_clip
from verl_videosearch.video.decode import FramePlan, read_candidate_frames
from verl_videosearch.video.lossless import has_frames, store_lossless, write_lossless


def noise_frames(num_frames: int = 16, height: int = 56, width: int = 84) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(1, 28, 28), (16, 56, 56), (5, 252, 448), (3, 140, 168)])
def test_round_trip_is_exact(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    frames = noise_frames(*shape)
    write_lossless(tmp_path / "a.mkv", frames)
    video = read_candidate_frames(tmp_path / "a.mkv", FramePlan(shape[0], shape[1] * shape[2]))
    assert np.array_equal(video.frames, frames)


def test_same_frames_give_the_same_bytes_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_lossless(tmp_path / name / "video.mkv", noise_frames())
    assert (tmp_path / "a/video.mkv").read_bytes() == (tmp_path / "b/video.mkv").read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["video.mkv"]


def test_store_writes_only_what_is_not_there(tmp_path: Path) -> None:
    path, frames = tmp_path / "a.mkv", noise_frames()
    assert store_lossless(path, frames) is True
    assert store_lossless(path, frames) is False
    path.write_bytes(path.read_bytes()[:-100])
    assert store_lossless(path, frames) is True  # half a file
    frames[3, 2, 1, 0] ^= 1
    assert store_lossless(path, frames) is True  # one bit of another data set
    assert has_frames(path, frames)


@pytest.mark.parametrize(("suffix", "is_leaking"), [(".mp4", True), (".mkv", False)])
def test_why_not_h264(tmp_path: Path, suffix: str, is_leaking: bool) -> None:
    """A defect of two frames changes frames four steps away in H.264, and only those two in
    FFV1."""
    rows, columns = np.mgrid[:56, :56]
    clean = np.stack([(rows * 3 + columns * 2 + 5 * i) % 200 for i in range(16)]).astype(np.uint8)
    clean = np.repeat(clean[..., None], 3, axis=3)
    damaged = apply_defect(
        clean, Defect("snow", 3, first_index=5, num_frames=2, is_hidden=True, seed=0)
    )
    decoded = []
    for name, frames in (("clean", clean), ("damaged", damaged)):
        path = tmp_path / f"{name}{suffix}"
        write_clip(path, frames) if is_leaking else write_lossless(path, frames)
        decoded.append(read_candidate_frames(path, FramePlan(16, 56 * 56)).frames)
    outside = [0, 4, 8, 12]
    assert (not np.array_equal(decoded[0][outside], decoded[1][outside])) is is_leaking
