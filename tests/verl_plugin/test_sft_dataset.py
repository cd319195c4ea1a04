"""SFT trains in exactly the contexts of the rollout, each reply once, and nothing else."""

import asyncio
import json
import logging
import multiprocessing
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("verl")

import torch
from omegaconf import OmegaConf
from torch.utils.data import DataLoader
from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
from verl.utils.dataset.dataset_utils import SFTTensorCollator
from verl.utils.tokenizer import hf_processor, hf_tokenizer
from verl_videosearch.data_prep.captions import CAPTION_SCHEMA
from verl_videosearch.data_prep.traces.sft_rows import SftRow, write_sft_rows

from tests.engine import ANSWER, GUESS, THOUGHT, ScriptedEngine, call_frames, model_dir
from verl_videosearch.episode import Episode, EpisodeConfig
from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.rollout import run_episode
from verl_videosearch.sample import PreferenceSample, to_row, write_rows
from verl_videosearch.verl_plugin import sft_dataset
from verl_videosearch.verl_plugin.agent_loop import TokenGenerator
from verl_videosearch.verl_plugin.references import REFERENCES, STORE, make_pixels
from verl_videosearch.verl_plugin.settings import FramesConfig
from verl_videosearch.verl_plugin.sft_dataset import VideoSearchSFTDataset, encode_images
from verl_videosearch.verl_plugin.tokens import ContextRenderer, TrainingSequence
from verl_videosearch.video.lossless import write_lossless
from verl_videosearch.video.pair import PairFrames, load_pair

EPISODE = {
    "frames_per_video": 8,
    "initial_frames_per_video": 2,
    "max_frames_per_call": 4,
    "prompt_style": "brief",
}
SCRIPTS = {
    "direct": [ANSWER],
    "one call": [call_frames(2, 3), ANSWER],
    "two calls": [call_frames(2, 3), call_frames(10), ANSWER],
    "three calls": [call_frames(2, 3), call_frames(10, 11, 12), call_frames(6), ANSWER],
    "a refused call": [call_frames(99), call_frames(4), ANSWER],
    "a blank before": [f" {call_frames(2)}", f"\n{ANSWER}"],
}
NUM_SEQUENCES = {
    "two calls": 2,
    "three calls": 3,
}  # window 1: the second and each later call with frames evicts


@cache
def renderer() -> ContextRenderer:
    return ContextRenderer(hf_tokenizer(model_dir()), hf_processor(model_dir()))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> PreferenceSample:
    """Return a pair of videos in which every frame differs from every other."""
    folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    paths = [folder / f"{side}.mkv" for side in (1, 2)]
    for path in paths:
        write_lossless(path, rng.integers(0, 256, (8, 56, 56, 3), dtype=np.uint8))
    labels = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}
    return PreferenceSample("pair", "a cat", str(paths[0]), str(paths[1]), labels)


def make_dataset(path: Path, traces: list[SftRow], **data: Any) -> VideoSearchSFTDataset:
    """Write the traces and open them as verl's SFT trainer does."""
    write_sft_rows(path, traces)
    return open_dataset(str(path), **data)


def open_dataset(files: str | list[str], **data: Any) -> VideoSearchSFTDataset:
    defaults = {"pad_mode": "no_padding", "max_length": 4096, "videosearch": "${videosearch}"}
    config = OmegaConf.create({"videosearch": {"episode": EPISODE}, "data": defaults | data})
    return VideoSearchSFTDataset(
        parquet_files=files,
        tokenizer=renderer().tokenizer,
        config=config.data,
        processor=renderer().processor,
        max_samples=-1,
    )


def make_trace(sample: PreferenceSample, replies: list[str], **episode: Any) -> SftRow:
    return SftRow(sample, tuple(replies), EpisodeConfig.from_dict(EPISODE | episode))


def write_captions(
    path: Path,
    sample: PreferenceSample,
    groups: Sequence[Sequence[int]],
    captions: Sequence[str],
    **episode: Any,
) -> str:
    settings = json.dumps(asdict(EpisodeConfig.from_dict(EPISODE | episode)))
    row = to_row(sample) | {"replies": captions, "episode": settings, "captioned_frames": groups}
    write_rows(path, pa.Table.from_pylist([row], schema=CAPTION_SCHEMA))
    return str(path)


