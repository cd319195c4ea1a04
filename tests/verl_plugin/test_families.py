"""Every family of models trains what was sampled: tokens, masks and pixels, thoughts or not."""

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("verl")

import torch
from omegaconf import OmegaConf
from verl.utils.tokenizer import hf_processor, hf_tokenizer
from verl_videosearch.data_prep.traces.sft_rows import SftRow, write_sft_rows

from tests.engine import ANSWER, ScriptedEngine, call_frames
from verl_videosearch.episode import Episode, EpisodeConfig
from verl_videosearch.from_scratch.families import FAMILIES, MERGE_SIZE, ModelFamily
from verl_videosearch.from_scratch.tiny_model import BASE_CORPUS, build_tiny_model
from verl_videosearch.reply import ThoughtForm
from verl_videosearch.rollout import run_episode
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.verl_plugin.agent_loop import TokenGenerator
from verl_videosearch.verl_plugin.preflight.model import check_sight, check_thoughts
from verl_videosearch.verl_plugin.references import STORE, make_pixels, read_image
from verl_videosearch.verl_plugin.replay import UnusableTrace, find_end_of_turn, fit_thought
from verl_videosearch.verl_plugin.settings import FramesConfig
from verl_videosearch.verl_plugin.sft_dataset import (
    VideoSearchSFTDataset,
    compute_positions,
    encode_images,
)
from verl_videosearch.verl_plugin.tokens import ContextRenderer, TrainingSequence, check_sequence
from verl_videosearch.video.lossless import write_lossless
from verl_videosearch.video.pair import load_pair

REPLIES = (call_frames(2, 3), call_frames(10), ANSWER)  # window 1: the second call evicts
THOUGHTS = ("first look\n</think>\n\n", "not sure\n</think>\n\n", "now I see\n</think>\n\n")
THINKING = (ModelFamily.QWEN3_VL_THINKING, ModelFamily.QWEN3_5)


class Setup:
    """A tiny model's renderer, and an episode whose frames fit its patches."""

    def __init__(self, family: ModelFamily, folder: Path) -> None:
        self.family = family
        self.folder = build_tiny_model(folder, text_corpus=BASE_CORPUS, family=family)
        self.renderer = ContextRenderer(hf_tokenizer(self.folder), hf_processor(self.folder))
        self.is_thinking = family in THINKING
        multiple = FAMILIES[family].patch_size * MERGE_SIZE
        self.settings = {
            "frames_per_video": 8,
            "initial_frames_per_video": 2,
            "max_frames_per_call": 4,
            "prompt_pack": "brief",
            "patch_multiple": multiple,
            "initial_max_pixels": 4 * multiple**2,
            "tool_max_pixels": multiple**2,
        }

    @property
    def episode(self) -> EpisodeConfig:
        return EpisodeConfig.from_dict(self.settings)

    def sampled(self) -> list[str]:
        """Return what the model writes: it begins inside a thought if the template opened one."""
        thoughts = THOUGHTS if self.is_thinking else ("",) * len(REPLIES)
        return [thought + reply for thought, reply in zip(thoughts, REPLIES, strict=True)]

    def roll_out(self, sample: PreferenceSample) -> list[TrainingSequence]:
        """Sample the replies through the agent loop's generator."""
        pair = load_pair(sample, FramesConfig().open_store(), self.episode)
        script = [self.renderer.tokenizer.encode(reply) for reply in self.sampled()]
        loop = SimpleNamespace(
            renderer=self.renderer,
            server_manager=ScriptedEngine([script]),
            measure_room=lambda ids, episode, reply_ids: 10_000,
            settings=SimpleNamespace(frames=FramesConfig()),
        )
        group = SimpleNamespace(raise_if_failed=lambda uid: None)
        episode = Episode(sample, pair.candidates, self.episode)
        generator = TokenGenerator(loop, episode, group, {})
        asyncio.run(run_episode(episode, pair, generator))
        generator.close()
        return generator.sequences

    def open_dataset(
        self, path: Path, sample: PreferenceSample, thoughts: tuple[str, ...], **sft: bool
    ) -> VideoSearchSFTDataset:
        """Write one trace and open it as verl's SFT trainer does."""
        replies = REPLIES
        if self.is_thinking:  # a record's reply begins with what stood behind the thought
            replies = tuple(f"\n\n{reply}" for reply in REPLIES)
        write_sft_rows(path, [SftRow(sample, replies, self.episode, thoughts)])
        data = {"pad_mode": "no_padding", "max_length": 4096, "videosearch": "${videosearch}"}
        node = {"episode": self.settings, "sft": sft}
        config = OmegaConf.create({"videosearch": node, "data": data})
        return VideoSearchSFTDataset(
            str(path), self.renderer.tokenizer, config.data, self.renderer.processor
        )


