"""The verdict grammar: read one turn of the judge, write a verdict.

The one idea: *reading never repairs*. A turn is read into a typed `Turn`; its answer is either a
`Judgement` or `Unreadable` with the reason. Tags may differ in case and in blanks (`</ answer>`,
`<final answer>`, `TA = 1`), as published samples do; nothing looser.

>>> text = "<Snapshot>alike</Snapshot><Think>same</Think><Answer>TA=0, VQ=1, MQ=0, OA=1</Answer>"
>>> turn = parse_turn(text, ("TA", "VQ", "MQ"))
>>> turn.answer
Judgement(verdicts={'TA': 0, 'VQ': 1, 'MQ': 0, 'OA': 1}, confidence=None)
>>> turn.faults(expects_snapshot=True)
()
>>> parse_turn("<Answer>TA=0, OA=3</Answer>", ("TA",)).answer
Unreadable(problem=<Problem.VALUE_OUT_OF_RANGE: 'value_out_of_range'>, detail='OA=3')

Labels everywhere: 1 = video 1 is better, 2 = video 2 is better, 0 = tie. Source: paper, appendix on
prompts; method section 4."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

OVERALL = "OA"
"""The key of the overall verdict; every judgement has it."""
CONFIDENCE = "CF"
"""The key of the confidence, 1 (most) to 3 (least)."""
LABELS = (0, 1, 2)


@dataclass(frozen=True)
class Dimension:
    """One aspect that the judge rates, as the prompt names it."""

    key: str
    """Short name in answers, for example `TA`."""
    name: str
    explanation: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Z][A-Z0-9]{0,7}", self.key) or self.key in (OVERALL, CONFIDENCE):
            raise ValueError(
                f"a dimension key is 1 to 8 capital letters or digits, not {OVERALL} or {CONFIDENCE}; got {self.key!r}"
            )


DEFAULT_DIMENSIONS = (
    Dimension("TA", "Text Alignment", "how well the content of the video matches the prompt"),
    Dimension(
        "VQ",
        "Visual Quality",
        "how good each frame looks: sharpness, noise, colour, artefacts, aesthetics",
    ),
    Dimension("MQ", "Motion Quality", "how natural, smooth and consistent the motion is over time"),
)
"""The paper's three dimensions (section 3), as worded for VideoGen-Reward."""


class Problem(str, Enum):
    """Why there is no judgement."""

    NO_ANSWER = "no_answer"
    TRUNCATED = "truncated"
    CONFLICTING = "conflicting_answers"
    EMPTY = "empty"
    NOT_A_PAIR = "not_a_pair"
    UNKNOWN_KEY = "unknown_key"
    REPEATED_KEY = "repeated_key"
    MISSING_KEY = "missing_key"
    VALUE_OUT_OF_RANGE = "value_out_of_range"


class Fault(str, Enum):
    """Why a turn is not well-formed (method section 4)."""

    UNCLOSED = "unclosed_tag"
    STRAY_CLOSE = "stray_closing_tag"
    REPEATED = "repeated_tag"
    ORDER = "wrong_order"
    EMPTY = "empty_tag"
    NO_SNAPSHOT = "no_snapshot"
    NO_THINK = "no_think"
    NO_RECOMMENDATION = "no_recommendation"
    UNREADABLE_VERDICT = "unreadable_verdict"
    CALL_AND_ANSWER = "call_and_answer"
    NO_CALL_NOR_ANSWER = "no_call_nor_answer"


@dataclass(frozen=True)
class Judgement:
    """A verdict per dimension and overall."""

    verdicts: Mapping[str, int]
    """Dimension key, and `OA`, to 0, 1 or 2."""
    confidence: int | None = None
    """1 (most confident) to 3 (least), or None when not given."""

    @property
    def overall(self) -> int:
        return self.verdicts[OVERALL]


@dataclass(frozen=True)
class Unreadable:
    """No judgement could be read."""

    problem: Problem
    detail: str = ""


Reading = Judgement | Unreadable


