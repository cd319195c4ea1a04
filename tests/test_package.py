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
CORE = ["frames", "judgement", "sample", "metrics", "prompts", "memory", "tool", "episode"]
CORE += ["reward", "video", "sources", "recipes", "rollout", "runs", "cli"]
COMPOSE = ["-m", "verl.trainer.main_ppo", "+recipe=videosearch_grpo", "--cfg", "job"]


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


def copy_checkout(folder: Path) -> Path:
    """Copy the checkout, so that no old build folder can leak into what is built from it."""
    left_out = shutil.ignore_patterns(".*", "outputs", "build", "dist", "*.egg-info", "__pycache__")
    return Path(shutil.copytree(ROOT, folder / "source", ignore=left_out))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [UV, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable]
    run(*build, "-o", folder, folder=copy_checkout(folder))
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


def install(python: Path, *what: object, folder: Path) -> None:
    """Install without what it needs: this environment's packages are seen behind its own."""
    options = ["--quiet", "--offline", "--no-deps", "--no-build-isolation", "--python", python]
    (site_packages(python) / "heavy.pth").write_text(sysconfig.get_path("purelib"))
    run(UV, "pip", "install", *options, *what, folder=folder)


def test_the_wheel_carries_recipes_and_no_tests(wheel: Path) -> None:
    names = run(sys.executable, "-m", "zipfile", "-l", wheel, folder=wheel.parent)
    assert set(re.findall(r"^(\w+)/", names, re.MULTILINE)) == {"verl_videosearch"}
    shipped = [*ROOT.glob("recipes/recipe/*.yaml"), *ROOT.glob("recipes/*.sh")]
    shipped += [*ROOT.glob("recipes/*.py"), *ROOT.glob("data_prep/**/*.py")]
    missing = [
        path for path in shipped if f"verl_videosearch/{path.relative_to(ROOT)}" not in names
    ]
    assert len(shipped) > 30 and not missing


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_ours_is_found_beside_others_of_the_same_name(
    kind: str, wheel: Path, tmp_path: Path
) -> None:
    """torchtune installs a top-level `recipes`; Hydra then took `+recipe=...` for a plain value and
    verl composed another algorithm, without a word."""
    python, empty = make_environment(tmp_path), tmp_path / "empty"
    checkout = copy_checkout(tmp_path)
    install(python, *([wheel] if kind == "wheel" else ["--editable", checkout]), folder=tmp_path)
    for name in ("recipes", "data_prep"):
        other = site_packages(python) / name
        (other / "recipe").mkdir(parents=True)
        (other / "__init__.py").write_text("raise ImportError('not ours')\n")
        (other / "recipe/videosearch_grpo.yaml").write_text("algorithm: {adv_estimator: rloo}\n")
    empty.mkdir()
    for folder in (empty, *([checkout] if kind == "editable" else [])):
        where = run(python, "-c", "import verl_videosearch as v; print(v.__file__)", folder=folder)
        assert where.startswith(str(tmp_path))
        config = run(python, *COMPOSE, folder=folder)
        assert "\nrecipe: " not in config, "Hydra took the recipe for a plain value"
        assert "adv_estimator: grpo" in config and "trainer_mode: videosearch" in config
        for program in ("data_prep.split", "data_prep.hide_and_seek", "recipes.stage"):
            run(python, "-m", f"verl_videosearch.{program}", "--help", folder=folder)


def test_the_core_needs_only_the_base_install(wheel: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path)
    pins = tmp_path / "pins.txt"
    pins.write_text(
        "\n".join(re.findall(r"^[\w.-]+==[^\\\n]+", LOCK.read_text("utf-8"), re.MULTILINE))
    )
    command = [UV, "pip", "install", "--quiet", "--python", python, "--constraint", pins, wheel]
    if subprocess.run([*command, "--offline"], cwd=tmp_path, capture_output=True).returncode:
        run(*command, folder=tmp_path)
    assert not list(site_packages(python).glob("torch*"))
    for module in CORE:
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
