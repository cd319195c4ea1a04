"""Every server's way of saying no is read into what the run must do."""

import json
from typing import Any

import pytest

from verl_videosearch.failures import ContextTooLong, EpisodeFailure, ServerUnusable
from verl_videosearch.models.refusal import Asker, read_refusal
from verl_videosearch.models.transport import Answer

ASKER = Asker("http://host/v1", "judge", "OPENAI_API_KEY", "sk-secret", "pair-7 AB")


def refuse(status: int, body: Any, **headers: str) -> Exception:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_refusal(Answer(status, names, content), ASKER)


OVERLONG = {
    "vllm 0.6": (
        "This model's maximum context length is 4096 tokens. However, you requested 5000 "
        "tokens (4000 in the messages, 1000 in the completion). Please reduce the length "
        "of the messages or completion."
    ),
    "vllm 0.9": (
        "'max_tokens' or 'max_completion_tokens' is too large: 2000. This model's maximum"
        " context length is 4096 tokens and your request has 2104 input tokens (2000 > "
        "4096 - 2104)."
    ),
    "vllm v1": (
        "The decoder prompt (length 5000) is longer than the maximum model length of "
        "4096. Make sure that `max_model_len` is no smaller than the number of text "
        "tokens plus multimodal tokens."
    ),
    "vllm v0": (
        "The prompt (total length 5000) is too long to fit into the model (context length 4096)."
    ),
    "sglang": "The input (10009 tokens) is longer than the model's context length (128 tokens).",
    "sglang total": (
        "Requested token count exceeds the model's maximum context length of 64000 "
        "tokens. You requested a total of 71897 tokens: 7897 tokens from the input "
        "messages and 64000 tokens for the completion."
    ),
    "sglang router": (
        "Input length 131393 exceeds the maximum allowed input length of 131040 tokens."
    ),
    "sglang model": "Input length (265330) exceeds model's maximum context length (262144).",
    "llama.cpp": (
        "request (4476 tokens) exceeds the available context size (4096 tokens), try increasing it"
    ),
    "llama.cpp older": (
        "the request exceeds the available context size. try increasing the context size "
        "or enable context shift"
    ),
    "llama.cpp oldest": (
        "Input prompt is too big compared to KV size. Please try increasing KV size."
    ),
    "llama.cpp server": "Context size has been exceeded.",
    "ollama": "the input length exceeds the context length",
    "ollama runner": "prompt too long; exceeded max context length by 17 tokens",
    "tgi": (
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8192. "
        "Given: 8000 `inputs` tokens and 1024 `max_new_tokens`"
    ),
    "tgi inputs": "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000",
    "openai": (
        "Your input exceeds the context window of this model. Please adjust your input "
        "and try again."
    ),
    "azure": (
        "Input tokens exceed the configured limit of 272000 tokens. Your messages "
        "resulted in 509178 tokens."
    ),
    "anthropic": "prompt is too long: 213462 tokens > 200000 maximum",
    "gemini": (
        "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575)."
    ),
    "mistral": (
        "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"
    ),
    "xai": ("This model's maximum prompt length is 131072 but the request contains 537812 tokens"),
    "groq": "Please reduce the length of the messages or completion.",
    "lm studio": (
        "Trying to keep the first 5000 tokens when context the overflows. However, the "
        "model is loaded with context length of only 4096 tokens, which is not enough."
    ),
}


@pytest.mark.parametrize("server", OVERLONG)
def test_a_context_that_is_too_long_is_known_in_every_servers_words(server: str) -> None:
    message = OVERLONG[server]
    for status in (400, 413, 422, 500):
        assert isinstance(refuse(status, {"error": {"message": message}}), ContextTooLong)
    for body in ({"error": message}, {"detail": message}, {"object": "error", "message": message}):
        assert isinstance(refuse(400, body), ContextTooLong)
    assert isinstance(refuse(400, message.encode()), ContextTooLong)


