"""Choose what is taught from many attempts: the shortest right ones per input, as many of each
verdict.

The one idea: a selection is a pure function of the set of attempts. Neither the order in which
episodes finished nor the number of processes counts, so the same logs give the same bytes.

1. *Per input* (a pair in one order): of the accepted attempts at most `keep`, the shortest first (characters of all
   replies), then the lowest index; equal replies count once.
2. *Per verdict*: shares are filled evenly up to the target; none gets more than `max_per_verdict`, nor more than
   `max_ratio` times the traces of the scarcest verdict that has any.
3. *Per turn count*, inside a verdict's share: filled evenly, so rare turn counts stay and frequent ones give way.
   Which ones of equal rank stay is drawn by the seed.

>>> fill_evenly({0: 10, 1: 100, 2: 100}, 90)
{0: 10, 1: 40, 2: 40}

Covers: method section 8. Does not cover: what is right (`trace_filter`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import xxhash
from verl_videosearch.data_prep.traces.attempts import Attempt

from verl_videosearch.judgement import OVERALL

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class SelectionConfig:
    """How much is taken."""

    keep: int = 1
    """Most traces per input."""
    target: int | None = None
    """Most traces in all; null takes all that balance allows."""
    max_per_verdict: int | None = None
    """Most traces of one overall verdict."""
    max_ratio: float = 1.0
    """Most traces of a verdict per trace of the scarcest one; 1 is exact balance, inf takes
    everything."""
    seed: int = 0
    """Draws among equals."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least 1, got {getattr(self, name)!r}"
            for name in ("keep", "target", "max_per_verdict", "max_ratio")
            if getattr(self, name) is not None and not getattr(self, name) >= 1
        ]
        if problems:
            raise ValueError("bad selection: " + "; ".join(problems))


@dataclass(frozen=True)
class Selection:
    """What came out, and of what."""

    chosen: tuple[Attempt, ...]
    """At most `keep` per input."""
    taken: tuple[Attempt, ...]
    """Of those, what balance and target left, in the order of the attempts."""


def select(attempts: Iterable[Attempt], config: SelectionConfig) -> Selection:
    """Choose per input, then balance; attempts are taken in the order of their keys, whatever order
    they come in."""
    ordered = sorted(attempts, key=lambda attempt: attempt.key)
    by_input = group_by(ordered, lambda attempt: attempt.key.input)
    chosen = [best for group in by_input.values() for best in choose(group, config.keep)]
    taken = {attempt.key for attempt in balance(chosen, config)}
    return Selection(tuple(chosen), tuple(attempt for attempt in chosen if attempt.key in taken))


def choose(attempts: Sequence[Attempt], keep: int) -> list[Attempt]:
    """Return the shortest accepted attempts of one input, each text once."""
    best: dict[tuple[str, ...], Attempt] = {}
    for attempt in sorted(
        attempts, key=lambda attempt: (count_characters(attempt), attempt.key.index)
    ):
        if attempt.trace.is_accepted:
            best.setdefault(attempt.trace.replies, attempt)
    return list(best.values())[:keep]


def balance(attempts: Sequence[Attempt], config: SelectionConfig) -> list[Attempt]:
    """Return as many of each verdict as the config allows, their turn counts filled evenly."""
    by_verdict = group_by(attempts, read_verdict)
    if not by_verdict:
        return []
    limit = min(map(len, by_verdict.values())) * config.max_ratio
    limit = limit if config.max_per_verdict is None else min(limit, config.max_per_verdict)
    sizes = {verdict: int(min(len(group), limit)) for verdict, group in by_verdict.items()}
    shares = fill_evenly(sizes, config.target)
    taken = []
    for verdict, group in by_verdict.items():
        by_turns = group_by(group, lambda attempt: len(attempt.trace.replies))
        counts = fill_evenly(
            {turns: len(each) for turns, each in by_turns.items()}, shares[verdict]
        )
        for turns, each in by_turns.items():
            taken += sorted(each, key=lambda attempt: _draw(attempt, config.seed))[: counts[turns]]
    return taken


def fill_evenly(sizes: Mapping[K, int], total: int | None) -> dict[K, int]:
    """Share `total` out as evenly as the sizes allow; a remainder goes to the smallest, then to the
    first.

    >>> fill_evenly({"a": 1, "b": 5, "c": 5}, 8)
    {'a': 1, 'b': 4, 'c': 3}
    >>> fill_evenly({"a": 1, "b": 5}, None)
    {'a': 1, 'b': 5}
    """
    left = sum(sizes.values()) if total is None else min(total, sum(sizes.values()))
    shares = {}
    smallest_first = sorted(
        sizes, key=lambda key: sizes[key]
    )  # what a small one leaves, the others get
    for place, key in enumerate(smallest_first):
        shares[key] = min(sizes[key], -(-left // (len(sizes) - place)))
        left -= shares[key]
    return {key: shares[key] for key in sizes}


def read_verdict(attempt: Attempt) -> int | None:
    """Return the gold overall verdict, which an accepted attempt shares; None where overall was not
    judged."""
    return attempt.trace.sample.labels[OVERALL]


def count_characters(attempt: Attempt) -> int:
    """Return the length of an attempt."""
    return sum(map(len, attempt.trace.replies))


def group_by(attempts: Iterable[Attempt], name: Callable[[Attempt], K]) -> dict[K, list[Attempt]]:
    """Sort attempts into groups, in order of first appearance."""
    groups: defaultdict[K, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        groups[name(attempt)].append(attempt)
    return dict(groups)


def _draw(attempt: Attempt, seed: int) -> int:
    return xxhash.xxh3_64_intdigest(f"{seed} {attempt.key}".encode())
