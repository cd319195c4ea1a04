"""Read what a server says a model wrote; whatever is not plainly that is a typed failure.

The one idea: a reply is the model's only if the server let it finish, gave its text whole, and gave
it for this request. Servers differ in form (text as a list of parts, `eos_token` for `stop`), which
is read; and in substance (text hidden in a reasoning field, calls taken out of the text, another
choice or model), which is a failure with the advice that helps.

>>> message = {"content": [{"text": "hi"}]}
>>> choice = {"index": 0, "finish_reason": "eos_token", "message": message}
>>> read_completion(json.dumps({"model": "m", "choices": [choice]}).encode(), "m")
Completion(text='hi', is_cut=False, num_prompt_tokens=None, num_reply_tokens=None, model='m')

`usage` is read for accounts; what is not a number of tokens there is unknown, never an error."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.models.said import quote

STOPPED = frozenset(
    {"stop", "eos", "eos_token", "stop_sequence", "stop_token", "stop_str", "end_turn", "end"}
)
"""Finish reasons of a reply that the model ended, lower case."""
CUT_OFF = frozenset({"length", "max_tokens", "max_length", "max_new_tokens", "model_length"})
"""Finish reasons of a reply that a token limit ended."""
PARSED = frozenset({"tool_calls", "function_call", "tool_use"})
"""Finish reasons of a server that takes calls out of the text."""
_MOST_TOKENS = 10**9

_NO_PARSER = (
    "the server takes calls out of the text; start it without tool parsing "
    "(vLLM: without --enable-auto-tool-choice and --tool-call-parser)"
)
_NO_REASONING = (
    "the server files the model's text under reasoning; start it without a reasoning parser, "
    """or switch thinking off (--chat-template-kwargs '{"enable_thinking": false}')"""
)


@dataclass(frozen=True)
class Completion:
    """One reply, as the server gave it."""

    text: str
    is_cut: bool
    """A token limit ended it."""
    num_prompt_tokens: int | None
    """Null: the server does not say."""
    num_reply_tokens: int | None
    model: str | None
    """The name that the server answers with."""


def read_completion(body: bytes, *models: str) -> Completion:
    """Read the body of a 200; raises `EpisodeFailure`. Any of `models` may have written it; none
    given: anybody."""
    content = _read_object(body)
    model = content.get("model")
    model = model if isinstance(model, str) and model else None
    if models and model is not None and model not in models:
        raise fail("wrong_model", f"the reply is by model {model!r}, asked was {models[0]!r}")
    choice = _read_choice(content)
    message = choice.get("message")
    if not isinstance(message, Mapping):
        raise fail("no_reply", "the server's answer holds no message")
    if message.get("role") not in (None, "assistant", "model"):
        raise fail("wrong_role", f"the reply's role is {message['role']!r}, not 'assistant'")
    prompt, reply = read_usage(content.get("usage"))
    is_cut = _read_finish(choice.get("finish_reason"))
    text = _read_text(message)
    if message.get("tool_calls") or message.get("function_call"):
        raise fail("parsed_calls", _NO_PARSER)
    if not text.strip():
        _explain_silence(message, text, reply, is_cut)
    return Completion(text, is_cut, prompt, reply, model)


def fail(cause: str, detail: str, is_passing: bool = True) -> EpisodeFailure:
    """Make the failure of a reply that is none."""
    return EpisodeFailure(
        FailureKind.SERVER, quote(detail, 500), cause=cause, is_passing=is_passing
    )


def read_usage(usage: Any) -> tuple[int | None, int | None]:
    """Return the tokens of prompt and reply; what is no number of tokens is None.

    >>> read_usage({"prompt_tokens": 7, "completion_tokens": "3"}), read_usage("12 tokens")
    ((7, None), (None, None))
    """
    if not isinstance(usage, Mapping):
        return None, None
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    prompt, reply = (
        count if type(count) is int and 0 <= count <= _MOST_TOKENS else None for count in counts
    )
    return prompt, reply


def read_charge(body: bytes) -> int | None:
    """Return the tokens of the prompt, whatever else an answer holds; None if it does not say.

    >>> read_charge(b'{"choices": [null], "usage": {"prompt_tokens": 12}}'), read_charge(b"<html>")
    (12, None)
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return read_usage(content.get("usage"))[0] if isinstance(content, Mapping) else None


def _read_object(body: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise fail("not_json", f"the server's answer is no JSON: {body[:80]!r}") from error
    if not isinstance(content, Mapping):
        raise fail("no_reply", f"the server's answer is no JSON object: {body[:80]!r}")
    if content.get("error") and not content.get("choices"):
        raise fail("error_in_200", f"the server answers 200 with an error: {content['error']}")
    return content


def _read_choice(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the one choice that was asked for."""
    choices = content.get("choices")
    if not isinstance(choices, list) or not choices:
        raise fail("no_reply", "the server's answer holds no choice")
    if len(choices) > 1:
        raise fail(
            "wrong_choice", f"the server's answer holds {len(choices)} choices, asked was one"
        )
    (choice,) = choices
    if not isinstance(choice, Mapping):
        raise fail("no_reply", f"the server's choice is {choice!r}")
    index = choice.get("index")
    if index is not None and (type(index) is not int or index != 0):
        raise fail("wrong_choice", f"the server's choice has index {index!r}, asked was 0")
    return choice


def _read_finish(reason: Any) -> bool:
    """Return True if a token limit ended the reply; what the server broke off is a failure."""
    word = reason.lower() if isinstance(reason, str) else ""
    if word in STOPPED or word in CUT_OFF:
        return word in CUT_OFF
    if word in PARSED:
        raise fail("parsed_calls", _NO_PARSER)
    if word == "content_filter":
        raise fail("finish_content_filter", "the server's content filter ended the reply", False)
    raise fail(
        f"finish_{quote(reason, 40)}",
        f"the server ended a reply with {reason!r}; "
        f"allowed are {_list(STOPPED)} and {_list(CUT_OFF)}",
    )


def _read_text(message: Mapping[str, Any]) -> str:
    """Join the text of a message; parts of other kinds are not the model's text."""
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_read_part(part) for part in content)
    raise fail("no_reply", f"the reply's content is {type(content).__name__}, not text")


def _read_part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise fail("no_reply", f"a part of the reply is {part!r}")
    if part.get("type", "text") not in ("text", "output_text"):
        return ""
    text = part.get("text")
    if not isinstance(text, str):
        raise fail("no_reply", f"a part of the reply holds no text: {part}")
    return text


def _explain_silence(
    message: Mapping[str, Any], text: str, num_tokens: int | None, is_cut: bool
) -> None:
    """Raise unless it is the model that said nothing: text elsewhere, or no sign of a reply at
    all."""
    if message.get("reasoning_content") or message.get("reasoning") or message.get("thinking"):
        advice = "; or raise --max-turn-tokens: it ended while thinking" if is_cut else ""
        raise fail("reasoning_only", _NO_REASONING + advice)
    if isinstance(message.get("content"), list) and message["content"]:
        raise fail("reasoning_only", _NO_REASONING)
    if message.get("refusal"):
        raise fail("refusal", f"the server refuses to answer: {message['refusal']}", False)
    if not text and not num_tokens:
        raise fail("empty_reply", "the server's reply is empty and holds no token")


def _list(words: Collection[str]) -> str:
    return ", ".join(sorted(words))
