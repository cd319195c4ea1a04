"""Scores for a video generator's reinforcement learning: clips of one prompt, compared by a judge.

    from verl_videosearch.judge.reward import ClipRewards

    rewards = ClipRewards(endpoint="http://localhost:8000/v1", model="judge")
    scores = rewards(prompt, clips)                     # win rate of each clip in its group, 0..1
    scores = rewards(prompt, clips, anchor="base.mp4")  # probability of beating the anchor

The one idea: a judge of pairs gives no number to a single clip, but a group has an order. A clip's
score is the share of the others that it is expected to beat - known answers and, where the budget
ended, what the ranking foresees. Clips may be paths or tensors (`clips`).

| safeguard | how |
|---|---|
| order | both orders are asked; where they disagree the comparison is a tie, and is counted |
| confidence | a doubtful answer weighs less: by calibrated probability, else as stated |
| equal clips | are one clip, by the bytes of their files, with one score; nothing is asked |
| budget | `max_comparisons` per group: those that tell most about the order come first |
| failures | asked once more if passing; a clip without an answer is an `EpisodeFailure`, never 0 |

Over HTTP the same stands at `POST /v1/reward` of `videosearch serve`, and
`remote_rewards.ask_rewards` asks for it; `compute_score` fits verl's
`batch` reward manager."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from verl_videosearch.config import at_least, check
from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.judge.clip_ranking import to_result
from verl_videosearch.judge.clips import (
    ClipMeasures,
    Clips,
    find_distinct,
    measure_clip,
    name_clip,
    write_clips,
)
from verl_videosearch.judge.comparison import Comparison
from verl_videosearch.judge.monitors import MonitorConfig, RewardMonitor, WatchedGroup
from verl_videosearch.judge.ranking import PairResult, Ranking
from verl_videosearch.judge.tournament import TournamentConfig, play_tournament
from verl_videosearch.video.errors import VideoError

STATED_WEIGHTS: Mapping[int | None, float] = {1: 1.0, 2: 2 / 3, 3: 1 / 3, None: 1.0}
"""Weight of an answer by the confidence that the judge states; unsaid counts in full."""
EVEN = 0.5
"""Score of a clip that equals what it is compared with."""
MIN_WEIGHT = 0.05
"""Of an answer that a calibration thinks little better than a guess."""
ComparePaths = Callable[[str, str, str], Awaitable[Comparison]]
"""(prompt, video 1, video 2) -> comparison; `Judge.compare_async` is one."""


@dataclass(frozen=True)
class GroupScoreConfig:
    """How the clips of a prompt are compared."""

    max_comparisons: int | None = None
    """Comparisons per group, each of both orders; null: every pair, n * (n - 1) / 2."""
    weighs_by_confidence: bool = True
    """Doubtful answers weigh less."""
    concurrency: int | None = None
    """Comparisons of a group in flight; null: one after another within a budget, because each tells
    which to ask next (groups run side by side), and 8 where every pair is asked anyway."""
    watches: bool = True
    """Measure the clips for the monitors; costs one small decode a clip."""

    def __post_init__(self) -> None:
        check(self, max_comparisons=at_least(1), concurrency=at_least(1))

    @property
    def num_in_flight(self) -> int:
        """Comparisons of a group that run at a time."""
        return self.concurrency or (8 if self.max_comparisons is None else 1)


@dataclass(frozen=True)
class GroupScores:
    """Scores of the clips of one prompt."""

    scores: tuple[float | None, ...]
    """0..1 in the order of the clips; None for a clip that no answer is about."""
    comparisons: tuple[Comparison, ...]
    failures: tuple[EpisodeFailure, ...]
    """Comparisons that broke; they are in no score."""
    ranking: Ranking | None = None
    """Strengths and intervals of the different clips; null against an anchor or if all are one."""
    places: tuple[int, ...] = ()
    """Which clip of the ranking each clip is: equal ones are one."""

    @property
    def num_flips(self) -> int:
        """Comparisons whose two orders disagree."""
        return sum(each.orders_agree is False for each in self.comparisons)

    @property
    def num_both_orders(self) -> int:
        """Comparisons with a readable verdict in both orders."""
        return sum(each.orders_agree is not None for each in self.comparisons)

    def require_any(self) -> None:
        """Raise the first failure if there is one and no clip has a score."""
        if self.failures and all(score is None for score in self.scores):
            raise self.failures[0]

    def require_all(self) -> list[float]:
        """Return every score; `EpisodeFailure` when a clip has none."""
        self.require_any()
        missing = [index for index, score in enumerate(self.scores) if score is None]
        if missing:
            reason = str(self.failures[0]) if self.failures else "no readable verdict"
            raise EpisodeFailure(
                FailureKind.SIBLING, f"no score for the clips {missing}: {reason}", cause="no_score"
            )
        return [score for score in self.scores if score is not None]


async def score_group(
    prompt: str,
    videos: Sequence[str],
    compare: ComparePaths,
    config: GroupScoreConfig | None = None,
    anchor: str | None = None,
) -> GroupScores:
    """Score the clips of one prompt against one another, or against `anchor`.

    Files of equal bytes are one clip: they cost its comparisons and get its score, 0.5 where
    nothing else is in the group. Raises `EpisodeFailure` when every comparison failed, and
    `ValueError` for a group that is too small or, against an anchor, a budget below one a clip."""
    config = config or GroupScoreConfig()
    check_group(prompt, len(videos), config, has_anchor=anchor is not None)
    given = videos if anchor is None else [anchor, *videos]
    distinct, places = await asyncio.to_thread(find_distinct, given)
    if len(distinct) == 1:
        await asyncio.to_thread(_require_readable, distinct[0])
        scored = GroupScores((EVEN,), (), ())
    elif anchor is None:
        scored = await _score_one_another(prompt, distinct, compare, config)
    else:
        scored = await _score_against(prompt, distinct[1:], compare, config, anchor)
        scored = replace(scored, scores=(EVEN, *scored.scores))  # a clip that is the anchor
    places = places[len(given) - len(videos) :]
    return replace(
        scored, scores=tuple(scored.scores[place] for place in places), places=tuple(places)
    )


def check_group(
    prompt: str, num_clips: int, config: GroupScoreConfig, *, has_anchor: bool = False
) -> None:
    """Refuse a group that no comparison can score, by a `ValueError`."""
    if not has_anchor and num_clips < 2:
        raise ValueError(
            f"a group needs at least two clips, got {num_clips} of {prompt!r}; or give an anchor"
        )
    budget = config.max_comparisons
    if has_anchor and budget is not None and budget < num_clips:
        raise ValueError(
            f"against an anchor every clip costs one comparison: max_comparisons must be at least "
            f"{num_clips}, got {budget}"
        )


def _require_readable(video: str) -> None:
    """Look at a clip that is compared with nothing: a broken one has no score."""
    try:
        measure_clip(Path(video))
    except VideoError as error:
        raise EpisodeFailure(FailureKind.VIDEO, str(error), cause=error.kind.value) from error


async def _score_one_another(
    prompt: str, videos: Sequence[str], compare: ComparePaths, config: GroupScoreConfig
) -> GroupScores:
    """Score clips of different content by a tournament."""
    comparisons: list[Comparison] = []

    async def ask(first: int, second: int) -> PairResult | None:
        comparison = await compare(prompt, videos[first], videos[second])
        comparisons.append(comparison)
        return to_weighted_result(first, second, comparison, config)

    limits = TournamentConfig(config.max_comparisons, config.num_in_flight)
    tournament = await play_tournament(len(videos), ask, limits)
    rated = zip(tournament.ranking.win_rates, tournament.nums_compared, strict=True)
    scores = tuple(rate if count else None for rate, count in rated)
    failures = tuple(failure for *_, failure in tournament.failed)
    return GroupScores(scores, tuple(comparisons), failures, tournament.ranking)


async def _score_against(
    prompt: str,
    videos: Sequence[str],
    compare: ComparePaths,
    config: GroupScoreConfig,
    anchor: str,
) -> GroupScores:
    """Score each clip by one comparison with the anchor, which is none of them: 1 wins, 0 loses,
    drawn towards 0.5 by doubt."""
    gate, comparisons, failures = asyncio.Semaphore(config.concurrency or 8), [], []

    async def ask(video: str) -> float | None:
        async with gate:
            try:
                comparison = await _compare_patiently(compare, prompt, video, anchor)
            except EpisodeFailure as failure:
                failures.append(failure)
                return None
        comparisons.append(comparison)
        if comparison.overall is None or comparison.abstains:
            return None
        vote = {1: 0.5, 0: 0.0, 2: -0.5}[comparison.overall]
        return 0.5 + vote * weigh(comparison, config)

    scores = await asyncio.gather(*(ask(video) for video in videos))
    if failures and not comparisons:
        raise failures[0]
    return GroupScores(tuple(scores), tuple(comparisons), tuple(failures))


async def _compare_patiently(
    compare: ComparePaths, prompt: str, video: str, anchor: str
) -> Comparison:
    """Compare; a failure that passes is asked once more."""
    try:
        return await compare(prompt, video, anchor)
    except EpisodeFailure as failure:
        if not failure.is_passing:
            raise
        return await compare(prompt, video, anchor)


def to_weighted_result(
    first: int, second: int, comparison: Comparison, config: GroupScoreConfig
) -> PairResult | None:
    """Read a comparison as a result that weighs as much as its confidence; None without one."""
    result = to_result(first, second, comparison)
    if result is None:
        return None
    return PairResult(first, second, result.winner, weigh(comparison, config))


def weigh(comparison: Comparison, config: GroupScoreConfig) -> float:
    """Return how much an answer counts, above 0 and at most 1: by its calibrated probability (1/2
    counts nearly nothing), else by the mean of the stated confidences."""
    if not config.weighs_by_confidence:
        return 1.0
    if comparison.confidence is not None:
        return max(MIN_WEIGHT, 2 * comparison.confidence - 1)
    stated = [STATED_WEIGHTS[value] for value in comparison.stated_confidence.values()]
    return sum(stated) / len(stated)


class ClipRewards:
    """A reward function: `rewards(prompt, clips) -> scores`; keeps its judge open."""

    def __init__(
        self,
        endpoint: str | Sequence[str] = (),
        model: str = "",
        *,
        judge: Any = None,
        config: GroupScoreConfig | None = None,
        monitor: MonitorConfig | None = None,
        **settings: Any,
    ) -> None:
        """Score with `judge` (a `Judge`), or with one made of `endpoint`, `model` and further
        settings of `Judge`."""
        from verl_videosearch.judge.judge import Judge

        self.judge = judge if judge is not None else Judge(endpoint, model, **settings)
        self.config = config or GroupScoreConfig()
        self.monitor = RewardMonitor(monitor)
        self.figures: dict[str, float] = {}
        """Figures and alarms of the newest call, for a log."""

    def __call__(self, prompt: str, clips: Clips, anchor: Any = None) -> list[float]:
        """Return a score in 0..1 for every clip; raises `EpisodeFailure` if one has none."""
        return self.score_groups([(prompt, clips, anchor)])[0].require_all()

    def score_groups(self, groups: Sequence[tuple[str, Clips, Any]]) -> list[GroupScores]:
        """Score several prompts side by side, each with its clips and an anchor or None; they are
        one step of the monitors. Arrays are files for the length of the call.

        A group whose comparisons all failed, or that is not through when the judge's `deadline_s`
        has passed, has no scores and says why in its `failures`. Raises `ValueError` for a group
        that cannot be scored, before anything is judged, and `ServerUnusable` when the other groups
        are through."""
        with tempfile.TemporaryDirectory(prefix="videosearch-clips-") as folder:
            written = [_write_group(*group, Path(folder)) for group in groups]
            for group in written:
                has_anchor = group.anchor is not None
                check_group(group.prompt, len(group.videos), self.config, has_anchor=has_anchor)
            scored = self.judge.wait(self._score_all(written))
            if self.config.watches:
                watched = [_watch(*each) for each in zip(written, scored, strict=True)]
                self.figures = self.monitor.update(watched)
        return scored

    def close(self) -> None:
        """Close the judge."""
        self.judge.close()

    async def _score_all(self, groups: Sequence[_Group]) -> list[GroupScores]:
        """Score every group, then raise what is no failure of a group, if anything."""
        ways = (self._score(group) for group in groups)
        scored: list[GroupScores] = []
        for outcome in await asyncio.gather(*ways, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
            scored.append(outcome)
        return scored

    async def _score(self, group: _Group) -> GroupScores:
        compare = self.judge.compare_async
        work = score_group(group.prompt, group.videos, compare, self.config, group.anchor)
        try:
            return await self.judge.within_deadline(work)
        except EpisodeFailure as failure:
            return GroupScores((None,) * len(group.videos), (), (failure,))


class _Group(NamedTuple):
    """The clips of one prompt, as files."""

    prompt: str
    videos: list[str]
    anchor: str | None


def _write_group(prompt: str, clips: Clips, anchor: Any, folder: Path) -> _Group:
    videos = [str(path) for path in write_clips(clips, folder)]
    against = None if anchor is None else str(write_clips([anchor], folder)[0])
    return _Group(prompt, videos, against)


def _watch(group: _Group, scored: GroupScores) -> WatchedGroup:
    """Measure the clips that have a score."""
    pairs = zip(group.videos, scored.scores, strict=True)
    measures = [None if score is None else _measure(video) for video, score in pairs]
    return WatchedGroup(scored.scores, measures, scored.num_flips, scored.num_both_orders)


def _measure(video: str) -> ClipMeasures | None:
    """Measure a clip; None if it cannot be read any more, which the monitor counts."""
    try:
        return measure_clip(Path(video))
    except VideoError:
        return None


_REWARDS: dict[str, ClipRewards] = {}
"""One per setting of `compute_score`, for the life of the trainer's process."""


