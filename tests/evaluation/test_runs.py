"""`videosearch eval` end to end: right figures, and the same bytes after kills and through a bad
server."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("httpx")

from tests.scripted_server import ScriptedServer  # noqa: E402
from tests.seeing_judge import (  # noqa: E402
    EPISODE,
    make_samples,
    prefer_first,
    search,
    serve_judge,
    write_pairs,
)
from verl_videosearch.cli import app  # noqa: E402
from verl_videosearch.episode import EpisodeConfig  # noqa: E402
from verl_videosearch.evaluation.results import RunSettings  # noqa: E402
from verl_videosearch.recipe import read_episode_settings  # noqa: E402
from verl_videosearch.runs.play import derive_seed  # noqa: E402
from verl_videosearch.runs.record_file import read_records  # noqa: E402
from verl_videosearch.sample import swap_videos, write_samples  # noqa: E402

FINAL = ["episodes.jsonl", "results.json", "results.md", "index.html", "run.json"]
"""Files that must not depend on how often a run was cut."""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def list_arguments(pairs: Path, server: ScriptedServer, out: Path, *more: str) -> list[str]:
    """Return the arguments of `eval`; a fast judge takes no tool settings."""
    settings = ["frames_per_video=8"] if "--single-turn" in more else EPISODE
    place = [
        *(() if "--benchmark" in more else ("--benchmark", str(pairs))),
        "--endpoint",
        server.url,
        "--model",
        "tiny",
        "--out",
        str(out),
    ]
    return [
        "eval",
        *place,
        *(word for each in settings for word in ("--set", each)),
        "--request-timeout-s",
        "2",
        *more,
    ]


def run(arguments: list[str]) -> Result:
    return CliRunner().invoke(app, arguments)


def evaluate(pairs: Path, server: ScriptedServer, out: Path, *more: str) -> dict:
    result = run(list_arguments(pairs, server, out, *more))
    assert result.exit_code == 0, result.output
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def healthy(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "healthy"
    with serve_judge() as server:
        evaluate(pairs, server, out)
    return out


def is_for_a_pair(request: dict) -> bool:
    """Tell an episode's request from the first one, which asks whether the server can see."""
    return len(request["messages"]) > 1


def read_final(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FINAL}


def test_a_judge_that_looks_is_right(healthy: Path) -> None:
    results = json.loads((healthy / "results.json").read_text())
    assert (
        results["overall"]["with_ties"]["correct"],
        results["overall"]["with_ties"]["total"],
    ) == (12, 12)
    assert results["overall"]["without_ties"]["total"] == 9
    assert [
        results["baselines"][name]["with_ties"]["correct"]
        for name in ("majority", "always_tie", "random")
    ] == [
        5,
        3,
        4,
    ]
    assert results["orders"]["consistency"]["consistent"]["value"] == 1.0
    assert results["orders"]["bias"]["value"] == 0.0
    searched = results["behaviour"]["searched"]  # every prompt has one pair, judged twice
    assert (searched["correct"], searched["total"], searched["num_clusters"]) == (24, 24, 12)
    assert searched["low"] == pytest.approx(0.757, abs=1e-3) and searched["high"] == 1
    published = results["orders"]["as_published"]["with_ties"]
    assert (published["correct"], published["total"], published["num_clusters"]) == (24, 24, 12)
    assert results["subset_calls"]["pair type: hidden"] == 1
    assert (results["behaviour"]["calls"], results["behaviour"]["frames"]) == (1, 6)
    assert (results["behaviour"]["prompt_tokens"], results["behaviour"]["reply_tokens"]) == (
        200,
        20,
    )
    assert results["behaviour"]["gain"]["only_a"] == 9  # the first verdict was a tie
    assert set(results["subsets"]) == {
        "long prompts (top 10 %)",
        "pair type: hidden",
        "pair type: tie",
    }
    assert results["subsets"]["long prompts (top 10 %)"]["with_ties"]["total"] == 2  # ceil(12 / 10)
    assert (
        results["dimensions"]["VQ"]["with_ties"]["total"] == 12
        and "MQ" not in results["dimensions"]
    )


def test_the_header_names_the_conditions(healthy: Path) -> None:
    header = json.loads((healthy / "results.json").read_text())["header"]
    assert (header["benchmark"], header["split"], header["num_pairs"], header["num_scored"]) == (
        "test",
        "test",
        12,
        12,
    )
    assert (
        header["frames"]
        == "8 candidates per video, 2 + 2 at first, then up to 1 call of 8, window 1"
    )
    assert (
        header["order"].startswith("both orders")
        and header["model_hash"] == "unknown"
        and header["commit"]
    )
    for name in ("results.md", "index.html"):
        text = (healthy / name).read_text()
        assert all(
            str(header[field]) in text
            for field in ("protocol", "order", "frames", "commit", "pairs_hash")
        )


