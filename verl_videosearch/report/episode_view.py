"""What a page shows of played episodes, as plain values: pairs, films, turns, verdicts.

The one idea: a *view* is one pair as one model judged it, in the pair's own order, with one column
for each order in which it was shown. Verdicts are turned back; frame numbers stay as the judge
named
them, and every frame says which of the pair's own videos it is of.

    views = make_views([("eval", records)], thumbnails)
    views[0].columns[0].turns[1].in_view        # the frames that were visible at turn 2

Covers: every `EpisodeRecord`, failures too. Does not cover: markup (`templates/`), files
(`episode_page`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from verl_videosearch.judgement import OVERALL, parse_turn
from verl_videosearch.report.plain_text import clean_line
from verl_videosearch.report.thumbnails import Film, Thumbnails
from verl_videosearch.runs.record import EpisodeRecord, PlayedTurn, swap_verdicts
from verl_videosearch.sample import Order

_SAME_TIME_S = 0.002
"""Candidates of the same file lie within this of what the record says."""


@dataclass(frozen=True)
class FrameView:
    """One frame as the judge named it."""

    number: int
    video: int
    """1 or 2, in the pair's own order."""
    index: int
    """0-based candidate of that video."""
    time_s: float
    film: str
    """Name of the film that its picture belongs to; empty without one."""
    picture: int = 0
    """Candidate of the film, where a record counts its candidates otherwise."""


@dataclass(frozen=True)
class StripFrame:
    """One frame of a film with everybody who looked at it."""

    frame: FrameView
    gap: int
    """Candidates before it that nobody saw."""
    is_first: bool
    """It was in view before the first turn."""
    asked: tuple[str, ...]
    """Order and turn of each call that brought it, for example `AB 1`."""


@dataclass(frozen=True)
class Strip:
    """One video of the pair: every frame that anybody saw, in time."""

    video: int
    path: str
    problem: str
    frames: tuple[StripFrame, ...]
    num_candidates: int
    rest: int
    """Candidates after the last frame that nobody saw."""


@dataclass(frozen=True)
class Cell:
    """One verdict, in the pair's own order."""

    word: str
    is_right: bool | None
    """Against the label; None without either."""


@dataclass(frozen=True)
class TurnView:
    """One turn: what was in view, what was written, what came of it."""

    number: int
    in_view: tuple[FrameView, ...]
    is_new: frozenset[int]
    """Numbers that were in view for the first time or again."""
    forgotten: tuple[FrameView, ...]
    blocks: tuple[tuple[str, str], ...]
    """Name of a tag and what stands in it; empty where no tag can be read."""
    reply: str
    """As written."""
    thought: str
    asked: tuple[int, ...]
    call_note: str
    """What came of the call; empty without one."""
    brought: tuple[FrameView, ...]
    """Frames that the call brought."""
    faults: tuple[str, ...]
    verdicts: Mapping[str, Cell]
    confidence: int | None
    num_prompt_tokens: int | None
    num_reply_tokens: int | None

    def seen_of(self, video: int) -> list[FrameView]:
        """Return the frames of one video, in view or forgotten, by number."""
        seen = {f.number: f for f in (*self.forgotten, *self.in_view) if f.video == video}
        return [seen[number] for number in sorted(seen)]


@dataclass(frozen=True)
class Column:
    """One episode: the pair in one order."""

    anchor: str
    record: EpisodeRecord
    turns: tuple[TurnView, ...]
    final: Mapping[str, Cell]
    outcome: str
    rewards: tuple[tuple[str, float | None], ...]
    details: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PairView:
    """One pair as one model judged it."""

    name: str
    source: str
    columns: tuple[Column, ...]
    prompt: str
    strips: tuple[Strip, ...]
    keys: tuple[tuple[str, str], ...]
    """Key and name of every dimension, overall last."""
    labels: Mapping[str, str]
    """Key to what people said."""
    notes: tuple[str, ...]
    facts: tuple[tuple[str, str], ...] = ()
    """What else is to stand above the films, as (name, text)."""


