"""JudgeConfig: how pairs are judged; who writes the replies is `ModelSource`'s.

>>> config, drawn = split_settings(JudgeConfig(), {"concurrency": 2, "temperature": 0.5})
>>> config.concurrency, drawn
(2, {'temperature': 0.5})

Covers: the settings of a `Judge`, by name. Does not cover: those of the HTTP server
(`server.settings`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from verl_videosearch.config import above, at_least, check
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.judgement import Dimension
from verl_videosearch.models.source import ModelSource
from verl_videosearch.sample import Order

BOTH_ORDERS = tuple(Order)


@dataclass(frozen=True)
class JudgeConfig:
    """How pairs are judged; what writes the replies is `ModelSource`'s."""

    episode: EpisodeConfig | None = None
    """Settings of an episode; null: the model's own (`videosearch.json`), else the defaults."""
    dimensions: tuple[Dimension, ...] | None = None
    """What is judged besides overall; null: what the model was trained on, else the defaults."""
    accepts_other_settings: bool = False
    """Ask a checkpoint of ours otherwise than it was trained; false refuses, with what differs."""
    orders: tuple[Order, ...] = BOTH_ORDERS
    """Both orders cost twice as much and show whether the judge only likes the first video."""
    calibration: Path | None = None
    """File of `videosearch calibrate`; null: the one that lies beside the model's files, if any."""
    store: Path | None = None
    """Folder of decoded frames; null: the default one."""
    cache: Path | None = None
    """SQLite file that remembers episodes; null: remembered until the judge is closed."""
    concurrency: int = 8
    """Episodes in flight."""
    timeout_s: float | None = 600.0
    """Most seconds of one episode; null waits for ever."""
    deadline_s: float | None = None
    """Most seconds of one call, all retries included; null waits for its episodes."""
    max_tries: int = 5
    """Tries of one episode when the server is busy or away."""

    def __post_init__(self) -> None:
        problems = [] if self.orders else ["orders must name at least one order"]
        if len(keys := [d.key for d in self.dimensions or ()]) > len(set(keys)):
            problems.append(f"dimensions must have different keys, got {keys}")
        check(
            self,
            problems,
            concurrency=at_least(1),
            timeout_s=above(0),
            deadline_s=above(0),
            max_tries=at_least(1),
        )


def split_settings(
    config: JudgeConfig, settings: Mapping[str, Any]
) -> tuple[JudgeConfig, dict[str, Any]]:
    """Tell fields of `JudgeConfig` from those of `ModelSource`; other names are a `ValueError`."""
    ours, theirs = JudgeConfig.__dataclass_fields__, ModelSource.__dataclass_fields__
    if unknown := sorted(set(settings) - set(ours) - set(theirs)):
        raise ValueError(
            f"unknown settings {unknown}; allowed are {sorted(ours)} (how pairs are judged) and "
            f"{sorted(set(theirs) - {'secrets', 'kept'})} (who writes)"
        )
    own = {name: value for name, value in settings.items() if name in ours}
    if isinstance(own.get("episode"), Mapping):
        own["episode"] = EpisodeConfig.from_dict(own["episode"])
    for name in ("calibration", "store", "cache"):
        if own.get(name) is not None:
            own[name] = Path(own[name])
    return replace(config, **own), {n: v for n, v in settings.items() if n not in ours}
