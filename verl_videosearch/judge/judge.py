"""Judge: which of these two videos is better, why, and what was looked at.

    from verl_videosearch import Judge

    judge = Judge.serve("checkpoints/judge")           # or Judge.local(PATH), or an endpoint:
    judge = Judge(endpoint="http://localhost:8000/v1", model="judge")
    verdict = judge.compare("a cat jumps onto a chair", "a.mp4", "b.mp4")
    print(verdict, verdict.verdicts, verdict.frames_asked)
    verdict.to_page("verdict.html")

The one idea: a call is the same `Episode` as in training and evaluation, once an order, played by
the project's only engine; so a verdict here is what the figures in a report were measured on. No
label is needed anywhere. A model of ours brings its own settings (`videosearch.json`) and, where a
calibration lies beside it, probabilities.

Plain methods wait, also in a notebook; those named `..._async` are for async code. Covers: two
videos, many pairs, ranking the clips of one prompt. Does not cover: HTTP (`server`), rewards
(`reward`)."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.judge.background import BackgroundLoop
from verl_videosearch.judge.cache import EpisodeCache
from verl_videosearch.judge.clip_ranking import ClipRanking, rank_clips
from verl_videosearch.judge.comparison import Comparison
from verl_videosearch.judge.opening import Opening, ReadyModel
from verl_videosearch.judge.pair_judge import OnEpisode, Outcome, Pair, PairJudge
from verl_videosearch.judge.settings import JudgeConfig, split_settings
from verl_videosearch.judge.tournament import TournamentConfig
from verl_videosearch.models.source import ModelSource
from verl_videosearch.video.store import FrameStore

T = TypeVar("T")


def _close(loop: BackgroundLoop, opening: Opening, cache: EpisodeCache) -> None:
    """End the model's server, if it is ours, and the background thread."""
    if opening.ready is not None:
        loop.wait(opening.close())
    loop.close()
    cache.close()


