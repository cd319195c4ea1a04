"""Probes of faithfulness: was the search needed, are returned frames trusted, is the prompt read?

The one idea: replay. A finished episode is repeated word for word up to one act, that act is
altered, and the model goes on by itself (`altered_frames` lists the alterations). Three questions
stay apart:

    needed the search   right, and wrong when the call is *refused* or brings nothing new
    trust               right, and wrong when the call brings false frames: other ones, grey, the
                        other video's - this says that returned frames are believed, not needed
    reading             changed when the prompt or the first view is another one

`same` hands over the true frames: what changes there is the noise of the server. Where the data
knows what can be answered at first sight (`no_search_accuracy` in a sample's meta), no more
verdicts
count as needing the search than could: the rest were lost to the surprise of a refusal.

Covers: how often and in which direction verdicts change, by stated confidence and by pair type.
A model that never searches has no call to alter: 0 % by definition, and the summary says so. Does
not cover: a search whose verdict would have been right anyway - that one was not needed."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from PIL import Image

from verl_videosearch.episode import Episode, Message, Reply
from verl_videosearch.evaluation.citations import Citations, count_citations
from verl_videosearch.evaluation.subsets import TYPE_FIELD
from verl_videosearch.frames import ImageReference
from verl_videosearch.judgement import OVERALL, Turn
from verl_videosearch.metrics import Rate
from verl_videosearch.rollout import GenerateFn
from verl_videosearch.runs.play import PlaySetup, play_episode
from verl_videosearch.runs.record import REPLACEMENT, EpisodeRecord, PlayedTurn
from verl_videosearch.sample import PreferenceSample, normalise_prompt
from verl_videosearch.tool import ToolOutcome, refuse_over_limit
from verl_videosearch.video.altered_frames import NEED, READING, AlteredPair, Replacement
from verl_videosearch.video.pair import PairFrames

PROBED = "probed"
"""Entry of a probe's `extra`: the key of the true episode."""
NO_SEARCH_FIELD = "no_search_accuracy"
"""Entry of a sample's meta: how often the best answer at first sight is right about such pairs."""


class Change(str, Enum):
    """What became of an overall verdict."""

    TO_TIE = "to a tie"
    FROM_TIE = "from a tie"
    TO_OTHER_VIDEO = "to the other video"
    TO_UNREADABLE = "to no verdict"
    FROM_UNREADABLE = "from no verdict"


@dataclass(frozen=True)
class ProbeFigures:
    """What one alteration did."""

    changed: Rate
    """Overall verdicts that differ, of the probed episodes."""
    directions: Mapping[str, int]
    lost: Rate
    """Right before and not right now, of the right ones that were probed: how much damage is
    done."""
    won: Rate
    """Not right before and right now, of the others that were probed."""
    needed_search: Rate | None
    """Right verdicts that needed the search, of all right ones, with or without a search; None for
    alterations that cannot say (trust, reading)."""
    can_need: int | None
    """Most right verdicts that can need the search by what the data knows; None: not known."""
    by_confidence: Mapping[str, Rate]
    """Changed verdicts by the confidence that the judge had stated."""
    by_type: Mapping[str, Rate]
    """`lost` by pair type, of all right verdicts of the type."""


@dataclass(frozen=True)
class ProbeSummary:
    """What the probes of a run found."""

    num_episodes: int
    searched: Rate
    """Episodes with a call that brought something new."""
    figures: Mapping[str, ProbeFigures]
    citations: Citations
    failures: Mapping[str, int] = field(default_factory=dict)

    @property
    def note(self) -> str | None:
        """Say in words what the figures cannot: that there was no call to alter."""
        if self.searched.correct:
            return None
        return (
            f"This model never searches: none of its {self.num_episodes} episodes has a frame that "
            "a call brought, so no verdict can depend on one. 0 % of its right verdicts needed the "
            "search."
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


class RefusedEpisode(Episode):
    """An episode whose calls bring no frames from some turn on: an answer is due."""

    first_altered = 0
    """The first turn (from 0) whose call is answered otherwise."""

    def _run_call(self, turn: Turn, reply: Reply) -> ToolOutcome | None:
        outcome = super()._run_call(turn, reply)
        if self.num_turns < self.first_altered or outcome is None or not outcome.frame_numbers:
            return outcome
        return self.answer_instead(outcome)

    def answer_instead(self, outcome: ToolOutcome) -> ToolOutcome:
        """Return what a call gets that would have brought frames."""
        return refuse_over_limit(self.config.max_tool_calls, self._context)


class InViewEpisode(RefusedEpisode):
    """An episode whose calls bring frames of the first view, under their own numbers: nothing
    new."""

    def answer_instead(self, outcome: ToolOutcome) -> ToolOutcome:
        in_view = self.candidates.initial_view(self.config.initial_frames_per_video)
        wanted = [self.candidates.locate(number).video for number in outcome.frame_numbers]
        shown: list[int] = []
        for video in wanted:
            own = [n for n in in_view if self.candidates.locate(n).video == video]
            shown += [number for number in own if number not in shown][:1]
        images = (ImageReference(number, self.config.tool_max_pixels) for number in shown)
        return replace(outcome, images=tuple(images))


def list_opening(record: EpisodeRecord) -> tuple[PlayedTurn, ...]:
    """Return the turns up to and with the first call that brought frames that were not in view."""
    first = next(n for n, turn in enumerate(record.turns) if turn.brings_new)
    return record.turns[: first + 1]


def name_probe(record: EpisodeRecord, replacement: Replacement) -> str:
    """Name the probe of an episode inside its run."""
    return f"{record.key} {replacement.value}"


def is_probed(record: EpisodeRecord, replacement: Replacement) -> bool:
    """True when the episode has the act that is altered: a call that brought something, or, for
    the opening, always."""
    return replacement in READING or record.has_searched


def draw_other_prompt(record: EpisodeRecord, prompts: Sequence[str]) -> str | None:
    """Return a prompt of other words than the episode's, the same for both orders of the pair; None
    if there is none."""
    own = normalise_prompt(record.own.prompt)
    others = sorted({prompt for prompt in prompts if normalise_prompt(prompt) != own})
    return random.Random(f"prompt {record.uid}").choice(others) if others else None


async def play_probe(
    record: EpisodeRecord,
    replacement: Replacement,
    setup: PlaySetup,
    generate: GenerateFn,
    other_prompt: str | None = None,
) -> EpisodeRecord:
    """Replay one finished episode up to the altered act, and let the model go on; raises
    `EpisodeFailure`."""

    def alter(pair: PairFrames) -> PairFrames:
        return AlteredPair.of(pair, replacement, seed=f"{record.uid} {record.order.value}")

    sample, opening = record.own, tuple[PlayedTurn, ...]()
    if replacement not in READING:
        opening = list_opening(record)
    if replacement is Replacement.OTHER_PROMPT and other_prompt is not None:
        sample = replace(sample, prompt=other_prompt)
    return await play_episode(
        sample,
        record.order,
        setup,
        ReplayedReplies(opening, generate),
        key=name_probe(record, replacement),
        alter=alter,
        extra={PROBED: record.key, REPLACEMENT: replacement.value},
        episode_type=_choose_episode(replacement, max(len(opening) - 1, 0)),
    )


def _choose_episode(replacement: Replacement, first_altered: int) -> type[Episode]:
    """Return the kind of episode that answers the calls of a probe."""
    if replacement not in NEED:
        return Episode
    kind = RefusedEpisode if replacement is Replacement.REFUSED else InViewEpisode
    return type(kind.__name__, (kind,), {"first_altered": first_altered})


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
            replacement.value: _compare(before, _choose(after, replacement), replacement)
            for replacement in replacements
        },
        citations=count_citations(before),
        failures=failures,
    )


