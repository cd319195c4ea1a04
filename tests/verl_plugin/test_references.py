"""Frames travel by name, and the worker's pixels are those of verl's own path, bit by bit."""

import pickle
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

# ruff: noqa: E402  (imports after the skip)
torch = pytest.importorskip("torch")
pytest.importorskip("verl")

from PIL import Image
from transformers import AutoModelForImageTextToText
from verl.experimental.agent_loop import agent_loop
from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
from verl.utils.model import extract_multi_modal_inputs
from verl.utils.tokenizer import build_multimodal_processor_inputs
from verl.workers.engine.fsdp import transformer_impl

from tests.engine import model_dir, processor
from verl_videosearch.episode import Episode, EpisodeConfig
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.verl_plugin import references
from verl_videosearch.verl_plugin.references import (
    REFERENCES,
    STORE,
    StoredImage,
    drop_pixels,
    name_frames,
    name_images,
    read_images,
)
from verl_videosearch.verl_plugin.settings import FramesConfig
from verl_videosearch.verl_plugin.tokens import ContextRenderer, TokenMismatch
from verl_videosearch.video.lossless import write_lossless
from verl_videosearch.video.pair import PairFrames, load_pair

SETTINGS = EpisodeConfig(
    frames_per_video=8,
    initial_frames_per_video=2,
    initial_max_pixels=56 * 84,
    tool_max_pixels=56 * 56,
)


@cache
def renderer() -> ContextRenderer:
    return ContextRenderer(processor().tokenizer, processor())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> PairFrames:
    """Two noisy videos of another shape, larger than any budget: every frame is resized."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    shapes = ((8, 100, 140, 3), (6, 140, 90, 3))
    for side, shape in zip((1, 2), shapes, strict=True):
        write_lossless(folder / f"{side}.mkv", rng.integers(0, 256, shape, dtype=np.uint8))
    labels = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}
    sample = PreferenceSample("pair", "a cat", str(folder / "1.mkv"), str(folder / "2.mkv"), labels)
    return load_pair(sample, FramesConfig().open_store(), SETTINGS)


def list_images(pair: PairFrames, numbers: Sequence[int] = (1, 8, 9, 14, 3)) -> list[Image.Image]:
    return [
        pair.image(number, SETTINGS.initial_max_pixels if i < 4 else SETTINGS.tool_max_pixels)
        for i, number in enumerate(numbers)
    ]


def make_inputs(images: Sequence[Any]) -> dict[str, Any]:
    """Build a sequence's inputs as verl's worker does (`_compute_multi_modal_inputs`)."""
    worker = SimpleNamespace(tokenizer=processor().tokenizer, processor=processor())
    text = renderer().render([{"role": "user", "content": [{"type": "image"}] * len(images)}])
    input_ids = torch.tensor([renderer().tokenize(text, images)])
    output = SimpleNamespace(multi_modal_data={"images": list(images)}, mm_processor_kwargs={})
    inputs = AgentLoopWorker._compute_multi_modal_inputs(worker, output, input_ids)
    positions = AgentLoopWorker._compute_position_ids(
        worker, input_ids, torch.ones_like(input_ids), inputs
    )
    return inputs | {"input_ids": input_ids, "position_ids": positions}


@pytest.fixture
def by_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say whose processor makes pixels, as the engine's `prepare_model_inputs` does."""
    token = references._processor.set(processor())
    yield
    references._processor.reset(token)


def test_both_seams_of_verl_are_wrapped() -> None:
    assert agent_loop.build_multimodal_processor_inputs is not build_multimodal_processor_inputs
    wrapped = agent_loop.build_multimodal_processor_inputs.__wrapped__
    assert wrapped is build_multimodal_processor_inputs
    assert transformer_impl.extract_multi_modal_inputs.__wrapped__ is extract_multi_modal_inputs
    engine = transformer_impl.FSDPEngineWithLMHead
    assert engine.prepare_model_inputs.__module__ == transformer_impl.__name__
    assert hasattr(engine.prepare_model_inputs, "__wrapped__")


