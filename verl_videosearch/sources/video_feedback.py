"""VideoFeedback (TIGER-Lab): ratings 1 to 4 of single videos; the column names contain blanks.

Pairs are made of videos with the same prompt. MQ is `temporal consistency`; `dynamic degree` (how
much moves, not how well) and `factual consistency` stay in meta. Put the clips of
`videos_annotated_*.zip` below the root; the file name is that of `video link`, else `<id>.mp4`.
"""

from __future__ import annotations

from verl_videosearch.judgement import Dimension
from verl_videosearch.sources.fields import read_meta, read_number, read_prompt, read_video
from verl_videosearch.sources.source import BadRow, DropReason, RatedVideo, RatingTable, Row, Source

RATINGS = {"TA": "text-to-video alignment", "VQ": "visual quality", "MQ": "temporal consistency"}
DIMENSIONS = (
    Dimension("TA", "Text-to-Video Alignment", "how well the video shows what the prompt says"),
    Dimension("VQ", "Visual Quality", "how clear, sharp and free of defects the frames are"),
    Dimension(
        "MQ", "Temporal Consistency", "how consistent objects and motion stay from frame to frame"
    ),
)
OTHERS = {"dynamic_degree": "dynamic degree", "factual_consistency": "factual consistency"}


def to_rating(row: Row) -> RatedVideo:
    ratings = {key: read_number(row, column) for key, column in RATINGS.items()}
    ratings = {key: rating for key, rating in ratings.items() if rating is not None}
    if not ratings:
        raise BadRow(DropReason.NO_RATING)
    name = "video link" if row.get("video link") else "id"
    video = read_video(row, name)
    return RatedVideo(
        prompt=read_prompt(row, "text prompt"),
        video=video if "." in video else f"{video}.mp4",
        ratings=ratings,
        meta=read_meta(
            row, OTHERS, {"url": "video link"} if "://" in str(row.get("video link")) else {}
        ),
    )


def _table(split: str) -> RatingTable:
    patterns = (
        f"annotated/{split}-*.parquet",
        f"{split}-*.parquet",
        f"{split}/data_annotated.json",
    )
    return RatingTable(patterns, ("text prompt", *RATINGS.values()), to_rating, DIMENSIONS)


SOURCE = Source(
    name="video_feedback",
    title="VideoFeedback, annotated (TIGER-Lab, Apache-2.0)",
    splits={"train": _table("train"), "test": _table("test")},
    video_folders=("", "videos", "videos_annotated"),
    benchmark_splits=("test",),
)
