"""Where the time from command to first GRPO step goes, by phase and by process, ours and earlier.

    python -m benchmarks.startup --model M --pairs P.parquet
    python -m benchmarks.startup --model M --pairs P.parquet --checkout ../earlier  # beside it

The one idea: the command is the tiny recipe's own, ended after step 1. Its processes are read from
/proc ten times in a second: how much CPU each kind has used by then; its log tells when a phase is
through. Each checkout runs once to write its byte code (without it every process compiles all it
imports: unset PYTHONDONTWRITEBYTECODE, as is done here for what is measured), then is measured. A
last table says what the trainer imports, from `python -X importtime`.

M is a folder of `python -m verl_videosearch.from_scratch.tiny_model`, P pairs of the demo
(`outputs/demo/splits/grpo.parquet`); --checkout is a folder of another commit with its `.venv`.

Targets: step 1 within 80 s on two idle cores; CPU to step 1 down by a third against --checkout.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from verl_videosearch.report.table import Table

MAX_STEP_S = 80.0
MAX_CPU_SHARE = 2 / 3
PHASES = {
    "Ray up": r"Started a local Ray instance",
    "trainer up": r"create worker group",
    "actor up": r"actor and ref model engine initialized",
    "vLLM asked for": r"\(vLLMHttpServer",
    "vLLM up": r"checkpoint engine manager initialized",
    "step 1": r"\bstep:1\b",
}
"""Phase to what the log says once it has begun; a phase that never shows is left out."""
KINDS = {
    "ray's own": r"raylet|gcs_server|log_monitor|dashboard|runtime_env|ray/_private/workers/setup",
    "vLLM engine": r"EngineCore|VLLM::",
    "vLLM server": r"vLLMHttpServer",
    "trainer": r"TaskRunner",
    "actor": r"WorkerDict|ActorRollout|TrainingWorker",
    "agent loop": r"AgentLoop|RewardLoop",
    "transfer queue": r"Storage|TransferQueue|Controller",
    "idle ray workers": r"ray::IDLE|default_worker",
    "command": r"main_ppo",
}
"""Kind of process to a pattern of its command line; the first that matches."""
POLL_S = 0.1
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Start:
    """One run up to its first step."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Phase to seconds after the command."""
    cpu_s: dict[str, float] = field(default_factory=dict)
    """Kind of process to CPU seconds up to step 1."""

    @property
    def whole_cpu_s(self) -> float:
        return sum(self.cpu_s.values())


def name_kind(command: str) -> str:
    """Return the kind of a process.

    >>> name_kind("ray::WorkerDict"), name_kind("/opt/ray/raylet --x"), name_kind("cat")
    ('actor', "ray's own", 'other')
    """
    kinds = (kind for kind, pattern in KINDS.items() if re.search(pattern, command))
    return next(kinds, "other")


def find_descendants(parents: Mapping[int, int], root: int) -> set[int]:
    """Return a process and all that it has started, from process to parent.

    >>> sorted(find_descendants({1: 0, 2: 1, 3: 2, 4: 0}, 1))
    [1, 2, 3]
    """
    found, is_new = {root}, True
    while is_new:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        is_new = bool(more)
    return found


def read_cpu_s(stat: str) -> tuple[int, float]:
    """Read a line of /proc/PID/stat: the parent, and CPU seconds of the process itself.

    >>> read_cpu_s(f"7 (a (b) c) S 3 {'0 ' * 9}{_TICKS} {_TICKS} 0")
    (3, 2.0)
    """
    words = stat.rpartition(")")[2].split()
    return int(words[1]), (int(words[11]) + int(words[12])) / _TICKS


class Processes:
    """CPU seconds of a command and everything it starts; an ended one keeps its last figure."""

    def __init__(self, root: int) -> None:
        self._root, self._known = root, {root}
        self._cpu_s: dict[int, float] = {}
        self._commands: dict[int, str] = {}

    def look(self) -> None:
        """Read /proc once; who was adopted by another parent stays ours."""
        parents, cpu_s = {}, {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(folder.name)], cpu_s[int(folder.name)] = read_cpu_s(
                    (folder / "stat").read_text()
                )
                if int(folder.name) in self._known:
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                    self._commands[int(folder.name)] = command.decode(errors="replace")
            except (OSError, IndexError):
                continue  # it has just ended
        for pid in list(self._known):
            self._known |= find_descendants(parents, pid)
        self._cpu_s |= {pid: cpu_s[pid] for pid in self._known if pid in cpu_s}

    def sum_by_kind(self) -> dict[str, float]:
        """Return CPU seconds by kind of process, most first."""
        sums = Counter[str]()
        for pid, cpu_s in self._cpu_s.items():
            sums[name_kind(self._commands.get(pid, ""))] += cpu_s
        return dict(sums.most_common())

    def end(self) -> None:
        """End all of them, asked first."""
        for number, wait_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 0.0)):
            self.look()
            for pid in sorted(self._known & set(self._alive())):
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            time.sleep(wait_s)

    def _alive(self) -> Iterable[int]:
        return [pid for pid in self._known if Path(f"/proc/{pid}").exists()]


