"""ChatClient: a `GenerateFn` over any OpenAI-compatible endpoint - a teacher, a judge, a model
under test.

The one idea: the endpoint is only a way to write replies. The context comes from `Episode`
unchanged, frames travel as PNG (no loss), and a reply ends where a rollout's does: after the first
call or answer that is meant. vLLM stops at each; if that was a draft inside an open block it is
asked to go on from exactly there. Other servers write to the end, and the text is cut here.

    config = ClientConfig(base_url="http://localhost:8000/v1", model="Qwen/Qwen2.5-VL-7B-Instruct")
    async with ChatClient(config) as client:
        result = await run_episode(episode, pair, client, timeout_s=600)

The key is read from the environment and never stored. What fails is an `EpisodeFailure`, passing or
permanent, never a reply; nothing is sent twice here, another try is the run's (`runs.jobs`). What
can never work is a `ServerUnusable`."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from verl_videosearch.episode import Message
from verl_videosearch.failures import ContextTooLong, EpisodeFailure
from verl_videosearch.judgement import STOP_STRINGS
from verl_videosearch.models.completion import Completion, fail, read_charge
from verl_videosearch.models.endpoint import (
    ClientConfig,
    Endpoint,
    keep_images,
    says_image_is_missing,
)
from verl_videosearch.models.pictures import Album, Picture
from verl_videosearch.models.request import write_body
from verl_videosearch.models.usage import Usage
from verl_videosearch.reply import Reply, ThoughtForm, is_finished, make_reply

__all__ = ["ChatClient", "ClientConfig", "Usage"]

MAX_DRAFTS = 32
"""Times that one reply may go on after a draft."""


@dataclass(frozen=True)
class _Context:
    """What one turn is written from."""

    messages: list[Message]
    pictures: list[Picture]


class ChatClient:
    """Write replies through an endpoint; safe for many episodes at once on one event loop."""

    def __init__(self, config: ClientConfig | Endpoint, thought: ThoughtForm | None = None) -> None:
        self.endpoint = config if isinstance(config, Endpoint) else Endpoint(config)
        self.config = self.endpoint.config
        self.usage = Usage()
        self.seed: int | None = None
        self._thought, self._episode = thought, ""
        self._forget()

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.endpoint.__aexit__()

    def for_episode(self, seed: int | None = None, name: str = "") -> ChatClient:
        """Return a client on the same endpoint, at the same pace, with an account (and seed) of its
        own; `name` is the pair's, for messages."""
        own = copy.copy(self)
        own.usage, own.seed, own._episode = Usage(), seed, name
        own._forget()
        return own

    def _forget(self) -> None:
        self._album = Album()
        self._sent: set[str] = set()
        self._last_messages: list[Message] = []
        self._last_num_tokens: int | None = None

    async def __call__(self, messages: list[Message], images: Sequence[Image.Image]) -> Reply:
        """Write the next reply; raises `EpisodeFailure`, `ContextTooLong`, or `ServerUnusable` if
        no request can work."""
        try:
            return await self._reply(messages, images)
        except EpisodeFailure as failure:
            raise self._name_pair(failure) from failure

    async def _reply(self, messages: list[Message], images: Sequence[Image.Image]) -> Reply:
        await self.endpoint.find_kind()
        pictures = await asyncio.to_thread(self._album.turn_to, images)
        context = _Context(messages, pictures)
        text, is_cut = await self._write(context)
        return make_reply(text, is_truncated=is_cut, thought=self._thought)

    async def _write(self, context: _Context) -> tuple[str, bool]:
        """Return the model's words up to the end of the turn, and whether a limit cut them off."""
        text, num_left = "", self.config.max_turn_tokens
        for _ in range(MAX_DRAFTS):
            is_stopping = self.endpoint.stops
            try:
                completion = await self._ask(context, text, num_left)
            except ContextTooLong:
                if not text:
                    raise
                return text, True  # what was written so far has filled the window
            except EpisodeFailure as failure:
                if not text or failure.is_passing:
                    raise
                self.endpoint.can_continue = False  # from now on: no stopping, cut here
                text, num_left = "", self.config.max_turn_tokens
                continue
            if not text:
                await self._check_context(context, completion)
            text += completion.text
            is_draft = text.endswith(STOP_STRINGS) and not is_finished(text, self._thought)
            if completion.is_cut or not is_stopping or not is_draft:
                return text, completion.is_cut
            num_left -= completion.num_reply_tokens or 0
            if num_left <= 0:
                return text, True
        return text, True

    async def _ask(self, context: _Context, written: str, max_tokens: int) -> Completion:
        """Send one request; frames that the server has are named, and sent again if it lacks
        them."""
        endpoint = self.endpoint
        known = self._sent if endpoint.keeps_images else ()
        try:
            completion = await self._send(context, written, max_tokens, known)
        except EpisodeFailure as failure:
            if not any(picture.key in known for picture in context.pictures):
                raise
            if not says_image_is_missing(failure.detail) and failure.is_passing:
                raise
            completion = await self._send(context, written, max_tokens, ())
            endpoint.keeps_images = says_image_is_missing(failure.detail)
        self._sent.update(picture.key for picture in context.pictures)
        for account in (self.usage, endpoint.usage):
            account.add(completion.num_prompt_tokens, completion.num_reply_tokens)
        return completion

    async def _send(
        self, context: _Context, written: str, max_tokens: int, known: Any
    ) -> Completion:
        fields = self.endpoint.make_fields(max_tokens)
        if self.seed is not None:
            fields["seed"] = self.seed
        if self.endpoint.stops:
            fields |= {"stop": list(STOP_STRINGS), "include_stop_str_in_output": True}
        messages = context.messages
        if written:
            fields |= {"add_generation_prompt": False, "continue_final_message": True}
            content = [{"type": "text", "text": written}]
            messages = [*messages, {"role": "assistant", "content": content}]
        body = await asyncio.to_thread(
            write_body,
            fields,
            messages,
            context.pictures,
            names_pictures=self.endpoint.keeps_images,
            known=known,
        )
        return self.endpoint.read(await self.endpoint.send(body, self._episode))

    async def _check_context(self, context: _Context, completion: Completion) -> None:
        """Raise if the server has read less than it was sent."""
        gauge, num_tokens = self.endpoint.gauge, completion.num_prompt_tokens
        if num_tokens is not None and self.endpoint.is_met:
            await self._measure(context)
        before, last = self._last_num_tokens, self._last_messages
        has_grown = bool(last) and context.messages[: len(last)] == last
        self._last_messages, self._last_num_tokens = context.messages, num_tokens
        sizes = [picture.image.size for picture in context.pictures]
        if loss := gauge.find_loss(sizes, num_tokens, before if has_grown else None):
            raise fail("context_cut", loss, is_passing=False)

    async def _measure(self, context: _Context) -> None:
        """Find out once per run and size of frame what a frame costs, with and without it."""
        gauge = self.endpoint.gauge
        async with self.endpoint.measuring:
            for picture in context.pictures:
                if gauge.must_measure(picture.image.size):
                    counts = [
                        await self._count_tokens(context, pictures) for pictures in ([picture], [])
                    ]
                    gauge.learn(picture.image.size, *counts)

    async def _count_tokens(self, context: _Context, pictures: list[Picture]) -> int | None:
        """Return the tokens of a context with only these pictures; None if the server does not
        say."""
        messages = keep_images(context.messages, len(pictures))
        body = write_body(self.endpoint.make_fields(max_tokens=1), messages, pictures)
        try:
            answer = await self.endpoint.send(body, self._episode)
        except (EpisodeFailure, ContextTooLong):
            return None
        return read_charge(answer.body)

    def _name_pair(self, failure: EpisodeFailure) -> EpisodeFailure:
        """Return the same failure with the pair's name and the server's address."""
        url, detail = self.endpoint.url, failure.detail
        return type(failure)(
            failure.kind,
            detail if url in detail else f"{url}: {detail}",
            failure.sample_uid or self._episode,
            failure.cause,
            is_passing=failure.is_passing,
            retry_after_s=failure.retry_after_s,
        )
