"""Build a Qwen2.5-VL of about a million random parameters, with its own tokenizer, as a Hugging
Face folder.

The one idea: everything but the size is real. The folder holds the files of a real checkpoint
(config, weights, tokenizer, chat template, image and video processor), so transformers, vLLM and
verl load it unchanged and the whole system runs on two CPU cores.

    python -m verl_videosearch.from_scratch.tiny_model OUT_DIR --seed 0

The same seed, corpus and size give the same bytes. Covers: architecture, special tokens, M-RoPE,
images and videos of multiples of 28 pixels. Does not cover: any skill; the weights are random until
somebody trains them.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from verl_videosearch.prompts.pack import BUILT_IN, load_pack

HEAD_SIZE = 64  # vLLM's CPU attention (0.24) refuses small heads, such as 16
PATCH_SIZE = 14
MERGE_SIZE = 2  # one visual token covers 28 x 28 pixels
MAX_POSITIONS = 32768
MROPE_SECTION = [
    8,
    12,
    12,
]  # half the head size, shared by time, height and width as in Qwen2.5-VL, 2 : 3 : 3

CONTROL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Qwen2.5-VL's special tokens, in its order: left out when text is decoded with
`skip_special_tokens`."""

PLAIN_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
"""Qwen2.5-VL's added tokens that count as text: decoding keeps them, so a tool call stays
readable."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message.role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for item in "
    "message.content %}"
    "{% if item.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif item.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ item.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML with vision placeholders, as Qwen2.5-VL renders it; like that one it has no section for
tools."""

BASE_CORPUS = (
    "<Snapshot> </Snapshot> <Think> </Think> <Recommend Answer> </Recommend Answer> <Answer> "
    "</Answer>",
    "<Recommend Answer>TA=0, VQ=1, MQ=2, OA=1, CF=2</Recommend Answer>\n<Answer>TA=0, VQ=1, "
    "MQ=2, OA=1</Answer>",
    '<tool_call>\n{"name": "select_frames", "arguments": {"target_frames": [12, 16, 76, '
    "80]}}\n</tool_call>",
    "text alignment, visual quality, motion quality, overall, tie, video 1 is better, video "
    "2 is better, both equal",
    "frame 1 to frame 96 at 0.5 s: clean, defect, noise, snow, tint, blur, blocks, square, "
    "inverted, grey, frozen, "
    "jumps, tearing, flicker, brighter, darker, marker, hidden, visible, nothing, start, "
    "middle, end, between, gap",
    "look behind the marker on 5, 21; something may hide there, look again to be sure, check "
    "more frames; dim, comb, "
    "flash; so video 1 wins, no difference, a tie, video 2 is better, both equal",
    "A small plum circle, large sand ring, rust triangle, teal or moss diamond moves left "
    "and right, up or down over a "
    "navy, slate, khaki, brown background.",
)
"""What a reply is made of, whatever the wording of the prompts: tags, verdicts, a call, words
for what is seen."""

MODEL_CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
---
# Tiny Qwen2.5-VL for tests and demonstrations

{num_parameters:,} parameters with **random weights** (seed {seed}) and {vocab_size:,} tokens, \
made by
`python -m verl_videosearch.from_scratch.tiny_model`. It has the architecture \
and file layout of Qwen2.5-VL and knows nothing: for
tests and demonstrations only.
"""


@dataclass(frozen=True)
class TinyModelConfig:
    """Size of the model; the defaults give about a million parameters."""

    hidden: int = 128
    """Width of the text layers, a multiple of the head size 64."""
    text_layers: int = 2
    """Number of text layers."""
    vision_hidden: int = 64
    """Width of the vision layers, a multiple of 64."""
    vision_layers: int = 2
    """Number of vision layers; the last one attends over the whole image, the others in windows."""
    max_vocab: int = 1500
    """Upper limit of the vocabulary with all added tokens; a small corpus may yield fewer."""

    def __post_init__(self) -> None:
        """Refuse sizes that no loader accepts, all of them at once."""
        wrong = [
            f"{name}={value}: allowed are multiples of {step} from {step}"
            for name, value, step in (
                ("hidden", self.hidden, HEAD_SIZE),
                ("text_layers", self.text_layers, 1),
                ("vision_hidden", self.vision_hidden, HEAD_SIZE),
                ("vision_layers", self.vision_layers, 1),
            )
            if value < step or value % step
        ]
        min_vocab = 256 + len(CONTROL_TOKENS) + len(PLAIN_TOKENS)
        if self.max_vocab < min_vocab:
            wrong.append(
                f"max_vocab={self.max_vocab}: at least {min_vocab}, all bytes and the added tokens"
            )
        if wrong:
            raise ValueError("; ".join(wrong))


def build_tiny_model(
    out_dir: str | Path,
    *,
    seed: int = 0,
    text_corpus: Iterable[str] | None = None,
    size: TinyModelConfig | None = None,
) -> Path:
    """Write a model folder and return its path; `text_corpus` defaults to our prompts and the
    words of a reply."""
    out_dir, size = Path(out_dir), size or TinyModelConfig()
    tokenizer = train_tokenizer(
        default_corpus() if text_corpus is None else text_corpus, size.max_vocab
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(model_config(tokenizer, size))
    model.generation_config.eos_token_id = [
        model.config.text_config.eos_token_id,
        tokenizer.pad_token_id,
    ]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(out_dir)
    make_processor(tokenizer).save_pretrained(out_dir)
    card = MODEL_CARD.format(
        num_parameters=model.num_parameters(), seed=seed, vocab_size=len(tokenizer)
    )
    (out_dir / "README.md").write_text(card, encoding="utf-8")
    return out_dir


def default_corpus() -> list[str]:
    """Return the words of the built-in prompt packs and those that a reply is made of."""
    words = [load_pack(name).words.values() for name in BUILT_IN]
    return [*BASE_CORPUS, *(text for texts in words for text in texts if text is not None)]


def train_tokenizer(text_corpus: Iterable[str], max_vocab: int) -> Qwen2Tokenizer:
    """Train a byte-level BPE that splits text as Qwen's does: digits one by one, any text in NFC
    form round-trips."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=max_vocab - len(CONTROL_TOKENS) - len(PLAIN_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(text_corpus, trainer)
    learned = json.loads(bpe.to_str())["model"]
    return make_tokenizer(learned["vocab"], [tuple(pair) for pair in learned["merges"]])