def roll_out(sample: PreferenceSample, replies: list[str]) -> list[TrainingSequence]:
    """Sample the replies through the agent loop's own generator and return its training
    sequences."""
    settings = EpisodeConfig.from_dict(EPISODE)
    pair = load_pair(sample, FramesConfig().open_store(), settings)
    episode = Episode(sample, pair.candidates, settings)
    loop = SimpleNamespace(
        renderer=renderer(),
        server_manager=ScriptedEngine([replies]),
        measure_room=lambda *_: 10_000,
        settings=SimpleNamespace(frames=FramesConfig()),
    )
    generator = TokenGenerator(loop, episode, SimpleNamespace(raise_if_failed=lambda uid: None), {})
    asyncio.run(run_episode(episode, pair, generator))
    return generator.sequences


@pytest.mark.parametrize("name", SCRIPTS)
def test_contexts_are_those_of_the_rollout(
    sample: PreferenceSample, tmp_path: Path, name: str
) -> None:
    replies = SCRIPTS[name]
    dataset = make_dataset(tmp_path / "sft.parquet", [make_trace(sample, replies)])
    sequences = roll_out(sample, replies)
    assert len(dataset) == len(sequences) == NUM_SEQUENCES.get(name, 1)
    end_of_turn = renderer().tokenizer.convert_tokens_to_ids("<|im_end|>")
    for item, sequence in zip(dataset, sequences, strict=True):
        assert item["input_ids"].tolist() == [*sequence.context_ids, end_of_turn]
        rollout_mask = [0] * len(sequence.prompt_ids) + sequence.response_mask.tolist()
        # the one difference: the end of a turn is trained, too
        ends = [
            i
            for i, is_reply in enumerate(rollout_mask, 1)
            if is_reply and not (rollout_mask + [0])[i]
        ]
        assert item["loss_mask"].tolist() == [
            int(m or i in ends) for i, m in enumerate([*rollout_mask, 0])
        ]
        assert all(item["input_ids"][i] == end_of_turn for i in ends)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_reply_is_trained_exactly_once(
    sample: PreferenceSample, tmp_path: Path, name: str
) -> None:
    dataset = make_dataset(tmp_path / "sft.parquet", [make_trace(sample, SCRIPTS[name])])
    trained = [item["input_ids"][item["loss_mask"].bool()].tolist() for item in dataset]
    text = "".join(renderer().tokenizer.decode(token_ids) for token_ids in trained)
    assert text == "".join(f"{reply}<|im_end|>" for reply in SCRIPTS[name])


def test_what_stands_behind_the_act_is_not_trained(
    sample: PreferenceSample, tmp_path: Path
) -> None:
    """Generation stops there, in the rollout as in a record of today."""
    dataset = make_dataset(
        tmp_path / "sft.parquet", [make_trace(sample, [f"{ANSWER}\nI hope so."])]
    )
    trained = dataset[0]["input_ids"][dataset[0]["loss_mask"].bool()].tolist()
    assert renderer().tokenizer.decode(trained) == f"{ANSWER}<|im_end|>"


def test_images_and_positions_are_those_of_the_rollout(
    sample: PreferenceSample, tmp_path: Path
) -> None:
    dataset = make_dataset(tmp_path / "sft.parquet", [make_trace(sample, SCRIPTS["two calls"])])
    worker = SimpleNamespace(tokenizer=renderer().tokenizer, processor=renderer().processor)
    for item, sequence in zip(dataset, roll_out(sample, SCRIPTS["two calls"]), strict=True):
        input_ids = item["input_ids"][None]
        output = SimpleNamespace(
            multi_modal_data={"images": sequence.images}, mm_processor_kwargs={}
        )
        inputs = AgentLoopWorker._compute_multi_modal_inputs(worker, output, input_ids)
        positions = AgentLoopWorker._compute_position_ids(
            worker, input_ids, torch.ones_like(input_ids), inputs
        )
        assert torch.equal(item["position_ids"], positions[0])
        assert set(item["multi_modal_inputs"]) == {"image_grid_thw", REFERENCES, STORE}
        assert torch.equal(item["multi_modal_inputs"]["image_grid_thw"], inputs["image_grid_thw"])
        assert item["multi_modal_inputs"][REFERENCES] == inputs[REFERENCES]


GROUPS = [[10], [2, 3, 10, 11], [16], [6, 14]]
CAPTIONS = ["snow", "<Snapshot>video 1 clean; video 2 snow on 10</Snapshot>", "clean", "snow"]


