"""Whatever a server sends, it is a completion or a typed failure: nothing else ever comes out."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from verl_videosearch.failures import ContextTooLong, EpisodeFailure, ServerUnusable
from verl_videosearch.models.completion import Completion, read_charge, read_completion
from verl_videosearch.models.endpoint import read_models
from verl_videosearch.models.refusal import Asker, read_refusal
from verl_videosearch.models.transport import Answer

ASKER = Asker("http://host/v1", "judge", "KEY")
words = st.sampled_from(
    ["", "hi", "stop", "length", "assistant", "text", "judge", "\ud800", "\x1b[2J", "0"]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words
names = st.sampled_from(
    [
        "choices",
        "message",
        "content",
        "finish_reason",
        "index",
        "usage",
        "prompt_tokens",
        "completion_tokens",
        "error",
        "model",
        "reasoning",
        "tool_calls",
        "refusal",
        "role",
        "type",
        "text",
        "code",
        "data",
        "id",
        "detail",
    ]
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4)
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Draw a plausible body with parts of it replaced by anything, or cut off."""
    message: dict[str, Any] = {"role": "assistant", "content": "hi"}
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
    usage: dict[str, Any] = {"prompt_tokens": 9, "completion_tokens": 2}
    body: dict[str, Any] = {"model": "judge", "choices": [choice], "usage": usage}
    for _ in range(draw(st.integers(0, 3))):
        draw(st.sampled_from([message, choice, usage, body]))[draw(names)] = draw(values)
    text = json.dumps(draw(st.just(body) | values)).encode()
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 9)) == 0 else text


@settings(max_examples=600, deadline=None)
@given(bodies())
def test_a_body_is_a_completion_or_a_typed_failure(body: bytes) -> None:
    try:
        assert isinstance(read_completion(body, "judge"), Completion)
    except EpisodeFailure as failure:
        assert failure.cause and failure.detail.isprintable()
    assert read_charge(body) is None or read_charge(body) >= 0
    assert isinstance(read_models(body), list)


@settings(max_examples=300, deadline=None)
@given(bodies(), st.integers(300, 599))
def test_a_refusal_is_one_of_three_exceptions(body: bytes, status: int) -> None:
    error = read_refusal(Answer(status, {}, body), ASKER)
    assert isinstance(error, EpisodeFailure | ServerUnusable | ContextTooLong)
