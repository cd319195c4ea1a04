"""Wherever a model comes from - a server, a checkpoint served here, a folder - `eval` and `probe`
do the same."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("httpx")

from tests.models.test_client import GREY, make_context  # noqa: E402
from tests.scripted_server import Handler, ScriptedServer, serve_scripts  # noqa: E402
from tests.seeing_judge import EPISODE, serve_judge, write_pairs  # noqa: E402
from verl_videosearch.cli import app  # noqa: E402
from verl_videosearch.failures import EpisodeFailure, ServerUnusable  # noqa: E402
from verl_videosearch.models import source as source_module  # noqa: E402
from verl_videosearch.models.replica import Replica  # noqa: E402
from verl_videosearch.models.source import KeptServers, ModelSource  # noqa: E402
from verl_videosearch.runs.identity import hash_model  # noqa: E402
from verl_videosearch.runs.play import derive_seed  # noqa: E402
from verl_videosearch.runs.record_file import read_records  # noqa: E402

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
    """Stands in for `serve_replicas`, whose real server takes half a minute to start."""

    server: ScriptedServer
    starts: list[tuple[Any, ...]] = field(default_factory=list)
    num_running: int = 0

    @contextmanager
    def __call__(
        self, checkpoint: Path, model: str, log: Path, options: Sequence[str], num_replicas: int
    ) -> Iterator[list[Replica]]:
        self.starts.append((checkpoint, model, log, list(options)))
        self.num_running += num_replicas
        yield [RunningReplica(self.server)] * num_replicas
        self.num_running -= num_replicas


class RunningReplica(Replica):
    """A replica whose server is a scripted one that runs already."""

    def __init__(self, server: ScriptedServer) -> None:
        super().__init__([], server.server_address[1], Path("server.log"))

    @property
    def is_ready(self) -> bool:
        return True


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServing]:
    with serve_judge() as server:
        fake = FakeServing(server)
        monkeypatch.setattr(source_module, "serve_replicas", fake)
        yield fake


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def check(result: Result) -> None:
    assert result.exit_code == 0, result.output


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


URL = "http://localhost/v1"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "give one of --endpoint URL, --serve CHECKPOINT and --local CHECKPOINT"),
        ({"endpoints": (URL,), "model": "m", "local": "checkpoint"}, "give one of"),
        ({"serve": "checkpoint", "local": "checkpoint"}, "give one of"),
        ({"endpoints": (URL,)}, "model is empty; give --model"),
        ({"endpoints": ("localhost",), "model": "m"}, "must be a URL that starts with http"),
        ({"local": "empty"}, "empty is no model: it has no config.json"),
        ({"serve": "nowhere"}, "nowhere is no model"),
        (
            {"local": "checkpoint", "serve_options": ("--dtype=half",)},
            r"is for --serve; got \['--dtype=half'\]",
        ),
        ({"local": "checkpoint", "num_replicas": 2}, "--replicas is for --serve; got 2"),
        ({"serve": "checkpoint", "num_replicas": 0}, "num_replicas must be a whole number"),
        ({"local": "checkpoint", "temperature": -1.0}, "temperature must be a number of at least"),
        ({"local": "checkpoint", "top_p": 2.0}, "top_p must be a number from 0 to 1"),
        ({"local": "checkpoint", "extra_body": {"n": 2}}, r"extra_body must not hold \['n'\]"),
    ],
    ids=str,
)
def test_a_source_is_one_model(checkpoint: Path, given: dict[str, Any], words: str) -> None:
    (checkpoint.parent / "empty").mkdir()
    folders = {
        name: checkpoint.parent / given[name] for name in ("serve", "local") if name in given
    }
    with pytest.raises(ValueError, match=words):
        ModelSource(**{**given, **folders})


def test_all_mistakes_are_said_at_once(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"temperature .*; .*top_p .*; .*give one of"):
        ModelSource(temperature=-1.0, top_p=7.0)


def test_a_folder_is_known_only_if_it_is_here(checkpoint: Path) -> None:
    for source in (ModelSource(local=checkpoint), ModelSource(serve=checkpoint)):
        assert (source.folder, source.name) == (checkpoint, "checkpoint")
    assert ModelSource(endpoints=(URL,), model="m").folder is None


def test_a_password_is_in_nothing_that_is_shown() -> None:
    source = ModelSource(endpoints=("http://anna:s3cret@host/v1", "http://host2/v1"), model="m")
    again = replace(source, temperature=0.5)
    assert source.endpoints == again.endpoints == ("http://host/v1", "http://host2/v1")
    assert again._reveal("http://host/v1") == "http://anna:s3cret@host/v1"
    assert "s3cret" not in f"{source!r} {source.describe()} {asdict(source)}"
    with pytest.raises(ValueError) as error:
        ModelSource(endpoints=("htp://anna:s3cret@host",), model="m")
    assert "s3cret" not in str(error.value)


def test_what_decides_the_replies_is_described_without_an_address() -> None:
    greedy = ModelSource(endpoints=(URL,), model="m", seed=7)
    assert greedy.describe() == {"model": "m", "temperature": 0.0, "max_turn_tokens": 1024}
    sampled = replace(greedy, temperature=0.8, extra_body={"top_k": 5})
    assert sampled.describe() == greedy.describe() | {
        "temperature": 0.8,
        "top_p": 1.0,
        "seed": 7,
        "extra_body": {"top_k": 5},
    }


@pytest.mark.parametrize("kind", ["endpoints", "serve"])
def test_a_server_is_asked_as_the_source_says(
    checkpoint: Path, serving: FakeServing, kind: str
) -> None:
    place = {"serve": checkpoint} if kind == "serve" else {"endpoints": (serving.server.url,)}
    source = ModelSource(
        **place, model="tiny", temperature=0.8, max_turn_tokens=77, timeout_s=3.0, top_p=0.9
    )

    async def start() -> None:
        async with source.open(checkpoint.parent / "log") as model:
            first, second = model.for_episode("a AB", 7), model.for_episode("a BA")
            assert first.usage is not second.usage
            assert (first.seed, second.seed) == (7, derive_seed(0, "a BA"))
            config = first.config
            assert (config.model, config.temperature, config.max_turn_tokens) == ("tiny", 0.8, 77)
            assert (config.timeout_s, config.extra_body) == (3.0, {"top_p": 0.9})
            assert serving.num_running == (kind == "serve") and model.num_replicas == 1

    asyncio.run(start())
    assert serving.num_running == 0
    assert serving.starts == (
        [(checkpoint, "tiny", checkpoint.parent / "log", [])] if kind == "serve" else []
    )


def test_a_greedy_episode_has_no_seed(serving: FakeServing) -> None:
    async def start() -> None:
        async with ModelSource(endpoints=(serving.server.url,), model="tiny").open() as model:
            assert model.for_episode("a AB").seed is None

    asyncio.run(start())


def test_several_servers_share_the_episodes_and_keep_them() -> None:
    """Each episode asks twice; both times the server that it began on."""

    async def play(servers: list[ScriptedServer]) -> None:
        urls = tuple(server.url for server in servers)
        async with ModelSource(endpoints=urls, model="tiny").open() as model:
            assert model.num_replicas == 3

            async def play_one(number: int) -> None:
                generate = model.for_episode(f"{number} AB")
                for _ in range(2):
                    await generate(make_context(f"number {number}"), [GREY])

            await asyncio.gather(*(play_one(number) for number in range(12)))

    with serve_scripts() as a, serve_scripts() as b, serve_scripts() as c:
        asyncio.run(play([a, b, c]))
    for server in (a, b, c):
        counts = Counter(server.behaviours)
        assert len(counts) == 4 and set(counts.values()) == {2}


def test_a_server_that_fails_gets_no_new_episodes() -> None:
    async def play(urls: tuple[str, ...], other: ScriptedServer) -> list[str]:
        async with ModelSource(endpoints=urls, model="tiny").open() as model:
            failures = []
            for number in range(8):
                try:
                    await model.for_episode(str(number))(make_context("broken"), [GREY])
                except EpisodeFailure as failure:
                    failures.append(failure.sample_uid)
            return failures

    with serve_scripts() as good, serve_scripts() as bad:
        bad.RequestHandlerClass = type(
            "Broken",
            (Handler,),
            {"behave": lambda self, *_: self.send_json(503, {"error": "busy"})},
        )
        failures = asyncio.run(play((good.url, bad.url), bad))
    assert len(failures) == 1 and len(good.requests) == 7


def test_servers_of_different_checkpoints_are_refused() -> None:
    class RootedHandler(Handler):
        def do_GET(self) -> None:
            entry = {"id": "tiny", "owned_by": "vllm", "root": f"/models/{self.server.server_port}"}
            self.send_json(200, {"data": [entry]})

    async def start(urls: tuple[str, ...]) -> None:
        async with ModelSource(endpoints=urls, model="tiny").open():
            pass

    with serve_scripts() as a, serve_scripts() as b:
        a.RequestHandlerClass = b.RequestHandlerClass = RootedHandler
        with pytest.raises(ServerUnusable, match="different checkpoints"):
            asyncio.run(start((a.url, b.url)))


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


@dataclass
class KeptServer:
    """What a source asks of a server that is kept from an earlier run."""

    url: str
    is_given_up: bool = False
    is_ready: bool = True
    will_be_given_up: bool = False

    async def wait_until_ready(self) -> None:
        if self.is_given_up or self.will_be_given_up:
            raise ServerUnusable("no more starts")


@pytest.mark.parametrize("num_well", [1, 2])
@pytest.mark.parametrize("when", ["is_given_up", "will_be_given_up"])
def test_a_kept_server_that_is_gone_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_well: int, when: str
) -> None:
    (tmp_path / "config.json").write_text("{}")
    dead = KeptServer("http://127.0.0.1:1/v1", is_ready=False, **{when: True})
    with serve_scripts() as a, serve_scripts() as b:
        well = [KeptServer(each.url) for each in (a, b)][:num_well]
        monkeypatch.setattr(KeptServers, "enter", lambda self, servers: [dead, *well])
        monkeypatch.setattr(KeptServers, "is_running", True)

        async def count() -> int:
            source = ModelSource(serve=tmp_path, model="tiny", kept=KeptServers(), num_replicas=3)
            async with source.open(tmp_path / "log") as model:
                return model.num_replicas

        assert asyncio.run(count()) == num_well


@pytest.mark.parametrize("how", ["not kept", "kept and new", "kept and all gone"])
def test_a_new_server_that_does_not_come_up_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    (tmp_path / "config.json").write_text("{}")
    kept = None if how == "not kept" else KeptServers()
    well = [] if how == "kept and all gone" else [KeptServer("http://127.0.0.1:2/v1")]
    servers = [KeptServer("http://127.0.0.1:1/v1", will_be_given_up=True), *well]
    if kept and how == "kept and all gone":
        kept.enter(nullcontext(servers))
    monkeypatch.setattr(source_module, "serve_replicas", lambda *_: nullcontext(servers))

    async def open_it() -> None:
        async with ModelSource(serve=tmp_path, model="tiny", kept=kept).open(tmp_path / "log"):
            pass

    with pytest.raises(ServerUnusable, match="no more starts"):
        asyncio.run(open_it())


def test_a_server_that_does_not_come_up_is_one_error(
    pairs: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("the model server ended with status 1:\nno memory")

    monkeypatch.setattr(source_module, "serve_replicas", fail)
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
        (["--local", "nowhere"], "nowhere is no model: no such folder"),
        (["--local", __file__], "is no model: a file, not a folder"),
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
    records = read_records(out / "episodes.jsonl").records
    assert [record.order.value for record in records] == ["AB", "BA"] * 3
    usages = [record.usage for record in records]
    assert all(0 < each.num_reply_tokens <= 4 < each.num_prompt_tokens for each in usages)
    # each its own, as the prompts differ in length
    assert len({each.num_prompt_tokens for each in usages}) == 3
    before = (out / "episodes.jsonl").read_bytes()
    journal = (out / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (out / "journal.jsonl").write_bytes(b"".join(journal[:2]))
    check(run(*arguments))
    assert (out / "episodes.jsonl").read_bytes() == before
