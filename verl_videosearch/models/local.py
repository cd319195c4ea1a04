"""LocalModel: a `GenerateFn` over a model folder in this process - no server, for small models and
for tests.

The one idea: episodes that run at the same time are answered in one batch. Whoever awaits a reply
while a batch is being generated goes into the next one, so throughput follows from how many
episodes are in flight, and nobody plans batches::

    model = LocalModel("outputs/demo/grpo/huggingface", LocalConfig(max_turn_tokens=128))
    results = await asyncio.gather(*(run_episode(episode, pair, model) for episode, pair in
    episodes))

A reply ends where a rollout's does, after the first call or answer. Greedy replies do not depend on
the batch they were made in (up to rounding). Covers: any vision-language model that transformers
generates with, on the CPU or one device. Does not cover: speed on large models (`client` with
vLLM)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from verl_videosearch.episode import Message, Reply
from verl_videosearch.extras import Extra, require
from verl_videosearch.judgement import STOP_STRINGS
from verl_videosearch.models.client import Usage, cut_after_stop, ends_with_stop
from verl_videosearch.rollout import GenerateFn


@dataclass(frozen=True)
class LocalConfig:
    """How a model in this process writes."""

    temperature: float = 0.0
    """0 takes the likeliest token; above, all tokens are sampled from."""
    max_turn_tokens: int = 1024
    """Most tokens of one reply."""
    max_batch: int = 64
    """Most replies that are generated together."""
    device: str = "cpu"
    seed: int = 0
    """Of sampling; the same replies come back only if the episodes arrive in the same batches."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least {least}, got {getattr(self, name)!r}"
            for name, least in (("temperature", 0), ("max_turn_tokens", 1), ("max_batch", 1))
            if getattr(self, name) < least
        ]
        if problems:
            raise ValueError("bad settings of a local model: " + "; ".join(problems))


@dataclass
class _Waiting:
    """One episode that waits for its reply."""

    text: str
    images: list[Image.Image]
    reply: asyncio.Future[Reply]
    usage: Usage


class LocalModel:
    """Write replies; for many episodes at once on one event loop."""

    def __init__(self, folder: str | Path, config: LocalConfig | None = None) -> None:
        transformers = require("transformers", Extra.GPU)
        self._torch = require("torch", Extra.GPU)
        self.config, self.usage = config or LocalConfig(), Usage()
        self._processor = transformers.AutoProcessor.from_pretrained(folder)
        model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
        self._model = model.to(self.config.device).eval()
        self._torch.manual_seed(self.config.seed)
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, messages: list[Message], images: Sequence[Image.Image]) -> Reply:
        """Write the next reply, together with those of the other episodes that wait."""
        return await self.write(messages, images, self.usage)

    def for_episode(self, seed: int | None = None) -> GenerateFn:
        """Return a `GenerateFn` with an account of its own; single episodes cannot be seeded, see
        `LocalConfig`."""
        return _OwnAccount(self)

    async def write(
        self, messages: list[Message], images: Sequence[Image.Image], usage: Usage
    ) -> Reply:
        """Write the next reply on somebody's account."""
        text = self._processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        reply = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(text, list(images), reply, usage))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await reply

    async def _work(self) -> None:
        """Generate batch after batch until nobody waits."""
        while self._waiting:
            await asyncio.sleep(0.01)  # lets every episode that can go on ask
            batch, self._waiting = (
                self._waiting[: self.config.max_batch],
                self._waiting[self.config.max_batch :],
            )
            try:
                replies = await asyncio.to_thread(self._generate, batch)
            except Exception as error:  # whatever it is, the episodes that wait must hear of it
                for each in batch:
                    each.reply.cancelled() or each.reply.set_exception(error)
            else:
                for each, reply in zip(batch, replies, strict=True):
                    each.reply.cancelled() or each.reply.set_result(reply)

    def _generate(self, batch: Sequence[_Waiting]) -> list[Reply]:
        inputs = self._processor(
            text=[each.text for each in batch],
            images=[image for each in batch for image in each.images] or None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(self.config.device)
        is_sampling = self.config.temperature > 0
        sampling = (
            {"temperature": self.config.temperature, "top_k": 0, "top_p": 1.0}
            if is_sampling
            else {}
        )
        with self._torch.inference_mode():
            output = self._model.generate(
                **inputs,
                **sampling,
                do_sample=is_sampling,
                repetition_penalty=1.0,  # a folder's own would change what the model prefers
                max_new_tokens=self.config.max_turn_tokens,
                stop_strings=list(STOP_STRINGS),
                tokenizer=self._processor.tokenizer,
            )
        for each, mask in zip(batch, inputs["attention_mask"], strict=True):
            each.usage.num_requests += 1
            each.usage.num_prompt_tokens += int(mask.sum())
        replies = output[:, inputs["input_ids"].shape[1] :]
        return [
            self._read(token_ids, each.usage)
            for each, token_ids in zip(batch, replies, strict=True)
        ]

    def _read(self, token_ids: Any, usage: Usage) -> Reply:
        """Turn one row of the output into a reply; without an end in it, the token limit has cut it
        off."""
        tokenizer = self._processor.tokenizer
        text = cut_after_stop(tokenizer.decode(token_ids, skip_special_tokens=True))
        ends = {*_as_list(self._model.generation_config.eos_token_id), tokenizer.pad_token_id}
        sampled = token_ids.tolist()
        num_tokens = next(
            (i for i, token_id in enumerate(sampled) if token_id in ends), len(sampled)
        )
        usage.num_reply_tokens += num_tokens
        return Reply(
            text,
            is_truncated=num_tokens >= self.config.max_turn_tokens and not ends_with_stop(text),
        )


class _OwnAccount:
    """The `GenerateFn` of one episode."""

    def __init__(self, model: LocalModel) -> None:
        self.usage = Usage()
        self._model = model

    async def __call__(self, messages: list[Message], images: Sequence[Image.Image]) -> Reply:
        return await self._model.write(messages, images, self.usage)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
