"""GenAI-Bench, video generation (TIGER-Lab): one vote per pair, no dimensions.

The published parquet files name the videos by URL (`left_video`, `right_video`); a copy in
circulation is one JSON list with file names (`video_left`, `video_right`). Both are read; of a URL
the file name is looked up below the root, and the address to fetch it from is kept in meta.

`tievote` and `bothbad_vote` are ties. Split `test` has 1,889 rows; `test_v1` (1,069) is that of the
GenAI-Bench paper.
"""

from __future__ import annotations

from verl_videosearch.judgement import OVERALL
from verl_videosearch.sources.fields import read_label, read_meta, read_prompt, read_video
from verl_videosearch.sources.source import Pair, PairTable, ReadOptions, Row, Source

WORDS = {"leftvote": 1, "rightvote": 2, "tievote": 0, "bothbad_vote": 0}


def to_pair(row: Row, options: ReadOptions) -> Pair:
    left, right = (
        ("video_left", "video_right") if "video_left" in row else ("left_video", "right_video")
    )
    meta = read_meta(row, texts={"model_1": "left_model", "model_2": "right_model"})
    for key, column in {"url_1": left, "url_2": right}.items():
        if "://" in str(row.get(column)):  # the page of a file on the hub becomes the file itself
            meta[key] = row[column].replace("/blob/", "/resolve/")
    return Pair(
        prompt=read_prompt(row),
        video_1=read_video(row, left),
        video_2=read_video(row, right),
        labels={OVERALL: read_label(row.get("vote_type"), WORDS)},
        raw_labels={OVERALL: row.get("vote_type")},
        meta=meta,
    )


def _table(*patterns: str) -> PairTable:
    return PairTable(patterns, ("prompt", "vote_type"), to_pair)


SOURCE = Source(
    name="genai_bench",
    title="GenAI-Bench, video_generation (TIGER-Lab, CC-BY-4.0)",
    splits={
        "test": _table(
            "data.json", "test.json", "test-*.parquet", "video_generation/test-*.parquet"
        ),
        "test_v1": _table(
            "test_v1.json", "test_v1-*.parquet", "video_generation/test_v1-*.parquet"
        ),
    },
    short_name="genai",
    benchmark_splits=("test", "test_v1"),
)
