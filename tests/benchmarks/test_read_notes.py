"""Steps of reasoning are checked one by one, in both orders."""

import asyncio
import re
from dataclasses import replace

import msgspec
import pytest
from verl_videosearch.data_prep.traces.notes import Notes
from verl_videosearch.data_prep.traces.teacher import TeacherConfig, TemplateTeacher

from benchmarks.read_notes import check_episode, read_score, tabulate
from tests.data_prep.test_notes import LOOKS, TWO_CUES
from verl_videosearch.episode import Episode, Reply
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.runs.record import EpisodeRecord, RecordKind, record_episode
from verl_videosearch.sample import Order, PreferenceSample, show_in_order

CANDIDATES = CandidateFrames((0.0,) * 28, (0.0,) * 28)


def play(
    pair: PreferenceSample,
    order: Order = Order.AB,
    alter: tuple[int, str, str] | None = None,
    **choices: float,
) -> EpisodeRecord:
    """Let the teacher judge a pair; `alter` changes its words at one turn."""
    shown = show_in_order(pair, order)
    if order is Order.BA:
        one, two = pair.meta["defects_1"], pair.meta["defects_2"]
        shown = replace(shown, meta={**pair.meta, "defects_1": two, "defects_2": one})
    teacher = TemplateTeacher(shown, CANDIDATES, LOOKS, TeacherConfig(notes=Notes.LIST, **choices))
    episode = Episode(shown, CANDIDATES, LOOKS)
    for turn in range(4):
        if not episode.is_done:
            text = asyncio.run(teacher(episode.messages(), [])).text
            if alter and alter[0] == turn:
                assert alter[1] in text
                text = text.replace(alter[1], alter[2])
            episode.step(Reply(text))
    return record_episode(RecordKind.TRACE, pair.uid, pair, order, episode)


def find_wrong(record: EpisodeRecord) -> set[str]:
    return {step for step, _, is_right in check_episode(record) if not is_right}


@pytest.mark.parametrize("order", [Order.AB, Order.BA])
@pytest.mark.parametrize("pair", TWO_CUES[:12], ids=lambda pair: pair.uid)
def test_the_teacher_is_right_at_every_step(pair: PreferenceSample, order: Order) -> None:
    record = play(pair, order)
    score, _ = read_score(record.turns[-1].reply)
    one, two = score.totals
    assert [step for step, *_ in check_episode(record)] == [
        *("markers", "aimed", "aimed", "finished"),
        *("seen", "counted", "compared", "seen", "remembered", "compared", "concluded"),
        *["tied"] * (one == two > 0),
    ]
    assert find_wrong(record) == set()


def test_each_fault_is_found_where_it_is() -> None:
    pair = next(pair for pair in TWO_CUES if not pair.meta["defects_1"])
    side = "behind" if "behind it" in play(pair).turns[0].reply else "before"
    other = "before" if side == "behind" else "behind"
    assert find_wrong(play(pair, alter=(0, f"{side} it", f"{other} it"))) == {"markers"}
    assert find_wrong(play(pair, alter=(1, "video 1 clean", "video 1 snow"))) == {
        *("seen", "counted", "remembered")
    }
    wrong = find_wrong(play(pair, alter=(1, "in all 0", "in all 6")))
    assert wrong - {"compared"} == {"counted"}
    wrong = find_wrong(play(pair, alter=(2, "MQ equal", "MQ video 2 better")))
    assert wrong - {"concluded"} == {"remembered"}
    assert find_wrong(play(pair, alter=(1, "in all", "or"))) == {"counted"}
    assert find_wrong(play(pair, alter=(1, "; TA ", ": TA "))) == {"counted"}
    assert find_wrong(play(pair, alter=(2, "OA=1", "OA=2"))) == {"concluded"}
    assert find_wrong(play(pair, alter=(2, "TA=0", "TA=2"))) == {"concluded"}
    assert find_wrong(play(pair, alter=(2, "TA=0", "CF=1, TA=0"))) == set()
    assert find_wrong(play(pair, alter=(2, ", video 1 better</", ", equal</"))) == {"compared"}
    assert find_wrong(play(pair, alter=(2, "video 1 clean", "video 1 snow"))) - {"remembered"} == {
        "seen"
    }


def test_a_call_for_another_place_and_an_early_end_are_found() -> None:
    pair = TWO_CUES[0]
    asked = [turn.shown for turn in play(pair).turns if turn.shown]
    other = next(n for n in (4, 11, 18, 25) if n not in {min(each) for each in asked})
    said = '"target_frames": [{}, {}]'
    record = play(pair, alter=(0, said.format(*asked[0]), said.format(other, other + 28)))
    assert find_wrong(record) >= {"aimed"}
    assert find_wrong(play(pair, cued_gap=0.0, one_cue=1.0)) == {"finished"}
    assert find_wrong(play(pair, cued_gap=0.0, direct=1.0)) == {"finished"}


def test_a_winner_of_equal_scores_is_found() -> None:
    pair = next(
        pair
        for pair in TWO_CUES
        if re.search("in all [36] against", play(pair).turns[-1].reply) and pair.labels["OA"] == 0
    )
    assert find_wrong(play(pair, alter=(2, "OA=0", "OA=2"))) == {"concluded", "tied"}


def test_the_table_counts_episodes_with_cues() -> None:
    rows = tabulate("all", [play(pair) for pair in TWO_CUES[:3]]).rows
    assert rows[0] == ("markers", "100.0 % (3/3)", "100.0 % (3/3)")


def test_files_of_other_pairs_or_notes_are_refused() -> None:
    record = play(TWO_CUES[0])
    newest = replace_turn(record, "video 1 clean; marker on 8, behind it 11, 39")
    with pytest.raises(ValueError, match="no first note goes frame by frame"):
        tabulate("newest", [newest])
    with pytest.raises(ValueError, match="no first note"):
        tabulate("empty", [])
    before = replace_turn(record, "<Snapshot>video 1 clean; frame 1 nothing; in all 3 against 0")
    before = msgspec.structs.replace(before, turns=before.turns[:1])
    with pytest.raises(ValueError, match="no note ends with a score"):
        tabulate("before", [before])
    other = replace(record.sample, meta={**record.sample.meta, "profile": "tiny"})
    with pytest.raises(ValueError, match="profile looks are read here, got tiny"):
        tabulate("tiny", [msgspec.structs.replace(record, sample=other)])


def replace_turn(record: EpisodeRecord, reply: str) -> EpisodeRecord:
    turn = msgspec.structs.replace(record.turns[0], reply=reply)
    return msgspec.structs.replace(record, turns=(turn, *record.turns[1:]))
