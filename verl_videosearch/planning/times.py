"""Hours of each stage of the 7B pipeline, from counts of tokens and stated assumptions.

The one idea: seconds = starts + tokens x FLOPs per token / what the cards do. The counts follow
from the recipe and the pipeline (`recipes/7b.sh`); what nobody has measured for this package is a
constant below, printed with the plan, so that whoever knows better can do the sum again.

Covers: the stages of `recipes/7b.sh`, decoding of videos apart. Does not cover: a teacher's own
speed, other cards than H100.
"""

from __future__ import annotations

from dataclasses import dataclass

from verl_videosearch.planning.setup import NUM_STEPS, Setup
from verl_videosearch.planning.shapes import ModelName, build_model, measure_model
from verl_videosearch.report.table import Table

PEAK_FLOPS = 989e12
"""Of an H100 in bfloat16, from its data sheet."""
TRAIN_SHARE = 0.30
"""Of the peak, in forward and backward passes with recomputation: an assumption."""
READ_SHARE = 0.40
"""Of the peak, where vLLM reads a context: an assumption."""
SAMPLED_PER_S = 1500.0
"""Tokens that one card's vLLM samples in a second, at 32 contexts of 9,500: an assumption."""
START_S = 300.0
"""From a command to its first step or episode: an assumption."""
SAVE_S = 120.0
"""Of one checkpoint: an assumption."""
TEACHER_PER_S = 1.0
"""Episodes of the teacher in a second: an assumption, whatever the teacher is."""
RIGHT_SHARE = 0.5
"""Of the teacher's episodes, taken as traces: an assumption."""
SAMPLED_SHARE = 3.0
"""Batches that dynamic sampling plays for one that is trained on, where half of the groups have no
signal (an assumption): verl 0.9.1 starts two groups for each of those, so a whole batch is running
when the second one has made the first complete, and what runs is played to its end and thrown away
(`replay_buffer.py`, sync)."""
NUM_CALLS = 1.5
"""Of an episode: an assumption."""
REPLY_TOKENS = 300
"""Of a turn: an assumption."""
FIRST_TOKENS, CALL_TOKENS = 4911, 3378
"""Of the first context, and of what a call adds (docs/seven_b.md)."""
TRAINED_TOKENS = 13_400
"""Of all training sequences of an episode with 1.5 calls (docs/seven_b.md, window 1)."""
IMAGE_SHARE = 0.8
"""Of these tokens: images (docs/seven_b.md)."""
PATCHES_PER_TOKEN = 4
"""What the vision tower sees for one token."""
PARTS = {"cold_start": 0.02, "rft": 0.22}
"""Of all pairs (`recipes/7b.sh`)."""
TARGET, SAMPLES_PER_PAIR = 20_000, 8
"""Traces of rejection sampling; 4 episodes in both orders (`recipes/7b.sh`)."""
VALIDATION_EPISODES = 1_024
"""Both orders of 512 pairs (`recipes/7b.sh`)."""
BENCHMARK_EPISODES = 59_000
"""Both orders of three benchmarks, for each of three models."""
COLD_START_EPOCHS = 2
SAMPLED_TOKENS = (NUM_CALLS + 1) * REPLY_TOKENS


@dataclass(frozen=True)
class StageTime:
    """One stage and what it takes."""

    name: str
    work: str
    seconds: float


@dataclass(frozen=True)
class Costs:
    """Seconds of all cards together."""

    train: float
    """To train one token."""
    look: float
    """To compute log-probabilities of one token."""
    read: float
    """To read one token of a context."""
    sample: float
    """To sample one token."""

    def play(self, num_episodes: float) -> float:
        """Return the seconds of episodes; none finds its first context in a cache (each of a
        group has a request id of its own, and verl's balancer spreads those over the servers)."""
        read = FIRST_TOKENS + NUM_CALLS * CALL_TOKENS
        return num_episodes * (read * self.read + SAMPLED_TOKENS * self.sample)