class Tag(str, Enum):
    """The tags of a turn, in the order of a well-formed one."""

    SNAPSHOT = "Snapshot"
    THINK = "Think"
    RECOMMEND = "Recommend Answer"
    TOOL_CALL = "tool_call"
    ANSWER = "Answer"


_TAG_NAMES = {
    "snapshot": Tag.SNAPSHOT,
    "think": Tag.THINK,
    "recommend answer": Tag.RECOMMEND,
    "tool_call": Tag.TOOL_CALL,
    "answer": Tag.ANSWER,
    "final answer": Tag.ANSWER,
}
# Blanks are bounded so that matching stays linear on any text; without ASCII, the long s would
# equal an s.
_TAG = re.compile(
    r"<\s{0,4}(/\s{0,4})?(snapshot|think|recommend\s{1,4}answer|final\s{1,4}answer|answer|tool_call)\s{0,4}>",
    re.IGNORECASE | re.ASCII,
)
_PAIR = re.compile(r"([A-Za-z][A-Za-z0-9]{0,7})\s{0,4}=\s{0,4}(0|[1-9][0-9]{0,2})")


@dataclass(frozen=True)
class Block:
    """One closed tag with its content."""

    tag: Tag
    content: str


@dataclass(frozen=True)
class Turn:
    """One reply of the judge, read but not repaired."""

    blocks: tuple[Block, ...]
    """Closed tags in the order in which they close."""
    recommendation: Reading | None
    """What stands in `<Recommend Answer>`; None when the tag is missing."""
    answer: Reading | None
    """What stands in `<Answer>`; None when the tag is missing."""
    has_unclosed: bool
    """An opening tag has no closing one: the reply broke off."""
    has_stray_close: bool
    has_unclosed_call: bool
    """A `<tool_call>` was never closed, whatever follows it."""

    @property
    def tool_calls(self) -> tuple[str, ...]:
        """The raw content of each `<tool_call>`."""
        return tuple(block.content for block in self.blocks if block.tag is Tag.TOOL_CALL)

    @property
    def acts_by_call(self) -> bool:
        """True when the turn's first closing act is a call: generation stops there, so what follows
        does not count."""
        for block in self.blocks:
            if block.tag in (Tag.TOOL_CALL, Tag.ANSWER):
                return block.tag is Tag.TOOL_CALL
        return self.has_unclosed_call

    def faults(self, *, expects_snapshot: bool) -> tuple[Fault, ...]:
        """List what keeps the turn from being well-formed; empty means well-formed.

        `expects_snapshot` is True when new frames had arrived before the turn (a snapshot notes
        what they show).
        """
        tags = [block.tag for block in self.blocks]
        call, answer = Tag.TOOL_CALL in tags, Tag.ANSWER in tags
        readings = (self.recommendation, self.answer)
        checks = {
            Fault.UNCLOSED: self.has_unclosed,
            Fault.STRAY_CLOSE: self.has_stray_close,
            Fault.REPEATED: len(set(tags)) < len(tags),
            Fault.ORDER: list(dict.fromkeys(tags)) != sorted(set(tags), key=list(Tag).index),
            Fault.EMPTY: any(not block.content.strip() for block in self.blocks),
            Fault.NO_SNAPSHOT: expects_snapshot and Tag.SNAPSHOT not in tags,
            Fault.NO_THINK: Tag.THINK not in tags,
            Fault.NO_RECOMMENDATION: call and not answer and Tag.RECOMMEND not in tags,
            Fault.UNREADABLE_VERDICT: any(isinstance(reading, Unreadable) for reading in readings),
            Fault.CALL_AND_ANSWER: answer and (call or Tag.RECOMMEND in tags),
            Fault.NO_CALL_NOR_ANSWER: not call and not answer,
        }
        return tuple(fault for fault, is_present in checks.items() if is_present)


