"""Notes kept as a list: every frame has its own words, and the score holds all that was found."""

import random
import re
from collections import Counter

import pytest
from verl_videosearch.data_prep.captions import CaptionConfig, PairCaptions
from verl_videosearch.data_prep.hide_and_seek.profile import gap_from_meta
from verl_videosearch.data_prep.synthetic.defects import (
    DEFECT_TYPES,
    defect_from_meta,
    total_severity,
)
from verl_videosearch.data_prep.traces.notes import Notes

from tests.data_prep.test_teacher import is_right, judge, make_pairs
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.sample import PreferenceSample

LOOKS = EpisodeConfig(
    frames_per_video=28, max_frames_per_call=2, max_tool_calls=3, prompt_pack="brief"
)
PAIRS = make_pairs("looks", 60)
TWO_CUES = [pair for pair in PAIRS if pair.meta["pair_type"] == "both_hidden"]
WHO = "equal|video \\d better"
SCORE = rf"; TA ({WHO}), VQ ({WHO}), MQ ({WHO}), in all (\d+) against (\d+), ({WHO})"
WORDS = {0: "equal", 1: "video 1 better", 2: "video 2 better"}


def read_score(note: str) -> list[str]:
    """Return what the score says of TA, VQ, MQ, of both videos in all, and who that makes
    better."""
    return list(re.search(SCORE + "(?:</Snapshot>|$)", note).groups())


def read_notes(sample: PreferenceSample, **choices: object) -> list[str]:
    """Return the Snapshot of each turn."""
    _, messages = judge(sample, LOOKS, notes=Notes.LIST, **choices)
    replies = [m["content"][0]["text"] for m in messages if m["role"] == "assistant"]
    return [re.search(r"<Snapshot>(.*)</Snapshot>", reply)[1] for reply in replies]


def test_every_pair_is_solved() -> None:
    assert all(is_right(pair, judge(pair, LOOKS, notes=Notes.LIST)[0]) for pair in PAIRS)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.uid)
def test_the_first_note_says_of_each_frame_where_its_marker_points(pair: PreferenceSample) -> None:
    first = read_notes(pair)[0]
    assert re.findall(r"frame (\d+)", first) == ["1", "8", "15", "22"]
    said = [
        tuple(map(int, each)) for each in re.findall(r"(?:behind|before) it (\d+), (\d+)", first)
    ]
    gaps = [gap_from_meta(cue) for cue in pair.meta["cues"]]
    assert sorted(said) == sorted((g.look(1)[0] + 1, g.look(1)[0] + 29) for g in gaps)
    assert first.count("behind it") == sum(not gap.is_marked_after for gap in gaps)


@pytest.mark.parametrize("pair", TWO_CUES, ids=lambda pair: pair.uid)
def test_each_place_is_noted_once_with_its_defects(pair: PreferenceSample) -> None:
    *_, second, last = read_notes(pair)
    assert ": nothing yet; TA " in second and re.sub(SCORE, "", last).count(":") == 1
    assert last.startswith(re.search(r"; (\d+, \d+): nothing yet", second)[1])
    for side in (1, 2):
        named = re.findall(rf"video {side} (\w+)", re.sub(SCORE, " ", second + last))
        types = [defect["type"] for defect in pair.meta[f"defects_{side}"]]
        assert Counter(named) == Counter(types) + Counter({"clean": 2 - len(types)})


def test_what_was_not_looked_at_stays_open_in_words() -> None:
    for pair in TWO_CUES:
        notes = read_notes(pair, cued_gap=0.0, one_cue=1.0)
        assert len(notes) == 2 and ": nothing yet; TA " in notes[-1]


def test_the_score_says_what_each_label_compares() -> None:
    for pair in PAIRS:
        *verdicts, one, two, better = read_score(read_notes(pair)[-1])
        assert [*verdicts, better] == [WORDS[pair.labels[key]] for key in ("TA", "VQ", "MQ", "OA")]
        sides = [[defect_from_meta(each) for each in pair.meta[f"defects_{n}"]] for n in (1, 2)]
        assert [int(one), int(two)] == [
            sum(total_severity(side, key) for key in ("TA", "VQ", "MQ")) for side in sides
        ]


