"""ChatClient: a `GenerateFn` over any OpenAI-compatible endpoint - a teacher, a judge, a model
under test.

The one idea: the endpoint is only a way to write replies. The context comes from `Episode`
unchanged, frames travel as PNG (no loss), and a reply ends where a rollout's does: after the first
call or answer. Servers differ: vLLM stops there by itself, others drop the stop string or allow
four of them, so for those the client cuts the text at the same place.

    config = ClientConfig(base_url="http://localhost:8000/v1", model="Qwen/Qwen2.5-VL-7B-Instruct")
    async with ChatClient(config) as client:
        result = await run_episode(episode, pair, client, timeout_s=600)

The key is read from the environment and never stored. Retries with backoff are the `openai`
package's own (429, 5xx, broken connections, time-outs; a server's Retry-After counts). What fails
for good is an `EpisodeFailure`, never a reply; what can never work (wrong key, unknown model) is a
`ValueError`.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

from PIL import Image

from verl_videosearch.episode import Message, Reply
from verl_videosearch.extras import Extra, require
from verl_videosearch.failures import ContextTooLong, EpisodeFailure, FailureKind
from verl_videosearch.judgement import STOP_STRINGS

REFUSED_STATUSES = (401, 403, 404)
"""No request of this run can succeed: wrong key, or no such model or path."""


@dataclass(frozen=True)
class ClientConfig:
    """Which endpoint, and how to treat it."""

    base_url: str
    """For example http://localhost:8000/v1."""
    model: str
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; may be unset for a local server."""
    temperature: float = 0.7
    max_turn_tokens: int = 1024
    """Most tokens of one reply."""
    timeout_s: float = 120.0
    """Most seconds of one request; it is retried after that."""
    max_retries: int = 5
    """Further tries of a request that failed in a way that may pass."""
    max_requests_per_minute: float | None = None
    """Requests start evenly spaced at this rate; null does not limit."""
    is_vllm: bool | None = None
    """True lets the server stop after a call or an answer; null asks it what it is."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of every request, as the server names them."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be a positive number, got {getattr(self, name)!r}"
            for name in ("max_turn_tokens", "timeout_s", "max_requests_per_minute")
            if getattr(self, name) is not None and not getattr(self, name) > 0
        ]
        if not self.base_url.startswith(("http://", "https://")):
            problems.append(f"base_url must start with http:// or https://, got {self.base_url!r}")
        if not self.model:
            problems.append("model is empty; give the name under which the server knows it")
        problems += [
            f"{name} must be at least 0, got {getattr(self, name)!r}"
            for name in ("max_retries", "temperature")
            if getattr(self, name) < 0
        ]
        if problems:
            raise ValueError("bad client settings: " + "; ".join(problems))


@dataclass
class Usage:
    """What was consumed so far, as the server counts it."""

    num_requests: int = 0
    num_prompt_tokens: int = 0
    num_reply_tokens: int = 0


