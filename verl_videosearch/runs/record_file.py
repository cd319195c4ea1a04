"""Files of EpisodeRecords: JSON lines, written whole, read with their damage counted.

The one idea: a line that cannot be read is never guessed at. One that a dying machine has torn is
counted as damaged and named; one of a newer version, or of the formats before records, is refused
with a sentence that says what to do.

>>> import tempfile
>>> path = Path(tempfile.mkdtemp()) / "episodes.jsonl"
>>> _ = path.write_text('{"format": 1, "kind": "judge", "key": "a", "uid": "a"}\\n{"format": 1, "ki')
>>> file = read_records(path)
>>> [record.key for record in file.records], len(file.damaged)
(['a'], 1)

Covers: the line, reading, the schema. Does not cover: journals (`folder`)."""  # noqa: E501

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from verl_videosearch.runs import record as record_module
from verl_videosearch.runs.record import FORMAT, EpisodeRecord

_OLD_FORMATS = {
    "an episode of the evaluation before records": {"sample_uid", "order", "messages"},
    "an episode of reinforcement learning before records": {"sample_uid", "step", "session"},
    "a trace of the cold start before records": {"teacher", "replies"},
    "an attempt of rejection sampling before records": {"row", "key"},
    "a failure in a journal before records": {"failure", "key", "detail"},
}
"""Names that tell today's lines from older ones."""
_COMPARISON = {"prompt", "video_1", "video_2", "overall"}
"""Names that tell a line of `videosearch judge` from a record: it holds an episode an order, none
where it has failed."""


_DECODER = msgspec.json.Decoder(EpisodeRecord)
"""Made at import: it makes msgspec describe the type once, for `convert`, too; two threads that
each
were the first to read a record crashed the process (msgspec 0.22)."""


class RecordError(ValueError):
    """A line is no record; the text names file and line, and what to do."""


class DamagedLine(RecordError):
    """A line that was torn or altered; it counts as absent."""


@dataclass(frozen=True)
class RecordFile:
    """What a file of episodes holds."""

    path: Path
    records: tuple[EpisodeRecord, ...]
    """In the order of the file."""
    damaged: tuple[str, ...]
    """What is wrong with each line that cannot be read, file and line included."""


def write_record(record: EpisodeRecord) -> str:
    """Write a record as one JSON line, newline included; equal records give equal bytes."""
    return json.dumps(msgspec.to_builtins(record), allow_nan=False) + "\n"


def parse_record(line: str | bytes, where: str = "line") -> EpisodeRecord:
    """Read one line; `write_record` in reverse. `where` (file and line) stands in front of what is
    wrong: `DamagedLine` for one that is torn or altered, `RecordError` for another version."""
    return _make_record(_read_object(line, where), where)


def _parse_line(line: bytes, where: str) -> list[EpisodeRecord]:
    """Read the record of a line; of a comparison of the judge, its episodes."""
    content = _read_object(line, where)
    if not set(content) >= _COMPARISON:
        return [_make_record(content, where)]
    episodes = content.get("episodes", [])
    if not isinstance(episodes, list) or not all(isinstance(each, dict) for each in episodes):
        raise DamagedLine(f"{where}: a comparison whose episodes are no list of records")
    return [_make_record(each, where) for each in episodes]


