"""Log-probabilities in blocks are verl's, with the same gradients."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

# ruff: noqa: E402  (imports after the skip)
torch = pytest.importorskip("torch")
pytest.importorskip("verl")

from verl.utils import torch_functional
from verl.workers.engine.fsdp import transformer_impl

from verl_videosearch.verl_plugin import log_probs
from verl_videosearch.verl_plugin.log_probs import LabelLogProbs, take_in_blocks

NUM_TOKENS, NUM_IDS = 37, 50


def draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits, labels, and the weight of each token in a loss: half of them have none."""
    random = torch.Generator().manual_seed(3)
    logits = 5 * torch.randn(NUM_TOKENS, NUM_IDS, generator=random)
    labels = torch.randint(NUM_IDS, (NUM_TOKENS,), generator=random)
    weights = torch.randn(NUM_TOKENS, generator=random)
    weights[::2] = 0
    return logits, labels, weights


@pytest.mark.parametrize("block", [1, 3 * NUM_IDS, 10**6])
def test_values_and_gradients_are_verl_s(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_probs, "BLOCK_ELEMENTS", block)
    logits, labels, weights = draw()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    made = LabelLogProbs.apply(ours, labels)
    expected = torch_functional.logprobs_from_logits_v2(theirs, labels)
    torch.testing.assert_close(made, expected, rtol=0, atol=2e-6)
    (made * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=2e-6)


def test_logits_of_half_precision_keep_their_dtype_in_the_gradient() -> None:
    logits, labels, weights = draw()
    half = logits.bfloat16().requires_grad_()
    made = LabelLogProbs.apply(half, labels)
    exact = torch.log_softmax(half.detach().float(), -1).gather(-1, labels[:, None])[:, 0]
    torch.testing.assert_close(made, exact, rtol=0, atol=2e-6)
    (made * weights).sum().backward()
    assert half.grad is not None and half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(("flash", "npu"), [(True, False), (False, True)])
def test_a_kernel_of_verl_s_is_preferred(flash: bool, npu: bool) -> None:
    calls = []
    verl = SimpleNamespace(
        FLAH_ATTN_CROSS_ENTROPY_LOSS_AVAILABLE=flash, NPU_CROSS_ENTROPY_LOSS_AVAILABLE=npu
    )
    wrapped = take_in_blocks(lambda **options: calls.append(options) or torch.zeros(1), verl)
    logits, labels, _ = draw()
    wrapped(logits, labels=labels, inplace_backward=True)
    assert calls[0]["inplace_backward"] is True and calls[0]["logits"] is logits


def test_the_engine_makes_one_node_and_not_one_per_token() -> None:
    logits, labels, _ = draw()
    made = transformer_impl.logprobs_from_logits(logits=logits.requires_grad_(), labels=labels)
    assert type(made.grad_fn).__name__ == "LabelLogProbsBackward"
