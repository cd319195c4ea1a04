"""Show what the memory window saves: the length of each turn's prompt with window 1, and with
nothing forgotten.

The one idea: nothing is simulated. A real `Episode` is driven through its calls with scripted
replies, and every context is rendered and tokenised as in training (`ContextRenderer`). With a
window the prompt is flat once frames leave as fast as they come: from turn 3 on a turn adds text
only, the last reply and a line for the forgotten call.

    python -m benchmarks.context_growth                             # a tiny model's processor, made
                                                                    on the spot
    python -m benchmarks.context_growth --model Qwen/Qwen2.5-VL-7B-Instruct --calls 6 --frames 8

Covers: images and tokens per turn. Does not cover: time and memory, which depend on the engine.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from transformers import AutoProcessor

from verl_videosearch.episode import Episode, EpisodeConfig, Reply
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.from_scratch.tiny_model import build_tiny_model
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.verl_plugin.replay import blank_images
from verl_videosearch.verl_plugin.tokens import ContextRenderer
from verl_videosearch.video.pair import PairFrames

SAMPLE = PreferenceSample(
    "pair",
    "a cat jumps over a wall",
    "1.mp4",
    "2.mp4",
    {"TA": None, "VQ": None, "MQ": None, "OA": None},
)
FRAME_SHAPE = (448, 784, 3)
"""Height, width and channels of a decoded frame: 16 to 9, within 512 * 28 * 28 pixels."""


@dataclass(frozen=True)
class TurnSize:
    """What one turn's prompt is made of."""

    num_images: int
    num_text_tokens: int
    num_image_tokens: int

    @property
    def num_tokens(self) -> int:
        return self.num_text_tokens + self.num_image_tokens


def measure_turns(
    renderer: ContextRenderer, config: EpisodeConfig, frames_per_call: int
) -> Iterator[TurnSize]:
    """Yield the size of every prompt of an episode that uses all its calls and then answers."""
    pair = make_pair(config)
    replies = [
        write_reply(turn, frames_per_call, len(pair.candidates))
        for turn in range(config.max_tool_calls + 1)
    ]
    return measure_contexts(renderer, SAMPLE, pair, config, replies)


def measure_contexts(
    renderer: ContextRenderer,
    sample: PreferenceSample,
    pair: PairFrames,
    config: EpisodeConfig,
    replies: Sequence[str],
) -> Iterator[TurnSize]:
    """Yield the size of the context that each reply is written to."""
    episode = Episode(sample, pair.candidates, config)
    for reply in replies:
        messages = episode.messages()
        text, images = renderer.render(messages), blank_images(pair, messages)
        num_text_tokens = len(renderer.tokenizer.encode(text, add_special_tokens=False)) - len(
            images
        )  # placeholders
        yield TurnSize(
            len(images), num_text_tokens, len(renderer.tokenize(text, images)) - num_text_tokens
        )
        episode.step(Reply(reply))


def make_pair(config: EpisodeConfig, frame_shape: tuple[int, int, int] = FRAME_SHAPE) -> PairFrames:
    """Make two black videos with all their candidate frames."""
    times = tuple(i / 12 for i in range(config.frames_per_video))
    black = np.broadcast_to(np.zeros(1, np.uint8), (len(times), *frame_shape))
    return PairFrames(
        CandidateFrames(times, times), black, black, patch_multiple=config.patch_multiple
    )


def write_reply(turn: int, frames_per_call: int, num_frames: int) -> str:
    """Write a turn that asks for the next frames in line."""
    numbers = [1 + (turn * frames_per_call + i) % num_frames for i in range(frames_per_call)]
    return (
        "<Snapshot>The newest frames show the same wall; the cat is sharp.</Snapshot>"
        "<Think>Motion is not settled yet, so I look at the frames between.</Think>"
        "<Recommend Answer>TA=0, VQ=1, MQ=0, OA=1, CF=2</Recommend Answer>"
        f'<tool_call>{{"name": "select_frames", "arguments": {{"target_frames": '
        f"{numbers}}}}}</tool_call>"
    )


def show_sizes(sizes: dict[str, list[TurnSize]]) -> Table:
    """Make the table: one row per turn, one group of columns per window."""
    table = Table(title="Prompt of each turn")
    table.add_column("turn", justify="right")
    for name in sizes:
        for column in ("images", "text tokens", "image tokens", "all tokens"):
            table.add_column(f"{name}\n{column}", justify="right")
    for turn, row in enumerate(zip(*sizes.values(), strict=True), start=1):
        figures = [(s.num_images, s.num_text_tokens, s.num_image_tokens, s.num_tokens) for s in row]
        table.add_row(str(turn), *(f"{figure:,}" for group in figures for figure in group))
    return table


def describe_growth(turns: list[TurnSize]) -> str:
    """Say how many images are ever visible and what a turn adds from the third one on."""
    num_steps = len(turns) - 3
    text, image = (
        (getattr(turns[-1], name) - getattr(turns[2], name)) / num_steps
        for name in ("num_text_tokens", "num_image_tokens")
    )
    return (
        f"at most {max(turn.num_images for turn in turns)} images are visible; from turn 3 on "
        f"a turn adds {text:,.0f} "
        f"text tokens and {image:,.0f} image tokens, "
        f"{(text + image) / turns[2].num_tokens:.1%} of the third prompt"
    )


def load_renderer(model: Path | str | None) -> ContextRenderer:
    """Load a model's processor; None builds a tiny model and takes its processor."""
    with tempfile.TemporaryDirectory() as folder:
        processor: Any = AutoProcessor.from_pretrained(model or build_tiny_model(folder))
    return ContextRenderer(processor.tokenizer, processor)


def main(
    model: Annotated[
        str | None, typer.Option(help="Model folder or name; a tiny model by default.")
    ] = None,
    calls: Annotated[int, typer.Option(help="Calls of the episode.")] = 6,
    frames: Annotated[int, typer.Option(help="Frames per call.")] = 8,
    window: Annotated[
        int, typer.Option(help="Memory window to compare with keeping everything.")
    ] = 1,
) -> None:
    """Print the size of each turn's prompt with and without a memory window."""
    renderer = load_renderer(model)
    config = EpisodeConfig(max_tool_calls=calls, max_frames_per_call=frames, window=window)
    sizes = {
        f"window {window}": list(measure_turns(renderer, config, frames)),
        "window null": list(measure_turns(renderer, replace(config, window=None), frames)),
    }
    console = Console()
    console.print(show_sizes(sizes))
    for name, turns in sizes.items():
        if len(turns) > 3:
            console.print(f"{name}: {describe_growth(turns)}")


if __name__ == "__main__":
    typer.run(main)