def test_position_bias_becomes_ties(pairs: Path, tmp_path: Path) -> None:
    with serve_judge(prefer_first) as server:
        results = evaluate(pairs, server, tmp_path / "run")
    assert results["confusion"] == [[3, 0, 0, 0], [5, 0, 0, 0], [4, 0, 0, 0]]
    assert results["orders"]["consistency"]["first_slot"]["correct"] == 12
    assert results["orders"]["bias"]["value"] == pytest.approx(1 - 9 / 24)
    assert results["orders"]["by_order"]["AB"]["with_ties"]["correct"] == 5
    records = read_records(tmp_path / "run/episodes.jsonl").records
    assert {(each.order.value, each.verdicts["OA"]) for each in records} == {
        ("AB", 1),
        ("BA", 1),
    }  # raw results are kept


def test_one_order_alone(pairs: Path, tmp_path: Path) -> None:
    with serve_judge(prefer_first) as server:
        results = evaluate(pairs, server, tmp_path / "run", "--order", "BA")
    assert results["overall"]["with_ties"]["correct"] == 4  # slot 1 of BA is the sample's video 2
    assert (
        results["orders"]["consistency"] is None
        and "one order only (BA)" in results["header"]["order"]
    )


def test_single_turn_shows_more_and_never_calls(pairs: Path, tmp_path: Path) -> None:
    with serve_judge(prefer_first) as server:
        results = evaluate(pairs, server, tmp_path / "run", "--single-turn", "8")
    assert results["behaviour"]["frames"] == 8 and results["behaviour"]["searched"]["correct"] == 0
    assert results["header"]["frames"] == "8 candidates per video, 4 + 4 at first, no calls"


def test_redundant_frames_double_the_numbers(pairs: Path, tmp_path: Path) -> None:
    with serve_judge() as server:
        results = evaluate(pairs, server, tmp_path / "run", "--redundant", "--limit", "2")
    record = read_records(tmp_path / "run/episodes.jsonl").records[0]
    candidates = record.candidates
    assert (len(candidates.times_1), len(candidates.times_2)) == (16, 16)
    assert record.initial_frames == (1, 9, 17, 25)
    assert (
        "8 candidates per video and as many copies of them at random places"
        in results["header"]["frames"]
    )


def test_a_sampled_run_says_so_and_comes_back(pairs: Path, tmp_path: Path) -> None:
    seeds = {}
    for name, more in {
        "one": ["--seed", "3"],
        "same": ["--seed", "3", "--concurrency", "1"],
        "other": [],
    }.items():
        with serve_judge() as server:
            results = evaluate(pairs, server, tmp_path / name, "--temperature", "0.8", *more)
        assert {request["temperature"] for request in server.requests} == {0.8}
        seeds[name] = Counter(request["seed"] for request in server.requests)
        words = f"sampled at temperature 0.8, seed {3 if '--seed' in more else 0}; unreadable"
        assert (
            words in results["header"]["protocol"]
            and words in (tmp_path / name / "results.md").read_text()
        )
    records = read_records(tmp_path / "one/episodes.jsonl").records
    keys = {f"{each.uid} {order}" for each in records for order in ("AB", "BA")}
    assert {each.seed for each in records} == {derive_seed(3, key) for key in keys}
    assert (
        seeds["one"] == {derive_seed(3, key): 2 for key in keys} == seeds["same"]
    )  # both turns of an episode
    assert not set(seeds["one"]) & set(seeds["other"])
    settings = json.loads((tmp_path / "one/run.json").read_text())
    assert (settings["temperature"], settings["seed"]) == (0.8, 3)
    assert read_final(tmp_path / "one") == read_final(tmp_path / "same")


def test_a_greedy_run_has_no_seed(pairs: Path, healthy: Path) -> None:
    settings = json.loads((healthy / "run.json").read_text())
    assert (settings["temperature"], settings["seed"]) == (0.0, 0)
    assert "greedy" in (healthy / "results.md").read_text()
    with serve_judge() as server:  # so another seed is the same run
        evaluate(pairs, server, healthy, "--seed", "3")
        assert server.requests == []


def test_greedy_requests_say_so(pairs: Path, tmp_path: Path) -> None:
    with serve_judge() as server:
        evaluate(pairs, server, tmp_path / "run", "--limit", "1")
    assert len(server.requests) == 4
    assert all(request["temperature"] == 0 and "seed" not in request for request in server.requests)


