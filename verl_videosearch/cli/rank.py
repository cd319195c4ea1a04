"""`videosearch rank`: the clips of one prompt from best to worst.

    videosearch rank "a cat jumps" clips/*.mp4 --local outputs/demo/models/grpo
    videosearch rank "a cat jumps" clips/*.mp4 --max-comparisons 16 --cache judge.sqlite ...

The one idea: comparisons that are in the cache are free, so one more clip costs only its own."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from verl_videosearch.cli.console import INCOMPLETE, explain_errors, say
from verl_videosearch.cli.judge import (
    CallOptions,
    Json,
    JudgeOptions,
    offers_models,
    refuse_missing,
)
from verl_videosearch.models.option_groups import takes_group
from verl_videosearch.models.options import takes_source
from verl_videosearch.models.source import ModelSource  # takes_source looks it up
from verl_videosearch.report.plain_text import clean_text

if TYPE_CHECKING:
    from verl_videosearch.judge.clip_ranking import ClipRanking


@offers_models
@takes_source()
@takes_group(CallOptions)
@takes_group(JudgeOptions)
def run_rank(
    prompt: Annotated[str, typer.Argument(help="Text prompt of all clips.")],
    videos: Annotated[list[Path], typer.Argument(help="Two clips or more.")],
    max_comparisons: Annotated[
        int | None, typer.Option(min=1, help="Most new comparisons; default: every pair.")
    ] = None,
    as_json: Json = False,
    *,
    options: JudgeOptions,
    call: CallOptions,
    source: ModelSource,
) -> None:
    """Rank the clips of one prompt by comparing two at a time."""
    from verl_videosearch.failures import EpisodeFailure
    from verl_videosearch.runs.progress import make_bar

    with explain_errors():
        if len(videos) < 2:
            raise ValueError("give two clips or more: videosearch rank PROMPT A.mp4 B.mp4 ...")
        refuse_missing(videos)
        judge = options.make_judge(source, **asdict(call))
        num_pairs = len(videos) * (len(videos) - 1) // 2
        with judge, make_bar() as bar:
            total = min(max_comparisons or num_pairs, num_pairs)
            task = bar.add_task("comparisons", total=total, figures="")
            try:
                ranking = judge.rank(prompt, videos, max_comparisons, lambda: bar.advance(task))
            except EpisodeFailure as failure:
                goes_on = failure.cause == "deadline" and judge.config.cache is not None
                advice = "; the same command goes on" if goes_on else ""
                raise ValueError(f"no ranking: {failure.detail}{advice}") from failure
    if as_json:
        typer.echo(json.dumps(ranking.to_json()))
    else:
        _show(ranking)
    if ranking.tournament.failed:
        raise typer.Exit(INCOMPLETE)


def _show(ranking: ClipRanking) -> None:
    content = ranking.to_json()
    table = Table("rank", "clip", "wins", "strength, 95 %")
    for clip in content["clips"]:
        low, high = clip["interval"]
        strength = f"{clip['strength']:+.2f} [{low:+.2f}, {high:+.2f}]"
        name = escape(clean_text(clip["video"]))
        rank, wins = str(clip["rank"]), f"{clip['win_rate']:.0%}"
        if not clip["num_comparisons"]:
            rank = wins = "-"
        table.add_row(rank, name, wins, strength)
    Console().print(table)
    say(
        f"{content['num_comparisons']} comparisons, {content['num_new']} of them new, "
        f"{content['num_known']} remembered"
    )
    for video in ranking.uncompared:
        say(f"no verdict is about it, so it has no rank: {video}")
    for cycle in ranking.cycles:
        say("in a circle, each beats the next: " + " > ".join([*cycle, cycle[0]]))
    for first, second in content["undecided"]:
        say(f"no readable verdict: {first} and {second}")
    for first, second, reason in content["failed"]:
        say(f"failed: {first} and {second}: {reason}")