def compute_score(
    data_sources: Sequence[str],
    solution_strs: Sequence[str],
    ground_truths: Sequence[Any],
    extra_infos: Sequence[Mapping[str, Any]],
    **settings: Any,
) -> list[dict[str, float]]:
    """Score a batch for verl 0.9.1 (`reward_model.reward_manager: batch`).

    `extra_infos` hold `prompt` and `clip` (a path, or an array [T, C, H, W]) and may hold `anchor`
    and `group` (default: the prompt); rows of one group, prompt and anchor are compared. `settings`
    are `endpoint`, `model`, `max_comparisons` and any setting of `Judge`. Each row gets `score` and
    `flip_share`, the share of its group's comparisons whose orders disagree. Raises
    `EpisodeFailure` for a row without a score, when all groups are through: asked again, they are
    remembered."""
    rewards = _find_rewards(settings)
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, info in enumerate(extra_infos):
        if missing := [name for name in ("prompt", "clip") if name not in info]:
            raise ValueError(f"row {index} of the batch: extra_info lacks {missing}")
        groups.setdefault(_name_group(info), []).append(index)
    rows = [
        (
            extra_infos[indices[0]]["prompt"],
            [extra_infos[index]["clip"] for index in indices],
            extra_infos[indices[0]].get("anchor"),
        )
        for indices in groups.values()
    ]
    found: dict[int, dict[str, float]] = {}
    for indices, group in zip(groups.values(), rewards.score_groups(rows), strict=True):
        flipped = group.num_flips / group.num_both_orders if group.num_both_orders else 0.0
        for index, score in zip(indices, group.require_all(), strict=True):
            found[index] = {"score": score, "flip_share": flipped}
    return [found[index] for index in range(len(extra_infos))]


def _name_group(info: Mapping[str, Any]) -> tuple[str, ...]:
    """Name what the rows that are compared share: group, prompt, and the anchor by its content."""
    prompt, anchor = info["prompt"], info.get("anchor")
    named = () if anchor is None else (name_clip(anchor),)
    return (str(info.get("group", prompt)), str(prompt), *named)


def _find_rewards(settings: Mapping[str, Any]) -> ClipRewards:
    """Return the reward function of these settings, made once."""
    name = repr(sorted(settings.items()))
    if name not in _REWARDS:
        names = GroupScoreConfig.__dataclass_fields__
        ours = {key: value for key, value in settings.items() if key in names}
        theirs = {key: value for key, value in settings.items() if key not in names}
        _REWARDS[name] = ClipRewards(config=GroupScoreConfig(**ours), **theirs)
    return _REWARDS[name]