def test_pixels_and_positions_are_those_of_the_pixel_path(
    pair: PairFrames, by_processor: None
) -> None:
    images = list_images(pair)
    stored = [drop_pixels(image, FramesConfig()) for image in images]
    expected, named = make_inputs(images), make_inputs(stored)
    assert "pixel_values" not in named and len(named[REFERENCES]) == 5
    assert len({image.size for image in images}) == 3
    for name in ("input_ids", "position_ids", "image_grid_thw", "images_seqlens"):
        assert torch.equal(named[name], expected[name]), name
    rows = [{name: inputs[name] for name in inputs if "_ids" not in name} for inputs in (named,)]
    got = transformer_impl.extract_multi_modal_inputs([None, *rows, {}])
    want = extract_multi_modal_inputs([{k: v for k, v in expected.items() if "_ids" not in k}])
    assert set(got) == set(want)
    for name, value in want.items():
        assert torch.equal(got[name], value), name


def test_log_probabilities_are_those_of_the_pixel_path(
    pair: PairFrames, by_processor: None
) -> None:
    """Bit by bit, in float32, for two sequences that share frames."""
    model = AutoModelForImageTextToText.from_pretrained(model_dir(), dtype=torch.float32).eval()
    for numbers in ((1, 8, 9, 14, 3), (1, 8, 9, 14)):
        images = list_images(pair, numbers)
        results = []
        for form in (images, [drop_pixels(image, FramesConfig()) for image in images]):
            inputs = make_inputs(form)
            visual = transformer_impl.extract_multi_modal_inputs(
                [{k: v for k, v in inputs.items() if k not in ("input_ids", "position_ids")}]
            )
            with torch.no_grad():
                logits = model(
                    input_ids=inputs["input_ids"],
                    attention_mask=torch.ones_like(inputs["input_ids"]),
                    mm_token_type_ids=(inputs["input_ids"] == processor().image_token_id).long(),
                    pixel_values=visual["pixel_values"],
                    image_grid_thw=visual["image_grid_thw"],
                ).logits
            results.append(logits.log_softmax(-1))
        assert torch.equal(*results)


