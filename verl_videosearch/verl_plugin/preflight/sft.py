"""Checks of a supervised run (cold start, rejection sampling fine-tuning)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from verl_videosearch.verl_plugin.preflight.data import (
    check_data,
    check_video_root,
    count_rows,
    list_files,
)
from verl_videosearch.verl_plugin.preflight.model import (
    check_folder,
    check_sight,
    check_thoughts,
)
from verl_videosearch.verl_plugin.preflight.run import check_loggers
from verl_videosearch.verl_plugin.settings import Settings

REQUIRED = ("model.path", "data.train_files")
"""What a recipe leaves to the user."""
MADE_WITH = "python -m data_prep.cold_start"


def find_problems(config: DictConfig) -> list[str]:
    """Return every mistake of an SFT config in words; empty means that it can start."""
    missing = [key for key in REQUIRED if OmegaConf.select(config, key) is None]
    if missing:
        return [f"{key} is not set; give it on the command line as {key}=..." for key in missing]
    try:
        settings = Settings.from_dict(OmegaConf.to_container(config.videosearch, resolve=True))
    except ValueError as error:
        return str(error).splitlines()
    model = str(config.model.path)
    return [
        *check_folder("model.path", model),
        *check_sight(model, settings.episode),
        *check_thoughts(model, settings.episode, config.data.get("apply_chat_template_kwargs")),
        *check_video_root(settings),
        *check_data(config, settings, "train_files", MADE_WITH),
        *(check_data(config, settings, "val_files", MADE_WITH) if config.data.val_files else ()),
        *_check_dataset(config),
        *_check_batches(config),
        *check_loggers(config),
    ]


def _check_dataset(config: DictConfig) -> Iterator[str]:
    """Settings under which verl would read the traces in another way."""
    data = config.data
    if OmegaConf.select(data, "custom_cls.name") != "VideoSearchSFTDataset":
        yield (
            "data.custom_cls.name must be 'VideoSearchSFTDataset', got "
            f"{OmegaConf.select(data, 'custom_cls.name')!r}: verl's own data set knows no window"
        )
    if data.pad_mode != "no_padding":
        yield (
            f"data.pad_mode must be 'no_padding', got {data.pad_mode!r}: sequences differ in length"
        )
    if data.get("videosearch") is None:
        yield (
            "data.videosearch is not set; a recipe's data needs the line `videosearch: "
            "${videosearch}`"
        )
    if data.use_dynamic_bsz and data.max_token_len_per_gpu < data.max_length:
        yield (
            f"data.max_token_len_per_gpu ({data.max_token_len_per_gpu}) must hold one sequence of "
            f"data.max_length = {data.max_length} tokens"
        )


def _check_batches(config: DictConfig) -> Iterator[str]:
    ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    parallel = config.engine.get("ulysses_sequence_parallel_size", 1) or 1
    batch = config.data.train_batch_size
    if ranks % parallel:
        yield (
            f"engine.ulysses_sequence_parallel_size ({parallel}) must divide the number of ranks, "
            f"trainer.nnodes * trainer.n_gpus_per_node = {ranks}"
        )
        return
    if batch < 1 or batch % (ranks // parallel):
        yield (
            f"data.train_batch_size ({batch}) must be a multiple of the {ranks // parallel} "
            "ranks that "
            "share it"
        )
    files = list_files(config.data.train_files)
    if all(Path(file).expanduser().is_file() for file in files):
        most = count_rows(files) * 4  # a trace of three calls is at most so many sequences
        if batch > most:
            yield (
                f"data.train_batch_size ({batch}) is larger than the data, {count_rows(files)} "
                "traces: "
                "no step would be made"
            )
