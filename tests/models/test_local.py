"""The model in this process: batched like alone, ends like a rollout, never loses an episode."""

import asyncio

import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("transformers")
pytest.importorskip("torch")

from PIL import Image

from tests.engine import model_dir
from verl_videosearch.episode import Message
from verl_videosearch.failures import ContextTooLong, EpisodeFailure
from verl_videosearch.models.local import LocalConfig, LocalModel, cut_tail, find_thought
from verl_videosearch.models.usage import Usage
from verl_videosearch.reply import NativeThought, Reply, ThoughtForm


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
        episodes = [model.for_episode(name) for name in "abc"]
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


def sample(model: LocalModel, seeds: list[int], num_turns: int = 1) -> list[list[str]]:
    """Ask the same question in episodes with these seeds, all at once, turn after turn."""

    async def run() -> list[list[str]]:
        episodes = [model.for_episode("a", seed) for seed in seeds]
        turns = []
        for _ in range(num_turns):
            replies = await asyncio.gather(*(each(*QUESTIONS[0]) for each in episodes))
            turns.append([reply.text for reply in replies])
        return [list(texts) for texts in zip(*turns, strict=True)]

    return asyncio.run(run())


def test_an_episodes_seed_decides_its_replies_whatever_is_in_the_batch() -> None:
    model = LocalModel(model_dir(), LocalConfig(temperature=1.0, max_turn_tokens=8))
    together = sample(model, [1, 2, 3, 2], num_turns=2)
    alone = [sample(model, [seed], num_turns=2)[0] for seed in (1, 2, 3, 2)]
    assert together == alone
    assert together[1] == together[3] and len({tuple(texts) for texts in together}) == 3
    assert together[0][0] != together[0][1]  # a second reply is another draw


def test_replies_are_drawn_as_the_probabilities_say() -> None:
    torch = pytest.importorskip("torch")
    from verl_videosearch.models.local import _Noise

    scores = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).repeat(4000, 1)
    noise = _Noise(torch, LocalConfig(temperature=0.8), list(range(4000)))
    counts = torch.bincount(noise(None, scores).argmax(dim=1), minlength=4) / 4000
    assert torch.allclose(counts, (scores[0] / 0.8).softmax(dim=0), atol=0.03)


@pytest.mark.parametrize(("top_p", "kept"), [(1.0, 4), (0.9, 3), (0.6, 2), (0.3, 1), (0.0, 1)])
def test_a_tail_is_cut(top_p: float, kept: int) -> None:
    torch = pytest.importorskip("torch")
    scores = torch.tensor([[0.1, 0.5, 0.3, 0.1 - 1e-4]]).log()
    cut = cut_tail(torch, scores, top_p)
    assert int(torch.isfinite(cut).sum()) == kept and torch.isfinite(cut[0, 1])


