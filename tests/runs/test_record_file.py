"""Damaged lines are counted and named, other versions are refused, choosing and counting agree."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.replies import ANSWER, call_frames
from tests.runs.test_record import SAMPLE, record
from verl_videosearch.cli import app
from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.runs.record import RecordKind, record_failure
from verl_videosearch.runs.record_file import (
    RecordError,
    append_record,
    parse_record,
    read_records,
    settle_records,
    write_record,
)
from verl_videosearch.sample import Order

WHOLE = write_record(record(ANSWER))
FAILED = record_failure(
    RecordKind.EVALUATION,
    "pair-7",
    SAMPLE,
    Order.AB,
    EpisodeFailure(FailureKind.VIDEO, "cut off", "pair-7", "truncated"),
)
OLD = {
    "evaluation": {"sample_uid": "a", "order": "AB", "messages": [], "turns": []},
    "reinforcement": {"sample_uid": "a", "step": 1, "session": 0, "group": "g"},
    "cold start": {"sample": {}, "teacher": "t", "replies": []},
    "rejection sampling": {"key": "a AB 0", "row": {}},
    "journal": {"key": "a AB", "failure": "server", "detail": "x"},
}


@pytest.mark.parametrize(
    "damage",
    [
        WHOLE[:100],
        "17",
        "[]",
        "{}",
        "\x00\x00",
        WHOLE.replace('"order": "AB"', '"order": "CD"'),
        WHOLE.replace('"uid": "pair-7"', '"uid": 7', 1),
        WHOLE.replace('"kind"', '"sort"', 1),
        "[" * 100_000,
    ],
    ids=range(9),
)
def test_damaged_lines_are_counted_and_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text(f"{WHOLE}{damage.rstrip()}\n\n{WHOLE}")
    file = read_records(path)
    assert len(file.records) == 2
    assert [each.split(":")[0] for each in file.damaged] == [f"{path}, line 2"]


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text(WHOLE + json.dumps({"format": 99, "anything": 1}) + "\n")
    with pytest.raises(RecordError, match=r"line 2: .* format 99; this package reads up to 1"):
        read_records(path)


@pytest.mark.parametrize("name", OLD)
def test_lines_from_before_records_are_refused_with_advice(tmp_path: Path, name: str) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text(json.dumps(OLD[name]) + "\n")
    with pytest.raises(RecordError, match=f"line 1: .*{name}.*play it again"):
        read_records(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such file: .*absent.jsonl"):
        read_records(tmp_path / "absent.jsonl")


def test_a_result_wins_over_failures_and_the_first_result_counts() -> None:
    first, second = record(ANSWER), record(call_frames(2), ANSWER)
    assert settle_records([FAILED, first, FAILED, second]) == [first]
    assert settle_records([FAILED, FAILED]) == [FAILED]


def test_appending_keeps_lines_whole(tmp_path: Path) -> None:
    for _ in range(3):
        append_record(tmp_path / "episodes.jsonl", parse_record(WHOLE))
    assert (tmp_path / "episodes.jsonl").read_text() == WHOLE * 3


def test_the_command_counts_and_chooses(tmp_path: Path) -> None:
    path, out = tmp_path / "episodes.jsonl", tmp_path / "kept/some.jsonl"
    played = [record(ANSWER), record(call_frames(2), ANSWER, order=Order.BA), FAILED]
    path.write_text("".join(map(write_record, played)) + '{"torn')

    def run(*options: str) -> str:
        result = CliRunner().invoke(app, ["episodes", str(path), *options])
        assert result.exit_code == 0, result.output
        return result.output

    text = run()
    assert "3 of 3 episodes (all)" in text
    assert "answered 2, failed 1" in text and "video_truncated (permanent) 1" in text
    assert "right 1, wrong 1" in text and "damaged lines    1" in text
    for options, num in {
        ("--wrong",): 1,
        ("--right", "--not-searched"): 0,
        ("--searched",): 1,
        ("--failure", "video"): 1,
        ("--failure", "video_truncated"): 1,
        ("--failure", "server"): 0,
        ("--outcome", "failed"): 1,
        ("--order", "BA"): 1,
        ("--kind", "probe"): 0,
    }.items():
        assert f"{num} of 3" in run(*options), options
    run("--searched", "--out", str(out))
    assert read_records(out).records == (played[1],)


def test_the_command_refuses_a_wrong_outcome(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["episodes", str(tmp_path / "a"), "--outcome", "lost"])
    assert result.exit_code == 2 and "one of answered" in result.output


def test_equal_parts_of_records_are_one_object_and_lines_do_not_change() -> None:
    first, second = parse_record(WHOLE), parse_record(WHOLE.replace("pair-7", "pair-8"))
    assert first.candidates is second.candidates and first.config is second.config
    assert write_record(first) == WHOLE
    other = json.loads(WHOLE) | {"config": {"window": 3}}
    assert parse_record(json.dumps(other)).config == {"window": 3}
    assert parse_record(WHOLE).config == first.config


def test_words_can_be_left_out_and_verdicts_stay(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text(WHOLE, "utf-8")
    (whole,), (bare,) = read_records(path).records, read_records(path, keeps_words=False).records
    assert [turn.reply for turn in whole.turns] == [ANSWER] and bare.turns[0].reply == ""
    assert bare.messages is None and bare.own_verdicts == whole.own_verdicts is not None