@dataclass(frozen=True)
class Source:
    """Records that belong together: a run, or a file."""

    name: str
    records: Sequence[EpisodeRecord]


def make_views(sources: Iterable[Source], thumbnails: Thumbnails) -> list[PairView]:
    """Return every pair with its episodes, in the order in which they first come."""
    groups: dict[tuple[Any, ...], list[tuple[str, EpisodeRecord]]] = {}
    for number, source in enumerate(sources):
        for record in source.records:
            groups.setdefault((number, *_name_group(record)), []).append((source.name, record))
    anchors = _Anchors(entry for group in groups.values() for entry in group)
    split = [part for group in groups.values() for part in _split_group(group)]
    return [
        _make_view(f"p{number}", part[0][0], [each for _, each in part], anchors, thumbnails)
        for number, part in enumerate(split)
    ]


def _name_group(record: EpisodeRecord) -> tuple[Any, ...]:
    """Say what two orders of one pair have in common."""
    replacement = str(record.extra.get("replacement"))
    names = (record.kind.value, record.uid, record.attempt, record.step, record.group)
    return (*names, record.identity.model, replacement)


def _split_group(group: list[tuple[str, EpisodeRecord]]) -> list[list[tuple[str, EpisodeRecord]]]:
    """Return one pair of orders whole; several episodes of one order, or of other settings, each
    alone."""
    is_pair = len({record.order for _, record in group}) == len(group)
    settings = {json.dumps(record.config, sort_keys=True) for _, record in group if record.config}
    if is_pair and len(settings) <= 1:
        return [sorted(group, key=lambda entry: entry[1].order.value)]
    return [[entry] for entry in group]


class _Anchors:
    """Names by which a link finds an episode: its key, with the source where keys repeat."""

    def __init__(self, entries: Iterable[tuple[str, EpisodeRecord]]) -> None:
        self._sources: dict[str, set[str]] = {}
        self._used: set[str] = set()
        for source, record in entries:
            self._sources.setdefault(record.key, set()).add(source)

    def take(self, source: str, record: EpisodeRecord) -> str:
        """Return a name that no other episode has."""
        is_alone = len(self._sources[record.key]) == 1
        name = base = clean_line(record.key if is_alone else f"{source}: {record.key}")
        number = 2
        while name in self._used:
            name, number = f"{base} ({number})", number + 1
        self._used.add(name)
        return name


def _make_view(
    name: str,
    source: str,
    records: Sequence[EpisodeRecord],
    anchors: _Anchors,
    thumbnails: Thumbnails,
) -> PairView:
    first = records[0]
    films = _open_films(records, thumbnails)
    labels = dict(first.sample.labels) if first.sample is not None else {}
    dimensions = first.sample.dimensions if first.sample is not None else ()
    columns = [
        _make_column(anchors.take(source, record), record, films, labels, thumbnails)
        for record in records
    ]
    return PairView(
        name=name,
        source=source,
        columns=tuple(columns),
        prompt=first.sample.prompt if first.sample is not None else "",
        strips=tuple(_make_strip(video, films, columns) for video in films),
        keys=(*((each.key, each.name) for each in dimensions), (OVERALL, "Overall")),
        labels={key: _say(label, "not judged") for key, label in labels.items()},
        notes=tuple(_list_notes(first)),
    )


def _list_notes(record: EpisodeRecord) -> Iterable[str]:
    """Yield what one must know to read the pictures."""
    if replacement := record.extra.get("replacement"):
        yield (
            f"A probe ({replacement}): the judge was shown other frames than it asked for. "
            "The pictures here are those of the numbers that it asked for."
        )
    if record.sample is None:
        yield "The row of this pair could not be read, so neither prompt nor videos are known."


def _open_films(records: Sequence[EpisodeRecord], thumbnails: Thumbnails) -> dict[int, Film]:
    record = next((each for each in records if each.candidates is not None), records[0])
    if record.sample is None:
        return {}
    films = {}
    for video in (1, 2):
        film = thumbnails.open(record.sample, video, record.episode_config)
        if record.candidates is not None and not film.problem:
            film = _check_times(film, _own_times(record, video))
        films[video] = film
    return films


