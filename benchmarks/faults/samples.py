"""Malformed files of samples and of labels: each is refused in one line that names file and row.

The one idea: one good file, and one thing wrong in its second row: every column with every value
that does not belong there, every word that is no label. A value that a column allows (null, where
null has a meaning) must be read as just that; the table of what is allowed stands here once more.

Covers: parquet files of samples, the user's own csv. Does not cover: the public sets' files."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.faults.tally import End, Outcome, Trial
from verl_videosearch.sample import PreferenceSample, read_samples, to_row
from verl_videosearch.sources import SOURCES
from verl_videosearch.sources.read import read_samples_of
from verl_videosearch.sources.source import ReadOptions, ReadReport
from verl_videosearch.sources.video_finder import VideoFinder

LABELS = {"TA": 1, "VQ": 2, "MQ": None, "OA": 1}
Row = dict[str, Any]
_DELETED = object()
WRONG_VALUES: dict[str, Any] = {
    "missing": _DELETED,
    "null": None,
    "number": 7,
    "fraction": 1.5,
    "nan": float("nan"),
    "truth": True,
    "text": "words",
    "empty text": "",
    "bytes": b"\xff\x00",
    "empty list": [],
    "list": [1, 2],
    "list of null": [None],
    "object": {"a": 1},
    "control characters": "\x1b[2J\r\n\u2028",
}
COLUMNS = (
    "sample_uid", "prompt", "video_1", "video_2", "dimensions", "overall_label", "reward_model",
    "meta", "data_source", "split",
)  # fmt: skip
_TEXTS = ("text", "control characters")
ALLOWED: dict[str, tuple[str, ...]] = {
    "sample_uid": _TEXTS,
    "video_1": _TEXTS,
    "video_2": _TEXTS,
    "reward_model": ("missing", "null"),
    "meta": ("missing", "null", "empty text"),
    "data_source": (*_TEXTS, "empty text", "missing", "null"),
    "split": (*_TEXTS, "empty text", "missing", "null"),
}
"""Values that a column may hold. A path that is none is found out when the film is opened; a label
that is null contradicts its copy in `reward_model`."""
ENTRY = ("key", "name", "explanation", "label")
"""Of one entry of `dimensions`."""
ALLOWED_ENTRY = {"name": (*_TEXTS, "empty text"), "explanation": (*_TEXTS, "empty text")}
JSON_TEXTS = ("{", "[]", "1", "null", '"a"', '{"a": 1, "a": 2}', "[" * 5000, "{'a': 1}", "\ud800")
GROUND_TRUTHS = (
    '{"TA": 2, "VQ": 2, "OA": 1}', '{"OA": 1.5}', '{"OA": true}', '{"TA": 1}', "[1]", "x",
    '{"OA": "1"}', '{"OA": 1, "OA": 1}',
)  # fmt: skip
WORDS = (
    "0.6", "2.99", "-1", "3", "1e3", "True", "false", "inf", "1,0", "A or B", "good", "video 3",
    "yes",
    "1;2", "0x1", "½", "AB", "\x1b[31m",
)  # fmt: skip
HEADS = (
    "path_a,path_b,prompt,OA,OA", "path_a,path_b,prompt,OA,overall", "path_a,path_b,OA", "a,b,c,d",
    "path_a;path_b;prompt;OA", "path_a\tpath_b\tprompt\tOA", "path_a,path_b,prompt,winner", "",
    "path_a,path_b,path_a,prompt,OA", "path_a,prompt,OA", "path_a,path_b,prompt,label",
)  # fmt: skip
LINES = (
    b'1.mp4,2.mp4,"a cat,1', b"1.mp4,2.mp4,a cat, running,1", b"1.mp4,2.mp4,caf\xe9,1",
    b'1.mp4,2.mp4,"a" cat,1', b"1.mp4,2.mp4,p,1,2,3",
)  # fmt: skip


class Fault(NamedTuple):
    """One malformed file."""

    kind: str
    name: str
    write: Callable[[Path], Path]
    """Writes it into a folder."""
    read: Callable[[Path], object]
    has_row: bool = True
    """The message must name a row or a line."""
    is_allowed: bool = False


def make_row(number: int) -> Row:
    return to_row(PreferenceSample(f"uid-{number}", "a cat", "1.mp4", "2.mp4", LABELS))


def change_row(change: Callable[[Row], None]) -> Callable[[Path], Path]:
    """Make a file of three rows whose second one is changed."""

    def write(folder: Path) -> Path:
        rows = [make_row(number) for number in (1, 2, 3)]
        change(rows[1])
        path = folder / "samples.parquet"
        try:
            table = pa.Table.from_pylist(rows)
        except (pa.ArrowException, UnicodeError):  # one column cannot hold both: all rows have it
            for row in rows:
                change(row)
            table = pa.Table.from_pylist(rows)
        pq.write_table(table, path)
        return path

    return write


def _put(name: str, value: Any, entry: bool = False) -> Callable[[Row], None]:
    def change(row: Row) -> None:
        for target in row["dimensions"] if entry else [row]:
            if value is _DELETED:
                target.pop(name, None)
            else:
                target[name] = copy.deepcopy(value)

    return change


def list_row_faults() -> Iterator[Fault]:
    """Yield one wrong thing in one row."""
    for entry, names, allowed in ((False, COLUMNS, ALLOWED), (True, ENTRY, ALLOWED_ENTRY)):
        for name in names:
            for word, value in WRONG_VALUES.items():
                write = change_row(_put(name, value, entry))
                is_allowed = word in allowed.get(name, ())
                label = f"{'an entry of dimensions: ' if entry else ''}{name} is {word}"
                yield Fault("row", label, write, read_samples, True, is_allowed)
    for name, texts in (("meta", JSON_TEXTS), ("reward_model", GROUND_TRUTHS)):
        for text in texts:
            value = text if name == "meta" else {"style": "rule", "ground_truth": text}
            is_allowed = text == "\ud800"  # pyarrow refuses to write it; null stands there
            write = change_row(_put(name, value if not is_allowed else None))
            label = f"{name} is {text[:30]!r}"
            yield Fault("row's JSON", label, write, read_samples, True, is_allowed)

    def repeat_dimension(row: Row) -> None:
        row["dimensions"].append(dict(row["dimensions"][0]))

    def repeat_uid(row: Row) -> None:
        row["sample_uid"] = "uid-1"

    def double_prompt(row: Row) -> None:
        row["prompt"] = row["prompt"] * 2

    for change in (repeat_dimension, repeat_uid, double_prompt):
        yield Fault("row", change.__name__, change_row(change), read_samples)


def list_file_faults() -> Iterator[Fault]:
    """Yield parquet files that are none, or broken ones."""

    def damage(change: Callable[[bytearray], bytes]) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            path = change_row(lambda row: None)(folder)
            path.write_bytes(change(bytearray(path.read_bytes())))
            return path

        return write

    def flip(place: float) -> Callable[[bytearray], bytes]:
        def change(content: bytearray) -> bytes:
            content[int(place * (len(content) - 1))] ^= 0xFF
            return bytes(content)

        return change

    changes: dict[str, Callable[[bytearray], bytes]] = {
        "empty": lambda content: b"",
        "cut in half": lambda content: bytes(content[: len(content) // 2]),
        "a csv": lambda content: b"sample_uid,prompt\n1,2\n",
        "its magic only": lambda content: b"PAR1",
        "twice": lambda content: bytes(content) * 2,
    }
    for name, change in changes.items():
        is_allowed = name == "twice"  # parquet reads from its end: the second copy is the file
        yield Fault("file", name, damage(change), read_samples, False, is_allowed)
    for step in range(20):
        name = f"a byte changed at {step / 20:.0%}"
        yield Fault("file, a byte changed", name, damage(flip(step / 20)), read_samples, False)


def read_own(path: Path) -> list[PreferenceSample]:
    finder, report = VideoFinder(path.parent, ("",)), ReadReport()
    source = SOURCES["pairs_csv"]
    found = list(
        read_samples_of(source, "train", path, finder, ReadOptions(), report, keep_missing=True)
    )
    if report.examples:  # programs print the report
        raise ValueError(f"{path.name}: dropped {' '.join(report.examples.values())!r}")
    return found


def list_csv_faults() -> Iterator[Fault]:
    """Yield the user's own files with one thing wrong."""

    def fill(head: str, *lines: bytes) -> Callable[[Path], Path]:
        def write(folder: Path) -> Path:
            path = folder / "mine.csv"
            path.write_bytes(b"\n".join([head.encode(), *lines]) + b"\n")
            return path

        return write

    good, head = b"3.mp4,4.mp4,a dog,2", "path_a,path_b,prompt,OA"
    for word in WORDS:
        line = f'1.mp4,2.mp4,a cat,"{word}"'.encode()
        yield Fault("csv, a word", f"{word!r}", fill(head, good, line), read_own)
    for line in LINES:
        yield Fault("csv, a line", f"{line!r}", fill(head, good, line), read_own)
    for each in HEADS:
        row = b"1.mp4,2.mp4,a cat,1" + b",1" * max(0, each.count(",") - 3)
        yield Fault(
            "csv, a head", each, fill(each, row[: None if "," in each else 20]), read_own, False
        )


