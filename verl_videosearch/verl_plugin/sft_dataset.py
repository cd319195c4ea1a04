"""The dataset class for verl's SFT trainer: traces become exactly the sequences that RL makes of
the same episode.

The one idea: a trace is not rendered, it is *driven*. `Episode` is stepped with the recorded
replies, contexts come from the renderer of the agent loop, and replies join a sequence as sampled
ones do. So at every reply the context is the windowed one of RL and inference, and each reply is
trained once: turns whose context only grew share a sequence, an eviction starts a new one, in which
earlier replies are context. In a recipe::

    data:
      custom_cls: {path: pkg://verl_videosearch.verl_plugin.sft_dataset, name:
      VideoSearchSFTDataset}
      videosearch: ${videosearch}          # verl hands over `config.data` only

Trained are the tokens of a reply and the end-of-turn token after it, as in the paper; nothing else.
One row of the file is one trace (`data_prep/traces/sft_rows.py`: the columns of a sample,
`replies`, `episode`), one item of the dataset is one sequence. A row with `captioned_frames` is a
dialogue of captions instead (`data_prep/captions.py`). Traces that cannot be used whole (too long,
broken video) are left out and counted, never cut, and by all ranks alike. A failure that may pass
(a time-out) is tried again, then ends the run: no trace is lost to a busy machine.

Every trace is replayed once, at the start of a run (some milliseconds, plus the decoding of videos
that are not in the frame store yet), and what it leaves is kept: token ids, mask, positions, and
the names of its frames (`references.py`); the worker that trains reads their pixels.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch.utils.data import Dataset
from verl.utils.logger import log_with_rank
from verl.utils.tokenizer import build_multimodal_processor_inputs, get_processor_token_id

from verl_videosearch.episode import Ending, Episode, EpisodeConfig
from verl_videosearch.failures import EpisodeFailure
from verl_videosearch.from_scratch.captions import CaptionDialogue
from verl_videosearch.judgement import Dimension
from verl_videosearch.sample import PreferenceSample, from_row
from verl_videosearch.verl_plugin.references import name_frames, name_images
from verl_videosearch.verl_plugin.replay import UnusableTrace, find_end_of_turn, replay_sequences
from verl_videosearch.verl_plugin.settings import Settings
from verl_videosearch.verl_plugin.tokens import ContextRenderer, SequenceImage, TrainingSequence
from verl_videosearch.video.errors import VideoErrorKind
from verl_videosearch.video.pair import load_pair

logger = logging.getLogger(__name__)

SHARED_SETTINGS = (
    *(
        "frames_per_video",
        "initial_frames_per_video",
        "max_frames_per_call",
        "max_tool_calls",
        "window",
    ),
)
"""Episode settings that decide what a frame number means and what a turn sees: the same for teacher
and student. The wording and the pixel budgets may differ."""

PASSING_CAUSES = (VideoErrorKind.TIMEOUT.value, VideoErrorKind.NO_MEMORY.value)
"""Of a video that cannot be read: the machine was too busy, which may pass."""


@dataclass(frozen=True)
class RecordedTrace:
    """One row of the file."""

    sample: PreferenceSample
    replies: tuple[str, ...]
    captioned_frames: tuple[tuple[int, ...], ...] = ()
    """Frame numbers of each caption of a dialogue; empty for an episode."""
    thoughts: tuple[str, ...] = ()
    """The native thought before each reply, tags included; empty for a file without them."""


class CachedSequence(NamedTuple):
    """A training sequence, small: what an item is made of."""

    input_ids: torch.Tensor
    """int32 (L,)."""
    loss_mask: torch.Tensor
    """uint8 (L,), 1 for trained tokens."""
    images: tuple[SequenceImage, ...]


class VideoSearchSFTDataset(Dataset):
    """Items: input_ids, position_ids, loss_mask, multi_modal_inputs of one training sequence."""

    def __init__(
        self,
        parquet_files: str | Sequence[str],
        tokenizer: Any,
        config: DictConfig,
        processor: Any = None,
        max_samples: int = -1,
    ) -> None:
        if config.pad_mode != "no_padding":
            raise ValueError(
                f"data.pad_mode must be no_padding, got {config.pad_mode!r}: sequences differ "
                "in length"
            )
        node = config.get("videosearch")
        if node is None:
            raise ValueError(
                "data.videosearch is not set; a recipe's data needs the line `videosearch: "
                "${videosearch}`"
            )
        self.settings = Settings.from_dict(OmegaConf.to_container(node, resolve=True))
        template_kwargs = dict(config.get("apply_chat_template_kwargs") or {})
        self.renderer = ContextRenderer(
            tokenizer, processor, template_kwargs, self.settings.episode.native_thought
        )
        self._end_of_turn = find_end_of_turn(self.renderer)
        self._max_length = config.max_length
        self._store = self.settings.frames.open_store()
        self._traces = read_rows(parquet_files, self.settings.episode)
        self._items = self._replay_all()[: max_samples if max_samples > 0 else None]
        if not self._items:
            raise ValueError(
                f"none of {len(self._traces)} traces can be used; the log above says why"
            )

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, item: int) -> dict[str, Any]:
        sequence = self._items[item]
        input_ids = sequence.input_ids.long()
        images = encode_images(self.renderer, sequence.images)
        return {
            "input_ids": input_ids,
            "position_ids": compute_positions(self.renderer.processor, input_ids, images),
            "loss_mask": sequence.loss_mask.long(),
            "multi_modal_inputs": images,
        }

    def describe_training(self) -> tuple[EpisodeConfig, tuple[Dimension, ...]]:
        """Return what `videosearch.json` of a checkpoint says: settings, and dimensions of the
        first trace."""
        return self.settings.episode, tuple(self._traces[0].sample.dimensions)

    def _replay_all(self) -> list[CachedSequence]:
        """Return the sequences of every usable trace: its videos can be read and all its sequences
        fit, on every rank."""
        found: dict[int, list[CachedSequence]] = {}
        left_out: dict[int, str] = {}
        for number, trace in enumerate(self._traces):
            try:
                found[number] = self._replay_again(trace)
            except EpisodeFailure as failure:
                left_out[number] = failure.label
                logger.warning("left out trace %s: %s", trace.sample.uid, failure.detail)
            except UnusableTrace as error:
                left_out[number] = str(error)
        left_out = join_ranks(left_out)
        items = [item for number in sorted(found.keys() - left_out) for item in found[number]]
        log_usable(len(items), len(self._traces), left_out)
        return items

    def _replay_again(self, trace: RecordedTrace) -> list[CachedSequence]:
        """Return the sequences of one trace, at a second try where the first may pass; raises
        `UnusableTrace`, `EpisodeFailure` for a broken trace, `RuntimeError` if nothing passed."""
        try:
            return self._replay(trace)
        except EpisodeFailure as failure:
            if not may_pass(failure):
                raise
        try:
            return self._replay(trace)
        except EpisodeFailure as failure:
            if not may_pass(failure):
                raise
            raise RuntimeError(
                f"trace {trace.sample.uid!r} failed twice for a reason that may pass, and no trace "
                f"is left out for that: {failure.detail}. Fill the frame store beforehand with "
                "`python -m data_prep.frames`, or raise videosearch.frames.decode_timeout_s"
            ) from failure

    def _replay(self, trace: RecordedTrace) -> list[CachedSequence]:
        """Return the sequences of one trace; raises `UnusableTrace`."""
        settings, frames = self.settings.episode, self.settings.frames
        pair = load_pair(trace.sample, self._store, settings, frames.video_root)
        episode: Episode | CaptionDialogue = Episode(trace.sample, pair.candidates, settings)
        if trace.captioned_frames:
            episode = CaptionDialogue(pair.candidates, trace.captioned_frames, settings)
        sequences = replay_sequences(
            episode,
            trace.replies,
            self.renderer,
            lambda messages: name_frames(pair, messages, frames),
            self._end_of_turn,
            trace.thoughts,
            trains_thought=self.settings.sft.train_native_thought,
        )
        if isinstance(episode, Episode) and not is_answered(episode):
            raise UnusableTrace("does not end with an answer")
        if max(sequence.num_tokens for sequence in sequences) > self._max_length:
            raise UnusableTrace(f"longer than data.max_length={self._max_length}")
        return [cache_sequence(sequence) for sequence in sequences]


def may_pass(failure: EpisodeFailure) -> bool:
    """True when another try may succeed: the machine was busy, the trace may be fine."""
    return failure.is_passing or failure.cause in PASSING_CAUSES


def join_ranks(left_out: dict[int, str]) -> dict[int, str]:
    """Return which traces any rank leaves out, and why, the same on every rank: ranks whose data
    differ in number would draw from different permutations."""
    if not torch.distributed.is_initialized():
        return left_out
    of_ranks: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(of_ranks, left_out)
    joined: dict[int, str] = {}
    for of_rank in reversed(of_ranks):  # of several reasons the one of the lowest rank
        joined |= of_rank
    return joined


def log_usable(num_sequences: int, num_traces: int, left_out: Mapping[int, str]) -> None:
    """Say on one rank how many sequences there are, and why traces were left out."""
    message = f"{num_sequences} sequences of {num_traces - len(left_out)} traces"
    if left_out:
        counts = Counter(left_out.values()).most_common()
        reasons = ", ".join(f"{count} x {reason}" for reason, count in counts)
        message += f"; left out {len(left_out)} of {num_traces} traces: {reasons}"
    level = logging.WARNING if left_out else logging.INFO
    log_with_rank(message, int(os.environ.get("RANK", 0)), logger, level, True)


def is_answered(episode: Episode) -> bool:
    """True when an episode has ended with a readable verdict."""
    return episode.is_done and episode.result().ending is Ending.ANSWERED


def cache_sequence(sequence: TrainingSequence) -> CachedSequence:
    """Keep a sequence in little memory."""
    mask = [0] * len(sequence.prompt_ids) + sequence.response_mask.tolist()
    return CachedSequence(
        torch.tensor(sequence.context_ids, dtype=torch.int32),
        torch.tensor(mask, dtype=torch.uint8),
        tuple(sequence.images),
    )


_build_inputs = name_images(build_multimodal_processor_inputs)


def encode_images(
    renderer: ContextRenderer, images: Sequence[SequenceImage]
) -> dict[str, torch.Tensor]:
    """Return what the model takes for these images: image_grid_thw, and pixel_values or the names
    of stored frames."""
    text = renderer.render([{"role": "user", "content": [{"type": "image"}] * len(images)}])
    inputs = dict(_build_inputs(renderer.processor, text=[text], images=list(images)))
    return {name: value for name, value in inputs.items() if name not in _TEXT_INPUTS}


_TEXT_INPUTS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")


def compute_positions(
    processor: Any, input_ids: torch.Tensor, images: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Return position ids as verl's agent loop computes them: (4, L) for M-RoPE models, else
    (L,)."""
    plain = torch.arange(len(input_ids))
    if not hasattr(processor, "get_rope_index"):
        return plain
    vision, _ = processor.get_rope_index(
        input_ids=input_ids[None],
        attention_mask=torch.ones_like(input_ids)[None],
        image_grid_thw=images.get("image_grid_thw"),
        mm_token_type_ids=(input_ids == get_processor_token_id(processor, "image")).long()[None],
    )
    return torch.cat([plain[None], vision[:, 0]])