def _own_times(record: EpisodeRecord, video: int) -> tuple[float, ...]:
    """Return the candidate times of one of the pair's own videos."""
    assert record.candidates is not None
    is_first = (video == 1) == (record.order is Order.AB)
    return record.candidates.times_1 if is_first else record.candidates.times_2


def _check_times(film: Film, times_s: Sequence[float]) -> Film:
    """Refuse the pictures of a file that is no longer the one that was judged."""
    is_same = film.times_s == tuple(times_s)
    if is_same or all(_find_time(film, time_s) is not None for time_s in times_s):
        return film
    problem = "the file has changed since it was judged: its frames lie at other times"
    return Film("", film.path, problem)


def _find_time(film: Film, time_s: float) -> int | None:
    """Return the candidate at a time; None where there is none."""
    times = film.times_s
    nearest = min(range(len(times)), key=lambda index: abs(times[index] - time_s))
    return nearest if abs(times[nearest] - time_s) <= _SAME_TIME_S else None


def _make_frame(
    record: EpisodeRecord, number: int, films: Mapping[int, Film], thumbnails: Thumbnails
) -> FrameView | None:
    """Return a frame by the judge's number; None for a number that no frame has."""
    candidates = record.candidates
    if candidates is None or not 1 <= number <= len(candidates):
        return None
    place = candidates.locate(number)
    video = place.video if record.order is Order.AB else 3 - place.video
    film, time_s = films.get(video), candidates.time_s(number)
    if film is None or film.problem:
        return FrameView(number, video, place.index, time_s, "")
    is_same_count = len(film.times_s) == len(candidates.numbers_of(place.video))
    picture = place.index if is_same_count else _find_time(film, time_s)
    assert picture is not None, "times were compared when the film was opened"
    thumbnails.add(film, picture)
    return FrameView(number, video, place.index, time_s, film.name, picture)


def _make_column(
    anchor: str,
    record: EpisodeRecord,
    films: Mapping[int, Film],
    labels: Mapping[str, int | None],
    thumbnails: Thumbnails,
) -> Column:
    def frames(numbers: Iterable[int]) -> tuple[FrameView, ...]:
        found = (_make_frame(record, number, films, thumbnails) for number in numbers)
        return tuple(frame for frame in found if frame is not None)

    before: set[int] = set()
    turns = []
    for number, turn in enumerate(record.turns, start=1):
        in_view, forgotten = frames(turn.visible), frames(turn.forgotten)
        is_new = frozenset(set(turn.visible) - before)
        seen = (in_view, is_new, forgotten, frames(turn.shown))
        turns.append(_make_turn(record, number, turn, seen, labels))
        before = set(turn.visible)
    rewards = [] if record.score is None else [("total", record.score)]
    return Column(
        anchor=anchor,
        record=record,
        turns=tuple(turns),
        final=_judge_cells(record.own_verdicts, labels),
        outcome=_say_outcome(record),
        rewards=(*rewards, *(record.reward_parts or {}).items()),
        details=tuple(_list_details(record)),
    )


def _make_turn(
    record: EpisodeRecord,
    number: int,
    turn: PlayedTurn,
    seen: tuple[
        tuple[FrameView, ...], frozenset[int], tuple[FrameView, ...], tuple[FrameView, ...]
    ],
    labels: Mapping[str, int | None],
) -> TurnView:
    in_view, is_new, forgotten, brought = seen
    keys = () if record.sample is None else record.sample.dimension_keys
    blocks = parse_turn(turn.reply, keys).blocks
    problem = () if turn.problem is None else (turn.problem,)
    return TurnView(
        number=number,
        in_view=in_view,
        is_new=is_new,
        forgotten=forgotten,
        blocks=tuple((block.tag.value, block.content.strip()) for block in blocks),
        reply=turn.reply,
        thought=turn.thought,
        asked=turn.asked,
        call_note=_say_call(turn),
        brought=brought,
        faults=tuple(
            _read_name(fault)
            for fault in dict.fromkeys(
                (*turn.faults, *problem, *(("truncated",) if turn.is_truncated else ()))
            )
        ),
        verdicts=_judge_cells(swap_verdicts(turn.verdicts, record.order), labels),
        confidence=turn.confidence,
        num_prompt_tokens=turn.num_prompt_tokens,
        num_reply_tokens=turn.num_reply_tokens,
    )


