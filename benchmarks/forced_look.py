"""What a tiny judge sees: its verdicts after a look behind the cue that it was made to take.

    python -m benchmarks.forced_look outputs/demo/models/cold_start outputs/demo/pairs

The first turn of every test pair is the template teacher's, which asks for the frames behind the
cue; then the model goes on by itself, greedily. So this is the accuracy that the model would have
if it always searched, and always in the right place: what is missing from 100 % is seeing and
weighing, what is missing from this to the model's own accuracy is choosing.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer
from verl_videosearch.data_prep.traces.teacher import TeacherConfig, TemplateTeacher

from verl_videosearch.episode import Episode, EpisodeConfig
from verl_videosearch.evaluation.probes import ReplayedReplies
from verl_videosearch.judgement import OVERALL, Judgement
from verl_videosearch.metrics import Rate
from verl_videosearch.models.local import LocalConfig, LocalModel
from verl_videosearch.recipe import read_episode_settings
from verl_videosearch.rollout import run_episode
from verl_videosearch.sample import PreferenceSample, read_samples
from verl_videosearch.video.pair import load_pair
from verl_videosearch.video.store import FrameStore


async def judge(
    sample: PreferenceSample,
    model: LocalModel,
    store: FrameStore,
    root: Path,
    config: EpisodeConfig,
) -> bool:
    """Force the first turn of one pair; returns whether the overall verdict is right."""
    pair = await asyncio.to_thread(load_pair, sample, store, config, root)
    episode = Episode(sample, pair.candidates, config)
    first = await TemplateTeacher(sample, pair.candidates, config, TeacherConfig())(
        episode.messages(), []
    )
    result = await run_episode(episode, pair, ReplayedReplies([first.text], model))
    return (
        isinstance(result.verdict, Judgement) and result.verdict.overall == sample.labels[OVERALL]
    )


async def judge_all(samples: list[PreferenceSample], model: LocalModel, root: Path) -> list[bool]:
    """Judge all pairs, some of them at a time."""
    config = EpisodeConfig.from_dict(read_episode_settings("videosearch_grpo_tiny"))
    store, slots = FrameStore(), asyncio.Semaphore(64)

    async def judge_one(sample: PreferenceSample) -> bool:
        async with slots:
            return await judge(sample, model, store, root, config)

    return await asyncio.gather(*map(judge_one, samples))


def main(
    model: Annotated[Path, typer.Argument(help="Hugging Face folder.")],
    pairs: Annotated[
        Path, typer.Argument(help="Folder of hide-and-seek pairs, with test.parquet.")
    ],
) -> None:
    """Print the accuracy after a forced look, per pair type."""
    samples = read_samples(pairs / "test.parquet")
    flags = asyncio.run(
        judge_all(samples, LocalModel(model, LocalConfig(max_turn_tokens=128)), pairs)
    )
    of_type: dict[str, list[bool]] = defaultdict(list)
    for sample, flag in zip(samples, flags, strict=True):
        of_type[sample.meta["pair_type"]].append(flag)
    for name, each in {"all": flags, **of_type}.items():
        typer.echo(f"{name:8} {Rate.of(each).with_interval()}")


if __name__ == "__main__":
    typer.run(main)