def test_a_frame_of_several_sequences_is_read_once(
    pair: PairFrames, by_processor: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = [drop_pixels(image, FramesConfig()) for image in list_images(pair)]
    rows = [make_inputs(stored), make_inputs(stored[:4])]
    rows = [{k: v for k, v in row.items() if "_ids" not in k} for row in rows]
    read, store = [], references.open_store(rows[0][STORE])
    read_frames = type(store).read_frames

    def count(self: Any, key: str, indices: Sequence[int], max_pixels: int | None) -> Any:
        read.extend((key, index, max_pixels) for index in indices)
        return read_frames(self, key, indices, max_pixels)

    monkeypatch.setattr(type(store), "read_frames", count)
    pixels = transformer_impl.extract_multi_modal_inputs(rows)["pixel_values"]
    assert len(read) == len(set(read)) == 5
    assert len(pixels) == sum(int(row["image_grid_thw"].prod(dim=1).sum()) for row in rows)


def test_a_sequence_is_small(pair: PairFrames) -> None:
    stored = [drop_pixels(image, FramesConfig()) for image in list_images(pair)]
    visual = {k: v for k, v in make_inputs(stored).items() if "_ids" not in k}
    assert len(pickle.dumps(visual)) < 4000


def test_frames_are_named_without_touching_a_pixel(
    pair: PairFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = PreferenceSample("p", "a cat", "1", "2", {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1})
    messages = Episode(sample, pair.candidates, SETTINGS).messages()
    expected = [drop_pixels(image, FramesConfig()) for image in pair.images(messages)]
    monkeypatch.setattr(PairFrames, "image", None)
    assert name_frames(pair, messages, FramesConfig()) == expected


def test_images_of_no_store_take_verl_s_own_path(pair: PairFrames) -> None:
    made_up = Image.fromarray(np.asarray(pair.image(1, 56 * 56)))
    assert drop_pixels(made_up, FramesConfig()) is made_up
    inputs = make_inputs([made_up])
    assert "pixel_values" in inputs and REFERENCES not in inputs


def test_only_the_images_of_no_store_travel_as_pixels(pair: PairFrames, by_processor: None) -> None:
    """A zoomed part of a frame lies in no store; the frames of its sequence do."""
    zoomed, other = (pair.image(n, 56 * 56, (0.0, 0.0, 0.5, 0.5)) for n in (2, 9))
    sequences = [
        list_images(pair),
        [pair.image(1, 56 * 56), zoomed],
        [other, *list_images(pair), zoomed, pair.image(4, 56 * 84)],
        [zoomed],
        list_images(pair, (9, 3)),
    ]
    rows, plain = [], []
    for images in sequences:
        stored = [drop_pixels(image, FramesConfig()) for image in images]
        for found, inputs in ((rows, make_inputs(stored)), (plain, make_inputs(images))):
            found.append({k: v for k, v in inputs.items() if "_ids" not in k})
    assert [REFERENCES in row for row in rows] == [True, True, True, False, True]
    num_patches = int(rows[3]["image_grid_thw"].prod())
    carried = [len(row.get("pixel_values", ())) for row in rows]
    assert carried[:2] == [0, num_patches] and carried[3:] == [num_patches, 0]
    assert num_patches < carried[2] < len(plain[2]["pixel_values"])
    got = transformer_impl.extract_multi_modal_inputs(rows)
    for name, value in extract_multi_modal_inputs(plain).items():
        assert torch.equal(got[name], value), name


def test_a_processor_that_makes_more_of_an_image_gets_pixels(pair: PairFrames) -> None:
    seen = []

    def build(processor: Any, *, text: Any, images: Any = None, **kwargs: Any) -> str:
        seen.extend(images)
        return "built"

    other = SimpleNamespace(image_processor=SimpleNamespace(model_input_names=["tgt_sizes"]))
    stored = [drop_pixels(pair.image(1, 56 * 56), FramesConfig())]
    assert name_images(build)(other, text=[""], images=stored) == "built"
    assert [image.tobytes() for image in seen] == [pair.image(1, 56 * 56).tobytes()]


def test_rows_without_images_pass(by_processor: None) -> None:
    assert read_images(lambda rows: rows)([None, {}, {"image_grid_thw": 1}]) == [
        None,
        {},
        {"image_grid_thw": 1},
    ]


def test_an_engine_without_processor_says_so(pair: PairFrames) -> None:
    inputs = make_inputs([drop_pixels(pair.image(1, 56 * 56), FramesConfig())])
    with pytest.raises(RuntimeError, match="without a processor"):
        transformer_impl.extract_multi_modal_inputs([inputs])


def test_placeholders_and_images_must_match() -> None:
    with pytest.raises(TokenMismatch, match="1 image placeholders for 0 images"):
        text = renderer().render([{"role": "user", "content": [{"type": "image"}]}])
        renderer().tokenize(text, [])


def test_a_named_image_tokenises_as_its_pixels(pair: PairFrames) -> None:
    """Against the processor itself, which looks at the pixels."""
    images = list_images(pair)
    text = renderer().render([{"role": "user", "content": [{"type": "image"}] * len(images)}])
    whole = processor()(text=[text], images=images, return_tensors="pt")["input_ids"][0].tolist()
    stored = [drop_pixels(image, FramesConfig()) for image in images]
    assert all(isinstance(image, StoredImage) for image in stored)
    assert renderer().tokenize(text, stored) == renderer().tokenize(text, images) == whole


def test_the_store_of_another_process_is_found(tmp_path: Path) -> None:
    frames = FramesConfig(store_dir=str(tmp_path / "store"), max_gigabytes=0.5)
    assert references.open_store(references._to_json(frames)).root == tmp_path / "store"
