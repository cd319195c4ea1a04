"""Let a teacher judge pairs through the same Episode as everything else, keep what is right, and
write SFT rows.

    python -m data_prep.cold_start --pairs outputs/hide_and_seek/train.parquet --video-root
    outputs/hide_and_seek \\
        --out outputs/cold_start --recipe videosearch_cold_start_tiny                     # template teacher
    OPENAI_API_KEY=... python -m data_prep.cold_start --pairs pairs.parquet --video-root VIDEOS
    --out outputs/gpt4o \\
        --teacher https://api.openai.com/v1 --model gpt-4o --price-in 2.5 --price-out 10   # any compatible server

The one idea: the teacher sees what the student will see, and only what a filter finds well-formed
and right is taught. Every pair ends as a line of `accepted.jsonl` or `rejected.jsonl`; the same
command goes on after a kill. `sft.parquet` is written at the end from what was accepted, in the
order of the pairs.

Covers: one trace per pair (paper section 4.1). Does not cover: several per pair
(`rejection_sampling`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from verl_videosearch.data_prep.traces.judging import (
    RunConfig,
    TeacherFn,
    TraceLog,
    claim_folder,
    judge_pairs,
)
from verl_videosearch.data_prep.traces.sft_rows import write_sft_rows
from verl_videosearch.data_prep.traces.teacher import TeacherConfig, TemplateTeacher
from verl_videosearch.data_prep.traces.trace_filter import Filter
from verl_videosearch.data_prep.traces.trace_report import (
    estimate_tokens,
    tabulate_cost,
    tabulate_reasons,
    tabulate_yields,
)

from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.failures import EpisodeFailure
from verl_videosearch.models.client import ChatClient, ClientConfig, Usage
from verl_videosearch.recipe import read_episode
from verl_videosearch.sample import PreferenceSample, read_samples
from verl_videosearch.video.pair import load_pair
from verl_videosearch.video.store import FrameStore

TEMPLATE = "template"
SFT_ROWS = "sft.parquet"


def read_weights(text: str) -> tuple[float, ...]:
    """Read weights, with commas between.

    >>> read_weights("0.4,0.3,0.3")
    (0.4, 0.3, 0.3)
    """
    try:
        return tuple(float(weight) for weight in text.split(","))
    except ValueError as error:
        raise ValueError(
            f"--looks takes numbers with commas between, such as 0.4,0.3,0.3; got {text!r}"
        ) from error


def read_pairs(files: Sequence[Path], limit: int | None) -> list[PreferenceSample]:
    """Read the pairs that can be judged right or wrong: those with a gold label."""
    samples = [sample for file in files for sample in read_samples(file)]
    twice = [uid for uid, count in Counter(sample.uid for sample in samples).items() if count > 1]
    if twice:
        raise ValueError(
            f"sample_uid must be unique, {len(twice)} come more than once, such as {twice[0]!r}"
        )
    return [each for each in samples if any(label is not None for label in each.labels.values())][
        :limit
    ]


def print_cost(
    samples: Sequence[PreferenceSample],
    store: FrameStore,
    config: RunConfig,
    prices: tuple[float, float] | None,
    console: Console,
) -> None:
    """Estimate tokens and price from the first pair whose videos can be read."""
    counts = sorted({0, min(1, config.episode.max_tool_calls), config.episode.max_tool_calls})
    for sample in samples:
        try:
            pair = load_pair(sample, store, config.episode, config.video_root)
        except EpisodeFailure:
            continue
        estimates = {f"{n} calls": estimate_tokens(sample, pair, config.episode, n) for n in counts}
        console.print(tabulate_cost(estimates, len(samples), prices))
        return


@asynccontextmanager
async def open_teacher(
    teacher: TeacherConfig | ClientConfig, episode: EpisodeConfig
) -> AsyncIterator[tuple[TeacherFn, Usage]]:
    """Yield what gives each pair its teacher, and what that consumes."""
    if isinstance(teacher, ClientConfig):
        async with ChatClient(teacher) as client:
            yield (
                lambda sample, candidates: client.for_episode(name=sample.uid),
                client.endpoint.usage,
            )
    else:
        yield (
            lambda sample, candidates: TemplateTeacher(sample, candidates, episode, teacher),
            Usage(),
        )


async def run(
    samples: Sequence[PreferenceSample],
    teacher: TeacherConfig | ClientConfig,
    store: FrameStore,
    config: RunConfig,
    out: Path,
    console: Console,
) -> None:
    """Judge the pairs, write the rows, print the tables."""
    log = TraceLog(out)
    try:
        async with open_teacher(teacher, config.episode) as (teacher_of, usage):
            with Progress(console=console) as progress:
                task = progress.add_task(
                    "judging pairs", total=len({s.uid for s in samples} - log.done)
                )
                failures = await judge_pairs(
                    samples, teacher_of, store, config, log, on_done=lambda: progress.advance(task)
                )
    finally:
        log.close()
    traces = log.in_order(samples)
    num_rows = write_sft_rows(out / SFT_ROWS, [trace for trace in traces if trace.is_accepted])
    console.print(tabulate_yields(traces))
    if failures or num_rows < len(traces):
        console.print(tabulate_reasons(traces, failures))
    if usage.num_requests:
        prompt, reply = usage.num_prompt_tokens, usage.num_reply_tokens
        console.print(
            f"{usage.num_requests:,} requests, {prompt:,} prompt tokens, {reply:,} reply tokens in this run"
        )
    console.print(f"{num_rows} traces in {out / SFT_ROWS}", highlight=False)


def main(
    pairs: Annotated[
        list[Path], typer.Option(help="Parquet file of pairs; may be given more than once.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the logs and sft.parquet.")],
    video_root: Annotated[
        Path | None, typer.Option(help="Folder that relative video paths start from.")
    ] = None,
    teacher: Annotated[
        str, typer.Option(help="template, or the URL of an OpenAI-compatible server.")
    ] = TEMPLATE,
    model: Annotated[str, typer.Option(help="The teacher's name on that server.")] = "",
    recipe: Annotated[
        str | None, typer.Option(help="Take the episode settings of this recipe.")
    ] = None,
    episode: Annotated[
        list[str] | None, typer.Option(help="Change one of them: window=2; repeatable.")
    ] = None,
    stages: Annotated[
        Filter, typer.Option("--filter", help="well_formed keeps wrong answers.")
    ] = Filter.CORRECT,
    limit: Annotated[int | None, typer.Option(help="Only the first pairs.")] = None,
    store: Annotated[
        Path | None, typer.Option(help="Frame store; default: $VIDEOSEARCH_FRAME_STORE.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Episodes at the same time.")] = 8,
    key_variable: Annotated[
        str, typer.Option(help="Environment variable with the key.")
    ] = ClientConfig.key_variable,
    temperature: Annotated[
        float, typer.Option(help="Of the served teacher.")
    ] = ClientConfig.temperature,
    max_turn_tokens: Annotated[
        int, typer.Option(help="Most tokens of one reply.")
    ] = ClientConfig.max_turn_tokens,
    timeout_s: Annotated[
        float, typer.Option(help="Most seconds of one request.")
    ] = ClientConfig.timeout_s,
    max_retries: Annotated[int, typer.Option(help="Further tries of a request.")] = 5,
    rate: Annotated[float | None, typer.Option(help="Most requests per minute.")] = None,
    price_in: Annotated[
        float | None, typer.Option(help="Price of a million prompt tokens.")
    ] = None,
    price_out: Annotated[
        float | None, typer.Option(help="Price of a million reply tokens.")
    ] = None,
    estimate_only: Annotated[
        bool, typer.Option("--estimate-only", help="Stop after the cost estimate.")
    ] = False,
    direct: Annotated[
        float, typer.Option(help="Template: weight of answering at first sight.")
    ] = TeacherConfig.direct,
    cued_gap: Annotated[
        float, typer.Option(help="Template: weight of looking behind the cue.")
    ] = TeacherConfig.cued_gap,
    wrong_gap: Annotated[
        float, typer.Option(help="Template: weight of looking elsewhere.")
    ] = TeacherConfig.wrong_gap,
    detour: Annotated[
        float, typer.Option(help="Template: weight of looking elsewhere, then behind the cue.")
    ] = TeacherConfig.detour,
    one_cue: Annotated[
        float, typer.Option(help="Template: weight of looking behind the first of two cues only.")
    ] = TeacherConfig.one_cue,
    looks: Annotated[
        str, typer.Option(help="Template: weights of 0, 1, ... calls without a cue.")
    ] = "0.4,0.3,0.3",
    max_calls: Annotated[
        int | None, typer.Option(help="Template: most calls; default: the episode's limit.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Template: the same seed gives the same words.")] = 0,
) -> None:
    """Make cold-start traces."""
    console = Console()
    try:
        samples = read_pairs(pairs, limit)
        if teacher == TEMPLATE:
            chosen = TeacherConfig(
                direct,
                cued_gap,
                wrong_gap,
                detour,
                read_weights(looks),
                max_calls,
                one_cue=one_cue,
                seed=seed,
            )
            name = TEMPLATE
        else:
            limits = {
                "timeout_s": timeout_s,
                "max_requests_per_minute": rate,
            }
            chosen = ClientConfig(
                teacher, model, key_variable, temperature, max_turn_tokens, **limits
            )
            name = model
        config = RunConfig(
            read_episode(recipe, episode or ()), stages, video_root, name, concurrency=concurrency
        )
        frame_store = FrameStore(store)
        if teacher != TEMPLATE or estimate_only:
            prices = None if price_in is None or price_out is None else (price_in, price_out)
            print_cost(samples, frame_store, config, prices, console)
        if not estimate_only:
            claim_folder(out, describe_run(config, chosen))
            asyncio.run(run(samples, chosen, frame_store, config, out, console))
    except (
        ValueError,
        ImportError,
    ) as error:  # a wrong option or file, a server that refuses this model
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def describe_run(config: RunConfig, teacher: TeacherConfig | ClientConfig) -> dict[str, Any]:
    """Return what decides the traces of a run, as plain data."""
    how = {
        "teacher": config.teacher_name,
        "filter": config.stages.value,
        "episode": asdict(config.episode),
    }
    if isinstance(teacher, TeacherConfig):
        return how | {"choices": asdict(teacher)}
    return how | {"temperature": teacher.temperature, "max_turn_tokens": teacher.max_turn_tokens}


if __name__ == "__main__":
    typer.run(main)
