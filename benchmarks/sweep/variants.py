"""Variants: the rows of the sweep, each the base pipeline with one thing changed.

The one idea: a variant says what it has in common with another row of the same seed (its pairs, its
cold start, its samples), so that nothing is trained twice and differences have one cause.

>>> [variant.name for variant in VARIANTS.values() if variant.tier == 1]
['base', 'a-strong-start', 'b-no-rft', 'c-random-frames', 'e-no-gain', 'window-null']
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PAIRS = ("pairs", "splits", "captions", "models/start", "runs/start")
"""What a row shares that has a cold start of its own."""
COLD_START = (
    *PAIRS,
    "traces",
    "models/cold_start",
    "runs/cold_start",
    "runs/cold_start-sampled",
)
"""What a row shares that has samples of its own."""
RFT = (*COLD_START, "samples", "models/rft", "runs/rft", "runs/rft-sampled")
"""What a row shares that has only its GRPO to itself."""


@dataclass(frozen=True)
class Variant:
    """One row of the sweep."""

    name: str
    tier: int
    """1: five seeds, what the method stands on; 2: three seeds, the rest."""
    what: str
    """What is changed, in words."""
    shares: tuple[str, ...] = ()
    """Results of `parent` that it starts with, by their path in the pipeline's folder."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment of `recipes/pipeline.sh`."""
    parent: str = "base"
    """The row that it is compared with, and whose results it shares."""
    needs: str = ""
    """Why it cannot be run with this code; empty: it can."""

    @property
    def is_base(self) -> bool:
        return self.name == self.parent

    @property
    def has_same_start(self) -> bool:
        """True when GRPO starts from the same model as the parent's."""
        return "models/rft" in self.shares and "GRPO_START" not in self.settings


def _vary_grpo(name: str, tier: int, what: str, setting: str, parent: str = "base") -> Variant:
    return Variant(name, tier, what, RFT, {"GRPO_SETTINGS": setting}, parent)


_REWARD = "videosearch.reward"
_RANDOM = "pkg://benchmarks.sweep.random_frames:RandomFrames"
_RARE = {"TRACES": "--direct .9 --cued-gap .1"}
_ALL = (
    Variant("base", 1, "the pipeline as it is"),
    Variant(
        "a-strong-start",
        1,
        "cold start with the paper's filter (right traces only), without weakness on purpose",
        PAIRS,
        {"TRACES": "--cued-gap 1", "TRACE_FILTER": "correct"},
    ),
    Variant("b-no-rft", 1, "GRPO from the cold start, no RFT", RFT, {"GRPO_START": "cold_start"}),
    _vary_grpo(
        "c-random-frames",
        1,
        "random frames of the same video during GRPO",
        f'videosearch.episode.tools=["{_RANDOM}"]',
    ),
    _vary_grpo("e-no-gain", 1, "no gain term", f"{_REWARD}.gain_weight=0"),
    Variant(
        "window-null", 1, "trained and judged with every frame in view", PAIRS, {"WINDOW": "null"}
    ),
    _vary_grpo("d-alpha-0", 2, "alpha 0: dimensions only", f"{_REWARD}.overall_weight=0"),
    _vary_grpo("d-alpha-1", 2, "alpha 1: the overall verdict only", f"{_REWARD}.overall_weight=1"),
    Variant("f-rare", 2, "a start that rarely searches", PAIRS, _RARE),
    Variant(
        "f-rare-no-exploration",
        2,
        "the same start, no exploration term",
        RFT,
        _RARE | {"GRPO_SETTINGS": f"{_REWARD}.exploration_weight=0"},
        "f-rare",
    ),
    _vary_grpo("g-no-dynamic", 2, "no dynamic sampling", "algorithm.filter_groups.enable=false"),
    Variant(
        "h-balanced-ties",
        2,
        "RFT on equal shares of verdicts instead of the pairs' own",
        COLD_START,
        {"SAMPLES": "--max-ratio 1"},
    ),
    Variant(
        "i-sequence-weights",
        2,
        "every sequence of an episode weighs the same, instead of every token",
        RFT,
        needs="this code has one weighing only",
    ),
    _vary_grpo(
        "needless-0.05", 2, "needless calls cost 0.05", f"{_REWARD}.needless_call_price=0.05"
    ),
    _vary_grpo("needless-0.2", 2, "needless calls cost 0.2", f"{_REWARD}.needless_call_price=0.2"),
)
VARIANTS = {variant.name: variant for variant in _ALL}
"""Name of a row to the row, in the order in which they are run and printed."""
SEEDS = {1: 5, 2: 3}
"""Tier to the number of seeds that it is planned with."""
