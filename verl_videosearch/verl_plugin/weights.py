"""Weights of an episode: every sampled token counts the same, into however many sequences it was
cut.

The one idea: verl 0.9.1 sees rows, and with `loss_agg_mode=seq-mean-token-mean` a row's tokens
weigh
1 / (tokens of the row). Times the row's *share*, its part of the episode's sampled tokens, that is
1 / (tokens of the episode), as in the paper (A.1)::

    episode of 30 + 10 sampled tokens, two rows:   shares 3/4 and 1/4, every token weighs 1/40

The shares travel with the batch as one more field, and all terms of the actor's loss (policy, KL,
entropy) are multiplied by them: verl puts each of them together with `agg_loss`, which is wrapped
here for as long as its `ppo_loss` runs. Batches without the field pass through untouched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import wraps
from types import ModuleType
from typing import Any

import torch

SHARE_FIELD = "episode_share"
"""Field of a batch: one float32 per row, the row's part of its episode's sampled tokens."""

_shares: ContextVar[torch.Tensor | None] = ContextVar("shares", default=None)
"""Of the rows whose loss is being computed, (rows, 1); None outside of a loss with the field."""


def compute_shares(episodes: Sequence[str], num_tokens: Sequence[int]) -> list[float]:
    """Return each row's share of its episode's sampled tokens; 0 for a row without any (padding).

    >>> compute_shares(["p_0", "p_0", "p_1", "pad_0"], [30, 10, 7, 0])
    [0.75, 0.25, 1.0, 0.0]
    """
    totals: Counter[str] = Counter()
    for episode, count in zip(episodes, num_tokens, strict=True):
        totals[episode] += count
    return [
        count / totals[episode] if count else 0.0
        for episode, count in zip(episodes, num_tokens, strict=True)
    ]


def weigh_loss(ppo_loss: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap verl's `ppo_loss`: rows of a batch with `SHARE_FIELD` weigh by their share."""

    @wraps(ppo_loss)
    def weighed(config: Any, model_output: Any, data: Any, dp_group: Any = None) -> Any:
        if SHARE_FIELD not in data:
            return ppo_loss(config, model_output, data, dp_group)
        # TransferQueue hands every field of a tensor back as a nested one
        token = _shares.set(torch.stack([row.reshape(1) for row in data[SHARE_FIELD].unbind()]))
        try:
            return ppo_loss(config, model_output, data, dp_group)
        finally:
            _shares.reset(token)

    return weighed


def weigh_rows(agg_loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Wrap verl's `agg_loss`: inside a weighed loss, every row is multiplied by its share."""

    @wraps(agg_loss)
    def weighed(loss_mat: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        shares = _shares.get()
        if shares is not None:
            loss_mat = loss_mat * shares.to(loss_mat.device, loss_mat.dtype)
        return agg_loss(loss_mat, *args, **kwargs)

    return weighed


def weigh_actor_loss(losses: ModuleType) -> None:
    """Wrap the three names in `verl.workers.utils.losses` and in `core_algos`, whose policy losses
    aggregate by themselves."""
    from verl.trainer.ppo import core_algos

    weighed = weigh_rows(core_algos.agg_loss)
    core_algos.agg_loss = losses.agg_loss = weighed
    losses.ppo_loss = weigh_loss(losses.ppo_loss)
