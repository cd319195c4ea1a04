"""What a training episode puts into TransferQueue: references against pixels, tiny and 720p.

    python -m benchmarks.transfer

The one idea: verl's own worker code packs the same episode twice, once with images of the frame
store (references travel) and once with the same images without their names (pixels travel, verl's
own way); what is counted is the pickled size of every field of every sequence, as the queue's
storage keeps it. A request to the engine carries uint8 images in both cases and is counted apart.

Covers: bytes stored per episode, and the bytes that the training worker fetches. Does not cover:
the engine's own caches, what Ray keeps of a request that is still running.
"""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import typer

from verl_videosearch.episode import Episode, EpisodeConfig
from verl_videosearch.report.table import Table
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.verl_plugin.references import name_frames, read_image
from verl_videosearch.verl_plugin.replay import find_end_of_turn, replay_sequences
from verl_videosearch.verl_plugin.settings import FramesConfig
from verl_videosearch.verl_plugin.tokens import ContextRenderer, TrainingSequence
from verl_videosearch.video.lossless import write_lossless
from verl_videosearch.video.pair import PairFrames, load_pair

MEGABYTE = 1e6
TARGET_MB = 2.0
"""Most megabytes stored per episode at 1280 x 720 and 1.5 calls (the mean of one and two)."""
THOUGHT = "<Snapshot>The newest frames show the same wall.</Snapshot><Think>Not settled.</Think>"
SIZES = {
    "tiny, 64 x 64": (
        (64, 64),
        EpisodeConfig(16, 4, 4, 2, initial_max_pixels=3136, tool_max_pixels=3136),
    ),
    "1280 x 720": ((720, 1280), EpisodeConfig()),
}


def main() -> None:
    """Print megabytes per episode; exit status 1 where the target is missed."""
    renderer = make_renderer()
    columns = (
        "videos",
        "calls",
        "sequences",
        "references",
        "pixels",
        "times",
        "uint8 to the engine",
    )
    rows: list[tuple[str, ...]] = []
    stored: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (shape, config) in SIZES.items():
            pair, frames = make_pair(Path(folder) / name.replace(" ", ""), shape, config)
            for num_calls in (0, 1, 2):
                sequences = play(renderer, pair, config, frames, num_calls)
                named = sum(measure_stored(renderer, sequence, False) for sequence in sequences)
                pixels = sum(measure_stored(renderer, sequence, True) for sequence in sequences)
                sent = measure_sent(pair, config, num_calls)
                stored[name, num_calls] = named / MEGABYTE
                figures = (named / MEGABYTE, pixels / MEGABYTE, pixels / named, sent / MEGABYTE)
                cells = ("{:.3f}", "{:.1f}", "{:.0f}", "{:.1f}")
                shown = [cell.format(figure) for cell, figure in zip(cells, figures, strict=True)]
                rows.append((name, str(num_calls), str(len(sequences)), *shown))
    typer.echo(Table("Megabytes stored per episode", columns, rows).to_markdown())
    at_target = (stored["1280 x 720", 1] + stored["1280 x 720", 2]) / 2
    typer.echo(
        f"1280 x 720 at 1.5 calls: {at_target:.3f} MB stored per episode (target {TARGET_MB})"
    )
    if at_target > TARGET_MB:
        raise SystemExit(1)


def make_renderer() -> ContextRenderer:
    """Load the tiny model's processor, which sees as Qwen2.5-VL's does."""
    from transformers import AutoProcessor

    from verl_videosearch.from_scratch.tiny_model import build_tiny_model

    with tempfile.TemporaryDirectory() as folder:
        processor = AutoProcessor.from_pretrained(build_tiny_model(folder))
    return ContextRenderer(processor.tokenizer, processor)


def make_pair(
    folder: Path, shape: tuple[int, int], config: EpisodeConfig
) -> tuple[PairFrames, FramesConfig]:
    """Write two noisy videos and read them through a store."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = [folder / f"{side}.mkv" for side in (1, 2)]
    for path in paths:
        write_lossless(
            path, rng.integers(0, 256, (config.frames_per_video, *shape, 3), dtype=np.uint8)
        )
    frames = FramesConfig(store_dir=str(folder / "store"))
    labels = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}
    sample = PreferenceSample("pair", "a cat", str(paths[0]), str(paths[1]), labels)
    return load_pair(sample, frames.open_store(), config), frames


def play(
    renderer: ContextRenderer,
    pair: PairFrames,
    config: EpisodeConfig,
    frames: FramesConfig,
    num_calls: int,
) -> list[TrainingSequence]:
    """Return the sequences of an episode with full calls."""
    sample = PreferenceSample("pair", "a cat", "1", "2", {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1})
    replies = [write_call(config, call) for call in range(num_calls)]
    replies.append(f"{THOUGHT}<Answer>TA=0, VQ=1, MQ=0, OA=1</Answer>")
    return replay_sequences(
        Episode(sample, pair.candidates, config),
        replies,
        renderer,
        lambda messages: name_frames(pair, messages, frames),
        find_end_of_turn(renderer),
    )


def write_call(config: EpisodeConfig, call: int) -> str:
    """Write a turn that asks for as many new frames as one call may."""
    first = 2 + call * config.max_frames_per_call
    numbers = list(range(first, first + config.max_frames_per_call))
    guess = "<Recommend Answer>TA=0, VQ=1, MQ=0, OA=1, CF=2</Recommend Answer>"
    arguments = f'{{"name": "select_frames", "arguments": {{"target_frames": {numbers}}}}}'
    return f"{THOUGHT}{guess}<tool_call>{arguments}</tool_call>"


def measure_stored(renderer: ContextRenderer, sequence: TrainingSequence, has_pixels: bool) -> int:
    """Return the bytes of all fields that verl stores with a sequence, made by its own code."""
    from verl.experimental.agent_loop.agent_loop import AgentLoopWorker

    images = [read_image(image) for image in sequence.images] if has_pixels else sequence.images
    for image in images if has_pixels else ():
        image.info.clear()
    worker: Any = SimpleNamespace(tokenizer=renderer.tokenizer, processor=renderer.processor)
    output = SimpleNamespace(multi_modal_data={"images": images}, mm_processor_kwargs={})
    ids = torch.tensor(sequence.context_ids)
    visual = AgentLoopWorker._compute_multi_modal_inputs(worker, output, ids[None])
    positions = AgentLoopWorker._compute_position_ids(
        worker, ids[None], torch.ones_like(ids)[None], visual
    )
    mask = torch.tensor(sequence.response_mask.tolist())
    fields = {
        "prompts": torch.tensor(sequence.prompt_ids.tolist()),
        "responses": torch.tensor(sequence.response_ids.tolist()),
        "input_ids": ids,
        "position_ids": positions,
        "response_mask": mask,
        "loss_mask": mask,
        "multi_modal_inputs": visual,
    }
    per_token = ("rollout_log_probs", "rm_scores", "old_log_probs", "entropy", "ref_log_prob")
    fields |= {name: torch.zeros(len(mask)) for name in (*per_token, "advantages", "returns")}
    return len(pickle.dumps(fields))


def measure_sent(pair: PairFrames, config: EpisodeConfig, num_calls: int) -> int:
    """Return the bytes of the uint8 images that the engine gets over all turns of an episode."""
    first = 2 * config.initial_frames_per_video
    sizes = [
        pair.size_of(1, limit) for limit in (config.initial_max_pixels, config.tool_max_pixels)
    ]
    view, call = (3 * height * width for height, width in sizes)
    return (num_calls + 1) * first * view + num_calls * config.max_frames_per_call * call


if __name__ == "__main__":
    typer.run(main)
