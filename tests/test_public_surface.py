"""What `import verl_videosearch` shows, and what it does not load."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import verl_videosearch


def run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout


def test_the_public_names_are_there() -> None:
    from verl_videosearch.episode import Episode, EpisodeConfig
    from verl_videosearch.rollout import run_episode
    from verl_videosearch.sample import PreferenceSample

    assert verl_videosearch.__version__ == version("verl-videosearch")
    assert verl_videosearch.Episode is Episode and verl_videosearch.EpisodeConfig is EpisodeConfig
    assert verl_videosearch.run_episode is run_episode
    assert verl_videosearch.PreferenceSample is PreferenceSample
    assert set(verl_videosearch.__all__) <= set(dir(verl_videosearch))
    with pytest.raises(AttributeError, match="no attribute 'Evaluate'"):
        _ = verl_videosearch.Evaluate


def test_importing_the_package_loads_nothing() -> None:
    program = (
        "import sys, verl_videosearch\n"
        "print(*[name for name in sys.modules if name.startswith('verl_videosearch')])"
    )
    assert run(program).split() == ["verl_videosearch"]


def test_no_public_name_loads_torch() -> None:
    program = (
        "import sys, verl_videosearch as v\n"
        "for name in v.__all__: getattr(v, name)\n"
        "assert callable(v.evaluate)\n"
        "print(*{'torch', 'verl', 'ray', 'vllm', 'transformers'} & set(sys.modules))"
    )
    assert run(program).split() == []
