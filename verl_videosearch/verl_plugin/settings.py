"""Our settings inside verl's config: the node `videosearch` that a recipe adds.

The one idea: one node, six plain groups, each a frozen dataclass that refuses unknown names and
bad values; everything else in a recipe is verl's own. It stands in the main config (not in a file
of its own), so that `videosearch.episode.window=2` on the command line is plain Hydra::

    videosearch:
      episode: {window: 1}                 -> EpisodeConfig  (verl_videosearch/episode.py)
      reward: {gain_weight: 0.2}           -> RewardConfig   (verl_videosearch/reward.py)
      rollout: {max_turn_tokens: 1024}     -> RolloutConfig  (here)
      frames: {max_gigabytes: 200}         -> FramesConfig   (here)
      sft: {train_native_thought: false}   -> SftConfig      (here)
      alarms: {min_search_rate: 0.2}       -> AlarmConfig
                                           (verl_videosearch/verl_plugin/alarms.py)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from verl_videosearch.config import check, read_config
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.reward import RewardConfig, load_function
from verl_videosearch.verl_plugin.alarms import AlarmConfig
from verl_videosearch.video.store import FrameStore


@dataclass(frozen=True)
class RolloutConfig:
    """How episodes run inside verl."""

    max_turn_tokens: int = 1024
    """Most tokens of one reply."""
    episode_timeout_s: float = 900.0
    """Most seconds of one episode, from the first frame to the verdict; then the whole group fails
    and is replaced."""
    max_running_episodes: int = 32
    """Episodes that one agent worker runs at once; the others wait, without images. More than
    vLLM's cache holds gains nothing, and every one holds its images in host memory
    (`videosearch plan`)."""
    group_timeout_s: float = 900.0
    """Most seconds a finished episode waits for its siblings."""
    max_failed_groups: int = 64
    """Failed groups in one step after which training stops with the reasons: the data or the
    machine is broken."""
    max_sampled_batches: float = 10.0
    """Rollout batches one step may sample until enough groups have signal (dynamic sampling); then
    training stops."""
    episodes_dir: str | None = None
    """Folder for one JSON line per episode (`episodes-*.jsonl`); null writes none."""

    def __post_init__(self) -> None:
        _refuse_bad_values(self)


@dataclass(frozen=True)
class SftConfig:
    """What supervised training teaches beside the replies."""

    train_native_thought: bool = True
    """Teach the native thoughts that a thinking model's traces hold; false leaves them in the
    context of their reply and out of the loss. GRPO trains whatever was sampled."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class FramesConfig:
    """Where videos and decoded frames are."""

    video_root: str | None = None
    """Folder that relative video paths start from; null if all paths are absolute."""
    store_dir: str | None = None
    """Folder of the frame store; null is the user's cache folder. On several machines: a local disk
    on each."""
    max_gigabytes: float = 100.0
    """Size of the frame store in 10^9 bytes; the least recently used entries go first."""
    decode_timeout_s: float = 60.0
    """Most seconds for one video."""

    def __post_init__(self) -> None:
        _refuse_bad_values(self)

    def open_store(self) -> FrameStore:
        """Open the frame store that all worker processes of a machine share."""
        folder = {} if self.store_dir is None else {"root": self.store_dir}
        return FrameStore(
            **folder, max_bytes=int(self.max_gigabytes * 1e9), timeout_s=self.decode_timeout_s
        )


_KINDS = {
    "int": ("a whole number of at least 1", lambda value: type(value) is int and value >= 1),
    "float": (
        "a positive number",
        lambda value: type(value) in (int, float) and 0 < value < float("inf"),
    ),
    "str | None": (
        "a folder or null",
        lambda value: value is None or (isinstance(value, str) and value != ""),
    ),
}
"""What a setting may be, by the annotation of its field."""


def _refuse_bad_values(config: Any) -> None:
    """Raise one `ValueError` for every setting that is not of its field's kind."""
    problems = []
    for field in fields(config):
        wanted, is_allowed = _KINDS[field.type]
        value = getattr(config, field.name)
        if not is_allowed(value):
            problems.append(f"{field.name} must be {wanted}, got {value!r}")
    if problems:
        raise ValueError("; ".join(problems))


@dataclass(frozen=True)
class Settings:
    """All of the node `videosearch`."""

    episode: EpisodeConfig
    reward: RewardConfig
    rollout: RolloutConfig
    frames: FramesConfig
    sft: SftConfig
    alarms: AlarmConfig

    @classmethod
    def from_dict(cls, node: Mapping[str, Any]) -> Settings:
        """Read the node; every mistake in it is named in one `ValueError`."""
        groups = {
            "episode": EpisodeConfig,
            "reward": RewardConfig,
            "rollout": RolloutConfig,
            "frames": FramesConfig,
            "sft": SftConfig,
            "alarms": AlarmConfig,
        }
        unknown = sorted(set(node) - set(groups))
        problems = (
            [f"videosearch: unknown groups {unknown}; allowed are {list(groups)}"]
            if unknown
            else []
        )
        configs = {}
        for name, config_class in groups.items():
            settings = {} if node.get(name) is None else node[name]
            if not isinstance(settings, Mapping):
                problems.append(f"videosearch.{name} must be a group of settings, got {settings!r}")
                continue
            try:
                if name == "episode":
                    configs[name] = EpisodeConfig.from_dict(settings)
                    configs[name].check_words()
                    continue
                configs[name] = read_config(config_class, settings)
                if name == "reward":
                    load_function(configs[name])
            except ValueError as error:
                problems.append(f"videosearch.{name}: {error}")
        if problems:
            raise ValueError("\n".join(problems))
        return cls(**configs)