def parse_turn(text: str, dimension_keys: Sequence[str]) -> Turn:
    """Read one reply; never raises on any text, linear in its length."""
    blocks: list[Block] = []
    open_tag: Tag | None = None
    open_end = 0
    has_unclosed = has_stray_close = has_unclosed_call = False
    for match in _TAG.finditer(text):
        tag = _TAG_NAMES[" ".join(match[2].lower().split())]
        if not match[1]:
            has_unclosed |= open_tag is not None
            has_unclosed_call |= open_tag is Tag.TOOL_CALL
            open_tag, open_end = tag, match.end()
        elif tag is open_tag:
            blocks.append(Block(tag, text[open_end : match.start()]))
            open_tag = None
        else:
            has_stray_close = True
    readings = {
        tag: _read_blocks(blocks, tag, dimension_keys) for tag in (Tag.RECOMMEND, Tag.ANSWER)
    }
    if open_tag is Tag.ANSWER and readings[Tag.ANSWER] is None:
        readings[Tag.ANSWER] = Unreadable(Problem.TRUNCATED, text[open_end : open_end + 80])
    return Turn(
        blocks=tuple(blocks),
        recommendation=readings[Tag.RECOMMEND],
        answer=readings[Tag.ANSWER],
        has_unclosed=has_unclosed or open_tag is not None,
        has_stray_close=has_stray_close,
        has_unclosed_call=has_unclosed_call or open_tag is Tag.TOOL_CALL,
    )


def _read_blocks(
    blocks: Sequence[Block], tag: Tag, dimension_keys: Sequence[str]
) -> Reading | None:
    """Read every block of one tag; two that differ are a conflict, two that agree are one."""
    readings = [
        parse_judgement(block.content, dimension_keys) for block in blocks if block.tag is tag
    ]
    if not readings:
        return None
    if any(reading != readings[0] for reading in readings[1:]):
        return Unreadable(Problem.CONFLICTING, f"{len(readings)} {tag.value} tags")
    return readings[0]


def parse_judgement(text: str, dimension_keys: Sequence[str]) -> Reading:
    """Read `TA=1, VQ=0, MQ=2, OA=1` (any order, `CF=1` allowed); every dimension and `OA` must be
    there once.

    >>> parse_judgement(" oa = 2,TA=0 , CF=3", ["TA"])
    Judgement(verdicts={'TA': 0, 'OA': 2}, confidence=3)
    """
    if not text.strip():
        return Unreadable(Problem.EMPTY)
    allowed = {**{key: LABELS for key in (*dimension_keys, OVERALL)}, CONFIDENCE: (1, 2, 3)}
    values: dict[str, int] = {}
    for piece in text.strip().removesuffix(",").split(","):
        match = _PAIR.fullmatch(piece.strip())
        if match is None:
            return Unreadable(Problem.NOT_A_PAIR, piece.strip()[:80])
        key, value = match[1].upper(), int(match[2])
        if key not in allowed:
            return Unreadable(Problem.UNKNOWN_KEY, key)
        if key in values:
            return Unreadable(Problem.REPEATED_KEY, key)
        if value not in allowed[key]:
            return Unreadable(Problem.VALUE_OUT_OF_RANGE, f"{key}={value}")
        values[key] = value
    confidence = values.pop(CONFIDENCE, None)
    missing = [key for key in (*dimension_keys, OVERALL) if key not in values]
    if missing:
        return Unreadable(Problem.MISSING_KEY, ", ".join(missing))
    return Judgement({key: values[key] for key in (*dimension_keys, OVERALL)}, confidence)


def format_judgement(judgement: Judgement) -> str:
    """Write a judgement as the model writes it; `parse_judgement` reads it back.

    >>> format_judgement(Judgement({"TA": 1, "OA": 2}, confidence=3))
    'TA=1, OA=2, CF=3'
    """
    pairs = [f"{key}={value}" for key, value in judgement.verdicts.items()]
    if judgement.confidence is not None:
        pairs.append(f"{CONFIDENCE}={judgement.confidence}")
    return ", ".join(pairs)


def swap_label(label: int | None) -> int | None:
    """Return the label after the two videos changed places: 1 and 2 swap, tie and unknown stay.

    >>> [swap_label(label) for label in (0, 1, 2, None)]
    [0, 2, 1, None]
    """
    return {1: 2, 2: 1}.get(label, label)
