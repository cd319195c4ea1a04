"""Endpoint: one server, what is known about it, and the way to it.

The one idea: what a server can do is found out once, by asking, and shared by all episodes: which
models it serves, whether it is vLLM (it then stops where a turn ends and can go on from there),
whether it sees, whether it keeps images by key, what a frame costs in tokens.

    async with Endpoint(config) as endpoint:
        await endpoint.meet()              # raises ServerUnusable within seconds, with what to do

Covers: one address. Does not cover: writing replies (`client`), several servers (`pool`)."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from verl_videosearch.config import NOT_EMPTY, above, at_least, check
from verl_videosearch.episode import Message
from verl_videosearch.failures import (
    ContextTooLong,
    EpisodeFailure,
    FailureKind,
    ServerUnusable,
)
from verl_videosearch.models.address import read_address
from verl_videosearch.models.completion import Completion, read_completion
from verl_videosearch.models.context_gauge import ContextGauge
from verl_videosearch.models.pictures import Album, Picture
from verl_videosearch.models.refusal import Asker, read_refusal
from verl_videosearch.models.replica import Replica
from verl_videosearch.models.request import write_body
from verl_videosearch.models.said import quote
from verl_videosearch.models.transport import Answer, NotReached, Transport
from verl_videosearch.models.usage import Usage

LOG = logging.getLogger(__name__)
LIST_TIMEOUT_S = 15.0
"""Most seconds that a list of models may take."""
SAMPLED_AS_IS = {"top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0}
"""What a vLLM server would take from the model's folder; a policy is sampled as it is."""
_MAX_NAMES = 8
_FIRST_LOOK = (
    ("system", "Answer in one word."),
    ("user", 'Prompt of both videos: "first look"\nWhich colour has this picture?'),
)


@dataclass(frozen=True)
class ClientConfig:
    """Which endpoint, and how to treat it."""

    base_url: str
    """For example http://localhost:8000/v1; user and password in it are split off and not shown."""
    model: str
    """Name under which the server knows the model."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; may be unset for a local server."""
    temperature: float = 0.7
    max_turn_tokens: int = 1024
    """Most tokens of one reply."""
    timeout_s: float = 120.0
    """Most seconds of one request, from connecting to the last byte."""
    max_requests_per_minute: float | None = None
    """Requests start evenly spaced at this rate; null does not limit."""
    is_policy: bool = False
    """Sample as the weights say, whatever a vLLM server has found in the model's folder."""
    is_vllm: bool | None = None
    """True lets the server stop after a call or an answer; null asks it what it is."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of every request, as the server names them; null leaves one of ours out."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the server's chat template, such as `{"enable_thinking": false}`."""
    max_tokens_parameter: str = "max_tokens"
    """Name of the token limit in a request; OpenAI's newer models want `max_completion_tokens`."""

    def __post_init__(self) -> None:
        check(
            self,
            self._find_problems(),
            model=NOT_EMPTY,
            temperature=at_least(0),
            max_turn_tokens=at_least(1),
            timeout_s=above(0),
            max_requests_per_minute=above(0),
            max_tokens_parameter=NOT_EMPTY,
        )

    def _find_problems(self) -> list[str]:
        try:
            read_address(self.base_url)
        except (ValueError, TypeError) as error:
            return [f"base_url: {error}"]
        return []

    def __repr__(self) -> str:
        return f"ClientConfig({read_address(self.base_url).url!r}, {self.model!r})"


