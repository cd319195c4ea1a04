"""Let vLLM sample with a seed of the request's own while long prompts are read in parts.

While a prompt is still being read, vLLM 0.24 draws a token, throws it away, and takes the draw back
by moving the offset of the request's generator. A CPU generator has no offset: the engine dies with
"CPU Generator does not use offset". A draw is thrown away only before the first kept one, so
seeding anew takes it back as well (a request that was preempted reads its own reply again, too: its
random numbers then start over).
"""

from types import ModuleType
from typing import Any

import numpy as np


def rewind_by_seed(gpu_model_runner: ModuleType) -> None:
    """Extend `GPUModelRunner._bookkeeping_sync`, which the CPU's model runner inherits."""
    runner_class = gpu_model_runner.GPUModelRunner
    keep_books = runner_class._bookkeeping_sync

    def rewind(runner: Any, *args: Any, **kwargs: Any) -> Any:
        """Take the thrown away draws back, and hide their generators from vLLM's own way of doing
        so."""
        generators = runner.input_batch.generators
        thrown_away = np.nonzero(runner.discard_request_mask.np[: runner.input_batch.num_reqs])[
            0
        ].tolist()
        hidden = {index: generators.pop(index) for index in thrown_away if index in generators}
        for generator in hidden.values():
            generator.manual_seed(generator.initial_seed())
        try:
            return keep_books(runner, *args, **kwargs)
        finally:
            generators.update(hidden)

    runner_class._bookkeeping_sync = rewind
