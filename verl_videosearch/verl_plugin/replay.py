"""Replay a recorded episode into the training sequences that RL would make of it.

The one idea: a reply that was recorded joins a sequence exactly as one that was sampled; only then
can supervised training promise the contexts of the rollout. `agent_loop.TokenGenerator` is the
other half: a test drives both with the same replies and compares token for token.

Covers: sequences, and their lengths without touching a pixel. Does not cover: rows, tensors
(`sft_dataset`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from PIL import Image

from verl_videosearch.episode import Episode, Message, Reply, images_of
from verl_videosearch.from_scratch.captions import CaptionDialogue
from verl_videosearch.verl_plugin.tokens import ContextRenderer, TrainingSequence, find_rest
from verl_videosearch.video.pair import PairFrames


class UnusableTrace(Exception):
    """A trace that does not fit this model or these settings; its one argument says why in a word
    or two."""


def replay_sequences(
    episode: Episode | CaptionDialogue,
    replies: Sequence[str],
    renderer: ContextRenderer,
    resolve: Callable[[list[Message]], list[Image.Image]],
    end_of_turn: int,
) -> list[TrainingSequence]:
    """Drive an episode with recorded replies and return its training sequences; raises
    `UnusableTrace`.

    `resolve` turns the image references of a context into images. Every reply carries its
    end-of-turn token, as one that was sampled to the end does."""
    sequences: list[TrainingSequence] = []
    previous: tuple[str, str] | None = None
    for text in replies:
        if episode.is_done:
            raise UnusableTrace("goes on after its end")
        messages = episode.messages()
        context, images = renderer.render(messages), resolve(messages)
        rest = find_rest(*previous, context) if previous and episode.context_grew() else None
        if rest is None:
            sequences.append(TrainingSequence(renderer.tokenize(context, images), list(images)))
        else:
            new_images = images[len(sequences[-1].images) :]
            rest_ids = renderer.continue_ids(sequences[-1].response_ids, rest, new_images)
            sequences[-1].add_context(rest_ids, new_images)
        reply_ids = renderer.tokenizer.encode(text, add_special_tokens=False)
        if renderer.decode(reply_ids) != text:
            raise UnusableTrace("has control tokens in a reply")
        sequences[-1].add_reply([*reply_ids, end_of_turn], None)
        episode.step(Reply(text))
        previous = (context, text)
    return sequences


def find_end_of_turn(renderer: ContextRenderer) -> int:
    """Return the control token that the chat template writes right after a reply."""
    question, reply = (
        {"role": role, "content": [{"type": "text", "text": "a"}]} for role in ("user", "assistant")
    )
    rest = find_rest(renderer.render([question]), "a", renderer.render([question, reply, question]))
    token_ids = renderer.tokenizer.encode(rest or "", add_special_tokens=False)
    if not token_ids or token_ids[0] not in renderer.tokenizer.all_special_ids:
        raise ValueError(
            f"the chat template must write a control token after a reply, got {rest!r}; use another model"
        )
    return token_ids[0]


class LengthRenderer(ContextRenderer):
    """A renderer that only counts: images are measured by size, once, so that no pixel has to be
    processed."""

    def tokenize(self, text: str, images: Sequence[Image.Image]) -> list[int]:
        """Return as many ids as `ContextRenderer.tokenize`; what images add stands as zeros at the
        end."""
        token_ids = self.tokenizer.encode(text, add_special_tokens=False)
        return token_ids + [0] * sum(self._count_extra(image.size) for image in images)

    @lru_cache(maxsize=1024)  # noqa: B019  (lives as long as the dataset)
    def _count_extra(self, size: tuple[int, int]) -> int:
        """Return by how many ids an image of this size is longer than its placeholder."""
        text = self.render([{"role": "user", "content": [{"type": "image"}]}])
        with_pixels = super().tokenize(text, [Image.new("RGB", size)])
        return len(with_pixels) - len(self.tokenizer.encode(text, add_special_tokens=False))


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