class Endpoint:
    """One server; shared by all episodes that are asked of it."""

    def __init__(self, config: ClientConfig, replica: Replica | None = None) -> None:
        """`replica` is the server where it is ours; while it is started again, requests wait."""
        self.config, self.gauge, self._replica = config, ContextGauge(), replica
        self.others: Sequence[Endpoint] = ()
        """More servers of the same model, who take over what this one can no longer do."""
        self.usage = Usage()
        """Of all episodes together."""
        self.address = read_address(config.base_url)
        self._key = os.environ.get(config.key_variable)
        self._transport = Transport(self.address, self._key, config.timeout_s)
        self._pacer = Pacer(config.max_requests_per_minute)
        self._lock = asyncio.Lock()
        self.measuring = asyncio.Lock()
        self._listing: list[Mapping[str, Any]] | None = None
        self.is_met = False
        """A run has asked it whether it can work; then it may be asked what a frame costs."""
        self.is_vllm = config.is_vllm
        self.keeps_images = False
        """It takes the key of an image that it was sent before for the image."""
        self.can_continue = True
        """vLLM only: it can go on from the middle of a reply."""
        self.failed_s = -math.inf
        """When it last failed in a way that may pass, on the monotonic clock."""
        self.names: tuple[str, ...] = ()
        """Names that its replies may bear: the one asked for, and the one it first answered
        with."""

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()

    @property
    def url(self) -> str:
        """Return the address as it may be shown."""
        return self.address.url

    @property
    def is_away(self) -> bool:
        """True while a server of ours cannot be asked."""
        return self._replica is not None and not self._replica.is_ready

    @property
    def is_given_up(self) -> bool:
        """True once a server of ours has died for good."""
        return self._replica is not None and self._replica.is_given_up

    @property
    def stops(self) -> bool:
        """True if it is told to stop after a call or an answer, and goes on if that was a draft."""
        return bool(self.is_vllm) and self.can_continue

    @property
    def model_root(self) -> str | None:
        """Return the folder or name that the server has loaded the model from, if it says."""
        roots = (each.get("root") for each in self._listing or () if self._name(each) in self.names)
        return next((root for root in roots if isinstance(root, str)), None)

    def asker(self, episode: str = "") -> Asker:
        """Say who asks, for messages."""
        config = self.config
        return Asker(self.url, config.model, config.key_variable, self._key, episode)

    async def send(self, body: bytes, episode: str = "") -> Answer:
        """Send one chat request, at the pace of the run; whatever is no 200 is raised."""
        if self._replica is not None:
            await self._wait_for(self._replica, episode)
        await self._pacer.wait()
        try:
            answer = await self._transport.post("/chat/completions", body)
            if answer.status != 200:
                raise read_refusal(answer, self.asker(episode))
        except EpisodeFailure as failure:
            if failure.is_passing:
                self.failed_s = time.monotonic()
                if self._replica is not None and failure.kind is FailureKind.SERVER:
                    self._replica.doubt()
            raise
        return answer

    async def _wait_for(self, replica: Replica, episode: str) -> None:
        """Return when a server of ours can be asked. Once it never will be, that ends the run only
        if nobody is left; else the episode begins anew, elsewhere."""
        try:
            await replica.wait_until_ready()
        except ServerUnusable as error:
            if not replica.is_given_up or all(each.is_given_up for each in self.others):
                raise
            words = f"{self.url} is gone for good: {error}"
            raise EpisodeFailure(FailureKind.SERVER, words, episode, is_passing=True) from error

    def read(self, answer: Answer) -> Completion:
        """Read a reply; the first one says under which name this server answers."""
        completion = read_completion(answer.body, *self.names)
        if completion.model is not None and not self.names:
            self.names = tuple(dict.fromkeys((self.config.model, completion.model)))
        return completion

    def make_fields(self, max_tokens: int) -> dict[str, Any]:
        """Return the fields of every request but its messages."""
        config = self.config
        fields = {
            "model": config.model,
            "temperature": config.temperature,
            config.max_tokens_parameter: max_tokens,
        }
        if config.chat_template_kwargs:
            fields["chat_template_kwargs"] = dict(config.chat_template_kwargs)
        if self.is_vllm and config.is_policy:
            fields |= SAMPLED_AS_IS
        fields |= config.extra_body
        return {name: value for name, value in fields.items() if value is not None}

    async def find_kind(self) -> None:
        """Find out once whether the server is vLLM; one that does not say is not."""
        async with self._lock:
            if self.is_vllm is None:
                try:
                    await self._list_models()
                except (EpisodeFailure, ServerUnusable):
                    self._listing = []
                self.is_vllm = any(each.get("owned_by") == "vllm" for each in self._listing or ())

    async def meet(self) -> None:
        """Ask for the list of models and show one picture; raises `ServerUnusable` if the server is
        not there, does not know the model or cannot see."""
        try:
            await self._list_models()
        except NotReached as failure:
            raise ServerUnusable(
                f"nothing answers at {self.url} ({failure.detail}); is the server up, "
                "and the address right?"
            ) from failure
        except EpisodeFailure as failure:
            raise ServerUnusable(
                f"{failure.detail}; repeat the command when it answers"
            ) from failure
        self._check_model()
        if self.is_vllm is None:
            self.is_vllm = any(each.get("owned_by") == "vllm" for each in self._listing or ())
        if await self._show_picture() and self.is_vllm:
            self.keeps_images = await self._misses_images()
        self.is_met = True

    async def _list_models(self) -> None:
        """Read the list of models, in any form; a server without one has an empty list."""
        answer = await self._transport.get("/models", min(LIST_TIMEOUT_S, self.config.timeout_s))
        if answer.status in (401, 403) or 300 <= answer.status < 400:
            raise read_refusal(answer, self.asker())
        self._listing = read_models(answer.body) if answer.status == 200 else []

    def _check_model(self) -> None:
        wanted = self.config.model
        names = [name for name in map(self._name, self._listing or ()) if name]
        accepted = {wanted, f"{wanted}:latest", wanted.partition(":")[0]}
        if names and not accepted & set(names):
            shown = ", ".join(quote(name, 80) for name in names[:_MAX_NAMES])
            more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
            raise ServerUnusable(
                f"{self.url} does not know model {wanted!r}; it serves {shown}{more}: "
                "give one as --model"
            )

    @staticmethod
    def _name(entry: Mapping[str, Any]) -> str:
        return next(
            (entry[n] for n in ("id", "name", "model") if isinstance(entry.get(n), str)), ""
        )

    async def _show_picture(self) -> bool:
        """Return True if the server has answered to a picture; a server that is only busy has
        not."""
        try:
            answer = await self.send(self._write_look(has_picture=True))
        except ContextTooLong:
            return False
        except EpisodeFailure as failure:
            await self._explain_blindness(failure)
            return False
        try:
            self.read(answer)
        except EpisodeFailure as failure:  # a few tokens of a thinking model are no reply
            LOG.info("the first reply of %s is none: %s", self.url, failure.detail)
        return True

    async def _explain_blindness(self, failure: EpisodeFailure) -> None:
        """Raise `ServerUnusable` if a refused picture is no passing matter."""
        speaks_of_images = any(w in failure.detail.lower() for w in ("image", "vision", "modal"))
        if failure.is_passing and not speaks_of_images:
            LOG.warning("%s", failure.detail)
            return
        try:
            await self.send(self._write_look(has_picture=False))
        except (EpisodeFailure, ContextTooLong):
            if failure.is_passing:
                return
            raise ServerUnusable(
                f"{failure.detail}; it refuses a plain request, too{self._hint(failure)}"
            ) from failure
        raise ServerUnusable(
            f"{failure.detail}; it answers without a picture, so this model or server cannot see: "
            "serve a vision-language model (llama.cpp: with --mmproj)"
        ) from failure

    def _hint(self, failure: EpisodeFailure) -> str:
        if "max_completion_tokens" in failure.detail:
            return ": give --max-tokens-parameter max_completion_tokens"
        if "temperature" in failure.detail:
            return """: leave the temperature out with --extra-body '{"temperature": null}'"""
        return ""

    async def _misses_images(self) -> bool:
        """True if the server looks images up by key: it must say that it lacks one that nobody
        sent."""
        picture = Picture(f"videosearch-{os.urandom(8).hex()}", Image.new("RGB", (1, 1)))
        try:
            await self.send(self._write_look(picture, is_known=True))
        except (EpisodeFailure, ContextTooLong, ServerUnusable) as refusal:
            return says_image_is_missing(str(refusal))
        return False

    def _write_look(
        self, picture: Picture | None = None, *, has_picture: bool = True, is_known: bool = False
    ) -> bytes:
        items: list[dict[str, Any]] = [{"type": "text", "text": _FIRST_LOOK[1][1]}]
        if has_picture:
            items.append({"type": "image"})
            picture = picture or Album().find(_draw_first_look())
        system = {"role": "system", "content": [{"type": "text", "text": _FIRST_LOOK[0][1]}]}
        return write_body(
            self.make_fields(max_tokens=16),
            [system, {"role": "user", "content": items}],
            [picture] if picture is not None else [],
            names_pictures=is_known,
            known=(picture.key,) if is_known and picture is not None else (),
        )


