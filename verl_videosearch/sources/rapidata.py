"""Rapidata text-2-video preferences and its siblings: shares of votes per axis, in parquet.

`weighted_results1_Alignment` and `weighted_results2_Alignment` are the vote shares of the two
videos; the larger wins, equal shares are a tie (`--margin` widens that). Early snapshots and some
siblings lack an axis: its labels are null. `Preference` is the intrinsic visual appeal (VQ), not an
overall verdict: overall is the sign of the mean difference.
"""

from __future__ import annotations

from verl_videosearch.judgement import Dimension
from verl_videosearch.sources.fields import (
    compare_scores,
    read_meta,
    read_number,
    read_prompt,
    read_video,
)
from verl_videosearch.sources.source import Pair, PairTable, ReadOptions, Row, Source

AXES = {"TA": "Alignment", "VQ": "Preference", "MQ": "Coherence"}
DIMENSIONS = (
    Dimension("TA", "Alignment", "how well the video matches the prompt"),
    Dimension("VQ", "Preference", "how appealing the video looks in itself, apart from the prompt"),
    Dimension("MQ", "Coherence", "how logical and free of visible errors the video is over time"),
)
NAMES = (
    "file_name{}",
    "video{}",
    "path{}",
)  # what the video columns are called in one snapshot or another


def to_pair(row: Row, options: ReadOptions) -> Pair:
    scores = {side: _read_scores(row, side) for side in (1, 2)}
    keys = tuple(AXES)
    name = next((name for name in NAMES if row.get(name.format(1))), NAMES[0])
    return Pair(
        prompt=read_prompt(row),
        video_1=read_video(row, name.format(1)),
        video_2=read_video(row, name.format(2)),
        labels=compare_scores(scores[1], scores[2], keys, options.margin or 0.0),
        raw_labels={key: [scores[1].get(key), scores[2].get(key)] for key in keys},
        dimensions=DIMENSIONS,
        meta={"shares_1": scores[1], "shares_2": scores[2], "overall_is_derived": True}
        | read_meta(row, texts={"model_1": "model1", "model_2": "model2"}),
    )


def _read_scores(row: Row, side: int) -> dict[str, float]:
    found = {key: read_number(row, f"weighted_results{side}_{axis}") for key, axis in AXES.items()}
    return {key: share for key, share in found.items() if share is not None}


SOURCE = Source(
    name="rapidata",
    title="Rapidata text-2-video-human-preferences and siblings (Apache-2.0)",
    splits={
        "train": PairTable(
            ("train-*.parquet", "data/train-*.parquet", "**/*.parquet"), ("prompt",), to_pair
        )
    },
    video_folders=("", "videos", "Videos", "data/videos"),
)
