"""The trainer counts episodes: equal weights, whole prompts per optimizer step, failures never
scored."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# ruff: noqa: E402  (imports after the skip)
torch = pytest.importorskip("torch")
pytest.importorskip("verl")

import numpy as np
from omegaconf import OmegaConf
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import agent_loop_tq, get_trainer_cls
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.workers.utils.losses import agg_loss

from tests.engine import MemoryQueue, compose_recipe, use_memory_queue
from verl_videosearch.reward import _round_exactly
from verl_videosearch.verl_plugin.agent_loop import FAILURES
from verl_videosearch.verl_plugin.alarms import AlarmKind
from verl_videosearch.verl_plugin.trainer import (
    POLL_INTERVAL_S,
    VideoSearchTrainer,
    keep_old_log,
    measure_agreement,
    measure_batch,
    measure_failures,
    measure_filtering,
    split_by_prompt,
)
from verl_videosearch.verl_plugin.weights import SHARE_FIELD, weigh_loss

Groups = dict[str, list[tuple[float, int]]]
"""Of each prompt: the reward and the number of sequences of each episode."""
GROUPS: Groups = {
    "p": [(2.0, 1), (0.5, 3), (1.0, 2), (0.5, 1)],
    "q": [(1.0, 2), (1.0, 1), (1.0, 3), (0.0, 1)],
}


class Workers:
    """The actor's worker group, as far as the trainer asks it."""

    def __init__(self, dp_size: int) -> None:
        self._dispatch_info = {"actor": list(range(dp_size))}
        self.updates: list[KVBatchMeta] = []

    def update_actor(self, batch: KVBatchMeta) -> dict[str, Any]:
        self.updates.append(batch)
        return {"metrics": {"mfu": [0.5], "loss": [1.0]}}


class Tokenizer:
    eos_token_id = 2


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> MemoryQueue:
    return use_memory_queue(monkeypatch)


def make_trainer(dp_size: int = 1, **overrides: Any) -> VideoSearchTrainer:
    config = copy.deepcopy(compose_recipe("videosearch_grpo_tiny"))
    for key, value in overrides.items():
        OmegaConf.update(config, key, value)
    trainer = VideoSearchTrainer(config)
    trainer.actor_rollout_wg, trainer.tokenizer, trainer.global_steps = (
        Workers(dp_size),
        Tokenizer(),
        1,
    )
    return trainer


def store(
    queue: MemoryQueue, groups: Groups, lengths: Callable[[int], int] = lambda i: 3 + i % 5
) -> KVBatchMeta:
    """Put the sequences of some groups into the queue, in the order in which workers would:
    mixed."""
    names = [
        (f"{uid}_{session}_{index}", uid, reward)
        for uid, episodes in groups.items()
        for session, (reward, count) in enumerate(episodes)
        for index in range(count)
    ]
    order = np.random.default_rng(0).permutation(len(names))
    keys, rows, tags = [], [], []
    for i in order:
        key, uid, reward = names[i]
        keys.append(key)
        rows.append(make_row(uid, reward, lengths(int(i))))
        tags.append(
            {
                "status": "success",
                "prompt_len": 2,
                "response_len": lengths(int(i)),
                "seq_len": 2 + lengths(int(i)),
            }
        )
    queue.kv_batch_put(keys, "train", tu.list_of_dict_to_tensordict(rows), tags)
    return KVBatchMeta(keys, tags, "train")


def make_row(uid: str, reward: float, length: int) -> dict[str, Any]:
    """Make the fields of one sequence whose third token was appended, not sampled."""
    mask = torch.ones(length, dtype=torch.int64)
    mask[2:3] = 0
    scores = torch.zeros(length)
    scores[-1] = reward
    prompts, responses = torch.arange(2), torch.arange(length)
    return {
        "uid": uid,
        "prompts": prompts,
        "responses": responses,
        "input_ids": torch.cat([prompts, responses]),
        "position_ids": torch.arange(2 + length),
        "response_mask": mask,
        "loss_mask": mask,
        "rm_scores": scores,
        "old_log_probs": torch.full((length,), -1.0),
        "rollout_log_probs": torch.full((length,), -1.0),
        "ref_log_prob": torch.full((length,), -1.0),
        "extra_fields": {"reward_extra_info": {"acc": reward, "score": reward}},
    }


