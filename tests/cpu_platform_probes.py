"""Ask verl and vLLM the questions of `verl_plugin/cpu` in this process and print the answers as
JSON.

    VIDEOSEARCH_PLATFORM=cpu python tests/cpu_platform_probes.py   # repaired
    VIDEOSEARCH_PLATFORM=off python tests/cpu_platform_probes.py   # as verl and vLLM are, plus the
                                                                   platform

An answer is what the probe returns, or the error it met. tests/verl_plugin/test_cpu_platform.py
compares both with a table.
"""

import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from types import SimpleNamespace

import verl  # noqa: F401  (loads the plugin, as in every process of a run)


def registered_platforms() -> bool:
    from verl.plugin.platform import PlatformRegistry

    return "cpu" in PlatformRegistry.registered_names()


def platform() -> str:
    from verl.plugin.platform import get_platform

    import verl_videosearch.verl_plugin.cpu.platform  # noqa: F401  (the probes below meet a CPU device in both modes)

    return get_platform().device_name


def vllm_version() -> str:
    return version("vllm")


def ray_process_group() -> str:
    import torch.distributed
    from verl.utils import distributed

    distributed.initialize_global_process_group_ray()
    backend = torch.distributed.get_backend()
    torch.distributed.destroy_process_group()
    return backend


def torchrun_process_group() -> list[int]:
    import torch.distributed
    from verl.utils import distributed

    ranks = distributed.initialize_global_process_group(timeout_second=60)
    torch.distributed.destroy_process_group()
    return list(ranks)


def fsdp2_engine() -> str:
    from verl.workers.engine import EngineRegistry

    return EngineRegistry.get_engine_cls("language_model", "fsdp2").__name__


def fsdp1_engine() -> str:
    from verl.workers.engine import EngineRegistry

    return EngineRegistry.get_engine_cls("language_model", "fsdp").__name__


def offloaded_reference_model() -> float:
    """Return the output of a forward-only model, whose parameters verl offloads between calls."""
    import torch
    from torch.distributed.fsdp import fully_shard
    from verl.workers.engine.fsdp import transformer_impl

    torch.distributed.init_process_group("gloo")
    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    fully_shard(model, mesh=mesh, offload_policy=transformer_impl.CPUOffloadPolicy(pin_memory=True))
    output = model(torch.ones(1, 2)).item()
    torch.distributed.destroy_process_group()
    return output


def linear_weight() -> list[int]:
    """Return the shape of a linear weight after vLLM has prepared the layer; verl writes new
    weights into it."""
    import torch
    from vllm.model_executor.layers import utils

    layer = torch.nn.Linear(64, 32, bias=False).requires_grad_(False)
    utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    if layer.weight.numel():
        layer.weight.fill_(1.0)
        assert layer.cpu_linear(torch.ones(1, 64), layer.weight, None).tolist() == [[64.0] * 32], (
            "old weights are used"
        )
    return list(layer.weight.shape)


def seeded_sampling() -> str:
    """Let vLLM throw away the draw of a request whose prompt is read in parts; say whether it can
    be drawn again."""
    import numpy as np
    import torch
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    generators = {number: torch.Generator().manual_seed(number) for number in (0, 1)}
    first = [torch.rand(1, generator=generator).item() for generator in generators.values()]
    ids = {"a": 0, "b": 1}
    batch = SimpleNamespace(
        num_reqs=2, req_ids=list(ids), req_id_to_index=ids, generators=dict(generators)
    )
    batch.prev_sampled_token_ids = None
    batch.num_tokens_no_spec, batch.token_ids_cpu, batch.is_token_ids = (
        [1, 1],
        np.zeros((2, 4)),
        np.zeros((2, 4)),
    )
    runner = SimpleNamespace(input_batch=batch, use_async_scheduling=True, max_model_len=4)
    runner.discard_request_mask = SimpleNamespace(np=np.array([True, False]))
    runner.requests = {request_id: SimpleNamespace(output_token_ids=[]) for request_id in ids}
    runner._get_prompt_logprobs_dict = lambda *_: {}
    drawn = SimpleNamespace(
        sampled_token_ids=torch.zeros(2, 1, dtype=torch.long), logprobs_tensors=None
    )
    result = GPUModelRunner._bookkeeping_sync(
        runner, SimpleNamespace(num_scheduled_tokens={}), drawn, None, torch.zeros(2, 1), 2
    )
    assert batch.generators == generators and result[-1] == [0], (
        "a generator is lost, or no draw was thrown away"
    )
    again = [torch.rand(1, generator=generator).item() for generator in generators.values()]
    return f"again: {again[0] == first[0]}, on: {again[1] != first[1]}"


def recipes() -> list[str]:
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_module("verl.trainer.config", version_base=None):
        return GlobalHydra.instance().config_loader().get_group_options("recipe")


def agent_loop() -> str:
    from verl.experimental.agent_loop.agent_loop import _agent_loop_registry

    return _agent_loop_registry["videosearch"]["_target_"]


def trainer() -> bool:
    import verl.trainer.ppo.v1  # noqa: F401

    return "verl_videosearch.verl_plugin.trainer" in sys.modules


PROBES: tuple[Callable[[], object], ...] = (
    registered_platforms,
    platform,
    vllm_version,
    ray_process_group,
    torchrun_process_group,
    fsdp2_engine,
    fsdp1_engine,
    offloaded_reference_model,
    linear_weight,
    seeded_sampling,
    recipes,
    agent_loop,
    trainer,
)


def answer(probe: Callable[[], object]) -> object:
    try:
        return probe()
    except (Exception, SystemExit) as error:  # the boundary: an error is the answer
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    os.environ.update(
        RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0"
    )
    answers = {probe.__name__: answer(probe) for probe in PROBES}
    sys.stdout.write("\n" + json.dumps(answers))
