"""Your own pairs: a csv with `path_a`, `path_b`, `prompt` and a column per label.

    path_a,path_b,prompt,TA,VQ,MQ,OA,model_a,model_b
    clips/1.mp4,clips/2.mp4,"A dog runs.",1,tie,B,1,mine,theirs

A column named like a dimension is one, `OA` or `overall` is the overall label, in any case. A label
is 1, A, left or `video 1 better`, likewise for 2, or 0, tie, same (`label_words`); empty is null, a
number such as 0.6 is refused. Without `OA` it is derived by vote. Without any label column the
pairs are kept to be judged. Other columns go to meta, `*_a` and `*_b` as `*_1` and `*_2`.
Dimensions other than TA, VQ and MQ are described in a JSON list of {key, name, explanation} given
as `--dimensions FILE`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from verl_videosearch.judgement import OVERALL
from verl_videosearch.sources.fields import read_prompt, read_video
from verl_videosearch.sources.label_words import ALLOWED, BadLabel, read_label_word
from verl_videosearch.sources.source import Pair, PairTable, ReadOptions, Row, Source, SourceError

COLUMNS = ("path_a", "path_b", "prompt")
OVERALL_NAMES = ("oa", "overall", "overall_label", "overall label")
"""Names of the overall column, in small letters."""
DOUBTFUL_NAMES = (
    *("label", "labels", "verdict", "winner", "preference", "preferred", "vote", "choice"),
    *("answer", "better", "gold", "judgement", "judgment"),
)
"""Names that look like the overall label; such a column must not silently be something else."""
_KEY = re.compile(r"[A-Z][A-Z0-9]{0,7}")


def to_pair(row: Row, options: ReadOptions) -> Pair:
    columns = [name for name in row if isinstance(name, str) and name not in COLUMNS]
    keys = find_label_columns(columns, [dimension.key for dimension in options.dimensions])
    raw_labels = {key: row[name] for key, name in keys.items()}
    meta = {
        re.sub("_a$", "_1", re.sub("_b$", "_2", name)): row[name]
        for name in columns
        if name not in keys.values() and isinstance(row[name], str) and row[name]
    }
    return Pair(
        prompt=read_prompt(row),
        video_1=read_video(row, "path_a"),
        video_2=read_video(row, "path_b"),
        labels={key: _read(word, keys[key]) for key, word in raw_labels.items()},
        raw_labels=raw_labels,
        dimensions=options.dimensions,
        meta=meta,
        is_for_judging=not keys,
    )


def find_label_columns(columns: Iterable[str], dimension_keys: Iterable[str]) -> dict[str, str]:
    """Return dimension key or `OA` to the column that holds its labels; raises `SourceError` for
    columns that leave it open.

    >>> find_label_columns(["ta", "Overall", "model_a", "fps"], ["TA", "VQ", "MQ"])
    {'TA': 'ta', 'OA': 'Overall'}
    """
    known = tuple(dimension_keys)
    keys: dict[str, str] = {}
    for name in columns:
        key = OVERALL if name.casefold() in OVERALL_NAMES else name.upper()
        if key not in (*known, OVERALL):
            if _KEY.fullmatch(name):
                raise SourceError(
                    f"column {name!r} is none of the dimensions {sorted(known)}; describe it in "
                    "--dimensions FILE, or write its name in small letters if it is no label"
                )
            continue
        if key in keys:
            raise SourceError(f"columns {keys[key]!r} and {name!r} both mean {key}; keep one")
        keys[key] = name
    doubtful = [name for name in columns if name.casefold() in DOUBTFUL_NAMES]
    if doubtful and OVERALL not in keys:
        raise SourceError(
            f"column {doubtful[0]!r} looks like the overall label; call it {OVERALL} if it is, "
            f"or {doubtful[0]}_note if it is not"
        )
    return keys


def _read(word: object, column: str) -> int | None:
    try:
        return read_label_word(word)
    except BadLabel as error:
        raise SourceError(f"{column}: {error}; allowed are {ALLOWED}") from error


SOURCE = Source(
    name="pairs_csv",
    title="Your own pairs",
    splits={"train": PairTable(("*.csv",), COLUMNS, to_pair)},
    is_own=True,
)
