"""Record which files a lock stands for: one line per wheel, so that a test without a network can
say
that every line of the lock has one for its platform.

    make gpulock            # writes requirements/gpu.lock and calls this one

The one idea: a lock names versions and hashes, not files; uv's `pylock.toml` of the same lock names
the files, too. Addresses are left out: they are those of the index that was asked.

Covers: wheels. Does not cover: packages without one (requirements/gpu_sources.lock).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import typer

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib


@dataclass(frozen=True)
class LockedWheel:
    """One file of the lock, and one line of the record."""

    file: str
    """Name, which says package, version and platform."""
    sha256: str
    num_bytes: int

    @classmethod
    def parse(cls, line: str) -> LockedWheel:
        """Read a line of the record.

        >>> LockedWheel.parse("a-1.0-py3-none-any.whl 0123 2048")
        LockedWheel(file='a-1.0-py3-none-any.whl', sha256='0123', num_bytes=2048)
        """
        file, sha256, num_bytes = line.split()
        return cls(file, sha256, int(num_bytes))

    def __str__(self) -> str:
        return f"{self.file} {self.sha256} {self.num_bytes}"


def read_wheels(lock: Mapping[str, Any]) -> Iterator[LockedWheel]:
    """Yield the wheels of a `pylock.toml`."""
    for package in lock["packages"]:
        for wheel in package.get("wheels", ()):
            file = unquote(wheel.get("name") or wheel["url"].rpartition("/")[2])
            yield LockedWheel(file, wheel["hashes"]["sha256"], wheel["size"])


def main(
    lock: Annotated[Path, typer.Argument(help="uv's pylock.toml.")],
    out: Annotated[Path, typer.Argument(help="Where the record goes.")],
) -> None:
    """Write the record of a lock."""
    wheels = read_wheels(tomllib.loads(lock.read_text("utf-8")))
    lines = sorted(set(map(str, wheels)))
    out.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    typer.echo(f"{out}: {len(lines)} wheels")


if __name__ == "__main__":
    typer.run(main)
