"""The node `videosearch`: every default, every mistake, all of them at once."""

from dataclasses import asdict
from typing import Any

import pytest

from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.reward import RewardConfig
from verl_videosearch.verl_plugin.alarms import AlarmConfig
from verl_videosearch.verl_plugin.settings import FramesConfig, RolloutConfig, Settings, SftConfig


def test_an_empty_node_gives_the_defaults() -> None:
    defaults = Settings(
        *(EpisodeConfig(), RewardConfig(), RolloutConfig(), FramesConfig(), SftConfig()),
        AlarmConfig(),
    )
    assert Settings.from_dict({}) == defaults
    assert Settings.from_dict({"episode": None, "frames": {}}) == Settings.from_dict({})


def test_defaults() -> None:
    assert asdict(RolloutConfig()) == {
        "max_turn_tokens": 1024,
        "episode_timeout_s": 900.0,
        "group_timeout_s": 900.0,
        "max_running_episodes": 32,
        "max_failed_groups": 64,
        "max_sampled_batches": 10.0,
        "episodes_dir": None,
    }
    assert asdict(FramesConfig()) == {
        "video_root": None,
        "store_dir": None,
        "max_gigabytes": 100.0,
        "decode_timeout_s": 60.0,
    }


def test_values_reach_their_groups() -> None:
    settings = Settings.from_dict(
        {
            "episode": {"window": None},
            "reward": {"gain_weight": 0},
            "rollout": {"max_turn_tokens": 7, "episode_timeout_s": 1, "episodes_dir": "episodes"},
            "frames": {"video_root": "videos"},
            "sft": {"train_native_thought": False},
            "alarms": {"window_steps": 4},
        }
    )
    assert settings.episode.window is None
    assert settings.reward.gain_weight == 0
    assert (settings.rollout.max_turn_tokens, settings.rollout.episodes_dir) == (7, "episodes")
    assert settings.frames.video_root == "videos"
    assert not settings.sft.train_native_thought
    assert settings.alarms == AlarmConfig(window_steps=4)


MISTAKES = [
    (
        {"rollout": {"max_turn_tokens": 0}},
        "videosearch.rollout: RolloutConfig: max_turn_tokens must be a whole number of at least 1",
    ),
    (
        {"rollout": {"max_turn_tokens": 0.5}},
        "max_turn_tokens must be a whole number of at least 1, got 0.5",
    ),
    (
        {"rollout": {"max_turn_tokens": True}},
        "max_turn_tokens must be a whole number of at least 1, got True",
    ),
    (
        {"rollout": {"max_turn_tokens": "12"}},
        "max_turn_tokens must be a whole number of at least 1, got '12'",
    ),
    (
        {"rollout": {"max_failed_groups": 1.5}},
        "max_failed_groups must be a whole number of at least 1, got 1.5",
    ),
    (
        {"rollout": {"max_failed_groups": None}},
        "max_failed_groups must be a whole number of at least 1, got None",
    ),
    ({"rollout": {"episode_timeout_s": 0}}, "episode_timeout_s must be a positive number, got 0"),
    (
        {"rollout": {"episode_timeout_s": -1.0}},
        "episode_timeout_s must be a positive number, got -1.0",
    ),
    (
        {"rollout": {"group_timeout_s": float("inf")}},
        "group_timeout_s must be a positive number, got inf",
    ),
    (
        {"rollout": {"group_timeout_s": float("nan")}},
        "group_timeout_s must be a positive number, got nan",
    ),
    (
        {"rollout": {"max_sampled_batches": "10"}},
        "max_sampled_batches must be a positive number, got '10'",
    ),
    ({"rollout": {"episodes_dir": 5}}, "episodes_dir must be a folder or null, got 5"),
    ({"rollout": {"episodes_dir": ""}}, "episodes_dir must be a folder or null, got ''"),
    ({"frames": {"video_root": ["a"]}}, "video_root must be a folder or null, got ['a']"),
    ({"frames": {"store_dir": False}}, "store_dir must be a folder or null, got False"),
    ({"frames": {"max_gigabytes": 0}}, "max_gigabytes must be a positive number, got 0"),
    (
        {"frames": {"decode_timeout_s": None}},
        "decode_timeout_s must be a positive number, got None",
    ),
    (
        {"frames": {"max_gb": 5}},
        "videosearch.frames: FramesConfig: unknown setting 'max_gb'",
    ),
    (
        {"episode": {"windw": 1}},
        "videosearch.episode: EpisodeConfig: unknown setting 'windw', perhaps 'window'?",
    ),
    (
        {"episode": {"window": 0}},
        "videosearch.episode: EpisodeConfig: window must be a whole number",
    ),
    (
        {"reward": {"gain_weight": -1}},
        "videosearch.reward: RewardConfig: gain_weight must be a number",
    ),
    (
        {"alarms": {"window_steps": 5}},
        "videosearch.alarms: AlarmConfig: bad alarm settings: window_steps must be an even whole",
    ),
    (
        {"alarms": {"window": 4}},
        "videosearch.alarms: AlarmConfig: unknown setting 'window'",
    ),
    ({"episode": 5}, "videosearch.episode must be a group of settings, got 5"),
    ({"episode": "full"}, "videosearch.episode must be a group of settings, got 'full'"),
    ({"frames": []}, "videosearch.frames must be a group of settings, got []"),
    (
        {"episodes": {}},
        "unknown groups ['episodes']; allowed are ['episode', 'reward', 'rollout', 'frames', "
        "'sft', 'alarms']",
    ),
]


@pytest.mark.parametrize(("node", "message"), MISTAKES)
def test_a_mistake_is_named(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Settings.from_dict(node)
    assert message in str(caught.value)


def test_all_mistakes_are_named_at_once() -> None:
    node = {
        "typo": 1,
        "episode": {"window": 0, "max_tool_calls": -1},
        "rollout": {"max_turn_tokens": 0, "unknown": 1},
        "frames": {"max_gigabytes": -5},
        "alarms": {"max_verdict_share": 90},
    }
    with pytest.raises(ValueError) as caught:
        Settings.from_dict(node)
    names = (
        "typo",
        "window",
        "max_tool_calls",
        "max_turn_tokens",
        "unknown",
        "max_gigabytes",
        "max_verdict_share",
    )
    assert not [name for name in names if name not in str(caught.value)]


def test_the_store_follows_its_settings(tmp_path: Any) -> None:
    store = FramesConfig(
        store_dir=str(tmp_path / "store"), max_gigabytes=0.5, decode_timeout_s=3
    ).open_store()
    assert (store.root, store.max_bytes, store.timeout_s) == (tmp_path / "store", 500_000_000, 3)