def read_rows(parquet_files: str | Sequence[str], episode: EpisodeConfig) -> list[RecordedTrace]:
    """Read every trace; `ValueError` for a file without traces, or traces made with other settings
    than `episode`."""
    files = (
        parquet_files if isinstance(parquet_files, list | tuple | ListConfig) else [parquet_files]
    )
    traces = []
    for file in files:
        if file is None or not os.path.isfile(os.path.expanduser(file)):
            raise ValueError(
                f"data.train_files: no such file: {file!r}; make it with `python -m "
                "data_prep.cold_start`"
            )
        table = pq.read_table(os.path.expanduser(file))
        missing = {"replies", "episode"} - set(table.column_names)
        if missing:
            program = "`python -m data_prep.cold_start`"
            raise ValueError(
                f"{file!r} lacks the columns {sorted(missing)}; make it with {program}"
            )
        for settings in set(table["episode"].to_pylist()):
            _check_settings(file, json.loads(settings), episode)
        traces += [
            RecordedTrace(
                from_row(row),
                tuple(row["replies"]),
                tuple(map(tuple, row.get("captioned_frames") or ())),
                tuple(row.get("thoughts") or ()),
            )
            for row in table.to_pylist()
        ]
    return traces


def _check_settings(file: str, recorded: Mapping[str, Any], episode: EpisodeConfig) -> None:
    """Refuse traces whose frame numbers or windows mean something else here."""
    wrong = [
        f"{name} is {getattr(episode, name)} here, was {recorded[name]} there"
        for name in SHARED_SETTINGS
        if recorded[name] != getattr(episode, name)
    ]
    if wrong:
        raise ValueError(
            f"{file!r} was made with other settings: {'; '.join(wrong)}; set "
            "videosearch.episode.* alike"
        )
