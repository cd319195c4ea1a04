"""Checks of a supervised run (cold start, rejection sampling fine-tuning)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from verl_videosearch.verl_plugin.preflight.data import (
    check_data,
    check_video_root,
    count_rows,
    list_files,
)
from verl_videosearch.verl_plugin.preflight.engine import (
    SFT,
    check_engine,
    count_ranks,
    find_sequence_parallel,
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
        *find_setting_problems(config, settings),
        *check_folder("model.path", model),
        *check_sight(model, settings.episode),
        *check_thoughts(model, settings.episode, config.data.get("apply_chat_template_kwargs")),
        *_check_traces(config, settings, "train_files"),
        *(_check_traces(config, settings, "val_files") if config.data.val_files else ()),
        *_check_processes(config),
    ]


def find_setting_problems(config: DictConfig, settings: Settings) -> list[str]:
    """Return the mistakes that can be named before the model and the traces are made."""
    return [
        *check_video_root(settings),
        *_check_dataset(config),
        *_check_batches(config),
        *check_engine(config, SFT),
        *check_loggers(config),
    ]


def _check_traces(config: DictConfig, settings: Settings, key: str) -> Iterator[str]:
    """Read the files as the trainer will: every trace, made with the settings of this run."""
    from verl_videosearch.verl_plugin.sft_dataset import read_rows

    problems = list(check_data(config, settings, key, MADE_WITH))
    yield from problems
    if problems:
        return
    try:
        read_rows(list_files(config.data[key]), settings.episode)
    except ValueError as error:
        yield f"data.{key}: {error}"


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
    ulysses, size = find_sequence_parallel(config, "engine")
    budget = data.max_token_len_per_gpu * size
    if data.use_dynamic_bsz and budget < data.max_length:
        yield (
            f"data.max_token_len_per_gpu (times ulysses_sequence_parallel_size: {budget}) must "
            f"hold one sequence of data.max_length = {data.max_length} tokens; raise it, or "
            f"{ulysses} (now {size})"
        )


def _check_batches(config: DictConfig) -> Iterator[str]:
    ranks, batch = count_ranks(config), config.data.train_batch_size
    _, shared = find_sequence_parallel(config, "engine")
    if shared < 1 or ranks % shared:
        return  # the check of the engine says so
    if batch < 1 or batch % (ranks // shared):
        yield (
            f"data.train_batch_size ({batch}) must be a multiple of the {ranks // shared} ranks "
            "that share it"
        )
    files = list_files(config.data.train_files)
    if files and all(Path(file).expanduser().is_file() for file in files):
        most = count_rows(files) * 4  # a trace of three calls is at most so many sequences
        if batch > most:
            yield (
                f"data.train_batch_size ({batch}) is larger than the data, {count_rows(files)} "
                "traces: "
                "no step would be made"
            )


def _check_processes(config: DictConfig) -> Iterator[str]:
    """verl trains on as many ranks as torch.distributed.run started; our sums take the config's."""
    started = os.environ.get("WORLD_SIZE")
    if started is not None and int(started) != count_ranks(config):
        yield (
            f"torch.distributed.run started {started} processes, but trainer.nnodes * "
            f"trainer.n_gpus_per_node is {count_ranks(config)}: give --nproc_per_node and "
            "trainer.n_gpus_per_node the same number"
        )
