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

A call or an answer inside a block that is closed later is *quoted*: a draft, no act. Inside a block
that is never closed it counts, with the fault of an unclosed tag:

>>> parse_turn("<Think>not <Answer>OA=2</Answer></Think><Answer>OA=1</Answer>", ()).answer.overall
1
>>> parse_turn("<Think>so <Answer>OA=2</Answer>", ()).answer.overall
2

Labels everywhere: 1 = video 1 is better, 2 = video 2 is better, 0 = tie. Source: paper, appendix on
prompts; method section 4."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial

OVERALL = "OA"
"""The key of the overall verdict; every judgement has it."""
CONFIDENCE = "CF"
"""The key of the confidence, 1 (most) to 3 (least)."""
LABELS = (0, 1, 2)

STOP_STRINGS = ("</tool_call>", "</Answer>", "</answer>", "</final answer>", "</Final Answer>")
"""A turn ends after its call or its answer; generation stops there (kept in the output)."""


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
                f"a dimension key is 1 to 8 capital letters or digits, not {OVERALL} or "
                f"{CONFIDENCE}; got {self.key!r}"
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
    OUTSIDE_TEXT = "text_outside_tags"
    NO_CONFIDENCE = "no_confidence"
    """A readable recommendation without CF."""


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


_ACTS = (Tag.TOOL_CALL, Tag.ANSWER)
"""What a turn does: it calls, or it answers."""

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
    r"<\s{0,4}(/\s{0,4})?"
    r"(snapshot|think|recommend\s{1,4}answer|final\s{1,4}answer|answer|tool_call)\s{0,4}>",
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
    """Closed tags in the order in which they close; those inside another closed one are content."""
    recommendation: Reading | None
    """What stands in `<Recommend Answer>`; None when the tag is missing."""
    answer: Reading | None
    """What stands in `<Answer>`; None when the tag is missing."""
    acts_by_call: bool
    """The turn's act is a call: generation stops there, so what follows does not count."""
    has_unclosed: bool
    """An opening tag has no closing one: the reply broke off."""
    has_stray_close: bool
    has_unclosed_call: bool
    """A `<tool_call>` was never closed, whatever follows it."""
    has_outside_text: bool
    """Words stand outside the tags."""
    has_unclosed_act: bool
    """The act was read inside a block that was never closed."""
    num_quoted_acts: int
    """Calls and answers inside a block that is closed later: drafts, no acts."""

    @property
    def tool_calls(self) -> tuple[str, ...]:
        """The raw content of each `<tool_call>`."""
        return tuple(block.content for block in self.blocks if block.tag is Tag.TOOL_CALL)

    def faults(self, *, expects_snapshot: bool) -> tuple[Fault, ...]:
        """List what keeps the turn from being well-formed; empty means well-formed.

        `expects_snapshot` is True when new frames had arrived before the turn (a snapshot notes
        what they show).
        """
        tags = [block.tag for block in self.blocks]
        call, answer = Tag.TOOL_CALL in tags, Tag.ANSWER in tags
        advice = self.recommendation
        is_unsure = isinstance(advice, Judgement) and advice.confidence is None
        checks = {
            Fault.UNCLOSED: self.has_unclosed,
            Fault.STRAY_CLOSE: self.has_stray_close,
            Fault.REPEATED: len(set(tags)) < len(tags),
            Fault.ORDER: list(dict.fromkeys(tags)) != sorted(set(tags), key=list(Tag).index),
            Fault.EMPTY: any(not block.content.strip() for block in self.blocks),
            Fault.NO_SNAPSHOT: expects_snapshot and Tag.SNAPSHOT not in tags,
            Fault.NO_THINK: Tag.THINK not in tags,
            Fault.NO_RECOMMENDATION: call and not answer and Tag.RECOMMEND not in tags,
            Fault.UNREADABLE_VERDICT: any(isinstance(r, Unreadable) for r in (advice, self.answer)),
            Fault.CALL_AND_ANSWER: answer and (call or Tag.RECOMMEND in tags),
            Fault.NO_CALL_NOR_ANSWER: not call and not answer,
            Fault.OUTSIDE_TEXT: self.has_outside_text,
            Fault.NO_CONFIDENCE: is_unsure,
        }
        return tuple(fault for fault, is_present in checks.items() if is_present)


