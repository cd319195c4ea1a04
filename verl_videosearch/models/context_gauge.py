"""Notice a server that throws a part of the context away, from the tokens that it says it has read.

The one idea: no model's formula is assumed. What a frame of some size costs is measured on this
server, by the run's own first request with and without a frame. After that a request that is
charged less than `LEAST_SHARE` of what its frames alone must cost was not read whole; neither was
one that is charged less than the one before although the context has only grown.

    gauge.learn((840, 476), 1_210, 700)                          # 510 tokens a frame
    gauge.find_loss([(840, 476)] * 16, num_tokens=4_096)          # a sentence: 8,160 are due

A server that does not count, or not its frames, cannot be gauged; then nothing is said. Ollama's
default window of 4,096 tokens, which silently drops the beginning of the context, is why this is
here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

LEAST_SHARE = 0.7
MOST_SIZES = 16
"""Sizes of frames that are measured in a run; a set of films has a few."""

Size = tuple[int, int]

ADVICE = (
    "give the server a larger context (Ollama: OLLAMA_CONTEXT_LENGTH, llama.cpp: --ctx-size) or "
    "show fewer or smaller frames"
)


@dataclass
class ContextGauge:
    """What frames cost on one server."""

    tokens_of: dict[Size, int] = field(default_factory=dict)
    """Tokens of one frame by its width and height; 0 where they cannot be told."""

    def must_measure(self, size: Size) -> bool:
        """True for a size that is not known yet and is worth two small requests."""
        counts_frames = not self.tokens_of or any(self.tokens_of.values())
        return size not in self.tokens_of and counts_frames and len(self.tokens_of) < MOST_SIZES

    def learn(self, size: Size, with_frame: int | None, without_frame: int | None) -> None:
        """Take the tokens of a request with one frame more than the other one."""
        if with_frame is None or without_frame is None:
            self.tokens_of[size] = 0
        else:
            self.tokens_of[size] = max(with_frame - without_frame, 0)

    def find_loss(
        self, sizes: Sequence[Size], num_tokens: int | None, num_before: int | None = None
    ) -> str:
        """Say what is missing, or nothing: "".

        `num_before`: tokens of the episode's last request, if this one only adds to it."""
        if num_tokens is None:
            return ""
        due = sum(self.tokens_of.get(size, 0) for size in sizes)
        if num_tokens < LEAST_SHARE * due:
            return (
                f"the server has read {num_tokens} tokens, but {len(sizes)} frames alone "
                f"cost {due} there: it throws a part of the context away; {ADVICE}"
            )
        if num_before is not None and num_tokens < num_before:
            return (
                f"the server has read {num_tokens} tokens, {num_before} for the turn "
                f"before, but the context has only grown: it throws a part of it away; {ADVICE}"
            )
        return ""
