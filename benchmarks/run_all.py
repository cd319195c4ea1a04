"""Run every benchmark that needs no GPU and write benchmarks/RESULTS.md: `make bench`.

    python -m benchmarks.run_all                      # all
    python -m benchmarks.run_all loop transfer        # some; the others keep the section they have

The one idea: the page is what the programs printed, with machine, load and commit above it, so that
no figure is typed by hand. Programs run one after another, each with a limit of time; one that
fails or misses its own target says so in its section and makes this one end with 1.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from verl_videosearch.runs.identity import read_commit

RESULTS = Path(__file__).with_name("RESULTS.md")
PROGRAMS = {
    "frames": ["--quick", "--repeats", "3"],
    "requests": ["--repeats", "3"],
    "context_growth": [],
    "loop": [],
    "transfer": [],
    "coverage": [],
    "report": ["--episodes", "200"],
    "eval": ["--pairs", "8", "--repeats", "2"],
    "data": [],
    "sft": ["--steps", "24"],
    "rank": ["--groups", "40"],
    "growth": [],
    "code_shape": [],
}
"""Program to its arguments, in the order of the page."""
LIMIT_S = 300
HEADER = """# What it costs

Written by `make bench`: every section is what the program of its title printed. Times are of the
machine and load named there; compare inside a section, not between sections.
"""


def run_program(name: str) -> tuple[str, bool]:
    """Run one program; returns its section and whether it ended well."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *PROGRAMS[name]]
    said = f"python -m benchmarks.{' '.join([name, *PROGRAMS[name]])}"
    load, start = os.getloadavg()[0], time.monotonic()
    environment = os.environ | {"COLUMNS": "140", "NO_COLOR": "1", "TERM": "dumb"}
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT_S, env=environment
        )
        output, status = result.stdout.strip(), result.returncode
        if status:
            output += "\n" + result.stderr.strip()[-1500:]
    except subprocess.TimeoutExpired as error:
        output, status = (error.stdout or b"").decode(errors="replace"), -1
    seconds = time.monotonic() - start
    ending = {0: "", -1: f", stopped after {LIMIT_S} s"}.get(status, f", exit status {status}")
    facts = f"{read_commit()}, {datetime.now():%Y-%m-%d}, load {load:.1f} before, {seconds:.0f} s"
    return f"## {name}\n\n    {said}\n\n{facts}{ending}\n\n```\n{output}\n```\n", status == 0


def read_sections() -> dict[str, str]:
    """Return the sections that the page has, by name."""
    if not RESULTS.exists():
        return {}
    parts = re.split(r"(?m)^(?=## )", RESULTS.read_text("utf-8"))[1:]
    return {part.split("\n", 1)[0].removeprefix("## "): part for part in parts}


def write_page(sections: dict[str, str]) -> None:
    """Write the page in the order of the programs."""
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
    machine += f"Python {platform.python_version()}, {platform.system()}"
    known = [sections[name].rstrip() + "\n" for name in PROGRAMS if name in sections]
    missing = [name for name in PROGRAMS if name not in sections]
    note = f"\nNot run yet: {', '.join(missing)}.\n" if missing else ""
    RESULTS.write_text(f"{HEADER}\nMachine: {machine}.\n{note}\n" + "\n".join(known), "utf-8")


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Programs; none means all.")] = None,
) -> None:
    """Run the benchmarks and write the page after each."""
    unknown = [name for name in names or () if name not in PROGRAMS]
    if unknown:
        raise typer.BadParameter(f"got {unknown}; programs are {', '.join(PROGRAMS)}")
    console, sections, failed = Console(), read_sections(), []
    for name in names or PROGRAMS:
        console.print(f"{name} ...")
        sections[name], is_well = run_program(name)
        write_page(sections)
        if not is_well:
            failed.append(name)
    console.print(f"{RESULTS}" + (f"; look at {', '.join(failed)}" if failed else ""))
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
