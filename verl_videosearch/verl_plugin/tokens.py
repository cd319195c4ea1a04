"""Token space of an episode: contexts as token ids, and the training sequences they leave behind.

The one idea: *what is trained is what was sampled from*. As long as the context only grew, the next
prompt is the last prompt, the sampled ids as they are, and the tokenised rest; an eviction starts a
new sequence (method section 3)::

    sequence 0   [prompt: system, pair][reply 1][frames][reply 2]        mask 0 0 1 0 1
    sequence 1   [prompt: system, pair, reply 1, note, reply 2, frames][reply 3]

The rest is found in *text*, as what the chat template adds after the reply, so no model family is
spelt out here. A template that rewrites earlier text simply starts a new sequence. `check_sequence`
compares a finished sequence with what the engine was given."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from verl.utils.tokenizer import build_multimodal_processor_inputs, normalize_token_ids

from verl_videosearch.episode import Message


class TokenMismatch(AssertionError):
    """A training sequence differs from what the engine was given: a bug, never a model's
    mistake."""


@dataclass
class TrainingSequence:
    """One causal sequence: a prompt, then replies (trained) and appended context (not trained)."""

    prompt_ids: list[int]
    images: list[Image.Image]
    """Every image of the sequence, in order."""
    response_ids: list[int] = field(default_factory=list)
    response_mask: list[int] = field(default_factory=list)
    """1 for sampled tokens, 0 for context that was appended between two replies."""
    logprobs: list[float] = field(default_factory=list)
    """Of each response token under the policy that sampled it; 0 where the mask is 0."""
    sent: list[SentContext] = field(default_factory=list)
    """What the engine was given for each reply."""

    @property
    def context_ids(self) -> list[int]:
        return self.prompt_ids + self.response_ids

    def add_reply(self, token_ids: Sequence[int], logprobs: Sequence[float] | None) -> None:
        """Append what the engine sampled from `context_ids`, unchanged."""
        self.response_ids += token_ids
        self.response_mask += [1] * len(token_ids)
        self.logprobs += logprobs if logprobs else [0.0] * len(token_ids)

    def add_context(self, token_ids: Sequence[int], images: Sequence[Image.Image]) -> None:
        """Append the tool's answer and the opening of the next turn."""
        self.response_ids += token_ids
        self.response_mask += [0] * len(token_ids)
        self.logprobs += [0.0] * len(token_ids)
        self.images += images


@dataclass(frozen=True)
class SentContext:
    """What the engine was given for one reply, and what it gave back."""

    token_ids: tuple[int, ...]
    image_digests: tuple[str, ...]
    reply_ids: tuple[int, ...]


def digest_image(image: Image.Image) -> str:
    """Fingerprint an image by size and pixels."""
    return hashlib.blake2b(image.tobytes() + str(image.size).encode(), digest_size=16).hexdigest()


def check_sequence(sequence: TrainingSequence) -> None:
    """Raise `TokenMismatch` unless every reply was sampled from exactly the tokens and images that
    precede it."""
    token_ids, digests = sequence.context_ids, [digest_image(image) for image in sequence.images]
    trained = [0] * len(token_ids)
    for turn, sent in enumerate(sequence.sent):
        start = len(sent.token_ids)
        stop = start + len(sent.reply_ids)
        if tuple(token_ids[:start]) != sent.token_ids:
            raise TokenMismatch(
                f"turn {turn}: the trained prompt differs from the one the engine was given"
            )
        if tuple(token_ids[start:stop]) != sent.reply_ids:
            raise TokenMismatch(f"turn {turn}: the trained reply differs from the sampled one")
        if tuple(digests[: len(sent.image_digests)]) != sent.image_digests:
            raise TokenMismatch(
                f"turn {turn}: the trained images differ from those the engine was given"
            )
        trained[start:stop] = [1] * len(sent.reply_ids)
    if sequence.sent and len(digests) != len(sequence.sent[-1].image_digests):
        raise TokenMismatch(
            f"{len(digests)} images are trained on, {len(sequence.sent[-1].image_digests)} were sent"
        )
    if trained[len(sequence.prompt_ids) :] != sequence.response_mask:
        raise TokenMismatch("the mask does not mark exactly the sampled tokens")


class ContextRenderer:
    """Messages to text to token ids, through the model's own processor."""

    def __init__(
        self, tokenizer: Any, processor: Any, chat_template_kwargs: dict[str, Any] | None = None
    ) -> None:
        if processor is None:
            raise ValueError(
                "the model has no processor for images, so it cannot judge videos; set "
                "actor_rollout_ref.model.path to a vision-language model such as Qwen/Qwen2.5-VL-7B-Instruct"
            )
        self.tokenizer, self.processor = tokenizer, processor
        self._template_kwargs = chat_template_kwargs or {}
        control_tokens = [
            token.content for token in tokenizer.added_tokens_decoder.values() if token.special
        ]
        self._control_token = re.compile("|".join(map(re.escape, control_tokens)) or "(?!)")

    def render(self, messages: list[Message]) -> str:
        """Render a context as text, one placeholder per image, ready for the next reply."""
        return self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **self._template_kwargs
        )

    def tokenize(self, text: str, images: Sequence[Image.Image]) -> list[int]:
        """Turn text into ids; each image placeholder becomes as many ids as the image has
        features."""
        inputs = build_multimodal_processor_inputs(
            self.processor, text=[text], images=list(images) or None
        )
        return normalize_token_ids(inputs["input_ids"])

    def decode(self, token_ids: Sequence[int]) -> str:
        """Turn a sampled reply into text, without control tokens.

        A control token that the model spelt in ordinary letters is broken up: a later context is
        made from this text, and an image placeholder in it would stand there without an image. The
        sampled ids stay as they are.
        """
        text = self.tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return self._control_token.sub(lambda spelt: f"{spelt[0][0]} {spelt[0][1:]}", text)

    def continue_ids(
        self, reply_ids: Sequence[int], rest: str, images: Sequence[Image.Image]
    ) -> list[int]:
        """Tokenise what the template adds after a reply; an end-of-turn token that was sampled is
        not added twice."""
        token_ids = self.tokenize(rest, images)
        is_sampled = (
            reply_ids
            and token_ids
            and reply_ids[-1] == token_ids[0] in self.tokenizer.all_special_ids
        )
        return token_ids[1:] if is_sampled else token_ids


def find_rest(previous_text: str, reply_text: str, text: str) -> str | None:
    """Return what follows the previous context and its reply, or None when the template changed
    what stood before.

    >>> find_rest("user: hi\\njudge:", " A", "user: hi\\njudge: A\\nuser: more\\njudge:")
    '\\nuser: more\\njudge:'
    """
    prefix = previous_text + reply_text
    return text[len(prefix) :] if text.startswith(prefix) else None
