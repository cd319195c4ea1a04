"""The clips of a group are of one base, and each is more damaged than the one before."""

from pathlib import Path

import numpy as np
import pytest
from verl_videosearch.data_prep.hide_and_seek.graded import list_grades, make_group, write_groups
from verl_videosearch.data_prep.hide_and_seek.profile import PROFILES


@pytest.mark.parametrize("num_clips", [2, 4, 8, 15])
def test_damage_only_grows(num_clips: int) -> None:
    for seed in range(5):
        clips = [clip.astype(int) for clip in make_group(num_clips, seed).clips]
        damage = [np.abs(clip - clips[0]).mean() for clip in clips]
        assert damage[0] == 0 and all(a < b for a, b in zip(damage, damage[1:], strict=False))
        touched = [np.flatnonzero((clip != clips[0]).any(axis=(1, 2, 3))) for clip in clips]
        assert all(set(a) <= set(b) for a, b in zip(touched, touched[1:], strict=False))


def test_damage_is_hidden_from_the_first_view() -> None:
    first, *_, last = make_group(8, 3).clips
    shown = [0, 4, 8, 12]
    assert (first[shown] == last[shown]).all() and (first != last).any()


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name in "ab":
        write_groups(tmp_path / name, 2, 3, 5, PROFILES["tiny"])
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 7
    assert all(
        (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files
    )


@pytest.mark.parametrize("num_clips", [1, 16])
def test_more_clips_than_grades_are_refused(num_clips: int) -> None:
    with pytest.raises(ValueError, match="2 to 15 clips"):
        make_group(num_clips, 0)


def test_grades_rise() -> None:
    grades = [(grade.num_frames, grade.severity) for grade in list_grades((3, 3, 3, 3))]
    assert grades == sorted(grades) and len(grades) == 15
