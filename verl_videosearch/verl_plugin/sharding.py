"""Which parts of a model verl's FSDP2 gathers at once: a private function of verl 0.9.1, named here
only."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from verl.utils.fsdp_utils import _select_fsdp2_wrap_targets


def list_units(model: nn.Module, class_names: Sequence[str]) -> list[nn.Module]:
    """Return the modules that are sharded as one unit each, by the names of their classes."""
    return list(_select_fsdp2_wrap_targets(model, list(class_names)))
