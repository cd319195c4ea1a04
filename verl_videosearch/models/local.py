"""LocalModel: a `GenerateFn` over a model folder in this process - no server, for small models and
for tests.

The one idea: episodes that run at the same time are answered in one batch, and none notices the
others. Whoever awaits a reply while a batch is being generated goes into the next one, so
throughput follows from how many episodes are in flight, and nobody plans batches::

    model = LocalModel("outputs/demo/grpo/huggingface", LocalConfig(max_turn_tokens=128))
    results = await asyncio.gather(*(run_episode(episode, pair, model.for_episode(uid, seed))
                                     for uid, episode in episodes.items()))

A reply ends where a rollout's does, after the first call or answer that is meant. Each reply is
drawn with noise of its own, from its episode's seed, so it does not depend on the batch it was made
in (up to rounding); and a context that breaks the model fails alone. Covers: any vision-language
model that transformers generates with, on the CPU or one device. Does not cover: speed on large
models (`client` with vLLM)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash
from PIL import Image

from verl_videosearch.config import NOT_EMPTY, at_least, between, check
from verl_videosearch.episode import Message
from verl_videosearch.extras import Extra, require
from verl_videosearch.failures import ContextTooLong, EpisodeFailure, FailureKind
from verl_videosearch.judgement import STOP_STRINGS
from verl_videosearch.models.said import quote
from verl_videosearch.models.usage import Usage
from verl_videosearch.reply import (
    NativeThought,
    Reply,
    ThoughtForm,
    find_thought_form,
    is_finished,
    make_reply,
)

PLACEHOLDERS = (
    "image_token_id",
    "image_token_index",
    "video_token_id",
    "video_token_index",
    "vision_start_token_id",
    "vision_end_token_id",
)
"""Names under which models' configs keep the ids that stand for pixels; no reply may hold one."""


@dataclass(frozen=True)
class LocalConfig:
    """How a model in this process writes."""

    temperature: float = 0.0
    """0 takes the likeliest token; above, tokens are sampled."""
    max_turn_tokens: int = 1024
    """Most tokens of one reply."""
    max_batch: int = 64
    """Most replies that are generated together."""
    device: str = "cpu"
    seed: int = 0
    """Of sampling, for episodes that bring none."""
    top_p: float = 1.0
    """Share of the probability that is sampled from."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the chat template."""

    def __post_init__(self) -> None:
        check(
            self,
            temperature=at_least(0),
            max_turn_tokens=at_least(1),
            max_batch=at_least(1),
            top_p=between(0, 1),
            device=NOT_EMPTY,
        )


@dataclass
class _Waiting:
    """One episode that waits for its reply."""

    text: str
    images: list[Image.Image]
    reply: asyncio.Future[Reply]
    usage: Usage
    seed: int
    """Of this reply alone."""


