"""play_episode: one pair, one order, one model - one EpisodeRecord.

The one idea: training apart, every program that plays episodes calls this one function, so that a
trace, a sample, an evaluation and a verdict for somebody's own videos hold the same and cost the
same. What differs between programs stands in `PlaySetup`.

    setup = PlaySetup(RecordKind.EVALUATION, EpisodeConfig(), FrameStore(), identity=identity)
    record = await play_episode(sample, Order.BA, setup, generate)

Covers: frames, the episode, the account of tokens. Does not cover: many of them, failures (`jobs`),
models (`verl_videosearch.models`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import xxhash
from PIL import Image

from verl_videosearch.episode import Episode, EpisodeConfig, Message, Reply
from verl_videosearch.rollout import GenerateFn, run_episode
from verl_videosearch.runs.record import (
    EpisodeRecord,
    Identity,
    RecordKind,
    Usage,
    record_episode,
)
from verl_videosearch.sample import Order, PreferenceSample, show_in_order
from verl_videosearch.video.pair import PairFrames, load_pair
from verl_videosearch.video.store import FrameStore


@dataclass(frozen=True)
class PlaySetup:
    """Everything that playing an episode needs besides the pair and the model."""

    kind: RecordKind
    """Which program plays."""
    config: EpisodeConfig
    store: FrameStore
    video_root: str | Path | None = None
    """Folder of relative video paths."""
    timeout_s: float | None = None
    """For one whole episode; null waits for ever."""
    identity: Identity = Identity()
    """What the records name as their origin."""
    alter: Callable[[PairFrames], PairFrames] | None = None
    """Changes the frames of every pair, for experiments."""
    has_messages: bool = True
    """Keep the final context in the record; `replay_episode` makes it again."""

    async def load(self, shown: PreferenceSample) -> PairFrames:
        """Read the frames of a pair, as shown, off the event loop."""
        pair = await asyncio.to_thread(load_pair, shown, self.store, self.config, self.video_root)
        return pair if self.alter is None else self.alter(pair)


async def play_episode(
    sample: PreferenceSample,
    order: Order,
    setup: PlaySetup,
    generate: GenerateFn,
    *,
    key: str | None = None,
    attempt: int | None = None,
    seed: int | None = None,
    extra: Mapping[str, Any] | None = None,
    alter: Callable[[PairFrames], PairFrames] | None = None,
    episode_type: type[Episode] = Episode,
) -> EpisodeRecord:
    """Judge one pair in one order and return its record; raises `EpisodeFailure`, which is never a
    verdict.

    `sample` stands in its own order. `generate` is this episode's own: if it counts what it used
    (`.usage`), the record has the tokens. `alter` changes the frames of this episode alone,
    `episode_type` how
    its calls are answered; both are for probes."""
    shown, start = show_in_order(sample, order), time.monotonic()
    pair = await setup.load(shown)
    if alter is not None:
        pair = alter(pair)
    episode, counted = episode_type(shown, pair.candidates, setup.config), CountedReplies(generate)
    await run_episode(episode, pair, counted, timeout_s=setup.timeout_s)
    record = record_episode(
        setup.kind,
        make_key(sample.uid, order, attempt) if key is None else key,
        sample,
        order,
        episode,
        has_messages=setup.has_messages,
        attempt=attempt,
        seed=seed,
        usage=read_usage(generate),
        seconds=round(time.monotonic() - start, 3),
        identity=setup.identity,
        extra=dict(extra or {}),
    )
    return counted.describe(record)


def make_key(uid: str, order: Order, attempt: int | None = None) -> str:
    """Name an episode inside its run.

    >>> make_key("a", Order.AB), make_key("a", Order.BA, 3)
    ('a AB', 'a BA 3')
    """
    return f"{uid} {order.value}" + ("" if attempt is None else f" {attempt}")


def derive_seed(seed: int, key: str) -> int:
    """Give each episode a seed of its own, the same in every run.

    >>> derive_seed(0, "a AB") != derive_seed(0, "a BA"), 0 <= derive_seed(1, "a AB") < 2**31
    (True, True)
    """
    return xxhash.xxh3_64_intdigest(f"{seed} {key}".encode()) % 2**31


def read_usage(generate: GenerateFn) -> Usage:
    """Return what an episode's own `GenerateFn` has counted; None where it does not count, and for
    tokens where the server did not say (no context has 0 tokens)."""
    usage = getattr(generate, "usage", None)
    return Usage(
        num_prompt_tokens=getattr(usage, "num_prompt_tokens", None) or None,
        num_reply_tokens=getattr(usage, "num_reply_tokens", None) or None,
        num_requests=getattr(usage, "num_requests", None),
    )


class CountedReplies:
    """A `GenerateFn` that notes what each reply of another one cost."""

    def __init__(self, generate: GenerateFn) -> None:
        self._generate = generate
        self._costs: list[tuple[int | None, int | None]] = []

    async def __call__(self, messages: list[Message], images: Sequence[Image.Image]) -> Reply:
        before = read_usage(self._generate)
        reply = await self._generate(messages, images)
        after = read_usage(self._generate)
        self._costs.append(
            (
                _subtract(after.num_prompt_tokens, before.num_prompt_tokens),
                _subtract(after.num_reply_tokens, before.num_reply_tokens),
            )
        )
        return reply

    def describe(self, record: EpisodeRecord) -> EpisodeRecord:
        """Write the tokens into the turns that they were spent on."""
        turns = [
            msgspec.structs.replace(turn, num_prompt_tokens=prompt, num_reply_tokens=reply)
            for turn, (prompt, reply) in zip(record.turns, self._costs, strict=True)
        ]
        return msgspec.structs.replace(record, turns=tuple(turns))


def _subtract(after: int | None, before: int | None) -> int | None:
    """Return what was added; None when nothing was counted."""
    if after is None:
        return None
    return (after - (before or 0)) or None
