"""Opening: a judge's model, opened once, with everything that lies beside it.

    opening = Opening(source, config)
    ready = await opening.open()            # the second call returns the same
    await opening.close()

The one idea: a checkpoint of ours brings its own settings (`videosearch.json`) and perhaps a
calibration; whether it may be asked this way is decided before its server is started.

Covers: one model at a time; opening it anew when its server has died for good. Does not cover: what
it is asked (`pair_judge`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from verl_videosearch.checkpoint import check_checkpoint, read_checkpoint_settings
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.evaluation.calibration import Calibration, read_calibration
from verl_videosearch.judge.settings import JudgeConfig
from verl_videosearch.judgement import DEFAULT_DIMENSIONS, Dimension
from verl_videosearch.models.source import ModelSource, OpenModel
from verl_videosearch.runs.identity import (
    CALIBRATION_NAME,
    UNKNOWN_MODEL,
    hash_model,
    hash_names,
    hash_pair,
    list_model_files,
)
from verl_videosearch.runs.record import Identity
from verl_videosearch.sample import PreferenceSample


@dataclass
class ReadyModel:
    """A model that writes, and what goes with it."""

    model: OpenModel
    config: EpisodeConfig
    dimensions: tuple[Dimension, ...]
    calibration: Calibration | None
    identity: Identity
    decided_by: dict[str, Any] = field(default_factory=dict)
    """What decides an episode besides its pair, for the cache."""

    def check_calibration(self, samples: Sequence[PreferenceSample]) -> None:
        """Raise `CalibrationError` when the calibration was fitted on one of these pairs, or for
        another model."""
        if self.calibration is not None:
            self.calibration.check_use(
                [hash_pair(sample) for sample in samples],
                self.identity.model_hash or UNKNOWN_MODEL,
                [hash_names(sample) for sample in samples],
            )


class _Beside(NamedTuple):
    """What lies beside a model."""

    config: EpisodeConfig
    dimensions: tuple[Dimension, ...]
    calibration: Calibration | None
    model_hash: str | None
    """Null: not needed, or the folder is not known."""


class Opening:
    """Opens the model of a judge when it is first needed; knows nothing of the judge, so that it
    can be closed when the judge is gone."""

    def __init__(self, source: ModelSource, config: JudgeConfig) -> None:
        self.source, self.config = source, config
        self.ready: ReadyModel | None = None
        """The open model, if it is."""
        self._stack = AsyncExitStack()
        self._under_way: asyncio.Future[ReadyModel] | None = None

    async def open(self) -> ReadyModel:
        """Open the model once; a failure to do so is raised and may be mended.

        Whoever stops waiting (a deadline) stops nobody else: the model goes on opening."""
        if self.ready is not None and not self.ready.model.is_given_up:
            return self.ready
        if self._under_way is None:
            self._under_way = asyncio.ensure_future(self._open_anew())
            self._under_way.add_done_callback(self._end_opening)
        return await asyncio.shield(self._under_way)

    @property
    def is_away(self) -> bool:
        """True while nobody can be asked: the model is being opened, or its servers start again."""
        return self.ready is None or self.ready.model.is_away

    async def close(self) -> None:
        """End the model's server, if it is ours."""
        self.ready = None
        await self._stack.aclose()

    def _end_opening(self, opening: asyncio.Future[ReadyModel]) -> None:
        """Forget an opening that is through; its error is known even if nobody waits any more."""
        self._under_way = None
        if not opening.cancelled():
            opening.exception()

    async def _open_anew(self) -> ReadyModel:
        if self.ready is not None:
            await self.close()
        # refused before a server is started, where the folder is known by now
        beside = await asyncio.to_thread(self._look_beside, self.source.folder)
        # null: a log of its own each time, so that the one that an error names stays
        opening = self.source.open(None, beside.config.native_thought)
        model = await self._stack.enter_async_context(opening)
        try:
            self.ready = await asyncio.to_thread(self._prepare, model, beside)
        except BaseException:
            await self._stack.aclose()  # the next try opens it anew
            raise
        return self.ready

    def _choose_settings(self, folder: Path | None) -> tuple[EpisodeConfig, tuple[Dimension, ...]]:
        """Return how the model is asked: as it was told, else as it was trained, else the defaults.

        Raises `ValueError` when that is not how it was trained."""
        own_config, own_dimensions = read_model_settings(folder)
        config = self.config.episode or own_config or EpisodeConfig()
        config.check_words()
        dimensions = self.config.dimensions or own_dimensions or DEFAULT_DIMENSIONS
        if folder is not None:
            accepted = self.config.accepts_other_settings
            check_checkpoint(folder, config, dimensions, is_overridden=accepted)
        return config, dimensions

    def _look_beside(self, folder: Path | None) -> _Beside:
        """Read what lies beside a model; raises `ValueError` when it does not go with it."""
        config, dimensions = self._choose_settings(folder)
        calibration, model_hash = self._read_calibration(folder), None
        if calibration is not None and folder is not None:
            model_hash = hash_model(folder)
            calibration.check_use((), model_hash)
        return _Beside(config, dimensions, calibration, model_hash)

    def _prepare(self, model: OpenModel, beside: _Beside) -> ReadyModel:
        """Describe an open model; the folder of a server's is known only now."""
        folder = self.source.folder or _find_folder(model.model_root)
        if folder != self.source.folder:
            beside = self._look_beside(folder)
        config, dimensions, calibration, model_hash = beside
        decided_by = {
            "source": self.source.describe(),
            "servers": list(self.source.endpoints),
            "model": describe_files(folder),
            "episode": msgspec.to_builtins(config) | {"prompt_pack": None},  # its words decide
            "words": config.pack.words_hash,
        }
        identity = Identity(
            model=self.source.name, model_hash=model_hash, words_hash=config.pack.words_hash
        )
        plain = json.loads(json.dumps(decided_by))
        return ReadyModel(model, config, dimensions, calibration, identity, plain)

    def _read_calibration(self, folder: Path | None) -> Calibration | None:
        if self.config.calibration is not None:
            return read_calibration(self.config.calibration)
        beside = None if folder is None else folder / CALIBRATION_NAME
        return read_calibration(beside) if beside is not None and beside.is_file() else None


def read_model_settings(
    folder: Path | None,
) -> tuple[EpisodeConfig | None, tuple[Dimension, ...] | None]:
    """Return the episode settings and dimensions that a checkpoint of ours was trained with, if its
    folder says."""
    settings = None if folder is None else read_checkpoint_settings(folder)
    return (None, None) if settings is None else (settings.config, settings.dimensions)


def describe_files(folder: Path | None) -> list[list[Any]] | None:
    """Name the state of the files that decide what a model writes, without reading them: (name,
    size, time of change)."""
    if folder is None:
        return None
    files = list_model_files(folder)
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def _find_folder(model_root: str | None) -> Path | None:
    """Return the folder that a server on this machine has loaded, if it is one."""
    folder = None if model_root is None else Path(model_root)
    return folder if folder is not None and (folder / "config.json").is_file() else None
