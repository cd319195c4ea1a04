"""Contexts as token ids: nothing is tokenised twice, every placeholder has its image, a difference
is found."""

import gc
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("verl")

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import AddedToken

from tests.engine import processor, tokenize, tokenize_oddly
from verl_videosearch.from_scratch.tiny_model import CONTROL_TOKENS, PLAIN_TOKENS
from verl_videosearch.verl_plugin.tokens import (
    ContextRenderer,
    SentContext,
    TokenMismatch,
    TrainingSequence,
    check_sequence,
    digest_image,
    find_rest,
    pack_ids,
)

IM_END = "<|im_end|>"


@pytest.fixture(scope="module")
def renderer() -> ContextRenderer:
    return ContextRenderer(processor().tokenizer, processor())


def user(*items: str | Image.Image) -> dict:
    """Make a user message of texts and images."""
    content = [
        {"type": "text", "text": item} if isinstance(item, str) else {"type": "image"}
        for item in items
    ]
    return {"role": "user", "content": content}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def grey(width: int = 56, height: int = 56, level: int = 100) -> Image.Image:
    return Image.new("RGB", (width, height), (level, level, level))


def test_a_model_without_image_processor_is_refused() -> None:
    with pytest.raises(
        ValueError, match="set actor_rollout_ref.model.path to a vision-language model"
    ):
        ContextRenderer(processor().tokenizer, None)


@pytest.mark.parametrize(
    ("sizes", "tokens"),
    [
        ([], 0),
        ([(56, 56)], 4),
        ([(28, 28)], 1),
        ([(84, 56), (56, 112)], 6 + 8),
        ([(280, 28)] * 3, 30),
    ],
)
def test_a_placeholder_becomes_as_many_ids_as_the_image_has_features(
    renderer: ContextRenderer, sizes: list[tuple[int, int]], tokens: int
) -> None:
    images = [grey(*size) for size in sizes]
    ids = renderer.tokenize(renderer.render([user("see:", *images)]), images)
    assert ids.count(processor().image_token_id) == tokens


def test_template_settings_reach_the_template() -> None:
    with pytest.raises(TypeError, match="add_generation_prompt"):  # ours to decide
        ContextRenderer(processor().tokenizer, processor(), {"add_generation_prompt": False})


@pytest.mark.parametrize("token", CONTROL_TOKENS)
def test_a_control_token_in_a_reply_never_reaches_a_later_context(
    renderer: ContextRenderer, token: str
) -> None:
    sampled, spelt = (
        renderer.make_reply(token_ids, is_truncated=False).text
        for token_ids in (tokenize(f"a{token}b"), tokenize_oddly(f"a{token}b"))
    )
    assert sampled == "ab"
    assert spelt == f"a{token[0]} {token[1:]}b"
    assert not set(tokenize("".join(CONTROL_TOKENS))) & set(tokenize(spelt))


@pytest.mark.parametrize("token", PLAIN_TOKENS)
def test_tags_stay_readable(renderer: ContextRenderer, token: str) -> None:
    assert (
        renderer.decode(tokenize(f"a{token}b"))
        == renderer.decode(tokenize_oddly(f"a{token}b"))
        == f"a{token}b"
    )


def test_an_end_of_turn_that_was_sampled_is_not_added_twice(renderer: ContextRenderer) -> None:
    rest = f"{IM_END}\n<|im_start|>assistant\n"
    assert renderer.continue_ids(tokenize("yes"), rest, []) == tokenize(rest)
    assert renderer.continue_ids(tokenize(f"yes{IM_END}"), rest, []) == tokenize(rest)[1:]
    assert renderer.continue_ids(tokenize("yes<|endoftext|>"), rest, []) == tokenize(rest)
    assert renderer.continue_ids(tokenize("yes\n"), "\nmore", []) == tokenize("\nmore"), (
        "only control tokens are shared"
    )
    assert renderer.continue_ids([], rest, []) == tokenize(rest)


@pytest.mark.parametrize("ends_turn", [True, False])
@given(reply=st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=30))
@settings(max_examples=40, deadline=None)
@example(reply="<| video_pad|> <tool_call>")
def test_a_grown_context_reads_as_the_whole_one(
    renderer: ContextRenderer, ends_turn: bool, reply: str
) -> None:
    """Prompt, sampled ids and tokenised rest say, decoded, what the template renders at once, image
    for image."""
    assume(
        "<|" not in reply.replace("<| ", "")
    )  # the engine may not sample placeholders, and a text has no control token
    sampled = tokenize(reply) + (tokenize(IM_END) if ends_turn else [])
    text = renderer.decode(sampled)
    first, second = [user("see", grey())], grey(84, 56)
    before = renderer.render(first)
    after = renderer.render([*first, assistant(text), user("more", second)])
    rest = find_rest(before, text, after)
    assert rest is not None and rest.startswith(IM_END)
    grown = (
        renderer.tokenize(before, [grey()])
        + sampled
        + renderer.continue_ids(sampled, rest, [second])
    )
    whole = renderer.tokenize(after, [grey(), second])
    decode = processor().tokenizer.decode
    assert decode(grown) == decode(whole)
    assert (
        grown.count(processor().image_token_id) == whole.count(processor().image_token_id) == 4 + 6
    )


@pytest.mark.parametrize(
    ("previous", "reply", "text", "rest"),
    [
        ("a:", "b", "a:bc", "c"),
        ("a:", "b", "a:b", ""),
        ("a:", "", "a:c", "c"),
        ("a:", "b", "a:c", None),
        ("a:", " b", "a:bc", None),
        ("a:", "b", "x:bc", None),
        ("a:", "b", "a:", None),
    ],
)
def test_find_rest(previous: str, reply: str, text: str, rest: str | None) -> None:
    assert find_rest(previous, reply, text) == rest


