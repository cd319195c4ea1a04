"""Imports between our modules go one way only, and message space loads nothing heavy."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the bottom up. A room imports only rooms further down.
ORDER = """
extras
failures
config
frames
judgement
reply
sample
metrics
prompts
memory
tool
episode
checkpoint
sight
reward
video
sources
recipe
rollout
runs
report
from_scratch
verl_plugin
models
evaluation
judge
data_prep
recipes
machine
planning
cli
__init__
__main__
"""
LEVEL = {room: level for level, line in enumerate(ORDER.split("\n")) for room in line.split()}
SOURCES = [
    p
    for top in ("verl_videosearch", "data_prep", "recipes")
    for p in sorted((ROOT / top).rglob("*.py"))
]


def room_of(module_name: str) -> str | None:
    """Name the room of one of our modules: `verl_videosearch.models.client` -> `models`; None for
    anybody else's."""
    parts = module_name.split(".")
    if parts[0] == "verl_videosearch":
        return parts[1] if len(parts) > 1 else "__init__"
    return parts[0] if parts[0] in ("data_prep", "recipes") else None


def imported_names(source: Path) -> Iterator[str]:
    """Yield the full name of everything that a file imports, at any depth."""
    package = source.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(source.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            yield from (
                ".".join([*start, *filter(None, [node.module]), alias.name]) for alias in node.names
            )


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(source: Path) -> None:
    room = room_of(".".join(source.relative_to(ROOT).with_suffix("").parts))
    assert room in LEVEL, f"{room} has no place in the order: add it to ORDER above"
    upward = {
        name
        for name in imported_names(source)
        if LEVEL.get(room_of(name) or room, 99) > LEVEL[room]
    }
    assert not upward, f"{room} is below what it imports: {sorted(upward)}"


def test_message_space_loads_nothing_heavy() -> None:
    heavy = {"torch", "verl", "ray", "transformers", "vllm"}
    program = f"import sys, verl_videosearch.rollout; print(*{heavy} & set(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert loaded.split() == []


def test_only_the_plugin_imports_verl() -> None:
    importing = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if re.search(r"^\s*(from|import) verl[. ]", path.read_text("utf-8"), re.MULTILINE)
    }
    assert importing
    assert {path for path in importing if "verl_plugin/" not in path} == set()
