"""RunHeader: what every table of figures must name, so that two tables can be compared or known not
to be comparable.

The one idea: identity is content, not a path. Pairs are named by a hash of what they are (prompt,
videos, origin; the order of the two videos does not matter), a model by a hash of its files.
"""

from __future__ import annotations

from dataclasses import dataclass

from verl_videosearch.episode import EpisodeConfig

PROTOCOL = (
    "one verdict 0, 1 or 2 per pair; greedy; unreadable is wrong; a failed episode is no verdict"
)


@dataclass(frozen=True)
class RunHeader:
    """The conditions of a table; two tables with different headers are two different
    measurements."""

    benchmark: str
    split: str
    pairs_hash: str
    """Of all pairs of the run, whatever their order."""
    num_pairs: int
    """Pairs that were to be judged."""
    num_scored: int
    """Pairs with an episode in every order that was asked for."""
    order: str
    """How the orders of the videos are handled."""
    frames: str
    model: str
    model_hash: str
    """Of the model's files, or `UNKNOWN_MODEL`."""
    commit: str
    """Of this package, as it was when the episodes were made."""
    failed: str = "none"
    """Episodes without a result, by kind; they are in no figure."""
    verdicts: str = "as judged"
    """As judged, or by which calibration."""
    protocol: str = PROTOCOL

    def lines(self) -> list[tuple[str, str]]:
        """Return (name, value) for printing above a table."""
        return [
            ("protocol", self.protocol),
            (
                "pairs",
                f"{self.benchmark}, split {self.split}: {self.num_scored} of {self.num_pairs} "
                f"({self.pairs_hash})",
            ),
            ("failed episodes", self.failed),
            ("order", self.order),
            ("frames", self.frames),
            ("model", f"{self.model} ({self.model_hash})"),
            ("verdicts", self.verdicts),
            ("code", self.commit),
        ]


def describe_frames(config: EpisodeConfig, *, is_redundant: bool = False) -> str:
    """Say in words how many frames the judge may see.

    >>> describe_frames(EpisodeConfig())
    '48 candidates per video, 4 + 4 at first, then up to 3 calls of 8, window 1'
    >>> describe_frames(EpisodeConfig(max_tool_calls=0))
    '48 candidates per video, 4 + 4 at first, no calls'
    """
    first = config.initial_frames_per_video
    window = "all kept" if config.window is None else f"window {config.window}"
    plural = "" if config.max_tool_calls == 1 else "s"
    calls = (
        f"then up to {config.max_tool_calls} call{plural} of {config.max_frames_per_call}, {window}"
    )
    doubled = " and as many copies of them at random places" if is_redundant else ""
    return (
        f"{config.frames_per_video} candidates per video{doubled}, {first} + {first} at first, "
        f"{calls if config.max_tool_calls else 'no calls'}"
    )


def describe_protocol(temperature: float | None, seed: int) -> str:
    """Say how verdicts were made.

    >>> describe_protocol(0.8, 3)[:72]
    'one verdict 0, 1 or 2 per pair; sampled at temperature 0.8, seed 3; unre'
    """
    if temperature is None:
        return PROTOCOL.replace("greedy", "decoding not known")
    return (
        PROTOCOL.replace("greedy", f"sampled at temperature {temperature:g}, seed {seed}")
        if temperature
        else PROTOCOL
    )
