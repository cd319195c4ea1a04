"""VideoGen-RewardBench (KlingTeam): the benchmark of VideoGen-Reward, with an overall verdict and
the models' names.

    path_A,path_B,A_model,B_model,prompt,VQ,MQ,TA,Overall,fps_A,num_frames_A,fps_B,num_frames_B

The label words are those of the training csv.
"""

from __future__ import annotations

from dataclasses import replace

from verl_videosearch.judgement import OVERALL
from verl_videosearch.sources import videogen_reward
from verl_videosearch.sources.fields import read_label, read_meta
from verl_videosearch.sources.source import Pair, PairTable, ReadOptions, Row, Source

COLUMNS = (*videogen_reward.COLUMNS, *videogen_reward.BENCHMARK_COLUMNS)


def to_pair(row: Row, options: ReadOptions) -> Pair:
    pair = videogen_reward.to_pair(row, options)
    return replace(
        pair,
        labels={**pair.labels, OVERALL: read_label(row.get("Overall"), videogen_reward.WORDS)},
        raw_labels={**pair.raw_labels, OVERALL: row.get("Overall")},
        meta={**pair.meta, **read_meta(row, texts={"model_1": "A_model", "model_2": "B_model"})},
    )


SOURCE = Source(
    name="videogen_rewardbench",
    title="VideoGen-RewardBench (KlingTeam, Apache-2.0)",
    splits={"eval": PairTable(("videogen-rewardbench.csv", "*.csv"), COLUMNS, to_pair)},
    short_name="videogen",
    benchmark_splits=("eval",),
)