def test_what_was_found_is_kept_in_the_snapshot_and_nowhere_else() -> None:
    for pair in TWO_CUES:
        _, messages = judge(pair, LOOKS, notes=Notes.LIST)
        for message in (m for m in messages if m["role"] == "assistant"):
            snapshot, rest = message["content"][0]["text"].split("</Snapshot>")
            assert re.search(SCORE + "$", snapshot) and " against " not in rest


@pytest.mark.parametrize("seed", range(4))
def test_looks_of_one_dialogue_are_counted_together(seed: int) -> None:
    candidates = CandidateFrames((0.0,) * 28, (0.0,) * 28)
    config, num_two = CaptionConfig(num_frames=4, num_looks=2, seed=seed), 0
    for pair in TWO_CUES:
        row = PairCaptions(pair, candidates, LOOKS, Notes.LIST).make_row(config)
        found = [0, 0]
        for reply in row["replies"]:
            if reply.startswith("<Snapshot>"):
                *_, one, two, _ = read_score(reply)
                named = re.search(r"video 1 (\w+), video 2 (\w+)", reply).groups()
                found = [n + 3 * (name != "clean") for n, name in zip(found, named, strict=True)]
                assert found == [int(one), int(two)]
        num_two += sum(found) > 3
    assert num_two


def test_a_caption_of_a_marked_frame_says_where_to_look() -> None:
    candidates = CandidateFrames((0.0,) * 28, (0.0,) * 28)
    for pair in TWO_CUES:
        captions = PairCaptions(pair, candidates, LOOKS, Notes.LIST)
        for cue in map(gap_from_meta, pair.meta["cues"]):
            place = f"{cue.look(1)[0] + 1}, {cue.look(1)[0] + 29}"
            where = "before" if cue.is_marked_after else "behind"
            for number in (cue.cue_index + 1, cue.cue_index + 29):
                assert f"marker, {where} it {place}" in captions.caption_frame([number])


def test_a_call_for_one_video_is_noted_under_its_frame() -> None:
    pair = TWO_CUES[0]
    captions = PairCaptions(pair, CandidateFrames((0.0,) * 28, (0.0,) * 28), LOOKS, Notes.LIST)
    said = captions.caption_look([4, 5], random.Random(0))
    assert re.match(rf"<Snapshot>4: video 1 (clean|\w+)( on \d)?{SCORE}</Snapshot>", said)
    assert read_score(said)[4] == "0"
    assert any(name in said for name in [*DEFECT_TYPES, "clean"])


@pytest.mark.parametrize(
    ("profile", "episode", "max_calls"),
    [
        ("paper", EpisodeConfig(), 1),
        ("paper", EpisodeConfig(), 3),
        ("tiny_strict", EpisodeConfig(frames_per_video=16, max_frames_per_call=2), 3),
    ],
)
def test_a_place_that_is_half_seen_is_named_by_what_is_left(
    profile: str, episode: EpisodeConfig, max_calls: int
) -> None:
    num_open = 0
    for pair in make_pairs(profile, 40, both_hidden_share=0.5):
        result, messages = judge(pair, episode, notes=Notes.LIST, max_calls=max_calls)
        notes = messages[-1]["content"][0]["text"]
        left = [tuple(map(int, each)) for each in re.findall(r"(\d+), (\d+): nothing yet", notes)]
        asked = {number for call in result.outcomes for number in call.frame_numbers}
        assert asked.isdisjoint(number for each in left for number in each)
        num_open += len(left)
    assert num_open


def test_pairs_whose_first_view_shows_a_defect_have_rows_with_other_frames() -> None:
    candidates = CandidateFrames((0.0,) * 28, (0.0,) * 28)
    num_rows = {}
    for pair in PAIRS:
        captions = PairCaptions(pair, candidates, LOOKS, Notes.LIST)
        rows = captions.make_rows(CaptionConfig(num_visible=4))
        num_rows.setdefault(pair.meta["pair_type"], set()).add(len(rows))
        assert rows[0] == captions.make_row(CaptionConfig())
        assert len({str(row["captioned_frames"]) for row in rows}) == len(rows)
    assert num_rows.pop("visible") == {4} and set.union(*num_rows.values()) == {1}