def measure_start(checkout: Path, model: Path, pairs: Path, limit_s: float) -> Start:
    """Run the command of one checkout up to step 1; raises `SystemExit` with its log's end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(checkout / ".venv/bin/python"),
            *("-m", "verl.trainer.main_ppo", "+recipe=videosearch_grpo_tiny"),
            *(f"actor_rollout_ref.model.path={model}", f"data.train_files={pairs}"),
            *(f"data.val_files={pairs}", f"trainer.default_local_dir={folder}/checkpoints"),
            *("trainer.total_training_steps=2", "trainer.test_freq=-1", "trainer.save_freq=-1"),
            "trainer.val_before_train=false",
        ]
        log, found = Path(folder) / "log", Start()
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        with log.open("wb") as file:
            begin = time.perf_counter()
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, cwd=checkout, env=environment
            )
        processes = Processes(process.pid)
        try:
            while "step 1" not in found.seconds:
                processes.look()
                note_phases(log.read_text(errors="replace"), time.perf_counter() - begin, found)
                if process.poll() is not None or time.perf_counter() - begin > limit_s:
                    raise SystemExit(f"no step 1 in {checkout}:\n{log.read_text()[-2000:]}")
                time.sleep(POLL_S)
            found.cpu_s = processes.sum_by_kind()
        finally:
            processes.end()
            process.wait()
    return found


def note_phases(log: str, now_s: float, found: Start) -> None:
    """Note which phases have begun by now.

    >>> start = Start()
    >>> note_phases("Started a local Ray instance", 2.0, start)
    >>> note_phases("x step:1 - y", 3.0, start)
    >>> start.seconds
    {'Ray up': 2.0, 'step 1': 3.0}
    """
    for phase, pattern in PHASES.items():
        if phase not in found.seconds and re.search(pattern, log):
            found.seconds[phase] = now_s


def list_imports(checkout: Path, module: str) -> dict[str, float]:
    """Return seconds that a module's import spends in each package itself, most first."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    result = subprocess.run(
        [str(checkout / ".venv/bin/python"), "-X", "importtime", "-c", f"import {module}"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=checkout,
    )
    return sum_imports(result.stderr)


def sum_imports(said: str) -> dict[str, float]:
    """Sum the own times of `python -X importtime` by top-level package, in seconds.

    >>> sum_imports("import time:  1500000 | 9 |   torch.nn\\nimport time: 500000 | 9 | torch")
    {'torch': 2.0}
    """
    sums = defaultdict[str, float](float)
    for own_us, name in re.findall(r"import time: +(\d+) \| +\d+ \| +(\S+)", said):
        sums[name.split(".")[0]] += int(own_us) / 1e6
    return dict(sorted(sums.items(), key=lambda each: -each[1]))


def main(
    model: Annotated[Path, typer.Option(help="Folder of a tiny model.")],
    pairs: Annotated[Path, typer.Option(help="Pairs to train on.")],
    checkout: Annotated[Path | None, typer.Option(help="Another commit, with its .venv.")] = None,
    repeats: Annotated[int, typer.Option(help="Measured starts of each.")] = 1,
    limit_s: Annotated[float, typer.Option(help="Most seconds of one start.")] = 400.0,
    warm: Annotated[bool, typer.Option(help="Run each once before, for its byte code.")] = True,
) -> None:
    """Print phases, CPU and imports; exit status 1 where a target is missed."""
    here = Path(__file__).resolve().parents[1]
    sides = {"this one": here} | ({"the other": checkout.resolve()} if checkout else {})
    model, pairs = model.resolve(), pairs.resolve()
    starts: dict[str, list[Start]] = {name: [] for name in sides}
    for repeat in range(repeats + warm):
        for name, folder in sides.items():
            start = measure_start(folder, model, pairs, limit_s)
            if repeat or not warm:
                starts[name].append(start)
    typer.echo(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, medians of {repeats}")
    for title, pick in (
        ("Seconds until", lambda start: start.seconds),
        ("CPU seconds to step 1", lambda start: start.cpu_s),
    ):
        typer.echo(show_medians(title, starts, pick).to_markdown())
    for name, folder in sides.items():
        imports = list(list_imports(folder, "verl.trainer.main_ppo").items())[:12]
        rows = [(package, f"{seconds:.2f}") for package, seconds in imports]
        typer.echo(Table(f"The trainer's imports, {name}", ("package", "s"), rows).to_markdown())
    ours = median_of(starts["this one"], "step 1")
    typer.echo(f"step 1 after {ours:.0f} s (target {MAX_STEP_S:.0f} s on two idle cores)")
    is_missed = ours > MAX_STEP_S
    if checkout:
        whole = [statistics.median(s.whole_cpu_s for s in starts[name]) for name in sides]
        typer.echo(f"CPU to step 1: {whole[0] / whole[1]:.2f} of the other (target 0.67)")
        is_missed |= whole[0] / whole[1] > MAX_CPU_SHARE
    raise SystemExit(1 if is_missed else 0)


def median_of(starts: Iterable[Start], phase: str) -> float:
    """Return the median seconds until a phase."""
    return statistics.median(start.seconds[phase] for start in starts)


def show_medians(title: str, starts: Mapping[str, list[Start]], pick: object) -> Table:
    """Return a table of medians: a row per phase or kind, a column per checkout."""
    assert callable(pick)
    names = list(dict.fromkeys(key for side in starts.values() for s in side for key in pick(s)))
    rows = []
    for name in names:
        cells = [
            statistics.median(pick(s).get(name, 0.0) for s in side) for side in starts.values()
        ]
        rows.append((name, *(f"{cell:.1f}" for cell in cells)))
    sums = [sum(float(row[index + 1]) for row in rows) for index in range(len(starts))]
    if title.startswith("CPU"):
        rows.append(("all", *(f"{each:.1f}" for each in sums)))
    return Table(title, ("", *starts), rows)


if __name__ == "__main__":
    sys.exit(typer.run(main))
