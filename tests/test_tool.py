"""select_frames: what every call gets, row by row; and for any text, that the tool is pure and
keeps its limits."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_videosearch.frames import CandidateFrames, ImageReference
from verl_videosearch.tool import (
    CallContext,
    CallFault,
    ToolOutcome,
    call_tool,
    refuse_over_limit,
    refuse_unclosed,
)

PAIR = CandidateFrames(times_1=(0.0,) * 48, times_2=(0.0,) * 48)
MAX_FRAMES = 8
CONTEXT = CallContext(PAIR, MAX_FRAMES, max_pixels=784)
F = CallFault


def call(text: str) -> ToolOutcome:
    return call_tool(text, CONTEXT)


def write_call(frames: str) -> str:
    """Write a call around the raw JSON of its argument."""
    return f'{{"name": "select_frames", "arguments": {{"target_frames": {frames}}}}}'


FRAMES = [
    # 1..max valid numbers: in the order asked
    ("[1]", (1,), ()),
    ("[96]", (96,), ()),
    ("[12, 16, 76, 80]", (12, 16, 76, 80), ()),
    ("[80, 12, 76, 16]", (80, 12, 76, 16), ()),
    ("[48,49]", (48, 49), ()),
    ("[1, 2, 3, 4, 5, 6, 7, 8]", (1, 2, 3, 4, 5, 6, 7, 8), ()),
    ("[ 3 ,\n\t7 ]", (3, 7), ()),
    # duplicates: each once
    ("[5, 5]", (5,), (5,)),
    ("[12, 60, 12]", (12, 60), (12,)),
    ("[7, 3, 7, 3, 3]", (7, 3), (7, 3)),
    ("[1, 2, 3, 4, 5, 6, 7, 8, 1]", (1, 2, 3, 4, 5, 6, 7, 8), (1,)),  # eight frames, not nine
    ("[" + "9, " * 99 + "9]", (9,), (9,)),
]


@pytest.mark.parametrize(
    ("frames", "numbers", "repeated"), FRAMES, ids=lambda value: repr(value)[:30]
)
def test_a_valid_call_gets_its_frames(
    frames: str, numbers: tuple[int, ...], repeated: tuple[int, ...]
) -> None:
    outcome = call(write_call(frames))
    assert (outcome.frame_numbers, outcome.repeated) == (numbers, repeated)
    assert outcome.images == tuple(ImageReference(number, 784) for number in numbers)
    assert (outcome.fault, outcome.reason, outcome.tool) == (None, "", "select_frames")


ARGUMENTS = [
    # a number below 1 or above N, with what the text must name
    (
        "[0]",
        F.OUT_OF_RANGE,
        "outside the videos: 0. Video 1 is frames 1 to 48, video 2 is frames 49 to 96.",
    ),
    ("[-1]", F.OUT_OF_RANGE, "outside the videos: -1"),
    ("[-0]", F.OUT_OF_RANGE, "outside the videos: 0"),
    ("[97]", F.OUT_OF_RANGE, "outside the videos: 97"),
    ("[12, 97, 0, 13]", F.OUT_OF_RANGE, "outside the videos: 97, 0"),
    ("[0, 0, 0]", F.OUT_OF_RANGE, "outside the videos: 0"),
    ("[1000000000000000000000000000000]", F.OUT_OF_RANGE, "outside the videos: a huge number"),
    ("[-1000000000000000000000000000000]", F.OUT_OF_RANGE, "outside the videos: -a huge number"),
    ("[" + "9" * 4000 + "]", F.OUT_OF_RANGE, "outside the videos: a huge number"),
    (str(list(range(97, 120))), F.OUT_OF_RANGE, "106, 107, 108 and 11 more"),
    ("[1, 2, 3, 4, 5, 6, 7, 8, 97]", F.OUT_OF_RANGE, "outside the videos: 97"),
    # more than the limit
    (
        "[1, 2, 3, 4, 5, 6, 7, 8, 9]",
        F.TOO_MANY,
        "you asked for 9 frames; at most 8 are allowed in one call.",
    ),
    (str(list(range(1, 97))), F.TOO_MANY, "you asked for 96 frames"),
    # empty, not a list, not integers
    (
        "[]",
        F.EMPTY_LIST,
        '"target_frames" must be a list of one or more whole numbers, such as [3, 7]; got an '
        "empty list",
    ),
    ("12", F.NOT_A_LIST, "got 12."),
    ("null", F.NOT_A_LIST, "got null."),
    ("true", F.NOT_A_LIST, "got true."),
    ('"[12, 16]"', F.NOT_A_LIST, 'got "[12, 16]".'),
    ('"12"', F.NOT_A_LIST, 'got "12".'),
    ('{"12": 16}', F.NOT_A_LIST, "got an object."),
    ("3.5", F.NOT_A_LIST, "got 3.5."),
    ("NaN", F.NOT_A_LIST, "got NaN."),
    ('["3"]', F.NOT_INTEGERS, 'got "3".'),
    ("[3.5]", F.NOT_INTEGERS, "got 3.5."),
    ("[3.0]", F.NOT_INTEGERS, "got 3.0."),
    ("[3e0]", F.NOT_INTEGERS, "got 3.0."),
    ("[true]", F.NOT_INTEGERS, "got true."),
    ("[false]", F.NOT_INTEGERS, "got false."),
    ("[null]", F.NOT_INTEGERS, "got null."),
    ("[[12, 16]]", F.NOT_INTEGERS, "got a list."),
    ("[{}]", F.NOT_INTEGERS, "got an object."),
    ("[NaN]", F.NOT_INTEGERS, "got NaN."),
    ("[Infinity]", F.NOT_INTEGERS, "got Infinity."),
    ("[-Infinity]", F.NOT_INTEGERS, "got -Infinity."),
    ("[1e400]", F.NOT_INTEGERS, "got Infinity."),
    ('[12, "all"]', F.NOT_INTEGERS, 'got "all".'),
    ('[12, ""]', F.NOT_INTEGERS, 'got "".'),
    ('["\\ud800"]', F.NOT_INTEGERS, r'got "\ud800".'),
    ('["\u0661\u0662"]', F.NOT_INTEGERS, r'got "\u0661\u0662".'),
    ('["<|im_end|></tool_call>"]', F.NOT_INTEGERS, 'got "< |im_end|>< /tool_call>".'),
    ('["' + "x" * 500 + '"]', F.NOT_INTEGERS, 'got "' + "x" * 39 + "...."),
    # broken JSON
    ("[12, 16", F.BAD_JSON, "the call is not valid JSON"),
    ("[12 16]", F.BAD_JSON, "the call is not valid JSON"),
    ("[12, 16,]", F.BAD_JSON, "the call is not valid JSON"),
    ("[012]", F.BAD_JSON, "the call is not valid JSON"),
    ("[+1]", F.BAD_JSON, "the call is not valid JSON"),
    ("[0x10]", F.BAD_JSON, "the call is not valid JSON"),
    ("[1_000]", F.BAD_JSON, "the call is not valid JSON"),
    ("['12']", F.BAD_JSON, "the call is not valid JSON"),
    ("[True]", F.BAD_JSON, "the call is not valid JSON"),
    ("[\u0661\u0662]", F.BAD_JSON, "the call is not valid JSON"),  # Arabic-Indic 12
    ("[\uff11]", F.BAD_JSON, "the call is not valid JSON"),  # full-width 1
    ("[1...8]", F.BAD_JSON, "the call is not valid JSON"),
    ("12-16", F.BAD_JSON, "the call is not valid JSON"),
    (
        "[" + "9" * 5000 + "]",
        F.BAD_JSON,
        "the call is not valid JSON",
    ),  # more digits than Python reads
    ("[" * 100_000, F.BAD_JSON, "the call is not valid JSON"),
    ("[" * 100_000 + "]" * 100_000, F.BAD_JSON, "the call is not valid JSON"),
    ('{"a":' * 100_000 + "1" + "}" * 100_000, F.BAD_JSON, "the call is not valid JSON"),
]

ENVELOPES = [
    ("", F.BAD_JSON, "not valid JSON"),
    (" \n", F.BAD_JSON, "not valid JSON"),
    ("select_frames([12])", F.BAD_JSON, "not valid JSON"),
    (write_call("[12]") + " please", F.BAD_JSON, "not valid JSON"),
    (write_call("[12]") + write_call("[13]"), F.BAD_JSON, "not valid JSON"),
    ("```json\n" + write_call("[12]") + "\n```", F.BAD_JSON, "not valid JSON"),
    (write_call("[12]")[:-1], F.BAD_JSON, "not valid JSON"),
    ("\ufeff" + write_call("[12]"), F.BAD_JSON, "not valid JSON"),
    ("\x00", F.BAD_JSON, "not valid JSON"),
    ("\ud800", F.BAD_JSON, "not valid JSON"),
    ("[]", F.NOT_AN_OBJECT, "not a JSON object"),
    ("[12, 16]", F.NOT_AN_OBJECT, "not a JSON object"),
    ("12", F.NOT_AN_OBJECT, "not a JSON object"),
    ("null", F.NOT_AN_OBJECT, "not a JSON object"),
    ("NaN", F.NOT_AN_OBJECT, "not a JSON object"),
    ('"select_frames"', F.NOT_AN_OBJECT, "not a JSON object"),
    (f"[{write_call('[12]')}]", F.NOT_AN_OBJECT, "not a JSON object"),
    ("{}", F.NO_TOOL_NAME, "no tool name"),
    ('{"target_frames": [12]}', F.NO_TOOL_NAME, "no tool name"),
    ('{"arguments": {"target_frames": [12]}}', F.NO_TOOL_NAME, "no tool name"),
    ('{"name": "", "arguments": {"target_frames": [12]}}', F.NO_TOOL_NAME, "no tool name"),
    ('{"name": 5, "arguments": {"target_frames": [12]}}', F.NO_TOOL_NAME, "no tool name"),
    ('{"name": null, "arguments": {"target_frames": [12]}}', F.NO_TOOL_NAME, "no tool name"),
    (
        '{"name": ["select_frames"], "arguments": {"target_frames": [12]}}',
        F.NO_TOOL_NAME,
        "no tool name",
    ),
    (
        '{"Name": "select_frames", "arguments": {"target_frames": [12]}}',
        F.NO_TOOL_NAME,
        "no tool name",
    ),
    (
        '{"name": "zoom", "arguments": {"target_frames": [12]}}',
        F.UNKNOWN_TOOL,
        'there is no tool "zoom"',
    ),
    (
        '{"name": "Select_Frames", "arguments": {"target_frames": [12]}}',
        F.UNKNOWN_TOOL,
        'no tool "Select_Frames"',
    ),
    (
        '{"name": "select_frames ", "arguments": {"target_frames": [12]}}',
        F.UNKNOWN_TOOL,
        "there is no tool",
    ),
    ('{"name": "\\ud800", "arguments": {}}', F.UNKNOWN_TOOL, r'there is no tool "\ud800"'),
    ('{"name": "\u5e27", "arguments": {}}', F.UNKNOWN_TOOL, r'there is no tool "\u5e27"'),
    (
        '{"name": "</tool_call><Answer>", "arguments": {}}',
        F.UNKNOWN_TOOL,
        '"< /tool_call>< Answer>"',
    ),
    ('{"name": "<|im_start|>system", "arguments": {}}', F.UNKNOWN_TOOL, '"< |im_start|>system"'),
    ('{"name": "select_frames"}', F.NO_ARGUMENTS, 'no arguments with "target_frames"'),
    (
        '{"name": "select_frames", "arguments": null}',
        F.NO_ARGUMENTS,
        'no arguments with "target_frames"',
    ),
    (
        '{"name": "select_frames", "arguments": {}}',
        F.NO_ARGUMENTS,
        'no arguments with "target_frames"',
    ),
    (
        '{"name": "select_frames", "arguments": [12]}',
        F.NO_ARGUMENTS,
        'no arguments with "target_frames"',
    ),
    (
        '{"name": "select_frames", "arguments": "{\\"target_frames\\": [12]}"}',
        F.NO_ARGUMENTS,
        "no arguments with",
    ),
    (
        '{"name": "select_frames", "parameters": {"target_frames": [12]}}',
        F.NO_ARGUMENTS,
        "no arguments with",
    ),
    (
        '{"name": "select_frames", "arguments": {"frames": [12]}}',
        F.NO_ARGUMENTS,
        "no arguments with",
    ),
    ('{"name": "select_frames", "target_frames": [12]}', F.NO_ARGUMENTS, "no arguments with"),
    (
        '{"name": "select_frames", "arguments": {"target_frames": [12], "video": 1}}',
        F.UNKNOWN_ARGUMENT,
        'unknown argument "video"',
    ),
]


@pytest.mark.parametrize(
    ("text", "fault", "words"),
    [(write_call(frames), *rest) for frames, *rest in ARGUMENTS] + ENVELOPES,
    ids=lambda value: repr(value)[-50:],
)
def test_a_wrong_call_gets_words(text: str, fault: CallFault, words: str) -> None:
    outcome = call(text)
    assert (outcome.fault, outcome.frame_numbers, outcome.repeated) == (fault, (), ())
    assert words in outcome.reason
    assert outcome.reason.isascii() and "\n" not in outcome.reason and len(outcome.reason) < 250


def test_what_json_allows_is_allowed() -> None:
    """Blanks, the order of keys, an id: not ours to forbid. A key that comes twice counts as JSON
    readers count it."""
    assert call(f"\n {write_call('[12]')} \n").frame_numbers == (12,)
    assert call(
        '{"arguments": {"target_frames": [12]}, "name": "select_frames", "id": 7}'
    ).frame_numbers == (12,)
    assert call(
        '{"name": "\\u0073elect_frames", "arguments": {"target_frames": [12]}}'
    ).frame_numbers == (12,)
    assert call(
        '{"name": "zoom", "name": "select_frames", "arguments": {"target_frames": [1], '
        '"target_frames": [2]}}'
    ).frame_numbers == (2,)


def test_every_fault_has_a_row() -> None:
    tested = {fault for _, fault, _ in ARGUMENTS + ENVELOPES}
    assert tested | {refuse_unclosed(CONTEXT).fault, refuse_over_limit(3, CONTEXT).fault} == set(
        CallFault
    )


@pytest.mark.parametrize(
    ("outcome", "fault", "words"),
    [
        (refuse_unclosed(CONTEXT), F.UNCLOSED_TAG, "the call was not closed with </tool_call>"),
        (
            refuse_over_limit(3, CONTEXT),
            F.CALL_LIMIT,
            "no calls are left (limit: 3). An answer is due now",
        ),
    ],
)
def test_refusals(outcome: ToolOutcome, fault: CallFault, words: str) -> None:
    assert (outcome.fault, outcome.frame_numbers) == (fault, ()) and words in outcome.reason


@pytest.mark.parametrize("unit", ["[", "1, ", '"', "{}", "</", "< / "])
@pytest.mark.parametrize(
    "template", ["{}", '{{"name": "{}"}}', '{{"name": "select_frames", "arguments": {{"{}": 1}}}}']
)
def test_a_megabyte_is_checked_in_linear_time(unit: str, template: str) -> None:
    start = time.process_time()
    assert call(template.format(unit * (2**20 // len(unit)))).fault is not None
    assert time.process_time() - start < 5  # about 0.1 s; quadratic time would be hours


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.integers(-2, 99),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)
CALLS = st.fixed_dictionaries(
    {
        "name": st.just("select_frames") | JSON,
        "arguments": st.fixed_dictionaries({"target_frames": JSON}) | JSON,
    }
)


@settings(deadline=None)  # machines that run the tests are shared
@given(st.text() | JSON.map(json.dumps) | CALLS.map(json.dumps))
def test_the_tool_never_raises(text: str) -> None:
    outcome = call(text)
    assert outcome == call(text), "the tool is pure"
    assert (outcome.fault is None) == bool(outcome.frame_numbers)
    assert (outcome.fault is None) != bool(outcome.reason)
    assert outcome.reason.encode() and len(outcome.reason) < 250


@settings(deadline=None)  # machines that run the tests are shared
@given(
    st.lists(st.integers(-1, 70), max_size=12),
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(1, 10),
)
def test_frames_come_as_asked_within_the_limits(
    numbers: list[int], num_1: int, num_2: int, max_frames: int
) -> None:
    pair = CandidateFrames((0.0,) * num_1, (0.0,) * num_2)
    outcome = call_tool(write_call(json.dumps(numbers)), CallContext(pair, max_frames, 784))
    unique: list[Any] = list(dict.fromkeys(numbers))
    if (
        unique
        and len(unique) <= max_frames
        and all(1 <= number <= num_1 + num_2 for number in unique)
    ):
        assert outcome.frame_numbers == tuple(unique)
        assert set(outcome.repeated) == {number for number in unique if numbers.count(number) > 1}
    else:
        assert (
            outcome.fault in (F.EMPTY_LIST, F.OUT_OF_RANGE, F.TOO_MANY)
            and outcome.frame_numbers == ()
        )
