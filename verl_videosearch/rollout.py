"""Drive an Episode with any model: frames in, replies out, one boundary for failures.

The one idea: `run_episode` knows no tokens and no servers. A `GenerateFn` turns a context and its
images into a reply; whatever goes wrong around it - a broken video, a dead server, a time-out -
becomes one `EpisodeFailure` with its kind, and is never a score.

>>> import asyncio
>>> import numpy as np
>>> from verl_videosearch.episode import EpisodeConfig
>>> from verl_videosearch.frames import CandidateFrames
>>> async def always_tie(messages, images):
...     return Reply("<Think>alike</Think><Answer>TA=0, VQ=0, MQ=0, OA=0</Answer>")
>>> black = np.zeros((8, 28, 28, 3), np.uint8)
>>> pair = PairFrames(CandidateFrames((0.0,) * 8, (0.0,) * 8), black, black)
>>> sample = PreferenceSample("a", "a cat", "1.mp4", "2.mp4", {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1})
>>> episode = Episode(sample, pair.candidates, EpisodeConfig())
>>> asyncio.run(run_episode(episode, pair, always_tie)).verdict.overall
0
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from PIL import Image

from verl_videosearch.episode import Episode, EpisodeResult, Message, Reply, TurnRecord
from verl_videosearch.failures import ContextTooLong, EpisodeFailure, FailureKind
from verl_videosearch.judgement import Judgement, Unreadable, format_judgement
from verl_videosearch.reward import Score
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.video.pair import PairFrames

T = TypeVar("T")


class GenerateFn(Protocol):
    """Any model: writes the reply to a context whose image references stand, in order, for
    `images`."""

    async def __call__(self, messages: list[Message], images: Sequence[Image.Image]) -> Reply: ...


async def run_episode(
    episode: Episode, pair: PairFrames, generate: GenerateFn, *, timeout_s: float | None = None
) -> EpisodeResult:
    """Drive one episode to its end; `timeout_s` bounds the whole of it (an `EpisodeFailure` of kind
    `timeout`)."""

    async def drive() -> None:
        while not episode.is_done:
            messages = await take_turn(episode.messages)
            images = await asyncio.to_thread(pair.images, messages)
            try:
                reply = await generate(messages, images)
            except ContextTooLong:
                episode.stop_overlong()
            else:
                await take_turn(episode.step, reply)

    try:
        await asyncio.wait_for(drive(), timeout_s)
    except (
        asyncio.TimeoutError,
        TimeoutError,
    ) as error:  # two classes before Python 3.11; the model's own has words
        detail = str(error) or f"no result after {timeout_s} s"
        raise EpisodeFailure(FailureKind.TIMEOUT, detail, episode.sample.uid) from error
    return episode.result()


async def take_turn(function: Callable[..., T], *arguments: Any) -> T:
    """Run what only computes, a few milliseconds, one such piece per round of the event loop.

    With hundreds of episodes ready at once, sockets and clocks are served between any two of them.
    (In threads the loop would wait for Python's lock after every hand-over, 5 ms each time.)"""
    async with _find_turnstile(asyncio.get_running_loop()):
        await asyncio.sleep(0)  # holds the others back for a round
        return function(*arguments)


_turnstiles: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


def _find_turnstile(loop: asyncio.AbstractEventLoop) -> asyncio.Lock:
    return _turnstiles.setdefault(loop, asyncio.Lock())


def to_record(
    sample: PreferenceSample,
    episode: Episode | None,
    result: EpisodeResult | None,
    score: Score | None,
    failure: EpisodeFailure | None = None,
) -> dict[str, Any]:
    """Write an episode as one JSON-ready object: context, frames by number, verdict, reward parts,
    failure kind."""
    record: dict[str, Any] = {
        "sample_uid": sample.uid,
        "source": sample.source,
        "prompt": sample.prompt,
        "videos": [sample.video_1, sample.video_2],
        "labels": dict(sample.labels),
        "failure": failure.label if failure else None,
        "failure_detail": failure.detail if failure else None,
    }
    if episode is not None:
        record |= {"window": episode.config.window, "messages": episode.messages()}
    if result is not None:
        verdict = result.verdict
        record |= {
            "turns": [_to_turn_record(turn) for turn in result.turns],
            "ending": result.ending.value,
            "verdict": format_judgement(verdict) if isinstance(verdict, Judgement) else None,
            "problem": verdict.problem.value if isinstance(verdict, Unreadable) else None,
        }
    if score is not None:
        record |= {"score": score.total, "reward_parts": dict(score.parts)}
    return record


def _to_turn_record(turn: TurnRecord) -> dict[str, Any]:
    """Write what one turn asked for and what was wrong with it."""
    outcome = turn.outcome
    return {
        "reply": turn.reply.text,
        "frames": list(outcome.frame_numbers) if outcome else [],
        "call_fault": outcome.fault.value if outcome and outcome.fault else None,
        "faults": [fault.value for fault in turn.faults],
        "num_visible_images": turn.num_visible_images,
    }
