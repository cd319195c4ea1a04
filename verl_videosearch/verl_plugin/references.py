"""Frames by reference: a training sequence says which stored frames it shows, the worker that
trains reads them.

The one idea: verl 0.9.1 stores float32 `pixel_values` with every sequence (14 times the bytes of a
frame, each frame once per sequence) although every frame lies in the frame store once. So between
the two places where verl touches pixels, only names travel::

    agent loop   build_multimodal_processor_inputs(images)    StoredImage -> sizes and references,
                 no pixel
    worker       extract_multi_modal_inputs(micro-batch)      references -> bytes of the store ->
                 pixel_values

Both are module globals that verl looks up when it calls them; `hooks.on_import` wraps them. The
pixels that the worker makes are those of the pixel path, bit by bit: the same bytes (uint8, sized
by the store's CPU code, which vLLM's images came from) through the same image processor. On an
accelerator that runs on the device.

Covers: processors whose images become `pixel_values` and `image_grid_thw` (Qwen2-VL to Qwen3.5).
Any other one takes verl's own path with pixels. An image that came from no store (a zoomed part of
a frame) travels as its pixels, between the names of its sequence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import lru_cache, wraps
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature

from verl_videosearch.episode import Message, images_of
from verl_videosearch.verl_plugin.settings import FramesConfig
from verl_videosearch.video.pair import REFERENCE, PairFrames
from verl_videosearch.video.reference import FrameReference
from verl_videosearch.video.store import FrameStore

REFERENCES = "frame_references"
"""Name beside `image_grid_thw` in a sequence's multi-modal inputs: one text per image."""
UNSTORED = ""
"""That text of an image that lies in no store: its patches are in `pixel_values`."""
STORE = "frame_store"
"""Name beside it: the node `videosearch.frames` as JSON, so that a worker opens the store of its
own
machine."""
PIXELS = "pixel_values"
GRID = "image_grid_thw"
_TEXT_INPUTS = {"input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"}

_processor: ContextVar[Any] = ContextVar("processor", default=None)
"""The processor of the engine whose micro-batch is being prepared."""


@dataclass(frozen=True)
class StoredImage:
    """An image of the frame store, without its pixels."""

    reference: FrameReference
    size: tuple[int, int]
    """Width and height, as of a PIL image."""
    frames: FramesConfig
    """How a worker opens its store."""


def drop_pixels(image: Image.Image, frames: FramesConfig) -> StoredImage | Image.Image:
    """Return what names the image, or the image itself if it came from no store."""
    reference = image.info.get(REFERENCE)
    return image if reference is None else _name_image(reference, image.size, frames)


@lru_cache(maxsize=16384)
def _name_image(
    reference: FrameReference, size: tuple[int, int], frames: FramesConfig
) -> StoredImage:
    """Return one object for one frame: siblings show the same frames, at every turn again."""
    return StoredImage(reference, size, frames)


def name_frames(
    pair: PairFrames, messages: Sequence[Message], frames: FramesConfig
) -> list[StoredImage | Image.Image]:
    """Name the images of a context without touching a pixel; what lies in no store becomes an
    image."""
    named: list[StoredImage | Image.Image] = []
    for item in images_of(messages):
        number, max_pixels = item.number, item.max_pixels
        source, index = pair.source_of(number)
        key = getattr(source, "key", None)
        if key is None or item.region is not None:  # no store holds a part of a frame
            named.append(pair.image(number, max_pixels, item.region))
            continue
        height, width = source.size_of(max_pixels)
        reference = FrameReference(key, index, max_pixels)
        named.append(StoredImage(reference, (width, height), frames))
    return named


def name_images(build: Callable[..., BatchFeature]) -> Callable[..., BatchFeature]:
    """Wrap verl's `build_multimodal_processor_inputs`: stored images get references and no
    pixels."""

    @wraps(build)
    def wrapper(processor: Any, *, text: Any, images: Any = None, **kwargs: Any) -> BatchFeature:
        stored = [image for image in images or () if isinstance(image, StoredImage)]
        if not stored or not can_name_images(processor):
            images = images and [read_image(image) for image in images]
            return build(processor, text=text, images=images, **kwargs)
        samples = [_build_one(build, processor, image) for image in images]
        inputs = {name: value for name, value in samples[0].items() if name in _TEXT_INPUTS}
        inputs[GRID] = torch.cat([sample[GRID] for sample in samples])
        # only whether it is there is asked: verl makes the ids of the real text by itself
        inputs[REFERENCES] = [_refer_to(image) for image in images]
        inputs[STORE] = _to_json(stored[0].frames)
        if len(stored) < len(images):
            inputs[PIXELS] = torch.cat([sample[PIXELS] for sample in samples if PIXELS in sample])
        return BatchFeature(inputs)

    return wrapper


def _refer_to(image: StoredImage | Image.Image) -> str:
    return str(image.reference) if isinstance(image, StoredImage) else UNSTORED


def _build_one(
    build: Callable[..., BatchFeature], processor: Any, image: StoredImage | Image.Image
) -> dict[str, Any]:
    """Return what the processor makes of one image; of a stored one without its pixels."""
    if isinstance(image, StoredImage):
        return _build_blank(build, processor, image.size)
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}]}], tokenize=False
    )
    return dict(build(processor, text=[text], images=[image]))


def read_image(image: StoredImage | Image.Image) -> Image.Image:
    """Return an image with its pixels."""
    if not isinstance(image, StoredImage):
        return image
    store = open_store(_to_json(image.frames))
    frames = store.read_frames(
        image.reference.key, [image.reference.index], image.reference.max_pixels
    )
    return Image.fromarray(frames[0])