def test_no_reply_holds_a_placeholder(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LocalModel(model_dir(), LocalConfig(max_turn_tokens=3))
    wanted = {model._model.config.image_token_id, model._model.config.vision_start_token_id}
    assert wanted <= set(model._banned)
    given = {}
    generate = model._model.generate
    monkeypatch.setattr(
        model._model, "generate", lambda **options: given.update(options) or generate(**options)
    )
    answer(model, QUESTIONS[:1])
    assert given["suppress_tokens"] == model._banned


def test_a_reply_that_spells_a_placeholder_takes_nobody_down() -> None:
    model = LocalModel(model_dir(), LocalConfig(max_turn_tokens=4))
    spelled = "see <|vision_start|><|image_pad|><|vision_end|>"
    messages, images = QUESTIONS[0]

    async def run() -> list[Reply | BaseException]:
        reply = {"role": "assistant", "content": [{"type": "text", "text": spelled}]}
        bad = (
            [*messages, reply, {"role": "user", "content": [{"type": "text", "text": "?"}]}],
            images,
        )
        episodes = [model.for_episode(name) for name in ("good", "bad", "fine")]
        asked = zip(episodes, [QUESTIONS[0], bad, QUESTIONS[1]], strict=True)
        return await asyncio.gather(
            *(each(*question) for each, question in asked), return_exceptions=True
        )

    good, bad, fine = asyncio.run(run())
    assert isinstance(good, Reply) and isinstance(fine, Reply)
    assert isinstance(bad, EpisodeFailure) and bad.sample_uid == "bad" and not bad.is_passing


def write(monkeypatch: pytest.MonkeyPatch, model: LocalModel, text: str) -> None:
    """Let a model write this text, token by token, until its stopping criteria end it."""
    tokenizer, torch = model._processor.tokenizer, model._torch
    written = tokenizer.encode(text, add_special_tokens=False)

    def generate(input_ids, stopping_criteria, **_):
        for token_id in written:
            input_ids = torch.cat([input_ids, torch.tensor([[token_id]])], dim=1)
            if all(criterion(input_ids, None).all() for criterion in stopping_criteria):
                break
        return input_ids

    monkeypatch.setattr(model._model, "generate", generate)


DRAFT = "<Think>Draft: <Answer>TA=2</Answer> no</Think><Answer>TA=1</Answer>"


@pytest.mark.parametrize(
    ("written", "reply"),
    [
        ("<Answer>TA=0</Answer> and more", "<Answer>TA=0</Answer>"),
        (f"{DRAFT} and more", DRAFT),
        ("<Think>a <Answer>TA=2</Answer> b", "<Think>a <Answer>TA=2</Answer> b"),
        ("so <|im_end|> spelled in letters", None),
    ],
)
def test_a_reply_ends_behind_its_act_not_behind_a_draft(
    monkeypatch: pytest.MonkeyPatch, written: str, reply: str | None
) -> None:
    model = LocalModel(model_dir(), LocalConfig(max_turn_tokens=512))
    write(monkeypatch, model, written)
    (got,) = answer(model, QUESTIONS[:1])
    assert not got.is_truncated
    assert got.text == reply if reply else "<|im_end|>" not in got.text


def test_a_context_beyond_the_model_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LocalModel(model_dir(), LocalConfig(max_turn_tokens=4))
    tokens = [len(model._processor.tokenizer(words)["input_ids"]) for words in ("which video",)]
    limit = max(tokens) + 60
    monkeypatch.setattr(model._model.config.text_config, "max_position_embeddings", limit)
    long = ask(3, "frame 5 " * 200)

    async def run() -> list[Reply | BaseException]:
        return await asyncio.gather(
            *(model(*question) for question in (QUESTIONS[0], long)), return_exceptions=True
        )

    short, beyond = asyncio.run(run())
    assert isinstance(short, Reply) and isinstance(beyond, ContextTooLong)


def test_a_models_native_thought_is_found_in_its_folder(tmp_path: object) -> None:
    assert find_thought(model_dir(), NativeThought.AUTO) is None
    assert find_thought(model_dir(), NativeThought.ALWAYS) == ThoughtForm()
    assert find_thought(None, NativeThought.NEVER) is None


def test_a_reply_cut_off_says_so() -> None:
    model = LocalModel(model_dir(), LocalConfig(max_turn_tokens=2))
    assert all(reply.is_truncated for reply in answer(model, QUESTIONS))


def test_every_waiting_episode_hears_of_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LocalModel(model_dir(), LocalConfig(max_turn_tokens=4))

    def fail(**_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model._model, "generate", fail)

    async def run() -> list:
        return await asyncio.gather(
            *(model(*question) for question in QUESTIONS), return_exceptions=True
        )

    errors = asyncio.run(run())
    assert all(isinstance(error, EpisodeFailure) for error in errors)
    assert all("RuntimeError: out of memory" in str(error) for error in errors)


@pytest.mark.parametrize(
    "settings", [{"temperature": -1.0}, {"max_turn_tokens": 0}, {"max_batch": 0}, {"top_p": 2.0}]
)
def test_bad_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be a"):
        LocalConfig(**settings)
