"""docs/data.md names the columns, sources, splits and options that there are."""

import importlib
import re
from pathlib import Path

import pytest
import typer

from verl_videosearch.sample import SCHEMA
from verl_videosearch.sources import SOURCES

TEXT = (Path(__file__).parents[1] / "docs" / "data.md").read_text("utf-8")
PROGRAMS = ("build", "split", "frames", "show")


def table_after(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its two head lines."""
    lines = TEXT.split(f"## {heading}\n", 1)[1].splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_columns() -> None:
    assert [
        name for row in table_after("The row") for name in re.findall(r"`(\w+)`", row[0])
    ] == SCHEMA.names


def test_sources_and_splits() -> None:
    listed = {row[0].strip("`"): row[1].split(", ") for row in table_after("The sets")}
    assert listed == {name: list(source.splits) for name, source in SOURCES.items()}


def options_of(program: str) -> set[str]:
    app = typer.Typer()
    app.command()(importlib.import_module(f"data_prep.{program}").main)
    return {option for parameter in typer.main.get_command(app).params for option in parameter.opts}


@pytest.mark.parametrize("program", PROGRAMS)
def test_options_of_every_command(program: str) -> None:
    commands = re.findall(rf"python -m data_prep\.{program} ([^#\n]*)", TEXT)
    assert commands
    assert {
        option for command in commands for option in re.findall(r"--[a-z-]+", command)
    } <= options_of(program)


def test_options_in_the_text() -> None:
    assert set(re.findall(r"`(--[a-z-]+)", TEXT)) <= set().union(*map(options_of, PROGRAMS))