def make_tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Qwen2Tokenizer:
    """Put Qwen2.5-VL's added tokens behind a byte-level vocabulary, and its chat template beside
    it."""
    tokenizer = Qwen2Tokenizer(
        vocab=vocab
        | {token: len(vocab) + i for i, token in enumerate((*CONTROL_TOKENS, *PLAIN_TOKENS))},
        merges=merges,
        eos_token="<|im_end|>",
        model_max_length=MAX_POSITIONS,
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False, special=True) for token in CONTROL_TOKENS]
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in PLAIN_TOKENS])
    return tokenizer


def model_config(tokenizer: Qwen2Tokenizer, size: TinyModelConfig) -> Qwen2_5_VLConfig:
    """Return the architecture; the vocabulary is exactly the tokenizer's, without padding rows.

    verl 0.9.1 masks ids beyond the tokenizer in vLLM and not in the trainer, so padding would set
    their log-probabilities apart (our trainer leaves them out, verl_plugin/banned_ids.py; others
    that load this model do not).
    """
    ids = dict(zip(CONTROL_TOKENS, tokenizer.convert_tokens_to_ids(CONTROL_TOKENS), strict=True))
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": size.hidden,
            "intermediate_size": 3 * size.hidden,
            "num_hidden_layers": size.text_layers,
            "num_attention_heads": size.hidden // HEAD_SIZE,
            "num_key_value_heads": size.hidden // HEAD_SIZE,
            "max_position_embeddings": MAX_POSITIONS,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1_000_000.0,
                "mrope_section": MROPE_SECTION,
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": size.vision_layers,
            "hidden_size": size.vision_hidden,
            "intermediate_size": 3 * size.vision_hidden,
            "num_heads": size.vision_hidden // HEAD_SIZE,
            "out_hidden_size": size.hidden,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGE_SIZE,
            "fullatt_block_indexes": [size.vision_layers - 1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
        dtype="float32",
    )


def make_processor(
    tokenizer: Qwen2Tokenizer, min_image_tokens: int = 1, max_image_tokens: int = 1280
) -> Qwen2_5_VLProcessor:
    """Return the stock processor; pictures of fewer or more visual tokens, of 28 x 28 pixels
    each, are resized."""
    one_token = (PATCH_SIZE * MERGE_SIZE) ** 2
    pixels = {
        "size": {
            "shortest_edge": min_image_tokens * one_token,
            "longest_edge": max_image_tokens * one_token,
        }
    }
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**pixels),
        chat_template=CHAT_TEMPLATE,
    )


def main(
    out_dir: Annotated[Path, typer.Argument(help="Folder to write; created if missing.")],
    seed: Annotated[int, typer.Option(help="Seed of the weights.")] = 0,
    hidden: Annotated[int, typer.Option(help="Width of the text layers.")] = TinyModelConfig.hidden,
    text_layers: Annotated[
        int, typer.Option(help="Number of text layers.")
    ] = TinyModelConfig.text_layers,
    vision_hidden: Annotated[
        int, typer.Option(help="Width of the vision layers.")
    ] = TinyModelConfig.vision_hidden,
    vision_layers: Annotated[
        int, typer.Option(help="Number of vision layers.")
    ] = TinyModelConfig.vision_layers,
    max_vocab: Annotated[
        int, typer.Option(help="Upper limit of the vocabulary.")
    ] = TinyModelConfig.max_vocab,
) -> None:
    """Write a tiny Qwen2.5-VL with random weights, for tests and demonstrations."""
    size = TinyModelConfig(hidden, text_layers, vision_hidden, vision_layers, max_vocab)
    typer.echo(build_tiny_model(out_dir, seed=seed, size=size))


if __name__ == "__main__":
    typer.run(main)
