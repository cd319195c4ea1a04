"""Replay a recorded episode into the training sequences that RL would make of it.

The one idea: a reply that was recorded joins a sequence exactly as one that was sampled; only then
can supervised training promise the contexts of the rollout. `agent_loop.TokenGenerator` is the
other half: a test drives both with the same replies and compares token for token.

Covers: sequences, and their lengths without touching a pixel. Does not cover: rows, tensors
(`sft_dataset`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import zip_longest

from PIL import Image

from verl_videosearch.episode import Episode, Message, images_of
from verl_videosearch.from_scratch.captions import CaptionDialogue
from verl_videosearch.reply import Reply, ThoughtForm
from verl_videosearch.verl_plugin.tokens import ContextRenderer, SequenceImage, TrainingSequence
from verl_videosearch.video.pair import PairFrames


class UnusableTrace(Exception):
    """A trace that does not fit this model or these settings; its one argument says why in a word
    or two."""


def replay_sequences(
    episode: Episode | CaptionDialogue,
    replies: Sequence[str],
    renderer: ContextRenderer,
    resolve: Callable[[list[Message]], list[SequenceImage]],
    end_of_turn: int,
    thoughts: Sequence[str] = (),
    *,
    trains_thought: bool = True,
) -> list[TrainingSequence]:
    """Drive an episode with recorded replies and return its training sequences; raises
    `UnusableTrace`.

    `resolve` turns the image references of a context into images. Every reply carries its
    end-of-turn token, as one that was sampled to the end does. `thoughts` are the native thoughts
    before the replies; without `trains_thought` they are context."""
    sequences: list[TrainingSequence] = []
    previous: tuple[str, Reply] | None = None
    for recorded, thought in zip_longest(replies, thoughts[: len(replies)], fillvalue=""):
        if episode.is_done:
            raise UnusableTrace("goes on after its end")
        messages = episode.messages()
        context, images = renderer.render(messages), resolve(messages)
        rest = None
        if previous is not None and episode.context_grew():
            rest = renderer.find_rest(*previous, context)
        if rest is None:
            sequences.append(TrainingSequence(renderer.tokenize(context, images), list(images)))
        else:
            new_images = images[len(sequences[-1].images) :]
            rest_ids = renderer.continue_ids(sequences[-1].response_ids, rest, new_images)
            sequences[-1].add_context(rest_ids, new_images)
        reply, reply_ids = read_reply(recorded, renderer, thought)
        sequences[-1].add_reply([*reply_ids, end_of_turn], None)
        if not trains_thought:
            mask = sequences[-1].response_mask
            start = len(mask) - len(reply_ids) - 1
            for position in range(start, start + count_thought(reply, renderer)):
                mask[position] = 0
        episode.step(reply)
        previous = (context, reply)
    return sequences


def read_reply(
    recorded: str, renderer: ContextRenderer, thought: str = ""
) -> tuple[Reply, list[int]]:
    """Return a recorded reply, which ends behind its act as a sampled one does, and its ids."""
    tokenizer = renderer.tokenizer
    text = fit_thought(thought, renderer.thought) + recorded
    text = close_thought(text, renderer.thought)
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    if renderer.decode(token_ids) != text:
        raise UnusableTrace("has control tokens in a reply")
    reply = renderer.make_reply(token_ids, is_truncated=False)
    whole = reply.thought + reply.text
    if not text.startswith(whole):
        raise UnusableTrace("has control tokens in a reply")  # spelt in letters
    return reply, tokenizer.encode(whole, add_special_tokens=False)


def fit_thought(thought: str, form: ThoughtForm | None) -> str:
    """Write a recorded native thought as this model would have written it: nothing for a model
    without thoughts, and no opening where the chat template has opened it.

    >>> fit_thought("<think>\\nhm\\n</think>", ThoughtForm(is_opened=True))
    'hm\\n</think>'
    >>> fit_thought("hm\\n</think>", ThoughtForm())  # of a model whose template had opened it
    '<think>\\nhm\\n</think>'
    >>> fit_thought("<think>\\nhm\\n</think>", None)
    ''
    """
    if form is None or not thought.strip():
        return ""
    if not thought.endswith(form.closing):
        raise UnusableTrace("has a thought that is not closed")
    is_whole = thought.lstrip().startswith(form.opening)
    if form.is_opened and is_whole:
        return thought.lstrip().removeprefix(form.opening).removeprefix("\n")
    return thought if form.is_opened or is_whole else f"{form.opening}\n{thought}"


def close_thought(text: str, form: ThoughtForm | None) -> str:
    """Put an empty thought before a reply without one, for a model whose template has opened it.

    >>> close_thought("<Answer>", ThoughtForm(is_opened=True))
    '\\n</think>\\n\\n<Answer>'
    >>> close_thought("<Answer>", ThoughtForm()), close_thought("<Answer>", None)
    ('<Answer>', '<Answer>')
    """
    if form is None or not form.is_opened or form.closing in text:
        return text
    return f"\n{form.closing}\n\n{text}"


def count_thought(reply: Reply, renderer: ContextRenderer) -> int:
    """Count the ids of a reply that hold nothing but its native thought."""
    encoded = renderer.tokenizer(
        reply.thought + reply.text, add_special_tokens=False, return_offsets_mapping=True
    )
    return sum(stop <= len(reply.thought) for _, stop in encoded["offset_mapping"])


def find_end_of_turn(renderer: ContextRenderer) -> int:
    """Return the control token that the chat template writes right after a reply.

    It is looked for behind the reply's own words: a template may open a reply in another way than
    it writes it into the history (Qwen3-VL-Thinking opens a thought)."""
    question, reply = (
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", "a"), ("assistant", REPLY_MARK))
    )
    _, _, rest = renderer.render([question, reply, question]).rpartition(REPLY_MARK)
    token_ids = renderer.tokenizer.encode(rest, add_special_tokens=False)
    if not token_ids or token_ids[0] not in renderer.tokenizer.all_special_ids:
        raise ValueError(
            f"the chat template must write a control token after a reply, got {rest!r}; use "
            "another model"
        )
    return token_ids[0]


REPLY_MARK = "A reply like no other."
"""Words to find a reply by."""


def blank_images(pair: PairFrames, messages: list[Message]) -> list[Image.Image]:
    """Return black images of the sizes that `PairFrames.images` would give."""
    images = []
    for item in images_of(messages):
        height, width = pair.size_of(item["frame_number"], item["max_pixels"])
        images.append(_blank(width, height))
    return images


@lru_cache(maxsize=64)
def _blank(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height))
