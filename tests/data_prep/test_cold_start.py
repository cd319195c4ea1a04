"""Cold start takes what is well-formed and right, counts the rest by reason, and loses nothing when
it is killed."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result
from verl_videosearch.data_prep.cold_start import main
from verl_videosearch.data_prep.traces.trace_filter import Filter, Trace, filter_record

from tests.scripted_server import Handler, ScriptedServer, serve_scripts
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.recipe import find_recipes, read_episode, read_episode_settings
from verl_videosearch.runs.estimate import TokenEstimate, estimate_tokens
from verl_videosearch.runs.record_file import read_records
from verl_videosearch.sample import PreferenceSample, read_samples, write_samples
from verl_videosearch.video.lossless import write_lossless
from verl_videosearch.video.pair import load_pair
from verl_videosearch.video.store import FrameStore

pytest.importorskip("httpx")

EPISODE = [
    "frames_per_video=8",
    "initial_frames_per_video=2",
    "max_frames_per_call=4",
    "max_tool_calls=2",
]
LABELS = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}
SNOW = {
    "type": "snow",
    "severity": 3,
    "first_index": 0,
    "num_frames": 8,
    "is_hidden": False,
    "seed": 0,
}


def make_pair(uid: str, prompt: str = "a cat") -> PreferenceSample:
    meta = {"pair_type": "visible", "cue": None, "defects_1": [], "defects_2": [SNOW]}
    return PreferenceSample(uid, prompt, "1.mkv", "2.mkv", LABELS, source="made", meta=meta)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one pair of videos."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    for side in (1, 2):
        write_lossless(folder / f"{side}.mkv", rng.integers(0, 256, (8, 56, 56, 3), dtype=np.uint8))
    return folder


def list_arguments(
    out: Path, videos: Path, pairs: list[PreferenceSample], *options: str
) -> list[str]:
    """Write the pairs and return the program's arguments."""
    file = out.with_suffix(".parquet")
    write_samples(file, pairs)
    settings = [f"--episode={setting}" for setting in EPISODE]
    return [
        "--pairs",
        str(file),
        "--video-root",
        str(videos),
        "--out",
        str(out),
        *settings,
        *options,
    ]


def list_server_options(server: ScriptedServer) -> list[str]:
    return ["--teacher", server.url, "--model", "tiny", "--timeout-s", "0.6", "--max-retries", "1"]


def run(arguments: list[str]) -> Result:
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


def read_logs(out: Path, stages: Filter = Filter.CORRECT) -> dict[str, Trace]:
    """Return all traces of the journal by uid; each pair has one result."""
    records = [each for each in read_records(out / "journal.jsonl").records if each.has_result]
    assert set(Counter(record.uid for record in records).values()) <= {1}
    return {record.uid: filter_record(record, stages) for record in records}


def read_plain(out: Path) -> list[dict]:
    """Return the results of the journal without what differs from run to run, sorted by key."""
    records = [each for each in read_records(out / "journal.jsonl").records if each.has_result]
    plain = [msgspec.to_builtins(record) for record in records]
    return sorted(
        (each | {"seconds": None, "usage": None} for each in plain), key=lambda each: each["key"]
    )


ACCEPTED, FAILED = "accepted", "failed"
OUTCOMES: dict[str, set[str] | str] = {
    "good": ACCEPTED,
    "chatter": ACCEPTED,
    "http_500_once": ACCEPTED,
    "wrong_tags": {
        "no_snapshot",
        "no_think",
        "no_call_nor_answer",
        "text_outside_tags",
        "ending_no_answer",
    },
    "no_snapshot": {"no_snapshot"},
    "wrong_labels": {"wrong_OA"},
    "endless_calls": {"call_call_limit", "ending_call_limit"},
    "refused_call": {"call_out_of_range"},
    "empty": {"no_snapshot", "no_think", "no_call_nor_answer", "ending_no_answer"},
    "null": {"no_snapshot", "no_think", "no_call_nor_answer", "ending_no_answer"},
    "control_token": {"control_token"},
    "truncated": {"unclosed_tag", "no_call_nor_answer", "unreadable_verdict", "ending_truncated"},
    "unreadable": {"unreadable_verdict", "ending_unreadable"},
    "http_500": FAILED,
    "http_400": FAILED,
    "half_closed": FAILED,
    "hangs_up": FAILED,
    "not_json": FAILED,
    "no_choices": FAILED,
    "aborted": FAILED,
    "too_slow": FAILED,
}
"""What becomes of a teacher's behaviour (`scripted_server.py`)."""