# Weights


def test_advantages_stay_the_group_s_and_each_row_gets_its_share(queue: MemoryQueue) -> None:
    trainer = make_trainer()
    batch = trainer._compute_advantage(store(queue, GROUPS), {})
    assert [tag["seq_len"] for tag in batch.tags], "the rows keep their tags"
    rows = queue.rows["train"]
    for uid, episodes in GROUPS.items():
        rewards = torch.tensor([reward for reward, _ in episodes])
        expected = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        for session, (_, count) in enumerate(episodes):
            mine = [rows[f"{uid}_{session}_{index}"] for index in range(count)]
            total = sum(int(row["response_mask"].sum()) for row in mine)
            for row in mine:
                advantage = pytest.approx([float(expected[session])] * 2, abs=1e-6)
                assert row["advantages"][[0, 1]].tolist() == advantage
                assert row["advantages"][2] == 0.0, "appended context is not trained"
                share = int(row["response_mask"].sum()) / total
                assert row[SHARE_FIELD].tolist() == pytest.approx([share])


def test_shares_reach_the_workers_in_one_column(queue: MemoryQueue) -> None:
    batch = make_trainer()._compute_advantage(store(queue, GROUPS), {})
    data = queue.kv_batch_get(batch.keys, "train")
    shares = [float(queue.rows["train"][key][SHARE_FIELD]) for key in batch.keys]
    data = data.select(SHARE_FIELD, "input_ids")
    seen = []

    def ppo_loss(config: Any, model_output: Any, rows: Any, dp_group: Any) -> torch.Tensor:
        ones = torch.ones(len(rows), 2)
        for row, row_ones in enumerate(ones):
            alone = torch.zeros_like(ones)
            alone[row] = row_ones
            seen.append(float(agg_loss(alone, ones, "seq-mean-token-mean", global_batch_size=1)))
        return ones

    for mini in tu.make_iterator(data, mini_batch_size=7, epochs=1, seed=0):
        weigh_loss(ppo_loss)(None, None, mini)
    assert sorted(seen) == pytest.approx(sorted(shares)), "as TransferQueue and verl pass it on"


def test_padding_moves_nothing(queue: MemoryQueue) -> None:
    trainer = make_trainer()
    batch = trainer._balance_batch(store(queue, {"p": [(1.0, 2), (0.0, 1)], "q": GROUPS["q"]}), {})
    batch = trainer._compute_advantage(batch, {})
    shares = {key: float(queue.rows["train"][key][SHARE_FIELD]) for key in batch.keys}
    padding = {key for key in shares if key.startswith("pad")}
    assert padding and not any(shares[key] for key in padding)
    assert sum(shares.values()) == pytest.approx(6.0), "one for each episode"


# Mini-batches


def run_ranks(batch: KVBatchMeta, dp_size: int) -> list[set[str]]:
    """Split a batch as verl 0.9.1 does and return the rows of each optimizer step: a contiguous
    chunk per rank (`dispatch_nd_compute_dataproto`), then `make_iterator` over each chunk
    (`TrainingWorker.train_mini_batch`)."""
    steps: list[set[str]] = []
    for rank, chunk in enumerate(batch.chunk(dp_size)):
        mini_batch_size = batch.extra_info["mini_batch_size"]
        assert mini_batch_size % dp_size == 0
        data = TensorDict({"row": torch.arange(len(chunk))}, batch_size=len(chunk))
        minis = tu.make_iterator(
            data,
            mini_batch_size=mini_batch_size // dp_size,
            epochs=batch.extra_info["epochs"],
            seed=batch.extra_info["seed"] + rank,
            dataloader_kwargs=batch.extra_info["dataloader_kwargs"],
        )
        for step, mini in enumerate(minis):
            steps += [set()] if step == len(steps) else []
            rows = {chunk.keys[row] for row in mini["row"].tolist()}
            assert not rows & steps[step]
            steps[step] |= rows
    return steps


