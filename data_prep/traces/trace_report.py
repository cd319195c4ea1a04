"""Tables about a run of a teacher: what it will cost, what it yielded, why traces were refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.table import Column, Table
from verl_videosearch.data_prep.traces.sft_rows import Trace

from verl_videosearch.episode import Episode, EpisodeConfig, Reply, images_of
from verl_videosearch.judgement import OVERALL
from verl_videosearch.prompts import TOOL_ARGUMENT, TOOL_NAME
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.video.pair import PairFrames

CHARS_PER_TOKEN = 3
"""Of text with many numbers, roughly."""
TOKENS_PER_REPLY = 250
"""Of a full turn with a snapshot, thoughts and a call, roughly."""


@dataclass(frozen=True)
class TokenEstimate:
    """Tokens of one episode, all of its requests together."""

    prompt: float
    reply: float

    def price(
        self, num_episodes: int, per_million_prompt: float, per_million_reply: float
    ) -> float:
        """Return the price of so many episodes.

        >>> TokenEstimate(prompt=10_000, reply=500).price(1000, 2.5, 10.0)
        30.0
        """
        return (
            num_episodes * (self.prompt * per_million_prompt + self.reply * per_million_reply) / 1e6
        )


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
        prompt += sum(_count_pixels(pair, item) for item in images_of(messages)) / pixels_per_token
        if turn < num_calls:
            episode.step(Reply(f"<tool_call>{call}</tool_call>"))
    return TokenEstimate(prompt, TOKENS_PER_REPLY * (num_calls + 1))


def _count_pixels(pair: PairFrames, item: Mapping[str, int]) -> int:
    height, width = pair.size_of(item["frame_number"], item["max_pixels"])
    return height * width


def tabulate_cost(
    estimates: Mapping[str, TokenEstimate], num_episodes: int, prices: tuple[float, float] | None
) -> Table:
    """Show tokens, and the price if prices per million prompt and reply tokens are given."""
    table = Table(
        "episodes with",
        "prompt tokens",
        "reply tokens",
        "price",
        title=f"estimate for {num_episodes} episodes",
    )
    for name, each in estimates.items():
        price = (
            f"{each.price(num_episodes, *prices):,.2f}"
            if prices
            else "give --price-in, --price-out"
        )
        table.add_row(
            name, f"{num_episodes * each.prompt:,.0f}", f"{num_episodes * each.reply:,.0f}", price
        )
    return table


def tabulate_yields(traces: Sequence[Trace]) -> Table:
    """Show per source, and for all: traces, share accepted, share right per dimension, turns,
    calls, evictions."""
    sources = {
        source: [t for t in traces if t.sample.source == source]
        for source in {t.sample.source for t in traces}
    }
    groups = dict(sorted(sources.items())) | ({} if len(sources) == 1 else {"all": list(traces)})
    table = Table("", *(Column(name, justify="right") for name in groups), title="yields")
    table.add_row("traces", *(str(len(group)) for group in groups.values()))
    table.add_row(
        "accepted", *(_share([trace.is_accepted for trace in group]) for group in groups.values())
    )
    for key in dict.fromkeys(
        key for trace in traces for key in (*trace.sample.dimension_keys, OVERALL)
    ):
        rated = [
            [t for t in group if t.sample.labels.get(key) is not None] for group in groups.values()
        ]
        table.add_row(
            f"{key} right", *(_share([_is_right(trace, key) for trace in group]) for group in rated)
        )
    for name, count in {
        "turns": lambda trace: len(trace.replies),
        "calls": lambda trace: trace.num_calls,
        "evictions": lambda trace: trace.num_evictions,
    }.items():
        table.add_row(
            name,
            *(f"{fmean(map(count, group)):.2f}" if group else "-" for group in groups.values()),
        )
    return table


def tabulate_reasons(traces: Sequence[Trace], failures: Mapping[str, int]) -> Table:
    """Count why traces were refused (a trace may have several reasons) and which episodes failed
    and have none."""
    table = Table("reason", "count", "first sample", title="not accepted")
    counts = Counter(reason for trace in traces for reason in trace.reasons)
    first = {reason: trace.sample.uid for trace in reversed(traces) for reason in trace.reasons}
    for reason, count in counts.most_common():
        table.add_row(reason, str(count), first[reason])
    for label, count in failures.items():
        table.add_row(f"failed: {label}", str(count), "tried again by the next run")
    return table


def _is_right(trace: Trace, key: str) -> bool:
    return trace.wrong is not None and key not in trace.wrong


def _share(flags: Sequence[bool]) -> str:
    """Write a share.

    >>> _share([True, False]), _share([])
    ('50 %', '-')
    """
    return f"{100 * sum(flags) / len(flags):.0f} %" if flags else "-"