class LocalModel:
    """Write replies; for many episodes at once on one event loop."""

    def __init__(
        self,
        folder: str | Path,
        config: LocalConfig | None = None,
        thought: ThoughtForm | None = None,
    ) -> None:
        self._transformers = require("transformers", Extra.GPU)
        self._torch = require("torch", Extra.GPU)
        self.config, self.usage = config or LocalConfig(), Usage()
        self._processor = self._transformers.AutoProcessor.from_pretrained(folder)
        model = self._transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
        self._model = model.to(self.config.device).eval()
        self._thought = thought
        self._banned = find_placeholders(self._model.config, self._processor)
        self._special = list_special_tokens(self._processor.tokenizer)
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None
        self._own = _OwnAccount(self, "", self.config.seed, self.usage)

    async def __call__(self, messages: list[Message], images: Sequence[Image.Image]) -> Reply:
        """Write the next reply, together with those of the other episodes that wait."""
        return await self._own(messages, images)

    def for_episode(self, name: str = "", seed: int | None = None) -> _OwnAccount:
        """Return a `GenerateFn` with an account and a seed of its own; `name` is the pair's, for
        messages."""
        return _OwnAccount(self, name, self.config.seed if seed is None else seed, Usage())

    async def write(
        self, messages: list[Message], images: Sequence[Image.Image], usage: Usage, seed: int
    ) -> Reply:
        """Write the next reply on somebody's account."""
        text = self._processor.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=True,
            **self.config.chat_template_kwargs,
        )
        reply = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(text, list(images), reply, usage, seed))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await reply

    async def _work(self) -> None:
        """Generate batch after batch until nobody waits."""
        while self._waiting:
            await asyncio.sleep(0.01)  # lets every episode that can go on ask
            size = self.config.max_batch
            batch, self._waiting = self._waiting[:size], self._waiting[size:]
            results = await asyncio.to_thread(self._answer, batch)
            for each, result in zip(batch, results, strict=True):
                if each.reply.cancelled():
                    continue
                if isinstance(result, Reply):
                    each.reply.set_result(result)
                else:
                    each.reply.set_exception(result)

    def _answer(self, batch: Sequence[_Waiting]) -> list[Reply | Exception]:
        """Return a reply or an error for each; what breaks a batch is found by asking one by
        one."""
        try:
            return list(self._generate(batch))
        except ContextTooLong as error:
            if len(batch) == 1:
                return [error]
        except Exception as error:  # the boundary: whatever a model does, only its episode fails
            if len(batch) == 1:
                words = quote(f"{type(error).__name__}: {error}", 400)
                detail = f"the model in this process failed: {words}"
                failure = EpisodeFailure(
                    FailureKind.SERVER, detail, cause="local_model", is_passing=False
                )
                failure.__cause__ = error
                return [failure]
        return [result for each in batch for result in self._answer([each])]

    def _generate(self, batch: Sequence[_Waiting]) -> list[Reply]:
        inputs = self._processor(
            text=[each.text for each in batch],
            images=[image for each in batch for image in each.images] or None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(self.config.device)
        self._check_length(inputs["input_ids"].shape[1])
        tokenizer, start = self._processor.tokenizer, inputs["input_ids"].shape[1]
        noise = _Noise(self._torch, self.config, [each.seed for each in batch])
        with self._torch.inference_mode():
            output = self._model.generate(
                **inputs,
                do_sample=False,  # the noise makes the likeliest token a drawn one
                repetition_penalty=1.0,  # a folder's own would change what the model prefers
                suppress_tokens=self._banned or None,
                max_new_tokens=self.config.max_turn_tokens,
                logits_processor=[noise] if self.config.temperature > 0 else None,
                stopping_criteria=[
                    make_turn_end(self._transformers, tokenizer, start, self._thought)
                ],
            )
        for each, mask in zip(batch, inputs["attention_mask"], strict=True):
            each.usage.add(int(mask.sum()), 0)
        return [
            self._read(token_ids, each.usage)
            for each, token_ids in zip(batch, output[:, start:], strict=True)
        ]

    def _check_length(self, num_tokens: int) -> None:
        """Raise `ContextTooLong` if a context and its reply exceed what the model was made for."""
        config = getattr(self._model.config, "text_config", self._model.config)
        limit = getattr(config, "max_position_embeddings", None)
        if limit is not None and num_tokens + self.config.max_turn_tokens > limit:
            raise ContextTooLong(
                f"{num_tokens} tokens and a reply of {self.config.max_turn_tokens} exceed "
                f"{limit} positions"
            )

    def _read(self, token_ids: Any, usage: Usage) -> Reply:
        """Turn one row of the output into a reply; without an end in it, the token limit has cut it
        off."""
        tokenizer = self._processor.tokenizer
        ends = {*_as_list(self._model.generation_config.eos_token_id), tokenizer.pad_token_id}
        sampled = token_ids.tolist()
        num_tokens = next(
            (i for i, token_id in enumerate(sampled) if token_id in ends), len(sampled)
        )
        if usage.num_reply_tokens is not None:
            usage.num_reply_tokens += num_tokens
        return make_reply(
            tokenizer.decode(token_ids, skip_special_tokens=True),
            is_truncated=num_tokens >= self.config.max_turn_tokens,
            thought=self._thought,
            special_tokens=self._special,
        )


class _OwnAccount:
    """The `GenerateFn` of one episode."""

    def __init__(self, model: LocalModel, name: str, seed: int, usage: Usage) -> None:
        self.usage = usage
        self._model, self._name, self._seed = model, name, seed
        self._num_replies = 0

    async def __call__(self, messages: list[Message], images: Sequence[Image.Image]) -> Reply:
        """Write the next reply; raises `EpisodeFailure` with the pair's name, or
        `ContextTooLong`."""
        seed = xxhash.xxh3_64_intdigest(f"{self._seed} {self._num_replies}".encode()) % 2**63
        self._num_replies += 1
        try:
            return await self._model.write(messages, images, self.usage, seed)
        except EpisodeFailure as failure:
            raise EpisodeFailure(
                failure.kind,
                failure.detail,
                self._name,
                failure.cause,
                is_passing=failure.is_passing,
            ) from failure


class _Noise:
    """A logits processor that turns the likeliest token into a drawn one, row by row (Gumbel's
    trick: the largest of logit + noise is distributed as softmax says)."""

    def __init__(self, torch: Any, config: LocalConfig, seeds: Sequence[int]) -> None:
        self._torch, self._config = torch, config
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        torch = self._torch
        scores = scores.float() / self._config.temperature
        if self._config.top_p < 1:
            scores = cut_tail(torch, scores, self._config.top_p)
        uniform = torch.stack(
            [torch.rand(scores.shape[1], generator=each) for each in self._generators]
        )
        return scores - torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7))).to(scores.device)


