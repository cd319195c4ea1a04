"""Best-of-N by a judge over graded clips: how much better is the clip that it picks?

    python -m benchmarks.best_of_n --local outputs/demo/models/grpo            # the demo's judge
    python -m benchmarks.best_of_n --local outputs/demo/models/grpo --clips 8 --max-comparisons 16 --groups 20
    python -m benchmarks.best_of_n --endpoint http://localhost:8000/v1 --model NAME --groups 100

The one idea: the order of the clips is known, so a pick has a quality: 1 for the clean clip, 0 for
the worst, 0.5 on average for a pick by chance. The uplift is the mean quality of the picks minus
0.5, and tau-b says how well the scores order all clips of a group; both with a bootstrap interval
over groups. Clips are made anew, so that no judge has seen them."""  # noqa: E501

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from verl_videosearch.data_prep.hide_and_seek.graded import write_groups
from verl_videosearch.data_prep.hide_and_seek.profile import PROFILES

from benchmarks.rank import tau_b
from verl_videosearch.judge.judge import Judge
from verl_videosearch.judge.reward import ClipRewards, GroupScoreConfig
from verl_videosearch.judge.settings import JudgeConfig
from verl_videosearch.models.options import takes_source
from verl_videosearch.models.source import ModelSource


def measure_picks(scores: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Return the quality of each group's pick, 1 (best) to 0 (worst); clips stand best first, and
    equal scores share the pick.

    >>> measure_picks([[0.9, 0.1, 0.2], [0.5, 0.5, 0.1]]).tolist()
    [1.0, 0.75]
    """
    qualities = []
    for group in scores:
        known = [-1.0 if score is None else score for score in group]
        quality = np.linspace(1, 0, len(group))
        qualities.append(float(quality[np.isclose(known, max(known))].mean()))
    return np.array(qualities)


def measure_orders(scores: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Return Kendall's tau-b of each group's scores with the true order; clips stand best first,
    and one without a score is left out, as is a group with fewer than two.

    >>> measure_orders([[0.9, 0.5, 0.1], [0.1, None, 0.9], [None, 1.0]]).tolist()
    [1.0, -1.0]
    """
    taus = []
    for group in scores:
        known = [(-place, score) for place, score in enumerate(group) if score is not None]
        if len(known) < 2:
            continue
        taus.append(tau_b([place for place, _ in known], [score for _, score in known]))
    return np.array(taus)


def bootstrap_mean(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Return (mean, low, high): a 95 % interval over resampled groups."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(10_000, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


app = typer.Typer(add_completion=False)


@app.command()
@takes_source()
def main(
    groups: Annotated[int, typer.Option(min=2, help="Groups to pick from.")] = 50,
    clips: Annotated[int, typer.Option(min=2, help="Clips of a group.")] = 4,
    max_comparisons: Annotated[int | None, typer.Option(min=1, help="Per group.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the clips.")] = 1000,
    *,
    source: ModelSource,
) -> None:
    """Pick the best of N graded clips with a judge and say how good the picks are."""
    with tempfile.TemporaryDirectory() as folder:
        made = write_groups(Path(folder), groups, clips, seed, PROFILES["tiny"])
        judge = Judge(source=source, config=JudgeConfig(store=Path(folder) / "frames"))
        rewards = ClipRewards(judge=judge, config=GroupScoreConfig(max_comparisons))
        scored = rewards.score_groups([(prompt, paths, None) for prompt, paths in made])
        rewards.close()
    for each in scored:
        each.require_any()
    scores = [each.scores for each in scored]
    mean, low, high = bootstrap_mean(measure_picks(scores))
    tau = [round(value, 4) for value in bootstrap_mean(measure_orders(scores))]
    line = {
        "quality": round(mean, 4),
        "uplift": round(mean - 0.5, 4),
        "interval": [round(low - 0.5, 4), round(high - 0.5, 4)],
        "tau_b": tau[0],
        "tau_b_interval": tau[1:],
        "groups": groups,
        "clips": clips,
        "comparisons": sum(len(each.comparisons) for each in scored),
        "flips": sum(each.num_flips for each in scored),
    }
    typer.echo(json.dumps(line))


if __name__ == "__main__":
    app()
