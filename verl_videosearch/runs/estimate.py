"""What a run will cost, said before it begins: tokens, price, time, room for frames.

The one idea: the first pair whose videos can be read is driven through the real `Episode` with no,
one and the most calls, and what each turn sends is added up; no server is asked.

>>> tokens = TokenEstimate(prompt=10_000, reply=500, num_requests=2)
>>> print(RunEstimate(1000, {0: tokens}, prices=(2.5, 10.0)).lines()[0])
1,000 episodes: 10,000,000 prompt tokens, 500,000 reply tokens, price 30.00

Covers: what is sent, replies of an ordinary length. Does not cover: how many calls a model makes
(the two ends are said), what a server forgets or caches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import median

from verl_videosearch.episode import Episode, EpisodeConfig, ImageReference, Reply, images_of
from verl_videosearch.failures import EpisodeFailure
from verl_videosearch.prompts import TOOL_ARGUMENT, TOOL_NAME
from verl_videosearch.runs.jobs import RunLimits, RunSummary, list_waiting
from verl_videosearch.runs.play import PlaySetup
from verl_videosearch.runs.record import EpisodeRecord
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.video.pair import PairFrames, load_pair, plan_frames
from verl_videosearch.video.space import SpaceEstimate, estimate_space
from verl_videosearch.video.store import FrameStore

CHARS_PER_TOKEN = 3
"""Of text with many numbers, roughly."""
TOKENS_PER_REPLY = 250
"""Of a full turn with a snapshot, thoughts and a call, roughly."""
_MAX_LOOKED_AT = 8
"""Pairs whose videos are tried until one can be read."""


@dataclass(frozen=True)
class TokenEstimate:
    """Tokens of one episode, all of its requests together."""

    prompt: float
    reply: float
    num_requests: int

    def price(
        self, num_episodes: int, per_million_prompt: float, per_million_reply: float
    ) -> float:
        """Return the price of so many episodes.

        >>> TokenEstimate(prompt=10_000, reply=500, num_requests=2).price(1000, 2.5, 10.0)
        30.0
        """
        return (
            num_episodes * (self.prompt * per_million_prompt + self.reply * per_million_reply) / 1e6
        )


@dataclass(frozen=True)
class RunEstimate:
    """What the episodes that are left will cost."""

    num_episodes: int
    by_calls: Mapping[int, TokenEstimate] = field(default_factory=dict)
    """Per episode, by its number of calls; empty when no video could be read."""
    prices: tuple[float, float] | None = None
    """Of a million prompt and of a million reply tokens, in any currency."""
    seconds: float | None = None
    """Time of the whole run; null when nothing is known of its pace."""
    pace: str = ""
    """Where the time comes from."""
    space: SpaceEstimate | None = None

    def lines(self) -> list[str]:
        """Say it in words."""
        lines = [self._describe_tokens()] if self.by_calls else []
        if self.seconds is not None:
            lines.append(f"time: about {timedelta(seconds=round(self.seconds))} ({self.pace})")
        if self.space is not None:
            lines.append(str(self.space))
        return lines

    def _describe_tokens(self) -> str:
        ends = [self.by_calls[min(self.by_calls)], self.by_calls[max(self.by_calls)]]
        prompt = [f"{self.num_episodes * each.prompt:,.0f}" for each in ends]
        reply = [f"{self.num_episodes * each.reply:,.0f}" for each in ends]
        words = [f"{_span(prompt)} prompt tokens", f"{_span(reply)} reply tokens"]
        if self.prices is not None:
            price = [f"{each.price(self.num_episodes, *self.prices):,.2f}" for each in ends]
            words.append(f"price {_span(price)}")
        else:
            words.append("price: give --price-in and --price-out")
        calls = f" (0 to {max(self.by_calls)} calls each)" if len(self.by_calls) > 1 else ""
        return f"{self.num_episodes:,} episodes{calls}: {', '.join(words)}"


def estimate_run(
    samples: Sequence[PreferenceSample],
    num_episodes: int,
    config: EpisodeConfig,
    store: FrameStore,
    video_root: str | Path | None = None,
    *,
    prices: tuple[float, float] | None = None,
    concurrency: int = 1,
    requests_per_minute: float | None = None,
    played: Iterable[EpisodeRecord] = (),
) -> RunEstimate:
    """Estimate so many episodes about these pairs.

    Args:
        concurrency: episodes in flight, all servers together.
        requests_per_minute: the servers' limit, all together; None where there is none.
        played: episodes of the same run that are done already; they tell its pace.
    """
    pair = _load_first(samples, config, store, video_root)
    counts = sorted({0, config.max_tool_calls})
    by_calls = {n: estimate_tokens(*pair, config, n) for n in counts} if pair else {}
    seconds, pace = None, ""
    times = [record.seconds for record in played if record.seconds is not None]
    if times:
        seconds = median(times) * num_episodes / concurrency
        pace = f"as the {len(times)} episodes before, {concurrency} at a time"
    elif requests_per_minute and by_calls:
        seconds = 60 * by_calls[0].num_requests * num_episodes / requests_per_minute
        pace = "at least, by --rate"
    videos = {path for sample in samples for path in (sample.video_1, sample.video_2)}
    space = estimate_space(len(videos), plan_frames(config), store)
    return RunEstimate(num_episodes, by_calls, prices, seconds, pace, space)


@dataclass(frozen=True)
class Announcement:
    """Says what a run will cost when it begins, to whoever wants to hear it."""

    say: Callable[[str], None]
    prices: tuple[float, float] | None = None
    """Of a million prompt and of a million reply tokens."""

    def __call__(
        self,
        summary: RunSummary,
        setup: PlaySetup,
        limits: RunLimits,
        requests_per_minute: float | None = None,
    ) -> None:
        """Say it for the jobs that are left of a run."""
        waiting = list_waiting(summary, forgets_failures=limits.forgets_failures)
        samples = list({job.sample.uid: job.sample for job in waiting}.values())
        estimate = estimate_run(
            samples,
            len(waiting),
            setup.config,
            setup.store,
            setup.video_root,
            prices=self.prices,
            concurrency=limits.concurrency,
            requests_per_minute=requests_per_minute,
            played=summary.done,
        )
        for line in estimate.lines():
            self.say(line)


def estimate_tokens(
    sample: PreferenceSample,
    pair: PairFrames,
    config: EpisodeConfig,
    num_calls: int,
    pixels_per_token: int = 28 * 28,
) -> TokenEstimate:
    """Drive an episode with so many full calls and add up what each of its turns sends."""
    episode, prompt = Episode(sample, pair.candidates, config), 0.0
    numbers = list(range(1, min(config.max_frames_per_call, len(pair.candidates)) + 1))
    call = f'{{"name": "{TOOL_NAME}", "arguments": {{"{TOOL_ARGUMENT}": {numbers}}}}}'
    for turn in range(num_calls + 1):
        messages = episode.messages()
        num_chars = sum(
            len(item.get("text", "")) for message in messages for item in message["content"]
        )
        prompt += num_chars / CHARS_PER_TOKEN + turn * TOKENS_PER_REPLY
        prompt += (
            sum(_count_pixels(pair, image) for image in images_of(messages)) / pixels_per_token
        )
        if turn < num_calls:
            episode.step(Reply(f"<tool_call>{call}</tool_call>"))
    return TokenEstimate(prompt, TOKENS_PER_REPLY * (num_calls + 1), num_calls + 1)


def read_prices(
    per_million_prompt: float | None, per_million_reply: float | None
) -> tuple[float, float] | None:
    """Read --price-in and --price-out; raises `ValueError` for one without the other.

    >>> read_prices(2.5, 10.0), read_prices(None, None)
    ((2.5, 10.0), None)
    """
    if per_million_prompt is None and per_million_reply is None:
        return None
    if per_million_prompt is None or per_million_reply is None:
        raise ValueError("give both --price-in and --price-out, per million tokens; one is missing")
    return per_million_prompt, per_million_reply


def _load_first(
    samples: Sequence[PreferenceSample],
    config: EpisodeConfig,
    store: FrameStore,
    video_root: str | Path | None,
) -> tuple[PreferenceSample, PairFrames] | None:
    """Return the first pair whose videos can be read."""
    for sample in samples[:_MAX_LOOKED_AT]:
        try:
            return sample, load_pair(sample, store, config, video_root)
        except EpisodeFailure:
            continue  # the run itself says what is wrong with it
    return None


def _count_pixels(pair: PairFrames, image: ImageReference) -> int:
    height, width = pair.size_of(image.number, image.max_pixels)
    return height * width


def _span(ends: Sequence[str]) -> str:
    """Name both ends, or the one that they are.

    >>> _span(["1", "3"]), _span(["1", "1"])
    ('1 to 3', '1')
    """
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
