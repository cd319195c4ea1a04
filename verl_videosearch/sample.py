"""PreferenceSample: the one row contract between data files and everything else.

The one idea: a row is what verl's RL dataset reads as it is, and `from_row` / `to_row` are the only
places that know the columns.

| column | type | meaning |
|---|---|---|
| `sample_uid` | string | unique in a file (verl puts its own id of a prompt group in `uid`) |
| `data_source` | string | where the pair came from; verl reports validation by it |
| `split` | string | `train`, `validation`, `test`, ... |
| `prompt` | list of {role, content} | one user message: the text prompt that both videos were made from |
| `video_1`, `video_2` | string | absolute path, or path relative to a root given at run time; never a URL |
| `dimensions` | list of {key, name, explanation, label} | what to judge, in the source's words; label 0, 1, 2 or null |
| `overall_label` | int8 | 0 tie, 1, 2 or null (not judged) |
| `reward_model` | {style, ground_truth} | verl's column for rewards: `rule` and the labels as JSON |
| `meta` | string | JSON: models, fps, frames, raw labels, defect spans, ... keys `*_1` and `*_2` swap with the videos |
| `agent_name` | string | `videosearch`: which agent loop verl runs |

A label stands twice, once for us and once for verl (`ground_truth`); reading compares the two. A
file is refused at its first bad row, by a `ValueError` of one line that names file, row and value:
nothing is rounded, guessed or left out.

Covers: the row, its checks, swapping the order of the videos. Does not cover: reading public
formats (`sources`)."""  # noqa: E501

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_videosearch.judgement import DEFAULT_DIMENSIONS, LABELS, OVERALL, Dimension, swap_label

AGENT_NAME = "videosearch"
"""The name of our agent loop in verl's registry."""

_TEXT = pa.string()
SCHEMA = pa.schema(
    {
        "sample_uid": _TEXT,
        "data_source": _TEXT,
        "split": _TEXT,
        "prompt": pa.list_(pa.struct({"role": _TEXT, "content": _TEXT})),
        "video_1": _TEXT,
        "video_2": _TEXT,
        "dimensions": pa.list_(
            pa.struct({"key": _TEXT, "name": _TEXT, "explanation": _TEXT, "label": pa.int8()})
        ),
        "overall_label": pa.int8(),
        "reward_model": pa.struct({"style": _TEXT, "ground_truth": _TEXT}),
        "meta": _TEXT,
        "agent_name": _TEXT,
    }
)
"""The columns and types of a file of samples."""


class Order(str, Enum):
    """In which order the judge sees the two videos of a pair."""

    AB = "AB"
    """As the sample has them."""
    BA = "BA"
    """Swapped; verdicts are kept as the judge gave them, so 1 means the sample's video 2."""


