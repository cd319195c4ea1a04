"""`videosearch eval`: several benchmarks, training pairs, what a run will cost, how a checkpoint
was
trained."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.scripted_server import ScriptedServer
from tests.seeing_judge import (
    EPISODE,
    make_samples,
    search,
    serve_judge,
    write_clips,
    write_pairs,
)
from verl_videosearch.checkpoint import write_checkpoint_settings
from verl_videosearch.cli import app
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.judgement import DEFAULT_DIMENSIONS, Dimension
from verl_videosearch.prompts import load_pack
from verl_videosearch.recipe import read_episode
from verl_videosearch.runs.record_file import read_records
from verl_videosearch.sample import write_samples

SET = [word for each in EPISODE for word in ("--set", each)]
TRAINED = read_episode(None, EPISODE)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs")


def judge(server: ScriptedServer | str, out: Path, *more: str | Path) -> Result:
    url = server if isinstance(server, str) else server.url
    arguments = ["eval", "--endpoint", url, "--model", "tiny", "--out", out, *more]
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


def say(result: Result) -> str:
    return " ".join(result.output.split())


def test_several_benchmarks_are_several_runs_and_one_table(pairs: Path, tmp_path: Path) -> None:
    other, out = tmp_path / "other", tmp_path / "out"
    write_pairs(other, "second", first=20)
    options = ["--benchmark", pairs, "--benchmark", other / "second.parquet", *SET]
    with serve_judge() as server:
        result = judge(server, out, *options)
        num_requests = len(server.requests)
        again = judge(server, out, *options)
        assert len(server.requests) == num_requests
    assert (result.exit_code, again.exit_code) == (0, 0), result.output
    for name in ("test", "second"):
        found = json.loads((out / name / "results.json").read_text())
        assert found["overall"]["with_ties"]["correct"] == 12
    page = (out / "results.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith(("| test |", "| second |"))]
    assert len(rows) == 2 and all("12 of 12" in row and "100.0 %" in row for row in rows)
    assert rows[0] in again.output and (out / "index.html").is_file()


def test_a_dead_server_is_not_asked_about_the_next_benchmark(pairs: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "other", "second", first=20)
    other = tmp_path / "other/second.parquet"
    result = judge(
        "http://127.0.0.1:9/v1", tmp_path / "out", "--benchmark", pairs, "--benchmark", other, *SET
    )
    assert result.exit_code == 2 and "not begun: second" in say(result)


def test_two_benchmarks_of_one_name_are_refused(pairs: Path, tmp_path: Path) -> None:
    with serve_judge() as server:
        result = judge(server, tmp_path / "out", "--benchmark", pairs, "--benchmark", pairs, *SET)
    assert result.exit_code == 2 and "two benchmarks have the name test-test" in say(result)
    assert server.requests == []


def test_pairs_that_a_model_was_trained_on_are_refused(pairs: Path, tmp_path: Path) -> None:
    trained = tmp_path / "trained"
    trained.mkdir()
    samples = make_samples("train")
    write_clips(trained)
    (trained / "defect.mp4").rename(trained / "renamed.mp4")
    words = " ".join(["Cat,"] * 11)
    of_words = replace(samples[10], prompt=words, video_1="a.mp4", video_2="b.mp4")
    of_bytes = replace(samples[0], prompt="a dog", video_1="renamed.mp4", video_2="other.mp4")
    for name in ("a.mp4", "b.mp4", "other.mp4"):
        (trained / name).write_bytes(name.encode())
    write_samples(trained / "train.parquet", [of_words, of_bytes])
    options = ["--benchmark", pairs, "--against", trained / "train.parquet", *SET]
    with serve_judge() as server:
        refused = judge(server, tmp_path / "out", *options)
        assert server.requests == []
        by_path = judge(server, tmp_path / "out", *options, "--by-path")
        allowed = judge(server, tmp_path / "allowed", *options, "--allow-trained")
    # every pair with the defect, and the one with the same words
    assert refused.exit_code == 2 and "10 of 12 pairs share a prompt or a video" in say(refused)
    assert "such as test-00 its video with train-00 of" in say(refused)
    assert by_path.exit_code == 2 and "1 of 12 pairs" in say(by_path)
    assert allowed.exit_code == 0, allowed.output
    assert "10 of 12 pairs share" in (tmp_path / "allowed/results.md").read_text()


def test_pairs_that_no_model_saw_are_judged(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "trained").mkdir()
    sample = replace(make_samples("train")[0], prompt="a dog", video_1="a.mp4", video_2="b.mp4")
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "trained" / name).write_bytes(name.encode())
    write_samples(tmp_path / "trained/train.parquet", [sample])
    against = ["--against", tmp_path / "trained/train.parquet"]
    with serve_judge() as server:
        assert judge(server, tmp_path / "out", "--benchmark", pairs, *against, *SET).exit_code == 0


def test_what_a_run_will_cost_is_said_before_it_begins(pairs: Path, tmp_path: Path) -> None:
    prices, options = ["--price-in", "2.5", "--price-out", "10"], ["--benchmark", pairs, *SET]
    dead = "http://127.0.0.1:9/v1"
    said = say(judge(dead, tmp_path / "out", *options, *prices, "--rate", "6"))
    assert "24 episodes (0 to 1 calls each): " in said and "price 0." in said
    assert "time: about 0:04:00 (at least, by --rate)" in said  # 24 requests, 6 a minute
    assert "3 videos need up to" in said
    assert "give both --price-in and --price-out" in say(
        judge(dead, tmp_path / "out", *options, "--price-in", "2")
    )
    with serve_judge() as server:
        judge(server, tmp_path / "out", *options)
        assert "videos need" not in judge(server, tmp_path / "out", *options).output


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    write_checkpoint_settings(folder, TRAINED, DEFAULT_DIMENSIONS)
    return folder


def test_a_checkpoint_is_asked_as_it_was_trained(
    pairs: Path, checkpoint: Path, tmp_path: Path
) -> None:
    options = ["--benchmark", pairs, "--model-dir", checkpoint]
    with serve_judge() as server:
        own = judge(server, tmp_path / "own", *options)
        before = len(server.requests)
        other = judge(server, tmp_path / "other", *options, "--set", "window=3")
        recipe = judge(server, tmp_path / "other", *options, "--recipe", "videosearch_grpo_tiny")
        assert len(server.requests) == before and not (tmp_path / "other").exists()
        accepted = [*options, "--set", "window=3", "--accept-other-settings"]
        override = judge(server, tmp_path / "other", *accepted)
    assert (own.exit_code, other.exit_code, recipe.exit_code, override.exit_code) == (0, 2, 2, 0)
    assert "window was 1 in training, is 3" in say(other)
    assert "--accept-other-settings" in say(other) and "frames_per_video was 8" in say(recipe)
    record = read_records(tmp_path / "own/episodes.jsonl").records[0]
    assert EpisodeConfig.from_dict(record.config) == TRAINED
    assert record.identity.words_hash == TRAINED.pack.words_hash


def test_other_dimensions_than_trained_are_an_error(
    pairs: Path, checkpoint: Path, tmp_path: Path
) -> None:
    other = (Dimension("TA", "alignment", "Does it follow?"),)
    write_checkpoint_settings(checkpoint, TRAINED, other)
    result = judge(
        "http://127.0.0.1:9/v1", tmp_path / "out", "--benchmark", pairs, "--model-dir", checkpoint
    )
    assert result.exit_code == 2 and "dimensions were ['TA'] in training" in say(result)


def test_a_pack_that_changed_under_its_name_is_another_setting(pairs: Path, tmp_path: Path) -> None:
    pack = tmp_path / "own.yaml"
    pack.write_text('extends: full\nframes_opening: "Frames {frames}:"\n')
    options = ["--benchmark", pairs, *SET, "--set", f"prompt_pack={pack}"]
    with serve_judge() as server:
        assert judge(server, tmp_path / "out", *options).exit_code == 0
        load_pack.cache_clear()  # another process would read the file again
        pack.write_text('extends: full\nframes_opening: "Look at {frames}:"\n')
        again = judge(server, tmp_path / "out", *options)
        assert again.exit_code == 2 and "begun with other settings (words_hash" in say(again)
        arguments = ["probe", tmp_path / "out", "--endpoint", server.url, "--out", tmp_path / "p"]
        probe = CliRunner().invoke(app, list(map(str, arguments)))
    assert probe.exit_code == 2 and "are others now" in say(probe)


def think_first(request: dict) -> str:
    """Write as a served thinking model does whose chat template has opened the thought."""
    return f"perhaps <Answer>OA=2</Answer>, no</think>\n{search(request)}"


def test_the_thoughts_of_a_served_model_are_its_own_when_a_setting_says_so(
    pairs: Path, tmp_path: Path
) -> None:
    options = ["--benchmark", pairs, *SET]
    with serve_judge(think_first) as server:
        result = judge(server, tmp_path / "out", *options, "--set", "native_thought=always")
    assert result.exit_code == 0 and "100.0 %" in result.output, result.output
    records = read_records(tmp_path / "out/episodes.jsonl").records
    thoughts = {turn.thought for record in records for turn in record.turns}
    assert thoughts == {"perhaps <Answer>OA=2</Answer>, no</think>"}
