"""What we rely on in verl 0.9.1: names, parameters and numbers that move between its releases, in
one place."""

import inspect
from collections.abc import Callable
from importlib.metadata import entry_points, version
from typing import Any

import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("verl")

import transfer_queue
import verl.utils.config
from verl.experimental.agent_loop import agent_loop
from verl.trainer import main_ppo
from verl.trainer.ppo.core_algos import agg_loss
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.trainer.sft_trainer import SFTTrainer
from verl.utils import seqlen_balancing
from verl.utils.checkpoint import CheckpointHandler
from verl.utils.tokenizer import build_multimodal_processor_inputs, normalize_token_ids
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from verl_videosearch.verl_plugin.agent_loop import VideoSearchAgentLoop
from verl_videosearch.verl_plugin.trainer import VideoSearchTrainer

CALLED: list[tuple[Callable[..., Any], str]] = [
    (
        LLMServerClient.generate,
        "self request_id prompt_ids sampling_params image_data video_data audio_data "
        "mm_processor_kwargs kwargs",
    ),
    (upsample_batch_to_divisible_size, "batch batch_multiple eos_token_id"),
    (seqlen_balancing.calculate_workload, "seqlen_list"),
    (seqlen_balancing.get_seqlen_balanced_partitions, "seqlen_list k_partitions equal_size"),
    (seqlen_balancing.log_seqlen_unbalance, "seqlen_list partitions prefix"),
    (
        build_multimodal_processor_inputs,
        "processor text images videos audio mm_processor_kwargs return_tensors",
    ),
    (normalize_token_ids, "tokenized_output"),
    (
        agg_loss,
        "loss_mat loss_mask loss_agg_mode dp_size batch_num_tokens global_batch_size "
        "loss_scale_factor",
    ),
    (transfer_queue.kv_list, "partition_id"),
    (transfer_queue.kv_clear, "keys partition_id"),
    (transfer_queue.kv_batch_get, "keys partition_id select_fields"),
    (transfer_queue.kv_batch_put, "keys partition_id fields tags data_parser"),
    (transfer_queue.async_kv_put, "key partition_id fields tag data_parser"),
]

OVERRIDDEN = [
    (PPOTrainer, VideoSearchTrainer, "_build_replay_buffer", "self"),
    (PPOTrainer, VideoSearchTrainer, "fit", "self agent_loop_manager"),
    (PPOTrainer, VideoSearchTrainer, "prepare_step", "self"),
    (PPOTrainer, VideoSearchTrainer, "_save_checkpoint", "self"),
    (PPOTrainer, VideoSearchTrainer, "_add_prompts_to_generate", "self num_prompts"),
    (PPOTrainer, VideoSearchTrainer, "_submit_batch_to_rollout", "self batch"),
    (
        PPOTrainer,
        VideoSearchTrainer,
        "_balance_batch",
        "self batch metrics logging_prefix keep_minibatch",
    ),
    (PPOTrainer, VideoSearchTrainer, "_compute_old_log_prob", "self batch metrics"),
    (PPOTrainer, VideoSearchTrainer, "_compute_advantage", "self batch metrics"),
    (PPOTrainer, VideoSearchTrainer, "_update_actor", "self batch metrics"),
    (
        PPOTrainer,
        VideoSearchTrainer,
        "_val_metrics_update",
        "self data_sources sample_uids reward_extra_infos_dict sample_turns expected_acc_counts",
    ),
    (
        PPOTrainer,
        VideoSearchTrainer,
        "_compute_metrics",
        "self batch metrics timing_raw global_steps epoch",
    ),
    (agent_loop.AgentLoopBase, VideoSearchAgentLoop, "run", "self sampling_params kwargs"),
    (
        agent_loop.AgentLoopBase,
        VideoSearchAgentLoop,
        "__init__",
        "self trainer_config server_manager tokenizer processor dataset_cls data_config "
        "hf_model_type kwargs",
    ),
]


