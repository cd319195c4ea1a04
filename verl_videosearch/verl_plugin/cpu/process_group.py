"""Create verl's global process group with gloo alone.

verl 0.9.1 asks torch for `cpu:gloo,{device}:{backend}`, and torch refuses a device that is named
twice. Both functions that create the group are replaced: the one of the Ray workers takes the
backend as an argument, the one of the SFT trainer does not.
"""

import os
from functools import partial
from types import ModuleType

BACKEND = "gloo"


def use_gloo(distributed: ModuleType) -> None:
    """Replace the two functions of `verl.utils.distributed`."""
    create = partial(distributed.initialize_global_process_group_ray, backend=BACKEND)

    def create_under_torchrun(timeout_second: float = 36000) -> tuple[int, int, int]:
        """Create the group and return local rank, rank and world size, as the original does."""
        create(timeout_second=timeout_second)
        return int(os.environ["LOCAL_RANK"]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    distributed.initialize_global_process_group_ray = create
    distributed.initialize_global_process_group = create_under_torchrun