@lru_cache(maxsize=256)
def _build_blank(
    build: Callable[..., BatchFeature], processor: Any, size: tuple[int, int]
) -> dict[str, Any]:
    """Return what the processor makes of one black image of this size, without its pixels."""
    inputs = _build_one(build, processor, Image.new("RGB", size))
    inputs.pop(PIXELS)
    return inputs


def can_name_images(processor: Any) -> bool:
    """True when images become pixels and a grid and nothing else, so that references can stand for
    them."""
    names = set(getattr(processor.image_processor, "model_input_names", ()))
    return names == {PIXELS, GRID}


def read_images(extract: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Wrap verl's `extract_multi_modal_inputs`: references become pixels, once per micro-batch."""

    @wraps(extract)
    def wrapper(batch_data: Sequence[Any], indices: list[int] | None = None) -> dict[str, Any]:
        rows = [getattr(row, "data", row) for row in batch_data]
        if indices is not None:
            rows = [rows[index] for index in indices if index < len(rows)]
        named = [row for row in rows if row and REFERENCES in row]
        pixels = iter(make_pixels(_processor.get(), named) if named else ())
        return extract([_replace(row, pixels) for row in rows])

    return wrapper


def _replace(row: dict[str, Any] | None, pixels: Any) -> dict[str, Any] | None:
    """Put the next pixels in the place of a row's references; those of a row without any go where
    the others are made."""
    if not row or not {REFERENCES, PIXELS} & row.keys():
        return row
    rest = {name: row[name] for name in row if name not in (REFERENCES, STORE, PIXELS)}
    return {PIXELS: next(pixels) if REFERENCES in row else _move(row[PIXELS])} | rest


def make_pixels(processor: Any, rows: Sequence[Mapping[str, Any]]) -> tuple[torch.Tensor, ...]:
    """Return `pixel_values` of each row, read from the store; a frame that several rows show is
    read
    once."""
    if processor is None:
        raise RuntimeError("references reached an engine without a processor (verl 0.9.1)")
    wanted = [(row[STORE], text) for row in rows for text in row[REFERENCES] if text != UNSTORED]
    frames = read_frames(dict.fromkeys(wanted))
    inputs = processor.image_processor(
        images=[frames[name] for name in wanted], return_tensors="pt", **_choose_device()
    )
    of_rows = inputs[PIXELS].split([sum(_count_patches(row, is_stored=True)) for row in rows])
    return tuple(map(_add_unstored, rows, of_rows))


def _add_unstored(row: Mapping[str, Any], stored: torch.Tensor) -> torch.Tensor:
    """Put the pixels that a row carries between those of its stored images."""
    if PIXELS not in row:
        return stored
    of_stored = iter(stored.split(_count_patches(row, is_stored=True)))
    carried = iter(_move(row[PIXELS]).split(_count_patches(row, is_stored=False)))
    return torch.cat([next(carried if text == UNSTORED else of_stored) for text in row[REFERENCES]])


def _count_patches(row: Mapping[str, Any], *, is_stored: bool) -> list[int]:
    """Return the patches of each image of a row that is, or is not, in the store."""
    sizes = zip(row[GRID].prod(dim=1).tolist(), row[REFERENCES], strict=True)
    return [size for size, text in sizes if (text != UNSTORED) is is_stored]


def read_frames(wanted: Sequence[tuple[str, str]] | Mapping[Any, Any]) -> dict[Any, torch.Tensor]:
    """Read frames, named by store and reference, as uint8 (3, H, W); one read per video and
    size."""
    groups: dict[tuple[str, str, int | None], list[tuple[int, tuple[str, str]]]] = {}
    for name in wanted:
        store, text = name
        reference = FrameReference.parse(text)
        group = groups.setdefault((store, reference.key, reference.max_pixels), [])
        group.append((reference.index, name))
    frames = {}
    for (store, key, max_pixels), members in groups.items():
        read = open_store(store).read_frames(key, [index for index, _ in members], max_pixels)
        for (_, name), frame in zip(members, torch.from_numpy(read), strict=True):
            frames[name] = frame.permute(2, 0, 1)
    return frames


@lru_cache(maxsize=4)
def _to_json(frames: FramesConfig) -> str:
    return json.dumps(asdict(frames))


@lru_cache(maxsize=4)
def open_store(frames: str) -> FrameStore:
    """Open this machine's store once per process."""
    return FramesConfig(**json.loads(frames)).open_store()


def _choose_device() -> dict[str, Any]:
    """Let the image processor compute on the accelerator, if there is one."""
    return {"device": torch.cuda.current_device()} if torch.cuda.is_available() else {}


def _move(pixels: torch.Tensor) -> torch.Tensor:
    """Bring pixels to where the image processor computes."""
    return pixels.to(**_choose_device()) if _choose_device() else pixels


def name_processor(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an engine's `prepare_model_inputs`: it says whose processor makes pixels."""

    @wraps(prepare)
    def wrapper(self: Any, micro_batch: Any) -> Any:
        token = _processor.set(getattr(self.model_config, "processor", None))
        try:
            return prepare(self, micro_batch)
        finally:
            _processor.reset(token)

    return wrapper


def name_in_agent_loop(agent_loop: ModuleType) -> None:
    """Hook for `verl.experimental.agent_loop.agent_loop`."""
    agent_loop.build_multimodal_processor_inputs = name_images(
        agent_loop.build_multimodal_processor_inputs
    )


def read_in_engine(transformer_impl: ModuleType) -> None:
    """Hook for `verl.workers.engine.fsdp.transformer_impl`."""
    transformer_impl.extract_multi_modal_inputs = read_images(
        transformer_impl.extract_multi_modal_inputs
    )
    engine = transformer_impl.FSDPEngineWithLMHead
    engine.prepare_model_inputs = name_processor(engine.prepare_model_inputs)
