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
broken video) are left out and counted, never cut; finding them takes 5 ms a trace at the start of a
run, plus the decoding of videos that are not in the frame store yet.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from PIL import Image
from torch.utils.data import Dataset
from verl.utils.logger import log_with_rank
from verl.utils.tokenizer import build_multimodal_processor_inputs, get_processor_token_id

from verl_videosearch.episode import Ending, Episode, EpisodeConfig, Message
from verl_videosearch.failures import EpisodeFailure
from verl_videosearch.from_scratch.captions import CaptionDialogue
from verl_videosearch.sample import PreferenceSample, from_row
from verl_videosearch.verl_plugin.replay import (
    LengthRenderer,
    UnusableTrace,
    blank_images,
    find_end_of_turn,
    replay_sequences,
)
from verl_videosearch.verl_plugin.settings import Settings
from verl_videosearch.verl_plugin.tokens import ContextRenderer, TrainingSequence
from verl_videosearch.video.pair import PairFrames, load_pair

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


@dataclass(frozen=True)
class RecordedTrace:
    """One row of the file."""

    sample: PreferenceSample
    replies: tuple[str, ...]
    captioned_frames: tuple[tuple[int, ...], ...] = ()
    """Frame numbers of each caption of a dialogue; empty for an episode."""


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
                f"data.pad_mode must be no_padding, got {config.pad_mode!r}: sequences differ in length"
            )
        node = config.get("videosearch")
        if node is None:
            raise ValueError(
                "data.videosearch is not set; a recipe's data needs the line `videosearch: ${videosearch}`"
            )
        self.settings = Settings.from_dict(OmegaConf.to_container(node, resolve=True))
        template_kwargs = dict(config.get("apply_chat_template_kwargs") or {})
        self.renderer = ContextRenderer(tokenizer, processor, template_kwargs)
        self._measurer = LengthRenderer(tokenizer, processor, template_kwargs)
        self._end_of_turn = find_end_of_turn(self.renderer)
        self._max_length = config.max_length
        self._store = self.settings.frames.open_store()
        self._traces = read_rows(parquet_files, self.settings.episode)
        self._items = self._index_sequences()[: max_samples if max_samples > 0 else None]
        if not self._items:
            raise ValueError(
                f"none of {len(self._traces)} traces can be used; the log above says why"
            )

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, item: int) -> dict[str, Any]:
        trace_index, sequence_index = self._items[item]
        trace = self._traces[trace_index]
        pair = self._load(trace)
        sequence = self._replay(trace, pair, self.renderer, pair.images)[sequence_index]
        input_ids = torch.tensor(sequence.context_ids)
        images = encode_images(self.renderer, sequence.images)
        return {
            "input_ids": input_ids,
            "position_ids": compute_positions(self.renderer.processor, input_ids, images),
            "loss_mask": torch.tensor([0] * len(sequence.prompt_ids) + sequence.response_mask),
            "multi_modal_inputs": images,
        }

    def _index_sequences(self) -> list[tuple[int, int]]:
        """Return (trace, sequence) of every usable trace: its videos can be read and all its
        sequences fit."""
        items, dropped = [], Counter()
        for index, trace in enumerate(self._traces):
            try:
                lengths = self._measure(trace)
            except EpisodeFailure as failure:
                dropped[failure.label] += 1
                logger.warning("left out trace %s: %s", trace.sample.uid, failure.detail)
            except UnusableTrace as error:
                dropped[str(error)] += 1
            else:
                items += [(index, number) for number in range(len(lengths))]
        message = f"{len(items)} sequences of {len(self._traces) - dropped.total()} traces"
        if dropped:
            reasons = ", ".join(f"{count} x {reason}" for reason, count in dropped.most_common())
            message += f"; left out {dropped.total()} of {len(self._traces)} traces: {reasons}"
        log_with_rank(
            message,
            int(os.environ.get("RANK", 0)),
            logger,
            logging.WARNING if dropped else logging.INFO,
            True,
        )
        return items

    def _measure(self, trace: RecordedTrace) -> list[int]:
        """Return the length of each sequence without touching a pixel; raises `UnusableTrace`."""
        pair = self._load(trace)
        sequences = self._replay(
            trace, pair, self._measurer, lambda messages: blank_images(pair, messages)
        )
        lengths = [len(sequence.context_ids) for sequence in sequences]
        if max(lengths) > self._max_length:
            raise UnusableTrace(f"longer than data.max_length={self._max_length}")
        return lengths

    def _load(self, trace: RecordedTrace) -> PairFrames:
        return load_pair(
            trace.sample, self._store, self.settings.episode, self.settings.frames.video_root
        )

    def _replay(
        self,
        trace: RecordedTrace,
        pair: PairFrames,
        renderer: ContextRenderer,
        resolve: Callable[[list[Message]], list[Image.Image]],
    ) -> list[TrainingSequence]:
        settings = self.settings.episode
        if trace.captioned_frames:
            dialogue = CaptionDialogue(pair.candidates, trace.captioned_frames, settings)
            return replay_sequences(dialogue, trace.replies, renderer, resolve, self._end_of_turn)
        episode = Episode(trace.sample, pair.candidates, settings)
        sequences = replay_sequences(episode, trace.replies, renderer, resolve, self._end_of_turn)
        if not episode.is_done or episode.result().ending is not Ending.ANSWERED:
            raise UnusableTrace("does not end with an answer")
        return sequences


def encode_images(
    renderer: ContextRenderer, images: Sequence[Image.Image]
) -> dict[str, torch.Tensor]:
    """Return what the model takes for these images, such as pixel_values and image_grid_thw."""
    text = renderer.render([{"role": "user", "content": [{"type": "image"}] * len(images)}])
    inputs = dict(
        build_multimodal_processor_inputs(renderer.processor, text=[text], images=list(images))
    )
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
                f"data.train_files: no such file: {file!r}; make it with `python -m data_prep.cold_start`"
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
            f"{file!r} was made with other settings: {'; '.join(wrong)}; set videosearch.episode.* alike"
        )
