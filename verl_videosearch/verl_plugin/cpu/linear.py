"""Keep the weights of vLLM's linear layers as they are, so that new ones can be written into them.

vLLM 0.24's CPU backend packs a linear weight for its own kernels when the model is loaded and drops
the original; verl's first weight synchronisation then writes into an empty parameter and fails. The
plain product is slower; a model trained on a CPU is tiny.
"""

from types import ModuleType

from torch import nn


def keep_plain(utils: ModuleType) -> None:
    """Replace the packing in `vllm.model_executor.layers.utils`; callers look it up there at each
    call."""
    pack = utils.dispatch_cpu_unquantized_gemm

    def dispatch(layer: nn.Module, remove_weight: bool) -> None:
        """Give a linear layer torch's own product; leave what is no linear layer to vLLM."""
        if layer.weight.ndim == 2:
            layer.cpu_linear = nn.functional.linear
        else:
            pack(layer, remove_weight)

    utils.dispatch_cpu_unquantized_gemm = dispatch
