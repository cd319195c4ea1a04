"""Run a function right after a module was imported, and never lose its failure.

verl and vLLM are slow to import and are imported in many processes, so nothing is imported in order
to extend it: the extension waits. verl swallows what a plugin raises (it logs at DEBUG), so a
failure is logged at ERROR with its traceback, then raised.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

from wrapt import when_imported

logger = logging.getLogger(__name__)


def on_import(module: str, hook: Callable[[ModuleType], object]) -> None:
    """Call `hook` with `module` right after its import, at once if it is imported already."""

    def logged(imported: ModuleType) -> None:
        with log_failure(f"extend {module}"):
            hook(imported)

    when_imported(module)(logged)


@contextmanager
def log_failure(purpose: str) -> Iterator[None]:
    """Log whatever the block raises at ERROR and let it pass."""
    try:
        yield
    except BaseException:
        logger.exception("verl-videosearch could not %s; it is written for verl 0.9.1", purpose)
        raise