def read_models(body: bytes) -> list[Mapping[str, Any]]:
    """Read a list of models in any form that is in use; what is none is an empty list.

    >>> read_models(b'{"data": [{"id": "a"}, null]}'), read_models(b'["a"]'), read_models(b"<html>")
    ([{'id': 'a'}], [{'id': 'a'}], [])
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return []
    if isinstance(content, Mapping):
        content = next((content[n] for n in ("data", "models") if content.get(n)), [])
    if isinstance(content, Mapping):
        content = [{"id": name} for name in content]
    entries = content if isinstance(content, list) else []
    named = [{"id": each} if isinstance(each, str) else each for each in entries]
    return [each for each in named if isinstance(each, Mapping)]


def says_image_is_missing(message: str) -> bool:
    """True for what vLLM says when it has forgotten an image that a key stands for."""
    return any(words in message.lower() for words in ("cache miss for", "expected a cached item"))


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


def keep_images(messages: Iterable[Message], num_kept: int) -> list[Message]:
    """Return a context with only its first images, to see what the others cost."""
    kept: list[Message] = []
    for message in messages:
        content = []
        for item in message["content"]:
            if item["type"] != "image" or num_kept > 0:
                content.append(item)
                num_kept -= item["type"] == "image"
        kept.append(copy.copy(message) | {"content": content})
    return kept


def _draw_first_look() -> Image.Image:
    picture = Image.new("RGB", (224, 224), (200, 200, 200))
    picture.paste((200, 30, 30), (56, 56, 168, 168))
    return picture