@pytest.mark.parametrize(
    ("dp_size", "num_updates", "num_prompts"),
    [(1, 1, 1), (1, 2, 2), (2, 1, 3), (2, 4, 1), (4, 2, 2), (8, 4, 1)],
)
def test_each_optimizer_step_gets_whole_prompts(
    queue: MemoryQueue, dp_size: int, num_updates: int, num_prompts: int
) -> None:
    trainer = make_trainer(
        dp_size,
        **{"data.train_batch_size": num_updates * num_prompts, "actor_rollout_ref.rollout.n": 2},
        **{"actor_rollout_ref.actor.ppo_mini_batch_size": num_prompts},
    )
    for seed in range(5):
        counts = np.random.default_rng(seed).integers(1, 5, (num_updates * num_prompts, 2)).tolist()
        groups = {
            f"p{seed}{i}": [(1.0, count) for count in episodes] for i, episodes in enumerate(counts)
        }
        batch = trainer._balance_batch(store(queue, groups), {})
        trainer._update_actor(batch, {})
        check_steps(
            trainer.actor_rollout_wg.updates.pop(), groups, dp_size, num_updates, num_prompts
        )


def check_steps(
    batch: KVBatchMeta, groups: Groups, dp_size: int, num_updates: int, num_prompts: int
) -> None:
    """Check what each optimizer step trains on when `dp_size` ranks split the batch."""
    steps = run_ranks(batch, dp_size)
    real = [{key for key in rows if not key.startswith("pad")} for rows in steps]
    assert len(steps) == num_updates, "the recipe's number of steps, however many rows there are"
    for rows in real:
        prompts = {key.split("_")[0] for key in rows}
        assert len(prompts) == num_prompts
        assert len(rows) == sum(count for prompt in prompts for _, count in groups[prompt])
    assert sum(map(len, real)) == sum(
        count for episodes in groups.values() for _, count in episodes
    )
    most = max(map(len, real))
    assert {len(rows) for rows in steps} == {-(-most // dp_size) * dp_size}, (
        "padding only evens steps and ranks out"
    )
    assert batch.extra_info["global_batch_size"] == num_prompts * 2, "episodes, not rows"


def test_ranks_get_about_the_same_work(queue: MemoryQueue) -> None:
    groups = {f"p{i}": [(1.0, 2), (1.0, 2)] for i in range(8)}
    trainer = make_trainer(2, **{"actor_rollout_ref.rollout.n": 2})
    batch = trainer._balance_batch(store(queue, groups, lambda i: 400 if i % 4 == 0 else 4), {})
    work = [sum(tag["seq_len"] for tag in chunk.tags) for chunk in batch.chunk(2)]
    assert max(work) < 1.1 * min(work)
    assert not [key for key in batch.keys if key.startswith("pad")]


def test_the_update_is_verl_s_own_again_afterwards(queue: MemoryQueue) -> None:
    trainer = make_trainer()
    plain = trainer.actor_rollout_wg.update_actor

    def fail(_: KVBatchMeta) -> None:
        raise RuntimeError("out of memory")

    trainer.actor_rollout_wg.update_actor = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer._update_actor(store(queue, GROUPS), {})
    assert trainer.actor_rollout_wg.update_actor is fail
    trainer.actor_rollout_wg.update_actor = plain
    trainer._update_actor(store(queue, GROUPS), {})
    assert trainer.actor_rollout_wg.update_actor == plain


@pytest.mark.parametrize("num_parts", [2, 3])
def test_prompts_that_do_not_divide_are_refused(num_parts: int) -> None:
    with pytest.raises(
        ValueError, match=f"5 prompts cannot be split into {num_parts} equal mini-batches"
    ):
        split_by_prompt([f"p{i}_0_0" for i in range(5)], num_parts)


def test_a_uid_may_hold_underscores() -> None:
    assert split_by_prompt(["a_b_0_0", "a_c_0_0", "a_b_1_0"], 2) == [[0, 2], [1]]


# Replay buffer


def add_group(
    queue: MemoryQueue, uid: str, episodes: list[tuple[float, int]], status: str = "finished"
) -> None:
    queue.kv_put(uid, "train", {"is_prompt": True, "status": status, "global_steps": 1})
    if episodes:
        store(queue, {uid: episodes})


def refill_with(
    trainer: VideoSearchTrainer, queue: MemoryQueue, episodes: list[tuple[float, int]]
) -> list[int]:
    """Let the buffer's refill add groups of these episodes; the list of how many it asked for."""
    asked: list[int] = []

    def refill(num_prompts: int) -> int:
        for _ in range(num_prompts):
            asked.append(num_prompts)
            add_group(queue, f"new{len(asked)}", episodes)
        return num_prompts

    trainer.replay_buffer.refill_fn, trainer.replay_buffer.poll_interval = refill, 0.01
    return asked


def sample(trainer: VideoSearchTrainer) -> set[str]:
    batch, _ = trainer.replay_buffer.sample(global_steps=1, partition_id="train", batch_size=1)
    return {key.split("_")[0] for key in batch.keys}


@pytest.mark.parametrize("left_over", [[], [(1.0, 1)], [(1.0, 2), (0.0, 1)]])
def test_a_failed_group_is_replaced_whole(
    queue: MemoryQueue, left_over: list[tuple[float, int]]
) -> None:
    """Also when verl lost a session after its siblings were stored: what is left has no right
    baseline."""
    trainer = make_trainer()
    asked = refill_with(trainer, queue, [(1.0, 1), (0.0, 1)])
    add_group(queue, "broken", left_over, status="failure")
    assert sample(trainer) == {"new1"} and len(asked) == 1
    assert not [key for key in queue.rows["train"] if key.startswith("broken")]


@pytest.mark.parametrize("accuracy", [0.0, 1 / 3, 2 / 3, 5 / 6, 1.0])
def test_a_group_of_equal_accuracy_is_filtered_whatever_its_number_of_sequences(
    queue: MemoryQueue, accuracy: float
) -> None:
    trainer = make_trainer()
    refill_with(trainer, queue, [(1.0, 1), (0.0, 1)])
    add_group(queue, "alike", [(_round_exactly(accuracy), count) for count in (3, 4, 4)])
    assert sample(trainer) <= {"new1", "new2"}, "it was dropped, and verl asked for two others"


def test_a_failed_group_of_validation_stays(queue: MemoryQueue) -> None:
    trainer = make_trainer()
    queue.kv_put("broken", "val", {"is_prompt": True, "status": "failure", "global_steps": 1})
    batch, _ = trainer.replay_buffer.sample(global_steps=1, partition_id="val", batch_size=1)
    assert batch.keys == []


def test_it_is_verl_s_synchronous_trainer_with_the_recipe_s_settings(queue: MemoryQueue) -> None:
    trainer, full = (
        make_trainer(),
        VideoSearchTrainer(copy.deepcopy(compose_recipe("videosearch_grpo"))),
    )
    assert get_trainer_cls("videosearch") is VideoSearchTrainer
    assert trainer.trainer_mode == "sync" and type(trainer.replay_buffer) is ReplayBuffer
    assert (
        trainer.replay_buffer.sync_refill_failed_groups
        and trainer.replay_buffer.filter_groups_metric == "acc"
    )
    assert (trainer.num_updates, full.num_updates) == (2, 4)
    assert trainer.use_reference_policy and not trainer.use_critic
    assert trainer.replay_buffer.poll_interval == POLL_INTERVAL_S < 1


# Failures


def report(queue: MemoryQueue, uid: str, kind: str, detail: str, session: int = 0) -> None:
    queue.kv_put(f"{uid}_{session}_0", FAILURES, {"uid": uid, "kind": kind, "detail": detail})


@pytest.fixture
def refilling(
    queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., VideoSearchTrainer]:
    """Make a trainer at the start of a step whose data and workers are silent."""

    def make(**overrides: Any) -> VideoSearchTrainer:
        trainer = make_trainer(**overrides)
        monkeypatch.setattr(trainer, "_next_train_batch", lambda num_prompts=None: num_prompts)
        monkeypatch.setattr(trainer, "_submit_batch_to_rollout", lambda batch: batch)
        trainer.prepare_step()
        return trainer

    return make


def test_too_many_failed_groups_stop_with_the_reasons(
    queue: MemoryQueue, refilling: Callable[..., VideoSearchTrainer]
) -> None:
    trainer = refilling(**{"videosearch.rollout.max_failed_groups": 3})
    for uid in ("a", "b"):
        report(queue, uid, "video_truncated", "sample 'x': 1.mp4 ends early")
        report(queue, uid, "sibling", "a sibling failed", session=1)
    assert trainer._add_prompts_to_generate(2) == 2, "two groups may fail"
    report(queue, "c", "server", "the engine returned no tokens")
    with pytest.raises(RuntimeError) as caught:
        trainer._add_prompts_to_generate(1)
    message = str(caught.value)
    assert (
        "step 1: 3 prompt groups failed (limit: videosearch.rollout.max_failed_groups=3)" in message
    )
    assert "  2 x sample 'x': 1.mp4 ends early\n  1 x the engine returned no tokens" in message
    assert "a sibling failed" not in message


def test_sampling_for_ever_stops_with_the_reason(
    refilling: Callable[..., VideoSearchTrainer],
) -> None:
    trainer = refilling(**{"videosearch.rollout.max_sampled_batches": 2.0})
    assert trainer._add_prompts_to_generate(8) == 8, "a second batch of 8"
    with pytest.raises(
        RuntimeError, match="of 16 prompt groups fewer than 8 had episodes that differ in 'acc'"
    ):
        trainer._add_prompts_to_generate(1)
    trainer.prepare_step()
    assert trainer._add_prompts_to_generate(1) == 1, "every step counts anew"


class AgentWorker:
    """Counts the prompts that verl sends to one agent worker."""

    def __init__(self) -> None:
        self.num_prompts = 0
        self.generate_sequences = self

    def remote(self, prompts: TensorDict) -> None:
        self.num_prompts += len(prompts)


def test_refills_go_to_all_workers_in_turn(
    queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """verl 0.9.1 begins with the first worker each time, and most refills are two prompts."""
    monkeypatch.setattr(agent_loop_tq.ray, "get", lambda futures: futures)
    workers = [AgentWorker() for _ in range(8)]
    manager = AgentLoopManagerTQ.__new__(AgentLoopManagerTQ)
    manager.agent_loop_workers = list(workers)
    trainer = make_trainer()
    trainer.trainer_mode, trainer.agent_loop_manager = "sync", manager
    for num_prompts in (16, *[2] * 7, 1, 9, 3, 64):
        uids = [f"{trainer.global_steps}-{i}" for i in range(num_prompts)]
        batch = tu.get_tensordict({"row": torch.arange(num_prompts), "uid": uids})
        assert trainer._submit_batch_to_rollout(batch) == num_prompts
        trainer.global_steps += 1
        counts = [worker.num_prompts for worker in workers]
        assert max(counts) - min(counts) <= 2, "a chunk of nine prompts for eight workers is two"
    assert sum(counts) == 107


def test_failures_are_counted_by_kind_once(queue: MemoryQueue) -> None:
    report(queue, "a", "video_truncated", "x")
    report(queue, "a", "sibling", "x", session=1)
    report(queue, "b", "timeout", "x")
    assert measure_failures() == {
        "videosearch/failed_groups": 2.0,
        "videosearch/failed_video_truncated": 1.0,
        "videosearch/failed_sibling": 1.0,
        "videosearch/failed_timeout": 1.0,
    }
    assert measure_failures() == {"videosearch/failed_groups": 0.0}


# Figures


def store_figures(queue: MemoryQueue, figures: dict[str, dict[str, float]]) -> KVBatchMeta:
    rows = [{"extra_fields": {"reward_extra_info": info}} for info in figures.values()]
    tags = [{"is_padding": key.startswith("pad")} for key in figures]
    queue.kv_batch_put(list(figures), "train", tu.list_of_dict_to_tensordict(rows), tags)
    return KVBatchMeta(list(figures), tags, "train")


def test_figures_count_each_episode_once_and_leave_padding_out(queue: MemoryQueue) -> None:
    nan = float("nan")
    batch = store_figures(
        queue,
        {
            "p_0_0": {"acc": 1.0, "correct_VQ": nan, "correct_MQ": nan},
            "p_0_1": {"acc": 1.0, "correct_VQ": nan, "correct_MQ": nan},
            "p_0_2": {"acc": 1.0, "correct_VQ": nan, "correct_MQ": nan},
            "p_1_0": {"acc": 0.0, "correct_VQ": 1.0, "correct_MQ": nan},
            "pad_0_0": {"acc": 9.0, "correct_VQ": 9.0, "correct_MQ": 9.0},
        },
    )
    assert measure_batch(batch) == {
        "videosearch/num_episodes": 2.0,
        "videosearch/acc": 0.5,
        "videosearch/correct_VQ": 1.0,
    }


def test_data_sets_may_judge_different_dimensions(queue: MemoryQueue) -> None:
    batch = store_figures(
        queue, {"p_0_0": {"acc": 1.0, "correct_TA": 1.0}, "q_0_0": {"acc": 0.0, "correct_FN": 0.0}}
    )
    assert measure_batch(batch) == {
        "videosearch/num_episodes": 2.0,
        "videosearch/acc": 0.5,
        "videosearch/correct_TA": 1.0,
        "videosearch/correct_FN": 0.0,
    }


def test_agreement_is_over_sampled_tokens_of_real_rows(queue: MemoryQueue) -> None:
    batch = store(queue, {"p": [(1.0, 1), (0.0, 1)], "pad": [(0.0, 1)]}, lambda i: 4)
    for tag, key in zip(batch.tags, batch.keys, strict=True):
        tag["is_padding"] = key.startswith("pad")
        queue.rows["train"][key]["rollout_log_probs"] = torch.tensor(
            [-1.0, -1.25, 7.0, -1.5]
        )  # the third: not sampled
        if tag["is_padding"]:
            queue.rows["train"][key]["rollout_log_probs"] = torch.zeros(4)
    assert measure_agreement(batch) == {
        "videosearch/agreement/logprob_abs_diff_mean": pytest.approx(0.25),
        "videosearch/agreement/logprob_abs_diff_max": pytest.approx(0.5),
    }


def test_a_session_that_failed_has_no_accuracy_in_validation(queue: MemoryQueue) -> None:
    metrics = make_trainer()._val_metrics_update(
        ["clips", "clips"],
        ["a", "b"],
        {"reward": [2.0, 2.0], "acc": [1.0, 0.5]},
        [2, 2],
        expected_acc_counts={("clips", "a"): 1, ("clips", "b"): 1, ("clips", "failed"): 1},
    )
    assert metrics["val-core/clips/acc/mean@1"] == 0.75


def test_validation_is_over_the_episodes_that_have_a_figure(queue: MemoryQueue) -> None:
    nan = float("nan")
    measures = {
        "reward": [2.0, 0.0, 1.0],
        "acc": [1.0, 0.0, 0.5],
        "verdict_1": [1.0, nan, 0.0],
        "correct_VQ": [nan] * 3,
    }
    metrics = make_trainer()._val_metrics_update(
        ["clips"] * 3, ["a", "b", "c"], measures, [2, 2, 2]
    )
    assert metrics["val-aux/clips/verdict_1/mean@1"] == 0.5
    assert metrics["val-core/clips/acc/mean@1"] == 0.5
    assert not [name for name in metrics if "correct_VQ" in name]


# Alarms


@pytest.mark.parametrize(
    ("groups", "rate"),
    [
        ([[(1.0, 1), (0.0, 1)]], 0.0),
        ([[(1.0, 1), (1.0, 2)]] * 3 + [[(1.0, 1), (0.0, 1)]], 0.75),
        (
            [[(1.0, 1), (1.0, 1)]] * 2 + [[(1.0, 1), (0.0, 3)]] * 2,
            0.5,
        ),  # one of the two with signal is left over
        ([[(1.0, 1), (1.0, 1)], [], [(1.0, 1), (0.0, 1)]], 0.5),  # the second failed
    ],
)
def test_the_rate_of_filtered_groups_is_that_of_verl_s_buffer(
    queue: MemoryQueue, groups: list[list[tuple[float, int]]], rate: float
) -> None:
    trainer = make_trainer()
    refill_with(trainer, queue, [(1.0, 1), (0.0, 1)])
    for i, episodes in enumerate(groups):
        add_group(queue, f"p{i}", episodes, status="finished" if episodes else "failure")
    _, metrics = trainer.replay_buffer.sample(global_steps=1, partition_id="train", batch_size=1)
    assert measure_filtering(metrics, num_trained=1) == {"videosearch/filtered_group_rate": rate}


ALARMS = [f"videosearch/alarm_{kind.value}" for kind in AlarmKind]


def sound(trainer: VideoSearchTrainer, **figures: float) -> set[str]:
    """Take one step with these figures; the alarms that are on."""
    metrics = {
        f"videosearch/{name}": value for name, value in ({"num_episodes": 32.0} | figures).items()
    }
    logged = trainer._sound_alarms(
        metrics | {"val-aux/clips/has_searched/mean@1": 0.0, "actor/lr": 1e-6}
    )
    trainer.global_steps += 1
    assert list(logged) == ALARMS, "every kind on every step"
    return {
        name.removeprefix("videosearch/alarm_") for name, value in logged.items() if value == 1.0
    }


def test_an_alarm_is_logged_while_it_lasts_and_written_when_it_begins(
    caplog: pytest.LogCaptureFixture,
) -> None:
    trainer = make_trainer()
    rates = [0.9, 0.1, 0.05, 0.5, 0.1]
    assert [sound(trainer, has_searched=rate) == {"search_lost"} for rate in rates] == [
        False,
        True,
        True,
        False,
        True,
    ]
    written = [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("verl_videosearch")
    ]
    assert [message.split(":")[0] for message in written] == [
        "ALARM search_lost, step 2",
        "ALARM search_lost, step 5",
    ]
    assert "is 0.1, below videosearch.alarms.min_search_rate=0.2" in written[0]
    assert "earlier checkpoint" in written[0]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_alarms_follow_the_settings_and_may_be_on_together() -> None:
    trainer = make_trainer(
        **{"videosearch.alarms.min_search_rate": 0.0, "videosearch.alarms.max_verdict_share": 0.5}
    )
    figures = {
        "has_searched": 0.0,
        "filtered_group_rate": 0.85,
        "has_verdict": 1.0,
        "verdict_0": 0.4,
        "verdict_2": 0.6,
    }
    assert sound(trainer, **figures) == {"signal_lost", "one_verdict"}


def test_a_rise_over_a_window_is_seen_and_a_resume_starts_anew() -> None:
    trainer, resumed = (make_trainer(**{"videosearch.alarms.window_steps": 4}) for _ in range(2))
    steps = [
        {"has_searched": 1.0, "score": score, "correct_OA": 0.5}
        for score in (1.0, 1.0, 1.5, 1.5, 1.5)
    ]
    assert [bool(sound(trainer, **step)) for step in steps] == [False, False, False, True, True]
    assert [bool(sound(resumed, **step)) for step in steps[2:]] == [False, False, False]


def test_alarms_are_among_the_figures_of_a_step(
    queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PPOTrainerSync, "_compute_metrics", lambda *_: None)
    batch = store_figures(queue, {"p_0_0": {"has_searched": 0.0, "score": 1.0}})
    metrics = {"training/filter_groups/evicted_samples": 72.0, "val-core/clips/acc/mean@1": 0.5}
    make_trainer()._compute_metrics(batch, metrics, {}, 1, 0)
    assert metrics["videosearch/filtered_group_rate"] == 0.9  # the recipe trains on 8 groups
    assert {name: metrics[name] for name in ALARMS} == {
        "videosearch/alarm_search_lost": 1.0,
        "videosearch/alarm_signal_lost": 1.0,
        "videosearch/alarm_one_verdict": 0.0,
        "videosearch/alarm_reward_without_accuracy": 0.0,
    }


def test_an_old_log_is_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(tmp_path / "log.jsonl"))
    config = compose_recipe("videosearch_grpo_tiny")
    keep_old_log(config)
    (tmp_path / "log.jsonl").write_text("step 1")
    keep_old_log(OmegaConf.merge(config, {"trainer": {"logger": ["console"]}}))
    assert (tmp_path / "log.jsonl").exists(), "only verl's file logger empties it"
    keep_old_log(config)
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("log.2") and kept.read_text() == "step 1"
