"""Wherever a model comes from - a server, a checkpoint served here, a folder - `eval` and `probe`
do the same."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("openai")

from tests.scripted_server import ScriptedServer  # noqa: E402
from tests.seeing_judge import EPISODE, serve_judge, write_pairs  # noqa: E402
from verl_videosearch.cli import app  # noqa: E402
from verl_videosearch.models import source as source_module  # noqa: E402
from verl_videosearch.models.source import Decoding, ModelSource  # noqa: E402
from verl_videosearch.runs.identity import hash_model  # noqa: E402

SETTINGS = [word for each in EPISODE for word in ("--set", each)]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Make a folder that looks like a model from outside."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@dataclass
class FakeServing:
    """Stands in for `serve_checkpoint`, whose real server takes half a minute to start."""

    server: ScriptedServer
    starts: list[tuple[Any, ...]] = field(default_factory=list)
    num_running: int = 0

    @contextmanager
    def __call__(
        self, checkpoint: Path, model: str, log: Path, options: Sequence[str]
    ) -> Iterator[str]:
        self.starts.append((checkpoint, model, log, list(options)))
        self.num_running += 1
        yield self.server.url
        self.num_running -= 1


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServing]:
    with serve_judge() as server:
        fake = FakeServing(server)
        monkeypatch.setattr(source_module, "serve_checkpoint", fake)
        yield fake


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def check(result: Result) -> None:
    assert result.exit_code == 0, result.output


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "give one of --endpoint URL, --serve CHECKPOINT and --local CHECKPOINT"),
        ({"endpoint": "http://localhost/v1", "local": "checkpoint"}, "give one of"),
        ({"serve": "checkpoint", "local": "checkpoint"}, "give one of"),
        (
            {"endpoint": "http://localhost/v1", "serve": "checkpoint", "local": "checkpoint"},
            "give one of",
        ),
        (
            {"local": "empty"},
            "empty is no model: it has no config.json; give a Hugging Face folder",
        ),
        ({"serve": "nowhere"}, "nowhere is no model"),
        (
            {"local": "checkpoint", "serve_options": ["--dtype=half"]},
            r"is for --serve; got \['--dtype=half'\]",
        ),
    ],
)
def test_a_source_is_one_model(checkpoint: Path, given: dict[str, Any], words: str) -> None:
    (checkpoint.parent / "empty").mkdir()
    folders = {
        name: checkpoint.parent / given[name] for name in ("serve", "local") if name in given
    }
    with pytest.raises(ValueError, match=words):
        ModelSource(**{**given, **folders})


def test_a_folder_is_known_only_if_it_is_here(checkpoint: Path) -> None:
    assert (
        ModelSource(local=checkpoint).folder == ModelSource(serve=checkpoint).folder == checkpoint
    )
    assert ModelSource(endpoint="http://localhost/v1").folder is None


@pytest.mark.parametrize(("kind", "max_retries"), [("endpoint", 5), ("serve", 1)])
def test_a_server_is_asked_as_decoding_says(
    checkpoint: Path, serving: FakeServing, kind: str, max_retries: int
) -> None:
    source = ModelSource(**{kind: checkpoint if kind == "serve" else serving.server.url})

    async def start() -> None:
        async with source.open(
            Decoding("judge", 0.8, 77, 3.0), checkpoint.parent / "log"
        ) as start_episode:
            first, second = start_episode(7), start_episode(None)
            assert first.usage is not second.usage
            assert (first.config.extra_body, second.config.extra_body) == ({"seed": 7}, {})
            config = first.config
            assert (config.model, config.temperature, config.max_turn_tokens) == ("judge", 0.8, 77)
            assert (config.timeout_s, config.max_retries) == (3.0, max_retries)
            assert serving.num_running == (kind == "serve")

    asyncio.run(start())
    assert serving.num_running == 0
    assert serving.starts == (
        [(checkpoint, "judge", checkpoint.parent / "log", [])] if kind == "serve" else []
    )


def test_a_checkpoint_is_served_for_a_run_and_for_its_probe(
    pairs: Path, checkpoint: Path, serving: FakeServing, tmp_path: Path
) -> None:
    out, probe = tmp_path / "run", tmp_path / "probe"
    place = [
        "--serve",
        checkpoint,
        "--serve-option=--max-model-len=4096",
        "--serve-option",
        "--dtype=half",
    ]
    arguments = ["eval", "--benchmark", pairs, "--model", "judge", *place, "--out", out, *SETTINGS]
    check(run(*arguments))
    results = read(out / "results.json")
    assert results["overall"]["with_ties"]["correct"] == 12
    assert results["header"]["model_hash"] == hash_model(
        checkpoint
    )  # nobody has to name the files again
    assert serving.starts == [
        (checkpoint, "judge", out / "server.log", ["--max-model-len=4096", "--dtype=half"])
    ]
    check(run(*arguments))
    assert len(serving.starts) == 1  # a finished run needs no server
    check(
        run(
            "probe",
            out,
            "--video-root",
            pairs.parent,
            "--out",
            probe,
            *place,
            "--replacement",
            "blank",
        )
    )
    assert serving.starts[1:] == [
        (checkpoint, "judge", probe / "server.log", ["--max-model-len=4096", "--dtype=half"])
    ]
    assert read(probe / "results.json")["figures"]["blank"]["changed"]["correct"] == 18
    assert serving.num_running == 0


def test_a_server_that_does_not_come_up_is_one_error(
    pairs: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("the model server ended with status 1:\nno memory")

    monkeypatch.setattr(source_module, "serve_checkpoint", fail)
    result = run(
        "eval",
        "--benchmark",
        pairs,
        "--model",
        "m",
        "--serve",
        checkpoint,
        "--out",
        tmp_path / "run",
    )
    assert (
        result.exit_code == 2
        and "error: the model server ended with status 1:\nno memory" in result.output
    )
    assert "Traceback" not in result.output


@pytest.mark.parametrize("verb", ["eval", "probe"])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "give one of --endpoint URL"),
        (["--endpoint", "http://localhost:1/v1", "--local", "."], "give one of --endpoint URL"),
        (["--local", "nowhere"], "nowhere is no model: it has no config.json"),
        (
            ["--endpoint", "http://localhost:1/v1", "--serve-option=--dtype=half"],
            "--serve-option is for --serve",
        ),
    ],
)
def test_a_wrong_source_is_one_line(
    pairs: Path, tmp_path: Path, verb: str, given: list[str], words: str
) -> None:
    what = ["--benchmark", pairs, "--model", "m"] if verb == "eval" else [tmp_path]
    result = run(verb, *what, *given, "--out", tmp_path / "out")
    assert (
        result.exit_code == 2
        and words in " ".join(result.output.split())
        and "Traceback" not in result.output
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_is_judged_in_this_process(pairs: Path, tmp_path: Path) -> None:
    """A random model writes nothing readable: every verdict is unreadable, thus wrong, and no
    episode has failed."""
    pytest.importorskip("verl")
    from tests.engine import model_dir  # torch

    out = tmp_path / "run"
    place = [
        "--benchmark",
        pairs,
        "--model",
        "tiny",
        "--local",
        model_dir(),
        "--max-turn-tokens",
        "4",
    ]
    arguments = ["eval", *place, "--out", out, "--recipe", "videosearch_grpo_tiny", "--limit", "3"]
    check(run(*arguments))
    results, settings = read(out / "results.json"), read(out / "run.json")
    assert results["header"]["model_hash"] == hash_model(model_dir()) and results["failures"] == {}
    assert (
        results["overall"]["unreadable"]["correct"],
        results["overall"]["with_ties"]["correct"],
    ) == (3, 0)
    assert (settings["temperature"], settings["seed"], settings["max_turn_tokens"]) == (0.0, 0, 4)
    lines = [json.loads(line) for line in (out / "episodes.jsonl").read_text().splitlines()]
    assert [line["order"] for line in lines] == ["AB", "BA"] * 3
    assert all(0 < line["num_reply_tokens"] <= 4 < line["num_prompt_tokens"] for line in lines)
    assert (
        len({line["num_prompt_tokens"] for line in lines}) == 3
    )  # each its own, as the prompts differ in length
    before = (out / "episodes.jsonl").read_bytes()
    journal = (out / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (out / "journal.jsonl").write_bytes(b"".join(journal[:2]))
    check(run(*arguments))
    assert (out / "episodes.jsonl").read_bytes() == before
