"""Tables of a label file alone: how its labels are spread, and what judges reach that never
look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from verl_videosearch import metrics
from verl_videosearch.evaluation.pages.tables import LABEL_NAMES, describe_baselines
from verl_videosearch.judgement import OVERALL
from verl_videosearch.metrics import Rate
from verl_videosearch.report.page import Block
from verl_videosearch.report.table import Table
from verl_videosearch.sample import PreferenceSample


def describe_label_file(samples: Sequence[PreferenceSample]) -> list[Block]:
    """Return the label counts of every dimension, and the baselines of each."""
    keys = [OVERALL, *dict.fromkeys(key for sample in samples for key in sample.dimension_keys)]
    columns = {key: [sample.labels.get(key) for sample in samples] for key in keys}
    columns = {
        key: column for key, column in columns.items() if any(label is not None for label in column)
    }
    rows = [(key, *_spread(column)) for key, column in columns.items()]
    heading = ("dimension", *LABEL_NAMES.values(), "decided", "no label")
    tables = [
        describe_baselines(metrics.score_baselines(column), f"Without looking: {key}")
        for key, column in columns.items()
    ]
    return [
        Table(
            "Labels",
            heading,
            rows,
            "Shares are of the labelled pairs; decided: a video is preferred.",
        ),
        *(replace(table, caption="") for table in tables[:-1]),
        *tables[-1:],
    ]


def count_labels(samples: Sequence[PreferenceSample]) -> str:
    """Count the overall labels of all pairs in words."""
    labels = [sample.labels[OVERALL] for sample in samples]
    counts = [f"{name} {labels.count(label)}" for label, name in LABEL_NAMES.items()]
    return f"{', '.join(counts)}, none {labels.count(None)}, of {len(labels)}"


def _spread(column: Sequence[int | None]) -> tuple[str, ...]:
    labelled = [label for label in column if label is not None]
    shares = [str(Rate(labelled.count(label), len(labelled))) for label in LABEL_NAMES]
    decided = Rate(len(labelled) - labelled.count(0), len(labelled))
    return (*shares, str(decided), str(Rate(len(column) - len(labelled), len(column))))
