"""Choose what is taught from many attempts: one right one of each input, drawn at random, in the
pairs' own shares of verdicts.

The one idea: a selection is a pure function of the set of traces. Neither the order in which
episodes finished nor the number of processes counts, so the same logs give the same bytes.

1. *Per input* (a pair in one order): of the accepted traces at most `keep`, drawn by the seed;
equal
   replies count once. Not the shortest ones, which teach not to search (measured, docs/tiny.md);
   `Choice.SHORTEST` takes the shortest among those of a drawn one's number of turns.
2. *Per verdict*, only where a `target` is exceeded: each gold overall verdict gets its share among
   the pairs, and what one cannot fill the others get. A scarce verdict never starves the rest.
   `max_per_verdict` and `max_ratio` are caps. Without a gold overall verdict a trace counts in no
   share: it is taken last.
3. *Per turn count*, inside a verdict's share: filled evenly, so rare turn counts stay and frequent
   ones give way. Which ones of equal rank stay is drawn by the seed.

>>> fill_shares({0: 10, 1: 100, 2: 100}, {0: 1, 1: 2, 2: 2}, 90)
{0: 10, 1: 40, 2: 40}

Covers: method section 8. Does not cover: what is right (`trace_filter`)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeVar

import xxhash
from verl_videosearch.data_prep.traces.trace_filter import Trace

from verl_videosearch.config import above, at_least, check
from verl_videosearch.judgement import OVERALL
from verl_videosearch.runs.record import EpisodeRecord
from verl_videosearch.sample import Order

K = TypeVar("K", bound=Hashable)


class Input(NamedTuple):
    """What is sampled several times: a pair, in one order of its videos."""

    uid: str
    order: Order


class Choice(str, Enum):
    """Which of the right traces of an input are taken."""

    RANDOM = "random"
    SHORTEST = "shortest"
    """The shortest of those with as many turns as a drawn one."""


@dataclass(frozen=True)
class SelectionConfig:
    """How much is taken."""

    keep: int = 1
    """Most traces per input."""
    target: int | None = None
    """Most traces in all; null takes all that the caps allow."""
    max_per_verdict: int | None = None
    """Most traces of one overall verdict."""
    max_ratio: float = math.inf
    """Most traces of one overall verdict, in even shares of the target (or of all there are): 1 is
    exact balance as far as there are traces, inf keeps the pairs' own shares."""
    choice: Choice = Choice.RANDOM
    seed: int = 0
    """Of all draws."""

    def __post_init__(self) -> None:
        check(
            self,
            keep=at_least(1),
            target=at_least(1),
            max_per_verdict=at_least(1),
            max_ratio=above(0),
        )


@dataclass(frozen=True)
class Selection:
    """What came out, and of what."""

    chosen: tuple[Trace, ...]
    """At most `keep` per input."""
    taken: tuple[Trace, ...]
    """Of those, what caps and target left, in the order of uid, order and attempt."""

    def is_full(self, config: SelectionConfig) -> bool:
        """True when the target is reached."""
        return config.target is not None and len(self.taken) >= config.target


def select(traces: Iterable[Trace], config: SelectionConfig) -> Selection:
    """Choose per input, then fill the shares; traces are taken in the order of their keys, whatever
    order they come in."""
    ordered = sorted(traces, key=lambda trace: sort_key(trace.record))
    by_input = group_by(ordered, lambda trace: input_of(trace.record))
    shares = Counter(read_verdict(group[0]) for group in by_input.values())
    chosen = [best for group in by_input.values() for best in choose(group, config)]
    taken = {id(trace.record) for trace in fill(chosen, shares, config)}
    return Selection(tuple(chosen), tuple(trace for trace in chosen if id(trace.record) in taken))


def choose(traces: Sequence[Trace], config: SelectionConfig) -> list[Trace]:
    """Return accepted traces of one input, each text once."""
    distinct: dict[tuple[str, ...], Trace] = {}
    for trace in traces:
        if trace.is_accepted:
            distinct.setdefault(trace.replies, trace)
    drawn = sorted(distinct.values(), key=lambda trace: _draw(trace, config.seed))
    if config.choice is Choice.RANDOM:
        return drawn[: config.keep]
    by_turns = group_by(sorted(drawn, key=count_characters), lambda trace: len(trace.replies))
    return [by_turns[len(trace.replies)].pop(0) for trace in drawn[: config.keep]]


