"""An EpisodeRecord holds what was played, in two orders, and comes back from its line."""

import json
from pathlib import Path

import msgspec
import pytest

from tests.episode_contract import pair_of
from tests.replies import ANSWER, GUESS, THOUGHT, call_frames
from verl_videosearch.episode import Ending, Episode, EpisodeConfig, Reply
from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.reward import Score
from verl_videosearch.runs.record import (
    EpisodeRecord,
    RecordKind,
    Usage,
    record_episode,
    record_failure,
    replay_episode,
)
from verl_videosearch.runs.record_file import parse_record, write_record
from verl_videosearch.sample import Order, PreferenceSample, show_in_order

LABELS = {"TA": 0, "VQ": 2, "MQ": None, "OA": 2}
SAMPLE = PreferenceSample(
    "pair-7", "a cat \ud800 <|image_pad|>", "1.mp4", "2.mp4", LABELS, meta={"model_1": "x"}
)
CONFIG = EpisodeConfig(frames_per_video=8, initial_frames_per_video=2, window=1)


def play(*replies: str, order: Order = Order.AB, config: EpisodeConfig = CONFIG) -> Episode:
    episode = Episode(show_in_order(SAMPLE, order), pair_of(8, 4), config)
    for reply in replies:
        episode.step(Reply(reply))
    return episode


def record(*replies: str, order: Order = Order.AB, **details) -> EpisodeRecord:
    episode = play(*replies, order=order)
    return record_episode(RecordKind.EVALUATION, "pair-7", SAMPLE, order, episode, **details)


def test_every_turn_says_what_was_in_view_asked_shown_and_forgotten() -> None:
    turns = record(call_frames(2, 3), call_frames(99), call_frames(4, 4), ANSWER).turns
    initial = (1, 5, 9, 11)
    assert [turn.visible for turn in turns] == [
        initial,
        (*initial, 2, 3),
        (*initial, 2, 3),
        (*initial, 4),
    ]
    assert [turn.forgotten for turn in turns] == [(), (), (), (2, 3)]
    assert [turn.asked for turn in turns] == [(2, 3), (99,), (4, 4), ()]
    assert [turn.shown for turn in turns] == [(2, 3), (), (4,), ()]
    assert [turn.call_fault for turn in turns] == [None, "out_of_range", None, None]
    assert [turn.repeated for turn in turns] == [(), (), (4,), ()]
    assert [turn.tool for turn in turns] == ["select_frames"] * 3 + [None]


def test_the_view_of_a_record_is_the_view_of_the_episode() -> None:
    replies = [call_frames(2, 3), call_frames(1, 7), "no call", ANSWER]
    episode, seen = play(), []
    for reply in replies:
        if episode.is_done:
            break
        images = [
            item for m in episode.messages() for item in m["content"] if item["type"] == "image"
        ]
        seen.append(tuple(image["frame_number"] for image in images))
        episode.step(Reply(reply))
    made = record_episode(RecordKind.JUDGE, "k", SAMPLE, Order.AB, episode)
    assert [turn.visible for turn in made.turns] == seen


def test_verdicts_stand_as_shown_and_turn_back() -> None:
    swapped = record(call_frames(2), ANSWER, order=Order.BA)
    assert swapped.verdicts == {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}
    assert swapped.own_verdicts == {"TA": 0, "VQ": 2, "MQ": 0, "OA": 2}
    assert (swapped.is_right, record(ANSWER).is_right) == (True, False)
    assert swapped.first_verdicts == {"TA": 0, "VQ": 0, "MQ": 0, "OA": 0}
    assert swapped.confidence == 3
    assert swapped.own == SAMPLE and swapped.shown == show_in_order(SAMPLE, Order.BA)
    assert (swapped.has_searched, swapped.num_calls, record(ANSWER).has_searched) == (
        True,
        1,
        False,
    )


def test_an_unreadable_answer_is_no_verdict_and_not_right() -> None:
    made = record(f"{THOUGHT}<Answer>TA=0</Answer>")
    assert (made.ending, made.verdicts, made.problem) == (Ending.UNREADABLE, None, "missing_key")
    assert made.is_right is False and made.turns[0].problem == "missing_key"


def test_a_line_comes_back_whole() -> None:
    made = record(
        call_frames(2, 3),
        THOUGHT + GUESS + '<tool_call>{"name": "zoom"}</tool_call>',
        ANSWER,
        order=Order.BA,
        score=Score(0.5, {"accuracy": 1.0, "gain": float("nan")}),
        usage=Usage(num_prompt_tokens=7, num_requests=2),
        seconds=1.5,
        attempt=3,
        seed=11,
        step=4,
        group="g",
        extra={"replacement": "black"},
    )
    line = write_record(made)
    assert line.endswith("\n") and line.count("\n") == 1
    assert parse_record(line) == made
    assert write_record(parse_record(line)) == line
    assert made.reward_parts == {"accuracy": 1.0, "gain": None}
    assert Usage().num_requests is None


def test_a_record_is_frozen() -> None:
    with pytest.raises(AttributeError):
        record(ANSWER).key = "other"


def test_replaying_gives_the_episode_back() -> None:
    made = record(call_frames(2, 3), call_frames(99), ANSWER, order=Order.BA)
    episode = replay_episode(parse_record(write_record(made)))
    assert episode.messages() == made.messages
    assert record_episode(made.kind, made.key, SAMPLE, Order.BA, episode) == made


def test_replaying_an_overlong_one_and_one_of_other_words() -> None:
    episode = play(call_frames(2))
    episode.stop_overlong()
    made = record_episode(RecordKind.JUDGE, "k", SAMPLE, Order.AB, episode)
    assert replay_episode(made).result() == episode.result()
    altered = msgspec.structs.replace(made, ending=Ending.ANSWERED)
    with pytest.raises(ValueError, match="ends otherwise"):
        replay_episode(altered)


def test_a_first_context_that_does_not_fit_is_a_failure() -> None:
    episode = play()
    episode.stop_overlong()
    with pytest.raises(EpisodeFailure) as caught:
        record_episode(RecordKind.JUDGE, "k", SAMPLE, Order.AB, episode)
    assert caught.value.kind is FailureKind.PROMPT_TOO_LONG


@pytest.mark.parametrize("sample", [SAMPLE, None])
def test_a_failure_keeps_the_words_and_is_neither_right_nor_wrong(sample) -> None:
    failure = EpisodeFailure(FailureKind.VIDEO, "no frame 3", "pair-7", "truncated")
    made = record_failure(RecordKind.ROLLOUT, "k", sample, Order.BA, failure, step=3)
    made = parse_record(write_record(made))
    assert made.uid == "pair-7" and made.outcome == "failed" and made.is_right is None
    assert made.failure.label == "video_truncated" and not made.failure.is_passing
    assert made.failure.detail == "no frame 3"
    with pytest.raises(ValueError, match="no result to play again"):
        replay_episode(made)


def test_the_schema_in_the_docs_is_current() -> None:
    from verl_videosearch.runs.record_file import write_schema

    path = Path(__file__).parents[2] / "docs/episode.schema.json"
    command = "videosearch episodes --schema > docs/episode.schema.json"
    assert path.read_text("utf-8") == write_schema(), f"run: {command}"
    fields = json.loads(path.read_text())["$defs"]["EpisodeRecord"]["properties"]
    undocumented = [name for name, field in fields.items() if "description" not in field]
    assert set(undocumented) <= {"turns", "usage", "identity"}
