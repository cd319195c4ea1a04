"""Build a model of about a million random parameters, with its own tokenizer, as a Hugging Face
folder: Qwen2.5-VL, or another family.

The one idea: everything but the size is real. The folder holds the files of a real checkpoint
(config, weights, tokenizer, chat template, image and video processor), so transformers, vLLM and
verl load it unchanged and the whole system runs on two CPU cores.

    python -m verl_videosearch.from_scratch.tiny_model OUT_DIR --seed 0
    python -m verl_videosearch.from_scratch.tiny_model OUT_DIR --family qwen3_vl_thinking

The same seed, corpus and size give the same bytes. Covers: architecture, special tokens, M-RoPE,
images and videos of whole patches. Does not cover: any skill; the weights are random until somebody
trains them.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedModel
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from verl_videosearch.from_scratch.families import (
    CONTROL_TOKENS,
    FAMILIES,
    HEAD_SIZE,
    MAX_POSITIONS,
    MERGE_SIZE,
    PLAIN_TOKENS,
    THINKING_TOKENS,
    ModelFamily,
)
from verl_videosearch.prompts.pack import BUILT_IN, load_pack

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
# Tiny {title} for tests and demonstrations

{num_parameters:,} parameters with **random weights** (seed {seed}) and {vocab_size:,} tokens, \
made by
`python -m verl_videosearch.from_scratch.tiny_model`. It has the architecture \
and file layout of {title} and knows nothing: for
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
        min_vocab = 256 + len(CONTROL_TOKENS) + len(PLAIN_TOKENS) + len(THINKING_TOKENS)
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
    family: ModelFamily = ModelFamily.QWEN2_5_VL,
) -> Path:
    """Write a model folder and return its path; `text_corpus` defaults to our prompts and the
    words of a reply."""
    out_dir, size = Path(out_dir), size or TinyModelConfig()
    corpus = default_corpus() if text_corpus is None else text_corpus
    tokenizer = train_tokenizer(corpus, size.max_vocab, family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_model(tokenizer, size, family)
    model.generation_config.eos_token_id = [
        model.config.text_config.eos_token_id,
        tokenizer.pad_token_id,
    ]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(out_dir)
    make_processor(tokenizer, family=family).save_pretrained(out_dir)
    card = MODEL_CARD.format(
        title=FAMILIES[family].title,
        num_parameters=model.num_parameters(),
        seed=seed,
        vocab_size=len(tokenizer),
    )
    (out_dir / "README.md").write_text(card, encoding="utf-8")
    return out_dir


def default_corpus() -> list[str]:
    """Return the words of the built-in prompt packs and those that a reply is made of."""
    words = [load_pack(name).words.values() for name in BUILT_IN]
    return [*BASE_CORPUS, *(text for texts in words for text in texts if text is not None)]


def train_tokenizer(
    text_corpus: Iterable[str], max_vocab: int, family: ModelFamily = ModelFamily.QWEN2_5_VL
) -> Any:
    """Train a byte-level BPE that splits text as the family's does: digits one by one, any text in
    NFC form round-trips."""
    look = FAMILIES[family]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(look.split_regex), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=max_vocab - len(CONTROL_TOKENS) - len(look.plain_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(text_corpus, trainer)
    learned = json.loads(bpe.to_str())["model"]
    return make_tokenizer(learned["vocab"], [tuple(pair) for pair in learned["merges"]], family)


def make_tokenizer(
    vocab: dict[str, int],
    merges: list[tuple[str, str]],
    family: ModelFamily = ModelFamily.QWEN2_5_VL,
) -> Any:
    """Put the family's added tokens behind a byte-level vocabulary, and its chat template beside
    it."""
    look = FAMILIES[family]
    added = (*CONTROL_TOKENS, *look.plain_tokens)
    tokenizer = look.tokenizer(
        vocab=vocab | {token: len(vocab) + i for i, token in enumerate(added)},
        merges=merges,
        eos_token="<|im_end|>",
        model_max_length=MAX_POSITIONS,
        chat_template=look.chat_template,
    )
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False, special=True) for token in CONTROL_TOKENS]
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in look.plain_tokens])
    return tokenizer


def make_model(tokenizer: Any, size: TinyModelConfig, family: ModelFamily) -> PreTrainedModel:
    """Return random weights; the vocabulary is exactly the tokenizer's, without padding rows.

    verl 0.9.1 masks ids beyond the tokenizer in vLLM and not in the trainer, so padding would set
    their log-probabilities apart (our trainer leaves them out, verl_plugin/banned_ids.py; others
    that load this model do not).
    """
    ids = dict(zip(CONTROL_TOKENS, tokenizer.convert_tokens_to_ids(CONTROL_TOKENS), strict=True))
    return FAMILIES[family].make_model(ids, len(tokenizer), size)


def make_processor(
    tokenizer: Any,
    min_image_tokens: int = 1,
    max_image_tokens: int = 1280,
    family: ModelFamily = ModelFamily.QWEN2_5_VL,
) -> Any:
    """Return the stock processor; pictures of fewer or more visual tokens (each 28 x 28 pixels, or
    32 x 32) are resized."""
    look = FAMILIES[family]
    one_token = (look.patch_size * MERGE_SIZE) ** 2
    settings = {
        "patch_size": look.patch_size,
        "merge_size": MERGE_SIZE,
        "size": {
            "shortest_edge": min_image_tokens * one_token,
            "longest_edge": max_image_tokens * one_token,
        },
    }
    if family is not ModelFamily.QWEN2_5_VL:  # their pixels run from -1 to 1
        settings |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return look.processor(
        image_processor=Qwen2VLImageProcessor(**settings),
        tokenizer=tokenizer,
        video_processor=look.video_processor(**settings),
        chat_template=look.chat_template,
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
    family: Annotated[
        ModelFamily, typer.Option(help="Whose architecture and chat template.")
    ] = ModelFamily.QWEN2_5_VL,
) -> None:
    """Write a tiny model with random weights, for tests and demonstrations."""
    size = TinyModelConfig(hidden, text_layers, vision_hidden, vision_layers, max_vocab)
    typer.echo(build_tiny_model(out_dir, seed=seed, size=size, family=family))


if __name__ == "__main__":
    typer.run(main)
