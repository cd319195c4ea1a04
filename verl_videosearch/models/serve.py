"""Serve a checkpoint with vLLM as an OpenAI-compatible endpoint, also on a machine without an
accelerator.

    python -m verl_videosearch.models.serve CHECKPOINT --port 8000 [any option of vllm serve]

The one idea: it is `vllm serve` with defaults that suit this package, and each can be changed on
the command line. The plugin is imported first, in vLLM's own processes too, because on a CPU
machine it leads vLLM to its CPU backend.

| default | why |
|---|---|
| `--generation-config vllm` | a folder's own would change how a policy is sampled |
| `--host 127.0.0.1` | nobody else asks it |
| `--limit-mm-per-prompt`: no video | frames are images; memory is set aside for videos else |
| CPU: float32, eager, no image profiling, small batches | as in recipe `videosearch_grpo_tiny` |
| CPU: `VLLM_CPU_KVCACHE_SPACE=1` | gigabytes of the key-value cache |

Covers: the process. Does not cover: starting and stopping it from a program (`replicas`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from verl_videosearch.extras import Extra, require
from verl_videosearch.verl_plugin import (
    cpu,  # at the top: a process that vLLM spawns imports this file first
)

OPTIONS = {
    "--host": "127.0.0.1",
    "--generation-config": "vllm",
    "--limit-mm-per-prompt": '{"video": 0}',
}
CPU_OPTIONS = {
    "--dtype": "float32",
    "--max-num-batched-tokens": "2048",
    "--max-num-seqs": "32",
    "--enforce-eager": "",
    "--skip-mm-profiling": "",
}


def list_arguments(given: Sequence[str], is_cpu: bool) -> list[str]:
    """Return the arguments of `vllm serve`: those given, and each default that was not.

    >>> list_arguments(["M", "--host=0.0.0.0", "--generation-config", "auto"], is_cpu=False)[4:]
    ['--limit-mm-per-prompt', '{"video": 0}']
    """
    defaults = OPTIONS | (CPU_OPTIONS if is_cpu else {})
    names = {argument.partition("=")[0] for argument in given}
    missing = {name: value for name, value in defaults.items() if name not in names}
    return [*given, *(word for pair in missing.items() for word in pair if word)]


def main(given: Sequence[str]) -> None:
    """Run `vllm serve` in this process."""
    is_cpu = cpu.is_wanted()
    if is_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    vllm = require("vllm.entrypoints.cli.main", Extra.CPU if is_cpu else Extra.GPU)
    sys.argv = ["vllm", "serve", *list_arguments(given, is_cpu)]
    vllm.main()


if __name__ == "__main__":
    main(sys.argv[1:])
