"""The verdict grammar: what is read, what is not and why, for every text a model could write."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_videosearch.judgement import (
    CONFIDENCE,
    DEFAULT_DIMENSIONS,
    OVERALL,
    Dimension,
    Fault,
    Judgement,
    Problem,
    Reading,
    Tag,
    Unreadable,
    find_turn_end,
    format_judgement,
    parse_judgement,
    parse_turn,
    swap_label,
)

KEYS = ("TA", "VQ")


def judged(ta: int, vq: int, oa: int, cf: int | None = None) -> Judgement:
    return Judgement({"TA": ta, "VQ": vq, "OA": oa}, cf)


def outcome(reading: Reading | None) -> Judgement | Problem | None:
    return reading.problem if isinstance(reading, Unreadable) else reading


PAIRS = [
    ("TA=1, VQ=0, OA=2", judged(1, 0, 2)),
    ("OA=2, VQ=0, TA=1", judged(1, 0, 2)),  # by key, never by position
    ("TA=1,VQ=0,OA=2", judged(1, 0, 2)),
    ("TA = 1 , VQ= 0, OA =2", judged(1, 0, 2)),
    ("  TA=1,\n VQ=0,\n\tOA=2 \n", judged(1, 0, 2)),
    ("ta=1, Vq=0, oa=2", judged(1, 0, 2)),
    ("TA=1, VQ=0, OA=2, CF=1", judged(1, 0, 2, 1)),
    ("CF=3, TA=1, VQ=0, OA=2", judged(1, 0, 2, 3)),
    ("TA=1, VQ=0, OA=2,", judged(1, 0, 2)),
    ("", Problem.EMPTY),
    (" \n\t ", Problem.EMPTY),
    (",", Problem.NOT_A_PAIR),
    ("TA=1, VQ=0", Problem.MISSING_KEY),
    ("TA=1, OA=2", Problem.MISSING_KEY),
    ("CF=1", Problem.MISSING_KEY),
    ("OA=1", Problem.MISSING_KEY),
    ("TA=1, VQ=0, OA=2, MQ=1", Problem.UNKNOWN_KEY),
    ("TA=1, VQ=0, OA=2, XX=1", Problem.UNKNOWN_KEY),
    ("TA=1, VQ=0, OVERALL=2", Problem.UNKNOWN_KEY),
    ("TA=1, TA=1, VQ=0, OA=2", Problem.REPEATED_KEY),  # even where both agree
    ("TA=1, ta=2, VQ=0, OA=2", Problem.REPEATED_KEY),
    ("TA=1, VQ=0, OA=2, CF=1, CF=1", Problem.REPEATED_KEY),
    ("TA=3, VQ=0, OA=2", Problem.VALUE_OUT_OF_RANGE),
    ("TA=1, VQ=0, OA=12", Problem.VALUE_OUT_OF_RANGE),
    ("TA=1, VQ=0, OA=2, CF=0", Problem.VALUE_OUT_OF_RANGE),
    ("TA=1, VQ=0, OA=2, CF=4", Problem.VALUE_OUT_OF_RANGE),
    ("TA=-1, VQ=0, OA=2", Problem.NOT_A_PAIR),
    ("TA=+1, VQ=0, OA=2", Problem.NOT_A_PAIR),
    ("TA=1.0, VQ=0, OA=2", Problem.NOT_A_PAIR),
    ("TA=01, VQ=0, OA=2", Problem.NOT_A_PAIR),  # a digit, not a number with leading zeros
    ("TA=0/1/2, VQ=0/1/2, OA=0/1/2", Problem.NOT_A_PAIR),  # the prompt's own form, copied
    ("TA=one, VQ=0, OA=2", Problem.NOT_A_PAIR),
    ("TA=1 (video 1), VQ=0, OA=2", Problem.NOT_A_PAIR),
    ("TA=, VQ=0, OA=2", Problem.NOT_A_PAIR),
    ("=1, VQ=0, OA=2", Problem.NOT_A_PAIR),
    ("TA==1, VQ=0, OA=2", Problem.NOT_A_PAIR),
    ("TA:1, VQ:0, OA:2", Problem.NOT_A_PAIR),
    ("TA 1, VQ 0, OA 2", Problem.NOT_A_PAIR),
    ("TA=1; VQ=0; OA=2", Problem.NOT_A_PAIR),
    ("TA=1 VQ=0 OA=2", Problem.NOT_A_PAIR),
    ("TA=1,, VQ=0, OA=2", Problem.NOT_A_PAIR),
    ("TA=1, VQ=0, OA=2.", Problem.NOT_A_PAIR),
    ("I think TA=1, VQ=0, OA=2", Problem.NOT_A_PAIR),
    ("{'TA': 1, 'VQ': 0, 'OA': 2}", Problem.NOT_A_PAIR),
    ("**TA=1**, VQ=0, OA=2", Problem.NOT_A_PAIR),
    ("TA=\u0661, VQ=0, OA=2", Problem.NOT_A_PAIR),  # Arabic-Indic one
    ("TA=\u00b9, VQ=0, OA=2", Problem.NOT_A_PAIR),  # superscript one
    ("TA=\uff11, VQ=0, OA=2", Problem.NOT_A_PAIR),  # full-width one
    ("\uff34\uff21=1, VQ=0, OA=2", Problem.NOT_A_PAIR),  # full-width TA
    ("TA\uff1d1, VQ=0, OA=2", Problem.NOT_A_PAIR),  # full-width =
    ("TA=1\uff0c VQ=0\uff0c OA=2", Problem.NOT_A_PAIR),  # full-width comma
    ("T\u0410=1, VQ=0, OA=2", Problem.NOT_A_PAIR),  # Cyrillic A
    ("TA=1\x00, VQ=0, OA=2", Problem.NOT_A_PAIR),
    ("TA=" + "9" * 5000 + ", VQ=0, OA=2", Problem.NOT_A_PAIR),
    ("T" * 5000 + "=1, VQ=0, OA=2", Problem.NOT_A_PAIR),
    ("TA" + " " * 5000 + "=1, VQ=0, OA=2", Problem.NOT_A_PAIR),
]


@pytest.mark.parametrize(("text", "expected"), PAIRS, ids=lambda value: repr(value)[:40])
def test_parse_judgement(text: str, expected: Judgement | Problem) -> None:
    assert outcome(parse_judgement(text, KEYS)) == expected


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("TA=1, VQ=0, OA=7", "OA=7"),
        ("TA=1, XX=1", "XX"),
        ("VQ=0", "TA, OA"),
        ("TA=1, vq=0, Vq=1, OA=1", "VQ"),
        ("TA=1, because " + "x" * 500, "because " + "x" * 72),
    ],
)
def test_a_problem_says_what_was_there(text: str, detail: str) -> None:
    assert parse_judgement(text, KEYS).detail == detail


def test_any_dimensions_can_be_judged() -> None:
    keys = ("FINENESS", "C2")
    assert parse_judgement("C2=1, FINENESS=0, OA=2", keys) == Judgement(
        {"FINENESS": 0, "C2": 1, "OA": 2}
    )
    assert parse_judgement("OA=2", ()) == Judgement({"OA": 2})
    assert list(parse_judgement("OA=2, C2=1, FINENESS=0", keys).verdicts) == [
        "FINENESS",
        "C2",
        "OA",
    ]


SNAPSHOT, THINK = "<Snapshot>a cat</Snapshot>", "<Think>alike</Think>"
BEGIN = SNAPSHOT + THINK
RECOMMEND = "<Recommend Answer>TA=0, VQ=0, OA=0, CF=3</Recommend Answer>"
CALL = "<tool_call>{}</tool_call>"
ANSWER = "<Answer>TA=1, VQ=0, OA=2</Answer>"
OTHER = "<Answer>TA=2, VQ=2, OA=1</Answer>"
READ = judged(1, 0, 2)
F, P = Fault, Problem
LOOSE = {F.NO_CALL_NOR_ANSWER, F.OUTSIDE_TEXT}
"""Words that look like a tag are just words."""

TURNS = [
    # well-formed
    (BEGIN + ANSWER, READ, set()),
    (BEGIN + RECOMMEND + CALL, None, set()),
    (f"  {SNAPSHOT}\n\n{THINK}\n\t{ANSWER}\n", READ, set()),
    # published variants
    (BEGIN + "<final answer>TA=1, VQ=0, OA=2</final answer>", READ, set()),
    (BEGIN + "<Final  Answer>TA=1, VQ=0, OA=2</FINAL ANSWER>", READ, set()),
    (BEGIN + "<answer>TA=1, VQ=0, OA=2</answer>", READ, set()),
    (BEGIN + "< Answer >TA=1, VQ=0, OA=2</ Answer >", READ, set()),
    (BEGIN + "<Answer>TA=1, VQ=0, OA=2< / answer>", READ, set()),
    (BEGIN + "<final answer>TA=1, VQ=0, OA=2</answer>", READ, set()),
    (BEGIN + "<final\nanswer>TA=1, VQ=0, OA=2</final\nanswer>", READ, set()),
    ("<SNAPSHOT>a</snapshot><think>b</THINK>" + ANSWER, READ, set()),
    (BEGIN + "<recommend answer>TA=0, VQ=0, OA=0, CF=1</Recommend  Answer>" + CALL, None, set()),
    # nothing looser
    (BEGIN + "<Answers>TA=1, VQ=0, OA=2</Answers>", None, LOOSE),
    (BEGIN + "<finalanswer>TA=1, VQ=0, OA=2</finalanswer>", None, LOOSE),
    (BEGIN + "<final_answer>TA=1, VQ=0, OA=2</final_answer>", None, LOOSE),
    (BEGIN + "[Answer]TA=1, VQ=0, OA=2[/Answer]", None, LOOSE),
    (BEGIN + "Answer: TA=1, VQ=0, OA=2", None, LOOSE),
    (BEGIN + "<Answer/>", None, LOOSE),
    (BEGIN + "<Answer id=1>TA=1, VQ=0, OA=2</Answer>", None, LOOSE | {F.STRAY_CLOSE}),
    (BEGIN + "<     Answer>TA=1, VQ=0, OA=2</Answer>", None, LOOSE | {F.STRAY_CLOSE}),
    (
        BEGIN + "\uff1cAnswer\uff1eTA=1, VQ=0, OA=2</Answer>",
        None,
        LOOSE | {F.STRAY_CLOSE},
    ),
    (BEGIN + "&lt;Answer&gt;TA=1, VQ=0, OA=2&lt;/Answer&gt;", None, LOOSE),
    # letters that equal s and k when case is ignored: long s, Kelvin sign
    ("<\u017fnapshot>a</\u017fnapshot>" + THINK + ANSWER, READ, {F.NO_SNAPSHOT, F.OUTSIDE_TEXT}),
    (SNAPSHOT + "<Thin\u212a>a</Thin\u212a>" + ANSWER, READ, {F.NO_THINK, F.OUTSIDE_TEXT}),
    (BEGIN + "<an\u017fwer>TA=1, VQ=0, OA=2</an\u017fwer>", None, LOOSE),
    # several answers
    (BEGIN + ANSWER + ANSWER, READ, {F.REPEATED}),
    (BEGIN + ANSWER + "<final answer>OA=2, VQ=0, TA=1</final answer>", READ, {F.REPEATED}),
    (
        BEGIN + ANSWER + "<Answer>TA=2, VQ=0, OA=2</Answer>",
        P.CONFLICTING,
        {F.REPEATED, F.UNREADABLE_VERDICT},
    ),
    (BEGIN + ANSWER + "<Answer>?</Answer>", P.CONFLICTING, {F.REPEATED, F.UNREADABLE_VERDICT}),
    (BEGIN + ANSWER + "<Answer>TA=1", READ, {F.UNCLOSED}),
    # unreadable ones
    (BEGIN + "<Answer></Answer>", P.EMPTY, {F.EMPTY, F.UNREADABLE_VERDICT}),
    (BEGIN + "<Answer>video 1</Answer>", P.NOT_A_PAIR, {F.UNREADABLE_VERDICT}),
    (BEGIN + "<Answer>OA=1</Answer>", P.MISSING_KEY, {F.UNREADABLE_VERDICT}),
    (BEGIN + "<Recommend Answer>OA</Recommend Answer>" + CALL, None, {F.UNREADABLE_VERDICT}),
    # cut off
    ("", None, {F.NO_SNAPSHOT, F.NO_THINK, F.NO_CALL_NOR_ANSWER}),
    ("The first video is better.", None, LOOSE | {F.NO_SNAPSHOT, F.NO_THINK}),
    (
        BEGIN + "<Answer>TA=1, VQ",
        P.TRUNCATED,
        {F.UNCLOSED, F.UNREADABLE_VERDICT, F.NO_CALL_NOR_ANSWER},
    ),
    (BEGIN + ANSWER[:-9], P.TRUNCATED, {F.UNCLOSED, F.UNREADABLE_VERDICT, F.NO_CALL_NOR_ANSWER}),
    (BEGIN + "<Ans", None, LOOSE),
    (SNAPSHOT + "<Think>so", None, {F.UNCLOSED, F.NO_THINK, F.NO_CALL_NOR_ANSWER}),
    (BEGIN + RECOMMEND + "<tool_call>{}", None, {F.UNCLOSED, F.NO_CALL_NOR_ANSWER}),
    # nested, stray, out of order, empty, missing, too much
    ("<Think>" + SNAPSHOT + "</Think>" + ANSWER, READ, {F.NO_SNAPSHOT}),
    (SNAPSHOT + "<Think>a</Snapshot></Think>" + ANSWER, READ, set()),
    (SNAPSHOT + "</Think>" + THINK + ANSWER, READ, {F.STRAY_CLOSE}),
    (SNAPSHOT + "<Think>" + THINK + ANSWER, READ, {F.UNCLOSED}),
    (THINK + SNAPSHOT + ANSWER, READ, {F.ORDER}),
    (ANSWER + SNAPSHOT + THINK, READ, {F.ORDER}),
    (BEGIN + CALL + RECOMMEND, None, {F.ORDER}),
    (SNAPSHOT + SNAPSHOT + THINK + ANSWER, READ, {F.REPEATED}),
    (BEGIN + RECOMMEND + CALL + CALL, None, {F.REPEATED}),
    ("<Snapshot> \n</Snapshot>" + THINK + ANSWER, READ, {F.EMPTY}),
    (BEGIN + RECOMMEND + "<tool_call></tool_call>", None, {F.EMPTY}),
    (THINK + ANSWER, READ, {F.NO_SNAPSHOT}),
    (SNAPSHOT + ANSWER, READ, {F.NO_THINK}),
    (BEGIN + CALL, None, {F.NO_RECOMMENDATION}),
    (BEGIN + RECOMMEND + CALL + ANSWER, READ, {F.CALL_AND_ANSWER}),
    (BEGIN + RECOMMEND + ANSWER, READ, {F.CALL_AND_ANSWER}),
    (BEGIN + RECOMMEND, None, {F.NO_CALL_NOR_ANSWER}),
    # our own tags as content of the reasoning: quoted, for the block is closed later
    (SNAPSHOT + f"<Think>or {OTHER}?</Think>" + ANSWER, READ, set()),
    (SNAPSHOT + "<Think>form <Answer>TA=0/1/2</Answer></Think>" + ANSWER, READ, set()),
    (SNAPSHOT + f"<Think>{CALL} or {OTHER}</Think>" + ANSWER, READ, set()),
    (f"<Snapshot>{OTHER}</Snapshot>" + THINK + ANSWER, READ, set()),
    (SNAPSHOT + "<Think>I could write <tool_call> now</Think>" + ANSWER, READ, set()),
    (SNAPSHOT + f"<Think>I write <Think>{OTHER}</Think> so</Think>" + ANSWER, READ, set()),
    (SNAPSHOT + f"<Think>or {OTHER}</Think>", None, {F.NO_CALL_NOR_ANSWER}),
    (SNAPSHOT + f"<Think>a<Answer>TA=1{CALL}</Think>" + RECOMMEND + CALL, None, set()),
    (
        SNAPSHOT + "<Think>it says </Think> here</Think>" + ANSWER,
        READ,
        {F.STRAY_CLOSE, F.OUTSIDE_TEXT},
    ),
    (SNAPSHOT + "<Think>1 < 2 > 0 </> < > <|im_end|></Think>" + ANSWER, READ, set()),
    # a block that is never closed: the last readable answer counts
    (SNAPSHOT + "<Think>so " + ANSWER, READ, {F.UNCLOSED, F.NO_THINK}),
    (SNAPSHOT + f"<Think>{OTHER} no: {ANSWER}", READ, {F.UNCLOSED, F.NO_THINK, F.REPEATED}),
    (
        SNAPSHOT + f"<Think>{ANSWER} <Answer>TA=0/1/2</Answer>",
        READ,
        {F.UNCLOSED, F.NO_THINK, F.REPEATED},
    ),
    (
        SNAPSHOT + "<Think>so <Answer>TA=0/1/2</Answer>",
        P.NOT_A_PAIR,
        {F.UNCLOSED, F.NO_THINK, F.UNREADABLE_VERDICT},
    ),
    (
        SNAPSHOT + f"<Think>so {RECOMMEND}{CALL}",
        None,
        {F.UNCLOSED, F.NO_THINK},
    ),
    # words outside the tags, a recommendation without its confidence
    ("Sure! " + BEGIN + ANSWER, READ, {F.OUTSIDE_TEXT}),
    (SNAPSHOT + "so" + THINK + ANSWER, READ, {F.OUTSIDE_TEXT}),
    (BEGIN + ANSWER + " I hope this helps", READ, {F.OUTSIDE_TEXT}),
    (BEGIN + RECOMMEND.replace(", CF=3", "") + CALL, None, {F.NO_CONFIDENCE}),
    (
        BEGIN + RECOMMEND.replace("CF=3", "CF=4") + CALL,
        None,
        {F.UNREADABLE_VERDICT},
    ),
]


@pytest.mark.parametrize(("text", "answer", "faults"), TURNS, ids=lambda value: repr(value)[-60:])
def test_parse_turn(text: str, answer: Judgement | Problem | None, faults: set[Fault]) -> None:
    turn = parse_turn(text, KEYS)
    assert outcome(turn.answer) == answer
    assert set(turn.faults(expects_snapshot=True)) == faults


def test_a_snapshot_is_due_only_after_new_frames() -> None:
    for text, needs_snapshot in [(THINK + ANSWER, True), (SNAPSHOT + THINK + ANSWER, False)]:
        turn = parse_turn(text, KEYS)
        assert (Fault.NO_SNAPSHOT in turn.faults(expects_snapshot=True)) == needs_snapshot
        assert turn.faults(expects_snapshot=False) == ()


@pytest.mark.parametrize(
    ("text", "acts_by_call", "calls", "has_unclosed_call"),
    [
        (RECOMMEND + CALL, True, ("{}",), False),
        (ANSWER, False, (), False),
        ("", False, (), False),
        (CALL + ANSWER, True, ("{}",), False),  # the turn ended at the first of them
        (ANSWER + CALL, False, ("{}",), False),
        (ANSWER + "<tool_call>{", False, (), True),
        ("<tool_call>[1]</tool_call> <TOOL_CALL> 2 </tool_call >", True, ("[1]", " 2 "), False),
        ("<tool_call>{", True, (), True),
        ("<tool_call>", True, (), True),
        ("<tool_call>{}</Think>", True, (), True),
        ("<tool_call>{}<tool_call>", True, (), True),
        ("<tool_call>{}" + THINK, True, (), True),  # never closed, whatever follows
        ("<tool_call>{}" + ANSWER, False, (), True),
        ("</tool_call>", False, (), False),
        # quoted, for the block is closed later
        ("<Think>" + CALL + "</Think>", False, (), False),
        ("<Think>" + CALL + "</Think><tool_call>[1]</tool_call>", True, ("[1]",), False),
        ("<Think><tool_call>{</Think>" + ANSWER, False, (), False),
        ("<Answer>" + CALL + "</Answer>", False, (), False),
        # never closed: a readable answer counts, else the call
        ("<Think>" + CALL, True, ("{}",), False),
        ("<Think>" + CALL + ANSWER, False, ("{}",), False),
        ("<Think>" + CALL + "<Answer>?</Answer>", True, ("{}",), False),
        ("<Think><Answer>?</Answer>", False, (), False),
        (CALL + "<Think>" + ANSWER, True, ("{}",), False),  # the turn ended at the call
    ],
)
def test_what_a_turn_does(
    text: str, acts_by_call: bool, calls: tuple[str, ...], has_unclosed_call: bool
) -> None:
    turn = parse_turn(text, KEYS)
    assert (turn.acts_by_call, turn.tool_calls, turn.has_unclosed_call) == (
        acts_by_call,
        calls,
        has_unclosed_call,
    )


@pytest.mark.parametrize(
    ("text", "num_quoted_acts", "has_unclosed_act"),
    [
        (BEGIN + ANSWER, 0, False),
        ("<Think>" + OTHER + "</Think>" + ANSWER, 1, False),
        ("<Think>" + OTHER + CALL + OTHER + "</Think>" + ANSWER, 3, False),
        ("<Think><Answer>OA</Think>" + ANSWER, 1, False),
        ("<Think>" + ANSWER, 0, True),
        ("<Think>" + CALL, 0, True),
        ("<Think><Think>" + OTHER + "</Think>" + ANSWER, 1, True),
        ("<tool_call>{}", 0, False),
        (ANSWER + "<Think>", 0, False),
    ],
)
def test_drafts_and_unclosed_acts_are_counted(
    text: str, num_quoted_acts: int, has_unclosed_act: bool
) -> None:
    turn = parse_turn(text, KEYS)
    assert (turn.num_quoted_acts, turn.has_unclosed_act) == (num_quoted_acts, has_unclosed_act)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        (BEGIN + ANSWER, ""),
        (BEGIN + ANSWER + " bye", " bye"),
        (BEGIN + RECOMMEND + CALL + ANSWER, ANSWER),
        (f"<Think>{OTHER} no</Think>{ANSWER}.", "."),
        (f"<Think>{CALL} no</Think>", None),
        ("<Think>" + ANSWER, None),
        ("no opening</Answer> x", " x"),  # an engine stops there, too
        ("<Answer>OA=1</ANSWER> x", None),  # not one of the stop strings
        ("", None),
    ],
)
def test_where_a_turn_ends(text: str, rest: str | None) -> None:
    end = find_turn_end(text)
    assert (None if end is None else text[end:]) == rest


MEGABYTE = 1 << 20


@pytest.mark.parametrize(
    "unit",
    [
        "<", "< ", "<    ", "<" + " " * 99, "< / ", "<answer ", "<recommend    ", "<Answer>",
        "</Answer>", "<Think><Answer>", "<Think>", "</Think>", "<Think></Think>",
        "<Answer></Think>", "<tool_call>", "<tool_call></tool_call>", ANSWER, "=", ",", "TA=1,",
        "TA" + " " * 99,
    ],
)  # fmt: skip
def test_four_megabytes_are_read_in_linear_time(unit: str) -> None:
    text = unit * (4 * MEGABYTE // len(unit))
    start = time.process_time()
    parse_turn(f"<Answer>{text}</Answer>", KEYS).faults(expects_snapshot=True)
    find_turn_end(f"<Think>{text}")
    assert time.process_time() - start < 20  # about 2 s; quadratic time would be days


def test_deep_nesting_is_read_in_linear_time() -> None:
    text = "<Think>" * 200_000 + "</Think>" * 200_000  # 3 MB; copying each content would be 300 GB
    start = time.process_time()
    turn = parse_turn(f"<Answer>{text}</Answer>", KEYS)
    assert len(parse_turn(text, KEYS).blocks) == 1 and len(turn.blocks[0].content) == len(text)
    assert time.process_time() - start < 12  # about 2 s


def test_random_bytes_are_data() -> None:
    for seed in range(50):
        text = random.Random(seed).randbytes(2000).decode("utf-8", "surrogateescape")
        assert outcome(parse_turn(f"<Answer>{text}</Answer>", KEYS).answer) in set(Problem)


PIECES = st.sampled_from(
    [f"<{slash}{tag.value}>" for tag in Tag for slash in ("", "/")]
    + [
        RECOMMEND,
        ANSWER,
        CALL,
        "TA=1",
        ", ",
        "VQ=0",
        "OA=2",
        "< / final answer >",
        "<\u017fnapshot>",
        "\ud800",
    ]
)


@settings(deadline=None)  # machines that run the tests are shared
@given(st.text() | st.lists(PIECES | st.text(max_size=5), max_size=30).map("".join))
def test_reading_never_raises_and_never_invents(text: str) -> None:
    turn = parse_turn(text, KEYS)
    assert set(turn.faults(expects_snapshot=True)) <= set(Fault)
    for reading in (turn.answer, turn.recommendation):
        if isinstance(reading, Judgement):
            assert set(reading.verdicts) == {*KEYS, OVERALL} and set(reading.verdicts.values()) <= {
                0,
                1,
                2,
            }
    assert all(block.content in text for block in turn.blocks)
    assert turn == parse_turn(text, KEYS)


LABELS = st.integers(0, 2)
CONFIDENCES = st.none() | st.integers(1, 3)


@settings(deadline=None)  # machines that run the tests are shared
@given(
    st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9]{0,7}", fullmatch=True), LABELS, max_size=5),
    LABELS,
    CONFIDENCES,
)
def test_format_and_parse_are_inverse(
    verdicts: dict[str, int], overall: int, confidence: int | None
) -> None:
    keys = [key for key in verdicts if key not in (OVERALL, CONFIDENCE)]
    judgement = Judgement({key: verdicts[key] for key in keys} | {OVERALL: overall}, confidence)
    text = format_judgement(judgement)
    assert parse_judgement(text, keys) == judgement
    assert parse_turn(f"{SNAPSHOT}{THINK}<Answer>{text}</Answer>", keys).answer == judgement


@pytest.mark.parametrize(
    "key", ["", "ta", "T A", "1A", "TA-", "OA", "CF", "ABCDEFGHI", "T\u0410", "TA\n", "<TA>"]
)
def test_a_key_that_an_answer_cannot_hold_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="a dimension key is 1 to 8 capital letters or digits"):
        Dimension(key, "name", "explanation")


def test_defaults_are_the_papers_dimensions() -> None:
    assert [dimension.key for dimension in DEFAULT_DIMENSIONS] == ["TA", "VQ", "MQ"]


@pytest.mark.parametrize(("label", "swapped"), [(0, 0), (1, 2), (2, 1), (None, None)])
def test_swap_label(label: int | None, swapped: int | None) -> None:
    assert swap_label(label) == swapped and swap_label(swap_label(label)) == label