@dataclass(frozen=True)
class PreferenceSample:
    """Two videos of one prompt and which of them people preferred."""

    uid: str
    prompt: str
    """The text prompt that both videos were generated from."""
    video_1: str
    video_2: str
    labels: Mapping[str, int | None]
    """Every dimension key and `OA` to 0 (tie), 1, 2 or None (not judged)."""
    dimensions: tuple[Dimension, ...] = DEFAULT_DIMENSIONS
    source: str = "unknown"
    split: str = "train"
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = [] if self.uid else ["uid is empty"]
        for name in ("video_1", "video_2"):
            path = getattr(self, name)
            if not path or "://" in path or "\0" in path:
                problems.append(f"{name} must be a local path, got {path!r}")
        keys = self.dimension_keys
        if repeated := sorted({key for key in keys if keys.count(key) > 1}):
            problems.append(f"dimension {', '.join(repeated)} stands there more than once")
        if set(self.labels) != {*keys, OVERALL}:
            problems.append(
                f"labels must have the keys {[*keys, OVERALL]}, got {sorted(self.labels)}"
            )
        problems += [
            f"label {key} must be one of {LABELS} or null, got {label!r}"
            for key, label in self.labels.items()
            if label is not None and (type(label) is not int or label not in LABELS)
        ]
        if problems:
            raise ValueError(f"sample {self.uid!r}: " + "; ".join(problems))

    @property
    def dimension_keys(self) -> tuple[str, ...]:
        return tuple(dimension.key for dimension in self.dimensions)

    @property
    def is_labelled(self) -> bool:
        """False for a pair of which nobody said which video is better: it can be judged, not
        scored."""
        return any(label is not None for label in self.labels.values())

    def resolve_videos(self, root: str | Path | None) -> tuple[Path, Path]:
        """Return both video files; a relative path stays inside `root`, or `ValueError` says why
        not."""
        return self._resolve(self.video_1, root), self._resolve(self.video_2, root)

    def _resolve(self, path: str, root: str | Path | None) -> Path:
        if Path(path).is_absolute():
            return Path(path)
        if root is None:
            raise ValueError(
                f"sample {self.uid!r}: {path!r} is relative, so a video root is needed "
                "(video_root=...)"
            )
        # by name: the files of a hub cache are links to elsewhere
        resolved = Path(os.path.normpath(Path(root) / path))
        if not resolved.is_relative_to(os.path.normpath(root)):
            raise ValueError(
                f"sample {self.uid!r}: {path!r} leads out of the video root {str(root)!r}"
            )
        return resolved


def swap_videos(sample: PreferenceSample) -> PreferenceSample:
    """Return the same pair with the videos in the other order: paths, labels and `*_1` / `*_2`
    entries of meta swap."""
    return replace(
        sample,
        video_1=sample.video_2,
        video_2=sample.video_1,
        labels={key: swap_label(label) for key, label in sample.labels.items()},
        meta=_swap_meta(sample.meta),
    )


def show_in_order(sample: PreferenceSample, order: Order) -> PreferenceSample:
    """Return the pair as the judge sees it in that order."""
    return sample if order is Order.AB else swap_videos(sample)