def cut_tail(torch: Any, scores: Any, top_p: float) -> Any:
    """Keep the fewest tokens that together have `top_p` of the probability, at least one."""
    ordered, order = scores.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    is_beyond = probabilities.cumsum(dim=-1) - probabilities >= top_p
    is_beyond[:, 0] = False
    return scores.masked_fill(is_beyond.scatter(1, order, is_beyond), float("-inf"))


def make_turn_end(
    transformers: Any, tokenizer: Any, start: int, thought: ThoughtForm | None
) -> Any:
    """Make a stopping criterion: a stop string that ends the turn; a draft's does not.

    `start` is where the replies begin in the rows."""
    finds_stop = transformers.StopStringCriteria(tokenizer, list(STOP_STRINGS))

    def is_over(token_ids: Any) -> bool:
        text = tokenizer.decode(token_ids[start:], skip_special_tokens=True)
        ends = [text.rindex(stop) + len(stop) for stop in STOP_STRINGS if stop in text]
        return bool(ends) and is_finished(text[: max(ends)], thought)

    class TurnEnd(transformers.StoppingCriteria):
        def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
            stopped = finds_stop(input_ids, scores, **options)
            for row in stopped.nonzero().flatten().tolist():
                stopped[row] = is_over(input_ids[row])
            return stopped

    return TurnEnd()


def find_placeholders(config: Any, processor: Any) -> list[int]:
    """Return the token ids that stand for pixels, in whatever place a model's config keeps them."""
    ids = {getattr(config, name, None) for name in PLACEHOLDERS}
    for name in ("image_token_id", "video_token_id"):
        ids.add(getattr(processor, name, None))
    return sorted(token_id for token_id in ids if isinstance(token_id, int))


def list_special_tokens(tokenizer: Any) -> list[str]:
    """Return the spellings that a tokenizer turns into control tokens."""
    added = tokenizer.added_tokens_decoder.values()
    return sorted(
        {str(token) for token in added if token.special} | {*tokenizer.all_special_tokens}
    )


def find_thought(folder: Path | None, setting: NativeThought) -> ThoughtForm | None:
    """Return how a model marks its native thought, from its folder where there is one."""
    has_tokenizer = folder is not None and (folder / "tokenizer_config.json").is_file()
    if not has_tokenizer or setting is NativeThought.NEVER:
        return find_thought_form(None, setting=setting)
    tokenizer = require("transformers", Extra.GPU).AutoTokenizer.from_pretrained(folder)
    template = tokenizer.chat_template
    template = "\n".join(template.values()) if isinstance(template, Mapping) else template
    question = [{"role": "user", "content": "?"}]
    prompt = ""
    if template:
        without, prompt = (
            tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=adds)
            for adds in (False, True)
        )
        prompt = prompt.removeprefix(without)
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    return find_thought_form(template, added, prompt, setting)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
