"""A judge of video pairs that searches frames before it decides, trained and served as a plugin of
verl.

The one idea: everything about frames, memory, prompts, verdicts and rewards is plain Python on
messages and images (no torch); only `verl_plugin` on top knows tokens. One `Episode` drives
training, evaluation and serving.

    from verl_videosearch import Episode, EpisodeConfig, PreferenceSample, evaluate, run_episode
    from verl_videosearch import Judge          # which of my two videos is better, and why?

Importing this package does nothing; each of these names loads its module when it is first used.
Where to look: `prompts` for what the model reads, `episode` for what a turn does, `memory` for what
is forgotten, `reward` for what is paid, `sample` for a row of data.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verl_videosearch.episode import Episode, EpisodeConfig
    from verl_videosearch.evaluation.evaluate import evaluate
    from verl_videosearch.judge.judge import Judge
    from verl_videosearch.rollout import run_episode
    from verl_videosearch.sample import PreferenceSample

__all__ = [
    "Episode",
    "EpisodeConfig",
    "Judge",
    "PreferenceSample",
    "__version__",
    "evaluate",
    "run_episode",
]

_HOMES = {
    "Episode": "episode",
    "EpisodeConfig": "episode",
    "Judge": "judge.judge",
    "PreferenceSample": "sample",
    "evaluate": "evaluation.evaluate",
    "run_episode": "rollout",
}
"""Public name to the module that holds it."""


def __getattr__(name: str) -> Any:
    """Load a public name, or the version, when it is first asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("verl-videosearch")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
