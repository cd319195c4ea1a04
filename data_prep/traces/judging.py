"""Judge many pairs at once with a teacher, filter, and log: the part that cold start and rejection
sampling share.

The one idea: the log is the state. A judged pair is one synced line in `accepted.jsonl` or
`rejected.jsonl` (with every reason); a run that was killed goes on after the last whole line. An
infrastructure failure - a broken video, a server that stays down - is no verdict: it is counted,
and tried again by the next run.

Covers: one trace per pair. Does not cover: who the teacher is, tables (`cold_start`).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from verl_videosearch.data_prep.traces.sft_rows import Trace, append_trace, open_log, read_traces
from verl_videosearch.data_prep.traces.trace_filter import Filter, find_reasons, find_wrong

from verl_videosearch.episode import Episode, EpisodeConfig
from verl_videosearch.failures import EpisodeFailure
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.judgement import Judgement
from verl_videosearch.rollout import GenerateFn, run_episode
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.video.pair import load_pair
from verl_videosearch.video.store import FrameStore

ACCEPTED, REJECTED, SETTINGS = "accepted.jsonl", "rejected.jsonl", "settings.json"

TeacherFn = Callable[[PreferenceSample, CandidateFrames], GenerateFn]
"""Gives the teacher of one pair."""


@dataclass(frozen=True)
class RunConfig:
    """How pairs are judged; together with the pairs it decides what the logs mean."""

    episode: EpisodeConfig
    stages: Filter
    video_root: Path | None
    teacher_name: str
    episode_timeout_s: float = 900.0
    """Most seconds of one episode."""
    concurrency: int = 8
    """Episodes at the same time."""


class TraceLog:
    """The two logs of a run, and what they already hold."""

    def __init__(self, out: Path) -> None:
        self.traces = [trace for name in (ACCEPTED, REJECTED) for trace in read_traces(out / name)]
        self._files: dict[bool, IO[bytes]] = {
            True: open_log(out / ACCEPTED),
            False: open_log(out / REJECTED),
        }

    @property
    def done(self) -> set[str]:
        return {trace.sample.uid for trace in self.traces}

    def in_order(self, samples: Sequence[PreferenceSample]) -> list[Trace]:
        """Return the traces of these samples, in their order."""
        trace_of = {trace.sample.uid: trace for trace in self.traces}
        return [trace_of[sample.uid] for sample in samples if sample.uid in trace_of]

    def append(self, trace: Trace) -> None:
        """Store one trace for good."""
        append_trace(self._files[trace.is_accepted], trace)
        self.traces.append(trace)

    def close(self) -> None:
        for file in self._files.values():
            file.close()


async def judge_pair(
    sample: PreferenceSample, teacher: TeacherFn, store: FrameStore, config: RunConfig
) -> Trace:
    """Let the teacher judge one pair; raises `EpisodeFailure`."""
    pair = await asyncio.to_thread(load_pair, sample, store, config.episode, config.video_root)
    episode, generate = (
        Episode(sample, pair.candidates, config.episode),
        teacher(sample, pair.candidates),
    )
    result = await run_episode(episode, pair, generate, timeout_s=config.episode_timeout_s)
    wrong = tuple(reason.removeprefix("wrong_") for reason in find_wrong(sample, result))
    return Trace(
        sample=sample,
        replies=tuple(record.reply.text for record in result.turns),
        episode=config.episode,
        teacher=config.teacher_name,
        wrong=wrong if isinstance(result.verdict, Judgement) else None,
        num_calls=len(result.outcomes),
        num_evictions=result.num_evictions,
        reasons=find_reasons(sample, result, config.stages),
    )


async def judge_pairs(
    samples: Sequence[PreferenceSample],
    teacher: TeacherFn,
    store: FrameStore,
    config: RunConfig,
    log: TraceLog,
    on_done: Callable[[], None] = lambda: None,
) -> Counter[str]:
    """Judge every pair that the log does not hold; returns the failures by kind. Stops at the first
    `ValueError`."""
    done = log.done
    waiting = iter([each for each in samples if each.uid not in done])
    failures: Counter[str] = Counter()

    async def work() -> None:
        for sample in waiting:
            try:
                trace = await judge_pair(sample, teacher, store, config)
            except EpisodeFailure as failure:
                failures[failure.label] += 1
            else:
                log.append(trace)
            on_done()

    await gather_or_cancel([work() for _ in range(config.concurrency)])
    return failures


async def gather_or_cancel(work: Sequence[Awaitable[None]]) -> None:
    """Wait for all; when one raises, stop the others and raise that."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def claim_folder(out: Path, settings: dict[str, Any]) -> None:
    """Note what the logs of a folder were made with; `ValueError` if it was something else."""
    out.mkdir(parents=True, exist_ok=True)
    note, settings = out / SETTINGS, json.loads(json.dumps(settings))
    found = json.loads(note.read_text("utf-8")) if note.exists() else settings
    different = sorted(
        name for name in {*settings, *found} if found.get(name) != settings.get(name)
    )
    if different:
        raise ValueError(
            f"{out} was begun with another {', '.join(different)}; choose another --out or delete it"
        )
    note.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