def test_a_dialogue_of_captions_is_one_sequence(sample: PreferenceSample, tmp_path: Path) -> None:
    (item,) = open_dataset(write_captions(tmp_path / "captions.parquet", sample, GROUPS, CAPTIONS))
    # runs of tokens that are context or caption, in turns
    starts = [
        0,
        *(item["loss_mask"].diff().nonzero().flatten() + 1).tolist(),
        len(item["input_ids"]),
    ]
    runs = [renderer().tokenizer.decode(item["input_ids"][a:b]) for a, b in pairwise(starts)]
    assert item["loss_mask"][starts[:-1]].tolist() == [0, 1] * len(GROUPS)
    assert runs[1::2] == [f"{caption}<|im_end|>" for caption in CAPTIONS]
    assert [
        [int(number) for number in re.findall(r"Frame (\d+):", run)] for run in runs[::2]
    ] == GROUPS


def test_the_images_of_captions_are_the_frames_in_order(
    sample: PreferenceSample, tmp_path: Path
) -> None:
    (item,) = open_dataset(write_captions(tmp_path / "captions.parquet", sample, GROUPS, CAPTIONS))
    pair = load_pair(sample, FramesConfig().open_store(), EpisodeConfig.from_dict(EPISODE))
    images = [
        pair.image(number, EpisodeConfig.from_dict(EPISODE).initial_max_pixels)
        for group in GROUPS
        for number in group
    ]
    expected = encode_images(renderer(), images)
    assert len(expected["image_grid_thw"]) == 8
    (pixels,) = make_pixels(renderer().processor, [item["multi_modal_inputs"]])
    assert torch.equal(pixels, expected["pixel_values"])
    assert torch.equal(item["multi_modal_inputs"]["image_grid_thw"], expected["image_grid_thw"])


def test_captions_and_traces_mix(sample: PreferenceSample, tmp_path: Path) -> None:
    traces, captions = tmp_path / "sft.parquet", tmp_path / "captions.parquet"
    write_sft_rows(traces, [make_trace(sample, SCRIPTS["two calls"])])
    files = [str(traces), write_captions(captions, sample, GROUPS, CAPTIONS)]
    items = [item["input_ids"].tolist() for item in open_dataset(files)]
    assert items == [item["input_ids"].tolist() for file in files for item in open_dataset(file)]
    assert len(items) == 3


@pytest.mark.parametrize(
    ("groups", "captions", "episode", "words"),
    [
        (GROUPS[:3], CAPTIONS, {}, "none of 1 traces can be used"),
        (GROUPS, CAPTIONS, {"frames_per_video": 6}, "frames_per_video is 8 here, was 6 there"),
        (
            GROUPS,
            CAPTIONS,
            {"max_frames_per_call": 6},
            "max_frames_per_call is 4 here, was 6 there",
        ),
    ],
)
def test_captions_of_other_frames_are_refused(
    sample: PreferenceSample,
    tmp_path: Path,
    groups: list,
    captions: list[str],
    episode: dict,
    words: str,
) -> None:
    file = write_captions(tmp_path / "captions.parquet", sample, groups, captions, **episode)
    with pytest.raises(ValueError, match=words):
        open_dataset(file)


def test_verl_collates_the_items(sample: PreferenceSample, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "sft.parquet", [make_trace(sample, SCRIPTS["three calls"])])
    loader = DataLoader(
        dataset, batch_size=3, collate_fn=SFTTensorCollator("no_padding"), num_workers=1
    )
    batch = next(iter(loader))
    lengths = [len(item["input_ids"]) for item in dataset]
    assert batch["input_ids"].offsets().diff().tolist() == lengths
    assert [tuple(positions.shape) for positions in batch["position_ids"].unbind()] == [
        (4, n) for n in lengths
    ]