def test_a_sampled_run_keeps_to_its_temperature_and_is_not_probed(
    pairs: Path, tmp_path: Path
) -> None:
    sampled = ["--limit", "1", "--temperature", "0.8"]
    with serve_judge() as server:
        evaluate(pairs, server, tmp_path / "run", *sampled)
        num_requests = len(server.requests)
        greedy = run(list_arguments(pairs, server, tmp_path / "run", "--limit", "1"))
        place = [
            "--endpoint",
            server.url,
            "--out",
            str(tmp_path / "probe"),
            "--video-root",
            str(pairs.parent),
        ]
        probe = run(["probe", str(tmp_path / "run"), *place])
        assert len(server.requests) == num_requests
    assert greedy.exit_code == 2 and "temperature: 0.8 there, 0.0 now" in greedy.output
    assert (
        probe.exit_code == 2
        and "was sampled at temperature 0.8; probe a greedy run" in probe.output
    )


def test_a_recipe_gives_the_episode_settings_and_set_wins(pairs: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra")
    config = EpisodeConfig.from_dict(read_episode_settings("videosearch_grpo_tiny"))
    assert config != EpisodeConfig()
    given = {
        "run": ([], config),
        "window": (
            ["--set", "window=null", "--set", "max_tool_calls=1"],
            replace(config, window=None, max_tool_calls=1),
        ),
        "fast": (
            ["--single-turn", "8"],
            replace(config, initial_frames_per_video=4, max_tool_calls=0),
        ),
    }
    for name, (more, expected) in given.items():
        with serve_judge(prefer_first) as server:
            place = [
                "--benchmark",
                str(pairs),
                "--endpoint",
                server.url,
                "--model",
                "tiny",
                "--limit",
                "1",
            ]
            out = ["--recipe", "videosearch_grpo_tiny", "--out", str(tmp_path / name)]
            assert run(["eval", *place, *out, *more]).exit_code == 0
        settings = RunSettings.from_json(json.loads((tmp_path / name / "run.json").read_text()))
        assert settings.episode == expected


def test_a_bad_server_changes_no_byte(pairs: Path, healthy: Path, tmp_path: Path) -> None:
    kinds = ["half_closed", "hangs_up", "not_json", "no_choices", "http_500", "too_slow"]
    with serve_judge(faults={5 * number + 3: kind for number, kind in enumerate(kinds)}) as server:
        evaluate(pairs, server, tmp_path / "run", "--request-timeout-s", "1")
        assert len(server.requests) > 48  # the faults did happen, and were asked again
    assert read_final(tmp_path / "run") == read_final(healthy)


def test_failed_episodes_are_counted_apart_and_tried_again(
    pairs: Path, healthy: Path, tmp_path: Path
) -> None:
    (pairs.parent / "clean_b.mp4").rename(pairs.parent / "away.mp4")
    try:
        (pairs.parent / "clean_b.mp4").write_bytes(b"no video")
        with serve_judge() as server:
            result = run(list_arguments(pairs, server, tmp_path / "run"))
        results = json.loads((tmp_path / "run/results.json").read_text())
    finally:
        (pairs.parent / "away.mp4").rename(pairs.parent / "clean_b.mp4")
    assert result.exit_code == 3 and "10 of 24 episodes done, 14 failed for good" in result.output
    assert "video_not_a_video 14, for example 'test-05 AB'" in result.output
    assert "58.3% of the pairs cannot be judged" in result.output
    assert "--max-failed-share 0.584" in result.output and "--forget-failures" in result.output
    assert (
        results["overall"]["with_ties"]["correct"],
        results["overall"]["with_ties"]["total"],
    ) == (5, 5)
    assert (results["header"]["num_scored"], results["failures"]) == (5, {"video_not_a_video": 14})
    for page in ("index.html", "results.md"):
        text = (tmp_path / "run" / page).read_text()
        assert "7 of 12 pairs lack an episode" in text and "video_not_a_video 14" in text
    lines = read_records(tmp_path / "run/episodes.jsonl").records
    assert sum(record.failure is not None for record in lines) == 14
    with serve_judge() as server:
        again = run(list_arguments(pairs, server, tmp_path / "run"))
        assert again.exit_code == 3  # final: nothing is asked again
        accepted = list_arguments(pairs, server, tmp_path / "run", "--max-failed-share", "0.6")
        assert run(accepted).exit_code == 0
        assert not [each for each in server.requests if is_for_a_pair(each)]
        assert (tmp_path / "run/results.json").exists()
    with serve_judge() as server:
        evaluate(pairs, server, tmp_path / "run", "--forget-failures")
        assert len([each for each in server.requests if is_for_a_pair(each)]) == 28
    assert read_final(tmp_path / "run") == read_final(healthy)


def test_a_dead_server_stops_the_run_and_loses_nothing(
    pairs: Path, healthy: Path, tmp_path: Path
) -> None:
    with serve_judge(faults=dict.fromkeys(range(9, 10_000), "no_choices")) as server:
        result = run(list_arguments(pairs, server, tmp_path / "run"))
    assert (
        result.exit_code == 2
        and "20 tries failed in a row" in result.output
        and "repeat the command" in result.output
    )
    assert not (tmp_path / "run/results.json").exists()
    with serve_judge() as server:
        evaluate(pairs, server, tmp_path / "run")
    assert read_final(tmp_path / "run") == read_final(healthy)


def test_a_killed_run_ends_with_the_same_bytes(pairs: Path, healthy: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with serve_judge(delay_s=0.05) as server:
        command = [
            sys.executable,
            "-m",
            "verl_videosearch.cli",
            *list_arguments(pairs, server, out, "--concurrency", "2"),
        ]
        for num_lines in (4, 11):
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            wait_for_lines(out / "journal.jsonl", num_lines, process)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        with (out / "journal.jsonl").open("ab") as journal:
            journal.write(
                b'{"format": 1, "kind": "evaluation", "key": "test-11 BA", "sam'
            )  # what a kill inside a write leaves
        num_before = len(server.requests)
        evaluate(pairs, server, out)
        assert (
            len(server.requests) - num_before <= 48 - 22
        )  # finished episodes were not asked for again
    assert read_final(out) == read_final(healthy)


def wait_for_lines(
    path: Path, num_lines: int, process: subprocess.Popen, timeout_s: float = 30.0
) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= num_lines:
            return
        time.sleep(0.01)
    pytest.fail(f"the run ended, or wrote fewer than {num_lines} lines in {timeout_s} s")


def test_a_folder_keeps_to_its_settings(pairs: Path, healthy: Path) -> None:
    with serve_judge() as server:
        result = run(list_arguments(pairs, server, healthy, "--order", "AB"))
    assert result.exit_code == 2 and "orders: ['AB', 'BA'] there, ['AB'] now" in result.output
    assert server.requests == []


def test_other_pairs_under_the_same_uids_are_refused_and_other_labels_are_scored(
    healthy: Path, tmp_path: Path
) -> None:
    out, pairs = tmp_path / "run", write_pairs(tmp_path / "pairs")
    copytree(healthy, out)
    samples = make_samples()
    uids = [sample.uid for sample in samples]
    moved = [replace(s, uid=uid) for s, uid in zip(samples[::-1], uids, strict=True)]
    worse = [replace(s, labels=s.labels | {"OA": (s.labels["OA"] + 1) % 3}) for s in samples]
    with serve_judge() as server:
        for others, words in ((moved, "its prompt"), (list(map(swap_videos, samples)), "videos")):
            write_samples(pairs, others)
            result = run(list_arguments(pairs, server, out))
            assert result.exit_code == 2 and words in result.output
        write_samples(pairs, worse)
        result = run(list_arguments(pairs, server, out))
    assert result.exit_code == 0 and server.requests == []
    assert "12 pairs have other labels than when they were judged" in result.output
    figures = json.loads((out / "results.json").read_text())
    compared = run(["compare", str(out)])
    assert figures["overall"]["with_ties"]["correct"] == 0
    assert "0.0 %" in compared.output
    assert read_records(out / "episodes.jsonl").records[0].is_right is False


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--set", "windw=2"], "unknown setting 'windw'"),
        (["--set", "window"], "write name=value"),
        (
            ["--recipe", "videosearch_grp"],
            "unknown recipe 'videosearch_grp'; known are videosearch_cold_start, ",
        ),
        (["--temperature", "-1"], "Invalid value for '--temperature'"),
        (["--order", "CA"], "choose among ['AB', 'BA']"),
        (
            ["--single-turn", "8", "--set", "max_tool_calls=1"],
            "--single-turn sets ['max_tool_calls']",
        ),
        (["--endpoint", "localhost"], "must be a URL that starts with http"),
        (["--benchmark", "nothing.parquet"], "no such file"),
        (["--benchmark", "videgen"], "choose videogen, genai, mj"),
        (
            ["--video-root", "/nowhere"],
            "24 videos are missing below /nowhere: /nowhere/clean_a.mp4",
        ),
        (["--model-dir", "/tmp"], "holds no weights"),
        (["--calibration", "nothing.json"], "is no calibration"),
    ],
)
def test_a_wrong_option_is_one_line(
    pairs: Path, tmp_path: Path, more: list[str], words: str
) -> None:
    with serve_judge(search) as server:
        result = run(list_arguments(pairs, server, tmp_path / "run", *more))
    assert result.exit_code == 2 and words in " ".join(result.output.split()), result.output
    assert "Traceback" not in result.output and server.requests == []


