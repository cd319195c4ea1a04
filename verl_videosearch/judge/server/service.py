"""JudgeService: requests in, results out - with a queue, a deadline and a drain; no HTTP.

The one idea: a request takes a place in a bounded queue, looks at its videos, and asks the judge;
whatever goes wrong on the way is a `Refusal` with its reason, and nothing waits longer than its
deadline.

Covers: limits, translating failures, batches in the background. Does not cover: HTTP (`app`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from verl_videosearch.failures import EpisodeFailure, FailureKind, ServerUnusable
from verl_videosearch.judge.clip_ranking import ClipRanking
from verl_videosearch.judge.comparison import Comparison
from verl_videosearch.judge.reward import GroupScoreConfig, score_group
from verl_videosearch.judge.server.batches import BatchStore, TakenPair
from verl_videosearch.judge.server.refusal import Reason, Refusal
from verl_videosearch.judge.server.settings import ServerConfig
from verl_videosearch.judge.server.videos import VideoShelf, hide_paths

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_REASONS = {
    FailureKind.VIDEO: Reason.BAD_VIDEO,
    FailureKind.PROMPT_TOO_LONG: Reason.INVALID,
    FailureKind.TIMEOUT: Reason.DEADLINE,
    FailureKind.SERVER: Reason.MODEL_AWAY,
}
_PAUSE_S = 0.5
"""How long a worker of batches rests after a pair that it gave back."""
_IDLE_S = 2.0
"""How long it waits when nothing is to do, and how long that pair does."""
_LEASE_SLACK_S = 60.0


class AsyncJudge(Protocol):
    """What the service needs of a judge; `judge.Judge` is one."""

    @property
    def is_away(self) -> bool:
        """True while the model cannot be asked."""

    async def compare_async(self, prompt: str, video_1: str, video_2: str) -> Comparison: ...

    async def rank_async(
        self, prompt: str, videos: Sequence[str], max_comparisons: int | None = None
    ) -> ClipRanking: ...


class JudgeService:
    """Judges for many clients at once; `start` and `stop` run on one event loop."""

    def __init__(self, judge: AsyncJudge, config: ServerConfig) -> None:
        self.judge, self.config = judge, config
        self.shelf = VideoShelf(config)
        self.batches = BatchStore(config.state / "batches.sqlite")
        self.num_running = self.num_waiting = self.num_uploads = 0
        self.is_draining = False
        self._free = asyncio.Semaphore(config.max_running)
        self._workers: list[asyncio.Task[None]] = []
        self._new_batch = asyncio.Event()

    def start(self) -> None:
        """Take up batches that an earlier server left, and wait for new ones."""
        freed = self.batches.free_all()
        if freed:
            _LOG.warning("%d pairs of batches were left by an earlier server; going on", freed)
        self._workers = [
            asyncio.create_task(self._work()) for _ in range(self.config.max_batch_running)
        ]

    async def stop(self) -> None:
        """Give pairs of batches that run back to their queue and close; requests have ended."""
        self.is_draining = True
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self.batches.close()

    async def compare(
        self, prompt: str, video_1: str, video_2: str, deadline_s: float | None
    ) -> dict[str, Any]:
        """Judge one pair; raises `Refusal`."""
        names = [video_1, video_2]

        async def work() -> dict[str, Any]:
            paths = await self._look_at(names)
            comparison = await self.judge.compare_async(prompt, *paths)
            return describe_comparison(comparison, names)

        return await self._serve(work, names, deadline_s)

    async def rank(
        self,
        prompt: str,
        names: Sequence[str],
        max_comparisons: int | None,
        deadline_s: float | None,
    ) -> dict[str, Any]:
        """Rank clips; raises `Refusal`."""

        async def work() -> dict[str, Any]:
            paths = await self._look_at(names)
            if len(set(paths)) < len(paths):
                raise Refusal(Reason.INVALID, "the same video is named twice")
            ranking = await self.judge.rank_async(prompt, paths, max_comparisons)
            return rename(ranking.to_json(), dict(zip(paths, names, strict=True)))

        return await self._serve(work, names, deadline_s)

    async def reward(
        self,
        prompt: str,
        names: Sequence[str],
        anchor: str | None,
        max_comparisons: int | None,
        deadline_s: float | None,
    ) -> dict[str, Any]:
        """Score the clips of a prompt for reinforcement learning; raises `Refusal`."""
        named = [*names, *([anchor] if anchor is not None else [])]

        async def work() -> dict[str, Any]:
            paths = await self._look_at(named)
            scores = await score_group(
                prompt,
                paths[: len(names)],
                self.judge.compare_async,
                GroupScoreConfig(max_comparisons, watches=False),
                paths[-1] if anchor is not None else None,
            )
            return {
                "scores": list(scores.scores),
                "num_comparisons": len(scores.comparisons),
                "num_flips": scores.num_flips,
                "num_failed": len(scores.failures),
            }

        return await self._serve(work, named, deadline_s)

    def add_batch(self, pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Store a batch; its videos are looked at when their turn comes."""
        if self.is_draining:
            raise Refusal(Reason.DRAINING, "the server is shutting down")
        name = self.batches.add(pairs)
        self._new_batch.set()
        return self.describe_batch(name)

    def describe_batch(self, name: str) -> dict[str, Any]:
        """Return where a batch stands; raises `Refusal` if there is none of that name."""
        found = self.batches.describe(name)
        if found is None:
            raise Refusal(Reason.NOT_FOUND, "no such batch")
        return found

    async def upload(self, chunks: AsyncIterator[bytes]) -> dict[str, Any]:
        """Keep a video; it is looked at before its name is given out."""
        if self.is_draining:
            raise Refusal(Reason.DRAINING, "the server is shutting down")
        if self.num_uploads >= self.config.max_uploads:
            raise Refusal(Reason.BUSY, f"{self.num_uploads} uploads are arriving; try again")
        self.num_uploads += 1
        try:
            name = await self.shelf.receive(chunks)
            path = self.shelf.resolve(name)
            try:
                await asyncio.to_thread(self.shelf.check, path, name)
            except Refusal:
                path.unlink(missing_ok=True)
                raise
        finally:
            self.num_uploads -= 1
        return {"video": name}

    async def _look_at(self, names: Sequence[str]) -> list[str]:
        """Find and check the videos of a request."""
        paths = [await asyncio.to_thread(self.shelf.resolve, name) for name in names]
        for path, name in zip(paths, names, strict=True):
            await asyncio.to_thread(self.shelf.check, path, name)
        return [str(path) for path in paths]

    async def _serve(
        self, work: Callable[[], Awaitable[T]], names: Sequence[str], deadline_s: float | None
    ) -> T:
        """Run one request within its deadline, when it is its turn."""
        limit_s = min(deadline_s or self.config.deadline_s, self.config.deadline_s)
        try:
            return await asyncio.wait_for(self._run(work), limit_s)
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise Refusal(Reason.DEADLINE, f"no result after {limit_s:g} s") from error
        except Refusal:
            raise
        except Exception as error:
            raise self._translate(error, names) from error

    async def _run(self, work: Callable[[], Awaitable[T]]) -> T:
        async with self._place():
            return await work()

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Hold one of the places; raises `Refusal` when too many wait for one."""
        if self.is_draining:
            raise Refusal(Reason.DRAINING, "the server is shutting down")
        if self._free.locked() and self.num_waiting >= self.config.max_queued:
            raise Refusal(Reason.BUSY, f"{self.num_waiting} requests are waiting; try again later")
        self.num_waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.num_waiting -= 1
        self.num_running += 1
        try:
            yield
        finally:
            self.num_running -= 1
            self._free.release()

    def _translate(self, error: Exception, names: Sequence[str]) -> Refusal:
        """Say to a client why there is no result, without this machine's paths.

        What nobody foresaw is for the log."""
        if not isinstance(error, (EpisodeFailure, ValueError)):
            _LOG.error("a pair could not be judged", exc_info=error)
            return Refusal(Reason.INTERNAL, "the server failed; its log says how")
        paths: list[tuple[Path | str, str]] = []
        for name in names:
            with suppress(Refusal):
                paths.append((self.shelf.resolve(name), name))
        words = error.detail if isinstance(error, EpisodeFailure) else str(error)
        return Refusal(_find_reason(error), hide_paths(words, paths))

    async def _work(self) -> None:
        """Judge pairs of batches, one after another, for as long as the server runs."""
        lease_s = self.config.deadline_s + _LEASE_SLACK_S
        while True:
            taken = await asyncio.to_thread(self.batches.take, lease_s)
            if taken is None:
                self._new_batch.clear()
                with suppress(asyncio.TimeoutError, TimeoutError):
                    await asyncio.wait_for(self._new_batch.wait(), _IDLE_S)
                continue
            try:
                is_done = await self._judge_taken(taken)
            except asyncio.CancelledError:
                self.batches.give_back(taken, wait_s=0.0)
                raise
            if not is_done:
                await asyncio.sleep(_PAUSE_S)

    async def _judge_taken(self, taken: TakenPair) -> bool:
        """Judge one pair of a batch; False if the model is away and it was given back."""
        pair, start = taken.pair, time.monotonic()
        names = [pair["video_1"], pair["video_2"]]
        try:
            paths = await self._look_at(names)
            comparison = await asyncio.wait_for(
                self.judge.compare_async(pair["prompt"], *paths), self.config.deadline_s
            )
        except (asyncio.TimeoutError, TimeoutError):
            # of a server that is being started again it says nothing about the pair
            reason = Reason.MODEL_AWAY if self.judge.is_away else Reason.DEADLINE
            failure = Refusal(reason, f"no result after {time.monotonic() - start:.0f} s")
        except Refusal as error:
            failure = error
        except Exception as error:  # whatever fails must not end the work on all other pairs
            failure = self._translate(error, names)
        else:
            self.batches.finish(taken, describe_comparison(comparison, names))
            return True
        if failure.reason is Reason.MODEL_AWAY:
            self.batches.give_back(taken, wait_s=_IDLE_S)
            return False
        self.batches.finish(taken, failure.to_json(), is_failed=True)
        return True


def _find_reason(error: EpisodeFailure | ValueError) -> Reason:
    """Say whose fault it is; a model that is away is the only one that passes."""
    if isinstance(error, ServerUnusable):
        return Reason.MODEL_AWAY
    if not isinstance(error, EpisodeFailure):
        return Reason.INVALID
    if error.kind is FailureKind.SERVER and not error.is_passing:
        return Reason.MODEL_REFUSED
    return _REASONS.get(error.kind, Reason.INTERNAL)


def describe_comparison(comparison: Comparison, names: Sequence[str]) -> dict[str, Any]:
    """Return a comparison for a client: under the client's names, without whole episodes."""
    content = comparison.to_json()
    del content["episodes"]
    paths = [comparison.video_1, comparison.video_2]
    content |= {"video_1": names[0], "video_2": names[1]}
    if content["winner"] is not None:
        content["winner"] = names[paths.index(content["winner"])]
    return content


def rename(content: Any, names: dict[str, str]) -> Any:
    """Put the client's names in place of paths, everywhere in plain data."""
    if isinstance(content, dict):
        return {key: rename(value, names) for key, value in content.items()}
    if isinstance(content, list):
        return [rename(value, names) for value in content]
    if isinstance(content, str):
        return names[content] if content in names else hide_paths(content, list(names.items()))
    return content
