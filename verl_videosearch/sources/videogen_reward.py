"""VideoGen-Reward, the training csv of VideoAlign (KwaiVGI): two videos, a verdict per dimension,
no overall one.

    path_A,path_B,prompt,VQ,MQ,TA,fps_A,num_frames_A,fps_B,num_frames_B
    videos/1_A.mp4,./videos/1_B.mp4,"A girl sits down.",B,same,A,24.0,126.0,30.0,152.0

`A` and `B` name the better video; `same` is a tie; `invalid` and anything else is null. Overall is
derived: the video that wins more of the three dimensions.
"""

from __future__ import annotations

from verl_videosearch.sources.fields import read_label, read_meta, read_prompt, read_video
from verl_videosearch.sources.source import Pair, PairTable, ReadOptions, Row, Source

COLUMNS = ("path_A", "path_B", "prompt", "VQ", "MQ", "TA")
BENCHMARK_COLUMNS = ("Overall", "A_model", "B_model")
"""Of VideoGen-RewardBench, which must not be trained on by mistake."""
WORDS = {"a": 1, "b": 2, "same": 0}
NUMBERS = {
    "fps_1": "fps_A",
    "fps_2": "fps_B",
    "num_frames_1": "num_frames_A",
    "num_frames_2": "num_frames_B",
}


def to_pair(row: Row, options: ReadOptions) -> Pair:
    raw_labels = {key: row.get(key) for key in ("TA", "VQ", "MQ")}
    return Pair(
        prompt=read_prompt(row),
        video_1=read_video(row, "path_A"),
        video_2=read_video(row, "path_B"),
        labels={key: read_label(word, WORDS) for key, word in raw_labels.items()},
        raw_labels=raw_labels,
        meta=read_meta(row, NUMBERS),
    )


SOURCE = Source(
    name="videogen_reward",
    title="VideoGen-Reward training csv (KwaiVGI/VideoAlign, MIT)",
    splits={"train": PairTable(("train.csv", "*.csv"), COLUMNS, to_pair, BENCHMARK_COLUMNS)},
)
