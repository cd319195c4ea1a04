"""Rejection sampling plays every episode once, whatever happens, and chooses the same traces from
the same log."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result
from verl_videosearch.data_prep.rejection_sampling import main
from verl_videosearch.data_prep.traces.selection import (
    Choice,
    SelectionConfig,
    fill_shares,
    find_shortfall,
    read_verdict,
    select,
)
from verl_videosearch.data_prep.traces.trace_filter import Trace

from tests.replies import ANSWER, call_frames
from tests.scripted_server import BEHAVIOURS, Handler, ScriptedServer, serve_scripts
from verl_videosearch.episode import Reply
from verl_videosearch.models.replicas import serve_replicas
from verl_videosearch.models.serve import list_arguments
from verl_videosearch.models.server import run_server, wait_until_healthy
from verl_videosearch.models.source import ModelSource
from verl_videosearch.recipe import read_episode
from verl_videosearch.runs.identity import hash_model
from verl_videosearch.runs.play import make_key
from verl_videosearch.runs.record import EpisodeRecord, PlayedTurn, RecordKind
from verl_videosearch.runs.record_file import read_records
from verl_videosearch.sample import Order, PreferenceSample, read_samples, write_samples
from verl_videosearch.video.lossless import write_lossless

pytest.importorskip("httpx")

LABELS = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}
EPISODE = [
    "frames_per_video=8",
    "initial_frames_per_video=2",
    "max_frames_per_call=4",
    "max_tool_calls=2",
]


def make_pair(uid: str, prompt: str = "good", overall: int | None = 1) -> PreferenceSample:
    return PreferenceSample(uid, prompt, "1.mkv", "2.mkv", LABELS | {"OA": overall}, source="made")


def make_trace(
    uid: str,
    index: int = 0,
    replies: Sequence[str] = ("hm",),
    overall: int | None = 1,
    reasons: Sequence[str] = (),
    order: Order = Order.AB,
) -> Trace:
    record = EpisodeRecord(
        kind=RecordKind.SAMPLE,
        key=make_key(uid, order, index),
        uid=uid,
        sample=make_pair(uid, overall=overall),
        order=order,
        attempt=index,
        turns=tuple(PlayedTurn(reply=reply) for reply in replies),
    )
    return Trace(record, tuple(reasons), ())


# Choosing


@pytest.mark.parametrize(
    ("replies", "keep", "num_taken"),
    [
        (["aaa", "a", "aa"], 1, 1),
        (["aaa", "a", "aa"], 2, 2),
        (["a", "a", "bb"], 3, 2),  # equal replies count once
        (["a"], 9, 1),
        ([None, "aa", None], 1, 1),
        ([None], 1, 0),
    ],
)
def test_right_traces_of_an_input(replies: list[str | None], keep: int, num_taken: int) -> None:
    traces = [
        make_trace("a", index, [text or ""], reasons=() if text else ["wrong_OA"])
        for index, text in enumerate(replies)
    ]
    chosen = select(traces, SelectionConfig(keep=keep)).chosen
    assert len(chosen) == num_taken and all(trace.is_accepted for trace in chosen)


def test_right_traces_are_drawn_and_not_the_shortest() -> None:
    """Always the shortest would teach not to search."""
    traces = [
        make_trace(f"{number}", index, ["hm" * (1 + index)] * (1 + index))
        for number in range(300)
        for index in range(3)
    ]
    turns = Counter(len(trace.replies) for trace in select(traces, SelectionConfig()).taken)
    assert sum(turns.values()) == 300 and all(70 < count < 130 for count in turns.values())
    others = select(traces, SelectionConfig(seed=1)).taken
    assert others != select(traces, SelectionConfig(seed=0)).taken


def test_the_shortest_is_one_within_an_equal_number_of_turns() -> None:
    replies = [["long"], ["x"], ["longer"] * 2, ["y"] * 2]
    traces = [
        make_trace(f"{number}", index, each)
        for number in range(200)
        for index, each in enumerate(replies)
    ]
    taken = select(traces, SelectionConfig(choice=Choice.SHORTEST)).taken
    counts = Counter(trace.record.attempt for trace in taken)
    assert set(counts) == {1, 3} and all(70 < count < 130 for count in counts.values())
    both = select(traces, SelectionConfig(choice=Choice.SHORTEST, keep=4)).taken
    assert len(both) == 800


@pytest.mark.parametrize(
    ("sizes", "weights", "total", "shares"),
    [
        ({}, {}, 5, {}),
        ({1: 3}, {1: 1}, 5, {1: 3}),
        ({0: 10, 1: 10, 2: 10}, {0: 1, 1: 1, 2: 1}, 10, {0: 4, 1: 3, 2: 3}),
        ({0: 1, 1: 9, 2: 9}, {0: 1, 1: 1, 2: 1}, 9, {0: 1, 1: 4, 2: 4}),
        ({0: 9, 1: 1, 2: 2}, {0: 1, 1: 1, 2: 1}, 100, {0: 9, 1: 1, 2: 2}),
        ({0: 90, 1: 90, 2: 90}, {0: 1, 1: 2, 2: 2}, 100, {0: 20, 1: 40, 2: 40}),
        ({0: 90, 1: 10, 2: 90}, {0: 1, 1: 2, 2: 2}, 100, {0: 30, 1: 10, 2: 60}),
    ],
)
def test_shares_are_filled(
    sizes: dict[int, int], weights: dict[int, int], total: int, shares: dict[int, int]
) -> None:
    assert fill_shares(sizes, weights, total) == shares


@given(
    st.dictionaries(
        st.integers(0, 5), st.tuples(st.integers(0, 50), st.integers(1, 9)), max_size=6
    ),
    st.integers(0, 300),
)
def test_shares_are_all_that_can_be_given(groups: dict, total: int) -> None:
    sizes = {name: size for name, (size, _) in groups.items()}
    shares = fill_shares(sizes, {name: weight for name, (_, weight) in groups.items()}, total)
    assert sum(shares.values()) == min(total, sum(sizes.values()))
    assert all(0 <= shares[name] <= sizes[name] for name in sizes)


COUNTS = {(1, 1): 30, (1, 2): 6, (2, 1): 20, (0, 3): 10}
"""Traces by (verdict, turns)."""


@pytest.mark.parametrize(
    ("config", "taken"),
    [
        (SelectionConfig(), COUNTS),
        (SelectionConfig(target=33), {(1, 1): 12, (1, 2): 6, (2, 1): 10, (0, 3): 5}),
        (SelectionConfig(max_ratio=1), {(1, 1): 16, (1, 2): 6, (2, 1): 20, (0, 3): 10}),
        (SelectionConfig(max_ratio=1, target=9), {(1, 1): 1, (1, 2): 2, (2, 1): 3, (0, 3): 3}),
        (SelectionConfig(max_per_verdict=4), {(1, 1): 2, (1, 2): 2, (2, 1): 4, (0, 3): 4}),
    ],
)
def test_verdicts_and_turn_counts(
    config: SelectionConfig, taken: dict[tuple[int, int], int]
) -> None:
    traces = [
        make_trace(f"{verdict}-{turns}-{number}", replies=["hm"] * turns, overall=verdict)
        for (verdict, turns), count in COUNTS.items()
        for number in range(count)
    ]
    selection = select(traces, config)
    assert Counter((read_verdict(a), len(a.replies)) for a in selection.taken) == taken
    random.Random(0).shuffle(traces)
    assert select(traces, config) == selection  # whatever the order of the log


@pytest.mark.parametrize(
    ("counts", "least"),
    [
        ({None: 1, 0: 50, 1: 5000, 2: 5000}, 10_051),  # was 4: one trace without an overall label
        ({0: 50, 1: 5000, 2: 5000}, 10_050),  # was 150: few ties
    ],
)
def test_a_scarce_verdict_starves_nobody(counts: dict[int | None, int], least: int) -> None:
    traces = [
        make_trace(f"{verdict}-{number}", overall=verdict)
        for verdict, count in counts.items()
        for number in range(count)
    ]
    assert len(select(traces, SelectionConfig()).taken) == least
    full = select(traces, SelectionConfig(target=10_000)).taken
    assert len(full) == 10_000 and None not in Counter(map(read_verdict, full))
    even = select(traces, SelectionConfig(target=9000, max_ratio=1)).taken
    found = Counter(map(read_verdict, even))
    assert found[0] == 50 and found[1] == found[2] == 3000


def test_own_shares_are_those_of_the_pairs_and_not_of_the_right_ones() -> None:
    """Of 100 pairs each, all of one verdict are solved and a third of the other."""
    traces = [
        make_trace(
            f"{verdict}-{number}",
            overall=verdict,
            reasons=["wrong_OA"] if verdict == 2 and number % 3 else [],
        )
        for verdict in (1, 2)
        for number in range(100)
    ]
    taken = Counter(map(read_verdict, select(traces, SelectionConfig(target=60)).taken))
    assert taken == {1: 30, 2: 30}


def test_a_shortfall_is_told() -> None:
    traces = [make_trace(str(number)) for number in range(4)]
    for target, words in ((9, "only 4 of --target 9"), (8, ""), (None, "")):
        config = SelectionConfig(target=target)
        assert find_shortfall(select(traces, config), config).startswith(words)
        assert bool(words) == bool(find_shortfall(select(traces, config), config))


def test_another_seed_draws_others() -> None:
    traces = [make_trace(str(number)) for number in range(50)]
    first, same, other = (
        select(traces, SelectionConfig(target=10, seed=seed)).taken for seed in (0, 0, 1)
    )
    assert first == same != other


def test_a_wrong_selection_is_refused() -> None:
    with pytest.raises(ValueError, match=r"keep must be .* at least 1, got 0; max_ratio must be"):
        SelectionConfig(keep=0, max_ratio=0)


# Playing


class ChangingHandler(Handler):
    """Answers by seed: a long right episode, a short right one, or a wrong one; otherwise as its
    parent."""

    def behave(self, behaviour: str, turn: int) -> None:
        request = self.server.requests[-1]
        if behaviour == "changing":
            scripts = [BEHAVIOURS["good"], BEHAVIOURS["good_at_once"], BEHAVIOURS["wrong_labels"]]
            replies = scripts[request["seed"] % 3]
            self.send_reply(replies[min(turn, len(replies) - 1)], "stop")
        else:
            super().behave(behaviour, turn)


class MendedHandler(ChangingHandler):
    """Answers well what failed before."""

    def behave(self, behaviour: str, turn: int) -> None:
        mended = {"http_500": "good", "too_slow": "good"}
        super().behave(mended.get(behaviour, behaviour), turn)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one pair of videos."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for side in (1, 2):
        write_lossless(folder / f"{side}.mkv", rng.integers(0, 256, (8, 56, 56, 3), dtype=np.uint8))
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    with serve_scripts("vllm") as server:
        server.RequestHandlerClass = ChangingHandler
        yield server


def list_arguments_of(
    out: Path,
    videos: Path,
    pairs: Sequence[PreferenceSample],
    *options: str,
    servers: Sequence[ScriptedServer] = (),
) -> list[str]:
    """Write the pairs and return the program's arguments."""
    file = out.with_suffix(".parquet")
    write_samples(file, pairs)
    given = [f"--episode={setting}" for setting in EPISODE] + [
        f"--endpoint={server.url}" for server in servers
    ]
    return [
        "--pairs",
        str(file),
        "--video-root",
        str(videos),
        "--out",
        str(out),
        "--model",
        "tiny",
        *given,
        *options,
    ]