@pytest.fixture(scope="module")
def bad_teacher_run(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> tuple[Path, Result]:
    """Let the server show each of its behaviours once, and one broken video."""
    out = tmp_path_factory.mktemp("run") / "out"
    pairs = [make_pair(behaviour, prompt=behaviour) for behaviour in OUTCOMES]
    pairs.append(replace(make_pair("broken"), video_2="gone.mkv"))
    with serve_scripts() as server:
        return out, run(
            list_arguments(out, videos, pairs, *list_server_options(server), "--concurrency", "8")
        )


@pytest.mark.parametrize("behaviour", OUTCOMES)
def test_each_behaviour_is_accepted_rejected_or_failed(
    bad_teacher_run: tuple[Path, Result], behaviour: str
) -> None:
    trace, expected = read_logs(bad_teacher_run[0]).get(behaviour), OUTCOMES[behaviour]
    if expected == FAILED:
        assert trace is None
    else:
        assert trace is not None and set(trace.reasons) == (
            set() if expected == ACCEPTED else expected
        )


def test_nothing_crashes_and_everything_is_counted(bad_teacher_run: tuple[Path, Result]) -> None:
    out, result = bad_teacher_run
    assert result.exit_code == 1, result.output
    table = " ".join(result.output.split())
    for line in (
        "traces │ 13",
        "accepted │ 23 %",
        "OA right │ 46 %",
        "no_snapshot │ 4",
        "wrong_OA │ 1",
        "failed: video_missing │ 1 │ fails the same way again",
        "failed: timeout │ 1 │ tried again by the next run",
    ):
        assert line in table
    assert sum("│ failed: server" in line for line in result.output.splitlines()) == 6  # by cause
    assert "13 of 22 episodes done, 7 to be repeated, 2 failed for good" in table
    assert "sft.parquet is not written" in table and not (out / "sft.parquet").exists()


def test_what_is_taught_is_in_the_order_of_the_pairs(tmp_path: Path, videos: Path) -> None:
    names = ["slow", "wrong_labels", "good", "chatter", "good_at_once"]
    pairs = [make_pair(name, prompt=name) for name in names]
    with serve_scripts() as server:
        result = run(list_arguments(tmp_path / "out", videos, pairs, *list_server_options(server)))
    assert result.exit_code == 0, result.output
    rows = read_samples(tmp_path / "out/sft.parquet")
    assert [row.uid for row in rows] == ["slow", "good", "chatter", "good_at_once"]
    reasons = {
        record.uid: record.extra["reasons"]
        for record in read_records(tmp_path / "out/episodes.jsonl").records
    }
    assert reasons["wrong_labels"] == ["wrong_OA"] and reasons["good"] == []


def test_a_dead_teacher_completes_nothing(tmp_path: Path, videos: Path) -> None:
    pairs = [make_pair(f"pair-{i}", prompt="good") for i in range(6)]
    out = tmp_path / "out"
    dead = ["--teacher", "http://127.0.0.1:9/v1", "--model", "tiny"]
    result = run(list_arguments(out, videos, pairs, *dead))
    assert result.exit_code == 2 and "http://127.0.0.1:9/v1" in result.output
    assert not (out / "sft.parquet").exists()
    with serve_scripts() as server:
        repaired = run(list_arguments(out, videos, pairs, *list_server_options(server)))
    assert repaired.exit_code == 0, repaired.output
    assert len(read_samples(out / "sft.parquet")) == 6


class QuotaHandler(Handler):
    """Answers twice; then the quota has ended."""

    def behave(self, behaviour: str, turn: int) -> None:
        if len(self.server.requests) <= 2:
            super().behave(behaviour, turn)
        else:
            error = {"code": "insufficient_quota", "message": "You exceeded your current quota"}
            self.send_json(429, {"error": error})


def test_a_quota_that_ends_is_no_end(tmp_path: Path, videos: Path) -> None:
    pairs = [make_pair(f"pair-{i}", prompt="good_at_once") for i in range(6)]
    out = tmp_path / "out"
    with serve_scripts() as server:
        server.RequestHandlerClass = QuotaHandler
        options = [*list_server_options(server), "--concurrency", "1"]
        result = run(list_arguments(out, videos, pairs, *options))
        assert result.exit_code == 2 and "You exceeded your current quota" in result.output
        assert "2 of 6 episodes done" in result.output and not (out / "sft.parquet").exists()
        num_requests, server.RequestHandlerClass = len(server.requests), Handler
        repaired = run(list_arguments(out, videos, pairs, *options))
        assert repaired.exit_code == 0, repaired.output
        assert len(server.requests) == num_requests + 4
    assert len(read_samples(out / "sft.parquet")) == 6


def test_permanent_failures_are_allowed_up_to_a_share(tmp_path: Path, videos: Path) -> None:
    pairs = [make_pair(f"pair-{i}", prompt="good_at_once") for i in range(3)]
    pairs.append(replace(make_pair("broken"), video_2="gone.mkv"))
    out = tmp_path / "out"
    with serve_scripts() as server:
        arguments = list_arguments(out, videos, pairs, *list_server_options(server))
        first = run(arguments)
        assert first.exit_code == 3 and "25.0% of the pairs cannot be judged" in first.output
        num_requests = len(server.requests)
        second = run([*arguments, "--max-failed-share", "0.25"])
        assert second.exit_code == 0 and len(server.requests) == num_requests
    assert len(read_samples(out / "sft.parquet")) == 3


def test_nothing_to_teach_is_no_success(tmp_path: Path, videos: Path) -> None:
    pairs = [make_pair("a", prompt="wrong_labels")]
    with serve_scripts() as server:
        result = run(list_arguments(tmp_path / "out", videos, pairs, *list_server_options(server)))
    assert result.exit_code == 2 and "no trace was accepted" in result.output
    assert not (tmp_path / "out/sft.parquet").exists()


def test_traces_of_an_older_version_are_not_lost(tmp_path: Path, videos: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "accepted.jsonl").write_text("{}\n")
    result = run(list_arguments(out, videos, [make_pair("a")]))
    assert result.exit_code == 2 and "choose another --out" in result.output
    assert (out / "accepted.jsonl").read_text() == "{}\n"


def test_a_dimension_without_a_label_is_not_taken_as_right(tmp_path: Path, videos: Path) -> None:
    pairs = [make_pair("a"), replace(make_pair("b"), labels=LABELS | {"VQ": None})]
    result = run(list_arguments(tmp_path / "strict", videos, pairs))
    assert result.exit_code == 0 and "1 of 2 pairs lack a gold label (VQ 1)" in result.output
    assert [row.uid for row in read_samples(tmp_path / "strict/sft.parquet")] == ["a"]
    loose = list_arguments(tmp_path / "loose", videos, pairs, "--filter", "labelled")
    assert run(loose).exit_code == 0
    assert [row.uid for row in read_samples(tmp_path / "loose/sft.parquet")] == ["a", "b"]
    none = run(list_arguments(tmp_path / "none", videos, pairs[1:]))
    assert none.exit_code == 2 and "--filter labelled takes them" in none.output


def test_failures_are_tried_again(bad_teacher_run: tuple[Path, Result], videos: Path) -> None:
    out, _ = bad_teacher_run
    with serve_scripts() as server:
        options = list_server_options(server)
        pairs = [make_pair(name, prompt=name) for name in ("good", "wrong_labels", "http_500")]
        run(list_arguments(out, videos, pairs, *options))
    assert server.behaviours == ["http_500"] * 2  # it and its retry


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, videos: Path) -> None:
    pairs = [
        make_pair(f"pair-{i:02d}", prompt="wrong_labels" if i % 3 == 0 else "slow")
        for i in range(24)
    ]
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    with serve_scripts() as server:
        options = [*list_server_options(server), "--concurrency", "2"]
        command = [
            sys.executable,
            "-m",
            "verl_videosearch.data_prep.cold_start",
            *list_arguments(out, videos, pairs, *options),
        ]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2]
        )
        while count_lines(out) < 8 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        num_done = count_lines(out)
        assert 8 <= num_done < len(pairs)
        with (out / "journal.jsonl").open("ab") as file:
            file.write(b'{"format": 1, "kind": "tr')  # what a kill in a write leaves
        num_requests = len(server.requests)
        assert run(list_arguments(out, videos, pairs, *options)).exit_code == 0
        assert len(server.requests) - num_requests == len(pairs) - num_done
        assert run(list_arguments(undisturbed, videos, pairs, *options)).exit_code == 0
    assert read_plain(out) == read_plain(undisturbed)
    assert (out / "sft.parquet").read_bytes() == (undisturbed / "sft.parquet").read_bytes()


