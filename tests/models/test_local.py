"""The model in this process: batched like alone, ends like a rollout, never loses an episode."""

import asyncio

import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("transformers")
pytest.importorskip("torch")

from PIL import Image

from tests.engine import model_dir
from verl_videosearch.episode import Message, Reply
from verl_videosearch.models.client import Usage
from verl_videosearch.models.local import LocalConfig, LocalModel


def ask(num_images: int, words: str) -> tuple[list[Message], list[Image.Image]]:
    items = [
        {"type": "image", "frame_number": n, "max_pixels": 784} for n in range(1, num_images + 1)
    ]
    message = {"role": "user", "content": [*items, {"type": "text", "text": words}]}
    return [message], [Image.new("RGB", (28, 28), (40 * n, 90, 120)) for n in range(num_images)]


QUESTIONS = [ask(1, "which video"), ask(3, "frame 5 frame 9 and a longer question")]


def answer(model: LocalModel, questions: list) -> list[Reply]:
    async def run() -> list[Reply]:
        return await asyncio.gather(*(model(*question) for question in questions))

    return asyncio.run(run())


def test_a_batch_gives_what_each_episode_gets_alone() -> None:
    model = LocalModel(model_dir(), LocalConfig(max_turn_tokens=8))
    alone = [answer(model, [question])[0] for question in QUESTIONS]
    assert answer(model, QUESTIONS) == alone
    assert alone[0].text != "" and model.usage.num_requests == 4


def test_a_small_limit_of_the_batch_loses_nobody() -> None:
    model = LocalModel(model_dir(), LocalConfig(max_turn_tokens=4, max_batch=2))
    assert len(answer(model, QUESTIONS * 3)) == 6


def test_each_episode_has_an_account_of_its_own() -> None:
    model = LocalModel(model_dir(), LocalConfig(max_turn_tokens=4))

    async def run() -> list[Usage]:
        episodes = [model.for_episode(seed) for seed in (1, 2, None)]
        asked = zip(episodes, [*QUESTIONS, QUESTIONS[0]], strict=True)
        await asyncio.gather(*(generate(*question) for generate, question in asked))
        await episodes[2](*QUESTIONS[1])
        return [generate.usage for generate in episodes]

    first, second, both = asyncio.run(run())
    assert (first.num_requests, second.num_requests, both.num_requests) == (1, 1, 2)
    assert second.num_prompt_tokens > first.num_prompt_tokens > 0  # padding of a batch is nobody's
    assert both.num_prompt_tokens == first.num_prompt_tokens + second.num_prompt_tokens
    assert both.num_reply_tokens == first.num_reply_tokens + second.num_reply_tokens <= 8
    assert model.usage.num_requests == 0


def test_a_seed_repeats_a_run() -> None:
    def sample(seed: int) -> list[Reply]:
        config = LocalConfig(temperature=1.0, max_turn_tokens=8, seed=seed)
        return answer(LocalModel(model_dir(), config), QUESTIONS)

    assert sample(1) == sample(1) != sample(2)


def test_a_reply_cut_off_says_so() -> None:
    model = LocalModel(model_dir(), LocalConfig(max_turn_tokens=2))
    assert all(reply.is_truncated for reply in answer(model, QUESTIONS))


def test_text_after_the_answer_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LocalModel(model_dir(), LocalConfig(max_turn_tokens=64))
    tokenizer = model._processor.tokenizer
    written = tokenizer.encode(
        "<Answer>TA=0</Answer> and more", return_tensors="pt", add_special_tokens=False
    )
    monkeypatch.setattr(
        model._model,
        "generate",
        lambda input_ids, **_: model._torch.cat([input_ids, written], dim=1),
    )
    assert answer(model, QUESTIONS[:1]) == [Reply("<Answer>TA=0</Answer>")]


def test_every_waiting_episode_hears_of_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LocalModel(model_dir(), LocalConfig(max_turn_tokens=4))

    def fail(**_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model._model, "generate", fail)

    async def run() -> list:
        return await asyncio.gather(
            *(model(*question) for question in QUESTIONS), return_exceptions=True
        )

    assert [str(error) for error in asyncio.run(run())] == ["out of memory"] * 2


@pytest.mark.parametrize(
    "settings", [{"temperature": -1.0}, {"max_turn_tokens": 0}, {"max_batch": 0}]
)
def test_bad_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be at least"):
        LocalConfig(**settings)
