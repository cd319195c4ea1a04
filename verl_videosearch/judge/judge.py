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
import hashlib
import json
import os
import tempfile
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from verl_videosearch.checkpoint import check_checkpoint, read_checkpoint_settings
from verl_videosearch.config import above, at_least, check
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.evaluation.calibration import Calibration, read_calibration
from verl_videosearch.failures import EpisodeFailure, FailureKind, ServerUnusable
from verl_videosearch.judge.background import BackgroundLoop
from verl_videosearch.judge.cache import EpisodeCache
from verl_videosearch.judge.calibrated import grade_comparison
from verl_videosearch.judge.clip_ranking import ClipRanking, rank_clips
from verl_videosearch.judge.comparison import Comparison
from verl_videosearch.judge.memory_journal import MemoryJournal
from verl_videosearch.judge.tournament import TournamentConfig
from verl_videosearch.judgement import DEFAULT_DIMENSIONS, OVERALL, Dimension
from verl_videosearch.models.source import ModelSource, OpenModel
from verl_videosearch.runs.identity import CALIBRATION_NAME, UNKNOWN_MODEL, hash_model, hash_pair
from verl_videosearch.runs.jobs import Job, RunLimits, RunSummary, run_jobs
from verl_videosearch.runs.play import PlaySetup, play_episode
from verl_videosearch.runs.record import EpisodeRecord, Identity, RecordedFailure, RecordKind
from verl_videosearch.sample import Order, PreferenceSample, show_in_order
from verl_videosearch.video.store import FrameStore

BOTH_ORDERS = tuple(Order)
Pair = tuple[str, str | Path, str | Path]
"""Prompt, video 1, video 2."""
T = TypeVar("T")
Outcome = Comparison | EpisodeFailure
"""What becomes of one of many pairs."""


@dataclass(frozen=True)
class JudgeConfig:
    """How pairs are judged; what writes the replies is `ModelSource`'s."""

    episode: EpisodeConfig | None = None
    """Settings of an episode; null: the model's own (`videosearch.json`), else the defaults."""
    dimensions: tuple[Dimension, ...] | None = None
    """What is judged besides overall; null: what the model was trained on, else the defaults."""
    accepts_other_settings: bool = False
    """Ask a checkpoint of ours otherwise than it was trained; false refuses, with what differs."""
    orders: tuple[Order, ...] = BOTH_ORDERS
    """Both orders cost twice as much and show whether the judge only likes the first video."""
    calibration: Path | None = None
    """File of `videosearch calibrate`; null: the one that lies beside the model's files, if any."""
    store: Path | None = None
    """Folder of decoded frames; null: the default one."""
    cache: Path | None = None
    """SQLite file that remembers episodes; null: remembered until the judge is closed."""
    concurrency: int = 8
    """Episodes in flight."""
    timeout_s: float | None = 600.0
    """Most seconds of one episode; null waits for ever."""
    deadline_s: float | None = None
    """Most seconds of one call, all retries included; null waits for its episodes."""
    max_tries: int = 5
    """Tries of one episode when the server is busy or away."""

    def __post_init__(self) -> None:
        problems = [] if self.orders else ["orders must name at least one order"]
        if len(keys := [d.key for d in self.dimensions or ()]) > len(set(keys)):
            problems.append(f"dimensions must have different keys, got {keys}")
        check(
            self,
            problems,
            concurrency=at_least(1),
            timeout_s=above(0),
            deadline_s=above(0),
            max_tries=at_least(1),
        )


@dataclass
class _Ready:
    """A model that writes, and what goes with it."""

    model: OpenModel
    config: EpisodeConfig
    dimensions: tuple[Dimension, ...]
    calibration: Calibration | None
    identity: Identity
    decided_by: dict[str, Any] = field(default_factory=dict)
    """What decides an episode besides its pair, for the cache."""


@dataclass
class _Opened:
    """What has to be closed, apart from the judge so that it can be when the judge is gone."""

    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    ready: _Ready | None = None
    opening: asyncio.Future[_Ready] | None = None
    """What opens the model now."""

    def end_opening(self, opening: asyncio.Future[_Ready]) -> None:
        """Forget an opening that is through; its error is known even if nobody waits any more."""
        self.opening = None
        if not opening.cancelled():
            opening.exception()


