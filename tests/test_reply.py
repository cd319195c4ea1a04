"""Replies: the same text is the same reply from every generator, and drafts end nothing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_videosearch.judgement import STOP_STRINGS, find_turn_end, parse_turn
from verl_videosearch.reply import (
    NativeThought,
    Reply,
    ThoughtForm,
    clean_text,
    find_thought_form,
    is_finished,
    make_reply,
    split_thought,
)

DRAFT, ANSWER = "<Answer>OA=2</Answer>", "<Answer>OA=1</Answer>"
CALL = "<tool_call>{}</tool_call>"
NATIVE, OPENED = ThoughtForm(), ThoughtForm(is_opened=True)
UNKNOWN = find_thought_form(None, setting=NativeThought.ALWAYS)  # of a server's model

FINISHED = [
    (ANSWER, None, True),
    (f"<Think>so</Think>{CALL}", None, True),
    (f"<Think>or {DRAFT}", None, False),
    (f"<Think>or {CALL}", None, False),
    (f"<Think>or {DRAFT}</Think>{ANSWER}", None, True),
    (f"<Snapshot>{DRAFT}", None, False),
    ('<tool_call>{"note": "</Answer>', None, False),
    (f"<think>or {DRAFT}", NATIVE, False),
    (f"<think>or {DRAFT}</think>{ANSWER}", NATIVE, True),
    (f"<think>a <Think> tag</think>{ANSWER}", NATIVE, True),  # tags in a thought open nothing
    (f"or {DRAFT}", OPENED, False),
    (f"or {DRAFT}</think>{ANSWER}", OPENED, True),
    (f"<Think>or {DRAFT}", NATIVE, False),
    (f"or {DRAFT}", UNKNOWN, False),
    (f"or {DRAFT}</think>{ANSWER}", UNKNOWN, True),
    (f"<think>or {DRAFT}</think>{ANSWER}", UNKNOWN, True),
    ("OA=1</Answer>", None, True),
]


@pytest.mark.parametrize(("text", "thought", "expected"), FINISHED)
def test_is_finished(text: str, thought: ThoughtForm | None, expected: bool) -> None:
    assert is_finished(text, thought) == expected


def generate(whole: str, thought: ThoughtForm | None) -> str:
    """Write a text as an engine with stop strings does, going on after each stop inside a block."""
    text = ""
    while True:
        rest = whole[len(text) :]
        ends = [rest.index(stop) + len(stop) for stop in STOP_STRINGS if stop in rest]
        text += rest[: min(ends)] if ends else rest
        if not ends or is_finished(text, thought):
            return text


TAGS = ("Snapshot", "Think", "think", "Recommend Answer", "Answer", "answer", "tool_call")
PIECES = st.sampled_from(
    [f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")] + [DRAFT, ANSWER, CALL, "so", "\n"]
)


@settings(deadline=None)  # machines that run the tests are shared
@given(
    st.lists(PIECES, max_size=12).map("".join),
    st.sampled_from([None, NATIVE, OPENED]),
)
def test_stopping_and_cutting_give_the_same_reply(whole: str, thought: ThoughtForm | None) -> None:
    stopped = make_reply(generate(whole, thought), thought=thought)
    assert stopped == make_reply(whole, thought=thought)
    assert make_reply(stopped.thought + stopped.text, thought=thought) == stopped


def test_a_reply_that_reached_its_act_is_not_truncated() -> None:
    assert make_reply(ANSWER, is_truncated=True) == Reply(ANSWER)
    assert make_reply(f"<Think>{DRAFT}", is_truncated=True).is_truncated
    assert make_reply("<think>so", is_truncated=True, thought=NATIVE) == Reply(
        "", is_truncated=True, thought="<think>so"
    )


@pytest.mark.parametrize(
    ("template", "tokens", "prompt", "form"),
    [
        (None, [], "", None),
        ("{{ message.content }}", ["<tool_call>", "<|im_end|>"], "<|im_start|>assistant\n", None),
        ("{{ message.content }}", ["<think>", "</think>"], "<|im_start|>assistant\n", NATIVE),
        ("{{ '<think>' }}", [], "<|im_start|>assistant\n", NATIVE),
        ("{{ content.split('</think>')[-1] }}", [], "assistant\n<think>\n", OPENED),
        ("{{ '<think>' }}", [], "assistant\n<think>\n\n</think>\n\n", NATIVE),  # thinking is off
        ("{{ '<Think>' }}", ["<think>"], "", None),
    ],
)
def test_a_models_own_thought_is_found(
    template: str | None, tokens: list[str], prompt: str, form: ThoughtForm | None
) -> None:
    assert find_thought_form(template, tokens, prompt) == form
    assert find_thought_form(template, tokens, prompt, NativeThought.NEVER) is None
    assert find_thought_form(template, tokens, prompt, NativeThought.ALWAYS) is not None


@pytest.mark.parametrize(
    ("text", "form", "thought", "rest"),
    [
        ("<think>a</think>b", None, "", "<think>a</think>b"),
        ("\n<think>a</think>b", NATIVE, "\n<think>a</think>", "b"),
        ("<Think>a</Think>b", NATIVE, "", "<Think>a</Think>b"),
        ("x<think>a</think>b", NATIVE, "", "x<think>a</think>b"),
        ("<think>a <Answer>", NATIVE, "<think>a <Answer>", ""),
        ("a</think>b</think>", OPENED, "a</think>", "b</think>"),
        ("", OPENED, "", ""),
    ],
)
def test_split_thought(text: str, form: ThoughtForm | None, thought: str, rest: str) -> None:
    assert split_thought(text, form) == (thought, rest)


def test_a_thought_is_never_read() -> None:
    reply = make_reply(f"<think>{DRAFT}{CALL}</think>\n<Think>b</Think>{ANSWER}", thought=NATIVE)
    turn = parse_turn(reply.text, ())
    assert turn.answer.overall == 1 and not turn.tool_calls and not turn.num_quoted_acts


@pytest.mark.parametrize(
    ("text", "tokens", "cleaned"),
    [
        ("plain <b>, 1 < 2 > 0, a|b, [x]", [], "plain <b>, 1 < 2 > 0, a|b, [x]"),
        ("<|image_pad|><|im_end|>", [], "< |image_pad|>< |im_end|>"),
        ("<<|im_end|>|>", [], "<< |im_end|>|>"),
        ("<\uff5cend\u2581of\u2581sentence\uff5c>", [], "< \uff5cend\u2581of\u2581sentence\uff5c>"),
        ("</s> <image> <start_of_turn>", [], "< /s> < image> < start_of_turn>"),
        ("[INST]", [], "[ INST]"),
        ("a <mask> b", ["<mask>"], "a < mask> b"),
        ("ababa", ["aba"], "a ba ba"),  # overlapping
        (DRAFT + CALL + "<think>", ["<tool_call>", "</tool_call>", "<think>"], None),
        ("\ud800a\udcff", [], "\ufffda\ufffd"),
        ("\ud83d\ude00", [], "\U0001f600"),  # two halves of one character
        ("\ufeffa\x00", [], None),
        ("x", ["x", ""], None),
    ],
)
def test_clean_text(text: str, tokens: list[str], cleaned: str | None) -> None:
    assert clean_text(text, tokens) == (text if cleaned is None else cleaned)


MARKS = st.sampled_from(["<|im_end|>", "<|", "|>", "<", "<image>", "\ud800", "\udc00", "</s>"])


@settings(deadline=None)  # machines that run the tests are shared
@given(st.lists(MARKS | st.text(max_size=3) | PIECES, max_size=12).map("".join))
def test_cleaning_is_final_and_leaves_tags(text: str) -> None:
    cleaned = clean_text(text, ["<|im_end|>", "<tool_call>", "|>"])
    assert clean_text(cleaned, ["<|im_end|>", "<tool_call>", "|>"]) == cleaned
    assert "<|im_end|>" not in cleaned and "<image>" not in cleaned
    cleaned.encode("utf-8")
    assert find_turn_end(text) is None or find_turn_end(cleaned) is not None


def test_a_model_without_a_thought_is_read_all_the_same() -> None:
    """Its turn has no end that is known before the model stops, but one that is read."""
    reply = make_reply(f"<Think>so</Think>{ANSWER} and more", thought=UNKNOWN)
    assert (reply.text, reply.thought) == (f"<Think>so</Think>{ANSWER}", "")
