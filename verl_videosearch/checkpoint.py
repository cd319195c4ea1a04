"""videosearch.json: a checkpoint says how it was trained, so nobody asks it otherwise unawares.

The one idea: a judge is trained on a window, a number of frames, dimensions and words; asked with
others it answers worse, silently. So training writes them into the Hugging Face folder, and whoever
opens the folder compares::

    write_checkpoint_settings(folder, config, sample.dimensions)       # SFT, RFT, GRPO
    check_checkpoint(folder, config, sample.dimensions)                # every program that plays it

A difference is an error that names every setting; `is_overridden=True` accepts it on purpose. A
prompt pack of the user's own is copied beside it, so the folder can be moved and asked from
anywhere.

Covers: what the model reads and may do. Does not cover: how it was optimised (the recipe)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.judgement import Dimension
from verl_videosearch.prompts import BUILT_IN, PromptPack, load_pack
from verl_videosearch.sample import PreferenceSample

FILE_NAME = "videosearch.json"
PACK_NAME = "prompt_pack.yaml"
"""The copy of a prompt pack that is a file."""
FORMAT = 1
"""Version of the file."""
OVERRIDE = "--accept-other-settings"
"""The option of every program by which a difference is accepted."""
_FREE = ("prompt_pack", "native_thought")
"""Settings that may differ by name: a pack is compared by its words, and what a thought is follows
from the model."""


@dataclass(frozen=True)
class CheckpointSettings:
    """How a checkpoint was trained."""

    episode: Mapping[str, Any]
    """`EpisodeConfig` as plain data."""
    dimensions: tuple[Dimension, ...]
    """What it was asked to judge; those of the first sample, where samples differ."""
    words: Mapping[str, str | None]
    """Every word of the prompt pack."""
    words_hash: str
    """Of the pack (`PromptPack.words_hash`)."""
    package_version: str
    """Of this package, when the checkpoint was written."""

    @property
    def config(self) -> EpisodeConfig:
        """The episode settings, to judge as it was trained."""
        return EpisodeConfig.from_dict(self.episode)


def describe_settings(config: EpisodeConfig, dimensions: Sequence[Dimension]) -> CheckpointSettings:
    """Return what is to be remembered of a training."""
    pack: PromptPack = load_pack(config.prompt_pack)
    return CheckpointSettings(
        episode=json.loads(json.dumps(asdict(config))),
        dimensions=tuple(dimensions),
        words=dict(pack.words),
        words_hash=pack.words_hash,
        package_version=metadata.version("verl-videosearch"),
    )


def write_checkpoint_settings(
    folder: str | Path, config: EpisodeConfig, dimensions: Sequence[Dimension]
) -> Path:
    """Write `videosearch.json` into a checkpoint's folder, whole or not at all; a prompt pack of
    the user's own first."""
    content = {"format": FORMAT, **asdict(describe_settings(config, dimensions))}
    if config.prompt_pack not in BUILT_IN:
        # as it was read when the training began: the file may be another one by now
        _write(Path(folder) / PACK_NAME, config.pack.to_yaml())
        content["episode"]["prompt_pack"] = PACK_NAME
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    return _write(Path(folder) / FILE_NAME, text)


def _write(path: Path, text: str) -> Path:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, "utf-8")
    draft.replace(path)
    return path


def read_checkpoint_settings(folder: str | Path) -> CheckpointSettings | None:
    """Read how a checkpoint was trained; None when its folder does not say (a base model).

    Raises `ValueError` for a file that cannot be read: torn, or of a newer package."""
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}; read it with the package that wrote it")
        content["dimensions"] = tuple(Dimension(**each) for each in content["dimensions"])
        pack = path.with_name(PACK_NAME)
        if content["episode"].get("prompt_pack") == PACK_NAME and pack.is_file():
            content["episode"]["prompt_pack"] = str(pack)
        return CheckpointSettings(**content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def compare_settings(
    trained: CheckpointSettings,
    config: EpisodeConfig,
    dimensions: Sequence[Dimension] | None = None,
) -> list[str]:
    """Name every difference between a training and what is asked now; none for an empty list.

    `dimensions` None compares no dimensions."""
    asked = json.loads(json.dumps(asdict(config)))
    default = json.loads(json.dumps(asdict(EpisodeConfig())))
    before = {**default, **_rename(trained.episode)}
    differences = [
        f"{name} was {before[name]!r} in training, is {asked[name]!r}"
        for name in asked
        if name not in _FREE and before[name] != asked[name]
    ]
    pack = load_pack(config.prompt_pack)
    if pack.words_hash != trained.words_hash:
        changed = [entry for entry, text in pack.words.items() if trained.words.get(entry) != text]
        differences.append(
            f"the words of prompt pack {config.prompt_pack!r} are others than in training "
            f"({', '.join(changed) or 'how answers are read'})"
        )
    if dimensions is not None and tuple(dimensions) != trained.dimensions:
        keys = [[each.key for each in group] for group in (trained.dimensions, dimensions)]
        words = "" if keys[0] != keys[1] else " (their names or explanations)"
        differences.append(f"dimensions were {keys[0]} in training, are {keys[1]}{words}")
    return differences


def check_checkpoint(
    folder: str | Path,
    config: EpisodeConfig,
    dimensions: Sequence[Dimension] | None = None,
    *,
    is_overridden: bool = False,
) -> CheckpointSettings | None:
    """Raise `ValueError` when a checkpoint is asked otherwise than it was trained.

    Returns how it was trained, or None when its folder does not say. `is_overridden` accepts every
    difference."""
    trained = read_checkpoint_settings(folder)
    if trained is None or is_overridden:
        return trained
    differences = compare_settings(trained, config, dimensions)
    if differences:
        raise ValueError(
            f"{folder} was trained otherwise than it is asked ({FILE_NAME}): "
            + "; ".join(differences)
            + ". Judge as it was trained (without --recipe its own settings are taken), or "
            "accept the "
            f"difference with {OVERRIDE}"
        )
    return trained


def check_samples(
    folder: str | Path | None,
    config: EpisodeConfig,
    samples: Iterable[PreferenceSample],
    *,
    is_overridden: bool = False,
) -> None:
    """`check_checkpoint` for every set of dimensions that the samples ask for; a folder of None
    says
    nothing."""
    if folder is None:
        return
    for dimensions in dict.fromkeys(sample.dimensions for sample in samples):
        check_checkpoint(folder, config, dimensions, is_overridden=is_overridden)


def _rename(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read settings that an older package wrote under other names."""
    former = EpisodeConfig.FORMER_NAMES
    return {former.get(name, name): value for name, value in settings.items()}


def explain_no_model(folder: Path) -> str:
    """Say why a folder is no checkpoint, and what to give."""
    why = "no such folder"
    if os.path.exists(folder):
        why = "it has no config.json" if os.path.isdir(folder) else "a file, not a folder"
    return f"{folder} is no model: {why}; give a Hugging Face folder"
