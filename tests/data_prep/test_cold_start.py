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

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result
from verl_videosearch.data_prep.cold_start import main
from verl_videosearch.data_prep.traces.sft_rows import Trace, read_traces
from verl_videosearch.data_prep.traces.trace_report import TokenEstimate, estimate_tokens

from tests.scripted_server import ScriptedServer, serve_scripts
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.recipe import find_recipes, read_episode, read_episode_settings
from verl_videosearch.sample import PreferenceSample, read_samples, write_samples
from verl_videosearch.video.lossless import write_lossless
from verl_videosearch.video.pair import load_pair
from verl_videosearch.video.store import FrameStore

pytest.importorskip("openai")

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


def read_logs(out: Path) -> dict[str, Trace]:
    """Return all logged traces by uid; each stands in the log where it belongs, once."""
    logs = {name: list(read_traces(out / f"{name}.jsonl")) for name in ("accepted", "rejected")}
    assert all(trace.is_accepted for trace in logs["accepted"])
    assert not any(trace.is_accepted for trace in logs["rejected"])
    uids = Counter(trace.sample.uid for log in logs.values() for trace in log)
    assert set(uids.values()) <= {1}
    return {trace.sample.uid: trace for log in logs.values() for trace in log}


ACCEPTED, FAILED = "accepted", "failed"
OUTCOMES: dict[str, set[str] | str] = {
    "good": ACCEPTED,
    "chatter": ACCEPTED,
    "http_500_once": ACCEPTED,
    "wrong_tags": {"no_snapshot", "no_think", "no_call_nor_answer", "ending_no_answer"},
    "no_snapshot": {"no_snapshot"},
    "wrong_labels": {"wrong_OA"},
    "endless_calls": {"call_call_limit", "ending_call_limit"},
    "refused_call": {"call_out_of_range"},
    "empty": {"no_snapshot", "no_think", "no_call_nor_answer", "ending_no_answer"},
    "control_token": {"control_token"},
    "truncated": {"unclosed_tag", "no_call_nor_answer", "unreadable_verdict", "ending_truncated"},
    "unreadable": {"unreadable_verdict", "ending_unreadable"},
    "http_500": FAILED,
    "http_400": FAILED,
    "half_closed": FAILED,
    "hangs_up": FAILED,
    "not_json": FAILED,
    "no_choices": FAILED,
    "null": FAILED,
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
    assert result.exit_code == 0, result.output
    rows = read_samples(out / "sft.parquet")
    assert [row.uid for row in rows] == [
        name for name, outcome in OUTCOMES.items() if outcome == ACCEPTED
    ]
    table = " ".join(result.output.split())
    for line in (
        "traces │ 12",
        "accepted │ 25 %",
        "OA right │ 50 %",
        "no_snapshot │ 3",
        "wrong_OA │ 1",
        "failed: video_missing │ 1",
        "failed: timeout │ 1",
    ):
        assert line in table
    assert sum("failed: server" in line for line in result.output.splitlines()) == 5  # by cause


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
            "data_prep.cold_start",
            *list_arguments(out, videos, pairs, *options),
        ]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2]
        )
        deadline = time.monotonic() + 60
        while count_lines(out) < 8 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        num_done = count_lines(out)
        assert 8 <= num_done < len(pairs)
        with (out / "accepted.jsonl").open("ab") as file:
            file.write(
                b'{"sample": {"sample_uid": "pair-'
            )  # what a kill in the middle of a write leaves
        num_requests = len(server.requests)
        assert run(list_arguments(out, videos, pairs, *options)).exit_code == 0
        assert len(server.requests) - num_requests == len(pairs) - num_done
        assert run(list_arguments(undisturbed, videos, pairs, *options)).exit_code == 0
    assert read_logs(out) == read_logs(undisturbed)
    assert (out / "sft.parquet").read_bytes() == (undisturbed / "sft.parquet").read_bytes()


def count_lines(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.glob("*.jsonl"))