@dataclass(frozen=True)
class _Opening:
    """An opening tag, and what had been read when it came."""

    tag: Tag
    end: int
    """Where its content begins."""
    num_blocks: int = 0
    num_stray: int = 0


class _OpenTags:
    """The tags that are open at a place of a text; one pass over a text costs linear time."""

    def __init__(self) -> None:
        self.openings: list[_Opening] = []
        self._counts: Counter[Tag] = Counter()

    def open(self, opening: _Opening) -> None:
        self.openings.append(opening)
        self._counts[opening.tag] += 1

    def close(self, tag: Tag) -> list[_Opening]:
        """Return the openings that a closing tag ends, its own first, then those shut inside it;
        none when it is a stray one."""
        if not self._counts[tag]:
            return []
        ended: list[_Opening] = []
        while not ended or ended[-1].tag is not tag:
            ended.append(self.openings.pop())
            self._counts[ended[-1].tag] -= 1
        return ended[::-1]


def _read_tag(match: re.Match[str]) -> Tag:
    return _TAG_NAMES[" ".join(match[2].lower().split())]


def is_tag(text: str) -> bool:
    """True for a tag of a turn, in any of its spellings."""
    return _TAG.fullmatch(text) is not None


def is_inside_block(text: str) -> bool:
    """True when a tag is open at the end of a text: what comes next is still its content.

    >>> is_inside_block("<Think>or <Answer>OA=1</Answer>"), is_inside_block("<Answer>OA=1</Answer>")
    (True, False)
    """
    tags = _OpenTags()
    for match in _TAG.finditer(text):
        tag = _read_tag(match)
        tags.close(tag) if match[1] else tags.open(_Opening(tag, match.end()))
    return bool(tags.openings)


def find_turn_end(text: str) -> int | None:
    """Return where a turn ends, behind its first stop string outside any open block; None when
    there is none.

    >>> text = "<Think>or <Answer>OA=1</Answer>?</Think><Answer>OA=2</Answer> I hope this helps"
    >>> text[find_turn_end(text):]
    ' I hope this helps'
    """
    tags = _OpenTags()
    for match in _TAG.finditer(text):
        tag = _read_tag(match)
        if not match[1]:
            tags.open(_Opening(tag, match.end()))
            continue
        tags.close(tag)
        if match[0] in STOP_STRINGS and not tags.openings:
            return match.end()
    return None


class _Scan:
    """One pass over a reply: its blocks, and what is wrong with its tags."""

    def __init__(self, text: str) -> None:
        self._spans: list[tuple[Tag, int, int]] = []
        self.num_stray = self.num_quoted_acts = 0
        self.has_outside_text = False
        self._tags = _OpenTags()
        outside = 0
        for match in _TAG.finditer(text):
            if not self.openings:
                self.has_outside_text |= not _is_blank(text[outside : match.start()])
            if match[1]:
                self._close(_read_tag(match), match.start())
            else:
                self._tags.open(
                    _Opening(_read_tag(match), match.end(), len(self._spans), self.num_stray)
                )
            outside = match.end()
        if not self.openings:
            self.has_outside_text |= not _is_blank(text[outside:])
        # cut out at the end: cutting at each closing tag would copy deep nesting once a level
        self.blocks = [Block(tag, text[start:end]) for tag, start, end in self._spans]

    @property
    def openings(self) -> list[_Opening]:
        """Tags that are still open; at the end, those that were never closed."""
        return self._tags.openings

    @property
    def num_outer(self) -> int:
        """Blocks that stand in no unclosed one."""
        return self.openings[0].num_blocks if self.openings else len(self._spans)

    def _close(self, tag: Tag, end: int) -> None:
        """End a block; what stands in it becomes its content."""
        ended = self._tags.close(tag)
        if not ended:
            self.num_stray += 1
            return
        own, shut_in = ended[0], ended[1:]
        inner = [each for each, _, _ in self._spans[own.num_blocks :]]
        inner += [opening.tag for opening in shut_in]
        self.num_quoted_acts += sum(each in _ACTS for each in inner)
        self._spans[own.num_blocks :] = [(tag, own.end, end)]
        self.num_stray = own.num_stray