def test_a_calibration_is_fitted_elsewhere_and_used_here(pairs: Path, tmp_path: Path) -> None:
    validation, calibration = (
        write_pairs(tmp_path / "held_out", "validation", 50),
        tmp_path / "model/calibration.json",
    )
    with serve_judge() as server:
        evaluate(validation, server, tmp_path / "validation")
        assert (
            run(["calibrate", str(tmp_path / "validation"), "--out", str(calibration)]).exit_code
            == 0
        )
        results = evaluate(pairs, server, tmp_path / "run", "--calibration", str(calibration))
        refused = run(
            list_arguments(validation, server, tmp_path / "same", "--calibration", str(calibration))
        )
        test_split = run(["calibrate", str(tmp_path / "run"), "--out", str(calibration)])
    assert (
        results["header"]["verdicts"]
        == "tie up to |margin| 0, fitted on 12 held-out pairs with model unknown"
    )
    assert results["abstention"]["wrong"] == {
        "value": 0,
        "correct": 0,
        "total": 12,
        "low": None,
        "high": None,
    }
    assert results["calibration_error"]["value"] == pytest.approx(
        (9 / 12) * (1 - 10 / 11) + (3 / 12) * (1 - 4 / 5)
    )
    assert refused.exit_code == 2 and "fitted on 12 of these 12 pairs" in refused.output
    assert test_split.exit_code == 2 and "not on a test split" in test_split.output


