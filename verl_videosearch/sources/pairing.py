"""Make pairs of rated videos: two videos of one prompt, labelled by which rating is higher.

The one idea: everything random (which pairs of a prompt, which video comes first) is drawn from a
generator seeded with the seed and the prompt, so that the pairs of a prompt do not change when
other prompts come or go.

Covers: several rows about one video (their ratings are averaged), a bound on pairs per prompt. Does
not cover: different prompts that mean the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations
from random import Random

from verl_videosearch.sources.fields import compare_scores
from verl_videosearch.sources.source import (
    BadRow,
    DropReason,
    Pair,
    RatedVideo,
    RatingTable,
    ReadOptions,
    ReadReport,
)


def pair_videos(
    rated: Iterable[RatedVideo], table: RatingTable, options: ReadOptions, report: ReadReport
) -> Iterator[Pair]:
    """Yield labelled pairs of videos with the same prompt; a prompt's only video is counted as
    dropped."""
    margin = table.margin if options.margin is None else options.margin
    by_prompt: dict[str, dict[str, list[RatedVideo]]] = defaultdict(lambda: defaultdict(list))
    for each in rated:
        by_prompt[each.prompt][each.video].append(each)
    for prompt, rows_of in by_prompt.items():
        videos = [_merge(rows) for rows in rows_of.values()]
        if len(videos) == 1:
            num_rows = sum(map(len, rows_of.values()))
            report.drop(f"prompt {prompt[:60]!r}", BadRow(DropReason.UNPAIRED), num_rows)
            continue
        random = Random(f"{options.seed} {prompt}")
        pairs = list(combinations(videos, 2))
        for pair in random.sample(pairs, min(len(pairs), options.max_pairs_per_prompt)):
            yield _to_pair(*random.sample(pair, 2), table, margin)


def _merge(rows: list[RatedVideo]) -> RatedVideo:
    """Make one of all rows about a video: the mean of each rating."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for key, rating in row.ratings.items():
            values[key].append(rating)
    ratings = {key: sum(each) / len(each) for key, each in values.items()}
    meta = {key: value for row in rows for key, value in row.meta.items()}
    return RatedVideo(rows[0].prompt, rows[0].video, ratings, meta)


def _to_pair(first: RatedVideo, second: RatedVideo, table: RatingTable, margin: float) -> Pair:
    keys = tuple(dimension.key for dimension in table.dimensions)
    sides = {"1": first, "2": second}
    meta = {
        f"{key}_{side}": value for side, video in sides.items() for key, value in video.meta.items()
    }
    return Pair(
        prompt=first.prompt,
        video_1=first.video,
        video_2=second.video,
        labels=compare_scores(first.ratings, second.ratings, keys, margin),
        raw_labels={key: [first.ratings.get(key), second.ratings.get(key)] for key in keys},
        dimensions=table.dimensions,
        meta=meta
        | {f"ratings_{side}": dict(video.ratings) for side, video in sides.items()}
        | {"margin": margin},
    )
