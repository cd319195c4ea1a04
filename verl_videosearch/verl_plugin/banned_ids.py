"""Let the trainer's policy be the one that was sampled from: ids that no reply can hold have no
probability.

The one idea: verl 0.9.1 takes the placeholders of images and videos, and all ids beyond the
tokenizer, out of vLLM's logits (`monkey_patch_compute_logits`), but not out of the trainer's. With
b the probability that the trainer gives to them, its log-probability of a sampled id is too low by
-ln(1 - b): about 2 / vocabulary for random weights, 0.0015 at 1,400 ids. So what verl computes from
the logits is divided by 1 - b; gradients follow::

    ln p(id | not banned) = ln p(id) - ln(1 - b)

Covers: GRPO's old, new and reference log-probabilities. Does not cover: supervised training, which
samples nothing and keeps verl's own loss; entropy, where b is of no weight; fused kernels, which
make no logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import wraps
from types import ModuleType
from typing import Any

import torch
from verl.workers.rollout.utils import get_vision_placeholder_token_ids

_banned: ContextVar[tuple[tuple[int, ...], int] | None] = ContextVar("banned", default=None)
"""Of the batch in work: the placeholders, and the length of the tokenizer."""


def renormalise(
    log_probs: torch.Tensor,
    logits: torch.Tensor,
    labels: torch.Tensor,
    placeholder_ids: Sequence[int],
    num_ids: int,
) -> torch.Tensor:
    """Return the labels' log-probabilities, (N,), among the ids that can be sampled; `logits` is
    (N, vocabulary). A label that is banned itself stands in a context and stays as it is.

    >>> logits = torch.zeros(1, 5)  # five ids, of which one is a placeholder and one has no name
    >>> plain = torch.log_softmax(logits, -1)[:, 0]
    >>> renormalise(plain, logits, torch.tensor([0]), [2], 4).exp()
    tensor([0.3333])
    """
    banned = [*placeholder_ids, *range(num_ids, logits.shape[-1])]
    if not banned:
        return log_probs
    ids = torch.tensor(banned, device=logits.device)
    label_logits = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    log_total = label_logits.float() - log_probs
    banned_mass = (logits[..., ids].float() - log_total.unsqueeze(-1)).exp().sum(-1)
    # a context's placeholder may have all the mass: its row is left out before the logarithm
    banned_mass = torch.where(torch.isin(labels, ids), 0.0, banned_mass).clamp(max=1 - 1e-6)
    return log_probs - torch.log1p(-banned_mass)


def leave_out_banned(logprobs_from_logits: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """Wrap verl's `logprobs_from_logits`, as the engine calls it."""

    @wraps(logprobs_from_logits)
    def wrapper(logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
        log_probs = logprobs_from_logits(logits=logits, labels=labels, **options)
        banned = _banned.get()
        return log_probs if banned is None else renormalise(log_probs, logits, labels, *banned)

    return wrapper


def name_banned(prepare_outputs: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an engine's `prepare_model_outputs`: it says which ids a rollout's batch cannot hold."""

    @wraps(prepare_outputs)
    def wrapper(
        self: Any, output: Any, output_args: Any, micro_batch: Any, logits_processor_func: Any
    ) -> Any:
        is_sampled = "responses" in micro_batch.keys()  # noqa: SIM118  (a TensorDict)
        token = _banned.set(find_banned(self.model_config) if is_sampled else None)
        try:
            return prepare_outputs(self, output, output_args, micro_batch, logits_processor_func)
        finally:
            _banned.reset(token)

    return wrapper


def find_banned(model_config: Any) -> tuple[tuple[int, ...], int] | None:
    """Return what verl tells vLLM to ban: the placeholders, and how many ids have a name."""
    processor = getattr(model_config, "processor", None)
    if processor is None:
        return None
    return tuple(get_vision_placeholder_token_ids(processor)), len(model_config.tokenizer)


def leave_out_in_engine(transformer_impl: ModuleType) -> None:
    """Hook for `verl.workers.engine.fsdp.transformer_impl`."""
    transformer_impl.logprobs_from_logits = leave_out_banned(transformer_impl.logprobs_from_logits)
    engine = transformer_impl.FSDPEngineWithLMHead
    engine.prepare_model_outputs = name_banned(engine.prepare_model_outputs)
