"""VideoSearchTrainer: verl's synchronous trainer with an update that counts episodes, not rows.

The one idea: an episode is one or more rows (training sequences), so everything that verl 0.9.1
counts in rows is counted in episodes here, by overriding a few of its methods and nothing else:

- *mini-batches* hold whole prompt groups: `ppo_mini_batch_size` prompts each, so a rollout batch
  is always
  `train_batch_size / ppo_mini_batch_size` optimizer steps (paper: 256 queries, 4 updates of 64),
  whatever the rows;
- *weights*: every episode weighs the same, and inside it every sampled token (`weights.py`): the
  loss is divided by
  the number of episodes, and each row gets its share of its episode's tokens;
- *failed groups* are dropped whole and counted by kind, and training stops with the reasons when
  too many fail;
- *figures* of the episodes are logged as `videosearch/...` from the first step, padding rows left
  out;
- *alarms* (`alarms.py`) are checked after every step, logged, and written as a warning when they
  begin.

Registered as `trainer.v1.trainer_mode: videosearch`.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.experimental.agent_loop import AgentLoopManager
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.seqlen_balancing import (
    calculate_workload,
    get_seqlen_balanced_partitions,
    log_seqlen_unbalance,
)

from verl_videosearch.verl_plugin.agent_loop import FAILURES
from verl_videosearch.verl_plugin.alarms import PREFIX, AlarmKind, find_alarms
from verl_videosearch.verl_plugin.checkpoints import saves_settings
from verl_videosearch.verl_plugin.preflight.data import read_first_sample
from verl_videosearch.verl_plugin.resume import note_total_steps
from verl_videosearch.verl_plugin.settings import Settings
from verl_videosearch.verl_plugin.weights import SHARE_FIELD, compute_shares

logger = logging.getLogger(__name__)
POLL_INTERVAL_S = 0.25
"""Seconds between two looks for finished groups; verl 0.9.1 has 2, and each refill of dynamic
sampling waits for it."""


@register_trainer("videosearch")
class VideoSearchTrainer(PPOTrainerSync):
    """GRPO over episodes of one or more sequences."""

    def _build_replay_buffer(self) -> ReplayBuffer:
        # verl 0.9.1 asks for the name "sync", not for the class, to choose its on-policy replay
        # buffer and checkpoints.
        self.trainer_mode = "sync"
        self._settings = Settings.from_dict(
            OmegaConf.to_container(self.config.videosearch, resolve=True)
        )
        self._history: list[dict[str, float]] = []
        buffer = drop_failed_groups(super()._build_replay_buffer())
        buffer.poll_interval = POLL_INTERVAL_S
        return buffer

    @property
    def num_updates(self) -> int:
        """Optimizer steps per rollout batch and epoch."""
        return (
            self.config.data.train_batch_size
            // self.config.actor_rollout_ref.actor.ppo_mini_batch_size
        )

    def fit(self, agent_loop_manager: AgentLoopManager) -> None:
        keep_old_log(self.config)
        note_total_steps(self.config.trainer.default_local_dir, self.total_training_steps)
        super().fit(agent_loop_manager)

    def prepare_step(self) -> dict:
        self._num_sampled_groups = self.config.data.train_batch_size
        return super().prepare_step()

    def _add_prompts_to_generate(self, num_prompts: int) -> int:
        """Refill dropped groups, unless refilling would never end."""
        self._stop_if_failing()
        self._stop_if_filtered(num_prompts)
        return super()._add_prompts_to_generate(num_prompts)

    def _submit_batch_to_rollout(self, batch: TensorDict) -> int:
        """Begin with another agent worker each time: verl 0.9.1 begins with the first, so that two
        workers get nearly all refills."""
        num_prompts = super()._submit_batch_to_rollout(batch)
        workers = self.agent_loop_manager.agent_loop_workers
        next_worker = len(batch.chunk(len(workers))) % len(workers)
        workers[:] = workers[next_worker:] + workers[:next_worker]
        return num_prompts

    def _stop_if_failing(self) -> None:
        """Raise with the most common causes when too many groups of this step failed."""
        failures, limit = list_failures(), self._settings.rollout.max_failed_groups
        num_failed = len({tag["uid"] for tag in failures})
        if num_failed >= limit:
            causes = Counter(
                tag["detail"] for tag in failures if tag["kind"] != "sibling"
            ).most_common(5)
            shown = "\n".join(f"  {count} x {detail}" for detail, count in causes)
            raise RuntimeError(
                f"step {self.global_steps}: {num_failed} prompt groups failed (limit: "
                "videosearch.rollout."
                f"max_failed_groups={limit}); no reward was given to them. Most common "
                f"causes:\n{shown}"
            )

    def _stop_if_filtered(self, num_prompts: int) -> None:
        """Raise when dynamic sampling drops nearly every group: verl 0.9.1 would refill for
        ever."""
        num_sampled, batch_size = self._num_sampled_groups, self.config.data.train_batch_size
        if num_sampled + num_prompts > self._settings.rollout.max_sampled_batches * batch_size:
            raise RuntimeError(
                f"step {self.global_steps}: of {num_sampled} prompt groups fewer than "
                f"{batch_size} had episodes that "
                f"differ in {self.config.algorithm.filter_groups.metric!r}: the policy is "
                "always right or always "
                "wrong. Start from a model after cold start, use other data, or set "
                "algorithm.filter_groups.enable=false (limit: "
                "videosearch.rollout.max_sampled_batches)"
            )
        self._num_sampled_groups += num_prompts

    def _balance_batch(
        self,
        batch: KVBatchMeta,
        metrics: dict,
        logging_prefix: str = "global_seqlen",
        keep_minibatch: bool = True,
    ) -> KVBatchMeta:
        """Order rows so that each optimizer step gets whole prompt groups and each rank about the
        same work."""
        dp_size = self._find_dp_size()
        mini_batches = split_by_prompt(batch.keys, self.num_updates)
        num_rows = math.ceil(max(map(len, mini_batches)) / dp_size) * dp_size
        num_real = len(batch)
        batch = upsample_batch_to_divisible_size(
            batch, num_rows * self.num_updates, self.tokenizer.eos_token_id
        )
        padding = iter(range(num_real, len(batch)))
        lengths = torch.tensor([tag["seq_len"] for tag in batch.tags], dtype=torch.int64)
        partitions: list[list[int]] = [[] for _ in range(dp_size)]
        for rows in mini_batches:
            rows = rows + [next(padding) for _ in range(num_rows - len(rows))]
            workload = calculate_workload(lengths[rows])
            shares = get_seqlen_balanced_partitions(workload, k_partitions=dp_size, equal_size=True)
            for partition, share in zip(partitions, shares, strict=True):
                partition += [rows[i] for i in share]
        batch.reorder([row for partition in partitions for row in partition])
        metrics.update(
            log_seqlen_unbalance(
                seqlen_list=lengths.tolist(), partitions=partitions, prefix=logging_prefix
            )
        )
        return batch

    def _find_dp_size(self) -> int:
        """Return the number of data-parallel ranks of the actor."""
        workers = self.actor_rollout_wg
        if "actor" not in workers._dispatch_info:
            workers._dispatch_info["actor"] = workers._query_dispatch_info("actor")
        return max(workers._dispatch_info["actor"]) + 1

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        batch = super()._compute_old_log_prob(batch, metrics)
        if self.config.actor_rollout_ref.rollout.calculate_log_probs:
            metrics.update(measure_agreement(batch))
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """Give each row its share of its episode's sampled tokens (`weights.py`)."""
        batch = super()._compute_advantage(batch, metrics)
        data = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["response_mask"]
        )
        num_tokens = [int(mask.sum()) for mask in data["response_mask"].unbind()]
        shares = torch.tensor(compute_shares([session_of(key) for key in batch.keys], num_tokens))
        return tq.kv_batch_put(
            keys=batch.keys,
            partition_id=batch.partition_id,
            fields=TensorDict({SHARE_FIELD: shares[:, None]}, batch_size=len(batch)),
        )

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """Update on mini-batches of equal numbers of rows; verl divides the loss by prompts * n: by
        *episodes*."""
        workers, batch_rows = self.actor_rollout_wg, len(batch)
        plain_update = workers.update_actor

        def update_by_episodes(rows: KVBatchMeta) -> Any:
            rows.extra_info["mini_batch_size"] = batch_rows // self.num_updates
            return plain_update(rows)

        workers.update_actor = update_by_episodes
        try:
            return super()._update_actor(batch, metrics)
        finally:
            workers.update_actor = plain_update

    def _save_checkpoint(self) -> None:
        """Write `videosearch.json` into the Hugging Face folder, too."""
        sample = read_first_sample(self.config.data.train_files)
        with saves_settings(self.actor_rollout_wg, self._settings.episode, sample.dimensions):
            super()._save_checkpoint()

    def _val_metrics_update(
        self,
        data_sources: list[str],
        sample_uids: list[str],
        measures: dict[str, list],
        *args: Any,
        expected_acc_counts: Any = None,
        **kwargs: Any,
    ) -> dict[str, float]:
        """Validate on the episodes that took place: verl 0.9.1 counts a failed session as `acc=0`,
        and it leaves out None but not NaN, our word for a figure that an episode does not have."""
        known = {
            name: [
                None if isinstance(value, float) and math.isnan(value) else value
                for value in values
            ]
            for name, values in measures.items()
        }
        return super()._val_metrics_update(
            data_sources, sample_uids, known, *args, expected_acc_counts=None, **kwargs
        )

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict, timing_raw: dict, global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        metrics.update(measure_batch(batch))
        metrics.update(measure_failures())
        metrics.update(measure_filtering(metrics, self.config.data.train_batch_size))
        metrics.update(self._sound_alarms(metrics))

    def _sound_alarms(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Return 0 or 1 for every kind of alarm and write a warning for each that begins at this
        step.

        The history starts empty after a resume: an alarm that lasts is then written once more, and
        the one over several steps needs that many new ones.
        """
        settings, before = self._settings.alarms, self._history
        self._history = [
            *before,
            {name: value for name, value in metrics.items() if name.startswith(f"{PREFIX}/")},
        ]
        on_before = {alarm.kind for alarm in find_alarms(before, settings)}
        alarms = find_alarms(self._history, settings)
        for alarm in alarms:
            if alarm.kind not in on_before:
                logger.warning(
                    "ALARM %s, step %d: %s", alarm.kind.value, self.global_steps, alarm.message
                )
        on = {alarm.kind for alarm in alarms}
        return {f"{PREFIX}/alarm_{kind.value}": float(kind in on) for kind in AlarmKind}


def keep_old_log(config: DictConfig) -> None:
    """Move the log of an earlier run aside: verl's file logger (0.9.1) empties its file, also when
    a run is resumed."""
    if "file" not in config.trainer.logger:
        return
    folder = (
        Path(os.getenv("VERL_FILE_LOGGER_ROOT", ".")).expanduser() / config.trainer.project_name
    )
    path = Path(
        os.getenv("VERL_FILE_LOGGER_PATH", folder / f"{config.trainer.experiment_name}.jsonl")
    )
    if path.exists() and path.stat().st_size:
        path.rename(path.with_name(f"{path.stem}.{time.strftime('%Y%m%d-%H%M%S')}{path.suffix}"))


def drop_failed_groups(buffer: ReplayBuffer) -> ReplayBuffer:
    """Let a replay buffer drop every failed group; verl 0.9.1 trains on what is left of one that
    has some rows."""
    find_reasons = buffer._terminal_eviction_reasons

    def find_all_reasons(
        global_steps: int, partition_id: str
    ) -> tuple[set[str], set[str], set[str], Counter]:
        stale, filtered, failed, counts = find_reasons(global_steps, partition_id)
        failed = failed if partition_id == "val" else set(buffer.failure_keys[partition_id])
        return stale, filtered, failed, counts

    buffer._terminal_eviction_reasons = find_all_reasons
    return buffer


def session_of(key: str) -> str:
    """Return the episode that a row belongs to.

    >>> session_of("prompt-7_3_1")
    'prompt-7_3'
    """
    return key.rsplit("_", 1)[0]


def split_by_prompt(keys: Sequence[str], num_parts: int) -> list[list[int]]:
    """Split rows into parts of equally many prompts; a prompt's rows stay together.

    >>> split_by_prompt(["p_0_0", "q_0_0", "p_0_1", "r_0_0", "s_0_0"], 2)
    [[0, 2, 1], [3, 4]]
    """
    rows_of_prompt: dict[str, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows_of_prompt[key.rsplit("_", 2)[0]].append(row)
    prompts = list(rows_of_prompt.values())
    if len(prompts) % num_parts:
        raise ValueError(
            f"{len(prompts)} prompts cannot be split into {num_parts} equal mini-batches"
        )
    size = len(prompts) // num_parts
    return [sum(prompts[i : i + size], []) for i in range(0, len(prompts), size)]


def select_real(batch: KVBatchMeta) -> list[str]:
    """Return the keys of the rows that are no padding."""
    return [
        key
        for key, tag in zip(batch.keys, batch.tags, strict=True)
        if not tag.get("is_padding", False)
    ]


def measure_agreement(batch: KVBatchMeta) -> dict[str, float]:
    """Compare the engine's log-probabilities with the trainer's on sampled tokens, padding rows
    left out."""
    fields = ["old_log_probs", "rollout_log_probs", "response_mask"]
    data = tq.kv_batch_get(
        keys=select_real(batch), partition_id=batch.partition_id, select_fields=fields
    )
    mask = data["response_mask"].values().bool()
    gap = (data["old_log_probs"].values() - data["rollout_log_probs"].values()).abs()[mask]
    return {
        f"{PREFIX}/agreement/logprob_abs_diff_mean": gap.mean().item(),
        f"{PREFIX}/agreement/logprob_abs_diff_max": gap.max().item(),
    }


def measure_batch(batch: KVBatchMeta) -> dict[str, float]:
    """Average the figures of each episode (once, whatever its number of sequences); NaN means no
    gold label or no verdict and is left out."""
    last_rows = {
        session_of(key): key
        for key in sorted(select_real(batch), key=lambda key: int(key.rsplit("_", 1)[1]))
    }
    data = tq.kv_batch_get(
        keys=list(last_rows.values()),
        partition_id=batch.partition_id,
        select_fields=["extra_fields"],
    )
    measures = [extra["reward_extra_info"] for extra in list(data["extra_fields"])]
    figures = {f"{PREFIX}/num_episodes": float(len(measures))}
    for name in dict.fromkeys(name for measure in measures for name in measure):
        values = np.array([measure[name] for measure in measures if name in measure])
        if not np.isnan(values).all():
            figures[f"{PREFIX}/{name}"] = float(np.nanmean(values))
    return figures


def list_failures() -> list[dict[str, Any]]:
    """Return what the workers reported since the last step, one tag per failed session."""
    return list((tq.kv_list(partition_id=FAILURES) or {}).get(FAILURES, {}).values())


def measure_failures() -> dict[str, float]:
    """Count failed sessions by kind, then forget them."""
    partition = (tq.kv_list(partition_id=FAILURES) or {}).get(FAILURES, {})
    if partition:
        tq.kv_clear(keys=list(partition), partition_id=FAILURES)
    counts = Counter(tag["kind"] for tag in partition.values())
    groups = {tag["uid"] for tag in partition.values()}
    return {f"{PREFIX}/failed_groups": float(len(groups))} | {
        f"{PREFIX}/failed_{kind}": float(count) for kind, count in counts.items()
    }


def measure_filtering(metrics: Mapping[str, Any], num_trained: int) -> dict[str, float]:
    """Return the share of a step's finished prompt groups that dynamic sampling filtered (no
    signal).

    Groups are trained on, filtered, or, with signal, left over because verl samples ahead; failed
    ones do not count. Without dynamic sampling nothing is filtered: 0.

    >>> measure_filtering({"training/filter_groups/evicted_samples": 6.0}, num_trained=2)
    {'videosearch/filtered_group_rate': 0.75}
    """
    names = (
        "evicted_samples",
        "discarded_surplus_samples",
    )  # verl 0.9.1: "samples" here are groups
    filtered, left_over = (metrics.get(f"training/filter_groups/{name}", 0) for name in names)
    return {f"{PREFIX}/filtered_group_rate": float(filtered / (num_trained + filtered + left_over))}