def _choose(after: Iterable[EpisodeRecord], replacement: Replacement) -> list[EpisodeRecord]:
    return [record for record in after if record.extra[REPLACEMENT] == replacement.value]


def _compare(
    before: Sequence[EpisodeRecord], after: Sequence[EpisodeRecord], replacement: Replacement
) -> ProbeFigures:
    records = {record.key: record for record in before}
    now = {record.extra[PROBED]: read_overall(record) for record in after}
    was = {key: read_overall(record) for key, record in records.items()}
    gold = {key: record.shown.labels[OVERALL] for key, record in records.items()}
    unprobed = {key for key, each in records.items() if is_probed(each, replacement)} - set(now)
    known = {key for key in was if gold[key] is not None and key not in unprobed}
    right = {key for key in known if was[key] == gold[key]}
    lost = {key for key in right if key in now and now[key] != gold[key]}
    won = {key for key in known - right if key in now and now[key] == gold[key]}
    changed = {key for key in now if now[key] != was[key]}
    confidences = {key: str(each.confidence or "not stated") for key, each in records.items()}
    can_need = count_can_need([records[key].own for key in known], len(right))
    return ProbeFigures(
        changed=_rate(now, changed, records),
        directions={
            change.value: sum(name_change(was[key], now[key]) is change for key in changed)
            for change in Change
        },
        lost=Rate(len(lost), len(right & set(now))),
        won=Rate(len(won), len((known - right) & set(now))),
        needed_search=_rate_need(right, lost, can_need, records) if replacement in NEED else None,
        can_need=can_need,
        by_confidence={
            level: Rate.of(key in changed for key in now if confidences[key] == level)
            for level in sorted({confidences[key] for key in now})
        },
        by_type=_group_by_type(right, lost, records),
    )


def count_can_need(samples: Sequence[PreferenceSample], num_right: int) -> int | None:
    """Return how many of `num_right` right verdicts can need a search at most: all but those that
    the best answer at first sight gets right; None where the data does not know that."""
    found = [sample.meta.get(NO_SEARCH_FIELD) for sample in samples]
    shares = [share for share in found if share is not None]
    if not shares or len(shares) < len(found):
        return None
    return max(0, math.floor(num_right - sum(shares) + 1e-9))


def _rate_need(
    right: set[str],
    lost: set[str],
    can_need: int | None,
    records: Mapping[str, EpisodeRecord],
) -> Rate:
    """Count the right verdicts that needed the search, never more than can."""
    if can_need is None or len(lost) <= can_need:
        return _rate(right, lost, records)
    return Rate(can_need, len(right)).with_interval()


def _rate(all_keys: Iterable[str], chosen: set[str], records: Mapping[str, EpisodeRecord]) -> Rate:
    """Count the chosen ones; the interval draws prompts."""
    keys = list(all_keys)
    prompts = [normalise_prompt(records[key].own.prompt) for key in keys]
    return Rate.over([key in chosen for key in keys], prompts)


def _group_by_type(
    right: set[str], lost: set[str], records: Mapping[str, EpisodeRecord]
) -> dict[str, Rate]:
    types = {key: str(records[key].own.meta.get(TYPE_FIELD, "")) for key in right}
    return {
        name: Rate.of(key in lost for key in sorted(right) if types[key] == name)
        for name in sorted({name for name in types.values() if name})
    }


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
