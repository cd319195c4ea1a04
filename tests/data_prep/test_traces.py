"""Traces survive the way to disk and back, and a kill in the middle of a line."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from verl_videosearch.data_prep.traces.sft_rows import (
    Trace,
    append_trace,
    from_line,
    open_log,
    read_traces,
    to_line,
    write_sft_rows,
)

from tests.replies import ANSWER, call_frames
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.sample import PreferenceSample, read_samples


def make_trace(uid: str = "a", reply: str = ANSWER) -> Trace:
    labels = {"TA": None, "VQ": 1, "MQ": 0, "OA": 1}
    sample = PreferenceSample(
        uid, 'a "cat"\n\u2028é', "1.mp4", "2.mp4", labels, meta={"fps_1": 8, "cue": None}
    )
    return Trace(
        sample, (call_frames(2), reply), EpisodeConfig(window=None), "someone", num_calls=1
    )


@pytest.mark.parametrize(
    "trace",
    [
        make_trace(),
        replace(make_trace(), reasons=("wrong_OA", "no_think"), wrong=("OA",)),
        replace(make_trace(), reasons=("ending_no_answer",), wrong=None, num_evictions=2),
        replace(make_trace(), replies=("", "a\nb\r\nc\u2028d\ud800e")),
    ],
    ids=["accepted", "wrong", "no verdict", "odd text"],
)
def test_a_line_reads_back(trace: Trace) -> None:
    line = to_line(trace)
    assert from_line(line) == trace
    assert line.count("\n") == 1 and line.isascii()


@pytest.mark.parametrize("num_bytes", [0, 1, 40, -1])
def test_a_torn_last_line_costs_nothing_else(tmp_path: Path, num_bytes: int) -> None:
    path, lines = (
        tmp_path / "deep" / "accepted.jsonl",
        [to_line(make_trace(uid)).encode() for uid in "abc"],
    )
    path.parent.mkdir()
    path.write_bytes(lines[0] + lines[1] + lines[2][:num_bytes])
    assert [trace.sample.uid for trace in read_traces(path)] == ["a", "b"]
    with open_log(path) as log:
        append_trace(log, make_trace("c"))
    assert path.read_bytes() == b"".join(lines)


def test_a_line_is_on_the_disk_when_append_returns(tmp_path: Path) -> None:
    with open_log(tmp_path / "new" / "accepted.jsonl") as log:
        append_trace(log, make_trace())
        assert list(read_traces(tmp_path / "new" / "accepted.jsonl")) == [make_trace()]
    assert list(read_traces(tmp_path / "missing.jsonl")) == []


@pytest.mark.parametrize("line", ["{}", "[]", "null", "not json", json.dumps({"sample": {}})])
def test_other_bad_lines_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "accepted.jsonl"
    path.write_text(to_line(make_trace()) + line + "\n")
    with pytest.raises(ValueError, match=r"accepted.jsonl, line 2: "):
        list(read_traces(path))


def test_sft_rows_are_samples_with_replies(tmp_path: Path) -> None:
    traces = [make_trace("a"), make_trace("b")]
    assert write_sft_rows(tmp_path / "sft.parquet", traces) == 2
    assert read_samples(tmp_path / "sft.parquet") == [trace.sample for trace in traces]
    rows = pq.read_table(tmp_path / "sft.parquet").to_pylist()
    assert [tuple(row["replies"]) for row in rows] == [trace.replies for trace in traces]
    assert EpisodeConfig.from_dict(json.loads(rows[0]["episode"])) == traces[0].episode


def test_no_accepted_trace_still_makes_a_file(tmp_path: Path) -> None:
    assert write_sft_rows(tmp_path / "sft.parquet", []) == 0
    assert read_samples(tmp_path / "sft.parquet") == []
