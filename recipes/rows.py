"""Row: what one judge did on hide-and-seek pairs - was it right, did it search, and did it look
where the defect was?

The one idea: the truth about these pairs is known (`meta.defects_1`, `meta.cues`), so a search can
be scored as such and not only by the verdict that it led to. A row is a pure function of samples
and of one episode each (`episodes.jsonl` of `videosearch eval`).

| figure | of which episodes |
|---|---|
| `search_rate` | all: a call brought frames |
| `aim_rate` | those that searched on a pair with a cue: a frame behind it was asked for |
| `cover_rate` | those on pairs with a cue: a frame behind each cue was asked for, of both videos |
| `hit_rate` | those on pairs with a hidden defect: a frame that shows it was asked for |
| `gain` | all: overall verdict right at the end, less overall verdict right at first |

Covers: figures. Does not cover: tables and pages (`results`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verl_videosearch.evaluation.probes import PROBED, REPLACEMENT
from verl_videosearch.judgement import OVERALL
from verl_videosearch.metrics import PairedDifference, Rate, paired_bootstrap
from verl_videosearch.runs.record import EpisodeRecord
from verl_videosearch.sample import Order, PreferenceSample


@dataclass(frozen=True)
class Episode:
    """One record of `episodes.jsonl` with the truth about its pair."""

    sample: PreferenceSample
    record: EpisodeRecord

    def is_right(self, key: str = OVERALL) -> bool:
        """Compare a verdict with its label; no verdict is wrong."""
        return self._is_right(self.record.own_verdicts, key)

    def is_right_at_first(self, key: str = OVERALL) -> bool:
        """Compare the first readable verdict with its label; none is wrong."""
        return self._is_right(self.record.own_first_verdicts, key)

    def _is_right(self, verdicts: Mapping[str, int] | None, key: str) -> bool:
        verdict = (verdicts or {}).get(key)
        return verdict is not None and verdict == self.sample.labels[key]

    @property
    def is_all_right(self) -> bool:
        return all(self.is_right(key) for key in self.sample.labels)

    @property
    def asked(self) -> set[tuple[int, int]]:
        """Return (video, frame index) of every frame that a call brought."""
        candidates = self.record.candidates
        assert candidates is not None, "a record with a result has candidates"
        places = [candidates.locate(number) for turn in self.record.turns for number in turn.shown]
        return {(place.video, place.index) for place in places}

    @property
    def num_calls(self) -> int:
        return self.record.num_calls

    @property
    def num_invalid_calls(self) -> int:
        return sum(turn.call_fault is not None for turn in self.record.turns)

    @property
    def num_tokens(self) -> int | None:
        """Tokens read and written, over all turns; None where nobody counted, as in a replay."""
        read, written = self.record.usage.num_prompt_tokens, self.record.usage.num_reply_tokens
        return None if read is None or written is None else read + written

    @property
    def has_hidden_defect(self) -> bool:
        return any(True for _ in self._hidden_frames())

    @property
    def has_hit(self) -> bool:
        return not self.asked.isdisjoint(self._hidden_frames())

    @property
    def has_aimed(self) -> bool:
        """True when a frame of a cued gap was asked for, of whichever video."""
        cued = {index for gap in self._cued_gaps() for index in gap}
        return any(index in cued for _, index in self.asked)

    @property
    def has_cue(self) -> bool:
        """False for pairs that show at first sight that nothing is hidden."""
        return bool(self.sample.meta["cues"])

    @property
    def has_covered(self) -> bool:
        """True when every cued place was looked at: each gap, in both videos."""
        asked = self.asked
        places = [(video, gap) for gap in self._cued_gaps() for video in (1, 2)]
        return all(any((video, index) in asked for index in gap) for video, gap in places)

    def _cued_gaps(self) -> list[range]:
        gaps = self.sample.meta["cues"]
        return [range(gap["first_index"], gap["first_index"] + gap["num_frames"]) for gap in gaps]

    def _hidden_frames(self) -> Iterator[tuple[int, int]]:
        for video in (1, 2):
            for defect in self.sample.meta[f"defects_{video}"]:
                if defect["is_hidden"]:
                    first = defect["first_index"]
                    yield from (
                        (video, index) for index in range(first, first + defect["num_frames"])
                    )


def join_episodes(
    samples: Sequence[PreferenceSample], records: Sequence[EpisodeRecord]
) -> list[Episode]:
    """Join records with their pairs, in the order of the samples; every pair has one result, judged
    as the file has it, or has failed for good and is left out."""
    lines = [record for record in records if record.has_result]
    failed = {record.uid for record in records if not record.has_result}
    samples = [sample for sample in samples if sample.uid not in failed]
    by_uid = {record.uid: record for record in lines}
    missing = [sample.uid for sample in samples if sample.uid not in by_uid]
    if (
        missing
        or len(lines) != len(samples)
        or any(record.order is not Order.AB for record in lines)
    ):
        raise ValueError(
            f"expected one episode of order AB for each of {len(samples)} pairs, got "
            f"{len(lines)} episodes; "
            f"{len(missing)} pairs have none, such as {missing[:1]}: repeat `videosearch eval`"
        )
    return [Episode(sample, by_uid[sample.uid]) for sample in samples]


def replace_records(
    records: Sequence[EpisodeRecord], probed: Sequence[EpisodeRecord], replacement: str
) -> list[EpisodeRecord]:
    """Return a run's records as they would have been if calls had brought other frames
    (`videosearch
    probe`).

    Episodes that never searched stay as they are; `ValueError` if one that searched was not
    probed."""
    changed = {
        record.extra[PROBED]: record
        for record in probed
        if record.has_result and record.extra[REPLACEMENT] == replacement
    }
    missing = [each.uid for each in records if each.has_searched and each.key not in changed]
    if missing:
        raise ValueError(
            f"{len(missing)} episodes were not probed with {replacement} frames, such as "
            f"{missing[0]!r}"
        )
    return [changed.get(record.key, record) for record in records]


def make_row(episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return every figure of a judge as plain data; `intervals` has the 95 % intervals of the plain
    numbers."""
    of_type: dict[str, list[Episode]] = {}
    for each in episodes:
        of_type.setdefault(each.sample.meta["pair_type"], []).append(each)
    keys = [key for key in episodes[0].sample.labels if key != OVERALL]
    tokens = [each.num_tokens for each in episodes]
    gain = paired_bootstrap(
        [each.is_right() for each in episodes],
        [each.is_right_at_first() for each in episodes],
        list_prompts(episodes),
    )
    searched = [each for each in episodes if each.asked and each.has_cue]
    rates = {
        "search_rate": share(episodes, lambda each: bool(each.asked)),
        "aim_rate": share(searched, lambda each: each.has_aimed),
        "cover_rate": share([e for e in episodes if e.has_cue], lambda each: each.has_covered),
        "hit_rate": share(
            [each for each in episodes if each.has_hidden_defect], lambda each: each.has_hit
        ),
        "unreadable": share(episodes, lambda each: each.record.verdicts is None),
    }
    plain = {name: describe_accuracy(rate) for name, rate in rates.items()}
    return {
        "overall": describe_accuracy(share(episodes, Episode.is_right)),
        "by_type": {
            name: describe_accuracy(share(chosen, Episode.is_right))
            for name, chosen in sorted(of_type.items())
        },
        "by_dimension": {
            key: describe_accuracy(share(episodes, lambda each, key=key: each.is_right(key)))
            for key in keys
        },
        "all_dimensions": describe_accuracy(share(episodes, lambda each: each.is_all_right)),
        **{name: each["accuracy"] for name, each in plain.items()},
        "gain": gain.value,
        "calls": _mean([each.num_calls for each in episodes]),
        "calls_by_type": {
            name: _mean([each.num_calls for each in chosen])
            for name, chosen in sorted(of_type.items())
        },
        "invalid_calls": _mean([each.num_invalid_calls for each in episodes]),
        "evictions": _mean([each.record.num_evictions for each in episodes]),
        "tokens": None if None in tokens else _mean(tokens),
        "intervals": {
            name: {end: each[end] for end in ("low", "high", "n")} for name, each in plain.items()
        }
        | {"gain": {"low": gain.low, "high": gain.high, "n": len(episodes)}},
    }