def _swap_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Exchange the values of `name_1` and `name_2`; a name without its partner moves to the other
    side."""
    other_side = {"_1": "_2", "_2": "_1"}
    return {
        name[:-2] + other_side[name[-2:]] if name[-2:] in other_side else name: value
        for name, value in meta.items()
    }


def to_row(sample: PreferenceSample) -> dict[str, Any]:
    """Write a sample as a row of the contract; `from_row` reads it back."""
    return {
        "sample_uid": sample.uid,
        "data_source": sample.source,
        "split": sample.split,
        "prompt": [{"role": "user", "content": sample.prompt}],
        "video_1": sample.video_1,
        "video_2": sample.video_2,
        "dimensions": [
            {
                "key": d.key,
                "name": d.name,
                "explanation": d.explanation,
                "label": sample.labels[d.key],
            }
            for d in sample.dimensions
        ],
        "overall_label": sample.labels[OVERALL],
        "reward_model": {"style": "rule", "ground_truth": json.dumps(dict(sample.labels))},
        "meta": json.dumps(dict(sample.meta), sort_keys=True),
        "agent_name": AGENT_NAME,
    }


_NEEDED = ("sample_uid", "prompt", "video_1", "video_2", "dimensions", "overall_label")


def from_row(row: Mapping[str, Any]) -> PreferenceSample:
    """Read a row of the contract; raises `ValueError` that names the sample and what is wrong with
    it."""
    uid = row.get("sample_uid")
    if missing := [name for name in _NEEDED if name not in row]:
        raise ValueError(
            f"row {uid!r} lacks the columns {missing}; see verl_videosearch/sample.py for the "
            "contract"
        )
    try:
        dimensions, labels = _read_dimensions(row["dimensions"])
        labels[OVERALL] = _read_label(row["overall_label"], "overall_label")
        _check_ground_truth(row.get("reward_model"), labels)
        values: dict[str, Any] = {
            "uid": _read_text(uid, "sample_uid"),
            "prompt": _read_prompt(row["prompt"]),
            "video_1": _read_text(row["video_1"], "video_1"),
            "video_2": _read_text(row["video_2"], "video_2"),
            "source": _read_text(row.get("data_source"), "data_source", default="unknown"),
            "split": _read_text(row.get("split"), "split", default="train"),
            "meta": _read_object(row.get("meta"), "meta"),
        }
    except ValueError as error:
        raise ValueError(f"sample {uid!r}: {error}") from error
    return PreferenceSample(labels=labels, dimensions=dimensions, **values)


def _read_text(value: Any, name: str, default: str | None = None) -> str:
    """Return a text; null is the default where there is one."""
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, got {_show(value)}")
    return value


def _read_prompt(value: Any) -> str:
    """Return the text of the one user message; whatever else stood there would be lost."""
    messages = _read_list(value, "prompt", "one {role, content}")
    if len(messages) != 1:
        raise ValueError(f"prompt must be a list of one {{role, content}}, got {len(messages)}")
    if "content" not in messages[0]:
        raise ValueError(f"prompt must be a list of one {{role, content}}, got {_show(value)}")
    return _read_text(messages[0]["content"], "prompt's content")


def _read_dimensions(value: Any) -> tuple[tuple[Dimension, ...], dict[str, int | None]]:
    """Return the dimensions of a row and the labels that stand in them."""
    dimensions: list[Dimension] = []
    labels: dict[str, int | None] = {}
    for entry in _read_list(value, "dimensions", "{key, name, explanation, label}"):
        if missing := [n for n in ("key", "name", "explanation", "label") if n not in entry]:
            raise ValueError(f"a dimension lacks {missing}, got {_show(entry)}")
        key = _read_text(entry["key"], "a dimension's key")
        if key in labels:
            raise ValueError(f"dimension {key} stands there more than once; give each key once")
        texts = (_read_text(entry[n], f"{key}'s {n}") for n in ("name", "explanation"))
        dimensions.append(Dimension(key, *texts))
        labels[key] = _read_label(entry["label"], f"the label of {key}")
    return tuple(dimensions), labels


def _read_list(value: Any, name: str, item: str) -> list[Mapping[str, Any]]:
    # an array of numpy, as pandas hands it over, is as good as a list
    values = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(values, list | tuple):
        raise ValueError(f"{name} must be a list of {item}, got {_show(value)}")
    if wrong := [each for each in values if not isinstance(each, Mapping)]:
        raise ValueError(f"{name} must be a list of {item}, got {_show(wrong[0])} in it")
    return list(values)


def _read_label(value: Any, name: str) -> int | None:
    """Return a label as it is; NaN is pandas' null, and 1.0 what pandas makes of a 1 beside one.

    >>> [_read_label(value, "OA") for value in (1, 2.0, None, float("nan"))]
    [1, 2, None, None]
    """
    if value is None or value != value:
        return None
    if isinstance(value, bool) or not hasattr(value, "__int__") or value not in LABELS:
        raise ValueError(f"{name} must be 0, 1, 2 or null, got {_show(value)}")
    return int(value)


def _check_ground_truth(reward_model: Any, labels: Mapping[str, int | None]) -> None:
    """Compare the labels with their copy for verl's rewards; a row without the copy is fine."""
    if reward_model is None:
        return
    if not isinstance(reward_model, Mapping):
        raise ValueError(f"reward_model must be {{style, ground_truth}}, got {_show(reward_model)}")
    text = reward_model.get("ground_truth")
    if text is None:
        return
    copy = _read_object(text, "reward_model's ground_truth")
    copied = {key: _read_label(label, f"ground_truth's {key}") for key, label in copy.items()}
    if different := sorted(k for k in {*copied, *labels} if copied.get(k) != labels.get(k)):
        named = ", ".join(
            f"{key} is {labels.get(key)} in the row and {copied.get(key)} in ground_truth"
            for key in different
        )
        raise ValueError(f"the labels contradict each other: {named}; write the file again")


