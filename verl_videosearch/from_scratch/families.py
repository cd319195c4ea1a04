"""Families of base models that a tiny model can belong to: what its architecture, tokens, patches
and chat template have of the real one.

The one idea: a family differs where our code could trip over it, so that is what is real here. The
chat templates are short, but do what the models' own do:

| family | a later context | the generation prompt |
|---|---|---|
| `qwen2_5_vl` | shows a reply as it was | opens the turn |
| `qwen3_vl` | shows a reply as it was | opens the turn; the tokenizer knows `<think>` |
| `qwen3_vl_thinking` | drops thoughts of answered turns | opens a thought, which no history has |
| `qwen3_5` | drops them and blanks around a reply | opens a thought or writes an empty one |

Covers: dense models. Does not cover: tools of the templates (ours stand in the system text), the
mixture-of-experts variants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_5.tokenization_qwen3_5 import PRETOKENIZE_REGEX as QWEN3_5_REGEX
from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

if TYPE_CHECKING:
    from verl_videosearch.from_scratch.tiny_model import TinyModelConfig

HEAD_SIZE = 64  # vLLM's CPU attention (0.24) refuses small heads, such as 16
MERGE_SIZE = 2
MAX_POSITIONS = 32768
GRID_SIDE = 16  # learnt vision positions per side, interpolated to an image (Qwen3-VL: 48)

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
"""The special tokens of all families, in their order: left out when text is decoded with
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
"""Added tokens that count as text: decoding keeps them, so a tool call stays readable."""

THINKING_TOKENS = ("<tool_response>", "</tool_response>", "<think>", "</think>")
"""Further ones of Qwen3-VL, Instruct and Thinking, and Qwen3.5; text, too."""

_CONTENT = (
    "{%- macro show(content) -%}"
    "{%- if content is string -%}{{- content -}}{%- else -%}{%- for item in content -%}"
    "{%- if item.type == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif item.type == 'video' -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}"
    "{%- else -%}{{- item.text -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- endmacro -%}"
)
"""A message's texts, and placeholders of its images."""

_DEFAULT_SYSTEM = (
    "{%- if messages[0].role != 'system' -%}"
    "{{- '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' -}}"
    "{%- endif -%}"
)

_PLAIN_TURNS = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\n' + show(message.content) + '<|im_end|>\n' -}}"
    "{%- endfor -%}"
)

_OPEN_TURN = "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"

_THOUGHTFUL_TURNS = (
    "{%- set last = namespace(question=-1) -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'user' -%}{%- set last.question = loop.index0 -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- for message in messages -%}"
    "{%- set text = show(message.content)TRIM -%}"
    "{{- '<|im_start|>' + message.role + '\n' -}}"
    "{%- if message.role != 'assistant' -%}{{- text -}}"
    "{%- else -%}"
    "{%- set thought = '' -%}"
    "{%- if '</think>' in text -%}"
    "{%- set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') -%}"
    "{%- set text = text.split('</think>')[-1].lstrip('\n') -%}"
    "{%- endif -%}"
    "{%- if loop.index0 > last.question -%}"
    "{{- '<think>\n' + thought + '\n</think>\n\n' -}}"
    "{%- endif -%}"
    "{{- text -}}"
    "{%- endif -%}"
    "{{- '<|im_end|>\n' -}}"
    "{%- endfor -%}"
)
"""Turns of a thinking model: a thought is shown as long as its turn is the last one."""

_OPEN_THOUGHT = (
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n<think>\n' -}}{%- endif -%}"
)

_OPEN_THOUGHT_IF_ENABLED = (
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n<think>\n' -}}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}"
    "{{- '\n</think>\n\n' -}}{%- endif -%}{%- endif -%}"
)


class ModelFamily(str, Enum):
    """A family of base models."""

    QWEN2_5_VL = "qwen2_5_vl"
    QWEN3_VL = "qwen3_vl"
    QWEN3_VL_THINKING = "qwen3_vl_thinking"
    QWEN3_5 = "qwen3_5"


@dataclass(frozen=True)
class Family:
    """What a tiny model has of its family."""

    title: str
    """The name that people know."""
    patch_size: int
    """Side of a patch in pixels; a visual token covers `MERGE_SIZE` x `MERGE_SIZE` patches."""
    plain_tokens: tuple[str, ...]
    """Added tokens that count as text."""
    chat_template: str
    make_model: Callable[[Mapping[str, int], int, TinyModelConfig], PreTrainedModel]
    """Makes random weights from the ids of control tokens, the vocabulary's size and the sizes."""
    tokenizer: type = Qwen2Tokenizer
    split_regex: str = PRETOKENIZE_REGEX
    """How the tokenizer splits text before it merges bytes."""
    processor: type = Qwen3VLProcessor
    video_processor: type = Qwen3VLVideoProcessor


def _text_sizes(ids: Mapping[str, int], num_ids: int, size: TinyModelConfig) -> dict[str, Any]:
    """Return what the text layers of all families share."""
    return {
        "vocab_size": num_ids,
        "hidden_size": size.hidden,
        "intermediate_size": 3 * size.hidden,
        "num_hidden_layers": size.text_layers,
        "num_attention_heads": size.hidden // HEAD_SIZE,
        "num_key_value_heads": size.hidden // HEAD_SIZE,
        "max_position_embeddings": MAX_POSITIONS,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }


