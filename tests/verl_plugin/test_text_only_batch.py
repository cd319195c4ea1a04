"""A micro-batch without images passes through verl's forward of Qwen2.5-VL; unrepaired verl 0.9.1
still fails on it."""

from pathlib import Path

import pytest

# ruff: noqa: E402  (imports after the skip)
torch = pytest.importorskip("torch")
pytest.importorskip("verl")

import verl.models.transformers.qwen2_vl as qwen2_vl
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from verl_videosearch.from_scratch.tiny_model import BASE_CORPUS, build_tiny_model


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny_model"), text_corpus=BASE_CORPUS)


def test_text_only_is_repaired_and_the_repair_is_needed(model_dir: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(model_dir).model
    ids, mask = torch.tensor([[1, 2, 3]]), torch.ones(1, 3)
    with pytest.raises(AttributeError, match="has no attribute 'mean'"):
        qwen2_vl._get_input_embeds.__wrapped__(model, ids, mask)
    embeds, same_mask = qwen2_vl._get_input_embeds(model, ids, mask)
    assert torch.equal(embeds, model.get_input_embeddings()(ids))
    assert same_mask is mask


def test_every_parameter_takes_part_without_images(model_dir: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(model_dir).model
    embeds, _ = qwen2_vl._get_input_embeds(model, torch.tensor([[1, 2, 3]]))
    embeds.sum().backward()
    assert [name for name, weight in model.visual.named_parameters() if weight.grad is None] == []


def test_a_batch_with_images_is_left_to_verl(model_dir: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(model_dir).model
    processor = AutoProcessor.from_pretrained(model_dir)
    inputs = processor(
        text=["<|image_pad|>"], images=[Image.new("RGB", (56, 56))], return_tensors="pt"
    )
    pixels = {"pixel_values": inputs["pixel_values"], "image_grid_thw": inputs["image_grid_thw"]}
    ours, _ = qwen2_vl._get_input_embeds(model, inputs["input_ids"], **pixels)
    original, _ = qwen2_vl._get_input_embeds.__wrapped__(model, inputs["input_ids"], **pixels)
    assert ours.shape == (1, 4, 128)
    assert torch.equal(ours, original)
