"""PairJudge: from pairs of videos to comparisons, with a model that is open.

    outcomes = await PairJudge(ready, config, store, cache).judge(pairs)

The one idea: a pair is a `PreferenceSample` without labels, so each order of it is played by the
project's only engine, like any other episode; what was played before comes from the cache.

Covers: both orders, remembered episodes, calibrated confidence, pairs that cannot be judged. Does
not cover: opening the model (`opening`), deadlines (`judge`)."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from verl_videosearch.failures import EpisodeFailure, FailureKind, ServerUnusable
from verl_videosearch.judge.cache import EpisodeCache
from verl_videosearch.judge.calibrated import grade_comparison
from verl_videosearch.judge.comparison import Comparison
from verl_videosearch.judge.memory_journal import MemoryJournal
from verl_videosearch.judge.opening import ReadyModel
from verl_videosearch.judge.settings import JudgeConfig
from verl_videosearch.judgement import OVERALL
from verl_videosearch.runs.jobs import Job, RunLimits, RunSummary, run_jobs
from verl_videosearch.runs.play import PlaySetup, play_episode
from verl_videosearch.runs.record import EpisodeRecord, RecordedFailure, RecordKind
from verl_videosearch.sample import Order, PreferenceSample, show_in_order
from verl_videosearch.video.store import FrameStore

Pair = tuple[str, str | Path, str | Path]
"""Prompt, video 1, video 2."""
Outcome = Comparison | EpisodeFailure
"""What becomes of one of many pairs."""
OnEpisode = Callable[[EpisodeRecord], None]


@dataclass(frozen=True)
class PairJudge:
    """Judges pairs with one open model."""

    ready: ReadyModel
    config: JudgeConfig
    store: FrameStore
    cache: EpisodeCache

    async def judge(
        self, pairs: Sequence[Pair], on_episode: OnEpisode | None = None
    ) -> list[Outcome]:
        """Judge pairs side by side; returns what became of each, in their order. Raises
        `ServerUnusable` when no pair could be judged, and `CalibrationError` before any is when
        the calibration was fitted on one of them."""
        read = [self._read_pair(pair) for pair in pairs]
        samples = [sample for sample in read if isinstance(sample, PreferenceSample)]
        self.ready.check_calibration(samples)
        by_uid = {sample.uid: sample for sample in samples}
        outcomes = await self._play_all(by_uid, on_episode)
        return [outcomes[each.uid] if isinstance(each, PreferenceSample) else each for each in read]

    def find_known(self, pair: Pair) -> Comparison | None:
        """Return a comparison that needs no model, because all its episodes are remembered."""
        sample = self._make_sample(pair)
        recalled = [self._recall(sample, order) for order in self.config.orders]
        records = [record for record in recalled if record is not None]
        return self._grade(sample, records, {}) if len(records) == len(recalled) else None

    async def _play_all(
        self,
        samples: Mapping[str, PreferenceSample],
        on_episode: OnEpisode | None,
    ) -> dict[str, Outcome]:
        """Play every order of every pair that is not remembered."""
        jobs = [Job(sample, order) for sample in samples.values() for order in self.config.orders]
        cached: dict[str, bool] = {}
        setup = PlaySetup(
            RecordKind.JUDGE,
            self.ready.config,
            self.store,
            timeout_s=self.config.timeout_s,
            identity=self.ready.identity,
        )

        async def play(job: Job) -> EpisodeRecord:
            known = await asyncio.to_thread(self._recall, job.sample, job.order)
            cached[job.key] = known is not None
            if known is not None:
                return known
            generate = self.ready.model.for_episode(job.key)
            record = await play_episode(job.sample, job.order, setup, generate)
            self.cache.put(self._name(job.sample, job.order), record)
            return record

        limits = RunLimits(
            concurrency=self.config.concurrency * self.ready.model.num_replicas,
            max_tries=self.config.max_tries,
        )
        summary = await run_jobs(
            jobs,
            play,
            MemoryJournal(),
            limits,
            kind=RecordKind.JUDGE,
            identity=self.ready.identity,
            server=", ".join(self.ready.model.source.endpoints),
            on_record=on_episode or (lambda record: None),
        )
        if summary.stopped and not summary.done:
            besides = [str(record.failure) for record in summary.permanent]
            raise ServerUnusable("; besides, ".join([summary.stopped, *besides[:3]]))
        return {uid: self._conclude(sample, summary, cached) for uid, sample in samples.items()}

    def _conclude(
        self,
        sample: PreferenceSample,
        summary: RunSummary,
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
            return EpisodeFailure(FailureKind.SERVER, reason, sample.uid)
        return self._grade(sample, records, cached)

    def _grade(
        self,
        sample: PreferenceSample,
        records: Sequence[EpisodeRecord],
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
        if self.ready.calibration is None:
            return comparison
        return grade_comparison(self.ready.calibration, comparison)

    def _read_pair(self, pair: Pair) -> PreferenceSample | EpisodeFailure:
        """Return a pair as a sample; one that is none fails alone."""
        try:
            return self._make_sample(pair)
        except (TypeError, ValueError) as error:
            words = f"a pair is a prompt and the paths of two videos, got {pair!r}: {error}"
            return EpisodeFailure(FailureKind.SAMPLE, words)

    def _make_sample(self, pair: Pair) -> PreferenceSample:
        """Name a pair; raises `TypeError` or `ValueError` when it is none."""
        prompt, video_1, video_2 = pair
        paths = [os.path.abspath(video) for video in (video_1, video_2)]
        if any("\0" in text for text in (prompt, *paths)):
            raise ValueError("a NUL character")
        digest = hashlib.sha256("\0".join([prompt, *paths]).encode("utf-8", "surrogatepass"))
        keys = [*(dimension.key for dimension in self.ready.dimensions), OVERALL]
        return PreferenceSample(
            uid=f"pair-{digest.hexdigest()[:16]}",
            prompt=prompt,
            video_1=paths[0],
            video_2=paths[1],
            labels=dict.fromkeys(keys),
            dimensions=self.ready.dimensions,
            source="judge",
            split="own",
        )

    def _name(self, sample: PreferenceSample, order: Order) -> str | None:
        return self.cache.name(show_in_order(sample, order), self.ready.decided_by)

    def _recall(self, sample: PreferenceSample, order: Order) -> EpisodeRecord | None:
        """Return a remembered episode as one of this pair; its words and verdicts are as shown."""
        record = self.cache.get(self._name(sample, order))
        if record is None:
            return None
        key = Job(sample, order).key
        return msgspec.structs.replace(record, key=key, uid=sample.uid, sample=sample, order=order)


def _to_failure(sample: PreferenceSample, failure: RecordedFailure) -> EpisodeFailure:
    return EpisodeFailure(
        failure.kind,
        failure.detail,
        sample.uid,
        failure.cause,
        is_passing=failure.is_passing,
    )
