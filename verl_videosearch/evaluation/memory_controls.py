"""Memory controls: what does a judge lose when its own earlier words are taken away?

The one idea: with a window, only words carry what was seen in frames that are gone. So the same
policy judges the same pairs again, and before each reply its *earlier* replies are altered; what it
writes itself is kept as it is, and altered only when it is looked back at.

    as_written   nothing is altered: the noise of the server
    emptied      the Snapshots of earlier turns are empty
    opposite     they are those of an episode of as many turns on a pair with another label, of the
                 same pair type where there is one; drawn by the pair's name, the same in every run
    no_text      of earlier turns only the call is left

>>> empty_snapshots("<Snapshot>frame 5 is torn</Snapshot><Think>look on</Think>")
'<Snapshot></Snapshot><Think>look on</Think>'
>>> keep_call('<Think>look</Think><tool_call>{"name": "a"}</tool_call>')
'<tool_call>{"name": "a"}</tool_call>'

Covers: accuracy, calls and tokens by pair type, against the run itself. An episode without a call
has no earlier text and counts as it was. Does not cover: one act altered in a replay (`probes`)."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from PIL import Image

from verl_videosearch.episode import Message, Reply
from verl_videosearch.evaluation.probes import PROBED
from verl_videosearch.evaluation.subsets import TYPE_FIELD
from verl_videosearch.judgement import OVERALL
from verl_videosearch.metrics import PairedDifference, Rate, paired_bootstrap
from verl_videosearch.rollout import GenerateFn
from verl_videosearch.runs.play import PlaySetup, play_episode
from verl_videosearch.runs.record import MEMORY, EpisodeRecord
from verl_videosearch.sample import normalise_prompt

DONOR = "donor"
"""Entry of a control's `extra`: the episode whose Snapshots were put in."""

_SNAPSHOT = re.compile(
    r"<\s{0,4}snapshot\s{0,4}>(.*?)(?:<\s{0,4}/\s{0,4}snapshot\s{0,4}>|\Z)", re.I | re.S
)
_CALL = re.compile(
    r"<\s{0,4}tool_call\s{0,4}>.*?(?:<\s{0,4}/\s{0,4}tool_call\s{0,4}>|\Z)", re.I | re.S
)


class MemoryControl(str, Enum):
    """What a judge finds when it looks back at its own replies."""

    AS_WRITTEN = "as_written"
    EMPTIED = "emptied"
    OPPOSITE = "opposite"
    NO_TEXT = "no_text"


Alteration = Callable[[int, str], str]
"""Number of an earlier reply (from 0) and its text to what the judge finds instead."""


class AlteredMemory:
    """A `GenerateFn` whose model sees its earlier replies altered."""

    def __init__(self, generate: GenerateFn, alter: Alteration) -> None:
        self._generate, self._alter = generate, alter

    @property
    def usage(self) -> Any:
        """What the model has counted; None where it does not count."""
        return getattr(self._generate, "usage", None)

    async def __call__(self, messages: list[Message], images: Sequence[Image.Image]) -> Reply:
        return await self._generate(alter_replies(messages, self._alter), images)


def alter_replies(messages: Sequence[Message], alter: Alteration) -> list[Message]:
    """Return a context with its replies altered; everything else, images too, stays."""
    altered, num_replies = [], 0
    for message in messages:
        if message["role"] == "assistant":
            text = "".join(item["text"] for item in message["content"])
            content = [{"type": "text", "text": alter(num_replies, text)}]
            message, num_replies = {**message, "content": content}, num_replies + 1
        altered.append(message)
    return altered


def replace_snapshots(text: str, content: str) -> str:
    """Put other words into every Snapshot of a reply."""
    return _SNAPSHOT.sub(lambda match: f"<Snapshot>{content}</Snapshot>", text)


def empty_snapshots(text: str) -> str:
    """Leave nothing in the Snapshots of a reply."""
    return replace_snapshots(text, "")


def read_snapshot(text: str) -> str:
    """Return what the first Snapshot of a reply holds; empty without one."""
    match = _SNAPSHOT.search(text)
    return match[1].strip() if match else ""


def keep_call(text: str) -> str:
    """Leave nothing of a reply but its first call."""
    match = _CALL.search(text)
    return match[0] if match else ""


def make_alteration(control: MemoryControl, donor: EpisodeRecord | None = None) -> Alteration:
    """Return what a control does to an earlier reply; turns that the donor lacks have an empty
    Snapshot."""
    if control is MemoryControl.AS_WRITTEN:
        return lambda number, text: text
    if control is MemoryControl.EMPTIED:
        return lambda number, text: empty_snapshots(text)
    if control is MemoryControl.NO_TEXT:
        return lambda number, text: keep_call(text)
    assert donor is not None, "Snapshots of another pair come from a donor"
    theirs = [read_snapshot(turn.reply) for turn in donor.turns]

    def put_in(number: int, text: str) -> str:
        return replace_snapshots(text, theirs[number] if number < len(theirs) else "")

    return put_in