def parse_turn(
    text: str, dimension_keys: Sequence[str], answer_words: Mapping[str, int] | None = None
) -> Turn:
    """Read one reply; never raises on any text, linear in its length.

    `answer_words` (a judge that answers in words, `PromptPack.answer_words`) maps whole answers, in
    lower case, to their overall label; such a judgement has no dimensions."""
    read = partial(_read_judgement, dimension_keys=dimension_keys, answer_words=answer_words or {})
    scan = _Scan(text)
    outer, inner = scan.blocks[: scan.num_outer], scan.blocks[scan.num_outer :]
    has_unclosed_call = any(opening.tag is Tag.TOOL_CALL for opening in scan.openings)
    has_outer_act = any(block.tag in _ACTS for block in outer)
    answer = _read_blocks(outer, Tag.ANSWER, read)
    if answer is None:
        answer = _read_last(inner, read)
    if answer is None and scan.openings and scan.openings[-1].tag is Tag.ANSWER:
        end = scan.openings[-1].end
        answer = Unreadable(Problem.TRUNCATED, text[end : end + 80])
    if has_outer_act:
        acts_by_call = next(block.tag for block in outer if block.tag in _ACTS) is Tag.TOOL_CALL
    else:
        has_call = any(block.tag is Tag.TOOL_CALL for block in inner)
        acts_by_call = not isinstance(answer, Judgement) and (
            has_call or (has_unclosed_call and answer is None)
        )
    return Turn(
        blocks=tuple(scan.blocks),
        recommendation=_read_blocks(scan.blocks, Tag.RECOMMEND, read),
        answer=answer,
        acts_by_call=acts_by_call,
        has_unclosed=bool(scan.openings),
        has_stray_close=scan.num_stray > 0,
        has_unclosed_call=has_unclosed_call,
        has_outside_text=scan.has_outside_text,
        has_unclosed_act=not has_outer_act and any(block.tag in _ACTS for block in inner),
        num_quoted_acts=scan.num_quoted_acts,
    )


def _is_blank(text: str) -> bool:
    return not text or text.isspace()


def _read_blocks(
    blocks: Sequence[Block], tag: Tag, read: Callable[[str], Reading]
) -> Reading | None:
    """Read every block of one tag; two that differ are a conflict, two that agree are one."""
    readings = [read(block.content) for block in blocks if block.tag is tag]
    if not readings:
        return None
    if any(reading != readings[0] for reading in readings[1:]):
        return Unreadable(Problem.CONFLICTING, f"{len(readings)} {tag.value} tags")
    return readings[0]


def _read_last(blocks: Sequence[Block], read: Callable[[str], Reading]) -> Reading | None:
    """Read the answers of a block that was never closed: the last readable one counts."""
    readings = [read(block.content) for block in blocks if block.tag is Tag.ANSWER]
    readable = [reading for reading in readings if isinstance(reading, Judgement)]
    return (readable or readings or [None])[-1]


def _read_judgement(
    text: str, dimension_keys: Sequence[str], answer_words: Mapping[str, int]
) -> Reading:
    is_short = bool(answer_words) and len(text) <= 1000
    label = answer_words.get(normalise_answer(text)) if is_short else None
    if label is not None:
        return Judgement({OVERALL: label})
    return parse_judgement(text, dimension_keys)


def normalise_answer(text: str) -> str:
    """Write an answer in words without what does not matter: case, blanks, a full stop.

    >>> normalise_answer(" Video 1 is  better. ")
    'video 1 is better'
    """
    return " ".join(text.lower().split()).rstrip(".")


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
    return label if label is None else {1: 2, 2: 1}.get(label, label)
