"""A judge of video pairs that searches frames before it decides, trained and served as a plugin of
verl.

The one idea: everything about frames, memory, prompts, verdicts and rewards is plain Python on
messages and images (no torch); only `verl_plugin` on top knows tokens. One `Episode` drives
training, evaluation and serving.

    from verl_videosearch import Judge                # which of my two videos is better, and why?

Importing this package loads nothing; `Judge` comes when it is asked for. Where to look: `prompts` for what
the model reads, `episode` for what a turn does, `memory` for what is forgotten, `reward` for what
is paid, `sample` for a row of data.
"""

from importlib import import_module
from typing import Any

_EXPORTS = {"Judge": "verl_videosearch.judge.judge"}
"""Names that are loaded when they are asked for, and where from."""


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
