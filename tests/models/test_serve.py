"""A real vLLM on the CPU: two replicas share the episodes, keep images by key, and go on after a
draft."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("vllm")

from tests.models.test_client import make_context  # noqa: E402
from verl_videosearch.models.client import ChatClient, _Context  # noqa: E402
from verl_videosearch.models.replicas import count_replicas, share_gpus  # noqa: E402
from verl_videosearch.models.source import ModelSource, OpenModel  # noqa: E402

DRAFT = "<Think>Draft: <Answer>TA=2, OA=2</Answer>"


@pytest.mark.parametrize(
    ("options", "gpus", "num_replicas"),
    [
        ([], ["0", "1", "2"], 3),
        (["--tensor-parallel-size", "2"], ["0", "1", "2", "3"], 2),
        (["-tp=4", "--max-model-len=9"], ["0", "1", "2"], 1),
        (["--tensor-parallel-size 2", "-pp=2"], ["0", "1", "2", "3"], 1),
        ([], [], 1),
    ],
)
def test_there_are_as_many_replicas_as_the_gpus_hold(
    options: list[str], gpus: list[str], num_replicas: int
) -> None:
    assert count_replicas(options, gpus) == num_replicas


def test_more_replicas_than_gpus_are_refused() -> None:
    with pytest.raises(ValueError, match="give --replicas 1"):
        share_gpus(["0"], 2)


def draw(count: int, seed: int) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 56, 56, 3), dtype=np.uint8)
    return [Image.fromarray(each) for each in pixels]


def note_sizes(client: ChatClient) -> list[int]:
    """Return the sizes of the bodies that an episode's endpoint sends from now on."""
    sizes, send = [], client.endpoint.send

    async def note(body: bytes, episode: str = "") -> Any:
        sizes.append(len(body))
        return await send(body, episode)

    client.endpoint.send = note  # type: ignore[method-assign]
    return sizes


async def check_keys(model: OpenModel) -> None:
    """The same episode with and without keys gives the same replies; a forgotten image is sent."""
    named = model.for_episode("a AB", 1)
    endpoint, sizes, frames = named.endpoint, note_sizes(named), draw(3, seed=0)
    assert endpoint.is_vllm and endpoint.keeps_images and endpoint.stops
    turns = [make_context("a", 2), make_context("a", 3)]
    replies = [await named(turn, frames[: 2 + n]) for n, turn in enumerate(turns)]
    assert named._sent and endpoint.gauge.tokens_of[(56, 56)] == 4 + 2  # and their two marks
    endpoint.keeps_images = False
    plain = named.for_episode(1)
    assert [await plain(turn, frames[: 2 + n]) for n, turn in enumerate(turns)] == replies
    endpoint.keeps_images = True
    assert min(sizes[-4:]) > 0
    forgetful, unknown = named.for_episode(1), draw(1, seed=9)
    forgetful._sent = {picture.key for picture in forgetful._album.turn_to(unknown)}
    await forgetful(make_context("a", 1), unknown)
    assert endpoint.keeps_images and sizes[-2] < sizes[-1]  # refused, then sent whole


async def check_continuation(model: OpenModel) -> None:
    """A reply goes on from exactly where it was stopped."""
    client = model.for_episode("b AB", 1)
    context = _Context(make_context("b", 1), client._album.turn_to(draw(1, seed=5)))
    whole = await client._ask(context, "", 4)
    more = await client._ask(context, DRAFT, 4)
    assert more.text and more.num_prompt_tokens > whole.num_prompt_tokens + 4


async def check_sharing(model: OpenModel) -> None:
    """Both replicas are asked, and an episode only one of them."""
    episodes = [model.for_episode(f"{n} AB", n) for n in range(6)]
    frame = draw(1, seed=3)
    await asyncio.gather(*(each(make_context("c", 1), frame) for each in episodes))
    urls = [each.endpoint.url for each in episodes]
    assert model.num_replicas == 2 and {urls.count(url) for url in urls} == {3}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    from verl_videosearch.from_scratch.tiny_model import build_tiny_model  # torch

    yield build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.mark.slow_start
@pytest.mark.timeout(1800)
def test_two_replicas_of_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    source = ModelSource(
        serve=checkpoint,
        num_replicas=2,
        serve_options=("--max-model-len=1024",),
        temperature=1.0,
        max_turn_tokens=8,
        timeout_s=300,
    )

    async def run() -> None:
        async with source.open(tmp_path / "server.log") as model:
            assert Path(model.model_root) == checkpoint
            await check_sharing(model)
            await check_keys(model)
            await check_continuation(model)

    asyncio.run(run())
    assert (tmp_path / "server-1.log").stat().st_size > 0