class Donors:
    """The episodes of a run, by what makes them a donor for one another."""

    def __init__(self, records: Iterable[EpisodeRecord]) -> None:
        self._groups: dict[tuple[Any, ...], list[EpisodeRecord]] = defaultdict(list)
        for record in records:
            self._groups[self._name_group(record)].append(record)

    def draw(self, record: EpisodeRecord) -> EpisodeRecord | None:
        """Return an episode with as many turns on a pair with the opposite label (for a tie: with
        any other), as shown; None if the run has none."""
        order, num_turns, label = self._name_group(record)
        if label is None:
            return None
        wanted = (1, 2) if label == 0 else (3 - label,)
        found = [each for other in wanted for each in self._groups[order, num_turns, other]]
        found = [each for each in found if each.uid != record.uid]
        alike = [each for each in found if name_type(each) == name_type(record)]
        choices = sorted(alike or found, key=lambda each: each.key)
        return random.Random(f"memory {record.key}").choice(choices) if choices else None

    @staticmethod
    def _name_group(record: EpisodeRecord) -> tuple[Any, ...]:
        return record.order, len(record.turns), record.shown.labels[OVERALL]


def name_type(record: EpisodeRecord) -> str:
    """Return the pair type, empty where pairs have none."""
    return str(record.own.meta.get(TYPE_FIELD, ""))


def name_control(record: EpisodeRecord, control: MemoryControl) -> str:
    """Name a controlled episode inside its run."""
    return f"{record.key} {control.value}"


def is_controlled(record: EpisodeRecord, control: MemoryControl, donors: Donors) -> bool:
    """True when the episode looks back at all, and there is something to put in."""
    if len(record.turns) < 2:
        return False
    return control is not MemoryControl.OPPOSITE or donors.draw(record) is not None


async def play_control(
    record: EpisodeRecord,
    control: MemoryControl,
    setup: PlaySetup,
    generate: GenerateFn,
    donors: Donors,
) -> EpisodeRecord:
    """Judge the pair of a finished episode again with an altered memory; raises
    `EpisodeFailure`."""
    donor = donors.draw(record) if control is MemoryControl.OPPOSITE else None
    origin = {} if donor is None else {DONOR: donor.key}
    return await play_episode(
        record.own,
        record.order,
        setup,
        AlteredMemory(generate, make_alteration(control, donor)),
        key=name_control(record, control),
        extra={PROBED: record.key, MEMORY: control.value, **origin},
    )


@dataclass(frozen=True)
class MemoryRow:
    """What a judge did on some pairs with one memory."""

    accuracy: Rate
    """Right overall verdicts; no verdict is a wrong one. The interval draws prompts."""
    change: PairedDifference | None
    """Against the run itself, pair by pair; null for the run."""
    calls: float
    """Mean per episode."""
    tokens: float | None
    """Mean per episode, read and written; null where nobody counted."""
    num_altered: int
    """Episodes that look back at altered text; the others count as they were."""


@dataclass(frozen=True)
class MemorySummary:
    """What the memory controls of a run found."""

    num_episodes: int
    rows: Mapping[str, Mapping[str, MemoryRow]]
    """Control (`run`: the run itself) to pair type (`all`: every pair) to row."""
    failures: Mapping[str, int] = field(default_factory=dict)


RUN, ALL = "run", "all"


def summarise_memory(
    before: Sequence[EpisodeRecord],
    after: Sequence[EpisodeRecord],
    controls: Sequence[MemoryControl],
    failures: Mapping[str, int],
    unfinished: Iterable[str] = (),
) -> MemorySummary:
    """Compare controlled episodes (`after`) with the run's; those that failed (`unfinished`) are in
    no row of their control, nor in what it is compared with."""
    known = [record for record in before if record.shown.labels[OVERALL] is not None]
    failed, rows = set(unfinished), {RUN: _make_rows(known, known, set())}
    for control in controls:
        played = {r.extra[PROBED]: r for r in after if r.extra[MEMORY] == control.value}
        judged = [each for each in known if name_control(each, control) not in failed]
        now = [played.get(each.key, each) for each in judged]
        rows[control.value] = _make_rows(judged, now, set(played))
    return MemorySummary(len(before), rows, failures)


def _make_rows(
    was: Sequence[EpisodeRecord], now: Sequence[EpisodeRecord], altered: set[str]
) -> dict[str, MemoryRow]:
    """Make the row of all pairs, then one of each pair type."""
    pairs = list(zip(was, now, strict=True))
    names = sorted({name_type(record) for record in was} - {""})
    rows = {ALL: _make_row(pairs, altered)} if pairs else {}
    for name in names:
        rows[name] = _make_row([p for p in pairs if name_type(p[0]) == name], altered)
    return rows


def _make_row(pairs: Sequence[tuple[EpisodeRecord, EpisodeRecord]], altered: set[str]) -> MemoryRow:
    prompts = [normalise_prompt(was.own.prompt) for was, _ in pairs]
    right = [bool(now.is_right) for _, now in pairs]
    change = None
    if any(now is not was for was, now in pairs):
        change = paired_bootstrap(right, [bool(was.is_right) for was, _ in pairs], prompts)
    tokens = [count_tokens(now) for _, now in pairs]
    known = [each for each in tokens if each is not None]
    return MemoryRow(
        accuracy=Rate.over(right, prompts),
        change=change,
        calls=sum(now.num_calls for _, now in pairs) / len(pairs),
        tokens=sum(known) / len(known) if len(known) == len(tokens) else None,
        num_altered=sum(was.key in altered for was, _ in pairs),
    )


def count_tokens(record: EpisodeRecord) -> int | None:
    """Return the tokens read and written; None where nobody counted."""
    read, written = record.usage.num_prompt_tokens, record.usage.num_reply_tokens
    return None if read is None or written is None else read + written
