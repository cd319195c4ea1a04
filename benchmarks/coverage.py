"""How often does the 95 % interval hold the truth, when pairs of one prompt are alike?

    python -m benchmarks.coverage                 # GenAI-Bench's sizes: 1,889 pairs, 502 prompts
    python -m benchmarks.coverage --pairs 118 --prompts 80

The one idea: a judge whose true accuracy is known is asked again and again. Prompts differ in how
hard they are (a beta distribution whose spread gives the intraclass correlation), and have as many
pairs as a skewed draw gives them; each simulated benchmark gets the interval over prompts, as the
tables print it, and the one over pairs, as if they were independent. Also simulated: the interval
of a paired difference of two judges that are equally good, and how often its test says p < 0.05.

Does not cover: prompts of a real benchmark, whose correlation nobody knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import typer

from verl_videosearch.metrics import Rate, paired_bootstrap


@dataclass
class Coverage:
    """How often, of all simulated benchmarks."""

    by_prompt: int = 0
    by_pair: int = 0
    difference: int = 0
    false_alarms: int = 0
    """Paired tests that call two equal judges different at 5 %."""


def draw_sizes(num_pairs: int, num_prompts: int, rng: np.random.Generator) -> np.ndarray:
    """Return the pairs of each prompt: at least one each, the rest dealt with unequal chances."""
    chances = rng.gamma(1.0, size=num_prompts)
    rest = rng.multinomial(num_pairs - num_prompts, chances / chances.sum())
    return 1 + rest


def draw_flags(
    sizes: np.ndarray, accuracy: float, correlation: float, rng: np.random.Generator
) -> np.ndarray:
    """Return right or wrong for every pair; prompts differ by a beta distribution."""
    if not correlation:
        return rng.random(sizes.sum()) < accuracy
    strength = 1 / correlation - 1
    ease = rng.beta(accuracy * strength, (1 - accuracy) * strength, size=len(sizes))
    return rng.random(sizes.sum()) < np.repeat(ease, sizes)


def simulate(
    num_pairs: int,
    num_prompts: int,
    accuracy: float,
    correlation: float,
    num_trials: int,
    seed: int,
) -> Coverage:
    """Judge `num_trials` simulated benchmarks and count which intervals hold the truth."""
    rng, found = np.random.default_rng(seed), Coverage()
    for _ in range(num_trials):
        sizes = draw_sizes(num_pairs, num_prompts, rng)
        prompts = np.repeat(np.arange(num_prompts), sizes).tolist()
        flags, others = (draw_flags(sizes, accuracy, correlation, rng) for _ in range(2))
        by_prompt, by_pair = Rate.over(flags, prompts), Rate.of(flags).with_interval()
        found.by_prompt += by_prompt.low <= accuracy <= by_prompt.high
        found.by_pair += by_pair.low <= accuracy <= by_pair.high
        test = paired_bootstrap(flags, others, prompts)
        found.difference += test.low <= 0 <= test.high
        found.false_alarms += test.p_value < 0.05
    return found


def main(
    pairs: Annotated[int, typer.Option(min=2, help="Labelled pairs.")] = 1889,
    prompts: Annotated[int, typer.Option(min=2, help="Prompts that they share.")] = 502,
    accuracy: Annotated[float, typer.Option(help="The judge's true accuracy.")] = 0.687,
    trials: Annotated[int, typer.Option(min=1, help="Simulated benchmarks per row.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 0,
) -> None:
    """Print the coverage of the nominal 95 % intervals."""
    typer.echo(f"{pairs} pairs over {prompts} prompts, accuracy {accuracy}, {trials} benchmarks")
    typer.echo("correlation | over prompts | over pairs | difference, prompts | p < 0.05")
    for correlation in (0.0, 0.1, 0.2, 0.4):
        found = simulate(pairs, prompts, accuracy, correlation, trials, seed)
        counts = (found.by_prompt, found.by_pair, found.difference, found.false_alarms)
        cells = [f"{100 * count / trials:.1f} %" for count in counts]
        typer.echo(" | ".join([f"{correlation:.1f}", *cells]))


if __name__ == "__main__":
    typer.run(main)