def test_the_template_teacher_needs_no_server(tmp_path: Path, videos: Path) -> None:
    pairs = [make_pair(f"pair-{i}") for i in range(20)]
    result = run(list_arguments(tmp_path / "out", videos, pairs))
    assert result.exit_code == 0 and "accepted │ 100 %" in " ".join(result.output.split())
    traces = read_logs(tmp_path / "out").values()
    assert {trace.num_evictions for trace in traces} == {0, 1}


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
    trace = read_logs(tmp_path / "out")["hidden"]
    assert trace.is_accepted
    assert (trace.num_calls, trace.num_evictions, trace.wrong) == (num_calls, num_evictions, wrong)


def test_wrong_answers_are_kept_only_on_request(tmp_path: Path, videos: Path) -> None:
    for stages, num_rows in (("correct", 0), ("well_formed", 1)):
        out = tmp_path / stages
        weak = ["--direct", "1", "--cued-gap", "0", "--filter", stages]
        assert run(list_arguments(out, videos, [make_hidden_pair("hidden")], *weak)).exit_code == 0
        assert len(read_samples(out / "sft.parquet")) == num_rows
        assert read_logs(out)["hidden"].wrong == ("VQ", "OA")


def test_a_server_that_refuses_ends_the_run_at_once(tmp_path: Path, videos: Path) -> None:
    pairs = [make_pair(f"pair-{i}", prompt="http_401") for i in range(50)]
    with serve_scripts() as server:
        result = run(
            list_arguments(
                tmp_path / "out", videos, pairs, *list_server_options(server), "--concurrency", "4"
            )
        )
    assert result.exit_code == 1 and "check the URL" in result.output
    assert len(server.requests) <= 8


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--episode", "windw=2"], "unknown setting 'windw'"),
        (["--episode", "window"], "takes name=value"),
        (["--recipe", "grpo"], "unknown recipe 'grpo'"),
        (["--direct", "-1"], "must be at least 0"),
        (["--detour", "-1"], "direct, cued_gap, wrong_gap, detour must be at least 0"),
        (["--detour", "nan"], "must be at least 0, finite and not all 0"),
        (["--cued-gap", "0"], "not all 0, got (0.0, 0.0, 0.0, 0.0)"),
        (
            ["--looks", "a,b"],
            "--looks takes numbers with commas between, such as 0.4,0.3,0.3; got 'a,b'",
        ),
        (["--looks", ""], "--looks takes numbers"),
        (["--looks", "1,-1"], "looks must be at least 0"),
        (["--teacher", "localhost:8000", "--model", "m"], "base_url must start with http"),
        (["--teacher", "http://localhost:1/v1"], "model is empty"),
        (["--pairs", "missing.parquet"], "no such file"),
    ],
)
def test_a_wrong_option_is_one_line(
    tmp_path: Path, videos: Path, options: list[str], words: str
) -> None:
    result = run(list_arguments(tmp_path / "out", videos, [make_pair("a")], *options))
    assert result.exit_code == 1 and words in result.output and "Traceback" not in result.output


def test_a_folder_keeps_to_its_settings(tmp_path: Path, videos: Path) -> None:
    pairs = [make_pair("a")]
    assert run(list_arguments(tmp_path / "out", videos, pairs)).exit_code == 0
    result = run(list_arguments(tmp_path / "out", videos, pairs, "--seed", "1"))
    assert result.exit_code == 1 and "was begun with another choices" in result.output


def test_uids_must_be_unique(tmp_path: Path, videos: Path) -> None:
    result = run(list_arguments(tmp_path / "out", videos, [make_pair("a"), make_pair("a")]))
    assert result.exit_code == 1 and "sample_uid must be unique" in result.output


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
    assert TokenEstimate(1e6, 1e5).price(10, 2.5, 10.0) == 35.0


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
    assert "estimate for 1 episodes" in result.output and "2 calls" in result.output
    assert server.requests == [] and not os.path.exists(tmp_path / "out")
