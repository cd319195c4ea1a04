"""Let verl's FSDP engine run on the device `cpu`, also as the reference model.

verl 0.9.1 registers it for cuda and npu only. Just FSDP2: FSDP1 moves the model to a device by
index, which a CPU has not, so `strategy: fsdp` is still refused by name.
"""

from types import ModuleType


def register_for_cpu(fsdp: ModuleType) -> None:
    """Register the language-model engine of `verl.workers.engine.fsdp` under fsdp2 and cpu."""
    from verl.workers.engine.base import EngineRegistry

    EngineRegistry.register(model_type="language_model", backend="fsdp2", device="cpu")(
        fsdp.FSDPEngineWithLMHead
    )


def offload_without_pinning(transformer_impl: ModuleType) -> None:
    """Keep the reference model's offloaded parameters in ordinary memory.

    verl 0.9.1 offloads every forward-only FSDP2 engine into pinned memory, and torch 2.11 pins for
    an accelerator only.
    """
    policy = transformer_impl.CPUOffloadPolicy
    transformer_impl.CPUOffloadPolicy = lambda pin_memory=True: policy(pin_memory=False)
