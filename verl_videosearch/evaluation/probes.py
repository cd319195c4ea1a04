"""Probes of faithfulness: does the verdict depend on the frames that the judge asked for?

The one idea: replay. A finished episode is repeated word for word up to the first call that brought
frames; there other frames are handed over (`altered_frames`), and the model goes on by itself. If
verdicts stay, search is theatre. The replacement `same` hands over the true frames: what changes
there is the noise of the server.

    needed the search = right with the true frames and not right with the replaced ones

Covers: how often and in which direction verdicts change, by stated confidence, and the share of
right verdicts that needed the search. A model that never searches has nothing to replace: 0 % by
definition, and the summary says so. Does not cover: episodes whose search is right but whose
verdict would have been right anyway - those do not need it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from PIL import Image

from verl_videosearch.episode import Message, Reply
from verl_videosearch.evaluation.citations import Citations, count_citations
from verl_videosearch.judgement import OVERALL
from verl_videosearch.metrics import Rate
from verl_videosearch.rollout import GenerateFn
from verl_videosearch.runs.play import PlaySetup, play_episode
from verl_videosearch.runs.record import EpisodeRecord, PlayedTurn
from verl_videosearch.video.altered_frames import AlteredPair, Replacement
from verl_videosearch.video.pair import PairFrames

REPLACEMENT = "replacement"
"""Entry of a probe's `extra`: what its calls got."""
PROBED = "probed"
"""Entry of a probe's `extra`: the key of the true episode."""


class Change(str, Enum):
    """What became of an overall verdict."""

    TO_TIE = "to a tie"
    FROM_TIE = "from a tie"
    TO_OTHER_VIDEO = "to the other video"
    TO_UNREADABLE = "to no verdict"
    FROM_UNREADABLE = "from no verdict"


@dataclass(frozen=True)
class ProbeFigures:
    """What one replacement did."""

    changed: Rate
    """Overall verdicts that differ, of the episodes that searched."""
    directions: Mapping[str, int]
    lost: Rate
    """Right before and not right now, of the right ones that searched: how much damage is done."""
    won: Rate
    """Not right before and right now, of the others that searched."""
    needed_search: Rate
    """Right before and not right now, of all right verdicts, with or without a search."""
    by_confidence: Mapping[str, Rate]
    """Changed verdicts by the confidence that the judge had stated."""


@dataclass(frozen=True)
class ProbeSummary:
    """What the probes of a run found."""

    num_episodes: int
    searched: Rate
    """Episodes with something to replace."""
    figures: Mapping[str, ProbeFigures]
    citations: Citations
    failures: Mapping[str, int] = field(default_factory=dict)

    @property
    def note(self) -> str | None:
        """Say in words what the figures cannot: that there was nothing to probe."""
        if self.searched.correct:
            return None
        return (
            f"This model never searches: none of its {self.num_episodes} episodes has a frame that a call brought, so "
            "no verdict can depend on one. 0 % of its right verdicts needed the search."
        )


class ReplayedReplies:
    """A `GenerateFn` that repeats what was said, then lets the model go on."""

    def __init__(self, recorded: Sequence[PlayedTurn], live: GenerateFn) -> None:
        self._recorded, self._live = list(recorded), live

    async def __call__(self, messages: list[Message], images: Sequence[Image.Image]) -> Reply:
        if not self._recorded:
            return await self._live(messages, images)
        turn = self._recorded.pop(0)
        return Reply(turn.reply, turn.is_truncated, turn.thought)


def list_opening(record: EpisodeRecord) -> tuple[PlayedTurn, ...]:
    """Return the turns up to and with the first call that brought frames."""
    first = next(number for number, turn in enumerate(record.turns) if turn.shown)
    return record.turns[: first + 1]


def name_probe(record: EpisodeRecord, replacement: Replacement) -> str:
    """Name the probe of an episode inside its run."""
    return f"{record.key} {replacement.value}"


async def play_probe(
    record: EpisodeRecord, replacement: Replacement, setup: PlaySetup, generate: GenerateFn
) -> EpisodeRecord:
    """Replay one finished episode with replaced frames; raises `EpisodeFailure`."""

    def alter(pair: PairFrames) -> PairFrames:
        return AlteredPair.of(pair, replacement, seed=f"{record.uid} {record.order.value}")

    return await play_episode(
        record.own,
        record.order,
        setup,
        ReplayedReplies(list_opening(record), generate),
        key=name_probe(record, replacement),
        alter=alter,
        extra={PROBED: record.key, REPLACEMENT: replacement.value},
    )


def summarise_probes(
    before: Sequence[EpisodeRecord],
    after: Sequence[EpisodeRecord],
    replacements: Sequence[Replacement],
    failures: Mapping[str, int],
) -> ProbeSummary:
    """Compare the probed episodes (`after`) with the true ones (`before`), one by one."""
    searched = [record for record in before if record.has_searched]
    return ProbeSummary(
        num_episodes=len(before),
        searched=Rate(len(searched), len(before)),
        figures={
            replacement.value: _compare(before, _choose(after, replacement))
            for replacement in replacements
        },
        citations=count_citations(before),
        failures=failures,
    )


def _choose(after: Iterable[EpisodeRecord], replacement: Replacement) -> list[EpisodeRecord]:
    return [record for record in after if record.extra[REPLACEMENT] == replacement.value]


def _compare(before: Sequence[EpisodeRecord], after: Sequence[EpisodeRecord]) -> ProbeFigures:
    now = {record.extra[PROBED]: read_overall(record) for record in after}
    was = {record.key: read_overall(record) for record in before}
    gold = {record.key: record.shown.labels[OVERALL] for record in before}
    unprobed = {record.key for record in before if record.has_searched} - set(now)
    known = {key for key in was if gold[key] is not None and key not in unprobed}
    right = {key for key in known if was[key] == gold[key]}
    lost = {key for key in right if key in now and now[key] != gold[key]}
    won = {key for key in known - right if key in now and now[key] == gold[key]}
    changed = {key for key in now if now[key] != was[key]}
    confidences = {record.key: str(record.confidence or "not stated") for record in before}
    return ProbeFigures(
        changed=Rate(len(changed), len(now)).with_interval(),
        directions={
            change.value: sum(name_change(was[key], now[key]) is change for key in changed)
            for change in Change
        },
        lost=Rate(len(lost), len(right & set(now))),
        won=Rate(len(won), len((known - right) & set(now))),
        needed_search=Rate(len(lost), len(right)).with_interval(),
        by_confidence={
            level: Rate.of(key in changed for key in now if confidences[key] == level)
            for level in sorted({confidences[key] for key in now})
        },
    )


def name_change(was: int | None, now: int | None) -> Change:
    """Name the direction in which a verdict went; the two must differ.

    >>> name_change(1, 2).value, name_change(0, 2).value, name_change(1, None).value
    ('to the other video', 'from a tie', 'to no verdict')
    """
    if now is None or was is None:
        return Change.TO_UNREADABLE if now is None else Change.FROM_UNREADABLE
    if now == 0 or was == 0:
        return Change.TO_TIE if now == 0 else Change.FROM_TIE
    return Change.TO_OTHER_VIDEO


def read_overall(record: EpisodeRecord) -> int | None:
    """Return an episode's overall verdict as the judge gave it, None if it has none."""
    return None if record.verdicts is None else record.verdicts[OVERALL]
