"""The tiny model is small, deterministic, and loads and speaks like a Qwen2.5-VL."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

# ruff: noqa: E402  (imports after the skip)
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from verl_videosearch.from_scratch.tiny_model import (
    BASE_CORPUS,
    CONTROL_TOKENS,
    PLAIN_TOKENS,
    TinyModelConfig,
    build_tiny_model,
    default_corpus,
    train_tokenizer,
)

TOKENIZER = train_tokenizer(BASE_CORPUS, TinyModelConfig.max_vocab)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny_model"))


def test_loads_as_a_checkpoint_of_about_a_million_parameters(model_dir: Path) -> None:
    model, tokenizer = (
        AutoModelForImageTextToText.from_pretrained(model_dir),
        AutoTokenizer.from_pretrained(model_dir),
    )
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert 500_000 < model.num_parameters() < 3_000_000
    assert (
        model.get_output_embeddings().weight.shape[0]
        == len(tokenizer)
        == model.config.text_config.vocab_size
    )
    assert (
        model.config.text_config.hidden_size // model.config.text_config.num_attention_heads == 64
    )
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert "random weights" in (model_dir / "README.md").read_text("utf-8")


def test_generates_from_images(model_dir: Path) -> None:
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(model_dir),
        AutoProcessor.from_pretrained(model_dir),
    )
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which one?"}]}
    ]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(text=[text], images=[Image.new("RGB", (56, 84))], return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3)
    assert output.shape[1] == inputs["input_ids"].shape[1] + 3


@pytest.mark.parametrize(("seed", "same_weights"), [(0, True), (1, False)])
def test_the_seed_decides_the_weights_only(
    model_dir: Path, tmp_path: Path, seed: int, same_weights: bool
) -> None:
    state = torch.get_rng_state()
    build_tiny_model(tmp_path, seed=seed)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random state was touched"
    differing = {
        path.name
        for path in model_dir.iterdir()
        if path.read_bytes() != (tmp_path / path.name).read_bytes()
    }
    assert differing == (set() if same_weights else {"model.safetensors", "README.md"})


def test_the_prompts_are_part_of_the_corpus() -> None:
    corpus = "\n".join(default_corpus())
    assert all(word in corpus for word in ("select_frames", "target_frames", "ask for them again"))


@pytest.mark.parametrize("token", [*CONTROL_TOKENS, *PLAIN_TOKENS])
def test_added_tokens_are_one_token_and_only_control_tokens_vanish(token: str) -> None:
    ids = TOKENIZER(f"a{token}b")["input_ids"]
    assert len(ids) == 3
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == (
        "ab" if token in CONTROL_TOKENS else f"a{token}b"
    )


@given(st.text())
def test_any_text_round_trips(text: str) -> None:
    normal = unicodedata.normalize("NFC", text)
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == normal


@pytest.mark.parametrize(
    ("text", "digits"), [("[12, 345]", "12345"), ("frame 2026", "2026"), ("0.50 s", "050")]
)
def test_digits_are_split_one_by_one(text: str, digits: str) -> None:
    tokens = TOKENIZER.convert_ids_to_tokens(TOKENIZER(text)["input_ids"])
    assert [token for token in tokens if any(c.isdigit() for c in token)] == list(digits)


def test_chat_template() -> None:
    messages = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "frame 1:"}, {"type": "image"}, {"type": "video"}],
        },
        {"role": "assistant", "content": "a tie"},
    ]
    assert TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nframe 1:<|vision_start|><|image_pad|><|vision_end|>"
        "<|vision_start|><|video_pad|><|vision_end|><|im_end|>\n"
        "<|im_start|>assistant\na tie<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("size", "num_tokens"), [((28, 28), 1), ((56, 56), 4), ((56, 84), 6), ((60, 50), 4)]
)
def test_a_visual_token_covers_28_by_28_pixels(
    model_dir: Path, size: tuple[int, int], num_tokens: int
) -> None:
    processor = AutoProcessor.from_pretrained(model_dir)
    ids = processor(text=["<|image_pad|>"], images=[Image.new("RGB", size)])["input_ids"][0]
    assert ids == [processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")] * num_tokens


def test_all_wrong_sizes_are_refused_at_once() -> None:
    with pytest.raises(
        ValueError, match=r"hidden=100.*text_layers=0.*vision_hidden=32.*max_vocab=9: at least 282"
    ):
        TinyModelConfig(hidden=100, text_layers=0, vision_hidden=32, max_vocab=9)