def run(arguments: list[str]) -> Result:
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


def read_keys(out: Path) -> Counter[str]:
    """Count the finished episodes in the logs by key."""
    files = [read_records(path) for path in out.glob("shard-*/journal.jsonl")]
    return Counter(record.key for file in files for record in file.records if record.has_result)


def read_results(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ("sft.parquet", "audit.json")}


def test_one_trace_per_input_and_nothing_is_lost(
    tmp_path: Path, videos: Path, server: ScriptedServer
) -> None:
    out = tmp_path / "out"
    prompts = ["changing"] * 6 + ["wrong_labels", "http_500", "too_slow"]
    pairs = [make_pair(f"{i}", prompt) for i, prompt in enumerate(prompts)]
    pairs.append(replace(make_pair("broken"), video_2="gone.mkv"))
    options = ["--samples", "4", "--request-timeout-s", "1"]
    result = run(list_arguments_of(out, videos, pairs, *options, servers=[server]))
    assert result.exit_code == 1 and not (out / "sft.parquet").exists(), result.output
    assert "28 of 40 episodes done, 8 to be repeated, 4 failed for good" in result.output
    server.RequestHandlerClass = MendedHandler
    result = run(
        list_arguments_of(
            out, videos, pairs, *options, "--max-failed-share", "0.1", servers=[server]
        )
    )
    assert result.exit_code == 0, result.output
    content = json.loads((out / "audit.json").read_text())
    assert (content["planned"], content["finished"], content["failed"]) == (40, 36, 4)
    reasons = content["not_accepted"]
    assert {name for name in reasons if name.startswith("failed")} == {"failed: video_missing"}
    everything = content["groups"][0]
    assert everything["num_accepted"] == 36 - reasons["wrong_OA"]
    assert everything["num_solved"] == everything["num_chosen"] == everything["num_taken"]
    assert [row["group"] for row in content["groups"]][1:4] == [
        "source made",
        "order AB",
        "verdict 1",
    ]
    assert "no episode of gold verdict" not in result.output
    rows = read_samples(out / "sft.parquet")
    assert len(rows) == everything["num_taken"] > 2 and all(
        row.prompt in ("changing", "http_500", "too_slow") for row in rows
    )