@pytest.fixture(scope="module", params=ModelFamily, ids=lambda family: family.value)
def setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup(request.param, tmp_path_factory.mktemp(request.param.value))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> PreferenceSample:
    """Return a pair of videos in which every frame differs from every other."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    paths = [folder / f"{side}.mkv" for side in (1, 2)]
    for path in paths:
        write_lossless(path, rng.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8))
    return PreferenceSample("pair", "a cat", *map(str, paths), {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1})


def test_the_end_of_a_turn_and_the_thought_are_found(setup: Setup) -> None:
    end = find_end_of_turn(setup.renderer)
    assert setup.renderer.tokenizer.decode([end]) == "<|im_end|>"
    thought = None if setup.family is ModelFamily.QWEN2_5_VL else ThoughtForm()
    if setup.is_thinking:
        thought = ThoughtForm(is_opened=True)
    assert setup.renderer.thought == thought


def test_sequences_hold_what_was_sampled_in_the_contexts_it_was_sampled_from(
    setup: Setup, sample: PreferenceSample
) -> None:
    sequences = setup.roll_out(sample)
    # a thought that is dropped changes what stood there: every turn is a sequence of its own
    assert len(sequences) == (3 if setup.is_thinking else 2)
    trained = [
        token_id
        for sequence in sequences
        for token_id, is_trained in zip(sequence.response_ids, sequence.response_mask, strict=True)
        if is_trained
    ]
    assert setup.renderer.tokenizer.decode(trained) == "".join(setup.sampled())
    for sequence in sequences:
        check_sequence(sequence)
        is_image = [i in setup.renderer.placeholder_ids for i in sequence.context_ids]
        assert sum(is_image) == 4 * 4 + len(sequence.images) - 4  # 2 x 2 tokens, then one each


def test_supervised_training_has_the_sequences_of_the_rollout(
    setup: Setup, sample: PreferenceSample, tmp_path: Path
) -> None:
    thoughts = tuple(text.rstrip("\n") for text in THOUGHTS) if setup.is_thinking else ()
    dataset = setup.open_dataset(tmp_path / "sft.parquet", sample, thoughts)
    sequences = setup.roll_out(sample)
    assert len(dataset) == len(sequences)
    for item, sequence in zip(dataset, sequences, strict=True):
        assert item["input_ids"].tolist()[:-1] == sequence.context_ids  # then the end of the turn
        mask = [0] * len(sequence.prompt_ids) + [*sequence.response_mask]
        is_sampled = torch.tensor([*mask, 0], dtype=torch.bool)
        assert item["loss_mask"][is_sampled].all()
        extra = item["input_ids"][item["loss_mask"].bool() & ~is_sampled].tolist()
        assert set(extra) == {find_end_of_turn(setup.renderer)}


def test_pixels_by_name_are_those_of_the_images(setup: Setup, sample: PreferenceSample) -> None:
    for sequence in setup.roll_out(sample):
        named = encode_images(setup.renderer, sequence.images)
        assert STORE in named
        images = [read_image(image) for image in sequence.images]
        plain = encode_images(setup.renderer, images)
        (pixels,) = make_pixels(setup.renderer.processor, [named])
        assert torch.equal(pixels, plain["pixel_values"])
        assert torch.equal(named["image_grid_thw"], plain["image_grid_thw"])
        ids = torch.tensor(sequence.context_ids)
        positions = compute_positions(setup.renderer.processor, ids, plain)
        assert positions.shape == (4, len(ids))


def test_the_frames_fit_the_patches(setup: Setup) -> None:
    assert list(check_sight(str(setup.folder), setup.episode)) == []
    other = 32 if setup.episode.patch_multiple == 28 else 28
    pixels = {"initial_max_pixels": 4 * other**2, "tool_max_pixels": 4 * other**2}
    wrong = replace(setup.episode, patch_multiple=other, **pixels)
    (problem,) = check_sight(str(setup.folder), wrong)
    assert f"set videosearch.episode.patch_multiple={setup.episode.patch_multiple}" in problem


def test_thoughts_can_be_kept_where_the_template_keeps_them(setup: Setup) -> None:
    kept = replace(setup.episode, keep_native_thought=True)
    problems = list(check_thoughts(str(setup.folder), kept))
    assert len(problems) == setup.is_thinking
    assert all("set it to false, or give the model a template" in text for text in problems)
    assert list(check_thoughts(str(setup.folder), setup.episode)) == []


@pytest.mark.parametrize("is_trained", [True, False])
def test_native_thoughts_are_trained_or_not(
    setup: Setup, sample: PreferenceSample, tmp_path: Path, is_trained: bool
) -> None:
    """A teacher's thoughts, whole: of the student's own if it has any, else left out."""
    thoughts = tuple(f"<think>\n{text.rstrip()}" for text in THOUGHTS)
    path = tmp_path / "sft.parquet"
    dataset = setup.open_dataset(path, sample, thoughts, train_native_thought=is_trained)
    decode = setup.renderer.tokenizer.decode
    trained = "".join(decode(item["input_ids"][item["loss_mask"].bool()]) for item in dataset)
    whole = "".join(decode(item["input_ids"]) for item in dataset)
    has_thought = setup.renderer.thought is not None
    assert ("first look" in whole) == has_thought
    assert ("first look" in trained) == ("</think>" in trained) == (has_thought and is_trained)
    assert trained.count("<Answer>") == 1 and trained.count("<tool_call>") == 2
    assert trained.count("<|im_end|>") == 3


@pytest.mark.parametrize(
    ("thought", "form", "expected"),
    [
        ("", ThoughtForm(), ""),
        (" \n", ThoughtForm(is_opened=True), ""),
        ("<think>a</think>", ThoughtForm(), "<think>a</think>"),
        ("\n<think>a</think>", ThoughtForm(), "\n<think>a</think>"),
        ("<think>a</think>", ThoughtForm(is_opened=True), "a</think>"),
        ("a</think>", ThoughtForm(is_opened=True), "a</think>"),
        ("\na</think>", ThoughtForm(is_opened=True), "\na</think>"),
        ("a</think>", ThoughtForm(), "<think>\na</think>"),
        ("a</think>", None, ""),
    ],
)
def test_a_thought_is_written_as_the_model_would(
    thought: str, form: ThoughtForm | None, expected: str
) -> None:
    assert fit_thought(thought, form) == expected


def test_a_thought_without_an_end_is_no_trace() -> None:
    with pytest.raises(UnusableTrace, match="a thought that is not closed"):
        fit_thought("<think>and so on", ThoughtForm())


def test_thinking_can_be_switched_off(tmp_path: Path) -> None:
    """Qwen3.5's template then writes an empty thought, so a reply begins behind it."""
    folder = build_tiny_model(tmp_path, text_corpus=BASE_CORPUS, family=ModelFamily.QWEN3_5)
    arguments: tuple[Any, ...] = (hf_tokenizer(folder), hf_processor(folder))
    renderer = ContextRenderer(*arguments, {"enable_thinking": False})
    question = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    assert renderer.render(question).endswith("assistant\n<think>\n\n</think>\n\n")
    assert renderer.thought == ThoughtForm(is_opened=False)