@pytest.mark.parametrize(
    "error",
    [
        {"code": "context_length_exceeded", "message": "no"},
        {"code": 400, "type": "exceed_context_size_error", "message": "no", "n_ctx": 4096},
        {"type": "Context_Length_Exceeded", "message": "no"},
    ],
)
def test_a_code_or_type_says_so_without_words(error: dict[str, Any]) -> None:
    assert isinstance(refuse(400, {"error": error}), ContextTooLong)


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 5000. This model supports at most 4096 completion tokens",
        "string too long. Expected a string with maximum length 1048576",
        "Unsupported parameter: 'max_tokens' is not supported with this model",
        "At most 4 image(s) may be provided in one prompt.",
        "rate limit reached for tokens per minute",
    ],
)
def test_what_only_sounds_like_it_is_another_refusal(message: str) -> None:
    failure = refuse(400, {"error": {"message": message}})
    assert isinstance(failure, EpisodeFailure) and not failure.is_passing


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_passing(status: int) -> None:
    failure = refuse(status, {"error": {"message": "busy"}}, retry_after="7")
    assert isinstance(failure, EpisodeFailure) and failure.is_passing
    assert (failure.label, failure.retry_after_s) == (f"server_http_{status}", 7.0)
    assert failure.sample_uid == "pair-7 AB" and "busy" in str(failure)


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_any_other_refusal_is_this_pairs_for_good(status: int) -> None:
    failure = refuse(status, {"error": {"message": "bad image"}})
    assert isinstance(failure, EpisodeFailure) and not failure.is_passing
    assert "pair-7 AB" in str(failure) and "bad image" in str(failure)


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405, 410])
def test_a_refusal_of_everything_stops_the_run(status: int) -> None:
    error = refuse(status, {"error": {"message": "Incorrect API key provided: sk-secret"}})
    assert isinstance(error, ServerUnusable)
    assert "http://host/v1" in str(error) and "pair-7 AB" in str(error)
    assert "sk-secret" not in str(error)


def test_an_unknown_key_names_the_variable() -> None:
    assert "$OPENAI_API_KEY" in str(refuse(401, {"error": {"message": "no"}}))


def test_a_redirect_says_where_to() -> None:
    error = refuse(308, b"", location="https://host/v1")
    assert isinstance(error, ServerUnusable) and "https://host/v1" in str(error)


@pytest.mark.parametrize("name", ["code", "type"])
def test_a_spent_quota_stops_and_a_rate_limit_does_not(name: str) -> None:
    spent = {"error": {"message": "You exceeded your current quota", name: "insufficient_quota"}}
    assert isinstance(refuse(429, spent), ServerUnusable)
    busy = {"error": {"message": "Rate limit reached", name: "rate_limit_exceeded"}}
    assert isinstance(refuse(429, busy), EpisodeFailure)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Bad Gateway</html>",
        b"\xff\xfe",
        b"[" * 100_000,
        [1, 2],
        "text",
        None,
        {"error": None},
        {"error": {"message": None}},
        {"error": {"message": {"deep": 1}}},
        {"error": ["a", {"b": 1}]},
        {"detail": [{"msg": "field required", "loc": ["body"]}]},
        {"error": {"code": {"odd": 1}, "type": [1]}},
    ],
)
def test_no_body_breaks_the_reader(body: Any) -> None:
    assert isinstance(refuse(500, body), EpisodeFailure)
    assert isinstance(refuse(400, body), EpisodeFailure)


def test_a_servers_words_are_shown_harmlessly() -> None:
    words = str(refuse(500, {"error": {"message": "\x1b[2Jwiped\r\u202egnorw"}}))
    assert "\x1b" not in words and "\u202e" not in words and "wiped" in words


@pytest.mark.parametrize("value", ["soon", "-5", "", "1e9", "9" * 40, "nan"])
def test_an_unreadable_retry_after_is_none(value: str) -> None:
    assert refuse(503, {}, retry_after=value).retry_after_s is None
