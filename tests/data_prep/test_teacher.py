"""The template teacher writes well-formed, truthful traces, and chooses badly only when told to."""

import asyncio
import math
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from verl_videosearch.data_prep.hide_and_seek.bases import ClipSplit
from verl_videosearch.data_prep.hide_and_seek.plan import PairType, PlanConfig, plan_split
from verl_videosearch.data_prep.hide_and_seek.profile import PROFILES
from verl_videosearch.data_prep.traces.teacher import TeacherConfig, TemplateTeacher

from verl_videosearch.episode import Episode, EpisodeConfig, EpisodeResult, Message, images_of
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.judgement import Judgement
from verl_videosearch.sample import PreferenceSample

TINY = EpisodeConfig(
    frames_per_video=16, max_frames_per_call=4, max_tool_calls=3, prompt_pack="brief"
)
PAPER = EpisodeConfig()
STANDARD_TYPES = {kind.value for kind in PairType} - {"both_hidden", "empty"}
DETOUR = {"detour": 1.0, "cued_gap": 0.0}


def make_pairs(profile: str, num: int, **options: Any) -> list[PreferenceSample]:
    """Plan hide-and-seek pairs; the teacher reads no pixels, so none are painted."""
    config = PlanConfig(
        replace(PROFILES[profile], clip_share=0.0), num_train=num, num_test=0, **options
    )
    plans = plan_split(config, "train", ClipSplit((), ()))
    return [plan.to_sample("a scene", config.profile, seed=0) for plan in plans]


def make_degraded(
    defect: str, dimension: str, loser: int = 2, uid: str = "degraded"
) -> PreferenceSample:
    """Describe a pair as `data_prep.degrade` does."""
    meta = {
        "type": defect,
        "severity": 2,
        "first_index": 0,
        "num_frames": 16,
        "is_hidden": False,
        "seed": 0,
    }
    defects = {f"defects_{loser}": [meta], f"defects_{3 - loser}": []}
    labels = {"TA": 0, "VQ": 0, "MQ": 0, "OA": 3 - loser} | {dimension: 3 - loser}
    meta = {"pair_type": "visible", "cue": None, **defects}
    return PreferenceSample(uid, "a cat", "1.mkv", "2.mkv", labels, meta=meta)


def judge(
    sample: PreferenceSample, episode: EpisodeConfig = TINY, **choices: Any
) -> tuple[EpisodeResult, list[Message]]:
    """Let the teacher judge one pair."""
    num_frames = episode.frames_per_video
    candidates = CandidateFrames((0.0,) * num_frames, (0.0,) * num_frames)
    driven = Episode(sample, candidates, episode)
    teacher = TemplateTeacher(sample, candidates, episode, TeacherConfig(**choices))
    while not driven.is_done:
        driven.step(asyncio.run(teacher(driven.messages(), [])))
    return driven.result(), driven.messages()


