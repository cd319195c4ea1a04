"""What came of a trial's cases, in a small JSON file, so that a trial can be stopped and go on.

The one idea: a case ends in one of four ways. It was handled; it was *lost* (neither a result nor a
named failure); it was *wrong* (another verdict, frame or label than the right one, without a word);
it *crashed* (an exception that no one was promised, a hang, or a process that died).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from enum import Enum
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import msgspec

MAX_EXAMPLES = 3


class End(str, Enum):
    """How a case ended."""

    HANDLED = "handled"
    LOST = "lost"
    WRONG = "wrong"
    CRASHED = "crashed"


class Outcome(NamedTuple):
    """What came of one case, or of several of one kind that were counted together."""

    kind: str
    end: End = End.HANDLED
    detail: str = ""
    """What happened, with what is needed to make the case again."""
    count: int = 1
    seconds: float = 0.0
    num_bytes: int = 0
    """Memory that the case took."""


class Tally(msgspec.Struct):
    """The outcomes of one kind of case."""

    tried: int = 0
    lost: int = 0
    wrong: int = 0
    crashed: int = 0
    longest_s: float = 0.0
    most_bytes: int = 0
    examples: list[str] = []

    def add(self, outcome: Outcome) -> None:
        """Count an outcome; the first few bad ones are kept as examples."""
        self.tried += outcome.count
        self.lost += outcome.count * (outcome.end is End.LOST)
        self.wrong += outcome.count * (outcome.end is End.WRONG)
        self.crashed += outcome.count * (outcome.end is End.CRASHED)
        self.longest_s = round(max(self.longest_s, outcome.seconds), 3)
        self.most_bytes = max(self.most_bytes, outcome.num_bytes)
        if outcome.end is not End.HANDLED and len(self.examples) < MAX_EXAMPLES:
            self.examples.append(outcome.detail[:300])

    def merge(self, other: Tally) -> None:
        """Add what another one counted."""
        self.tried += other.tried
        self.lost += other.lost
        self.wrong += other.wrong
        self.crashed += other.crashed
        self.longest_s = max(self.longest_s, other.longest_s)
        self.most_bytes = max(self.most_bytes, other.most_bytes)
        self.examples = [*self.examples, *other.examples][:MAX_EXAMPLES]


class State(msgspec.Struct):
    """A trial on disk."""

    seed: int
    num_done: int = 0
    """Cases that are counted; the next one has this number."""
    kinds: dict[str, Tally] = {}


Run = Callable[[int, int, int], Iterator[Outcome]]


class Trial(NamedTuple):
    """A kind of attack."""

    name: str
    run: Run
    """(seed, number of the first case, number of cases) -> their outcomes."""
    chunk: int
    """Cases between two writes of the state."""
    default_count: int
    short_count: int
    """Cases of the bounded form, `make fuzz`."""


def read_state(path: Path, seed: int) -> State:
    """Return where a trial stands; raises `ValueError` for one with another seed."""
    if not path.exists():
        return State(seed)
    state = msgspec.json.decode(path.read_bytes(), type=State)
    if state.seed != seed:
        raise ValueError(
            f"{path} holds a trial with seed {state.seed}, got {seed}; remove it or give the same"
        )
    return state


def write_state(path: Path, state: State) -> None:
    """Write a state in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(state)) + b"\n")
    os.replace(partial, path)


def run_trial(trial: Trial, count: int, seed: int, path: Path, num_workers: int = 1) -> State:
    """Run a trial up to its `count`-th case, from where it stands, in so many processes."""
    state = read_state(path, seed)
    starts = range(state.num_done, count, trial.chunk)
    sizes = [min(trial.chunk, count - start) for start in starts]
    with ExitStack() as stack:
        chunks: Iterable[dict[str, Tally]]
        if num_workers > 1:
            pool = stack.enter_context(ProcessPoolExecutor(num_workers))
            chunks = pool.map(_run_chunk, repeat(trial.run), repeat(seed), starts, sizes)
        else:
            chunks = map(_run_chunk, repeat(trial.run), repeat(seed), starts, sizes)
        for size, kinds in zip(sizes, chunks, strict=True):
            for kind, tally in kinds.items():
                state.kinds.setdefault(kind, Tally()).merge(tally)
            state.num_done += size
            write_state(path, state)
    return state


def _run_chunk(run: Run, seed: int, first: int, count: int) -> dict[str, Tally]:
    kinds: dict[str, Tally] = {}
    for outcome in run(seed, first, count):
        kinds.setdefault(outcome.kind, Tally()).add(outcome)
    return kinds


def is_clean(state: State) -> bool:
    """True when nothing was lost, wrong or crashed, but for what a kind's name says is known."""
    return not any(
        tally.lost + tally.wrong + tally.crashed
        for kind, tally in state.kinds.items()
        if not kind.startswith(KNOWN)
    )


KNOWN = "known: "
"""Begins the name of a kind that cannot be seen by anyone; its cases are counted and stated."""


def format_table(states: dict[str, State]) -> str:
    """Write Markdown, a row for each kind and one for each trial's sum."""
    lines = [
        "| kind of fault | tried | lost | wrong | crashed | longest s | most MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, state in states.items():
        total = Tally()
        for kind, tally in sorted(state.kinds.items()):
            lines.append(_format_row(f"{name}: {kind}", tally))
            total.merge(tally)
        lines.append(_format_row(f"**{name}, all**", total))
    return "\n".join(lines)


def _format_row(name: str, tally: Tally) -> str:
    megabytes = f"{tally.most_bytes / 1e6:.0f}" if tally.most_bytes else ""
    counts = f"{tally.tried:,} | {tally.lost} | {tally.wrong} | {tally.crashed}"
    return f"| {name} | {counts} | {tally.longest_s:.2f} | {megabytes} |"