def parameters(function: Callable[..., Any]) -> str:
    return " ".join(inspect.signature(function).parameters)


def test_the_release() -> None:
    assert version("verl") == "0.9.1"


@pytest.mark.parametrize(
    ("function", "names"), CALLED, ids=lambda value: getattr(value, "__name__", "")
)
def test_what_we_call(function: Callable[..., Any], names: str) -> None:
    assert parameters(function) == names


@pytest.mark.parametrize(
    ("base", "ours", "name", "names"), OVERRIDDEN, ids=lambda value: str(value)[:40]
)
def test_what_we_override(base: type, ours: type, name: str, names: str) -> None:
    assert parameters(getattr(base, name)) == names
    assert name in vars(ours), "this row is not needed any more"


def test_nothing_else_of_the_trainer_is_overridden() -> None:
    inherited = {name for name in vars(VideoSearchTrainer) if hasattr(PPOTrainerSync, name)}
    ours = {name for _, owner, name, _ in OVERRIDDEN if owner is VideoSearchTrainer}
    assert {name for name in inherited if not name.startswith("__")} - {"_abc_impl"} == ours


def test_the_buffer_asks_for_reasons_where_we_answer() -> None:
    assert parameters(ReplayBuffer._terminal_eviction_reasons) == "self global_steps partition_id"
    assert "self._terminal_eviction_reasons(global_steps, partition_id)" in inspect.getsource(
        ReplayBuffer.sample
    )


def test_a_dispatch_begins_with_the_first_worker_of_a_list_that_we_may_turn() -> None:
    source = inspect.getsource(AgentLoopManagerTQ.generate_sequences)
    assert "prompts.chunk(len(self.agent_loop_workers))" in source
    assert "zip(self.agent_loop_workers, chunkes, strict=False)" in source
    assert "self.agent_loop_manager.generate_sequences(batch)" in inspect.getsource(
        PPOTrainer._submit_batch_to_rollout
    )


def test_a_killed_supervised_run_is_resumed_where_we_answer() -> None:
    assert parameters(CheckpointHandler._load_dataloader_state) == "self checkpoint_path"
    assert parameters(CheckpointHandler.load_checkpoint) == "self"
    source = inspect.getsource(CheckpointHandler.load_checkpoint.__wrapped__)
    assert "self._load_dataloader_state(checkpoint_path)" in source
    assert "start_epoch = global_step // self.steps_per_epoch" in inspect.getsource(SFTTrainer.fit)


def test_fields_that_we_fill_and_read() -> None:
    assert {
        "prompt_ids",
        "response_ids",
        "response_mask",
        "response_logprobs",
        "multi_modal_data",
        "reward_score",
        "num_turns",
        "metrics",
        "extra_fields",
    } <= set(agent_loop.AgentLoopOutput.model_fields)
    assert {"generate_sequences", "num_preempted"} <= set(agent_loop.AgentLoopMetrics.model_fields)
    assert {"token_ids", "log_probs", "num_preempted", "extra_fields"} <= set(
        TokenOutput.model_fields
    )


def test_verl_finds_us() -> None:
    targets = {entry.name: entry.value for entry in entry_points(group="verl.plugins")}
    assert targets.get("videosearch") == "verl_videosearch.verl_plugin"
    assert agent_loop._agent_loop_registry["videosearch"] == {
        "_target_": "verl_videosearch.verl_plugin.agent_loop.VideoSearchAgentLoop"
    }


def test_the_check_stands_before_verl_s_own() -> None:
    assert main_ppo.validate_config is verl.utils.config.validate_config
    wrapper = main_ppo.validate_config
    assert wrapper.__wrapped__.__module__ == "verl.utils.config"
    assert wrapper.__code__.co_filename.endswith("preflight/__init__.py")
    source = inspect.getsource(main_ppo.main.__wrapped__)
    assert source.index("validate_config(") < source.index("run_ppo("), "before Ray starts"
