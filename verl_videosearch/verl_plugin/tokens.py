"""Token space of an episode: contexts as token ids, and the training sequences they leave behind.

The one idea: *what is trained is what was sampled from*. As long as the context only grew, the next
prompt is the last prompt, the sampled ids as they are, and the tokenised rest; an eviction starts a
new sequence (method section 3)::

    sequence 0   [prompt: system, pair][reply 1][frames][reply 2]        mask 0 0 1 0 1
    sequence 1   [prompt: system, pair, reply 1, note, reply 2, frames][reply 3]

Ids, masks and log-probabilities lie in arrays, not lists: Python's garbage collection walks over
every item of every list, and six million of them stop the event loop for 50 ms and more.

The rest is found in *text*, as what the chat template adds after the reply, so no model family is
spelt out here. A template that rewrites earlier text simply starts a new sequence. `check_sequence`
compares a finished sequence with what the engine was given."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from PIL import Image
from verl.utils.tokenizer import (
    build_multimodal_processor_inputs,
    get_processor_token_id,
    normalize_token_ids,
)

from verl_videosearch.episode import Message
from verl_videosearch.judgement import STOP_STRINGS
from verl_videosearch.reply import (
    NativeThought,
    Reply,
    ThoughtForm,
    find_thought_form,
    is_finished,
    make_reply,
)
from verl_videosearch.verl_plugin.references import StoredImage
from verl_videosearch.video.pair import REFERENCE

SequenceImage = Image.Image | StoredImage
"""An image of a sequence: its pixels, or the name of a stored frame."""
_ID, _MASK, _LOGPROB = "i", "b", "d"
"""Type codes of `array`: four bytes, one byte, a float of eight."""


def pack_ids(token_ids: Iterable[int]) -> array[int]:
    """Return ids in four bytes each; arrays are equal only to arrays.

    >>> pack_ids([7, 8]) == pack_ids((7, 8)), pack_ids([7, 8]).tolist()
    (True, [7, 8])
    """
    return array(_ID, token_ids)


THOUGHT_MARK = "A thought like no other."
"""Words to find a thought by."""


class TokenMismatch(AssertionError):
    """A training sequence differs from what the engine was given: a bug, never a model's
    mistake."""


@dataclass
class TrainingSequence:
    """One causal sequence: a prompt, then replies (trained) and appended context (not trained)."""

    prompt_ids: array[int]
    """Any sequence of ids may be given."""
    images: list[SequenceImage]
    """Every image of the sequence, in order."""
    response_ids: array[int] = field(default_factory=lambda: array(_ID))
    response_mask: array[int] = field(default_factory=lambda: array(_MASK))
    """1 for sampled tokens, 0 for context that was appended between two replies."""
    logprobs: array[float] = field(default_factory=lambda: array(_LOGPROB))
    """Of each response token under the policy that sampled it; 0 where the mask is 0."""
    sent: list[SentContext] = field(default_factory=list)
    """What the engine was given for each reply."""

    def __post_init__(self) -> None:
        self.prompt_ids = pack_ids(self.prompt_ids)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.response_ids)

    @property
    def context_ids(self) -> list[int]:
        """Return all ids, as the engine and torch take them."""
        return (self.prompt_ids + self.response_ids).tolist()

    def add_reply(self, token_ids: Sequence[int], logprobs: Sequence[float] | None) -> None:
        """Append what the engine sampled from `context_ids`, unchanged; `logprobs` is None or empty
        where the engine was not asked for any."""
        if logprobs and len(logprobs) != len(token_ids):
            raise TokenMismatch(
                f"the engine gave {len(logprobs)} log-probabilities for {len(token_ids)} tokens"
            )
        self.response_ids.extend(token_ids)
        self.response_mask.extend([1] * len(token_ids))
        self.logprobs.extend(logprobs if logprobs else [0.0] * len(token_ids))

    def add_context(self, token_ids: Sequence[int], images: Sequence[SequenceImage]) -> None:
        """Append the tool's answer and the opening of the next turn."""
        self.response_ids.extend(token_ids)
        self.response_mask.extend([0] * len(token_ids))
        self.logprobs.extend([0.0] * len(token_ids))
        self.images += images


@dataclass(frozen=True)
class SentContext:
    """What the engine was given for one reply, and what it gave back."""

    token_ids: array[int]
    image_digests: tuple[str, ...]
    reply_ids: array[int]


def digest_image(image: SequenceImage) -> str:
    """Name an image: a stored frame by its reference and size, any other by its size and pixels."""
    if isinstance(image, StoredImage):
        return f"{image.reference} {image.size}"
    reference = image.info.get(REFERENCE)
    if reference is not None:
        return f"{reference} {image.size}"
    return hashlib.blake2b(image.tobytes() + str(image.size).encode(), digest_size=16).hexdigest()


