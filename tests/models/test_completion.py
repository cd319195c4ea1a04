"""A reply is the model's whole text for this request, or a typed failure with advice."""

import json
from typing import Any

import pytest

from verl_videosearch.failures import EpisodeFailure
from verl_videosearch.models.completion import Completion, read_completion

MESSAGE = {"role": "assistant", "content": "hi"}
CHOICE = {"index": 0, "message": MESSAGE, "finish_reason": "stop"}
USAGE = {"prompt_tokens": 100, "completion_tokens": 10}
BODY = {"id": "1", "model": "judge", "choices": [CHOICE], "usage": USAGE}


def read(**changes: Any) -> Completion:
    return read_completion(json.dumps({**BODY, **changes}).encode(), "judge")


def read_message(finish_reason: Any = "stop", **changes: Any) -> Completion:
    choice = {**CHOICE, "message": {**MESSAGE, **changes}, "finish_reason": finish_reason}
    return read(choices=[choice])


def test_a_plain_reply() -> None:
    assert read() == Completion("hi", False, 100, 10, "judge")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "output_text", "text": "a"}], "a"),
        (["a", "b"], "ab"),
        ([{"text": "a"}], "a"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}], "a"),
    ],
)
def test_a_list_of_parts_is_joined(content: list[Any], text: str) -> None:
    assert read_message(content=content).text == text


@pytest.mark.parametrize("reason", ["stop", "eos", "EOS_TOKEN", "stop_sequence", "end_turn"])
def test_a_models_own_end_is_a_stop(reason: str) -> None:
    assert not read_message(reason).is_cut


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_a_token_limit_is_known(reason: str) -> None:
    assert read_message(reason).is_cut


@pytest.mark.parametrize("content", ["", None, [], "\n\n"])
@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_text_under_reasoning_is_a_failure_with_advice(content: Any, name: str) -> None:
    with pytest.raises(EpisodeFailure, match="without a reasoning parser") as failure:
        read_message(content=content, **{name: "Video 1 is better"})
    assert failure.value.cause == "reasoning_only" and failure.value.is_passing
    with pytest.raises(EpisodeFailure, match="--max-turn-tokens"):
        read_message("length", content=content, **{name: "Video 1 is"})


@pytest.mark.parametrize("content", ["", None, []])
def test_null_and_empty_are_the_same(content: Any) -> None:
    choice = {**CHOICE, "message": {**MESSAGE, "content": content}}
    with pytest.raises(EpisodeFailure, match="holds no token") as failure:
        read(choices=[choice], usage={"prompt_tokens": 100, "completion_tokens": 0})
    assert failure.value.cause == "empty_reply"
    with pytest.raises(EpisodeFailure):
        read(choices=[choice], usage=None)
    said_nothing = read(choices=[choice], usage={"prompt_tokens": 100, "completion_tokens": 1})
    assert said_nothing.text == ""  # the model's own end at once: data


@pytest.mark.parametrize("reason", ["stop", "tool_calls", "function_call"])
def test_calls_taken_out_of_the_text_are_a_failure_with_advice(reason: str) -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "select_frames"}}]
    for content in (None, "", "<Think>look</Think>"):
        with pytest.raises(EpisodeFailure, match="without tool parsing") as failure:
            read_message(reason, content=content, tool_calls=calls)
        assert failure.value.cause == "parsed_calls"


def test_a_filter_and_a_refusal_are_this_pairs_for_good() -> None:
    for arguments in ({"finish_reason": "content_filter"}, {"content": None, "refusal": "no"}):
        with pytest.raises(EpisodeFailure) as failure:
            read_message(**arguments)
        assert not failure.value.is_passing


@pytest.mark.parametrize(
    "changes",
    [
        {"choices": [None]},
        {"choices": []},
        {"choices": None},
        {"choices": {"0": CHOICE}},
        {"choices": "hi"},
        {"choices": [CHOICE, {**CHOICE, "index": 1}]},
        {"choices": [{**CHOICE, "index": 1}]},
        {"choices": [{**CHOICE, "index": "0"}]},
        {"choices": [{**CHOICE, "index": True}]},
        {"choices": [{**CHOICE, "message": None}]},
        {"choices": [{**CHOICE, "message": "hi"}]},
        {"choices": [{"index": 0, "text": "hi", "finish_reason": "stop"}]},
        {"choices": [{**CHOICE, "finish_reason": None}]},
        {"choices": [{**CHOICE, "finish_reason": ["stop"]}]},
        {"choices": [{**CHOICE, "finish_reason": "abort"}]},
        {"choices": [{**CHOICE, "message": {**MESSAGE, "content": {"text": "hi"}}}]},
        {"choices": [{**CHOICE, "message": {**MESSAGE, "content": 7}}]},
        {"choices": [{**CHOICE, "message": {**MESSAGE, "content": [None]}}]},
        {"choices": [{**CHOICE, "message": {**MESSAGE, "content": [{"type": "text"}]}}]},
        {"choices": [{**CHOICE, "message": {**MESSAGE, "role": "user"}}]},
        {"choices": [{**CHOICE, "message": {**MESSAGE, "role": ["assistant"]}}]},
        {"choices": [], "error": {"message": "overloaded"}},
        {"model": "another"},
    ],
    ids=str,
)
def test_what_is_no_reply_to_this_request_is_a_typed_failure(changes: dict[str, Any]) -> None:
    with pytest.raises(EpisodeFailure) as failure:
        read(**changes)
    assert failure.value.is_passing and failure.value.cause


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"null", b"[]", b'"hi"', b"7", b"\xff", b"[" * 100_000, b'{"choices":']
)
def test_what_is_no_json_object_is_a_typed_failure(body: bytes) -> None:
    with pytest.raises(EpisodeFailure):
        read_completion(body, "judge")


@pytest.mark.parametrize(
    "usage",
    [
        None,
        "12 tokens",
        7,
        [],
        {},
        {"prompt_tokens": None, "completion_tokens": "10"},
        {"prompt_tokens": -1, "completion_tokens": 1.5},
        {"prompt_tokens": True, "completion_tokens": 10**30},
        {"prompt_tokens": [100], "completion_tokens": {"n": 1}},
    ],
    ids=str,
)
def test_usage_never_decides_about_an_episode(usage: Any) -> None:
    assert read(usage=usage) == Completion("hi", False, None, None, "judge")


@pytest.mark.parametrize("model", [None, "", 7, ["judge"]])
def test_a_server_that_names_no_model_is_believed(model: Any) -> None:
    assert read(model=model).text == "hi"
