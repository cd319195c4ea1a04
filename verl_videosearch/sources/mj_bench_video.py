"""MJ-Bench-Video: a JSON list, a preference word per aspect and overall; Video 1 is `video_0_path`.

Three of its five aspects are the three dimensions of the method; Safety and Bias stay in meta.
`Hard to judge` is null. Six rows of the test file say `Video 1 Better`: words are read whatever
their case, which gives 118 decided rows (a loader that compares exactly finds 112).
"""

from __future__ import annotations

from verl_videosearch.judgement import OVERALL, Dimension
from verl_videosearch.sources.fields import (
    read_label,
    read_mapping,
    read_meta,
    read_prompt,
    read_video,
)
from verl_videosearch.sources.source import (
    BadRow,
    DropReason,
    Pair,
    PairTable,
    ReadOptions,
    Row,
    Source,
)

COLUMNS = ("caption", "video_0_path", "video_1_path", "category_preference", "overall_preference")
WORDS = {"video 1 better": 1, "video 2 better": 2, "same": 0}
ASPECTS = {"TA": "Alignment", "VQ": "Fineness", "MQ": "Coherence & Consistency"}
DIMENSIONS = (
    Dimension(
        "TA",
        "Alignment",
        "how well objects, attributes, actions, counts and places of the prompt are shown",
    ),
    Dimension(
        "VQ", "Fineness", "how fine the picture is: no distorted faces, limbs or objects, no blur"
    ),
    Dimension(
        "MQ",
        "Coherence & Consistency",
        "how coherent space, action, objects and light stay over time",
    ),
)


def to_pair(row: Row, options: ReadOptions) -> Pair:
    if row.get("discard") is True:
        raise BadRow(DropReason.DISCARDED)
    aspects = read_mapping(row, "category_preference")
    raw_labels = {key: aspects.get(aspect) for key, aspect in ASPECTS.items()}
    raw_labels[OVERALL] = row.get("overall_preference")
    meta = read_meta(
        row, {"total_score_1": "video_0_total_score", "total_score_2": "video_1_total_score"}
    )
    return Pair(
        prompt=read_prompt(row, "caption"),
        video_1=read_video(row, "video_0_path"),
        video_2=read_video(row, "video_1_path"),
        labels={key: read_label(word, WORDS) for key, word in raw_labels.items()},
        raw_labels=raw_labels,
        dimensions=DIMENSIONS,
        meta=meta
        | {
            name.lower(): aspects[name]
            for name in ("Safety", "Bias")
            if isinstance(aspects.get(name), str)
        },
    )


SOURCE = Source(
    name="mj_bench_video",
    title="MJ-Bench-Video (MJ-Bench, MIT)",
    splits={split: PairTable((f"{split}.json",), COLUMNS, to_pair) for split in ("train", "test")},
    short_name="mj",
    benchmark_splits=("test",),
)
