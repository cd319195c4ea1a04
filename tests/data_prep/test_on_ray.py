"""Shards as Ray tasks: every shard runs once, a failing one stops no other, and the end puts them
together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("ray")

from verl_videosearch.data_prep.on_ray import run_shard

ROOT = Path(__file__).parents[2]
PROGRAM = """
import pathlib, sys
out = pathlib.Path(sys.argv[1])
shard = sys.argv[3].replace("/", "-of-") if "--shard" in sys.argv else "merged"
(out / shard).write_text(" ".join(sorted(path.name for path in out.iterdir())))
print("hello from", shard)
sys.exit(shard in sys.argv[1].split("+"))
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a module that leaves a file named after its shard, and fails where its folder says
    so."""
    (tmp_path / "sharded.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    return "sharded"


def test_a_shard_says_how_it_ended(program: str, tmp_path: Path) -> None:
    assert run_shard([program, str(tmp_path)], str(tmp_path), 1, 4) == (1, 0, "hello from 1-of-4\n")
    assert (tmp_path / "1-of-4").exists()


@pytest.mark.slow_start
@pytest.mark.parametrize(("failing", "status"), [("", 0), ("+1-of-3+", 1)])
def test_all_shards_run_and_are_put_together(
    program: str, tmp_path: Path, failing: str, status: int
) -> None:
    out = tmp_path / f"out{failing}"
    out.mkdir()
    command = [
        sys.executable,
        "-m",
        "data_prep.on_ray",
        "3",
        "--gpus",
        "0",
        "--cpus",
        "0.5",
        "--",
        program,
        str(out),
    ]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=200
    )
    assert result.returncode == status, result.stdout + result.stderr
    shards = {"0-of-3", "1-of-3", "2-of-3"}
    assert {path.name for path in out.iterdir()} == shards | (set() if failing else {"merged"})
    if failing:
        assert (
            "shard 1 of 3 failed (exit 1)" in result.stdout and "hello from 1-of-3" in result.stdout
        )
    else:
        assert set((out / "merged").read_text().split()) == shards