def test_the_request_says_how_to_sample(
    tmp_path: Path, videos: Path, server: ScriptedServer
) -> None:
    options = [
        "--samples",
        "3",
        "--temperature",
        "0.9",
        "--top-p",
        "0.95",
        "--max-turn-tokens",
        "77",
        "--max-ratio",
        "inf",
    ]
    assert (
        run(
            list_arguments_of(
                tmp_path / "out", videos, [make_pair("a")], *options, servers=[server]
            )
        ).exit_code
        == 0
    )
    sent = server.requests
    expected = {
        "temperature": 0.9,
        "top_p": 0.95,
        "max_tokens": 77,
        "top_k": 0,  # whatever the model's folder says: the policy is what is trained on
        "repetition_penalty": 1.0,
    }
    assert all(request[name] == value for request in sent for name, value in expected.items())
    seeds = Counter(request["seed"] for request in sent)
    assert sorted(seeds.values()) == [2, 2, 2]  # the turns of an episode share its seed


def test_each_row_says_where_it_comes_from(
    tmp_path: Path, videos: Path, server: ScriptedServer
) -> None:
    out, checkpoint = tmp_path / "out", tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    options = ["--checkpoint", str(checkpoint), "--both-orders", "--seed", "3"]
    run(list_arguments_of(out, videos, [make_pair("a")], *options, servers=[server]))
    (line,) = map(json.loads, (out / "provenance.jsonl").read_text().splitlines())
    assert line["checkpoint"] == hash_model(checkpoint)
    assert (line["model"], line["sampling"]["temperature"]) == ("tiny", 1.0)
    assert (line["sample_uid"], line["order"], line["index"]) == ("a", "AB", 0)
    assert line["seed"] in {request["seed"] for request in server.requests}
    assert line["num_reply_tokens"] == 20 and line["episode"]["frames_per_video"] == 8
    assert pq.read_metadata(out / "sft.parquet").num_rows == 1


