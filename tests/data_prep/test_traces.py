"""The filter names every reason, and rows are what was written."""

import json
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from verl_videosearch.data_prep.traces.sft_rows import SftRow, make_sft_row, write_sft_rows
from verl_videosearch.data_prep.traces.trace_filter import Filter, filter_record
from verl_videosearch.data_prep.traces.trace_report import describe_preambles

from tests.replies import ANSWER, call_frames
from verl_videosearch.episode import Episode, EpisodeConfig, Reply
from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.runs.record import (
    EpisodeRecord,
    RecordKind,
    record_episode,
    record_failure,
)
from verl_videosearch.sample import Order, PreferenceSample, read_samples, show_in_order

CONFIG = EpisodeConfig(frames_per_video=4, initial_frames_per_video=1, window=None)
LABELS = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}


def make_sample(uid: str = "a", **labels: int | None) -> PreferenceSample:
    return PreferenceSample(uid, 'a "cat"\n\u2028é', "1.mp4", "2.mp4", LABELS | labels)


def play(sample: PreferenceSample, *replies: str, order: Order = Order.AB) -> EpisodeRecord:
    """Return the record of an episode with these replies."""
    times = (0.0, 0.1, 0.2, 0.3)
    episode = Episode(show_in_order(sample, order), CandidateFrames(times, times), CONFIG)
    for reply in replies:
        episode.step(Reply(reply))
    return record_episode(RecordKind.SAMPLE, f"{sample.uid} {order.value}", sample, order, episode)


WRONG = ANSWER.replace("OA=1", "OA=2")


@pytest.mark.parametrize(
    ("labels", "reply", "correct", "labelled", "well_formed"),
    [
        ({}, ANSWER, (), (), ()),
        ({}, WRONG, ("wrong_OA",), ("wrong_OA",), ()),
        ({"VQ": None}, ANSWER, ("unlabelled_VQ",), (), ()),
        ({"VQ": None}, WRONG, ("wrong_OA", "unlabelled_VQ"), ("wrong_OA",), ()),
        ({}, f"Sure! {ANSWER}", ("text_outside_tags",), ("text_outside_tags",), None),
    ],
)
def test_the_filter(
    labels: dict[str, None],
    reply: str,
    correct: tuple[str, ...],
    labelled: tuple[str, ...],
    well_formed: tuple[str, ...] | None,
) -> None:
    record = play(make_sample(**labels), call_frames(2), reply)
    assert filter_record(record, Filter.CORRECT).reasons == correct
    assert filter_record(record, Filter.LABELLED).reasons == labelled
    assert filter_record(record, Filter.WELL_FORMED).reasons == (
        labelled if well_formed is None else well_formed
    )


def test_a_swapped_pair_is_judged_as_it_was_shown() -> None:
    swapped = make_sample(VQ=2, OA=2)
    assert filter_record(play(swapped, ANSWER, order=Order.BA)).is_accepted
    assert filter_record(play(swapped, ANSWER)).wrong == ("VQ", "OA")


def test_preambles_are_counted() -> None:
    preamble, wrong = f"Sure! {ANSWER}", f"Sure! {WRONG}"
    traces = [filter_record(play(make_sample(), reply)) for reply in (preamble, wrong, ANSWER)]
    assert describe_preambles(traces).startswith("1 of 3 traces were lost only to text outside")
    assert describe_preambles(traces[1:]) == ""


def test_sft_rows_are_samples_with_replies(tmp_path: Path) -> None:
    records = [
        play(make_sample("a"), call_frames(2), ANSWER),
        play(make_sample("b"), ANSWER, order=Order.BA),
    ]
    assert write_sft_rows(tmp_path / "sft.parquet", map(make_sft_row, records)) == 2
    samples = read_samples(tmp_path / "sft.parquet")
    assert samples == [record.shown for record in records]
    rows = pq.read_table(tmp_path / "sft.parquet").to_pylist()
    assert rows[0]["replies"] == [call_frames(2), ANSWER]
    assert EpisodeConfig.from_dict(json.loads(rows[0]["episode"])) == CONFIG


def test_a_failure_is_no_row() -> None:
    failure = EpisodeFailure(FailureKind.SERVER, "away")
    record = record_failure(RecordKind.TRACE, "a AB", make_sample(), Order.AB, failure)
    with pytest.raises(ValueError, match="has no result and cannot be taught"):
        make_sft_row(record)


def test_no_trace_still_makes_a_file(tmp_path: Path) -> None:
    assert write_sft_rows(tmp_path / "sft.parquet", []) == 0
    assert read_samples(tmp_path / "sft.parquet") == []


def test_a_row_needs_no_record(tmp_path: Path) -> None:
    row = SftRow(make_sample(), (ANSWER,), EpisodeConfig())
    assert write_sft_rows(tmp_path / "sft.parquet", [row]) == 1
    assert msgspec.to_builtins(row.episode) == msgspec.to_builtins(EpisodeConfig())
