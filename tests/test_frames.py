"""Frame numbers, frame indices and the initial view: literal tables, then properties over every
pair of lengths."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_videosearch.frames import CandidateFrames, FrameLocation, drop_repeats, sample_indices

LENGTHS = st.integers(1, 300)


def pair_of(num_1: int, num_2: int) -> CandidateFrames:
    """Make a pair whose times say where they belong: video 1 counts 0, 1, 2..., video 2 counts 100,
    101, ..."""
    return CandidateFrames(
        tuple(float(i) for i in range(num_1)), tuple(100.0 + i for i in range(num_2))
    )


@pytest.mark.parametrize(
    ("num_frames", "max_candidates", "indices"),
    [
        (1, 1, [0]),
        (1, 48, [0]),
        (3, 8, [0, 1, 2]),
        (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (9, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (10, 4, [0, 2, 5, 7]),
        (48, 4, [0, 12, 24, 36]),
        (50, 4, [0, 12, 25, 37]),
        (96, 4, [0, 24, 48, 72]),
        (7, 1, [0]),
    ],
)
def test_sample_indices(num_frames: int, max_candidates: int, indices: list[int]) -> None:
    assert sample_indices(num_frames, max_candidates) == indices


@pytest.mark.parametrize(("num_frames", "max_candidates"), [(0, 4), (4, 0), (-1, 4), (4, -1)])
def test_sample_indices_refuses(num_frames: int, max_candidates: int) -> None:
    with pytest.raises(ValueError, match=f"got {num_frames} and {max_candidates}"):
        sample_indices(num_frames, max_candidates)


@settings(deadline=None)  # machines that run the tests are shared
@given(st.integers(1, 10_000), st.integers(1, 200))
def test_sampled_indices_are_even_and_never_repeat(num_frames: int, max_candidates: int) -> None:
    indices = sample_indices(num_frames, max_candidates)
    assert len(indices) == min(num_frames, max_candidates)
    assert indices[0] == 0 and indices[-1] < num_frames
    gaps = {
        after - before for before, after in zip(indices, [*indices[1:], num_frames], strict=True)
    }
    assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("lengths", "number", "location", "time_s"),
    [
        ((3, 5), 1, FrameLocation(1, 0), 0.0),
        ((3, 5), 3, FrameLocation(1, 2), 2.0),
        ((3, 5), 4, FrameLocation(2, 0), 100.0),
        ((3, 5), 8, FrameLocation(2, 4), 104.0),
        ((1, 1), 1, FrameLocation(1, 0), 0.0),
        ((1, 1), 2, FrameLocation(2, 0), 100.0),
        ((48, 48), 48, FrameLocation(1, 47), 47.0),
        ((48, 48), 49, FrameLocation(2, 0), 100.0),
        ((48, 48), 96, FrameLocation(2, 47), 147.0),
    ],
)
def test_locate(
    lengths: tuple[int, int], number: int, location: FrameLocation, time_s: float
) -> None:
    pair = pair_of(*lengths)
    assert pair.locate(number) == location
    assert pair.number_of(location.video, location.index) == number
    assert pair.time_s(number) == time_s


@pytest.mark.parametrize("number", [0, -1, -8, 9, 10**30])
def test_locate_never_wraps(number: int) -> None:
    with pytest.raises(ValueError, match=r"must be in 1\.\.8, got"):
        pair_of(3, 5).locate(number)


@pytest.mark.parametrize(("video", "index"), [(1, -1), (1, 3), (2, 5), (2, -1), (0, 0), (3, 0)])
def test_number_of_refuses(video: int, index: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        pair_of(3, 5).number_of(video, index)


@settings(deadline=None)  # machines that run the tests are shared
@given(LENGTHS, LENGTHS)
def test_numbering_is_a_round_trip(num_1: int, num_2: int) -> None:
    pair = pair_of(num_1, num_2)
    assert len(pair) == num_1 + num_2
    assert [*pair.numbers_of(1), *pair.numbers_of(2)] == list(range(1, num_1 + num_2 + 1))
    for number in range(1, len(pair) + 1):
        location = pair.locate(number)
        assert pair.number_of(location.video, location.index) == number
        assert pair.time_s(number) == location.index + 100.0 * (location.video == 2)


@pytest.mark.parametrize(
    ("lengths", "frames_per_video", "view"),
    [
        ((48, 48), 4, (1, 13, 25, 37, 49, 61, 73, 85)),
        (
            (50, 50),
            4,
            (1, 13, 26, 38, 51, 63, 76, 88),
        ),  # 100 is no multiple of 8: 4 + 4 all the same
        ((2, 9), 4, (1, 2, 3, 5, 7, 9)),  # a shorter video gives all its frames
        ((1, 1), 4, (1, 2)),
        ((5, 3), 1, (1, 6)),
        ((4, 4), 4, (1, 2, 3, 4, 5, 6, 7, 8)),
    ],
)
def test_initial_view(
    lengths: tuple[int, int], frames_per_video: int, view: tuple[int, ...]
) -> None:
    assert pair_of(*lengths).initial_view(frames_per_video) == view


@settings(deadline=None)  # machines that run the tests are shared
@given(LENGTHS, LENGTHS, st.integers(1, 16))
def test_initial_view_shows_both_videos_alike(
    num_1: int, num_2: int, frames_per_video: int
) -> None:
    pair = pair_of(num_1, num_2)
    view = pair.initial_view(frames_per_video)
    shown = [sum(number in pair.numbers_of(video) for number in view) for video in (1, 2)]
    assert shown == [min(num_1, frames_per_video), min(num_2, frames_per_video)]
    assert list(view) == sorted(set(view))


@pytest.mark.parametrize("times", [((), (0.0,)), ((0.0,), ()), ((), ())])
def test_a_video_without_frames_is_refused(
    times: tuple[tuple[float, ...], tuple[float, ...]],
) -> None:
    with pytest.raises(ValueError, match="both videos need frames"):
        CandidateFrames(*times)


@pytest.mark.parametrize(
    ("numbers", "unique", "repeated"),
    [
        ([], (), ()),
        ([3], (3,), ()),
        ([3, 1, 2], (3, 1, 2), ()),
        ([5, 3, 5, 5, 3, 1], (5, 3, 1), (5, 3)),
        ([1, 1, 1, 1], (1,), (1,)),
        ([2, 1, 1, 2], (2, 1), (1, 2)),
    ],
)
def test_drop_repeats(
    numbers: list[int], unique: tuple[int, ...], repeated: tuple[int, ...]
) -> None:
    assert drop_repeats(numbers) == (unique, repeated)


@settings(deadline=None)  # machines that run the tests are shared
@given(st.lists(st.integers(0, 20)))
def test_drop_repeats_keeps_every_number_once(numbers: list[int]) -> None:
    unique, repeated = drop_repeats(numbers)
    assert sorted(unique) == sorted(set(numbers)) and list(unique) == sorted(
        unique, key=numbers.index
    )
    assert set(repeated) == {number for number in numbers if numbers.count(number) > 1}