def fill(
    traces: Sequence[Trace], shares: Mapping[int | None, int], config: SelectionConfig
) -> list[Trace]:
    """Return as many traces of each verdict as shares, caps and target allow, their turn counts
    filled evenly."""
    by_verdict = group_by(traces, read_verdict)
    unlabelled = by_verdict.pop(None, [])
    total = len(traces) if config.target is None else min(config.target, len(traces))
    cap = total * config.max_ratio / max(1, len(by_verdict))
    cap = cap if config.max_per_verdict is None else min(cap, config.max_per_verdict)
    sizes = {
        verdict: math.ceil(cap) if cap < len(group) else len(group)
        for verdict, group in by_verdict.items()
    }
    counts = fill_shares(sizes, {verdict: shares[verdict] for verdict in sizes}, total)
    taken: list[Trace] = []
    for verdict, group in by_verdict.items():
        taken += _fill_turn_counts(group, counts[verdict], config.seed)
    return taken + _fill_turn_counts(unlabelled, total - len(taken), config.seed)


def _fill_turn_counts(traces: Sequence[Trace], total: int, seed: int) -> list[Trace]:
    """Draw so many traces, as many of each number of turns as there are."""
    by_turns = group_by(traces, lambda trace: len(trace.replies))
    sizes = {turns: len(group) for turns, group in by_turns.items()}
    counts = fill_shares(sizes, dict.fromkeys(sizes, 1), total)
    taken: list[Trace] = []
    for turns, group in by_turns.items():
        taken += sorted(group, key=lambda trace: _draw(trace, seed))[: counts[turns]]
    return taken


def fill_shares(sizes: Mapping[K, int], weights: Mapping[K, float], total: int) -> dict[K, int]:
    """Share `total` out in proportion to the weights, as far as the sizes allow; what one cannot
    fill the others get, and a remainder goes to the largest fraction, then to the smallest.

    >>> fill_shares({"a": 1, "b": 5, "c": 5}, {"a": 1, "b": 1, "c": 1}, 8)
    {'a': 1, 'b': 4, 'c': 3}
    >>> fill_shares({"a": 9, "b": 9}, {"a": 1, "b": 2}, 9)
    {'a': 3, 'b': 6}
    """
    shares, open_names, left = dict.fromkeys(sizes, 0), list(sizes), total
    while open_names:
        weight = sum(weights[name] for name in open_names)
        full = [
            name for name in open_names if sizes[name] * weight <= left * weights[name]
        ]  # its share is more than it has
        if not full:
            break
        for name in full:
            shares[name] = sizes[name]
        left -= sum(sizes[name] for name in full)
        open_names = [name for name in open_names if name not in full]
    weight = sum(weights[name] for name in open_names)
    exact = {name: left * weights[name] / weight for name in open_names}
    shares |= {name: math.floor(share) for name, share in exact.items()}
    by_fraction = sorted(exact, key=lambda name: (shares[name] - exact[name], sizes[name]))
    remainder = left - sum(shares[name] for name in exact) if exact else 0
    for name in by_fraction[:remainder]:
        shares[name] += 1
    return shares


def find_shortfall(selection: Selection, config: SelectionConfig) -> str:
    """Say that less than half of the target was reached; empty when it was."""
    if config.target is None or 2 * len(selection.taken) >= config.target:
        return ""
    return (
        f"only {len(selection.taken)} of --target {config.target} traces: fewer than half; more "
        "pairs or a larger --samples give more"
    )


def read_verdict(trace: Trace) -> int | None:
    """Return the gold overall verdict of the pair as shown; None where overall was not judged."""
    return trace.record.shown.labels[OVERALL]


def input_of(record: EpisodeRecord) -> Input:
    """Return what was sampled several times."""
    return Input(record.uid, record.order)


def sort_key(record: EpisodeRecord) -> tuple[str, str, int, int, int]:
    """Return what records are sorted by: the pair, its order, and which of its episodes it is."""
    numbers = record.step or 0, record.attempt or 0, record.seed or 0
    return record.uid, record.order.value, *numbers


def count_characters(trace: Trace) -> int:
    """Return the length of a trace."""
    return sum(map(len, trace.replies))


def group_by(items: Iterable[Trace], name: Callable[[Trace], K]) -> dict[K, list[Trace]]:
    """Sort traces into groups, in order of first appearance."""
    groups: defaultdict[K, list[Trace]] = defaultdict(list)
    for item in items:
        groups[name(item)].append(item)
    return dict(groups)


def draw_rank(seed: int, name: str) -> int:
    """Return a number that orders names at random, the same in every run."""
    return xxhash.xxh3_64_intdigest(f"{seed} {name}".encode())


def _draw(trace: Trace, seed: int) -> int:
    return draw_rank(seed, " ".join(map(str, sort_key(trace.record))))
