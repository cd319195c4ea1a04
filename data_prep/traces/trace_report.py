"""Tables about a run of a teacher: what it will cost, what it yielded, why traces were refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.markup import escape
from rich.table import Column, Table
from verl_videosearch.data_prep.traces.sampling_report import share_right
from verl_videosearch.data_prep.traces.trace_filter import Trace

from verl_videosearch.episode import Episode, EpisodeConfig, Reply, images_of
from verl_videosearch.prompts import TOOL_ARGUMENT, TOOL_NAME
from verl_videosearch.runs.record import EpisodeRecord
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.video.pair import PairFrames

CHARS_PER_TOKEN = 3
"""Of text with many numbers, roughly."""
OUTSIDE_TEXT = "text_outside_tags"
"""The fault of a turn with text that no tag holds."""
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
    groups = _group_by_source(traces)
    table = Table("", *(Column(name, justify="right") for name in groups), title="yields")
    table.add_row("traces", *(str(len(group)) for group in groups.values()))
    table.add_row(
        "accepted", *(_share([trace.is_accepted for trace in group]) for group in groups.values())
    )
    for key in dict.fromkeys(key for trace in traces for key in trace.record.own.labels):
        shares = [share_right(group, key) for group in groups.values()]
        table.add_row(f"{key} right", *(_write(share) for share in shares))
    counts: dict[str, Callable[[Trace], int]] = {
        "turns": lambda trace: len(trace.replies),
        "calls": lambda trace: trace.record.num_calls,
        "evictions": lambda trace: trace.record.num_evictions,
    }
    for name, count in counts.items():
        means = [f"{fmean(map(count, group)):.2f}" if group else "-" for group in groups.values()]
        table.add_row(name, *means)
    return table


def _group_by_source(traces: Sequence[Trace]) -> dict[str, list[Trace]]:
    groups: dict[str, list[Trace]] = {}
    for trace in sorted(traces, key=lambda trace: trace.record.own.source):
        groups.setdefault(trace.record.own.source, []).append(trace)
    return groups if len(groups) == 1 else groups | {"all": list(traces)}


def tabulate_reasons(traces: Sequence[Trace], failures: Sequence[EpisodeRecord]) -> Table:
    """Count why traces were refused (a trace may have several reasons) and which episodes failed
    and have none."""
    table = Table("reason", "count", "first sample", title="not accepted")
    first: dict[str, str] = {}
    for trace in traces:
        for reason in trace.reasons:
            first.setdefault(reason, trace.record.uid)
    for reason, count in Counter(r for trace in traces for r in trace.reasons).most_common():
        table.add_row(reason, str(count), escape(first[reason]))
    labels = Counter(
        (each.failure.label, each.failure.is_passing) for each in failures if each.failure
    )
    for (label, is_passing), count in sorted(labels.items()):
        what = "tried again by the next run" if is_passing else "fails the same way again"
        table.add_row(f"failed: {label}", str(count), what)
    return table


def describe_preambles(traces: Sequence[Trace]) -> str:
    """Say how many traces were lost only because text stands outside the tags; empty for none."""
    lost = sum(trace.reasons == (OUTSIDE_TEXT,) for trace in traces)
    if not lost:
        return ""
    return (
        f"{lost} of {len(traces)} traces were lost only to text outside the tags, such as a "
        "preamble: the teacher has to be told (a prompt pack), or another teacher taken"
    )


def _share(flags: Sequence[bool]) -> str:
    """Write a share.

    >>> _share([True, False]), _share([])
    ('50 %', '-')
    """
    return _write(sum(flags) / len(flags) if flags else None)


def _write(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