def _read_object(line: str | bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DamagedLine(f"{where}: not a JSON object: {error}") from error
    if not isinstance(content, dict):
        raise DamagedLine(f"{where}: not a JSON object but {str(content)[:40]!r}")
    return content


def _make_record(content: dict[str, Any], where: str) -> EpisodeRecord:
    _check_format(content, where)
    try:
        return _share_parts(msgspec.convert(content, EpisodeRecord))
    except msgspec.ValidationError as error:
        raise DamagedLine(f"{where}: not an episode record: {error}") from error


def _share_parts(record: EpisodeRecord) -> EpisodeRecord:
    """Let records that say the same hold the same objects: of 100,000 episodes of a run most of the
    memory would be copies of one configuration and of a few lists of times."""
    force = msgspec.structs.force_setattr  # the record is new, nobody else has seen it
    for name in ("candidates", "initial_frames", "identity", "usage"):
        force(record, name, _share(getattr(record, name)))
    force(record, "config", _share_config(json.dumps(record.config)))
    for turn in record.turns:
        for name in ("visible", "forgotten", "asked", "shown"):
            force(turn, name, _share(getattr(turn, name)))
    return record


def _forget_words(record: EpisodeRecord) -> EpisodeRecord:
    """Return a record without what was said."""
    turns = [msgspec.structs.replace(turn, reply="", thought="") for turn in record.turns]
    return msgspec.structs.replace(record, messages=None, turns=tuple(turns))


@lru_cache(maxsize=4096)
def _share(value: Any) -> Any:
    """Return the first of equal values that came this way."""
    return value


@lru_cache(maxsize=64)
def _share_config(text: str) -> dict[str, Any]:
    """Return one dict for equal configurations: it is read, never changed."""
    config: dict[str, Any] = json.loads(text)
    return config


def _check_format(content: dict[str, Any], where: str) -> None:
    """Refuse what another version of the package has written."""
    version = content.get("format")
    if type(version) is int and version > FORMAT:
        raise RecordError(
            f"{where}: an episode record of format {version}; this package reads up to {FORMAT}: "
            "install the version of verl-videosearch that wrote it, or a newer one"
        )
    if version is not None:
        return
    for name, keys in _OLD_FORMATS.items():
        if keys <= set(content):
            raise RecordError(
                f"{where}: {name}, which holds neither the dimensions nor the candidate frames "
                "that "
                "a record needs and cannot be converted: play it again into a new folder, or read "
                "it with verl-videosearch 0.1.0"
            )


def read_records(path: str | Path, *, keeps_words: bool = True) -> RecordFile:
    """Read a file of episodes, or of comparisons with their episodes (`judge --pairs --out`).

    Raises `RecordError` for a file that is missing or of another version. Damaged lines are left
    out and listed.

    Without `keeps_words` replies and contexts are forgotten line by line: figures need verdicts,
    and of 100,000 episodes the words are most of the memory."""
    path = Path(path)
    if not path.is_file():
        raise RecordError(f"no such file: {str(path)!r}; give a file of episodes (*.jsonl)")
    records, damaged = [], []
    for number, line in iterate_lines(path):
        try:
            found = _parse_line(line, f"{path}, line {number}")
            records += found if keeps_words else [_forget_words(record) for record in found]
        except DamagedLine as error:
            damaged.append(str(error))
    return RecordFile(path, tuple(records), tuple(damaged))


def append_record(path: str | Path, record: EpisodeRecord) -> None:
    """Add a record to a file in one piece; several threads and processes may do so at once.

    Not synced: for logs beside a training. A run that goes on after a kill uses `Journal`."""
    with Path(path).open("ab", buffering=0) as file:
        file.write(write_record(record).encode())


def iterate_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, line) of every line that is not blank."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, line


def settle_records(records: Iterable[EpisodeRecord]) -> list[EpisodeRecord]:
    """Keep one record a key, in the order of the keys: its first result, else its last failure."""
    kept: dict[str, EpisodeRecord] = {}
    for record in records:
        if record.key not in kept or not kept[record.key].has_result:
            kept[record.key] = record
    return [kept[key] for key in sorted(kept)]


def make_schema() -> dict[str, Any]:
    """Return the JSON schema of a line, with the docstrings of the fields as descriptions."""
    schema = msgspec.json.schema(EpisodeRecord)
    docs = _read_field_docs()
    for name, definition in schema["$defs"].items():
        for field, description in docs.get(name, {}).items():
            definition["properties"][field]["description"] = description
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def write_schema() -> str:
    """Return the text of `docs/episode.schema.json`."""
    return json.dumps(make_schema(), indent=2) + "\n"


def _read_field_docs() -> dict[str, dict[str, str]]:
    """Read the docstring under each field of each type of `record.py`."""
    docs: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(record_module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, text in zip(node.body, node.body[1:], strict=False):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                words = " ".join(str(text.value.value).split())
                docs.setdefault(node.name, {})[field.target.id] = words
    return docs
