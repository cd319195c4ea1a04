"""Captions: dialogues are driven like episodes, rows tell the truth about frames."""

import json
import random
from itertools import groupby
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_prep.captions import choose_frames, find_truth, make_row
from verl_videosearch.captions import CaptionDialogue
from verl_videosearch.episode import EpisodeConfig, Reply, images_of
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.prompts import PromptStyle
from verl_videosearch.sample import PreferenceSample

CANDIDATES = CandidateFrames((0.0,) * 16, (0.0,) * 16)
CONFIG = EpisodeConfig(frames_per_video=16, prompt_style=PromptStyle.BRIEF)


def defect(type_name: str, first_index: int, num_frames: int, is_hidden: bool) -> dict:
    return {
        "type": type_name, "severity": 1, "first_index": first_index, "num_frames": num_frames,
        "is_hidden": is_hidden, "seed": 0, "colour": None, "dimension": "VQ",
    }  # fmt: skip


SAMPLE = PreferenceSample(
    "pair",
    "a cat",
    "1.mkv",
    "2.mkv",
    {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1},
    meta={
        "defects_1": [defect("lines", 0, 16, False)],
        "defects_2": [defect("snow", 5, 2, True), defect("flicker", 9, 3, True)],
        "cue": {"first_index": 5, "num_frames": 3},
    },
)


@pytest.mark.parametrize(
    ("frame_number", "caption", "is_rare"),
    [
        (1, "lines", False),
        (5, "lines and marker", True),
        (21, "marker", True),
        (22, "snow", True),
        (23, "snow", True),
        (24, "clean", False),
        (26, "clean", False),  # flicker shows only between neighbours
    ],
)
def test_captions_are_true(frame_number: int, caption: str, is_rare: bool) -> None:
    truth = find_truth(SAMPLE, CANDIDATES.locate(frame_number))
    assert (truth.caption(PromptStyle.BRIEF), truth.is_rare) == (caption, is_rare)


def test_full_style_uses_whole_words() -> None:
    caption = find_truth(SAMPLE, CANDIDATES.locate(22)).caption(PromptStyle.FULL)
    assert caption == "bright snow over the picture"


@pytest.mark.parametrize(("num_frames", "num_rare"), [(4, 2), (8, 4), (12, 4), (32, 4), (99, 4)])
def test_half_of_the_frames_are_rare_as_far_as_there_are_any(num_frames: int, num_rare: int) -> None:
    for seed in range(20):
        numbers = choose_frames(SAMPLE, CANDIDATES, num_frames, random.Random(seed))
        assert len(numbers) == len(set(numbers)) == min(num_frames, 32)
        assert sum(find_truth(SAMPLE, CANDIDATES.locate(n)).is_rare for n in numbers) >= num_rare


def test_a_row_is_a_dialogue() -> None:
    row = make_row(SAMPLE, CANDIDATES, CONFIG, 6, seed=0)
    assert json.loads(row["episode"])["prompt_style"] == "brief"
    dialogue = CaptionDialogue(CANDIDATES, row["captioned_frames"], CONFIG)
    for shown, caption in enumerate(row["replies"], 1):
        messages = dialogue.messages()
        assert [item["frame_number"] for item in images_of(messages)] == row["captioned_frames"][:shown]
        assert messages[-1]["role"] == "user" and not dialogue.is_done
        dialogue.step(Reply(caption))
    roles = [role for role, _ in groupby(message["role"] for message in dialogue.messages())]
    assert dialogue.is_done and roles == ["system"] + ["user", "assistant"] * 6


def test_a_pair_without_truth_is_refused() -> None:
    sample = PreferenceSample("pair", "a cat", "1.mkv", "2.mkv", SAMPLE.labels)
    with pytest.raises(ValueError, match="does not say what is wrong"):
        make_row(sample, CANDIDATES, CONFIG, 6, seed=0)


def test_the_program_says_what_is_missing(tmp_path: Path) -> None:
    typer = pytest.importorskip("typer")
    from data_prep.captions import main

    app = typer.Typer()
    app.command()(main)
    arguments = ["--pairs", str(tmp_path / "none.parquet"), "--out", str(tmp_path / "captions.parquet")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1 and "no such file" in result.output
