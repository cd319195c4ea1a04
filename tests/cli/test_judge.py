"""`videosearch judge` and `rank`: a verdict that can be read, a list of ways without a model."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tests.clips import write_clip
from tests.judge.episodes import SETTINGS
from tests.scripted_server import ScriptedServer
from tests.seeing_judge import CLIPS, HIDDEN, NUM_FRAMES, serve_judge, write_clips
from verl_videosearch.checkpoint import write_checkpoint_settings
from verl_videosearch.cli import app
from verl_videosearch.cli.judge import JudgeOptions, list_ways
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.judge import cache as cache_module
from verl_videosearch.judge.cache import EpisodeCache
from verl_videosearch.judge.comparison import Comparison
from verl_videosearch.judgement import DEFAULT_DIMENSIONS
from verl_videosearch.models.source import ModelSource

CLEAN, OTHER, DEFECT = CLIPS
EPISODE = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "200"})


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    write_clips(tmp_path)
    return tmp_path


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with serve_judge() as server:
        yield server


def model(server: ScriptedServer) -> list[str]:
    return ["--endpoint", server.url, "--model", "tiny", *EPISODE]


def test_a_verdict_says_who_why_and_what_was_looked_at(clips: Path, server: ScriptedServer) -> None:
    page = clips / "verdict.html"
    videos = (clips / DEFECT, clips / CLEAN)
    result = run("judge", *videos, "--prompt", "a cat", "--out", page, *model(server))
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == f"video 2 is better: {CLEAN}"
    assert "Visual Quality: video 2" in result.output and "overall: video 2" in result.output
    assert "orders agree; stated confidence AB 1, BA 1" in result.output
    assert "looked at frames 3 (video 1, 0.08 s), 11 (video 2, 0.08 s)" in result.output
    assert "order BA (its video 1 is your video 2)" in result.output
    assert page.read_text("utf-8").startswith("<!doctype html>")


def test_json_is_one_object_and_nothing_else(clips: Path, server: ScriptedServer) -> None:
    options = ("--prompt", "a cat", "--json", "--one-order", *model(server))
    result = run("judge", clips / DEFECT, clips / CLEAN, *options)
    comparison = Comparison.from_json(json.loads(result.stdout))
    assert comparison.overall == 2 and len(comparison.records) == 1


def test_without_a_model_there_are_three_ways_to_paste(clips: Path) -> None:
    result = run("judge", clips / CLEAN, clips / DEFECT, "--prompt", "a cat")
    assert result.exit_code == 2
    assert all(f" --{way} " in result.output for way in ("local", "serve", "endpoint"))
    assert run("rank", "a cat", clips / CLEAN, clips / DEFECT).exit_code == 2
    ways = list_ways(["judge", "a b.mp4", "c.mp4", "--prompt", "it's"])
    assert """videosearch judge 'a b.mp4' c.mp4 --prompt 'it'"'"'s' --serve CHECKPOINT""" in ways


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a.mp4"], "give two videos"),
        (["a.mp4", "b.mp4"], "--prompt TEXT"),
        (["a.mp4", "--pairs", "p.csv"], "--pairs names videos"),
        (["--pairs", "p.csv"], "no such file"),
        (["--pairs", "p" * 300 + ".csv"], "no such file"),
        (["a.mp4", "b.mp4", "--prompt", "x"], "no such file: a.mp4, b.mp4"),
        (["https://me:secret@host/a.mp4", __file__, "--prompt", "x"], "***@host/a.mp4 (addresses"),
        (["a" * 300, __file__, "--prompt", "x"], "no such file: aaa"),
        (["/dev/null", ".", "--prompt", "x"], "no such file: /dev/null, ."),
        ([__file__, __file__, "--prompt", "x", "--set", "windows=1"], "windows"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], words: str, server: ScriptedServer) -> None:
    result = run("judge", *arguments, "--endpoint", server.url, "--model", "tiny")
    assert result.exit_code == 2 and words in result.output
    assert len(result.output.splitlines()) == 1


def test_a_missing_video_is_said_first(clips: Path, server: ScriptedServer) -> None:
    videos = (clips / CLEAN, clips / "gone.mp4")
    num_asked = len(server.requests)
    result = run("judge", *videos, "--prompt", "a cat", *model(server))
    assert result.exit_code == 2 and "gone.mp4" in result.output
    assert CLEAN not in result.output and len(server.requests) == num_asked


def test_clips_to_rank_are_looked_for_first(clips: Path) -> None:
    where = ("--endpoint", "http://127.0.0.1:9/v1", "--model", "tiny")
    result = run("rank", "a cat", clips / CLEAN, clips / "gone.mp4", *where)
    assert result.exit_code == 2 and "gone.mp4" in result.output and CLEAN not in result.output
    result = run("rank", "a cat", clips / CLEAN, *where)
    assert result.exit_code == 2 and "give two clips or more" in result.output


def test_a_server_that_is_not_there_is_one_line(clips: Path) -> None:
    where = ("--endpoint", "http://127.0.0.1:9/v1", "--model", "tiny")
    result = run("judge", clips / CLEAN, clips / DEFECT, "--prompt", "a cat", *where)
    assert result.exit_code == 2 and "127.0.0.1:9" in result.output


def test_a_file_of_pairs_without_labels(clips: Path, server: ScriptedServer) -> None:
    rows = [
        {"prompt": "a cat", "video_1": CLEAN, "video_2": DEFECT},
        {"prompt": "a cat", "video_1": "gone.mp4", "video_2": CLEAN, "anything": 3},
        {"prompt": "a dog", "video_1": CLEAN, "video_2": OTHER},
    ]
    pairs, out = clips / "pairs.jsonl", clips / "results.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("judge", "--pairs", pairs, "--out", out, *model(server))
    assert result.exit_code == 1 and "2 of 3 pairs judged, 1 failed" in result.output
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["overall"] for row in found] == [1, None, 0]
    assert found[1]["error_kind"] == "video_missing" and found[0]["error"] is None
    assert found[1]["video_1"] == str(clips / "gone.mp4") and found[1]["video_2"] == str(
        clips / CLEAN
    )
    said = f"no such file: {clips / 'gone.mp4'}; 1 of 3 pairs will fail"
    assert said in result.output and said not in result.stdout
    page = run("report", out, "-o", clips / "looked.html")
    assert page.exit_code == 0 and "4 episodes" in page.output and "damaged" not in page.output


def test_a_pair_that_is_named_twice_is_counted_once(clips: Path, server: ScriptedServer) -> None:
    pairs = clips / "pairs.csv"
    row = f"a,{CLEAN},{DEFECT}\n"
    pairs.write_text("prompt,video_1,video_2\n" + 3 * row)
    result = run("judge", "--pairs", pairs, "--out", clips / "results.jsonl", *model(server))
    assert "3 of 3 pairs judged, 0 failed; 0 of 2 episodes remembered" in result.output


def test_a_page_never_replaces_episodes(clips: Path, server: ScriptedServer) -> None:
    pairs, out = clips / "pairs.csv", clips / "results.jsonl"
    pairs.write_text(f"prompt,video_1,video_2\na,{CLEAN},{DEFECT}\n")
    assert run("judge", "--pairs", pairs, "--out", out, *model(server)).exit_code == 0
    before, asked = out.read_bytes(), len(server.requests)
    pair = ("judge", clips / CLEAN, clips / DEFECT, "--prompt", "a cat", *model(server))
    for command in (
        ("report", out, "-o", out),
        ("report", clips / "gone.jsonl", "-o", out),  # a shell's pattern, taken for the page
        (*pair, "--out", out),
        ("episodes", out, "--out", out),
    ):
        result = run(*command)
        assert result.exit_code == 2 and "error: " in result.output
        assert "a page is a file .html" in result.output or "would replace" in result.output
    assert out.read_bytes() == before and len(server.requests) == asked


def test_what_was_judged_is_kept_beside_the_results(clips: Path, server: ScriptedServer) -> None:
    pairs, out = clips / "pairs.csv", clips / "made" / "results.jsonl"
    pairs.write_text(f"prompt,video_1,video_2\na,{CLEAN},{DEFECT}\nb,{CLEAN},later.mp4\n")
    command = ("judge", "--pairs", pairs, "--out", out, *model(server))
    first = run(*command)
    assert first.exit_code == 1 and "the same command goes on" in first.output
    assert "1 of 2 pairs judged, 1 failed; 0 of 4 episodes remembered" in first.output
    num_first = len(server.requests)
    (clips / "later.mp4").write_bytes((clips / OTHER).read_bytes())
    assert run(*command).exit_code == 0
    num_second = len(server.requests) - num_first
    assert run(*command).exit_code == 0
    assert num_second and len(server.requests) == num_first + num_second
    assert [json.loads(line)["overall"] for line in out.read_text().splitlines()] == [1, 0]
    assert {file.name for file in out.parent.iterdir()} >= {"results.jsonl", "results.jsonl.sqlite"}


def test_a_cache_in_use_is_refused_first(
    clips: Path, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_WAIT_S", 0.01)
    EpisodeCache(clips / "c.sqlite").close()
    other = sqlite3.connect(clips / "c.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    both = (clips / CLEAN, clips / DEFECT, "--prompt", "a", "--cache", clips / "c.sqlite")
    num_asked = len(server.requests)
    result = run("judge", *both, *model(server))
    assert result.exit_code == 2 and "cannot use" in result.output
    assert "locked" in result.output and len(server.requests) == num_asked
    other.close()


def test_a_cache_holds_all_of_a_call(
    clips: Path, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EpisodeCache.__init__, "__defaults__", (None, 1))
    pairs = clips / "pairs.csv"
    pairs.write_text(f"prompt,video_1,video_2\na,{CLEAN},{DEFECT}\nb,{CLEAN},{OTHER}\n")
    command = ("judge", "--pairs", pairs, "--out", clips / "r.jsonl", *model(server))
    run(*command)
    assert "4 of 4 episodes remembered" in run(*command).output


def test_a_pack_of_the_same_words_elsewhere_is_remembered(
    clips: Path, server: ScriptedServer
) -> None:
    both = (clips / CLEAN, clips / DEFECT, "--prompt", "a", "--cache", clips / "c.sqlite")
    num_asked = [len(server.requests)]
    for name, label in (("a", "Picture"), ("b", "Picture"), ("c", "Image")):
        (clips / f"{name}.yaml").write_text(f"extends: brief\nframe_label: '{label} {{number}}:'\n")
        pack = ("--set", f"prompt_pack={clips / name}.yaml")
        run("judge", *both, *model(server), *pack)
        num_asked.append(len(server.requests))
    start, first, moved, changed = num_asked
    assert start < first == moved < changed


def test_results_that_cannot_be_written_are_said_first(clips: Path, server: ScriptedServer) -> None:
    pairs = clips / "pairs.csv"
    pairs.write_text(f"prompt,video_1,video_2\na,{CLEAN},{DEFECT}\n")
    (clips / "taken.jsonl.sqlite").mkdir()
    sqlite3.connect(clips / "foreign.jsonl.sqlite").execute("CREATE TABLE episodes (a TEXT)")
    num_asked = len(server.requests)
    for out, words in (
        (clips, "--out names a file"),
        ("..", "--out names a file"),
        (pairs, "which is read"),
        (pairs / "r.jsonl", "cannot write"),
        ("/proc/nope/r.jsonl", "cannot write"),
        (clips / "taken.jsonl", "cannot use"),
        (clips / "foreign.jsonl", "is no cache of episodes"),
    ):
        result = run("judge", "--pairs", pairs, "--out", out, *model(server))
        assert result.exit_code == 2 and words in result.output, result.output
        assert len(result.output.splitlines()) == 1 and len(server.requests) == num_asked
    both = (clips / CLEAN, clips / DEFECT, "--prompt", "a", "--out", "/proc/nope/x.html")
    assert "cannot write" in run("judge", *both, *model(server)).output
    assert pairs.read_text().startswith("prompt,") and len(server.requests) == num_asked


def test_a_deadline_of_pairs_is_one_line(clips: Path, server: ScriptedServer) -> None:
    pairs, out = clips / "pairs.csv", clips / "results.jsonl"
    pairs.write_text(f"prompt,video_1,video_2\na,{CLEAN},{DEFECT}\n")
    command = ("judge", "--pairs", pairs, "--out", out, *model(server))
    result = run(*command, "--deadline-s", "0.000001")
    assert result.exit_code == 2 and "not all pairs were judged: no result after" in result.output
    assert "the same command goes on" in result.output.splitlines()[-1]


def test_an_address_in_a_file_of_pairs_keeps_its_password(clips: Path) -> None:
    pairs = clips / "pairs.csv"
    pairs.write_text(f"prompt,video_1,video_2\na,{CLEAN},https://me:secret@host/b.mp4\n")
    where = ("--endpoint", "http://127.0.0.1:9/v1", "--model", "tiny")
    result = run("judge", "--pairs", pairs, *where)
    assert result.exit_code == 2 and "secret" not in result.output
    assert "https://***@host/b.mp4 (addresses are not fetched" in result.output


def test_pairs_without_any_of_their_films_load_no_model(clips: Path) -> None:
    pairs = clips / "pairs.csv"
    rows = "".join(f"a,{CLEAN},gone{number}.mp4\n" for number in range(5))
    pairs.write_text("prompt,video_1,video_2\n" + rows)
    where = ("--endpoint", "http://127.0.0.1:9/v1", "--model", "tiny")
    result = run("judge", "--pairs", pairs, *where)
    assert result.exit_code == 2 and "127.0.0.1" not in result.output
    assert "gone2.mp4 and 2 more; paths are absolute or relative" in result.output


def test_what_a_model_says_cannot_steer_the_terminal(clips: Path) -> None:
    evil = "<Think>\x1b[2J[bold]\u202egood</Think><Answer>TA=0, VQ=0, MQ=0, OA=0</Answer>"
    with serve_judge(lambda request: evil) as server:
        result = run("judge", clips / CLEAN, clips / OTHER, "--prompt", "a", *model(server))
    assert result.exit_code == 0 and "\x1b" not in result.output and "\u202e" not in result.output
    assert "[bold]" in result.output


def test_a_ranking_is_a_table_and_the_cache_makes_it_free(
    clips: Path, server: ScriptedServer
) -> None:
    videos = (clips / DEFECT, clips / CLEAN, clips / OTHER)
    cache = ("--cache", clips / "cache.sqlite")
    result = run("rank", "a cat", *videos, *cache, *model(server))
    assert result.exit_code == 0, result.output
    assert "3 comparisons, 3 of them new, 0 remembered" in result.output
    num_requests = len(server.requests)
    again = run("rank", "a cat", *videos, *cache, "--json", *model(server))
    content = json.loads(again.stdout)
    assert len(server.requests) == num_requests and content["num_known"] == 3
    assert [clip["rank"] for clip in content["clips"]] == [1, 1, 3]
    assert content["clips"][2]["video"].endswith(DEFECT)


def test_a_ranking_that_is_late_says_that_it_goes_on(clips: Path) -> None:
    options = ("--cache", clips / "cache.sqlite", "--deadline-s", "1")
    with serve_judge(delay_s=2.0) as server:
        late = run("rank", "a cat", clips / CLEAN, clips / DEFECT, *options, *model(server))
    words = " ".join(late.output.split())
    assert late.exit_code == 2
    assert "no ranking: no result after 1 s, retries included; the same command goes on" in words


def test_a_ranking_says_what_was_never_compared(clips: Path, server: ScriptedServer) -> None:
    videos = (clips / DEFECT, clips / CLEAN, clips / OTHER)
    result = run("rank", "a cat", *videos, "--max-comparisons", "1", *model(server))
    words = " ".join(result.output.split())
    assert result.exit_code == 0 and "1 comparisons, 1 of them new" in words
    assert words.count("no verdict is about it, so it has no rank") == 1 and "50%" not in words


def test_changes_of_a_checkpoint_start_from_its_own_settings_and_are_accepted_explicitly(
    clips: Path,
) -> None:
    config = EpisodeConfig.from_dict(SETTINGS)
    (clips / "config.json").write_text("{}")
    write_checkpoint_settings(clips, config, DEFAULT_DIMENSIONS)
    source = ModelSource(local=clips)
    with JudgeOptions(set_=["window=3"]).make_judge(source) as judge:
        assert judge.config.episode == replace(config, window=3)
        with pytest.raises(ValueError, match="window was 1 in training, is 3"):
            judge.open()
    with JudgeOptions().make_judge(source) as judge:
        assert judge.config.episode is None
    videos = (clips / CLEAN, clips / DEFECT)
    options = ("--prompt", "a", "--local", clips, "--set", "window=3")
    for command in (("judge", *videos), ("serve", "--state", clips / "state")):
        more = options[2:] if command[0] == "serve" else options
        refused = run(*command, *more)
        assert refused.exit_code == 2 and "window was 1 in training, is 3" in refused.output
    accepted = run("judge", *videos, *options, "--accept-other-settings")
    assert "in training" not in accepted.output  # it goes on to the model, which is none here


def test_a_ranking_of_six_clips_is_the_round_robin(clips: Path, server: ScriptedServer) -> None:
    levels = (200, 60, 150, 250, 105, 305 - 255 + 60)  # the last two differ too little: a tie
    videos = []
    for number, level in enumerate(levels):
        frames = np.full((NUM_FRAMES, 56, 84, 3), 60, np.uint8)
        frames[HIDDEN] = level
        videos.append(write_clip(clips / f"{number}.mkv", frames))
    wins = [0.0] * len(videos)
    for first, second in combinations(range(len(videos)), 2):
        pair = (videos[first], videos[second], "--prompt", "a cat", "--json", *model(server))
        overall = json.loads(run("judge", *pair).stdout)["overall"]
        wins[first] += {1: 1, 0: 0.5, 2: 0}[overall]
        wins[second] += {2: 1, 0: 0.5, 1: 0}[overall]
    ranked = json.loads(run("rank", "a cat", *videos, "--json", *model(server)).stdout)
    expected = [1 + sum(other > own for other in wins) for own in wins]
    assert {clip["video"]: clip["rank"] for clip in ranked["clips"]} == dict(
        zip(map(str, videos), expected, strict=True)
    )
    assert len(set(expected)) == 5  # one tie