def _vision_sizes(patch_size: int, size: TinyModelConfig) -> dict[str, Any]:
    """Return what the vision towers of all families share."""
    return {
        "depth": size.vision_layers,
        "hidden_size": size.vision_hidden,
        "intermediate_size": 3 * size.vision_hidden,
        "num_heads": size.vision_hidden // HEAD_SIZE,
        "out_hidden_size": size.hidden,
        "patch_size": patch_size,
        "spatial_merge_size": MERGE_SIZE,
    }


def _placeholders(ids: Mapping[str, int]) -> dict[str, Any]:
    """Return what every whole model says of its placeholders and weights."""
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": False,
        "dtype": "float32",
    }


def _make_qwen2_5_vl(
    ids: Mapping[str, int], num_ids: int, size: TinyModelConfig
) -> PreTrainedModel:
    rope = {
        "rope_type": "default",
        "rope_theta": 1_000_000.0,
        # half the head size, shared by time, height and width as in Qwen2.5-VL, 2 : 3 : 3
        "mrope_section": [8, 12, 12],
    }
    vision = {"fullatt_block_indexes": [size.vision_layers - 1]}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=_text_sizes(ids, num_ids, size) | {"rope_parameters": rope},
            vision_config=_vision_sizes(14, size) | vision,
            **_placeholders(ids),
        )
    )


def _make_qwen3_vl(ids: Mapping[str, int], num_ids: int, size: TinyModelConfig) -> PreTrainedModel:
    rope = {
        "rope_type": "default",
        "rope_theta": 5_000_000.0,
        "mrope_section": [12, 10, 10],  # as in Qwen3-VL, 6 : 5 : 5
        "mrope_interleaved": True,
    }
    # features of these vision layers are added to as many of the first text layers
    num_deep = min(max(size.vision_layers - 1, 1), size.text_layers)
    vision = {
        "num_position_embeddings": GRID_SIDE**2,
        "deepstack_visual_indexes": list(range(num_deep)),
    }
    text = {"rope_parameters": rope, "head_dim": HEAD_SIZE}
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            text_config=_text_sizes(ids, num_ids, size) | text,
            vision_config=_vision_sizes(16, size) | vision,
            **_placeholders(ids),
        )
    )


def _make_qwen3_5(ids: Mapping[str, int], num_ids: int, size: TinyModelConfig) -> PreTrainedModel:
    rope = {
        "rope_type": "default",
        "rope_theta": 10_000_000.0,
        "mrope_section": [3, 3, 2],  # as in Qwen3.5, 11 : 11 : 10, of a quarter of the head size
        "mrope_interleaved": True,
        "partial_rotary_factor": 0.25,
    }
    num_layers = size.text_layers
    text = {
        "rope_parameters": rope,
        "head_dim": HEAD_SIZE,
        # three of four layers are linear in Qwen3.5; here all but the last
        "layer_types": ["linear_attention"] * (num_layers - 1) + ["full_attention"],
        "linear_key_head_dim": HEAD_SIZE,
        "linear_value_head_dim": HEAD_SIZE,
        "linear_num_key_heads": size.hidden // HEAD_SIZE,
        "linear_num_value_heads": size.hidden // HEAD_SIZE,
    }
    vision = {"num_position_embeddings": GRID_SIDE**2}
    return Qwen3_5ForConditionalGeneration(
        Qwen3_5Config(
            text_config=_text_sizes(ids, num_ids, size) | text,
            vision_config=_vision_sizes(16, size) | vision,
            **_placeholders(ids),
        )
    )


FAMILIES = {
    ModelFamily.QWEN2_5_VL: Family(
        title="Qwen2.5-VL",
        patch_size=14,
        plain_tokens=PLAIN_TOKENS,
        chat_template=_CONTENT + _DEFAULT_SYSTEM + _PLAIN_TURNS + _OPEN_TURN,
        make_model=_make_qwen2_5_vl,
        processor=Qwen2_5_VLProcessor,
        video_processor=Qwen2VLVideoProcessor,
    ),
    ModelFamily.QWEN3_VL: Family(
        title="Qwen3-VL-Instruct",
        patch_size=16,
        plain_tokens=(*PLAIN_TOKENS, *THINKING_TOKENS),
        chat_template=_CONTENT + _PLAIN_TURNS + _OPEN_TURN,
        make_model=_make_qwen3_vl,
    ),
    ModelFamily.QWEN3_VL_THINKING: Family(
        title="Qwen3-VL-Thinking",
        patch_size=16,
        plain_tokens=(*PLAIN_TOKENS, *THINKING_TOKENS),
        chat_template=_CONTENT + _THOUGHTFUL_TURNS.replace("TRIM", "") + _OPEN_THOUGHT,
        make_model=_make_qwen3_vl,
    ),
    ModelFamily.QWEN3_5: Family(
        title="Qwen3.5",
        patch_size=16,
        plain_tokens=(*PLAIN_TOKENS, *THINKING_TOKENS),
        chat_template=(
            _CONTENT + _THOUGHTFUL_TURNS.replace("TRIM", "|trim") + _OPEN_THOUGHT_IF_ENABLED
        ),
        make_model=_make_qwen3_5,
        tokenizer=Qwen3_5Tokenizer,
        split_regex=QWEN3_5_REGEX,
    ),
}