def list_gaps(result: EpisodeResult) -> list[int]:
    """Return the first index of the gap that each call looks into; on tiny pairs these are 1, 5, 9
    and 13."""
    return [(call.frame_numbers[0] - 1) // 4 * 4 + 1 for call in result.outcomes]


def cued_gaps(pair: PreferenceSample) -> list[int]:
    return [cue["first_index"] for cue in pair.meta["cues"]]


def is_right(sample: PreferenceSample, result: EpisodeResult) -> bool:
    return isinstance(result.verdict, Judgement) and result.verdict.verdicts == sample.labels


@pytest.mark.parametrize(
    ("profile", "episode", "both_hidden_share"),
    [
        ("tiny", TINY, 0.2),
        ("paper", PAPER, 0.0),
    ],  # three calls do not always cover two gaps of eleven frames
)
def test_it_searches_and_is_right(
    profile: str, episode: EpisodeConfig, both_hidden_share: float
) -> None:
    pairs = make_pairs(profile, 100, both_hidden_share=both_hidden_share)
    results = [judge(pair, episode)[0] for pair in pairs]
    assert all(result.is_well_formed for result in results)
    assert all(result.has_searched for result in results)
    judged = list(zip(pairs, results, strict=True))
    assert [pair.meta["pair_type"] for pair, result in judged if not is_right(pair, result)] == []


def test_calls_go_to_the_cued_gap_of_both_videos() -> None:
    for pair in make_pairs("tiny", 40):
        call = judge(pair)[0].outcomes[0]
        first = pair.meta["cue"]["first_index"]
        assert call.frame_numbers == (first + 1, first + 2, first + 17, first + 18)


@pytest.mark.parametrize(
    ("choices", "has_searched", "types_right"),
    [
        ({"direct": 1.0, "cued_gap": 0.0}, False, {"tie", "visible"}),
        ({"wrong_gap": 1.0, "cued_gap": 0.0}, True, {"tie", "visible"}),
        ({"max_calls": 0}, False, {"tie", "visible"}),
        (DETOUR | {"max_calls": 1}, True, {"tie", "visible"}),
        (DETOUR, True, STANDARD_TYPES),
        ({}, True, STANDARD_TYPES),
    ],
)
def test_bad_choices_give_the_answers_of_who_has_seen_no_more(
    choices: dict[str, float], has_searched: bool, types_right: set[str]
) -> None:
    for pair in make_pairs("tiny", 40):
        result, _ = judge(pair, **choices)
        assert result.is_well_formed and result.has_searched is has_searched
        assert is_right(pair, result) is (pair.meta["pair_type"] in types_right)


@pytest.mark.parametrize(
    ("window", "num_evictions", "visible"), [(1, 1, 1), (2, 0, 2), (None, 0, 2)]
)
def test_a_detour_looks_elsewhere_and_then_behind_the_cue(
    window: int | None, num_evictions: int, visible: int
) -> None:
    pairs = make_pairs("tiny", 40)
    assert {pair.meta["pair_type"] for pair in pairs} == STANDARD_TYPES
    for pair in pairs:
        result, messages = judge(pair, replace(TINY, window=window), **DETOUR)
        assert (
            result.is_well_formed
            and is_right(pair, result)
            and result.num_evictions == num_evictions
        )
        first, second = list_gaps(result)
        assert first != second and [second] == cued_gaps(pair)
        calls = [number for outcome in result.outcomes for number in outcome.frame_numbers]
        shown = [item["frame_number"] for item in images_of(messages)]
        assert len(calls) == len(set(calls)) == 8 and shown[8:] == calls[-4 * visible :]


def test_a_detour_of_two_cues_looks_behind_both() -> None:
    for pair in make_pairs("tiny", 20, both_hidden_share=1.0):
        result, _ = judge(pair, **DETOUR)
        first, *others = list_gaps(result)
        assert first not in cued_gaps(pair) and others == cued_gaps(pair)
        assert is_right(pair, result) and result.num_evictions == 2


def test_before_the_cued_gap_a_detour_recommends_what_was_seen_so_far() -> None:
    for pair in make_pairs("tiny", 40):
        result, _ = judge(pair, **DETOUR)
        guesses = [record.turn.recommendation.verdicts for record in result.turns[:-1]]
        assert guesses == [judge(pair, direct=1.0, cued_gap=0.0)[0].verdict.verdicts] * 2


def test_long_gaps_may_end_a_detour_before_the_cue() -> None:
    pairs = make_pairs("paper", 40)
    for max_tool_calls, types_right in ((3, {"tie", "visible"}), (8, STANDARD_TYPES)):
        results = [
            (pair, judge(pair, replace(PAPER, max_tool_calls=max_tool_calls), **DETOUR)[0])
            for pair in pairs
        ]
        assert {
            pair.meta["pair_type"] for pair, result in results if is_right(pair, result)
        } == types_right


@pytest.mark.parametrize(("choice", "calls"), [("wrong_gap", []), ("detour", [(2, 3, 6, 7)])])
def test_without_another_gap_there_is_no_elsewhere(
    choice: str, calls: list[tuple[int, ...]]
) -> None:
    meta = {"defects_1": [], "defects_2": [], "cue": {"first_index": 1, "num_frames": 3}}
    pair = replace(make_degraded("snow", "VQ"), meta=meta)
    episode = replace(TINY, frames_per_video=4, initial_frames_per_video=1)
    result, _ = judge(pair, episode, **{"cued_gap": 0.0, choice: 1.0})
    assert [call.frame_numbers for call in result.outcomes] == calls


@pytest.mark.parametrize("choice", ["wrong_gap", "detour"])
def test_other_gaps_are_chosen_equally_often(choice: str) -> None:
    pairs = [pair for pair in make_pairs("tiny", 400) if pair.meta["cue"]["first_index"] == 5]
    calls = [judge(pair, **{"cued_gap": 0.0, choice: 1.0})[0].outcomes[0] for pair in pairs]
    counts = Counter(call.frame_numbers[0] for call in calls)
    assert set(counts) == {2, 10, 14} and min(counts.values()) > 0.2 * len(pairs)


def test_weights_are_shares() -> None:
    weights = {"direct": 0.4, "wrong_gap": 0.3, "cued_gap": 0.1, "detour": 0.2}
    choices = {(): "direct", (False,): "wrong_gap", (True,): "cued_gap", (False, True): "detour"}
    pairs = make_pairs("tiny", 400)
    counts = Counter(
        choices[tuple(gap in cued_gaps(pair) for gap in list_gaps(judge(pair, **weights)[0]))]
        for pair in pairs
    )
    assert {name: counts[name] / 400 for name in weights} == pytest.approx(weights, abs=0.06)


@pytest.mark.parametrize("looks", [0, 1, 2])
def test_visible_pairs_are_confirmed_by_as_many_calls_as_told(looks: int) -> None:
    weights = tuple(float(number == looks) for number in range(3))
    result, _ = judge(make_degraded("snow", "VQ"), looks=weights)
    assert len(result.outcomes) == looks and result.num_evictions == max(looks - 1, 0)
    assert is_right(make_degraded("snow", "VQ"), result) and result.is_well_formed


def test_what_shows_only_between_neighbours_is_not_named_before_it_can_be() -> None:
    pair = make_degraded("jitter", "MQ")
    result, _ = judge(pair, looks=(1.0,))
    assert "clean; video 2 clean" in result.turns[0].reply.text
    assert "video 2 jitter" in result.turns[1].reply.text and is_right(pair, result)


def test_the_snapshot_names_frames_by_number() -> None:
    pair = next(
        pair
        for pair in make_pairs("tiny", 40)
        if pair.meta["pair_type"] == "hidden" and pair.labels["OA"] == 1
    )
    defect, first = pair.meta["defects_2"][0], pair.meta["cue"]["first_index"]
    turns = [turn.reply.text for turn in judge(pair)[0].turns]
    marker = f"marker on {first}, {first + 16}, behind it {first + 1}, {first + 17}"
    assert f"<Snapshot>video 1 clean; video 2 clean; {marker}</Snapshot>" in turns[0]
    shown = [
        i
        for i in (first, first + 1)
        if i in range(defect["first_index"], defect["first_index"] + 3)
    ]
    numbers = ", ".join(str(index + 17) for index in shown[: defect["num_frames"]])
    assert f"video 2 {defect['type']}" in turns[1] and (
        len(shown) == 2 or f"on {numbers}<" in turns[1]
    )


def test_the_same_seed_writes_the_same_words() -> None:
    pairs = make_pairs("tiny", 20)
    texts = [[judge(pair, seed=seed)[1] for pair in pairs] for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("change", "episode", "words"),
    [
        ({"meta": {}}, TINY, "does not say what is wrong"),
        ({}, replace(TINY, frames_per_video=8), "set frames_per_video"),
        ({}, replace(TINY, max_frames_per_call=1), "max_frames_per_call must be at least 2"),
    ],
)
def test_it_refuses_pairs_that_it_cannot_tell_the_truth_about(
    change: dict, episode: EpisodeConfig, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        judge(replace(make_degraded("snow", "VQ"), **change), episode)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (
            {"cued_gap": 0.0},
            "direct, cued_gap, wrong_gap, detour, one_cue must be at least 0, finite and not all 0",
        ),
        ({"direct": -1.0}, "direct, cued_gap, wrong_gap, detour, one_cue must be at least 0"),
        ({"detour": -1.0}, "got (0.0, 1.0, 0.0, -1.0, 0.0)"),
        ({"detour": math.nan}, "finite"),
        ({"detour": math.inf}, "finite"),
        ({"looks": ()}, "the weights looks must be at least 0"),
        ({"looks": (1.0, -1.0)}, "the weights looks must be at least 0"),
        ({"looks": (1.0, math.nan)}, "finite"),
        ({"max_calls": -1}, "max_calls must be a whole number of at least 0, or null, got -1"),
    ],
)
def test_bad_settings_are_refused(choices: dict, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        TeacherConfig(**choices)


LOOKS = replace(TINY, frames_per_video=28, max_frames_per_call=2, max_tool_calls=3)


def test_two_looks_are_compared_by_words_alone() -> None:
    """With window 1 the first look's frames are gone when the second's are seen."""
    for pair in make_pairs("looks", 60):
        result, messages = judge(pair, LOOKS)
        kind = pair.meta["pair_type"]
        assert result.is_well_formed and is_right(pair, result)
        assert len(result.outcomes) == {"visible": 0, "tie": 0, "both_hidden": 2}.get(kind, 1)
        for outcome, cue in zip(result.outcomes, pair.meta["cues"], strict=kind != "visible"):
            middle = cue["first_index"] + (cue["num_frames"] - 1) // 2
            assert outcome.frame_numbers == (middle + 1, 28 + middle + 1)
        shown = [item["frame_number"] for item in images_of(messages)]
        assert len(shown) == 8 + 2 * bool(result.outcomes)


def test_who_looks_behind_one_of_two_cues_is_right_as_often_as_one_look_allows() -> None:
    pairs = [p for p in make_pairs("looks", 300) if p.meta["pair_type"] == "both_hidden"]
    results = [judge(pair, LOOKS, cued_gap=0.0, one_cue=1.0)[0] for pair in pairs]
    assert all(len(result.outcomes) == 1 for result in results)
    right = sum(is_right(pair, result) for pair, result in zip(pairs, results, strict=True))
    assert 0.4 < right / len(pairs) < 6 / 11 + 0.1


def test_a_cue_after_its_gap_points_back() -> None:
    pairs = make_pairs("looks", 200)
    cues = [cue for pair in pairs for cue in pair.meta["cues"]]
    share = sum(cue["is_marked_after"] for cue in cues) / len(cues)
    assert 0.1 < share < 0.3
    for pair in pairs:
        if any(cue["is_marked_after"] for cue in pair.meta["cues"]):
            assert "before it" in judge(pair, LOOKS)[0].turns[0].reply.text