def count_lines(out: Path) -> int:
    path = out / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_the_template_teacher_needs_no_server(tmp_path: Path, videos: Path) -> None:
    pairs = [make_pair(f"pair-{i}") for i in range(20)]
    result = run(list_arguments(tmp_path / "out", videos, pairs))
    assert result.exit_code == 0 and "accepted │ 100 %" in " ".join(result.output.split())
    traces = read_logs(tmp_path / "out").values()
    assert {trace.record.num_evictions for trace in traces} == {0, 1}


def make_hidden_pair(uid: str) -> PreferenceSample:
    hidden = SNOW | {"first_index": 1, "num_frames": 2, "is_hidden": True}
    cue = {"first_index": 1, "num_frames": 3}
    pair = make_pair(uid)
    return replace(
        pair, meta=dict(pair.meta) | {"defects_2": [hidden], "cue": cue, "pair_type": "hidden"}
    )


@pytest.mark.parametrize(
    ("choice", "num_calls", "num_evictions", "wrong"),
    [
        ("direct", 0, 0, ("VQ", "OA")),
        ("cued-gap", 1, 0, ()),
        ("wrong-gap", 1, 0, ("VQ", "OA")),
        ("detour", 2, 1, ()),
    ],
)
def test_each_choice_of_the_template_teacher_is_an_option(
    tmp_path: Path,
    videos: Path,
    choice: str,
    num_calls: int,
    num_evictions: int,
    wrong: tuple[str, ...],
) -> None:
    weights = ["--cued-gap", "0", f"--{choice}", "1", "--filter", "well_formed"]
    assert (
        run(
            list_arguments(tmp_path / "out", videos, [make_hidden_pair("hidden")], *weights)
        ).exit_code
        == 0
    )
    trace = read_logs(tmp_path / "out", Filter.WELL_FORMED)["hidden"]
    assert trace.is_accepted and trace.wrong == wrong
    assert (trace.record.num_calls, trace.record.num_evictions) == (num_calls, num_evictions)