def _close(loop: BackgroundLoop, opened: _Opened, cache: EpisodeCache) -> None:
    """End the model's server, if it is ours, and the background thread."""
    if opened.ready is not None:
        opened.ready = None
        loop.wait(opened.stack.aclose())
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
        self.config, drawn = _split_settings(config or JudgeConfig(), settings)
        if source is None:
            endpoints = (endpoint,) if isinstance(endpoint, str) else tuple(endpoint)
            source = ModelSource(endpoints=endpoints, model=model, **drawn)
        elif endpoint or model or drawn:
            raise ValueError(f"source says everything about the model; leave out {sorted(drawn)}")
        self.source = source
        self.store = FrameStore(self.config.store)
        self.cache = EpisodeCache(self.config.cache)
        self._loop, self._opened = BackgroundLoop(), _Opened()
        self._end = weakref.finalize(self, _close, self._loop, self._opened, self.cache)

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
        config, drawn = _split_settings(settings.pop("config", None) or JudgeConfig(), settings)
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
        return self._loop.wait(self._open()).model.source.name

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
        self, pairs: Sequence[Pair], on_episode: Callable[[EpisodeRecord], None] | None = None
    ) -> list[Outcome]:
        """Judge many pairs side by side, in their order; a pair that cannot be judged gives its
        `EpisodeFailure` in place of a comparison. `on_episode` hears of each finished episode."""
        return self._loop.wait(self._compare_many(pairs, on_episode))

    async def compare_many_async(
        self, pairs: Sequence[Pair], on_episode: Callable[[EpisodeRecord], None] | None = None
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
        """Rank the clips of one prompt; `max_comparisons` bounds the new pairs (null: all)."""
        return self._loop.wait(self._rank(prompt, videos, max_comparisons, on_comparison))

    async def rank_async(
        self,
        prompt: str,
        videos: Sequence[str | Path],
        max_comparisons: int | None = None,
        on_comparison: Callable[[], None] = lambda: None,
    ) -> ClipRanking:
        """Rank clips from async code, see `rank`."""
        return await self._loop.join(self._rank(prompt, videos, max_comparisons, on_comparison))

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine that uses this judge to its end, from plain code."""
        return self._loop.wait(work)

    def find_known(
        self, prompt: str, video_1: str | Path, video_2: str | Path
    ) -> Comparison | None:
        """Return a comparison that needs no model, because all its episodes are remembered."""
        ready = self._opened.ready
        if ready is None:
            return None
        sample = self._make_sample((prompt, video_1, video_2), ready.dimensions)
        recalled = [self._recall(sample, order, ready) for order in self.config.orders]
        records = [record for record in recalled if record is not None]
        return self._grade(sample, records, ready, {}) if len(records) == len(recalled) else None

    async def _rank(
        self,
        prompt: str,
        videos: Sequence[str | Path],
        max_comparisons: int | None,
        on_comparison: Callable[[], None],
    ) -> ClipRanking:
        await self._open()

        async def compare(video_1: str, video_2: str) -> Comparison:
            return await self._compare((prompt, video_1, video_2))

        concurrency = max(1, self.config.concurrency // len(self.config.orders))
        return await rank_clips(
            prompt,
            [str(video) for video in videos],
            compare,
            lambda video_1, video_2: self.find_known(prompt, video_1, video_2),
            TournamentConfig(max_comparisons, concurrency),
            on_comparison,
        )

    async def _compare(self, pair: Pair) -> Comparison:
        [outcome] = await self._compare_many([pair], None)
        if isinstance(outcome, EpisodeFailure):
            raise outcome
        return outcome

    async def _compare_many(
        self, pairs: Sequence[Pair], on_episode: Callable[[EpisodeRecord], None] | None
    ) -> list[Outcome]:
        try:
            work = self._judge_pairs(pairs, on_episode)
            return await asyncio.wait_for(work, self.config.deadline_s)
        except (asyncio.TimeoutError, TimeoutError) as error:
            detail = f"no result after {self.config.deadline_s:g} s, retries included"
            raise EpisodeFailure(FailureKind.TIMEOUT, detail, cause="deadline") from error

    async def _judge_pairs(
        self, pairs: Sequence[Pair], on_episode: Callable[[EpisodeRecord], None] | None
    ) -> list[Outcome]:
        ready = await self._open()
        samples = [self._make_sample(pair, ready.dimensions) for pair in pairs]
        by_uid = {sample.uid: sample for sample in samples}
        outcomes = await self._play_all(by_uid, ready, on_episode)
        return [outcomes[sample.uid] for sample in samples]

    async def _play_all(
        self,
        samples: Mapping[str, PreferenceSample],
        ready: _Ready,
        on_episode: Callable[[EpisodeRecord], None] | None,
    ) -> dict[str, Outcome]:
        """Play every order of every pair that is not remembered."""
        jobs = [Job(sample, order) for sample in samples.values() for order in self.config.orders]
        cached: dict[str, bool] = {}
        setup = PlaySetup(
            RecordKind.JUDGE,
            ready.config,
            self.store,
            timeout_s=self.config.timeout_s,
            identity=ready.identity,
        )

        async def play(job: Job) -> EpisodeRecord:
            known = await asyncio.to_thread(self._recall, job.sample, job.order, ready)
            cached[job.key] = known is not None
            if known is not None:
                return known
            generate = ready.model.for_episode(job.key)
            record = await play_episode(job.sample, job.order, setup, generate)
            self.cache.put(self._name(job.sample, job.order, ready), record)
            return record

        limits = RunLimits(
            concurrency=self.config.concurrency * ready.model.num_replicas,
            max_tries=self.config.max_tries,
        )
        summary = await run_jobs(
            jobs,
            play,
            MemoryJournal(),
            limits,
            kind=RecordKind.JUDGE,
            identity=ready.identity,
            server=", ".join(self.source.endpoints),
            on_record=on_episode or (lambda record: None),
        )
        return {
            uid: self._conclude(sample, summary, ready, cached) for uid, sample in samples.items()
        }

    def _conclude(
        self,
        sample: PreferenceSample,
        summary: RunSummary,
        ready: _Ready,
        cached: Mapping[str, bool],
    ) -> Outcome:
        """Make one pair's comparison of its episodes, or say why there is none."""
        jobs = [Job(sample, order) for order in self.config.orders]
        records = [summary.records[job.key] for job in jobs if job.key in summary.records]
        failures = [record.failure for record in records if record.failure is not None]
        if failures:
            return _to_failure(sample, failures[0])
        if len(records) < len(jobs):
            reason = summary.stopped or "the run ended before this pair was judged"
            if len(summary.jobs) == len(jobs):
                raise ServerUnusable(reason)
            return EpisodeFailure(FailureKind.SERVER, reason, sample.uid)
        return self._grade(sample, records, ready, cached)

    def _grade(
        self,
        sample: PreferenceSample,
        records: Sequence[EpisodeRecord],
        ready: _Ready,
        cached: Mapping[str, bool],
    ) -> Comparison:
        num_cached = sum(cached.get(record.key, True) for record in records)
        comparison = Comparison(
            sample.prompt,
            sample.video_1,
            sample.video_2,
            tuple(records),
            num_cached=num_cached,
            store=self.store,
        )
        if ready.calibration is None:
            return comparison
        ready.calibration.check_use([hash_pair(sample)], ready.identity.model_hash or UNKNOWN_MODEL)
        confidence, abstains = grade_comparison(ready.calibration, comparison)
        return replace(comparison, confidence=confidence, abstains=abstains)

    def _make_sample(self, pair: Pair, dimensions: tuple[Dimension, ...]) -> PreferenceSample:
        prompt, video_1, video_2 = pair
        paths = [os.path.abspath(video) for video in (video_1, video_2)]
        digest = hashlib.sha256("\0".join([prompt, *paths]).encode("utf-8", "surrogatepass"))
        keys = [*(dimension.key for dimension in dimensions), OVERALL]
        return PreferenceSample(
            uid=f"pair-{digest.hexdigest()[:16]}",
            prompt=prompt,
            video_1=paths[0],
            video_2=paths[1],
            labels=dict.fromkeys(keys),
            dimensions=dimensions,
            source="judge",
            split="own",
        )

    def _name(self, sample: PreferenceSample, order: Order, ready: _Ready) -> str | None:
        return self.cache.name(show_in_order(sample, order), ready.decided_by)

    def _recall(
        self, sample: PreferenceSample, order: Order, ready: _Ready
    ) -> EpisodeRecord | None:
        """Return a remembered episode as one of this pair; its words and verdicts are as shown."""
        record = self.cache.get(self._name(sample, order, ready))
        if record is None:
            return None
        key = Job(sample, order).key
        return msgspec.structs.replace(record, key=key, uid=sample.uid, sample=sample, order=order)

    async def _open(self) -> _Ready:
        """Open the model once; a failure to do so is raised and may be mended.

        Whoever stops waiting (a deadline) stops nobody else: the model goes on opening."""
        opened = self._opened
        if opened.ready is not None and not opened.ready.model.is_given_up:
            return opened.ready
        if opened.opening is None:
            opened.opening = asyncio.ensure_future(self._open_anew())
            opened.opening.add_done_callback(opened.end_opening)
        return await asyncio.shield(opened.opening)

    async def _open_anew(self) -> _Ready:
        opened = self._opened
        if opened.ready is not None:
            opened.ready = None
            await opened.stack.aclose()
        # refused before a server is started, where the folder is known by now
        config, _ = self._choose_settings(self.source.folder)
        log = Path(tempfile.gettempdir()) / f"videosearch-judge-{os.getpid()}.log"
        opening = self.source.open(log, config.native_thought)
        model = await opened.stack.enter_async_context(opening)
        try:
            opened.ready = await asyncio.to_thread(self._prepare, model)
        except BaseException:
            await opened.stack.aclose()  # the next try opens it anew
            raise
        return opened.ready

    def _choose_settings(self, folder: Path | None) -> tuple[EpisodeConfig, tuple[Dimension, ...]]:
        """Return how the model is asked: as it was told, else as it was trained, else the defaults.

        Raises `ValueError` when that is not how it was trained."""
        own_config, own_dimensions = read_model_settings(folder)
        config = self.config.episode or own_config or EpisodeConfig()
        config.check_words()
        dimensions = self.config.dimensions or own_dimensions or DEFAULT_DIMENSIONS
        if folder is not None:
            accepted = self.config.accepts_other_settings
            check_checkpoint(folder, config, dimensions, is_overridden=accepted)
        return config, dimensions

    def _prepare(self, model: OpenModel) -> _Ready:
        """Find what lies beside the model: its settings, its calibration."""
        folder = self.source.folder or _find_folder(model.model_root)
        config, dimensions = self._choose_settings(folder)
        calibration, model_hash = self._read_calibration(folder), None
        if calibration is not None and folder is not None:
            model_hash = hash_model(folder)
        decided_by = {
            "source": self.source.describe(),
            "servers": list(self.source.endpoints),
            "model": describe_files(folder),
            "episode": msgspec.to_builtins(config),
            "words": config.pack.words_hash,
        }
        identity = Identity(
            model=self.source.name, model_hash=model_hash, words_hash=config.pack.words_hash
        )
        plain = json.loads(json.dumps(decided_by))
        return _Ready(model, config, dimensions, calibration, identity, plain)

    def _read_calibration(self, folder: Path | None) -> Calibration | None:
        if self.config.calibration is not None:
            return read_calibration(self.config.calibration)
        beside = None if folder is None else folder / CALIBRATION_NAME
        return read_calibration(beside) if beside is not None and beside.is_file() else None


def read_model_settings(
    folder: Path | None,
) -> tuple[EpisodeConfig | None, tuple[Dimension, ...] | None]:
    """Return the episode settings and dimensions that a checkpoint of ours was trained with, if its
    folder says."""
    settings = None if folder is None else read_checkpoint_settings(folder)
    return (None, None) if settings is None else (settings.config, settings.dimensions)


def describe_files(folder: Path | None) -> list[list[Any]] | None:
    """Name the state of a model's files without reading them: (name, size, time of change)."""
    if folder is None:
        return None
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def _find_folder(model_root: str | None) -> Path | None:
    """Return the folder that a server on this machine has loaded, if it is one."""
    folder = None if model_root is None else Path(model_root)
    return folder if folder is not None and (folder / "config.json").is_file() else None


def _to_failure(sample: PreferenceSample, failure: RecordedFailure) -> EpisodeFailure:
    return EpisodeFailure(
        failure.kind,
        failure.detail,
        sample.uid,
        failure.cause,
        is_passing=failure.is_passing,
    )


def _split_settings(
    config: JudgeConfig, settings: Mapping[str, Any]
) -> tuple[JudgeConfig, dict[str, Any]]:
    """Tell fields of `JudgeConfig` from those of `ModelSource`; other names are a `ValueError`."""
    ours, theirs = JudgeConfig.__dataclass_fields__, ModelSource.__dataclass_fields__
    if unknown := sorted(set(settings) - set(ours) - set(theirs)):
        raise ValueError(
            f"unknown settings {unknown}; allowed are {sorted(ours)} (how pairs are judged) and "
            f"{sorted(set(theirs) - {'secrets', 'kept'})} (who writes)"
        )
    own = {name: value for name, value in settings.items() if name in ours}
    if isinstance(own.get("episode"), Mapping):
        own["episode"] = EpisodeConfig.from_dict(own["episode"])
    for name in ("calibration", "store", "cache"):
        if own.get(name) is not None:
            own[name] = Path(own[name])
    return replace(config, **own), {n: v for n, v in settings.items() if n not in ours}