class ChatClient:
    """Write replies through an endpoint; safe for many episodes at once on one event loop."""

    def __init__(self, config: ClientConfig) -> None:
        self.config, self.usage = config, Usage()
        self._openai = require("openai", Extra.JUDGE)
        self._client = self._openai.AsyncOpenAI(
            base_url=config.base_url,
            api_key=os.environ.get(config.key_variable) or "none",
            timeout=config.timeout_s,
            max_retries=config.max_retries,
        )
        self._pacer = Pacer(config.max_requests_per_minute)
        self._is_vllm = config.is_vllm
        self._detecting = asyncio.Lock()

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    def for_episode(self, seed: int | None = None) -> ChatClient:
        """Return a client on the same connections, at the same pace, with an account (and seed) of
        its own."""
        own = copy.copy(self)
        own.usage = Usage()
        own._ask_is_vllm = self._ask_is_vllm  # asked once, for all episodes
        if seed is not None:
            own.config = replace(self.config, extra_body={**self.config.extra_body, "seed": seed})
        return own

    async def __call__(self, messages: list[Message], images: Sequence[Image.Image]) -> Reply:
        """Write the next reply; raises `EpisodeFailure`, `ContextTooLong`, or `ValueError` if no
        request can work."""
        request = {
            "model": self.config.model,
            "messages": await asyncio.to_thread(to_openai, messages, images),
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_turn_tokens,
        }
        body = dict(self.config.extra_body)
        if await self._ask_is_vllm():
            request["stop"] = list(STOP_STRINGS)
            body["include_stop_str_in_output"] = True
        await self._pacer.wait()
        completion = await self._send(request, body)
        self._count(completion)
        return read_reply(completion.choices[0])

    async def _send(self, request: dict[str, Any], body: dict[str, Any]) -> Any:
        """Send one request, with the package's retries; returns a completion with at least one
        choice."""
        openai = self._openai
        try:
            completion = await self._client.chat.completions.create(
                **request, extra_body=body or None
            )
        except openai.APITimeoutError as error:
            raise EpisodeFailure(FailureKind.TIMEOUT, str(error)) from error
        except openai.APIStatusError as error:
            if error.status_code in REFUSED_STATUSES:
                raise ValueError(
                    f"{self.config.base_url} refuses model {self.config.model!r} with {error.status_code}: "
                    f"{error.message}; check the URL, the model's name and the key in ${self.config.key_variable}"
                ) from error
            if error.status_code == 400 and "context length" in error.message.lower():
                raise ContextTooLong from error
            raise EpisodeFailure(
                FailureKind.SERVER, str(error), cause=f"http_{error.status_code}"
            ) from error
        except (openai.OpenAIError, ValueError) as error:  # ValueError: the body is not JSON
            raise EpisodeFailure(FailureKind.SERVER, f"{type(error).__name__}: {error}") from error
        message = completion.choices[0].message if getattr(completion, "choices", None) else None
        if message is None or message.content is None:
            raise EpisodeFailure(
                FailureKind.SERVER, "the server's answer holds no reply", cause="no_reply"
            )
        return completion

    async def _ask_is_vllm(self) -> bool:
        """Find out once whether the server is vLLM; one that does not say is not."""
        async with self._detecting:
            if self._is_vllm is None:
                try:
                    models = await self._client.models.list()
                    self._is_vllm = any(
                        getattr(model, "owned_by", "") == "vllm" for model in models.data or []
                    )
                except (self._openai.OpenAIError, ValueError, AttributeError):
                    self._is_vllm = False
        return self._is_vllm

    def _count(self, completion: Any) -> None:
        self.usage.num_requests += 1
        usage = getattr(completion, "usage", None)
        if usage is not None:
            self.usage.num_prompt_tokens += usage.prompt_tokens or 0
            self.usage.num_reply_tokens += usage.completion_tokens or 0


def read_reply(choice: Any) -> Reply:
    """Read one choice; a reply that the server did not let the model finish is a failure, not the
    model's text."""
    if choice.finish_reason not in ("stop", "length"):
        raise EpisodeFailure(
            FailureKind.SERVER,
            f"the server ended a reply with {choice.finish_reason!r}; allowed are 'stop' and 'length' (switch its own "
            "tool parsing and content filters off)",
            cause=f"finish_{choice.finish_reason}",
        )
    text = cut_after_stop(choice.message.content)
    return Reply(text, is_truncated=choice.finish_reason == "length" and not ends_with_stop(text))


class Pacer:
    """Lets callers start at an even rate."""

    def __init__(self, per_minute: float | None) -> None:
        self._interval_s = 60 / per_minute if per_minute else 0.0
        self._next_s = 0.0

    async def wait(self) -> None:
        """Return when it is this caller's turn."""
        now = asyncio.get_running_loop().time()
        start = max(now, self._next_s)
        self._next_s = start + self._interval_s
        await asyncio.sleep(start - now)


def to_openai(messages: list[Message], images: Sequence[Image.Image]) -> list[dict[str, Any]]:
    """Turn a context into an OpenAI request: image references become PNG data URLs, in order.

    >>> to_openai([{"role": "user", "content": [{"type": "text", "text": "hi"}]}], [])
    [{'role': 'user', 'content': [{'type': 'text', 'text': 'hi'}]}]
    """
    remaining = iter(images)

    def convert(item: dict[str, Any]) -> dict[str, Any]:
        if item["type"] != "image":
            return item
        return {"type": "image_url", "image_url": {"url": to_data_url(next(remaining))}}

    return [
        {
            "role": message["role"],
            "content": "".join(item["text"] for item in message["content"])
            if message["role"]
            in ("assistant", "system")  # some servers take plain text only from these
            else [convert(item) for item in message["content"]],
        }
        for message in messages
    ]


def to_data_url(image: Image.Image) -> str:
    """Encode an image as PNG in a data URL.

    >>> to_data_url(Image.new("RGB", (1, 1)))[:26]
    'data:image/png;base64,iVBO'
    """
    buffer = BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def cut_after_stop(text: str) -> str:
    """Return the text up to and with the first stop string, as an engine that stops there gives it.

    >>> cut_after_stop("<Answer>TA=0</Answer> I hope this helps")
    '<Answer>TA=0</Answer>'
    """
    ends = [text.index(stop) + len(stop) for stop in STOP_STRINGS if stop in text]
    return text[: min(ends)] if ends else text


def ends_with_stop(text: str) -> bool:
    return text.endswith(STOP_STRINGS)
