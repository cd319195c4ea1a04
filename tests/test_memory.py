"""Which tool outcomes stay visible: a literal table, then the promise of the window as a
property."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_videosearch.memory import visible_outcomes

Y, N = True, False


@pytest.mark.parametrize(
    ("has_frames", "window", "visible"),
    [
        ([], 1, set()),
        ([], None, set()),
        ([N], 1, set()),
        ([Y], 1, {0}),
        ([Y, Y], 1, {1}),
        ([Y, Y], 2, {0, 1}),
        ([Y, Y], None, {0, 1}),
        ([Y, N], 1, {0}),  # a refused call brings no frames, so it evicts none
        ([Y, N, N, Y], 1, {3}),
        ([Y, N, N, Y], 2, {0, 3}),
        ([Y, Y, N, Y], 2, {1, 3}),
        ([N, N], None, set()),
        ([Y, Y, Y], 99, {0, 1, 2}),
    ],
)
def test_visible_outcomes(has_frames: list[bool], window: int | None, visible: set[int]) -> None:
    assert visible_outcomes(has_frames, window) == visible


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_below_one_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, or null to keep everything; got {window}"):
        visible_outcomes([Y], window)


@settings(deadline=None)  # machines that run the tests are shared
@given(st.lists(st.booleans()), st.none() | st.integers(1, 8))
def test_the_newest_with_frames_stay(has_frames: list[bool], window: int | None) -> None:
    visible, with_frames = (
        visible_outcomes(has_frames, window),
        [i for i, has in enumerate(has_frames) if has],
    )
    assert len(visible) == min(len(with_frames), len(with_frames) if window is None else window)
    assert visible <= set(with_frames)
    assert all(hidden < kept for kept in visible for hidden in set(with_frames) - visible)


@settings(deadline=None)  # machines that run the tests are shared
@given(st.lists(st.booleans()), st.integers(1, 8))
def test_what_has_left_never_comes_back(has_frames: list[bool], window: int) -> None:
    for stop in range(len(has_frames)):
        before, after = (
            visible_outcomes(has_frames[:stop], window),
            visible_outcomes(has_frames[: stop + 1], window),
        )
        assert after <= before | {stop}
