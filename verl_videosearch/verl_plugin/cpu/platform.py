"""The platform `cpu` for verl 0.9.1: what verl asks about a device, answered for the processor.

verl ships platforms for nvidia, huawei and amd; without one of them it falls back to nvidia and
fails at the first CUDA call.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry

from verl_videosearch.verl_plugin.cpu import device_module


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """One device, the processor; whatever only an accelerator has is a no-op."""

    device_name = "cpu"
    vendor_name = "cpu"

    @property
    def device_module(self) -> ModuleType:
        """Return what stands for `torch.cuda`."""
        return device_module

    def is_available(self) -> bool:
        """Return True: the processor is always there."""
        return True

    def current_device(self) -> torch.device:
        """Return a device and not an index: verl passes it to `.to()`, where 0 would mean
        cuda:0."""
        return torch.device("cpu")

    def device_count(self) -> int:
        """Return 1."""
        return 1

    def set_device(self, device_index: int) -> None:
        """Do nothing: there is one device."""

    def synchronize(self, device_index: int | None = None) -> None:
        """Do nothing: work on the CPU is finished when the call returns."""

    def manual_seed(self, seed: int) -> None:
        """Seed torch."""
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        """Seed torch."""
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """Do nothing: there is no caching allocator."""

    def empty_cache(self) -> None:
        """Do nothing: there is no caching allocator."""

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        """Return no compute capability."""
        return None, None

    def communication_backend_name(self) -> str:
        """Return gloo, torch's backend for CPU tensors."""
        return "gloo"

    def visible_devices_envvar(self) -> str:
        """Return the variable that Ray sets for the resource below; it hides nothing here."""
        return "CUDA_VISIBLE_DEVICES"

    def ray_resource_name(self) -> str:
        """Return GPU: verl counts only GPU and NPU. Give Ray one with
        `ray_kwargs.ray_init.num_gpus=1`."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        """Return none: Ray may set the visible devices."""
        return []

    def rollout_env_vars(self) -> dict[str, str]:
        """Return the environment of the vLLM server: 1 GiB for its key-value cache unless the user
        chose a size."""
        return {"VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")}

    def is_ipc_supported(self) -> bool:
        """Return False, so that weights go to vLLM through shared memory."""
        return False

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        """Run the block without a profiler range."""
        yield

    def profiler_start(self) -> None:
        """Do nothing."""

    def profiler_stop(self) -> None:
        """Do nothing."""

    def cudart(self) -> None:
        """Return no CUDA runtime."""