def test_both_orders_are_played_and_swapped(
    tmp_path: Path, videos: Path, server: ScriptedServer
) -> None:
    out = tmp_path / "out"
    options = ["--both-orders", "--samples", "1"]
    result = run(list_arguments_of(out, videos, [make_pair("a")], *options, servers=[server]))
    assert set(read_keys(out)) == {"a AB 0", "a BA 0"}
    groups = {row["group"]: row for row in json.loads((out / "audit.json").read_text())["groups"]}
    assert "no episode of gold verdict 2 was accepted" in result.output
    assert groups["order AB"]["right"]["OA"] == 1.0 and groups["order BA"]["right"]["OA"] == 0.0


def test_servers_take_turns_and_stand_in_for_each_other(
    tmp_path: Path, videos: Path, server: ScriptedServer
) -> None:
    pairs = [make_pair(f"{i}") for i in range(6)]
    with serve_scripts("vllm") as second:
        servers = [server, second]
        assert (
            run(list_arguments_of(tmp_path / "both", videos, pairs, servers=servers)).exit_code == 0
        )
        assert len(server.requests) == len(second.requests) == 6 * 4
        second.RequestHandlerClass = type(
            "Dying",
            (Handler,),
            {"behave": lambda self, *_: self.send_json(503, {"error": {"message": "dying"}})},
        )
        result = run(list_arguments_of(tmp_path / "one", videos, pairs, servers=servers))
    assert result.exit_code == 0 and set(read_keys(tmp_path / "one").values()) == {1}
    assert sum(read_keys(tmp_path / "one").values()) == 24


def test_a_killed_run_goes_on_where_it_was(
    tmp_path: Path, videos: Path, server: ScriptedServer
) -> None:
    pairs = [make_pair(f"pair-{i:02d}", "slow" if i % 3 else "wrong_labels") for i in range(8)]
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    options = ["--concurrency", "2", "--samples", "3"]
    command = list_arguments_of(out, videos, pairs, *options, servers=[server])
    process = subprocess.Popen(
        [sys.executable, "-m", "verl_videosearch.data_prep.rejection_sampling", *command],
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    while sum(read_keys_while_written(out)) < 8 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    num_done = sum(read_keys_while_written(out))
    assert 8 <= num_done < 24
    with (out / "shard-0-of-1" / "journal.jsonl").open("ab") as file:
        file.write(b'{"key": "pair-')  # what a kill in the middle of a write leaves
    num_requests = len(server.requests)
    assert run(command).exit_code == 0
    assert len(server.requests) - num_requests == 24 - num_done
    assert (
        run(list_arguments_of(undisturbed, videos, pairs, *options, servers=[server])).exit_code
        == 0
    )
    assert read_keys(out) == read_keys(undisturbed) and set(read_keys(out).values()) == {1}
    assert read_results(out) == read_results(undisturbed)
    assert (out / "provenance.jsonl").read_bytes() == (
        undisturbed / "provenance.jsonl"
    ).read_bytes()


def read_keys_while_written(out: Path) -> list[int]:
    return [path.read_bytes().count(b"\n") for path in out.glob("shard-*/journal.jsonl")]


def test_a_finished_run_asks_for_nothing(
    tmp_path: Path, videos: Path, server: ScriptedServer
) -> None:
    arguments = list_arguments_of(
        tmp_path / "out", videos, [make_pair("a"), make_pair("b")], servers=[server]
    )
    assert run(arguments).exit_code == 0
    num_requests, results = len(server.requests), read_results(tmp_path / "out")
    assert run(arguments).exit_code == 0
    assert len(server.requests) == num_requests and read_results(tmp_path / "out") == results
    assert run([*arguments, "--samples", "6"]).exit_code == 0  # more of the same are added
    assert len(server.requests) == num_requests * 6 / 4


def test_shards_give_what_one_process_gives(
    tmp_path: Path, videos: Path, server: ScriptedServer
) -> None:
    pairs = [make_pair(f"{i}", "changing") for i in range(7)]
    whole = list_arguments_of(tmp_path / "whole", videos, pairs, servers=[server])
    parts = list_arguments_of(tmp_path / "parts", videos, pairs, servers=[server])
    assert run(whole).exit_code == 0
    for shard in ("0/2", "1/2"):
        assert run([*parts, "--shard", shard]).exit_code == 0
        assert not (tmp_path / "parts" / "sft.parquet").exists()
    logs = [
        set(path.read_text().splitlines())
        for path in (tmp_path / "parts").glob("shard-*/journal.jsonl")
    ]
    assert len(logs) == 2 and not logs[0] & logs[1]
    num_requests = len(server.requests)
    assert run(parts).exit_code == 0 and len(server.requests) == num_requests
    assert read_results(tmp_path / "parts") == read_results(tmp_path / "whole")


def test_no_more_is_asked_than_the_target_needs(
    tmp_path: Path, videos: Path, server: ScriptedServer
) -> None:
    pairs = [make_pair(f"{i:02d}", "good_at_once") for i in range(40)]
    options = ["--samples", "2", "--target", "10"]
    out = tmp_path / "out"
    result = run(list_arguments_of(out, videos, pairs, *options, servers=[server]))
    assert result.exit_code == 0 and len(server.requests) == 20, result.output
    assert "60 episodes were not needed: the target is full" in result.output
    asked = {key.split()[0] for key in read_keys(out)}
    assert len(asked) == 10 and asked != {pair.uid for pair in pairs[:10]}  # drawn, not the first
    assert len(read_samples(out / "sft.parquet")) == 10
    before = read_results(out)
    more = [*options[:2], "--target", "25"]
    assert run(list_arguments_of(out, videos, pairs, *more, servers=[server])).exit_code == 0
    assert len(server.requests) == 50
    again = run(list_arguments_of(out, videos, pairs, *options, servers=[server]))
    assert again.exit_code == 0 and len(server.requests) == 50
    assert read_results(out) == before  # what was played beyond the target changes nothing


def test_it_goes_on_as_long_as_too_few_are_right(
    tmp_path: Path, videos: Path, server: ScriptedServer
) -> None:
    pairs = [
        make_pair(f"{i:02d}", "good_at_once" if i % 4 == 0 else "wrong_labels") for i in range(60)
    ]
    out = tmp_path / "out"
    options = ["--samples", "1", "--target", "6"]
    result = run(list_arguments_of(out, videos, pairs, *options, servers=[server]))
    assert result.exit_code == 0 and 6 < len(server.requests) < 60
    assert len(read_samples(out / "sft.parquet")) == 6
    short = run(
        list_arguments_of(tmp_path / "short", videos, pairs[:8], *options, servers=[server])
    )
    assert short.exit_code == 0 and "only 2 of --target 6 traces" in short.output


def test_a_dead_server_completes_nothing(tmp_path: Path, videos: Path) -> None:
    pairs = [make_pair(f"{i}", "good_at_once") for i in range(4)]
    out = tmp_path / "out"
    with serve_scripts("vllm") as first:
        first.RequestHandlerClass = DyingHandler
        options = ["--concurrency", "1", "--samples", "1"]
        result = run(list_arguments_of(out, videos, pairs, *options, servers=[first]))
        assert result.exit_code == 2 and not (out / "sft.parquet").exists()
        assert "nothing is lost" in result.output
        assert 1 <= sum(read_keys(out).values()) < 4
    with serve_scripts("vllm") as repaired:
        result = run(list_arguments_of(out, videos, pairs, *options, servers=[repaired]))
        assert result.exit_code == 0, result.output
        assert len(repaired.requests) + 2 == 4
    assert len(read_samples(out / "sft.parquet")) == 4


class DyingHandler(Handler):
    """Answers twice, and never again."""

    def behave(self, behaviour: str, turn: int) -> None:
        if len(self.server.requests) <= 2:
            super().behave(behaviour, turn)
        else:
            error = {"code": "insufficient_quota", "message": "the quota has ended"}
            self.send_json(429, {"error": error})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shard", "4/4"], "--shard takes i/n"),
        (["--keep", "0"], "keep must be a whole number of at least 1"),
        (["--serve", "folder"], "give one of --endpoint URL"),
        (["--model", "unheard-of"], "does not know model 'unheard-of'"),
        (["--endpoint", "localhost:8000"], "must be a URL that starts with http"),
        (["--endpoint", "http://127.0.0.1:9/v1"], "http://127.0.0.1:9/v1"),
        (["--episode", "windw=2"], "unknown setting 'windw'"),
    ],
)
def test_a_wrong_option_is_one_line(
    tmp_path: Path, videos: Path, server: ScriptedServer, options: list[str], words: str
) -> None:
    result = run(
        list_arguments_of(tmp_path / "out", videos, [make_pair("a")], *options, servers=[server])
    )
    assert result.exit_code == 2 and words in result.output and "Traceback" not in result.output


