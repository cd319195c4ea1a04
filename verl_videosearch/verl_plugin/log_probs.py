"""Take the log-probabilities of labels for all tokens at once.

The one idea: without flash-attn's kernel verl 0.9.1 (`logprobs_from_logits_v2`) loops over the
tokens of a micro-batch in Python, which is ten small operations a token and as many on the way
back: a quarter of a step of the tiny model, and thousands of kernel launches on an accelerator.
Here a block of tokens is one operation, and the way back leaves out tokens without a gradient, such
as those of a prompt. Memory is what verl's loop takes: the logits, their gradient, and one block.

Covers: what the FSDP engine computes from logits, in training and scoring, in float32 whatever the
logits are. Does not cover: flash-attn's and Ascend's kernels, which verl prefers where it has them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

import torch

BLOCK_ELEMENTS = 2**26
"""Most logits of one block: 256 MiB in float32."""


class LabelLogProbs(torch.autograd.Function):
    """ln p of a label under softmax(logits), token by token."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Take logits (N, vocabulary) and labels (N,); returns float32 (N,)."""
        parts = logits.split(_count_rows(logits))
        log_totals = torch.cat([part.float().logsumexp(-1) for part in parts])
        ctx.save_for_backward(logits, labels, log_totals)
        return logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1).float() - log_totals

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        """Return gradient * (one-hot - softmax) where the gradient is not 0."""
        logits, labels, log_totals = ctx.saved_tensors
        made = torch.zeros_like(logits)
        for rows in gradient.nonzero().squeeze(-1).split(_count_rows(logits)):
            scale = gradient[rows].unsqueeze(-1)
            block = (logits[rows].float() - log_totals[rows].unsqueeze(-1)).exp_().mul_(-scale)
            block.scatter_add_(-1, labels[rows].unsqueeze(-1), scale)
            made[rows] = block.to(made.dtype)
        return made, None


def _count_rows(logits: torch.Tensor) -> int:
    """Return how many tokens make a block."""
    return max(1, BLOCK_ELEMENTS // logits.shape[-1])


def take_in_blocks(
    logprobs_from_logits: Callable[..., torch.Tensor], torch_functional: ModuleType
) -> Callable[..., torch.Tensor]:
    """Wrap verl's `logprobs_from_logits`; `torch_functional` says whether a kernel is there."""
    has_kernel = (
        torch_functional.FLAH_ATTN_CROSS_ENTROPY_LOSS_AVAILABLE
        or torch_functional.NPU_CROSS_ENTROPY_LOSS_AVAILABLE
    )

    @wraps(logprobs_from_logits)
    def wrapper(logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
        if has_kernel or logits.ndim != 2:
            return logprobs_from_logits(logits=logits, labels=labels, **options)
        return LabelLogProbs.apply(logits, labels)

    return wrapper


def take_in_engine(transformer_impl: ModuleType) -> None:
    """Hook for `verl.workers.engine.fsdp.transformer_impl`."""
    from verl.utils import torch_functional

    transformer_impl.logprobs_from_logits = take_in_blocks(
        transformer_impl.logprobs_from_logits, torch_functional
    )
