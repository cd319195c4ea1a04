"""`videosearch data`: the programs of data_prep as verbs, imported when they are called."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from verl_videosearch.cli import app
from verl_videosearch.cli.data import PROGRAMS

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "TERM": "dumb"})
    return result.exit_code, re.sub(r"\s+", " ", result.output)


def test_every_program_of_data_prep_is_a_verb() -> None:
    """What lies at the top of data_prep is a program, and nothing else."""
    top = {path.stem for path in (ROOT / "data_prep").glob("*.py")} - {"__init__"}
    modules = {module.split(".")[0] for module, _ in PROGRAMS.values()}
    assert modules == top | {"hide_and_seek"}


def test_the_list_of_verbs_imports_no_program() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from verl_videosearch.cli import app; "
        "result = CliRunner().invoke(app, ['data', '--help']); assert not result.exit_code; "
        "print(result.output); "
        "print([name for name in sys.modules if 'data_prep.' in name or name == 'torch'])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "[]"
    assert all(name in said.stdout for name in PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_verb_is_the_program(name: str) -> None:
    status, said = run("data", name, "--help")
    assert status == 0 and f"data {name} [OPTIONS]" in said


def test_a_verb_runs(tmp_path: Path) -> None:
    status, said = run("data", "split", str(tmp_path / "none.parquet"), "--out", str(tmp_path))
    assert status == 2 and "no such file" in said


def test_an_unknown_verb_is_named() -> None:
    status, said = run("data", "splits")
    assert status == 2 and "No such command 'splits'" in said


def test_version() -> None:
    assert run("--version") == (0, f"verl-videosearch {version('verl-videosearch')} ")


def test_the_package_is_a_command() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "verl_videosearch", "--help"], capture_output=True, text=True
    )
    assert said.returncode == 0 and "Usage: videosearch" in said.stdout
    assert "--install-completion" in said.stdout
