"""The memory window keeps a prompt flat, as `benchmarks/context_growth.py` prints it."""

import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("verl")

from benchmarks.context_growth import TurnSize, describe_growth, measure_turns
from tests.engine import processor
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.verl_plugin.tokens import ContextRenderer

CALLS, FRAMES, INITIAL = 6, 2, 2
FRAME_TOKENS = {"initial": 4 * 2, "tool": 2}
"""Of frames of 16 to 9 in patches of 28 pixels, within 8 and 4 patches."""
MOST_TEXT = 300
"""Tokens of one scripted reply and of the line that stands for forgotten frames, with room to
spare."""


@pytest.mark.parametrize("window", [1, 2])
def test_with_a_window_only_text_grows(window: int) -> None:
    turns = measure(window)
    assert len(turns) == CALLS + 1
    assert [turn.num_images for turn in turns] == [
        INITIAL + FRAMES * min(i, window) for i in range(CALLS + 1)
    ]
    for turn in turns[window:]:
        assert (
            turn.num_image_tokens
            == INITIAL * FRAME_TOKENS["initial"] + FRAMES * window * FRAME_TOKENS["tool"]
        )
    for before, after in zip(turns[window + 1 :], turns[window + 2 :], strict=False):
        assert 0 < after.num_tokens - before.num_tokens < MOST_TEXT


def test_without_a_window_every_call_adds_its_frames() -> None:
    turns = measure(None)
    assert [turn.num_images for turn in turns] == [2, 4, 6, 8, 10, 12, 14]
    steps = {
        after.num_image_tokens - before.num_image_tokens
        for before, after in zip(turns, turns[1:], strict=False)
    }
    assert steps == {FRAMES * FRAME_TOKENS["tool"]}


def measure(window: int | None) -> list[TurnSize]:
    renderer = ContextRenderer(processor().tokenizer, processor())
    config = EpisodeConfig(
        max_tool_calls=CALLS,
        max_frames_per_call=FRAMES,
        window=window,
        initial_frames_per_video=INITIAL // 2,
        initial_max_pixels=8 * 28 * 28,
        tool_max_pixels=4 * 28 * 28,
    )
    return list(measure_turns(renderer, config, FRAMES))


def test_growth_in_words() -> None:
    turns = [
        TurnSize(8, 100, 900),
        TurnSize(16, 100, 1900),
        TurnSize(16, 100, 1900),
        TurnSize(16, 150, 1900),
    ]
    assert describe_growth(turns) == (
        "at most 16 images are visible; from turn 3 on a turn adds 50 text tokens and 0 image "
        "tokens, "
        "2.5% of the third prompt"
    )
