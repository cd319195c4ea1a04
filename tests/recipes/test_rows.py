"""What counts as a search, an aimed one and a hit, on episodes written by hand; and the figures
made of them."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from verl_videosearch.recipes.rows import (
    Episode,
    compare,
    join_episodes,
    make_bare_row,
    make_row,
    replace_records,
)

from verl_videosearch.episode import Ending
from verl_videosearch.failures import FailureKind
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.runs.record import (
    EpisodeRecord,
    PlayedTurn,
    RecordedFailure,
    RecordKind,
    Usage,
)
from verl_videosearch.sample import Order, PreferenceSample

CUE = {"first_index": 1, "num_frames": 2}
HIDDEN = {"type": "snow", "severity": 3, "first_index": 2, "num_frames": 1, "is_hidden": True}
MILD = HIDDEN | {"severity": 1, "first_index": 0, "num_frames": 4, "is_hidden": False}
RIGHT = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}
WRONG = RIGHT | {"VQ": 2, "OA": 2}


def make_sample(
    uid: str = "a",
    defects_1: tuple = (),
    defects_2: tuple = (HIDDEN,),
    pair_type: str = "hidden",
    labels: dict[str, int | None] = RIGHT,
    cues: tuple = (CUE,),
) -> PreferenceSample:
    """Make a pair whose video 1 is better; at index 1 and 2 lies the cued gap, at index 2 the
    defect."""
    truth = {
        "pair_type": pair_type,
        "cues": [*cues],
        "defects_1": [*defects_1],
        "defects_2": [*defects_2],
    }
    prompt = f"cat number {uid}"
    return PreferenceSample(uid, prompt, f"{uid}1.mkv", f"{uid}2.mkv", labels, meta=truth)


def make_record(
    *calls: list[int] | str,
    uid: str = "a",
    verdicts: dict[str, int] | None = RIGHT,
    first: dict[str, int] | None = WRONG,
    **changes: Any,
) -> EpisodeRecord:
    """Make a record: a call brings frames or has a fault; a turn without one comes last."""
    turns = [
        PlayedTurn(
            reply="call",
            has_call=True,
            shown=() if isinstance(call, str) else tuple(call),
            call_fault=call if isinstance(call, str) else None,
        )
        for call in calls
    ]
    turns += [PlayedTurn(reply="answer", verdicts=first), PlayedTurn(reply="", verdicts=verdicts)]
    fields = {
        "kind": RecordKind.EVALUATION,
        "key": f"{uid} AB",
        "uid": uid,
        "ending": Ending.ANSWERED,
        # frames 1 to 4 are video 1, and 5 to 10 video 2
        "candidates": CandidateFrames((0.0,) * 4, (0.0,) * 6),
        "turns": tuple(turns),
        "verdicts": verdicts,
        "num_evictions": max(0, len(calls) - 1),
        "usage": Usage(
            num_prompt_tokens=100 * (len(calls) + 1), num_reply_tokens=10 * (len(calls) + 1)
        ),
    }
    return EpisodeRecord(**(fields | changes))


@pytest.mark.parametrize(
    ("calls", "asked", "has_aimed", "has_hit"),
    [
        ([], set(), False, False),
        (["out_of_range"], set(), False, False),
        ([[1]], {(1, 0)}, False, False),
        ([[2]], {(1, 1)}, True, False),
        ([[3]], {(1, 2)}, True, False),  # the same place in the clean video
        ([[4]], {(1, 3)}, False, False),
        ([[5]], {(2, 0)}, False, False),
        ([[6]], {(2, 1)}, True, False),
        ([[7]], {(2, 2)}, True, True),
        ([[10]], {(2, 5)}, False, False),
        ([[1, 4], "bad_json", [4, 7]], {(1, 0), (1, 3), (2, 2)}, True, True),
    ],
)
def test_a_search_is_scored_by_where_it_looked(
    calls: list, asked: set[tuple[int, int]], has_aimed: bool, has_hit: bool
) -> None:
    episode = Episode(make_sample(), make_record(*calls))
    assert (episode.asked, episode.has_aimed, episode.has_hit) == (asked, has_aimed, has_hit)
    assert episode.num_calls == len(calls)
    assert episode.num_invalid_calls == sum(isinstance(call, str) for call in calls)


@pytest.mark.parametrize(
    ("defects_1", "defects_2", "hits"),
    [
        ((), (HIDDEN,), [7]),
        ((HIDDEN,), (), [3]),
        ((HIDDEN,), (MILD,), [3]),
        ((MILD,), (HIDDEN | {"num_frames": 2},), [7, 8]),
        (
            (HIDDEN,),
            (HIDDEN | {"first_index": 4},),
            [3, 9],
        ),  # both videos, and beyond the end of the shorter one
        ((MILD,), (), []),
        ((), (), []),
    ],
)
def test_only_frames_of_a_hidden_defect_are_hits(
    defects_1: tuple, defects_2: tuple, hits: list[int]
) -> None:
    sample = make_sample(defects_1=defects_1, defects_2=defects_2)
    episodes = {number: Episode(sample, make_record([number])) for number in range(1, 11)}
    assert [number for number, episode in episodes.items() if episode.has_hit] == hits
    assert {episode.has_hidden_defect for episode in episodes.values()} == {bool(hits)}


def test_a_place_is_covered_when_both_videos_were_looked_at() -> None:
    two = make_sample(cues=(CUE, {"first_index": 3, "num_frames": 1}))
    one = make_sample()
    for sample, calls, has_covered in (
        (one, [[2, 6]], True),
        (one, [[2], [7]], True),
        (one, [[2, 3]], False),
        (one, [], False),
        (two, [[2, 6]], False),
        (two, [[2, 6], [4, 8]], True),
    ):
        assert Episode(sample, make_record(*calls)).has_covered is has_covered, calls


def test_pairs_without_a_cue_have_no_aim() -> None:
    uncued = make_sample("b", cues=(), defects_2=(), pair_type="visible")
    episodes = [
        Episode(make_sample(), make_record([6])),
        Episode(uncued, make_record([1], uid="b")),
    ]
    row = make_row(episodes)
    assert (row["aim_rate"], row["intervals"]["aim_rate"]["n"]) == (1.0, 1)
    assert row["intervals"]["cover_rate"]["n"] == 1
    assert row["calls_by_type"] == {"hidden": 1.0, "visible": 1.0}


def test_every_cued_gap_counts() -> None:
    sample = make_sample(cues=(CUE, {"first_index": 5, "num_frames": 1}))
    assert [n for n in range(1, 11) if Episode(sample, make_record([n])).has_aimed] == [
        2,
        3,
        6,
        7,
        10,
    ]


@pytest.mark.parametrize(
    ("verdicts", "labels", "is_right", "is_all_right"),
    [
        (RIGHT, RIGHT, True, True),
        (RIGHT | {"MQ": 2}, RIGHT, True, False),
        (WRONG, RIGHT, False, False),
        (None, RIGHT, False, False),  # unreadable
        ({"TA": 0}, RIGHT, False, False),
        (
            {"TA": 0},
            RIGHT | {"OA": None},
            False,
            False,
        ),  # no verdict is not the right one where there is no label
    ],
)
def test_no_verdict_is_wrong(
    verdicts: dict | None, labels: dict[str, int | None], is_right: bool, is_all_right: bool
) -> None:
    episode = Episode(make_sample(labels=labels), make_record(verdicts=verdicts))
    assert (episode.is_right(), episode.is_all_right) == (is_right, is_all_right)


def make_episodes() -> list[Episode]:
    """Return five episodes of a judge that sometimes looks."""
    tie = {"TA": 0, "VQ": 0, "MQ": 0, "OA": 0}
    plain = make_sample("c", defects_2=(), pair_type="tie", labels=tie)
    return [
        Episode(make_sample("a"), make_record([7], uid="a")),
        Episode(
            make_sample("b"), make_record([3], "too_many", uid="b", verdicts=RIGHT | {"MQ": 2})
        ),
        Episode(plain, make_record([5], uid="c", verdicts=tie, first=tie)),
        Episode(make_sample("d"), make_record(uid="d", verdicts=None, first=None)),
        Episode(
            make_sample("e", pair_type="decoy"), make_record(uid="e", verdicts=WRONG, first=RIGHT)
        ),
    ]


def test_a_row_has_every_figure() -> None:
    row = make_row(make_episodes())
    assert (row["overall"]["accuracy"], row["overall"]["n"]) == (3 / 5, 5)
    assert 0 <= row["overall"]["low"] < 3 / 5 < row["overall"]["high"] <= 1
    assert {name: (each["accuracy"], each["n"]) for name, each in row["by_type"].items()} == {
        "decoy": (0.0, 1),
        "hidden": (2 / 3, 3),
        "tie": (1.0, 1),
    }
    assert {name: each["accuracy"] for name, each in row["by_dimension"].items()} == {
        "TA": 0.8,
        "VQ": 0.6,
        "MQ": 0.6,
    }
    assert row["all_dimensions"]["accuracy"] == 2 / 5
    assert (row["search_rate"], row["aim_rate"], row["hit_rate"]) == (3 / 5, 2 / 3, 1 / 4)
    assert {name: each["n"] for name, each in row["intervals"].items()} == {
        "search_rate": 5,
        "aim_rate": 3,
        "cover_rate": 5,
        "hit_rate": 4,
        "unreadable": 5,
        "gain": 5,
    }
    assert (
        row["gain"] == pytest.approx(1 / 5) and row["unreadable"] == 1 / 5
    )  # right first: c and e
    assert (row["calls"], row["invalid_calls"], row["evictions"]) == (4 / 5, 1 / 5, 1 / 5)
    assert row["tokens"] == 110 * 9 / 5


def test_a_judge_that_never_searches_has_no_aim() -> None:
    row = make_row([Episode(make_sample(), make_record())])
    assert (row["search_rate"], row["aim_rate"], row["hit_rate"]) == (0.0, None, 0.0)
    assert row["intervals"]["aim_rate"] == {"low": None, "high": None, "n": 0}


def test_a_replay_counts_no_tokens() -> None:
    """Records of `videosearch probe` have none: most of their replies are repeated, not written."""
    replay = make_record([7], usage=Usage())
    assert make_row([Episode(make_sample(), replay)])["tokens"] is None
    assert (
        make_row([Episode(make_sample(), make_record([7])), Episode(make_sample(), replay)])[
            "tokens"
        ]
        is None
    )


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            [make_record(uid="a")],
            "got 1 episodes; 1 pairs have none, such as \\['b'\\]: repeat `videosearch eval`",
        ),
        (
            [make_record(uid="a"), make_record(uid="b"), make_record(uid="b")],
            "for each of 2 pairs, got 3 episodes",
        ),
        ([make_record(uid="a"), make_record(uid="b", order=Order.BA)], "one episode of order AB"),
    ],
)
def test_every_pair_has_one_episode(lines: list[EpisodeRecord], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        join_episodes([make_sample("a"), make_sample("b")], lines)


def test_episodes_come_in_the_order_of_the_pairs() -> None:
    episodes = join_episodes(
        [make_sample("b"), make_sample("a")], [make_record(uid="a"), make_record(uid="b")]
    )
    assert [(each.sample.uid, each.record.uid) for each in episodes] == [
        ("b", "b"),
        ("a", "a"),
    ]


def test_replaced_lines_stand_in_for_those_that_searched() -> None:
    run = [make_record([7], uid="a"), make_record(uid="b"), make_record([3], uid="c")]
    probed = [
        make_record(
            [7], uid=uid, verdicts=verdicts, extra={"replacement": name, "probed": f"{uid} AB"}
        )
        for uid in ("a", "c")
        for name, verdicts in (("random", WRONG), ("blank", None))
    ]
    assert [record.verdicts for record in replace_records(run, probed, "random")] == [
        WRONG,
        RIGHT,
        WRONG,
    ]
    assert [record.verdicts for record in replace_records(run, probed, "blank")] == [
        None,
        RIGHT,
        None,
    ]
    with pytest.raises(ValueError, match="episodes were not probed with same frames"):
        replace_records(run, probed, "same")


def test_two_runs_are_compared_pair_by_pair() -> None:
    after = make_episodes()
    before = [
        Episode(each.sample, make_record([7], uid=each.sample.uid, verdicts=WRONG))
        for each in after
    ]
    tests = compare(after, before)
    assert {name: (test["won"], test["lost"]) for name, test in tests.items()} == {
        "accuracy": (3, 0),
        "search_rate": (0, 2),
        "hit_rate": (0, 3),  # of the four pairs that hide something
    }
    assert (
        tests["accuracy"]["difference"] == pytest.approx(3 / 5)
        and tests["accuracy"]["p_value"] == 0.25
    )
    assert tests["hit_rate"]["difference"] == pytest.approx(-3 / 4)
    same = compare(after, after)["accuracy"]
    assert (same["difference"], same["low"], same["high"], same["p_value"]) == (0, 0, 0, 1)


def test_pairs_of_one_prompt_are_drawn_together() -> None:
    after = [
        Episode(replace(each.sample, prompt="one cat"), each.record) for each in make_episodes()
    ]
    before = [
        Episode(each.sample, make_record([7], uid=each.sample.uid, verdicts=WRONG))
        for each in after
    ]
    test = compare(after, before)["accuracy"]
    assert (test["won"], test["lost"], test["p_value"]) == (3, 0, 1)  # one prompt proves nothing


def test_runs_over_other_pairs_are_not_compared() -> None:
    episodes = make_episodes()
    for others in (episodes[:4], episodes[::-1]):
        with pytest.raises(
            ValueError, match="the runs are over different pairs, or in another order"
        ):
            compare(episodes, others)


def test_arithmetic_has_no_interval() -> None:
    row = make_bare_row(0.4, 10, {"tie": 1 / 3})
    assert row["overall"] == {"accuracy": 0.4, "low": None, "high": None, "n": 10}
    assert row["by_type"]["tie"]["accuracy"] == 1 / 3 and row["hit_rate"] is None
    assert make_bare_row(0.4, 10)["by_type"] == {}


def test_a_pair_that_failed_for_good_is_left_out() -> None:
    fault = RecordedFailure(kind=FailureKind.VIDEO, is_passing=False, detail="cut off")
    lost = msgspec.structs.replace(make_record(uid="b"), failure=fault, ending=None, verdicts=None)
    [episode] = join_episodes([make_sample("b"), make_sample("a")], [make_record(uid="a"), lost])
    assert episode.sample.uid == "a"