def test_a_log_keeps_to_its_settings_and_pairs(
    tmp_path: Path, videos: Path, server: ScriptedServer
) -> None:
    out = tmp_path / "out"
    assert run(list_arguments_of(out, videos, [make_pair("a")], servers=[server])).exit_code == 0
    other = run(
        list_arguments_of(out, videos, [make_pair("a")], "--temperature", "0.5", servers=[server])
    )
    assert other.exit_code == 2 and "was begun with other settings" in other.output
    other = run(list_arguments_of(out, videos, [make_pair("a", overall=2)], servers=[server]))
    assert other.exit_code == 2 and "an episode of another pair 'a'" in other.output


@pytest.mark.parametrize("size", ["", "_tiny"])
def test_the_policy_is_sampled_as_it_will_be_trained(size: str) -> None:
    pytest.importorskip("hydra")
    recipes = [f"videosearch_{stage}{size}" for stage in ("rft", "cold_start", "grpo")]
    assert len({read_episode(recipe, ()) for recipe in recipes}) == 1


# Serving


def test_the_defaults_of_the_server_can_be_changed() -> None:
    arguments = list_arguments(["MODEL", "--dtype=bfloat16"], is_cpu=True)
    assert arguments[:2] == ["MODEL", "--dtype=bfloat16"] and "--dtype" not in arguments
    assert {"--enforce-eager", "--generation-config"} <= set(arguments)
    assert "--enforce-eager" not in list_arguments(["MODEL"], is_cpu=False)