def test_traces_that_cannot_be_used_whole_are_counted(
    sample: PreferenceSample, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = dict(sample.labels)
    broken = PreferenceSample("broken", "a cat", sample.video_1, str(tmp_path / "gone.mp4"), labels)
    traces = [
        make_trace(sample, SCRIPTS["direct"]),
        make_trace(sample, SCRIPTS["three calls"]),  # its first sequence alone would fit
        make_trace(broken, SCRIPTS["direct"]),
        make_trace(sample, [ANSWER, ANSWER]),
        make_trace(sample, [f"{THOUGHT}{GUESS}"]),
        make_trace(sample, [ANSWER.replace("grey", "<|im_end|>")]),
    ]
    lengths = [
        len(item["input_ids"]) for item in make_dataset(tmp_path / "whole.parquet", traces[:2])
    ]
    with caplog.at_level(logging.INFO):
        dataset = make_dataset(tmp_path / "sft.parquet", traces, max_length=max(lengths) - 1)
    assert [len(item["input_ids"]) for item in dataset] == lengths[:1]
    for reason in (
        "longer than data.max_length",
        "video_missing",
        "goes on after its end",
        "does not end with",
    ):
        assert f"1 x {reason}" in caplog.text
    assert "1 x has control tokens" in caplog.text and "left out 5 of 6 traces" in caplog.text


def fail_with(cause: str, num_failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first tries to read a pair fail."""
    causes = iter([cause] * num_failures)

    def load(sample: PreferenceSample, *args: Any) -> PairFrames:
        for each in causes:
            raise EpisodeFailure(FailureKind.VIDEO, "took 60 s", sample.uid, cause=each)
        return load_pair(sample, *args)

    monkeypatch.setattr(sft_dataset, "load_pair", load)


def test_no_trace_is_lost_to_a_busy_machine(
    sample: PreferenceSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = [make_trace(sample, SCRIPTS["direct"])] * 2
    fail_with("timeout", 1, monkeypatch)
    assert len(make_dataset(tmp_path / "sft.parquet", traces)) == 2
    fail_with("no_memory", 2, monkeypatch)
    with pytest.raises(RuntimeError, match=r"'pair' failed twice .*took 60 s.*data_prep\.frames"):
        open_dataset(str(tmp_path / "sft.parquet"))
    fail_with("truncated", 1, monkeypatch)
    assert len(open_dataset(str(tmp_path / "sft.parquet"))) == 1


def open_on_rank(rank: int, folder: Path) -> None:
    """Open the traces as one rank of two; the second one cannot read the first video."""
    address = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=2)
    with pytest.MonkeyPatch.context() as patch:
        fail_with("truncated", rank, patch)
        dataset = open_dataset(str(folder / "sft.parquet"))
    ids = [item["input_ids"].tolist() for item in dataset]
    (folder / f"{rank}.json").write_text(json.dumps(ids))
    torch.distributed.barrier()
    os._exit(0)


def test_ranks_leave_out_the_same_traces(sample: PreferenceSample, tmp_path: Path) -> None:
    """Else each draws from a permutation of another length: rows are trained twice, or a rank
    waits for ever."""
    traces = [make_trace(sample, SCRIPTS[name]) for name in ("direct", "one call", "two calls")]
    whole = make_dataset(tmp_path / "sft.parquet", traces)
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=open_on_rank, args=(rank, tmp_path)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second == [item["input_ids"].tolist() for item in whole][1:]


def test_a_trace_is_replayed_once_whatever_the_epochs(
    sample: PreferenceSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no pixel is touched: the worker that trains reads them."""
    dataset = make_dataset(tmp_path / "sft.parquet", [make_trace(sample, SCRIPTS["two calls"])])

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("replayed or read again")

    monkeypatch.setattr(sft_dataset, "replay_sequences", refuse)
    monkeypatch.setattr(sft_dataset, "load_pair", refuse)
    first, second = ([dataset[index] for index in range(len(dataset))] for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])
        assert torch.equal(one["position_ids"], other["position_ids"])
        assert "pixel_values" not in one["multi_modal_inputs"]


@pytest.mark.parametrize(
    ("episode", "data", "words"),
    [
        ({"window": 2}, {}, "window is 1 here, was 2 there"),
        ({"frames_per_video": 6}, {}, "frames_per_video is 8 here, was 6 there"),
        ({}, {"pad_mode": "right"}, "data.pad_mode must be no_padding"),
        ({}, {"videosearch": None}, "data.videosearch is not set"),
        ({}, {"max_length": 8}, "none of 1 traces can be used"),
    ],
)
def test_wrong_settings_are_refused(
    sample: PreferenceSample, tmp_path: Path, episode: dict, data: dict, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        make_dataset(
            tmp_path / "sft.parquet", [make_trace(sample, SCRIPTS["direct"], **episode)], **data
        )


def test_a_teacher_may_read_other_words(sample: PreferenceSample, tmp_path: Path) -> None:
    trace = make_trace(sample, SCRIPTS["direct"], prompt_style="full", initial_max_pixels=784)
    assert len(make_dataset(tmp_path / "sft.parquet", [trace])) == 1
