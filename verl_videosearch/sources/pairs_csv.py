"""Your own pairs: a csv with `path_a`, `path_b`, `prompt` and a column per label.

    path_a,path_b,prompt,TA,VQ,MQ,OA,model_a,model_b
    clips/1.mp4,clips/2.mp4,"A dog runs.",1,tie,B,1,mine,theirs

A column in capitals is a dimension, `OA` is the overall label. A label is 1, 2, A, B, or 0, tie,
same; empty is null. Without `OA` it is derived by vote. Other columns go to meta, `*_a` and `*_b`
as `*_1` and `*_2`. Dimensions other than TA, VQ and MQ are described in a JSON list of {key, name,
explanation} given as `--dimensions FILE`.
"""

from __future__ import annotations

import re

from verl_videosearch.judgement import OVERALL
from verl_videosearch.sources.fields import read_label, read_prompt, read_video
from verl_videosearch.sources.source import Pair, PairTable, ReadOptions, Row, Source, SourceError

COLUMNS = ("path_a", "path_b", "prompt")
WORDS = {
    **dict.fromkeys(("1", "a"), 1),
    **dict.fromkeys(("2", "b"), 2),
    **dict.fromkeys(("0", "tie", "same"), 0),
}
_KEY = re.compile(r"[A-Z][A-Z0-9]{0,7}")


def to_pair(row: Row, options: ReadOptions) -> Pair:
    columns = [name for name in row if isinstance(name, str) and name not in COLUMNS]
    keys = [name for name in columns if _KEY.fullmatch(name)]
    known = {dimension.key for dimension in options.dimensions}
    if unknown := sorted(set(keys) - known - {OVERALL}):
        raise SourceError(
            f"columns {unknown} are none of the dimensions {sorted(known)}; use --dimensions FILE"
        )
    if not keys:
        raise SourceError(
            f"no label column among {sorted(columns)}; add {OVERALL} or some of {sorted(known)}"
        )
    raw_labels = {key: row[key] for key in keys}
    others = {
        name: row[name]
        for name in columns
        if name not in keys and isinstance(row[name], str) and row[name]
    }
    return Pair(
        prompt=read_prompt(row),
        video_1=read_video(row, "path_a"),
        video_2=read_video(row, "path_b"),
        labels={key: read_label(word, WORDS) for key, word in raw_labels.items()},
        raw_labels=raw_labels,
        dimensions=options.dimensions,
        meta={
            re.sub("_a$", "_1", re.sub("_b$", "_2", name)): value for name, value in others.items()
        },
    )


SOURCE = Source(
    name="pairs_csv",
    title="Your own pairs",
    splits={"train": PairTable(("*.csv",), COLUMNS, to_pair)},
)