def _read_object(value: Any, name: str) -> dict[str, Any]:
    """Read a JSON object with unlike names; null and empty text are an empty one."""
    if value is None or value == "":
        return {}
    try:
        found = json.loads(_read_text(value, name), object_pairs_hook=_refuse_repeated)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{name} must be a JSON object, got {_show(value)} ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{name} must be a JSON object, got {_show(value)}")
    return found


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"the JSON has the names {repeated} more than once")
    return dict(pairs)


def _show(value: Any) -> str:
    """Write a value for an error: short, one line, no control characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_MARKS_OF_TEXT = "`^\u2044\u2212"
"""Symbols that stand for punctuation: quotes, the bar of a fraction, the long minus."""
_SPACING_MARKS = {
    code: " "
    for code in range(0x80, 0x2100)
    if re.match(r" .", unicodedata.normalize("NFKC", chr(code)))
}
"""Accents without a letter, typed as quotes (U+00B4); NFKC makes a blank and a mark of each."""


class _Kept(dict[int, str]):
    """What `str.translate` makes of a character: letters, numbers and their marks stay, a symbol
    (an emoji, `<`, `+`) is a word of its own, the rest parts words."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kind = unicodedata.category(character)
        if kind == "Cf" or 0xFE00 <= code <= 0xFE0F:  # joiners, and how an emoji is drawn
            kept = ""
        elif character.isalnum() or character == "_" or kind.startswith("M"):
            kept = character
        else:
            is_word = kind.startswith("S") and character not in _MARKS_OF_TEXT
            kept = f" {character} " if is_word else " "
        self[code] = kept
        return kept


_KEPT = _Kept()


def normalise_prompt(prompt: str) -> str:
    """Reduce a prompt to its words and symbols: case, punctuation, blanks and the form of letters
    do not count.

    >>> normalise_prompt("  A cat,\\nrunning!") == normalise_prompt("a cat RUNNING")
    True
    >>> normalise_prompt("5<6"), normalise_prompt("...")
    ('5 < 6', '...')
    """
    folded = unicodedata.normalize("NFKC", prompt.translate(_SPACING_MARKS)).casefold()
    return " ".join(folded.translate(_KEPT).split()) or folded.strip()


def write_samples(path: str | Path, samples: Iterable[PreferenceSample]) -> int:
    """Write samples to a parquet file, atomically; returns how many."""
    rows = [to_row(sample) for sample in samples]
    write_rows(path, pa.Table.from_pylist(rows, schema=SCHEMA))
    return len(rows)


def write_rows(path: str | Path, table: pa.Table) -> None:
    """Write a table to `path` in one step: a reader sees the old file or the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    pq.write_table(table, partial)
    os.replace(partial, path)


def read_samples(path: str | Path) -> list[PreferenceSample]:
    """Read every sample of a parquet file; raises `ValueError` that names the file and its first
    bad row."""
    samples: list[PreferenceSample] = []
    rows_of: dict[str, int] = {}
    for number, row in enumerate(_read_rows(path), 1):
        try:
            sample = from_row(row)
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from error
        first = rows_of.setdefault(sample.uid, number)
        if first != number:
            raise ValueError(
                f"{path}, row {number}: sample_uid {sample.uid!r} is that of row {first}, too; "
                "give every pair its own"
            )
        samples.append(sample)
    return samples


def _read_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file, a batch at a time."""
    if not Path(path).is_file():
        raise ValueError(
            f"no such file: {str(path)!r}; make one with `python -m data_prep.build` (see README)"
        )
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{path} has the columns {repeated} more than once")
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        words = "".join(each if each.isprintable() else "?" for each in str(error)[:200])
        cause = words or type(error).__name__
        raise ValueError(f"{path} is no readable parquet file: {cause}; write it again") from error
