"""Is there an NVIDIA driver that the CUDA 13 packages can work with? A sentence if not.

The one idea: `make gpu` asks before it downloads gigabytes, when nothing is installed yet. So this
file needs the standard library only, and runs as a script:

    python3 -I verl_videosearch/machine/driver.py

It answers with one line and status 0, or with what to do and status 1.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass

MIN_DRIVER = 580
"""Of CUDA 13, which torch 2.11 and vLLM 0.24 of the lock are built with."""
QUERY = ("nvidia-smi", "--query-gpu=driver_version,name,memory.total", "--format=csv,noheader")
TIMEOUT_S = 30.0
"""A driver that hangs answers never."""


class DriverProblem(Exception):
    """No driver that works; the text says what to do."""


@dataclass(frozen=True)
class Gpu:
    """One card as its driver describes it."""

    driver: str
    """Version, for example 580.65.06."""
    name: str
    memory: str
    """With its unit, for example 81559 MiB."""


def read_gpus() -> list[Gpu]:
    """Ask the driver for its cards; raises `DriverProblem` if none can be used."""
    try:
        answer = subprocess.run(QUERY, capture_output=True, text=True, timeout=TIMEOUT_S)
    except FileNotFoundError:
        raise DriverProblem(
            "no NVIDIA driver: nvidia-smi is not there. Training needs GPUs with a driver "
            f">= {MIN_DRIVER} (CUDA 13); install the driver and run this again, or use `make "
            "install` "
            "(this machine's CPU)"
        ) from None
    except subprocess.TimeoutExpired:
        raise DriverProblem(
            f"nvidia-smi did not answer within {TIMEOUT_S:g} s: the driver hangs; reboot the "
            "machine"
        ) from None
    gpus = parse_gpus(answer.stdout) if answer.returncode == 0 else []
    if not gpus:
        said = (answer.stdout + answer.stderr).strip().splitlines()
        raise DriverProblem(
            f"nvidia-smi finds no GPU (it says: {said[0] if said else 'nothing'}); load the "
            "driver, "
            "and in a container give it the GPUs (docker run --gpus all)"
        )
    check_version(gpus[0].driver)
    return gpus


def parse_gpus(text: str) -> list[Gpu]:
    """Read what nvidia-smi answers.

    >>> parse_gpus("580.65.06, NVIDIA H100 80GB HBM3, 81559 MiB\\n")
    [Gpu(driver='580.65.06', name='NVIDIA H100 80GB HBM3', memory='81559 MiB')]
    """
    lines = (line.split(", ") for line in text.splitlines())
    return [Gpu(*parts) for parts in lines if len(parts) == 3 and re.match(r"\d", parts[0])]


def check_version(version: str) -> None:
    """Raise `DriverProblem` for a driver older than CUDA 13.

    >>> check_version("580.65.06")
    >>> check_version("550.90.07")
    Traceback (most recent call last):
    verl_videosearch.machine.driver.DriverProblem: the NVIDIA driver is 550.90.07; CUDA 13 needs >= 580: update the driver
    """  # noqa: E501
    if int(version.partition(".")[0]) < MIN_DRIVER:
        raise DriverProblem(
            f"the NVIDIA driver is {version}; CUDA 13 needs >= {MIN_DRIVER}: update the driver"
        )


def describe_gpus(gpus: list[Gpu]) -> str:
    """Say in one line what is there.

    >>> describe_gpus([Gpu("580.65.06", "NVIDIA H100 80GB HBM3", "81559 MiB")] * 8)
    '8 x NVIDIA H100 80GB HBM3 (81559 MiB), driver 580.65.06'
    """
    kinds = list(dict.fromkeys((gpu.name, gpu.memory) for gpu in gpus))
    shown = [
        f"{sum((gpu.name, gpu.memory) == kind for gpu in gpus)} x {kind[0]} ({kind[1]})"
        for kind in kinds
    ]
    return f"{', '.join(shown)}, driver {gpus[0].driver}"


def main() -> int:
    """Print what is there, or what to do; return the exit status."""
    try:
        sys.stdout.write(f"{describe_gpus(read_gpus())}\n")
    except DriverProblem as problem:
        sys.stderr.write(f"{problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