def test_runs_are_compared_with_their_costs(pairs: Path, healthy: Path, tmp_path: Path) -> None:
    with serve_judge(prefer_first) as server:
        evaluate(pairs, server, tmp_path / "blind", "--single-turn", "8")
    result = run(["compare", str(healthy), str(tmp_path / "blind")])
    assert result.exit_code == 0
    table = [
        line for line in result.output.splitlines() if line.startswith(("| healthy |", "| blind |"))
    ]
    assert table[0].split(" | ")[1:3] == [
        "100.0 % [75.8, 100.0] (12/12)",
        "100.0 % [70.1, 100.0] (9/9)",
    ]
    assert [row.split(" | ")[7:9] for row in table[:2]] == [["12", "400 + 40"], ["16", "200 + 20"]]
    assert "| blind | with ties | -75.0 [-100.0, -50.0] | 0 : 9 | 0.0039 |" in result.output


def test_runs_are_compared_over_the_pairs_that_they_share(
    pairs: Path, healthy: Path, tmp_path: Path
) -> None:
    write_samples(tmp_path / "other.parquet", make_samples("validation", 40))
    with serve_judge() as server:
        evaluate(pairs, server, tmp_path / "few", "--limit", "3")
        other = ["--video-root", str(pairs.parent)]
        evaluate(tmp_path / "other.parquet", server, tmp_path / "other", *other)
    result = run(["compare", str(healthy), str(tmp_path / "few")])
    assert result.exit_code == 0, result.output
    assert "that all runs share, of up to 12" in result.output
    assert "3 pairs; 0 left out" in result.output
    result = run(["compare", str(healthy), str(tmp_path / "other")])
    assert result.exit_code == 2 and "the runs share no pair" in result.output


def test_pairs_that_no_run_had_are_not_counted_as_wrong(healthy: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.parquet"
    write_samples(more, [*make_samples(), *make_samples("other", first=40)])
    result = run(["compare", str(healthy), "--samples", str(more)])
    assert result.exit_code == 0 and "100.0 % [75.8, 100.0] (12/12)" in result.output
    assert "that all runs share, of up to 24" in result.output
    write_samples(more, make_samples("other", first=40))
    none = run(["compare", str(healthy), "--samples", str(more)])
    assert none.exit_code == 2 and "share no pair" in none.output


def test_a_wrong_model_name_stops_at_once(pairs: Path, tmp_path: Path) -> None:
    with serve_judge(fault="http_401") as server:
        result = run(list_arguments(pairs, server, tmp_path / "run"))
    assert result.exit_code == 2 and "check the key in $OPENAI_API_KEY" in result.output
    assert len(server.requests) <= 8  # one per episode in flight
