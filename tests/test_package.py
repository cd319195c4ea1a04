"""The wheel works where it lands: in another environment, from any folder, with and without the
heavy extras.

Nothing heavy is installed twice: the environment for verl sees this one's packages behind its own,
and the base environment takes the locked versions from uv's cache (from the network when the cache
lacks one).
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements/cpu.lock"
UV = Path(sysconfig.get_path("scripts")) / "uv"
CORE = [
    "frames",
    "judgement",
    "sample",
    "metrics",
    "video",
    "frame_store",
    "prompts",
    "memory",
    "tool",
    "episode",
]


def run(*command: object, folder: Path) -> str:
    """Run a program in `folder`, away from this checkout; its standard output, or a failure that
    shows everything."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHONPATH", "VIRTUAL_ENV"))
    }
    result = subprocess.run(
        [*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True
    )
    if result.returncode:
        pytest.fail(f"{command} ended with {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that no old build folder can leak into it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    left_out = shutil.ignore_patterns(".*", "outputs", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=left_out)
    run(
        UV,
        "build",
        "--quiet",
        "--wheel",
        "--no-build-isolation",
        "--python",
        sys.executable,
        "-o",
        folder,
        folder=source,
    )
    return next(folder.glob("*.whl"))


def make_environment(folder: Path) -> Path:
    """Make a virtual environment without packages; its interpreter."""
    run(UV, "venv", "--quiet", "--python", sys.executable, folder / "venv", folder=folder)
    return folder / "venv/bin/python"


def site_packages(python: Path) -> Path:
    return Path(
        run(
            python,
            "-c",
            "import sysconfig; print(sysconfig.get_path('purelib'))",
            folder=python.parent,
        ).strip()
    )


def test_the_wheel_carries_recipes_and_no_tests(wheel: Path) -> None:
    names = run(sys.executable, "-m", "zipfile", "-l", wheel, folder=wheel.parent)
    assert set(re.findall(r"^(\w+)/", names, re.MULTILINE)) == {
        "verl_videosearch",
        "recipes",
        "data_prep",
    }
    for recipe in (ROOT / "recipes/recipe").glob("*.yaml"):
        assert f"recipes/recipe/{recipe.name}" in names


def test_the_recipe_composes_from_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path)
    run(
        UV,
        "pip",
        "install",
        "--quiet",
        "--python",
        python,
        "--offline",
        "--no-deps",
        wheel,
        folder=tmp_path,
    )
    (site_packages(python) / "heavy.pth").write_text(sysconfig.get_path("purelib"))
    where = run(
        python, "-c", "import verl_videosearch; print(verl_videosearch.__file__)", folder=tmp_path
    )
    assert where.startswith(str(tmp_path))
    config = run(
        python,
        "-m",
        "verl.trainer.main_ppo",
        "+recipe=videosearch_grpo",
        "--cfg",
        "job",
        folder=tmp_path,
    )
    assert "\nrecipe: " not in config, (
        "Hydra took the recipe for a plain value: verl_plugin did not make the group known"
    )
    assert "adv_estimator: grpo" in config


def test_the_core_needs_only_the_base_install(wheel: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path)
    pins = tmp_path / "pins.txt"
    pins.write_text(
        "\n".join(re.findall(r"^[\w.-]+==[^\\\n]+", LOCK.read_text("utf-8"), re.MULTILINE))
    )
    install = [UV, "pip", "install", "--quiet", "--python", python, "--constraint", pins, wheel]
    if subprocess.run([*install, "--offline"], cwd=tmp_path, capture_output=True).returncode:
        run(*install, folder=tmp_path)
    assert not list(site_packages(python).glob("torch*"))
    for module in [*CORE, "reward", "rollout"]:
        run(python, "-c", f"import verl_videosearch.{module}", folder=tmp_path)


@pytest.mark.parametrize("requirement", requires("verl-videosearch"))
def test_the_lock_holds_what_the_metadata_asks_for(requirement: str) -> None:
    wanted = Requirement(requirement)
    if any(
        wanted.marker is None or wanted.marker.evaluate({"extra": extra})
        for extra in ("cpu", "demo", "dev")
    ):
        assert re.search(
            rf"^{re.escape(wanted.name)}==", LOCK.read_text("utf-8"), re.MULTILINE | re.IGNORECASE
        )
        assert version(wanted.name) in wanted.specifier