def list_faults() -> list[Fault]:
    return [*list_row_faults(), *list_file_faults(), *list_csv_faults()]


def try_fault(fault: Fault, folder: Path) -> Outcome:
    """Read a malformed file; right is one line with the file's name and the row's number."""
    kind, start = fault.kind, time.perf_counter()
    path = fault.write(folder)
    try:
        found = fault.read(path)
    except ValueError as error:
        end, problem = _judge_message(fault, path, str(error))
    except Exception as error:  # the boundary of this program: any other exception is a finding
        end, problem = End.CRASHED, f"{type(error).__name__}: {error}"
    else:
        is_right = fault.is_allowed or _is_untouched(found)
        end, problem = (End.HANDLED, "") if is_right else (End.WRONG, f"read as {found}")
    return Outcome(kind, end, f"{fault.name}: {problem}", 1, time.perf_counter() - start)


def _judge_message(fault: Fault, path: Path, message: str) -> tuple[End, str]:
    """Say whether a refusal was due, and names file and row in one harmless line."""
    names_row = "row 2" in message or "line 3" in message or "row 1" in message
    lacks = [] if path.name in message else ["the file"]
    lacks += ["the row"] if fault.has_row and not names_row and "columns" not in message else []
    if not message.isprintable():
        lacks.append("only printable characters")
    if fault.is_allowed and fault.kind == "row":
        return End.WRONG, f"refused, though it is allowed: {message}"
    return (End.WRONG, f"lacks {lacks}: {message}") if lacks else (End.HANDLED, "")


def _is_untouched(found: object) -> bool:
    """True when the damage hit nothing that is read."""
    good = [make_row(number) for number in (1, 2, 3)]
    return isinstance(found, list) and [to_row(sample) for sample in found] == good


def run(seed: int, first: int, count: int) -> Iterator[Outcome]:
    """Try the kinds in order; they are the same for every seed."""
    with tempfile.TemporaryDirectory() as folder:
        for fault in list_faults()[first : first + count]:
            yield try_fault(fault, Path(folder))


NUM_KINDS = len(list_faults())
TRIAL = Trial("samples", run, chunk=100, default_count=NUM_KINDS, short_count=NUM_KINDS)