def check_sequence(sequence: TrainingSequence) -> None:
    """Raise `TokenMismatch` unless every reply was sampled from exactly the tokens and images that
    precede it."""
    token_ids = sequence.prompt_ids + sequence.response_ids
    digests = [digest_image(image) for image in sequence.images]
    trained = array(_MASK, bytes(len(token_ids)))
    for turn, sent in enumerate(sequence.sent):
        start = len(sent.token_ids)
        stop = start + len(sent.reply_ids)
        if token_ids[:start] != sent.token_ids:
            raise TokenMismatch(
                f"turn {turn}: the trained prompt differs from the one the engine was given"
            )
        if token_ids[start:stop] != sent.reply_ids:
            raise TokenMismatch(f"turn {turn}: the trained reply differs from the sampled one")
        if tuple(digests[: len(sent.image_digests)]) != sent.image_digests:
            raise TokenMismatch(
                f"turn {turn}: the trained images differ from those the engine was given"
            )
        trained[start:stop] = array(_MASK, [1] * len(sent.reply_ids))
    if sequence.sent and len(digests) != len(sequence.sent[-1].image_digests):
        raise TokenMismatch(
            f"{len(digests)} images are trained on, {len(sequence.sent[-1].image_digests)} "
            "were sent"
        )
    if trained[len(sequence.prompt_ids) :] != sequence.response_mask:
        raise TokenMismatch("the mask does not mark exactly the sampled tokens")