def two_turns() -> TrainingSequence:
    """Make a sequence of two replies with two images, as the agent loop leaves it."""
    images = [grey(level=1), grey(level=2)]
    sequence = TrainingSequence([1, 2, 3], images[:1])
    for reply, context, new_images in (([4, 5], [6, 7], images[1:]), ([8, 9], [], [])):
        digests = tuple(map(digest_image, sequence.images))
        sequence.sent.append(SentContext(pack_ids(sequence.context_ids), digests, pack_ids(reply)))
        sequence.add_reply(reply, [-1.0] * len(reply))
        sequence.add_context(context, new_images)
    return sequence


def test_a_sequence_is_what_was_sent_and_sampled() -> None:
    sequence = two_turns()
    check_sequence(sequence)
    assert sequence.context_ids == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert sequence.num_tokens == 9
    assert sequence.response_mask.tolist() == [1, 1, 0, 0, 1, 1]
    assert sequence.logprobs.tolist() == [-1.0, -1.0, 0.0, 0.0, -1.0, -1.0]


def test_an_engine_without_logprobs_leaves_zeros() -> None:
    sequence = TrainingSequence([1], [])
    sequence.add_reply([2, 3], None)
    assert sequence.logprobs.tolist() == [0.0, 0.0]


def test_garbage_collection_does_not_walk_over_tokens() -> None:
    sequence = two_turns()
    seen = [sequence.prompt_ids, sequence.response_ids, sequence.response_mask, sequence.logprobs]
    seen += [ids for sent in sequence.sent for ids in (sent.token_ids, sent.reply_ids)]
    assert all(len(gc.get_referents(each)) <= 1 for each in seen)  # its class
    assert len(gc.get_referents(sequence.context_ids)) == 9  # what a list costs


def swap_images(sequence: TrainingSequence) -> None:
    sequence.images.reverse()


def change_pixel(sequence: TrainingSequence) -> None:
    sequence.images[1].putpixel((0, 0), (0, 0, 1))


def forget_turn(sequence: TrainingSequence) -> None:
    sequence.sent.pop()


def shorten_prompt_of(turn: int) -> Callable[[TrainingSequence], None]:
    def change(sequence: TrainingSequence) -> None:
        sent = sequence.sent[turn]
        sequence.sent[turn] = replace(sent, token_ids=sent.token_ids[:-1])

    return change


BREAKS: list[tuple[Callable[[TrainingSequence], object], str]] = [
    (lambda s: s.prompt_ids.__setitem__(0, 99), "turn 0: the trained prompt differs"),
    (lambda s: s.prompt_ids.append(99), "turn 0: the trained reply differs"),
    (lambda s: s.response_ids.__setitem__(0, 99), "turn 0: the trained reply differs"),
    (lambda s: s.response_ids.__setitem__(2, 99), "turn 1: the trained prompt differs"),
    (lambda s: s.response_ids.__setitem__(5, 99), "turn 1: the trained reply differs"),
    (lambda s: s.response_ids.pop(), "turn 1: the trained reply differs"),
    (
        lambda s: s.response_mask.__setitem__(0, 0),
        "the mask does not mark exactly the sampled tokens",
    ),
    (
        lambda s: s.response_mask.__setitem__(2, 1),
        "the mask does not mark exactly the sampled tokens",
    ),
    (lambda s: s.response_mask.pop(), "the mask does not mark exactly the sampled tokens"),
    (lambda s: s.images.pop(), "turn 1: the trained images differ"),
    (lambda s: s.images.pop(0), "turn 0: the trained images differ"),
    (lambda s: s.images.append(grey()), "3 images are trained on, 2 were sent"),
    (swap_images, "turn 0: the trained images differ"),
    (change_pixel, "turn 1: the trained images differ"),
    (forget_turn, "2 images are trained on, 1 were sent"),
    (shorten_prompt_of(0), "turn 0: the trained reply differs"),
    (shorten_prompt_of(1), "turn 1: the trained reply differs"),
]


@pytest.mark.parametrize(("break_it", "message"), BREAKS)
def test_any_difference_is_found(
    break_it: Callable[[TrainingSequence], object], message: str
) -> None:
    sequence = two_turns()
    break_it(sequence)
    with pytest.raises(TokenMismatch, match=message):
        check_sequence(sequence)


def test_images_of_equal_pixels_and_other_shape_differ() -> None:
    assert digest_image(grey(28, 56)) != digest_image(grey(56, 28))
    assert digest_image(grey()) == digest_image(grey())


@given(
    text=st.lists(
        st.one_of(
            st.sampled_from((*CONTROL_TOKENS, *PLAIN_TOKENS, "\n", " ", "a  ", "Frame 3:", "é")),
            st.text(max_size=8),
        ),
        max_size=12,
    ).map("".join)
)
@settings(max_examples=200, deadline=None)
def test_pieces_between_control_tokens_have_the_ids_of_the_whole(
    renderer: ContextRenderer, text: str
) -> None:
    assert renderer._controls is not None
    assert renderer._encode(text) == tokenize(text)
    assert renderer._encode(text) == tokenize(text), "the second time from memory"


def test_a_tokenizer_that_looks_across_control_tokens_is_given_whole_texts() -> None:
    tokenizer = deepcopy(processor().tokenizer)
    tokenizer.add_tokens([AddedToken("<|greedy|>", special=True, lstrip=True)])
    renderer = ContextRenderer(tokenizer, processor())
    text = "a <|greedy|> b"
    assert renderer._encode(text) == tokenizer(text)["input_ids"]