class Judge:
    """Judges pairs of videos; opens its model with the first call and keeps it until `close`."""

    def __init__(
        self,
        endpoint: str | Sequence[str] = (),
        model: str = "",
        *,
        source: ModelSource | None = None,
        config: JudgeConfig | None = None,
        **settings: Any,
    ) -> None:
        """Judge with a server that runs already, under the name `model`; `source` gives any other
        model. `settings` are fields of `JudgeConfig` and of `ModelSource`, by name."""
        self.config, drawn = split_settings(config or JudgeConfig(), settings)
        if source is None:
            endpoints = (endpoint,) if isinstance(endpoint, str) else tuple(endpoint)
            source = ModelSource(endpoints=endpoints, model=model, **drawn)
        elif endpoint or model or drawn:
            raise ValueError(f"source says everything about the model; leave out {sorted(drawn)}")
        self.source = source
        self.store = FrameStore(self.config.store)
        self.cache = EpisodeCache(self.config.cache)
        self._loop, self._opening = BackgroundLoop(), Opening(self.source, self.config)
        self._end = weakref.finalize(self, _close, self._loop, self._opening, self.cache)

    @classmethod
    def serve(cls, path: str | Path, **settings: Any) -> Judge:
        """Judge with a checkpoint: vLLM is started for it (on GPUs or the CPU) and ends with us."""
        return cls._from_folder("serve", path, settings)

    @classmethod
    def local(cls, path: str | Path, **settings: Any) -> Judge:
        """Judge with a small checkpoint inside this process; no server."""
        return cls._from_folder("local", path, settings)

    @classmethod
    def _from_folder(cls, how: str, path: str | Path, settings: dict[str, Any]) -> Judge:
        config, drawn = split_settings(settings.pop("config", None) or JudgeConfig(), settings)
        given: dict[str, Any] = {how: Path(path), **drawn}
        return cls(source=ModelSource(**given), config=config)

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Judge:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """End the model's server, if it is ours, and the background thread."""
        self._end()

    def open(self) -> str:
        """Open the model now instead of with the first call; returns its name. Raises
        `ServerUnusable` if it cannot work."""
        return self._loop.wait(self._opening.open()).model.source.name

    @property
    def is_away(self) -> bool:
        """True while the model is being opened, or its server is being started again."""
        return self._opening.is_away

    def compare(self, prompt: str, video_1: str | Path, video_2: str | Path) -> Comparison:
        """Judge one pair; raises `EpisodeFailure` when there is no result (a broken video, a server
        that stays away) and `ServerUnusable` when no pair could be judged."""
        return self._loop.wait(self._compare((prompt, video_1, video_2)))

    async def compare_async(
        self, prompt: str, video_1: str | Path, video_2: str | Path
    ) -> Comparison:
        """Judge one pair from async code, see `compare`."""
        return await self._loop.join(self._compare((prompt, video_1, video_2)))

    def compare_many(
        self, pairs: Sequence[Pair], on_episode: OnEpisode | None = None
    ) -> list[Outcome]:
        """Judge many pairs side by side, in their order; a pair that cannot be judged gives its
        `EpisodeFailure` in place of a comparison. `on_episode` hears of each finished episode."""
        return self._loop.wait(self._compare_many(pairs, on_episode))

    async def compare_many_async(
        self, pairs: Sequence[Pair], on_episode: OnEpisode | None = None
    ) -> list[Outcome]:
        """Judge many pairs from async code, see `compare_many`."""
        return await self._loop.join(self._compare_many(pairs, on_episode))

    def rank(
        self,
        prompt: str,
        videos: Sequence[str | Path],
        max_comparisons: int | None = None,
        on_comparison: Callable[[], None] = lambda: None,
    ) -> ClipRanking:
        """Rank the clips of one prompt; `max_comparisons` bounds the new pairs (null: all). Raises
        `EpisodeFailure` when no pair has a result, or when `deadline_s` has passed: what was judged
        by then is remembered, so the same call goes on."""
        work = self._rank(prompt, videos, max_comparisons, on_comparison)
        return self._loop.wait(self.within_deadline(work))

    async def rank_async(
        self,
        prompt: str,
        videos: Sequence[str | Path],
        max_comparisons: int | None = None,
        on_comparison: Callable[[], None] = lambda: None,
    ) -> ClipRanking:
        """Rank clips from async code, see `rank`."""
        work = self._rank(prompt, videos, max_comparisons, on_comparison)
        return await self._loop.join(self.within_deadline(work))

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that uses this judge to its end, from plain code."""
        return self._loop.wait(work)

    def find_known(
        self, prompt: str, video_1: str | Path, video_2: str | Path
    ) -> Comparison | None:
        """Return a comparison that needs no model, because all its episodes are remembered."""
        ready = self._opening.ready
        return None if ready is None else self._use(ready).find_known((prompt, video_1, video_2))

    async def within_deadline(self, work: Awaitable[T]) -> T:
        """Wait for the work of one call; after `deadline_s` it is cancelled, and that is an
        `EpisodeFailure` of kind `timeout`. Episodes that were played by then are remembered."""
        try:
            return await asyncio.wait_for(work, self.config.deadline_s)
        except (asyncio.TimeoutError, TimeoutError) as error:
            detail = f"no result after {self.config.deadline_s:g} s, retries included"
            raise EpisodeFailure(FailureKind.TIMEOUT, detail, cause="deadline") from error

    async def _rank(
        self,
        prompt: str,
        videos: Sequence[str | Path],
        max_comparisons: int | None,
        on_comparison: Callable[[], None],
    ) -> ClipRanking:
        await self._opening.open()
        concurrency = max(1, self.config.concurrency // len(self.config.orders))
        return await rank_clips(
            prompt,
            [str(video) for video in videos],
            lambda video_1, video_2: self._judge_pair((prompt, video_1, video_2)),
            lambda video_1, video_2: self.find_known(prompt, video_1, video_2),
            TournamentConfig(max_comparisons, concurrency),
            on_comparison,
        )

    async def _compare(self, pair: Pair) -> Comparison:
        return await self.within_deadline(self._judge_pair(pair))

    async def _compare_many(
        self, pairs: Sequence[Pair], on_episode: OnEpisode | None
    ) -> list[Outcome]:
        return await self.within_deadline(self._judge_pairs(pairs, on_episode))

    async def _judge_pair(self, pair: Pair) -> Comparison:
        [outcome] = await self._judge_pairs([pair], None)
        if isinstance(outcome, EpisodeFailure):
            raise outcome
        return outcome

    async def _judge_pairs(
        self, pairs: Sequence[Pair], on_episode: OnEpisode | None
    ) -> list[Outcome]:
        ready = await self._opening.open()
        return await self._use(ready).judge(pairs, on_episode)

    def _use(self, ready: ReadyModel) -> PairJudge:
        return PairJudge(ready, self.config, self.store, self.cache)
