"""Models of real sizes with random weights: Qwen2.5-VL of 3B and 7B, with Qwen's own tokenizer."""

from __future__ import annotations

from pathlib import Path

from benchmarks.sequence_lengths import make_qwen_processor
from verl_videosearch.extras import Extra, require

TEXT = {
    "3b": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    },
}
"""The shapes that Qwen publishes (config.json of Qwen2.5-VL-3B and -7B)."""
VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}
TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


def write_model(folder: Path, size: str) -> int:
    """Write a bfloat16 model made on the first GPU; returns its number of parameters."""
    torch, transformers = require("torch", Extra.GPU), require("transformers", Extra.GPU)
    processor = make_qwen_processor()
    ids = processor.tokenizer.convert_tokens_to_ids
    ends = {
        "bos_token_id": ids("<|endoftext|>"),
        "eos_token_id": ids("<|im_end|>"),
        "pad_token_id": ids("<|endoftext|>"),
    }
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    config = transformers.Qwen2_5_VLConfig(
        text_config=TEXT[size]
        | ends
        | {"max_position_embeddings": 128000, "rope_parameters": rope},
        vision_config=VISION | {"out_hidden_size": TEXT[size]["hidden_size"]},
        tie_word_embeddings=size == "3b",
        dtype="bfloat16",
        **{name: ids(token) for name, token in TOKENS.items()},
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            torch.manual_seed(0)
            model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = [ends["eos_token_id"], ends["pad_token_id"]]
    model.generation_config.pad_token_id = ends["pad_token_id"]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())
