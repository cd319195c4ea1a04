"""The plain reward function, called by verl's own reward manager from the recipe's settings."""

import asyncio
import json
from typing import Any

import pytest

# ruff: noqa: E402  (imports after the skip)
torch = pytest.importorskip("torch")
pytest.importorskip("verl")

import numpy as np
from tensordict import TensorDict
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
from verl.protocol import DataProto
from verl.trainer.ppo.reward import get_custom_reward_fn

from tests.engine import ANSWER, call_frames, compose_recipe, processor, tokenize
from verl_videosearch.sample import PreferenceSample, to_row
from verl_videosearch.verl_plugin.reward_fn import compute_score

LABELS = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}
GROUND_TRUTH = json.dumps(LABELS)

REPLIES = {
    "right": (ANSWER, {"score": 2.0, "acc": 1.0, "reward_format": 1.0, "ending_answered": 1.0}),
    "half right": (
        ANSWER.replace("OA=1", "OA=2"),
        {"score": 1.5, "acc": 0.5, "correct_OA": 0.0, "correct_VQ": 1.0},
    ),
    "right without form": (
        "<Answer>TA=0, VQ=1, MQ=0, OA=1</Answer>",
        {"score": 1.0, "reward_format": 0.0},
    ),
    "nothing": ("", {"score": 0.0, "ending_no_answer": 1.0, "has_verdict": 0.0}),
    "unreadable": ("<Answer>TA=9</Answer>", {"score": 0.0, "ending_unreadable": 1.0}),
    "a call that nobody runs": (
        call_frames(1),
        {"score": 0.0, "has_searched": 0.0, "invalid_call_limit": 1.0},
    ),
    "a call, then an answer": (call_frames(1) + ANSWER, {"score": 0.0, "has_searched": 0.0}),
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_is_an_episode_without_calls(name: str) -> None:
    reply, expected = REPLIES[name]
    result = compute_score("clips", reply, GROUND_TRUTH)
    assert {key: result[key] for key in expected} == expected
    assert set(result) == set(compute_score("clips", "", GROUND_TRUTH)), (
        "verl reads the keys off the first reply"
    )


def test_settings_are_the_reward_s() -> None:
    assert compute_score("clips", ANSWER, GROUND_TRUTH, format_weight=0.25)["score"] == 1.25
    with pytest.raises(ValueError, match="unknown setting 'typo'.*overall_weight"):
        compute_score("clips", ANSWER, GROUND_TRUTH, typo=1)


def test_missing_labels_are_left_out() -> None:
    result = compute_score("clips", ANSWER, json.dumps(LABELS | {"VQ": None, "MQ": None}))
    assert result["acc"] == 1.0 and np.isnan(result["correct_VQ"])


@pytest.mark.parametrize(("reply", "score"), [(ANSWER, 2.0), ("no idea", 0.0)])
def test_verl_calls_it_through_its_reward_manager(reply: str, score: float) -> None:
    config = compose_recipe("videosearch_grpo")
    manager = NaiveRewardManager(config, processor().tokenizer, get_custom_reward_fn(config))
    responses = torch.tensor([tokenize(reply)])
    row = to_row(PreferenceSample("pair-7", "a cat", "1.mp4", "2.mp4", LABELS, source="clips"))
    data = DataProto(
        batch=TensorDict(
            {"responses": responses, "attention_mask": torch.ones_like(responses)}, batch_size=1
        ),
        non_tensor_batch={
            "data_source": np.array([row["data_source"]]),
            "reward_model": np.array([row["reward_model"]]),
            "extra_info": np.array([{}], dtype=object),
        },
    )

    async def run() -> dict[str, Any]:
        manager.loop = asyncio.get_running_loop()
        return await manager.run_single(data)

    result = asyncio.run(run())
    assert result["reward_score"] == score
    assert result["reward_extra_info"] == pytest.approx(
        compute_score("clips", reply, row["reward_model"]["ground_truth"]), nan_ok=True
    )