def test_a_server_ends_with_its_block(tmp_path: Path) -> None:
    with (
        serve_scripts() as server,
        run_server([sys.executable, "-c", SLEEPER], tmp_path / "log") as process,
    ):
        wait_until_healthy(process, server.url, tmp_path / "log", 5)
        while not (text := (tmp_path / "log").read_text()):
            time.sleep(0.02)
    for pid in (process.pid, int(text)):
        with pytest.raises(ProcessLookupError):
            while True:  # the child of a dead process is gone once init has collected it
                os.kill(pid, 0)
                time.sleep(0.02)


SLEEPER = """
import subprocess, time
print(subprocess.Popen(["sleep", "60"]).pid, flush=True)
time.sleep(60)
"""


@pytest.mark.slow_start
@pytest.mark.timeout(900)
def test_vllm_serves_a_checkpoint_and_stops(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    from verl_videosearch.from_scratch.tiny_model import build_tiny_model  # torch

    checkpoint = build_tiny_model(tmp_path / "model")
    options = [
        "--max-model-len=1024",
        "--max-num-batched-tokens=64",
    ]  # so a prompt is read in parts
    source = ModelSource(
        serve=checkpoint,
        model="policy",
        serve_options=tuple(options),
        temperature=1.0,
        max_turn_tokens=16,
    )
    first, same, other = asyncio.run(sample_replies(source, tmp_path / "log", seeds=[1, 1, 2]))
    assert first == same != other and first.text


async def sample_replies(source: ModelSource, log: Path, seeds: Sequence[int]) -> list[Reply]:
    """Ask for replies to one prompt of some hundred tokens, all at once."""
    message = {
        "role": "user",
        "content": [{"type": "text", "text": "which video is better? " * 40}],
    }
    async with source.open(log) as model:
        assert model.model_root == str(source.folder)
        asked = (model.for_episode(str(seed), seed)([message], []) for seed in seeds)
        return await asyncio.gather(*asked)


def test_a_server_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        run_server([sys.executable, "-c", "raise SystemExit('no memory')"], log) as process,
        pytest.raises(ValueError, match="ended with status 1:\nno memory"),
    ):
        wait_until_healthy(process, "http://127.0.0.1:9/health", log, 30)
    with pytest.raises(ValueError, match="is no model"), serve_replicas(tmp_path, "policy", log):
        pass


def test_scripts_are_what_the_episodes_above_assume() -> None:
    assert BEHAVIOURS["good"] == [call_frames(2), ANSWER]
