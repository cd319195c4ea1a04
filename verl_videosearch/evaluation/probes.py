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

from verl_videosearch.episode import Episode, Message, Reply
from verl_videosearch.evaluation.citations import Citations, count_citations
from verl_videosearch.evaluation.old_jobs import Stage, describe_episode
from verl_videosearch.evaluation.summary import has_searched
from verl_videosearch.judgement import OVERALL
from verl_videosearch.metrics import Rate
from verl_videosearch.rollout import GenerateFn, run_episode
from verl_videosearch.runs.folder import Line
from verl_videosearch.sample import Order, PreferenceSample, show_in_order
from verl_videosearch.video.altered_frames import AlteredPair, Replacement


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

    def __init__(self, recorded: Sequence[str], live: GenerateFn) -> None:
        self._recorded, self._live = list(recorded), live

    async def __call__(self, messages: list[Message], images: Sequence[Image.Image]) -> Reply:
        return (
            Reply(self._recorded.pop(0)) if self._recorded else await self._live(messages, images)
        )


def list_opening(line: Line) -> list[str]:
    """Return the replies up to and with the first call that brought frames.

    >>> frames = {"a": [], "b": [3], "c": [4], "d": []}
    >>> list_opening({"turns": [{"reply": reply, "frames": numbers} for reply, numbers in frames.items()]})
    ['a', 'b']
    """
    first = next(number for number, turn in enumerate(line["turns"]) if turn["frames"])
    return [turn["reply"] for turn in line["turns"][: first + 1]]


async def play_probe(
    sample: PreferenceSample,
    line: Line,
    replacement: Replacement,
    stage: Stage,
    generate: GenerateFn,
) -> Line:
    """Replay one finished episode with replaced frames; raises `EpisodeFailure`."""
    order = Order(line["order"])
    shown = show_in_order(sample, order)
    pair = AlteredPair.of(await stage.load(shown), replacement, seed=f"{sample.uid} {order.value}")
    episode = Episode(shown, pair.candidates, stage.config)
    result = await run_episode(
        episode, pair, ReplayedReplies(list_opening(line), generate), timeout_s=stage.timeout_s
    )
    return describe_episode(shown, order, episode, result) | {"replacement": replacement.value}


def summarise_probes(
    samples: Iterable[PreferenceSample],
    before: Sequence[Line],
    after: Sequence[Line],
    replacements: Sequence[Replacement],
    failures: Mapping[str, int],
) -> ProbeSummary:
    """Compare the probed episodes (`after`) with the true ones (`before`), one by one."""
    labels = {
        (sample.uid, order.value): show_in_order(sample, order).labels[OVERALL]
        for sample in samples
        for order in Order
    }
    searched = [line for line in before if has_searched(line)]
    return ProbeSummary(
        num_episodes=len(before),
        searched=Rate(len(searched), len(before)),
        figures={
            replacement.value: _compare(
                before, [line for line in after if line["replacement"] == replacement.value], labels
            )
            for replacement in replacements
        },
        citations=count_citations(before),
        failures=failures,
    )


def _compare(
    before: Sequence[Line], after: Sequence[Line], labels: Mapping[tuple[str, str], int | None]
) -> ProbeFigures:
    now = {_name(line): read_overall(line) for line in after}
    was = {_name(line): read_overall(line) for line in before}
    unprobed = [name for line in before if (name := _name(line)) not in now and has_searched(line)]
    known = {name for name in was if labels[name] is not None and name not in unprobed}
    right = {name for name in known if was[name] == labels[name]}
    lost = {name for name in right if name in now and now[name] != labels[name]}
    won = {name for name in known - right if name in now and now[name] == labels[name]}
    changed = {name for name in now if now[name] != was[name]}
    confidences = {_name(line): str(line["confidence"] or "not stated") for line in before}
    return ProbeFigures(
        changed=Rate(len(changed), len(now)).with_interval(),
        directions={
            change.value: sum(name_change(was[n], now[n]) is change for n in changed)
            for change in Change
        },
        lost=Rate(len(lost), len(right & set(now))),
        won=Rate(len(won), len((known - right) & set(now))),
        needed_search=Rate(len(lost), len(right)).with_interval(),
        by_confidence={
            level: Rate.of(name in changed for name in now if confidences[name] == level)
            for level in sorted({confidences[name] for name in now})
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


def read_overall(line: Line) -> int | None:
    """Return an episode's overall verdict as the judge gave it, None if it has none."""
    return None if line["verdicts"] is None else line["verdicts"][OVERALL]


def _name(line: Line) -> tuple[str, str]:
    return line["sample_uid"], line["order"]