class ContextRenderer:
    """Messages to text to token ids, through the model's own processor."""

    def __init__(
        self,
        tokenizer: Any,
        processor: Any,
        chat_template_kwargs: dict[str, Any] | None = None,
        native_thought: NativeThought = NativeThought.AUTO,
    ) -> None:
        if processor is None:
            raise ValueError(
                "the model has no processor for images, so it cannot judge videos; set "
                "actor_rollout_ref.model.path to a vision-language model such as "
                "Qwen/Qwen2.5-VL-7B-Instruct"
            )
        self.tokenizer, self.processor = tokenizer, processor
        self._template_kwargs = chat_template_kwargs or {}
        self._image_token = get_processor_token_id(processor, "image")
        tokens = tokenizer.added_tokens_decoder
        self._control_tokens = [token.content for token in tokens.values() if token.special]
        self._control_ids = {token_id for token_id, token in tokens.items() if token.special}
        self._controls = self._find_controls()
        self.placeholder_ids = frozenset(
            token_id
            for token_id in (self._image_token, get_processor_token_id(processor, "video"))
            if token_id is not None
        )
        """What stands for an image or a video in a context; no reply may hold it."""
        self.thought = self._find_thought(native_thought)
        """How the model marks its native thought; None when it has none."""

    def _find_thought(self, setting: NativeThought) -> ThoughtForm | None:
        question = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
        asked = self.render(question)
        plain = self.processor.apply_chat_template(
            question, tokenize=False, add_generation_prompt=False, **self._template_kwargs
        )
        opening = asked[len(plain) :] if asked.startswith(plain) else asked
        tokens = [token.content for token in self.tokenizer.added_tokens_decoder.values()]
        return find_thought_form(_get_template(self.processor), tokens, opening, setting)

    def keeps_thoughts(self) -> bool:
        """Say whether a native thought in the history reaches a later context: the chat templates
        of thinking models drop it, whatever an episode leaves there."""
        assert self.thought is not None, "the model has no native thought"
        question, reply = (
            {"role": role, "content": [{"type": "text", "text": text}]}
            for role, text in (
                ("user", "a"),
                ("assistant", f"{self.thought.opening}{THOUGHT_MARK}{self.thought.closing}b"),
            )
        )
        return THOUGHT_MARK in self.render([question, reply, question])

    def render(self, messages: list[Message]) -> str:
        """Render a context as text, one placeholder per image, ready for the next reply."""
        return self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **self._template_kwargs
        )

    def tokenize(self, text: str, images: Sequence[SequenceImage]) -> list[int]:
        """Turn text into ids; each image placeholder becomes as many ids as the image has
        features. Only the images' sizes matter, and each size is measured once: no pixel is
        processed."""
        token_ids = self._encode(text)
        if token_ids.count(self._image_token) != len(images):
            raise TokenMismatch(
                f"the context has {token_ids.count(self._image_token)} image placeholders for "
                f"{len(images)} images"
            )
        expanded, start = list[int](), 0
        for image in images:
            stop = token_ids.index(self._image_token, start)
            expanded += token_ids[start:stop]
            expanded += [self._image_token] * self._count_features(image.size)
            start = stop + 1
        return expanded + token_ids[start:]

    def _encode(self, text: str) -> list[int]:
        """Turn text into ids; what stands between control tokens is turned once, and most of a
        context stands in many."""
        token_ids = list[int]()
        for piece in self._controls.split(text) if self._controls else [text]:
            token_ids += self._encode_piece(piece) if piece else ()
        return token_ids

    @lru_cache(maxsize=8192)  # noqa: B019  (lives as long as its loop or data set)
    def _encode_piece(self, piece: str) -> list[int]:
        return normalize_token_ids(self.tokenizer(piece)["input_ids"])

    def _find_controls(self) -> re.Pattern[str] | None:
        """Return what parts a text into pieces of which each has its own ids; None for a tokenizer
        that looks across control tokens (it strips blanks beside them or opens every text)."""
        tokens = sorted(self._control_tokens, key=len, reverse=True)
        if not tokens:
            return None
        controls = re.compile("(" + "|".join(map(re.escape, tokens)) + ")")
        probe = "".join(f"a {token}\n{token} b{token}{token}c\n\n" for token in tokens)
        pieces = [piece for piece in controls.split(probe) if piece]
        whole = normalize_token_ids(self.tokenizer(probe)["input_ids"])
        is_split = whole == [i for piece in pieces for i in self._encode_piece(piece)]
        return controls if is_split else None

    @lru_cache(maxsize=1024)  # noqa: B019  (lives as long as its loop or data set)
    def _count_features(self, size: tuple[int, int]) -> int:
        """Return how many ids stand for an image of this size, by the processor itself; a processor
        that writes more than a run of its image token is refused."""
        text = self.render([{"role": "user", "content": [{"type": "image"}]}])
        inputs = build_multimodal_processor_inputs(
            self.processor, text=[text], images=[Image.new("RGB", size)]
        )
        whole = normalize_token_ids(inputs["input_ids"])
        count, plain = whole.count(self._image_token), self.tokenizer(text)["input_ids"]
        if whole != [
            copy
            for token_id in plain
            for copy in [token_id] * (count if token_id == self._image_token else 1)
        ]:
            raise ValueError(
                "the model's processor writes more than a run of image tokens for an image; such "
                "models are not supported (supported: Qwen2-VL, Qwen2.5-VL, Qwen3-VL)"
            )
        return count

    def decode(self, token_ids: Sequence[int]) -> str:
        """Turn sampled ids into text, without control tokens."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def is_finished(self, reply_ids: Sequence[int]) -> bool:
        """Say whether a reply that the engine stopped, by a control token or a stop string, is
        over; a stop string inside an open block is a draft."""
        if reply_ids[-1] in self._control_ids:
            return True
        text = self.decode(reply_ids)
        # the last token may hold more than the end of the stop string
        tail = text[-max(map(len, STOP_STRINGS)) - len(self.decode(reply_ids[-1:])) :]
        is_stopped = any(stop in tail for stop in STOP_STRINGS)
        return not is_stopped or is_finished(text, self.thought)

    def make_reply(self, reply_ids: Sequence[int], *, is_truncated: bool) -> Reply:
        """Turn sampled ids into the reply that the episode takes; the ids stay as they are.

        A control token that the model spelt in ordinary letters is broken up: a later context is
        made from this text, and an image placeholder in it would stand there without an image.
        """
        return make_reply(
            self.decode(reply_ids),
            is_truncated=is_truncated,
            thought=self.thought,
            special_tokens=self._control_tokens,
        )

    def find_rest(self, previous_text: str, reply: Reply, text: str) -> str | None:
        """Return what follows the previous context and the whole reply in `text`; None when the
        template or a setting changed what stood there, such as a thought that is dropped."""
        return find_rest(previous_text, reply.thought + reply.text, text)

    def continue_ids(
        self, reply_ids: Sequence[int], rest: str, images: Sequence[SequenceImage]
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


def _get_template(processor: Any) -> str | None:
    """Return the chat template's source, of the processor or else of its tokenizer."""
    template = processor.chat_template or processor.tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


def find_rest(previous_text: str, reply_text: str, text: str) -> str | None:
    """Return what follows the previous context and its reply, or None when the template changed
    what stood before.

    >>> find_rest("user: hi\\njudge:", " A", "user: hi\\njudge: A\\nuser: more\\njudge:")
    '\\nuser: more\\njudge:'
    """
    prefix = previous_text + reply_text
    return text[len(prefix) :] if text.startswith(prefix) else None
