"""What verl 0.9.1 calls on `torch.cuda`, for the processor: `torch.cpu` and the functions it lacks.

verl reports memory by these names and formats what it gets, so they return real numbers: the
resident memory of this process.
"""

import os
import resource

from torch.cpu import *  # noqa: F403  (is_available, device_count, set_device, synchronize, Stream, stream...)
from torch.random import get_rng_state, manual_seed, set_rng_state

__all__ = ["get_rng_state", "manual_seed", "set_rng_state"]

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def get_device_name(device: object = None) -> str:
    """Return CPU; verl looks for the names of accelerators in it and takes their FLOPs as
    unknown."""
    return "CPU"


def empty_cache() -> None:
    """Do nothing: there is no caching allocator."""


def ipc_collect() -> None:
    """Do nothing: weights travel through shared memory."""


def memory_allocated(device: object = None) -> int:
    """Return the resident memory of this process in bytes."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * PAGE_BYTES


def max_memory_allocated(device: object = None) -> int:
    """Return the highest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


memory_reserved = memory_allocated
max_memory_reserved = max_memory_allocated


def mem_get_info(device: object = None) -> tuple[int, int]:
    """Return free and total memory of the machine in bytes."""
    return os.sysconf("SC_AVPHYS_PAGES") * PAGE_BYTES, os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES
