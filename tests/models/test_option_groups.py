"""A group of options is typed once, and every command that takes it has the same words for it."""

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from verl_videosearch.models.option_groups import RunOptions, takes_group


def ask(*words: str, **defaults: object) -> tuple[int, str, list[RunOptions]]:
    """Run a command that takes the group; returns its status, its output and what it was given."""
    given: list[RunOptions] = []
    app = typer.Typer()

    @app.command()
    @takes_group(RunOptions, **defaults)
    def command(
        name: Annotated[str, typer.Argument()], run: RunOptions, loud: bool = False
    ) -> None:
        given.append(run)

    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.output, given


def test_options_arrive_as_one_value_with_the_defaults_of_the_program() -> None:
    assert ask("a")[2] == [RunOptions()]
    assert ask("a", concurrency=16)[2] == [RunOptions(concurrency=16)]
    status, _, given = ask("a", "--concurrency", "3", "--forget-failures", "--loud", concurrency=16)
    assert status == 0 and given == [RunOptions(concurrency=3, forget_failures=True)]


def test_bad_values_and_unknown_defaults_are_refused() -> None:
    status, output, given = ask("a", "--max-failed-share", "2")
    assert status == 2 and "max-failed-share" in output and given == []
    with pytest.raises(TypeError, match="RunOptions has no options"):
        takes_group(RunOptions, speed=3)
