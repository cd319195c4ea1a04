"""Subsets of a benchmark on which judges break: long videos, long prompts, pairs of generators,
durations, pair types.

The one idea: a subset is a name and the rows that it holds, chosen from facts about the pair and
never from verdicts. The longest tenth holds every row as long as its shortest member; where that
would be all rows, there is no such subset.

>>> longest_tenth([1, 2, 3, 4, 5, 6, 7, 8, 9, 9])
[8, 9]
>>> longest_tenth([5, 5, 5])
[]
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from verl_videosearch.evaluation.verdicts import PairVerdicts
from verl_videosearch.sample import PreferenceSample

DURATION_BOUNDS_S = (3.0, 5.0, 8.0)
"""Borders of the duration classes: of the longer video, from its first to its last candidate
frame."""
TYPE_FIELD = "pair_type"
"""Entry of a sample's meta that names its kind (synthetic sets have one)."""


def longest_tenth(lengths: Sequence[float]) -> list[int]:
    """Return the positions of the longest 10 % (rounded up), with all that are equally long."""
    if not lengths:
        return []
    shortest_member = sorted(lengths, reverse=True)[-(-len(lengths) // 10) - 1]
    if shortest_member <= min(lengths):
        return []
    return [position for position, length in enumerate(lengths) if length >= shortest_member]


def find_subsets(
    samples: Sequence[PreferenceSample], pairs: Sequence[PairVerdicts]
) -> dict[str, list[int]]:
    """Return name to positions, in the order of printing; `samples[i]` is the pair of
    `pairs[i]`."""
    durations = [_duration_s(pair) for pair in pairs]
    subsets = {
        "long videos (top 10 %)": longest_tenth(durations),
        "long prompts (top 10 %)": longest_tenth(
            [len(sample.prompt.split()) for sample in samples]
        ),
    }
    subsets |= _group("pair type", [sample.meta.get(TYPE_FIELD) for sample in samples])
    subsets |= _group("duration", [name_duration(duration) for duration in durations])
    subsets |= _group("models", [name_models(sample) for sample in samples])
    return {name: positions for name, positions in subsets.items() if positions}


def name_models(sample: PreferenceSample) -> str | None:
    """Name the two generators in alphabetical order.

    >>> meta = {"model_1": "wan", "model_2": "kling"}
    >>> name_models(PreferenceSample("a", "p", "1", "2", {"OA": 1}, dimensions=(), meta=meta))
    'kling, wan'
    """
    models = [sample.meta.get("model_1"), sample.meta.get("model_2")]
    return ", ".join(sorted(map(str, models))) if all(models) else None


def name_duration(duration_s: float) -> str:
    """Name the duration class.

    >>> name_duration(2.9), name_duration(5.0), name_duration(60.0)
    ('under 3 s', '5 to 8 s', '8 s or more')
    """
    low = [bound for bound in DURATION_BOUNDS_S if duration_s >= bound]
    high = [bound for bound in DURATION_BOUNDS_S if duration_s < bound]
    if not low:
        return f"under {high[0]:g} s"
    return f"{low[-1]:g} to {high[0]:g} s" if high else f"{low[-1]:g} s or more"


def _duration_s(pair: PairVerdicts) -> float:
    candidates = next(iter(pair.episodes.values())).candidates
    assert candidates is not None, "a record with a result has candidates"
    return max(candidates.times_1[-1], candidates.times_2[-1])


def _group(title: str, names: Sequence[str | None]) -> dict[str, list[int]]:
    """Return one subset per name, sorted; a single name for all rows is no subset."""
    groups: dict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(names):
        if name is not None:
            groups[str(name)].append(position)
    if len(groups) == 1 and None not in names:
        return {}
    return {f"{title}: {name}": groups[name] for name in sorted(groups)}
