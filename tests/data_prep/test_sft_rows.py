"""SFT rows of episodes of any kind."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner, Result
from verl_videosearch.data_prep.sft_rows import main
from verl_videosearch.data_prep.traces.sft_rows import make_sft_row, write_sft_rows

from tests.data_prep.test_traces import WRONG, make_sample, play
from tests.replies import ANSWER
from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.runs.record import RecordKind, record_failure
from verl_videosearch.runs.record_file import write_record
from verl_videosearch.sample import Order, read_samples

APP = typer.Typer()
APP.command()(main)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(APP, list(map(str, arguments)), env={"COLUMNS": "200"})


@pytest.mark.parametrize("kind", RecordKind)
def test_rows_of_every_kind_of_record(tmp_path: Path, kind: RecordKind) -> None:
    records = [
        play(make_sample("a"), ANSWER),
        play(make_sample("a"), ANSWER),  # again, as in another step
        play(make_sample("b"), WRONG),
    ]
    records = [
        msgspec.structs.replace(record, kind=kind, step=step, key=f"{step}")
        for step, record in enumerate(records)
    ]
    failure = EpisodeFailure(FailureKind.SERVER, "away")
    records.append(record_failure(kind, "c AB", make_sample("c"), Order.AB, failure))
    path = tmp_path / "episodes.jsonl"
    path.write_text("".join(map(write_record, records)) + '{"format": 1, "ki\n')
    result = run(path, "--out", tmp_path / "sft.parquet")
    assert result.exit_code == 0, result.output
    assert [row.uid for row in read_samples(tmp_path / "sft.parquet")] == ["a"]
    for words in ("1 rows in", "1 lines cannot be read", "1 episodes have no result"):
        assert words in result.output
    everything = run(path, "--out", tmp_path / "all.parquet", "--filter", "well_formed")
    assert everything.exit_code == 0 and "2 rows in" in everything.output


def test_native_thoughts_are_kept_beside_the_replies() -> None:
    record = play(make_sample("a"), ANSWER)
    turns = tuple(
        msgspec.structs.replace(turn, thought="<think>hm</think>") for turn in record.turns
    )
    row = make_sft_row(msgspec.structs.replace(record, turns=turns))
    assert row.thoughts == ("<think>hm</think>",) and row.replies == (ANSWER,)


def test_the_file_has_a_thought_for_every_reply(tmp_path: Path) -> None:
    row = make_sft_row(play(make_sample("a"), ANSWER))
    thoughtful = replace(row, thoughts=("<think>hm</think>",))
    write_sft_rows(tmp_path / "sft.parquet", [row, thoughtful, replace(row, thoughts=())])
    table = pq.read_table(tmp_path / "sft.parquet")
    assert table["thoughts"].to_pylist() == [[""], ["<think>hm</think>"], [""]]


def test_nothing_to_teach_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text(write_record(play(make_sample(), WRONG)))
    result = run(path, "--out", tmp_path / "sft.parquet")
    assert result.exit_code == 2 and "nothing was written" in result.output
    assert not (tmp_path / "sft.parquet").exists()
    missing = run(tmp_path / "nowhere.jsonl", "--out", tmp_path / "sft.parquet")
    assert missing.exit_code == 2 and "no such file" in missing.output
