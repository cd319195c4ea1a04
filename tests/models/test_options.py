"""One set of options says who writes replies, in every program the same."""

from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner, Result

from verl_videosearch.models.options import takes_source
from verl_videosearch.models.source import ModelSource

app = typer.Typer()
got: list[Any] = []


@app.command()
@takes_source(temperature=0.7)
def ask(
    out: Annotated[Path, typer.Option(help="Folder.")],
    source: ModelSource,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 3,
) -> None:
    """Ask something."""
    got.append((out, source, seed))


@app.command()
@takes_source()
def probe(source: ModelSource, model: Annotated[str, typer.Option()] = "as before") -> None:
    """Ask again."""
    got.append((source, model))


def run(*arguments: str) -> Result:
    got.clear()
    return CliRunner().invoke(app, arguments)


def test_all_options_reach_the_source() -> None:
    result = run(
        *("ask", "--out", "folder", "--endpoint", "http://a/v1", "--endpoint", "http://b/v1"),
        *("--model", "m", "--extra-body", '{"top_k": 5, "temperature": null}', "--timeout-s", "7"),
        *("--chat-template-kwargs", '{"enable_thinking": false}', "--rate", "60"),
        *("--max-tokens-parameter", "max_completion_tokens", "--key-variable", "MY_KEY"),
        *("--max-turn-tokens", "77", "--top-p", "0.9"),
    )
    assert result.exit_code == 0, result.output
    ((out, source, seed),) = got
    assert (out, seed) == (Path("folder"), 3)
    assert source == ModelSource(
        endpoints=("http://a/v1", "http://b/v1"),
        model="m",
        extra_body={"top_k": 5, "temperature": None},
        chat_template_kwargs={"enable_thinking": False},
        max_tokens_parameter="max_completion_tokens",
        key_variable="MY_KEY",
        temperature=0.7,  # this program's own default
        top_p=0.9,
        max_turn_tokens=77,
        timeout_s=7.0,
        max_requests_per_minute=60.0,
        seed=3,
    )


def test_a_checkpoint_is_served_with_options(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    options = ("--serve-option=--max-model-len=9", "--serve-option", "--dtype=half")
    result = run("ask", "--out", "o", "--serve", str(tmp_path), *options, "--replicas", "2")
    assert result.exit_code == 0, result.output
    assert got[0][1].serve_options == ("--max-model-len=9", "--dtype=half")
    assert got[0][1].num_replicas == 2


def test_a_parameter_of_the_command_keeps_its_option_to_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert run("probe", "--local", str(tmp_path), "--model", "mine").exit_code == 0
    assert got[0][1] == "mine" and got[0][0].model == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give one of --endpoint URL"),
        (["--endpoint", "http://a/v1"], "give --model"),
        (["--endpoint", "http://u:s3cret@a:x/v1", "--model", "m"], "must be a URL"),
        (["--endpoint", "http://a", "--model", "m", "--extra-body", "{"], "--extra-body takes"),
        (["--endpoint", "http://a", "--model", "m", "--extra-body", "[1]"], "takes a JSON object"),
        (["--local", "nowhere\x1b[2J"], "nowhere\\x1b[2J is no model"),
        (["--local", ".", "--serve", "."], "give one of"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(arguments: list[str], words: str) -> None:
    result = run("ask", "--out", "o", *arguments)
    assert result.exit_code == 2 and not got
    assert "error: " in result.output and words in result.output
    assert "Traceback" not in result.output and "s3cret" not in result.output


def test_every_option_has_help() -> None:
    output = run("ask", "--help").output
    for name in ("--endpoint", "--serve", "--local", "--model", "--extra-body", "--replicas"):
        assert name in output


def test_a_default_that_is_none_of_ours_is_a_mistake() -> None:
    with pytest.raises(TypeError, match="no options of a source"):
        takes_source(heat=1.0)
