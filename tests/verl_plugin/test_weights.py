"""Every sampled token of an episode weighs the same, into however many sequences it was cut."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

# ruff: noqa: E402  (imports after the skip)
torch = pytest.importorskip("torch")
pytest.importorskip("verl")

from tensordict import TensorDict
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.tensordict_utils import assign_non_tensor
from verl.workers import engine_workers
from verl.workers.utils import losses

from tests.engine import compose_recipe
from verl_videosearch.verl_plugin.weights import SHARE_FIELD, compute_shares

NUM_TOKENS = 7
"""Sampled tokens of the episode that is cut up."""


def list_splits(num_tokens: int) -> Iterator[list[int]]:
    """Yield every way to cut a row of tokens into pieces, as lengths."""
    for cuts in itertools.product([False, True], repeat=num_tokens - 1):
        lengths = [1]
        for is_cut in cuts:
            if is_cut:
                lengths.append(1)
            else:
                lengths[-1] += 1
        yield lengths


def make_config(**changes: Any) -> Any:
    node = compose_recipe("videosearch_grpo").actor_rollout_ref.actor.copy()
    for name, value in changes.items():
        node[name] = value
    node.rollout_n = 8
    node.ppo_micro_batch_size_per_gpu = 1
    return omega_conf_to_dataclass(node)


def make_rows(lengths: list[int], values: dict[str, torch.Tensor]) -> tuple[TensorDict, Any]:
    """Cut an episode's tokens into rows of a two-token prompt, the sampled tokens, and one token of
    appended context after each row but the last."""
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in values}
    masks, start = [], 0
    for index, length in enumerate(lengths):
        appended = int(index < len(lengths) - 1)
        masks.append(torch.tensor([1] * length + [0] * appended))
        for name, value in values.items():
            piece = torch.cat([value[start : start + length], torch.full((appended,), 9.0)])
            rows[name].append(piece)
        start += length
    prompts = [torch.zeros(2, dtype=torch.int64)] * len(masks)
    whole = [torch.cat([prompt, mask]) for prompt, mask in zip(prompts, masks, strict=True)]
    # a log-probability stands where its token is predicted: one earlier than the token
    shifted = [torch.cat([torch.zeros(1), row, torch.zeros(1)]) for row in rows.pop("log_probs")]

    def nest(pieces: list[torch.Tensor]) -> torch.Tensor:
        return torch.nested.as_nested_tensor(pieces, layout=torch.jagged)

    fields = {name: nest(pieces) for name, pieces in rows.items()}
    fields |= {"prompts": nest(prompts), "responses": nest(masks), "input_ids": nest(whole)}
    fields |= {"response_mask": nest(masks)}
    shares = compute_shares(["e"] * len(lengths), lengths)
    fields[SHARE_FIELD] = torch.tensor(shares)[:, None]
    data = TensorDict(fields, batch_size=len(masks))
    assign_non_tensor(data, dp_size=1, batch_num_tokens=None, global_batch_size=1)
    return data, {"log_probs": nest(shifted)}


@pytest.fixture
def values() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    names = ("log_probs", "old_log_probs", "ref_log_prob")
    values = {name: -torch.rand(NUM_TOKENS, generator=generator) for name in names}
    return values | {"advantages": torch.full((NUM_TOKENS,), -0.7)}


def measure(lengths: list[int], values: dict[str, torch.Tensor], **changes: Any) -> Any:
    """Return verl's own loss of the episode, and its gradient by the log-probabilities."""
    log_probs = values["log_probs"].clone().requires_grad_()
    data, output = make_rows(lengths, values | {"log_probs": log_probs})
    loss, _ = losses.ppo_loss(make_config(**changes), output, data)
    return loss.detach(), torch.autograd.grad(loss, log_probs)[0]


@pytest.mark.parametrize(
    "changes",
    [{}, {"use_kl_loss": False}, {"kl_loss_coef": 10.0}],
    ids=["recipe", "without KL", "mostly KL"],
)
def test_any_split_of_an_episode_has_the_loss_and_gradients_of_the_unsplit_one(
    values: dict[str, torch.Tensor], changes: dict[str, Any]
) -> None:
    loss, gradient = measure([NUM_TOKENS], values, **changes)
    for lengths in list_splits(NUM_TOKENS):
        split_loss, split_gradient = measure(lengths, values, **changes)
        assert torch.allclose(split_loss, loss, atol=1e-6), lengths
        assert torch.allclose(split_gradient, gradient, atol=1e-6), lengths


def test_without_shares_a_short_sequence_weighs_more(values: dict[str, torch.Tensor]) -> None:
    """What verl does by itself, and why the shares are needed."""
    log_probs = values["log_probs"].clone().requires_grad_()
    flat = values | {"log_probs": log_probs, "old_log_probs": values["log_probs"]}
    data, output = make_rows([6, 1], flat)
    del data[SHARE_FIELD]
    loss, _ = losses.ppo_loss(make_config(use_kl_loss=False), output, data)
    gradient = torch.autograd.grad(loss, log_probs)[0]
    assert gradient[6] == pytest.approx(6 * float(gradient[0]))


def test_verl_s_workers_take_the_weighed_loss() -> None:
    assert engine_workers.ppo_loss is losses.ppo_loss
    assert losses.ppo_loss.__wrapped__.__module__ == "verl.workers.utils.losses"


def test_shares_of_each_episode_add_up_to_one_and_padding_has_none() -> None:
    episodes = ["a_0", "b_0", "a_0", "a_1", "pad_0", "a_0"]
    shares = compute_shares(episodes, [10, 5, 20, 3, 0, 70])
    assert shares == [0.1, 1.0, 0.2, 1.0, 0.0, 0.7]