def _say_call(turn: PlayedTurn) -> str:
    """Say in words what a call asked for and got."""
    if not turn.has_call:
        return ""
    asked = ", ".join(map(str, turn.asked)) or "nothing readable"
    words = f"asked for {asked}"
    if turn.call_fault is not None:
        return f"{words}; refused: {_read_name(turn.call_fault)}"
    if turn.shown != turn.asked:
        words += f"; got {', '.join(map(str, turn.shown)) or 'nothing'}"
    if known := sorted(set(turn.shown) & set(turn.visible)):
        words += f"; in view already: {', '.join(map(str, known))}"
    if turn.regions is not None:
        words += "; parts of frames, shown whole here"
    return words


def _make_strip(video: int, films: Mapping[int, Film], columns: Sequence[Column]) -> Strip:
    """Return all frames of one video that anybody saw, in time."""
    seen: dict[int, FrameView] = {}
    first: set[int] = set()
    asked: dict[int, list[str]] = {}
    num_candidates = len(films[video].times_s)
    for column in columns:
        record = column.record
        if record.candidates is not None:
            num_candidates = len(_own_times(record, video))
        for turn in column.turns:
            for frame in (*turn.in_view, *turn.brought):
                if frame.video == video:
                    seen.setdefault(frame.index, frame)
                    first |= {frame.index} if frame.number in record.initial_frames else set()
            for frame in turn.brought:
                if frame.video == video:
                    mark = f"{record.order.value} {turn.number}"
                    asked.setdefault(frame.index, []).append(mark)
    frames, last = [], -1
    for index in sorted(seen):
        marks = tuple(asked.get(index, ()))
        frames.append(StripFrame(seen[index], index - last - 1, index in first, marks))
        last = index
    film = films[video]
    rest = max(num_candidates - last - 1, 0)
    return Strip(video, film.path, film.problem, tuple(frames), num_candidates, rest)


def _judge_cells(
    verdicts: Mapping[str, int] | None, labels: Mapping[str, int | None]
) -> dict[str, Cell]:
    """Write verdicts of the pair's own order, each beside its label."""
    cells = {}
    for key, verdict in (verdicts or {}).items():
        label = labels.get(key)
        cells[key] = Cell(_say(verdict), None if label is None else verdict == label)
    return cells


def _say(verdict: int | None, without: str = "none") -> str:
    return {0: "tie", 1: "video 1", 2: "video 2", None: without}[verdict]


def _say_outcome(record: EpisodeRecord) -> str:
    if record.failure is not None:
        return f"failed: {_read_name(record.failure.label)}"
    return _read_name(record.outcome)


def _read_name(name: str) -> str:
    """Return a name of the code as words.

    >>> _read_name("call_limit")
    'call limit'
    """
    return name.replace("_", " ")


def _list_details(record: EpisodeRecord) -> Iterable[tuple[str, str]]:
    """Yield everything else that a record says, as (name, text)."""
    usage, identity = record.usage, record.identity
    values: dict[str, Any] = {
        "prompt": record.sample.prompt if record.sample else None,
        "program": record.kind.value,
        "key": record.key,
        "attempt": record.attempt,
        "seed": record.seed,
        "training step": record.step,
        "group": record.group,
        "stated confidence (1 high, 3 low)": record.confidence,
        "problem": record.problem,
        "tokens read": usage.num_prompt_tokens,
        "tokens written": usage.num_reply_tokens,
        "requests": usage.num_requests,
        "seconds": None if record.seconds is None else f"{record.seconds:.1f}",
        **{name: value for name, value in msgspec.to_builtins(identity).items()},
        **dict(sorted(record.extra.items())),
        "pair": json.dumps(dict(record.sample.meta), ensure_ascii=False) if record.sample else None,
    }
    for name, value in values.items():
        if value not in (None, "", "{}"):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield _read_name(name), text