def test_wrong_answers_are_kept_only_on_request(tmp_path: Path, videos: Path) -> None:
    out = tmp_path / "out"
    weak = list_arguments(
        out, videos, [make_hidden_pair("hidden")], "--direct", "1", "--cued-gap", "0"
    )
    assert run(weak).exit_code == 2 and not (out / "sft.parquet").exists()
    assert run([*weak, "--filter", "well_formed"]).exit_code == 0  # filtered again, asked nobody
    assert len(read_samples(out / "sft.parquet")) == 1
    assert read_logs(out)["hidden"].wrong == ("VQ", "OA")


def test_the_template_keeps_notes_as_it_is_told(tmp_path: Path, videos: Path) -> None:
    out = tmp_path / "out"
    listed = list_arguments(out, videos, [make_hidden_pair("hidden")], "--notes", "list")
    assert run(listed).exit_code == 0
    first, *_, last = (turn.reply for turn in read_logs(out)["hidden"].record.turns)
    assert "frame 1 " in first and "marker, behind it" in first and " against " in last


def test_a_server_that_refuses_ends_the_run_at_once(tmp_path: Path, videos: Path) -> None:
    pairs = [make_pair(f"pair-{i}", prompt="http_401") for i in range(50)]
    with serve_scripts() as server:
        result = run(
            list_arguments(
                tmp_path / "out", videos, pairs, *list_server_options(server), "--concurrency", "4"
            )
        )
    assert result.exit_code == 2 and "key" in result.output
    assert len(server.requests) <= 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--episode", "windw=2"], "unknown setting 'windw'"),
        (["--episode", "window"], "is name=value"),
        (["--recipe", "grpo"], "unknown recipe 'grpo'"),
        (["--direct", "-1"], "must be at least 0"),
        (["--detour", "-1"], "detour, one_cue must be at least 0"),
        (["--detour", "nan"], "must be at least 0, finite and not all 0"),
        (["--cued-gap", "0"], "not all 0, got (0.0, 0.0, 0.0, 0.0, 0.0)"),
        (
            ["--looks", "a,b"],
            "--looks takes numbers with commas between, such as 0.4,0.3,0.3; got 'a,b'",
        ),
        (["--looks", ""], "--looks takes numbers"),
        (["--looks", "1,-1"], "looks must be at least 0"),
        (["--teacher", "localhost:8000", "--model", "m"], "must be a URL that starts with http"),
        (["--teacher", "http://localhost:1/v1"], "model is empty"),
        (["--pairs", "missing.parquet"], "no such file"),
    ],
)
def test_a_wrong_option_is_one_line(
    tmp_path: Path, videos: Path, options: list[str], words: str
) -> None:
    result = run(list_arguments(tmp_path / "out", videos, [make_pair("a")], *options))
    assert result.exit_code == 2 and words in result.output and "Traceback" not in result.output


