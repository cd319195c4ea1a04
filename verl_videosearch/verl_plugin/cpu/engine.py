"""Register verl's FSDP engine for the device `cpu`.

verl 0.9.1 registers it for cuda and npu only. Just FSDP2: FSDP1 moves the model to a device by index, which a CPU has not, so
`strategy: fsdp` is still refused by name.
"""

from types import ModuleType


def register_for_cpu(fsdp: ModuleType) -> None:
    """Register the language-model engine of `verl.workers.engine.fsdp` under fsdp2 and cpu."""
    from verl.workers.engine.base import EngineRegistry

    EngineRegistry.register(model_type="language_model", backend="fsdp2", device="cpu")(fsdp.FSDPEngineWithLMHead)
