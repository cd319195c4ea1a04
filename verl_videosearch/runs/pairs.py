"""The pairs of a run that goes on: those that it was begun with, or an error.

The one idea: a journal names its episodes by the uid of the pair, and a uid may be a row's number.
So a pair is compared with the one that its episodes were played on before anything is resumed.

    records, num_relabelled = adopt_pairs(journal.records, samples)

What may differ is what the episode was not played on: an evaluation is scored with the labels as
they are now. Traces and sampled episodes were chosen by their labels, so there nothing may differ.

Covers: pairs that have an episode. Does not cover: a probe, which alters its pairs and is bound to
the hash of the run's episodes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from verl_videosearch.runs.identity import name_videos
from verl_videosearch.runs.record import EpisodeRecord, RecordKind
from verl_videosearch.sample import PreferenceSample

LABELS = "labels"
SCORED_LATER = frozenset({LABELS, "split", "folder of the videos"})
"""What an evaluation may be given anew: nothing that a judge reads or sees."""


class OtherPairError(ValueError):
    """A journal holds episodes of other pairs than those that have their uids now."""


def adopt_pairs(
    records: Iterable[EpisodeRecord], samples: Sequence[PreferenceSample]
) -> tuple[list[EpisodeRecord], int]:
    """Return the records of an evaluation with the pairs as they are now, and how many pairs have
    other labels; other kinds come back as they are.

    Raises `OtherPairError` for an episode of another pair than the one that has its uid now."""
    by_uid = {sample.uid: sample for sample in samples}
    adopted, relabelled = [], set()
    for record in records:
        sample = by_uid.get(record.uid)
        if sample is not None and record.sample is not None:
            changes = _check(record, sample)
            if changes and record.kind is RecordKind.EVALUATION:
                record = msgspec.structs.replace(record, sample=sample)
            if LABELS in changes:
                relabelled.add(sample.uid)
        adopted.append(record)
    return adopted, len(relabelled)


def check_pairs(records: Iterable[EpisodeRecord], samples: Sequence[PreferenceSample]) -> None:
    """Raise `OtherPairError` for an episode of another pair than the one that has its uid now."""
    adopt_pairs(records, samples)


def _check(record: EpisodeRecord, sample: PreferenceSample) -> list[str]:
    """Return what differs and may differ."""
    if record.kind is RecordKind.PROBE:
        return []
    changes = list_changes(record.own, sample)
    allowed = SCORED_LATER if record.kind is RecordKind.EVALUATION else frozenset[str]()
    if refused := [change for change in changes if change not in allowed]:
        raise OtherPairError(
            f"the log holds an episode of another pair {sample.uid!r}: its {', '.join(refused)} "
            "changed since; choose another --out, or give the pairs that it was begun with"
        )
    return changes


def list_changes(then: PreferenceSample, now: PreferenceSample) -> list[str]:
    """Name what differs between two samples of one uid, each video in its place.

    >>> a = PreferenceSample("a", "a cat", "x/1.mp4", "x/2.mp4", {"OA": 1}, ())
    >>> b = PreferenceSample("a", "a cat", "y/x/2.mp4", "y/x/1.mp4", {"OA": 2}, ())
    >>> list_changes(a, b), list_changes(a, a)
    (['videos', 'folder of the videos', 'labels'], [])
    """
    if then == now:
        return []
    old, new = _describe(then), _describe(now)
    return [name for name in old if _write(old[name]) != _write(new[name])]


def _write(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _describe(sample: PreferenceSample) -> dict[str, Any]:
    return {
        "prompt": sample.prompt,
        "videos": name_videos(sample),
        "folder of the videos": [sample.video_1, sample.video_2],
        "dimensions": [asdict(dimension) for dimension in sample.dimensions],
        LABELS: dict(sample.labels),
        "source": sample.source,
        "split": sample.split,
        "meta": dict(sample.meta),
    }