def test_a_folder_keeps_to_its_settings(tmp_path: Path, videos: Path) -> None:
    pairs = [make_pair("a")]
    assert run(list_arguments(tmp_path / "out", videos, pairs)).exit_code == 0
    result = run(list_arguments(tmp_path / "out", videos, pairs, "--seed", "1"))
    assert result.exit_code == 2 and "choices.seed: 0 there, 1 now" in result.output


def test_a_folder_keeps_to_its_pairs(tmp_path: Path, videos: Path) -> None:
    out = tmp_path / "out"
    assert run(list_arguments(out, videos, [make_pair("a")])).exit_code == 0
    more = run(list_arguments(out, videos, [make_pair("a"), make_pair("b")]))
    assert more.exit_code == 0 and len(read_samples(out / "samples.parquet")) == 2
    other = run(list_arguments(out, videos, [make_pair("a", "a dog")]))
    assert other.exit_code == 2 and "an episode of another pair 'a': its prompt" in other.output


def test_uids_must_be_unique(tmp_path: Path, videos: Path) -> None:
    result = run(list_arguments(tmp_path / "out", videos, [make_pair("a"), make_pair("a")]))
    assert result.exit_code == 2 and "sample_uid 'a' is that of row 1, too" in result.output


def test_pairs_without_any_label_are_left_out(tmp_path: Path, videos: Path) -> None:
    unlabelled = replace(make_pair("b"), labels=dict.fromkeys(LABELS))
    assert (
        run(list_arguments(tmp_path / "out", videos, [make_pair("a"), unlabelled])).exit_code == 0
    )
    assert set(read_logs(tmp_path / "out")) == {"a"}


def test_a_recipe_gives_the_episode_settings() -> None:
    pytest.importorskip("hydra")
    config = read_episode("videosearch_cold_start_tiny", ["window=null"])
    assert (config.frames_per_video, config.max_frames_per_call, config.window) == (16, 4, None)


def test_an_unknown_recipe_is_named_beside_those_that_are_known() -> None:
    pytest.importorskip("hydra")
    with pytest.raises(
        ValueError,
        match="unknown recipe 'grpo'; known are videosearch_cold_start, .*videosearch_rft_t",
    ):
        read_episode_settings("grpo")


@pytest.mark.parametrize("recipe", sorted(path.stem for path in find_recipes().glob("*.yaml")))
def test_every_recipe_has_episode_settings(recipe: str) -> None:
    pytest.importorskip("hydra")
    EpisodeConfig.from_dict(read_episode_settings(recipe))


def test_the_estimate_counts_every_request(videos: Path) -> None:
    config = EpisodeConfig(frames_per_video=8, initial_frames_per_video=2, max_frames_per_call=4)
    pair = load_pair(make_pair("a"), FrameStore(), config, videos)
    estimates = [estimate_tokens(make_pair("a"), pair, config, num_calls) for num_calls in range(4)]
    images = 4 * 4  # first view: four frames of two by two patches
    assert estimates[0].prompt > images and [each.reply for each in estimates] == [
        250,
        500,
        750,
        1000,
    ]
    steps = np.diff([each.prompt for each in estimates])
    assert (
        all(steps > 2 * images) and steps[0] > estimates[0].prompt
    )  # each turn sends all of the context again
    assert TokenEstimate(1e6, 1e5, 1).price(10, 2.5, 10.0) == 35.0


def test_the_estimate_comes_first_and_can_be_all(tmp_path: Path, videos: Path) -> None:
    with serve_scripts() as server:
        options = [
            *list_server_options(server),
            "--price-in",
            "2.5",
            "--price-out",
            "10",
            "--estimate-only",
        ]
        result = run(list_arguments(tmp_path / "out", videos, [make_pair("a")], *options))
    assert "1 episodes (0 to 2 calls each): " in result.output and "price 0." in result.output
    assert server.requests == [] and not os.path.exists(tmp_path / "out")