def count_costs(setup: Setup, name: ModelName) -> Costs:
    """Return what a token costs on all cards of a setup."""
    size = measure_model(build_model(name))
    text = size.all - size.vision
    forward = 2 * (text + IMAGE_SHARE * PATCHES_PER_TOKEN * size.vision)
    cards = setup.num_gpus * PEAK_FLOPS
    return Costs(
        train=4 * forward / (cards * TRAIN_SHARE),  # forward, again, and backward twice as much
        look=forward / (cards * TRAIN_SHARE),
        read=forward / (cards * READ_SHARE),
        sample=1 / (setup.num_gpus * SAMPLED_PER_S),
    )


def count_steps(setup: Setup) -> tuple[int, int, int]:
    """Return how often GRPO steps, validates and saves."""
    engine = setup.engine
    if engine is None:
        return NUM_STEPS, 0, 0
    every = (engine.validate_every, engine.save_every)
    validated, saved = (engine.num_steps // each if each else 0 for each in every)
    return engine.num_steps, validated, saved


def plan_pipeline(setup: Setup, name: ModelName, num_pairs: int) -> list[StageTime]:
    """Return the stages of `recipes/7b.sh` with their seconds."""
    costs = count_costs(setup, name)
    batch = setup.engine.num_episodes if setup.engine else 2048
    num_taught = num_pairs * PARTS["cold_start"]
    traces = num_taught * RIGHT_SHARE
    sampled = min(TARGET, num_pairs * PARTS["rft"]) * SAMPLES_PER_PAIR
    step = costs.play(batch * SAMPLED_SHARE) + batch * TRAINED_TOKENS * (
        2 * costs.look + costs.train
    )  # two: of the policy itself, and of the reference
    num_steps, num_validated, num_saved = count_steps(setup)
    grpo = num_steps * step + num_validated * costs.play(VALIDATION_EPISODES) + num_saved * SAVE_S
    judged = 3 * BENCHMARK_EPISODES
    return [
        StageTime("traces", f"{num_taught:,.0f} episodes of a teacher", num_taught / TEACHER_PER_S),
        StageTime(
            "cold_start",
            f"{COLD_START_EPOCHS} x {traces:,.0f} traces",
            START_S + SAVE_S + COLD_START_EPOCHS * traces * TRAINED_TOKENS * costs.train,
        ),
        StageTime("samples", f"{sampled:,.0f} episodes", START_S + costs.play(sampled)),
        StageTime(
            "rft",
            f"{TARGET:,} traces",
            START_S + SAVE_S + TARGET * TRAINED_TOKENS * costs.train,
        ),
        StageTime("grpo", f"{num_steps} steps of {batch:,} episodes", START_S + grpo),
        StageTime("judges", f"{judged:,} episodes", 9 * START_S + costs.play(judged)),
    ]


def show_stages(stages: list[StageTime]) -> Table:
    """List the stages with their hours."""
    rows = [(stage.name, stage.work, f"{stage.seconds / 3600:.1f}") for stage in stages]
    total = sum(stage.seconds for stage in stages) / 3600
    rows.append(("**sum**", "", f"**{total:.1f}**"))
    return Table("Hours", ("stage", "work", "hours"), rows)


def show_speed() -> Table:
    """List the assumptions, none of which we have measured."""
    rows = [
        (
            "peak of a card, training, reading",
            f"{PEAK_FLOPS:.3g}, {TRAIN_SHARE:.0%}, {READ_SHARE:.0%}",
        ),
        ("tokens sampled in a second by a card", f"{SAMPLED_PER_S:,.0f}"),
        ("calls of an episode, tokens of a reply", f"{NUM_CALLS}, {REPLY_TOKENS}"),
        ("tokens trained of an episode", f"{TRAINED_TOKENS:,}"),
        ("batches played for one trained on", f"{SAMPLED_SHARE:g}"),
        ("episodes of the teacher in a second", f"{TEACHER_PER_S:g}"),
    ]
    return Table("Assumptions", ("what", "assumed"), rows)
