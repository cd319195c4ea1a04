"""Tiny models of every family load as checkpoints of it, and render contexts as it does."""

from pathlib import Path
from typing import Any

import pytest

# ruff: noqa: E402  (imports after the skip)
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from verl_videosearch.from_scratch.families import FAMILIES, THINKING_TOKENS, ModelFamily
from verl_videosearch.from_scratch.tiny_model import (
    BASE_CORPUS,
    TinyModelConfig,
    build_tiny_model,
    train_tokenizer,
)

CLASSES = {
    ModelFamily.QWEN2_5_VL: "Qwen2_5_VLForConditionalGeneration",
    ModelFamily.QWEN3_VL: "Qwen3VLForConditionalGeneration",
    ModelFamily.QWEN3_VL_THINKING: "Qwen3VLForConditionalGeneration",
    ModelFamily.QWEN3_5: "Qwen3_5ForConditionalGeneration",
}
DEFAULT_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"

QUESTION = {"role": "user", "content": [{"type": "text", "text": "see:"}, {"type": "image"}]}
REPLY = {"role": "assistant", "content": [{"type": "text", "text": "hm\n</think>\n\na tie\n"}]}


@pytest.mark.parametrize("family", ModelFamily)
def test_a_model_is_loaded_as_its_family_and_generates_from_images(
    tmp_path: Path, family: ModelFamily
) -> None:
    folder = build_tiny_model(tmp_path, text_corpus=BASE_CORPUS, family=family)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    assert type(model).__name__ == CLASSES[family]
    assert 500_000 < model.num_parameters() < 3_000_000
    assert model.get_output_embeddings().weight.shape[0] == len(processor.tokenizer)
    assert type(processor.tokenizer) is FAMILIES[family].tokenizer
    side = 2 * FAMILIES[family].patch_size
    text = processor.apply_chat_template([QUESTION], add_generation_prompt=True)
    images = [Image.new("RGB", (2 * side, side))]
    inputs = processor(text=[text], images=images, return_tensors="pt")
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 2
    output = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3)
    assert output.shape[1] == inputs["input_ids"].shape[1] + 3


def render(family: ModelFamily, *messages: dict[str, Any], **settings: Any) -> str:
    tokenizer = train_tokenizer(BASE_CORPUS, TinyModelConfig.max_vocab, family)
    return tokenizer.apply_chat_template(messages, tokenize=False, **settings)


OPENED = {
    ModelFamily.QWEN2_5_VL: "",
    ModelFamily.QWEN3_VL: "",
    ModelFamily.QWEN3_VL_THINKING: "<think>\n",
    ModelFamily.QWEN3_5: "<think>\n",
}


@pytest.mark.parametrize("family", ModelFamily)
def test_a_generation_prompt_opens_a_thought_in_thinking_models_only(family: ModelFamily) -> None:
    system = DEFAULT_SYSTEM if family is ModelFamily.QWEN2_5_VL else ""
    assert render(family, QUESTION, add_generation_prompt=True) == (
        f"{system}<|im_start|>user\nsee:{IMAGE}<|im_end|>\n<|im_start|>assistant\n{OPENED[family]}"
    )


SHOWN = {
    ModelFamily.QWEN2_5_VL: "hm\n</think>\n\na tie\n",
    ModelFamily.QWEN3_VL: "hm\n</think>\n\na tie\n",
    ModelFamily.QWEN3_VL_THINKING: "a tie\n",
    ModelFamily.QWEN3_5: "a tie",
}
"""How a reply stands in the history, behind another question."""


@pytest.mark.parametrize("family", ModelFamily)
def test_a_history_shows_replies_as_the_family_does(family: ModelFamily) -> None:
    text = render(family, QUESTION, REPLY, QUESTION)
    assert f"<|im_start|>assistant\n{SHOWN[family]}<|im_end|>\n<|im_start|>user\n" in text
    asked = render(family, QUESTION, add_generation_prompt=True)
    assert text.startswith(asked) == (OPENED[family] == ""), "no prefix where a thought is opened"


@pytest.mark.parametrize(
    ("family", "end"),
    [(ModelFamily.QWEN3_VL_THINKING, "a tie\n"), (ModelFamily.QWEN3_5, "a tie")],
)
def test_the_thought_of_the_last_turn_is_shown(family: ModelFamily, end: str) -> None:
    text = render(family, QUESTION, REPLY)
    assert text.endswith(f"<|im_start|>assistant\n<think>\nhm\n</think>\n\n{end}<|im_end|>\n")


@pytest.mark.parametrize(("is_enabled", "end"), [(True, ""), (False, "\n</think>\n\n")])
def test_qwen3_5_can_be_asked_not_to_think(is_enabled: bool, end: str) -> None:
    settings = {"add_generation_prompt": True, "enable_thinking": is_enabled}
    text = render(ModelFamily.QWEN3_5, QUESTION, **settings)
    assert text.endswith(f"<|im_start|>assistant\n<think>\n{end}")


@pytest.mark.parametrize("family", [*ModelFamily][1:])
def test_marks_of_a_thought_are_text_of_one_token(family: ModelFamily) -> None:
    tokenizer = train_tokenizer(BASE_CORPUS, TinyModelConfig.max_vocab, family)
    for token in THINKING_TOKENS:
        ids = tokenizer(f"a{token}b")["input_ids"]
        assert len(ids) == 3 and tokenizer.decode(ids, skip_special_tokens=True) == f"a{token}b"
