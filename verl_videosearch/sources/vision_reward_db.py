"""VisionRewardDB-Video (THUDM): 21 ratings of single videos (train), and pairs with one answer
(regression, test).

Each rating is scaled to 0..1 by the range that the dataset card gives it; the card does not say
which end is better, we take the upper one. A dimension is the mean of its ratings, and two videos
whose means differ by at most 0.05 tie. `camera movement`, the two degrees of motion, letters and
safety are no matter of quality and stay out.

The card does not list the words of `standard_answer`: the usual ones are read, others become null,
counted and shown.
"""

from __future__ import annotations

from verl_videosearch.judgement import OVERALL, Dimension
from verl_videosearch.sources.fields import (
    read_label,
    read_mapping,
    read_meta,
    read_number,
    read_prompt,
    read_video,
)
from verl_videosearch.sources.label_words import LABEL_WORDS
from verl_videosearch.sources.source import (
    BadRow,
    DropReason,
    Pair,
    PairTable,
    RatedVideo,
    RatingTable,
    ReadOptions,
    Row,
    Source,
)

RANGES = {
    "TA": {"alignment": (1, 5)},
    "VQ": {
        "composition": (1, 3),
        "focus": (1, 3),
        "color": (1, 5),
        "lighting accurate": (1, 4),
        "lighting aes": (1, 5),
        "clear": (1, 5),
        "image quality stability": (1, 5),
        "detail refinement": (1, 5),
    },
    "MQ": {
        "shape throughout": (0, 4),
        "movement smoothness": (0, 4),
        "movement reality": (0, 4),
        "camera stability": (1, 3),
        "physics law": (1, 5),
    },
}
DIMENSIONS = (
    Dimension("TA", "Alignment", "how well the video matches the prompt"),
    Dimension(
        "VQ",
        "Visual Quality",
        "composition, focus, colour, light, clarity and detail of the frames",
    ),
    Dimension(
        "MQ",
        "Motion Quality",
        "stable shapes, smooth and real movement, steady camera, laws of physics",
    ),
)
PAIR_COLUMNS = ("prompt", "standard_answer", "video1_path", "video2_path")


def to_rating(row: Row) -> RatedVideo:
    annotation = read_mapping(row, "annotation")
    ratings: dict[str, float] = {}
    for key, ranges in RANGES.items():
        values = ((read_number(annotation, name), *bounds) for name, bounds in ranges.items())
        known = (
            (value, low, high)
            for value, low, high in values
            if value is not None and low <= value <= high
        )
        scaled = [(value - low) / (high - low) for value, low, high in known]
        if scaled:
            ratings[key] = sum(scaled) / len(scaled)
    if not ratings:
        raise BadRow(DropReason.NO_RATING)
    return RatedVideo(
        prompt=read_prompt(row),
        video=read_video(row, "video_path"),
        ratings=ratings,
        meta=read_meta(row, texts={"id": "internal_id", "url": "url"}),
    )


def to_pair(row: Row, options: ReadOptions) -> Pair:
    return Pair(
        prompt=read_prompt(row),
        video_1=read_video(row, "video1_path"),
        video_2=read_video(row, "video2_path"),
        labels={OVERALL: read_label(row.get("standard_answer"), LABEL_WORDS)},
        raw_labels={OVERALL: row.get("standard_answer")},
        dimensions=DIMENSIONS,
        meta=read_meta(row, texts={"id": "internal_id"}),
    )


SOURCE = Source(
    name="vision_reward_db",
    title="VisionRewardDB-Video (THUDM / zai-org, Apache-2.0)",
    splits={
        "train": RatingTable(
            ("train/*.parquet",),
            ("video_path", "prompt", "annotation"),
            to_rating,
            DIMENSIONS,
            0.05,
        ),
        "regression": PairTable(("regression/*.parquet",), PAIR_COLUMNS, to_pair),
        "test": PairTable(("test/*.parquet", "monetbench/*.parquet"), PAIR_COLUMNS, to_pair),
    },
    benchmark_splits=("test",),
)
