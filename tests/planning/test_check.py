"""The settings of a training are checked before its model and data are there."""

from pathlib import Path

import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("verl")

from verl_videosearch.planning.check import find_problems

GRPO = (
    "+recipe=videosearch_grpo",
    "actor_rollout_ref.model.path=outputs/7b/models/rft",
    "data.train_files=outputs/7b/splits/grpo.parquet",
    "data.val_files=outputs/7b/splits/validation.parquet",
)
SFT = (
    *("torch.distributed.run", "--nproc_per_node=8", "-m", "verl.trainer.sft_trainer"),
    "+recipe=videosearch_rft",
    "model.path=outputs/7b/models/cold_start",
    "data.train_files=[outputs/7b/samples/sft.parquet]",
)


@pytest.mark.parametrize("recipe", ["videosearch_grpo", "videosearch_cold_start"])
def test_settings_are_checked_without_any_data(recipe: str) -> None:
    assert find_problems([f"+recipe={recipe}"]) == []


@pytest.mark.parametrize("words", [GRPO, SFT], ids=["grpo", "sft"])
def test_what_is_not_made_yet_is_not_missed(words: tuple[str, ...], tmp_path: Path) -> None:
    assert find_problems((*words, f"videosearch.frames.video_root={tmp_path}")) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name one recipe: +recipe=videosearch_grpo; got none"),
        ((*GRPO, *SFT), "got ['videosearch_grpo', 'videosearch_rft']"),
        ((*GRPO, "algorithm.adv_estimator=gae"), "videosearch_grpo: algorithm.adv_estimator must"),
        ((*GRPO, "actor_rollout_ref.model.lora_rnk=8"), "lora_rnk"),
        ((*SFT, "model.lora_rank=8"), "videosearch_rft: checkpoint.save_contents must not have"),
        ((*SFT, "+videosearch.episode.wndow=2"), "unknown setting 'wndow', perhaps 'window'?"),
    ],
)
def test_a_mistake_is_named(words: tuple[str, ...], message: str) -> None:
    problems = find_problems(words)
    assert [problem for problem in problems if message in problem], problems