def compare(after: Sequence[Episode], before: Sequence[Episode]) -> dict[str, Any]:
    """Test, pair by pair, whether one run is right more often than another, and searches and hits
    more often."""
    if [each.sample.uid for each in after] != [each.sample.uid for each in before]:
        raise ValueError(
            "the runs are over different pairs, or in another order: judge one file of pairs "
            "with both"
        )
    places = range(len(after))
    hiding = [place for place in places if after[place].has_hidden_defect]
    passes: dict[str, tuple[Sequence[int], Callable[[Episode], bool]]] = {
        "accuracy": (places, Episode.is_right),
        "search_rate": (places, lambda each: bool(each.asked)),
        "hit_rate": (hiding, lambda each: each.has_hit),
    }
    tests = {
        name: paired_bootstrap(
            [test(after[place]) for place in chosen],
            [test(before[place]) for place in chosen],
            list_prompts([after[place] for place in chosen]),
        )
        for name, (chosen, test) in passes.items()
    }
    return {name: describe_difference(test) for name, test in tests.items()}


def share(episodes: Sequence[Episode], test: Callable[[Episode], bool]) -> Rate:
    """Return the share of episodes that pass; its interval draws prompts, not pairs."""
    if not episodes:
        return Rate(0, 0)
    return Rate.over([test(each) for each in episodes], list_prompts(episodes))


def list_prompts(episodes: Sequence[Episode]) -> list[str]:
    """Return what an interval draws: pairs of one prompt are drawn together."""
    return [each.sample.prompt for each in episodes]


def describe_difference(test: PairedDifference) -> dict[str, Any]:
    """Write a paired test as plain data: `won` and `lost` are pairs that only one of the two
    has."""
    return {
        "difference": test.value,
        "low": test.low,
        "high": test.high,
        "won": test.only_a,
        "lost": test.only_b,
        "p_value": test.p_value,
    }


def describe_accuracy(rate: Rate) -> dict[str, float | int | None]:
    """Write a share as plain data, with its 95 % bootstrap interval.

    >>> describe_accuracy(Rate(2, 2))
    {'accuracy': 1.0, 'low': 0.3423802275066532, 'high': 1.0, 'n': 2}
    >>> describe_accuracy(Rate(0, 0))
    {'accuracy': None, 'low': None, 'high': None, 'n': 0}
    """
    if not rate.total:
        return {"accuracy": None, "low": None, "high": None, "n": 0}
    known = rate if rate.low is not None else rate.with_interval()
    return {"accuracy": known.value, "low": known.low, "high": known.high, "n": known.total}


def make_bare_row(
    accuracy: float, n: int, by_type: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Return the row of a judge that is arithmetic and not a run: no interval, no behaviour."""
    plain = {"low": None, "high": None, "n": n}
    types = {name: {"accuracy": value} | plain for name, value in (by_type or {}).items()}
    return {
        "overall": {"accuracy": accuracy} | plain,
        "by_type": types,
        "search_rate": None,
        "hit_rate": None,
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
