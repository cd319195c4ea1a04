"""`videosearch judge`: which of my two videos is better, why, and what was looked at.

    videosearch judge a.mp4 b.mp4 --prompt "a cat jumps" --local outputs/demo/models/grpo
    videosearch judge a.mp4 b.mp4 --prompt "a cat jumps" --serve CHECKPOINT --out verdict.html
    videosearch judge --pairs pairs.csv --endpoint http://localhost:8000/v1 --model judge --json

The one idea: without a model it lists the three ways to get one, each with a line to paste."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from verl_videosearch.cli.console import (
    INCOMPLETE,
    REFUSED,
    check_out,
    check_page,
    explain_errors,
    say,
)
from verl_videosearch.models.option_groups import (
    Concurrency,
    EpisodeTimeout,
    Recipe,
    Set,
    Store,
    takes_group,
)
from verl_videosearch.models.options import AcceptOtherSettings, takes_source
from verl_videosearch.models.source import ModelSource  # takes_source looks it up
from verl_videosearch.report.plain_text import clean_text

if TYPE_CHECKING:
    from verl_videosearch.episode import EpisodeConfig
    from verl_videosearch.judge.comparison import Comparison
    from verl_videosearch.judge.judge import Judge
    from verl_videosearch.judge.pair_judge import Outcome

Command = TypeVar("Command", bound=Callable[..., Any])
Pair = tuple[str, str, str]
"""Prompt, video 1, video 2."""
NUM_NAMED = 3
"""So many missing films are named, the others counted."""
Json = Annotated[bool, typer.Option("--json", help="Print everything as JSON, one object a line.")]


@dataclass(frozen=True)
class JudgeOptions:
    """How every command that judges asks its model."""

    one_order: Annotated[
        bool, typer.Option("--one-order", help="Ask once instead of in both orders: half the cost.")
    ] = False
    """Both orders show whether the judge only likes the first video."""
    recipe: Recipe = None
    """Null: the model's own settings."""
    set_: Set = None
    """Changes of these settings."""
    accept_other_settings: AcceptOtherSettings = False
    """Than the checkpoint was trained with."""
    calibration: Annotated[
        Path | None,
        typer.Option(help="File of `videosearch calibrate`; default: beside the model."),
    ] = None
    """Null: the one that lies beside the model, if any."""
    concurrency: Concurrency = 8
    """Of each server."""
    episode_timeout_s: EpisodeTimeout = 600.0
    """In seconds."""
    store: Store = None
    """Null: the default one."""

    def make_judge(self, source: ModelSource, **settings: Any) -> Judge:
        """Make the judge; `settings` are further ones of `JudgeConfig`. Raises `ValueError`."""
        from verl_videosearch.cli.console import read_assignments
        from verl_videosearch.judge.judge import Judge
        from verl_videosearch.judge.settings import BOTH_ORDERS, JudgeConfig
        from verl_videosearch.sample import Order

        changes = read_assignments(self.set_ or ())
        config = JudgeConfig(
            episode=_read_episode(source.folder, self.recipe, changes),
            orders=(Order.AB,) if self.one_order else BOTH_ORDERS,
            accepts_other_settings=self.accept_other_settings,
            calibration=self.calibration,
            concurrency=self.concurrency,
            timeout_s=self.episode_timeout_s,
            store=self.store,
            **settings,
        )
        return Judge(source=source, config=config)


@dataclass(frozen=True)
class CallOptions:
    """What one call of a judge on the command line may take."""

    cache: Annotated[
        Path | None, typer.Option(help="SQLite file that remembers episodes between commands.")
    ] = None
    """Null: nothing is remembered, but for `judge --pairs --out`, which keeps it beside `--out`."""
    deadline_s: Annotated[
        float | None, typer.Option(help="Most seconds of all of it, retries included.")
    ] = None
    """Null: as long as it takes."""


def offers_models(command: Command) -> Command:
    """Answer a command without a model with the three ways to get one, instead of a bare error."""

    @functools.wraps(command)
    def ask_first(**given: Any) -> Any:
        if not any(given.get(name) for name in ("endpoints", "serve", "local")):
            typer.echo(clean_text(list_ways()), err=True)
            raise typer.Exit(REFUSED)
        return command(**given)

    ask_first.__signature__ = command.__signature__  # type: ignore[attr-defined]
    ask_first.__annotations__ = command.__annotations__
    del ask_first.__wrapped__  # typer must see the options, not what is behind them
    return ask_first  # type: ignore[return-value]


def list_ways(given: Sequence[str] | None = None) -> str:
    """Say how to name a model, with this very command completed in three ways."""
    import sys

    words = list(sys.argv[1:] if given is None else given)
    begun = " ".join(["videosearch", *map(shlex.quote, words)])
    return f"""error: which model shall judge? Three ways, each a line to paste:

  a small model, in this process (for example the one that `make demo` trains):
    {begun} --local outputs/demo/models/grpo

  the folder of a checkpoint, served by vLLM for the length of the command:
    {begun} --serve CHECKPOINT

  a server that runs already (vLLM, or anything that speaks OpenAI's API):
    {begun} --endpoint http://localhost:8000/v1 --model NAME"""


@offers_models
@takes_source()
@takes_group(CallOptions)
@takes_group(JudgeOptions)
def run_judge(
    video_1: Annotated[Path | None, typer.Argument(help="The first video.")] = None,
    video_2: Annotated[Path | None, typer.Argument(help="The second video.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Text prompt that both videos were made from.")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Many pairs without labels: a csv or jsonl file with the columns prompt, video_1, "
            "video_2 (paths relative to the file), or a .parquet of samples."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Page (.html) of one pair; with --pairs: results (.jsonl).")
    ] = None,
    as_json: Json = False,
    *,
    options: JudgeOptions,
    call: CallOptions,
    source: ModelSource,
) -> None:
    """Judge two videos of one prompt, or a file of such pairs; no label is needed.

    What --pairs has judged is remembered beside its results (--out RESULTS: RESULTS.sqlite), so
    that the same command goes on where it was.
    """
    with explain_errors():
        _check_use(video_1, video_2, prompt, pairs)
        rows = None if pairs is None else _read_pairs(pairs)
        if rows is not None and out is not None and call.cache is None:
            call = replace(call, cache=out.with_name(f"{out.name}.sqlite"))
        if out is not None:
            films = [video for video in (video_1, video_2) if video is not None]
            (check_out if rows is not None else check_page)(out, [*films, pairs, call.cache])
        with options.make_judge(source, **asdict(call)) as judge:
            if rows is not None:
                _judge_pairs(judge, rows, out, as_json)
            else:
                _judge_one(judge, str(prompt), (video_1, video_2), out, as_json)


def _read_episode(
    folder: Path | None, recipe: str | None, changes: dict[str, Any]
) -> EpisodeConfig | None:
    """Return the recipe's settings, else the checkpoint's, with `changes`; None: the model's."""
    from verl_videosearch.recipe import find_settings, make_episode

    if recipe is None and not changes:
        return None
    return make_episode(find_settings(recipe, folder), changes, folder)


def _check_use(
    video_1: Path | None, video_2: Path | None, prompt: str | None, pairs: Path | None
) -> None:
    if pairs is not None and (video_1 or prompt):
        raise ValueError("--pairs names videos and prompts itself; leave out the others")
    if pairs is None and not (video_1 and video_2):
        raise ValueError("give two videos: videosearch judge A.mp4 B.mp4 --prompt TEXT")
    if pairs is None and not prompt:
        raise ValueError(
            "give the text prompt that both videos were made from: --prompt TEXT "
            "(how well a video follows it is a part of the verdict)"
        )
    refuse_missing([video for video in (video_1, video_2) if video is not None])


def refuse_missing(films: Iterable[Path]) -> None:
    """Raise `ValueError` when a film is no file: said before a model is loaded."""
    if missing := [film for film in films if not os.path.isfile(film)]:
        raise ValueError(f"no such file: {_name_films(missing)}")


def _name_films(films: Sequence[Path | str]) -> str:
    """Name the first films; an address, which nobody fetches, without its password."""
    from verl_videosearch.models.address import hide_password

    addresses = [film for film in films if re.match(r"\w+:/", str(film))]
    named = [hide_password(str(f)) if f in addresses else str(f) for f in films[:NUM_NAMED]]
    more = f" and {len(films) - NUM_NAMED} more" if len(films) > NUM_NAMED else ""
    advice = " (addresses are not fetched: download them first)" if addresses else ""
    return ", ".join(named) + more + advice


def _judge_one(
    judge: Judge, prompt: str, videos: tuple[Any, Any], out: Path | None, as_json: bool
) -> None:
    from verl_videosearch.failures import EpisodeFailure

    try:
        comparison = judge.compare(prompt, *videos)
    except EpisodeFailure as failure:
        typer.echo(clean_text(f"error: no verdict: {failure.detail}"), err=True)
        raise typer.Exit(INCOMPLETE) from failure
    if as_json:
        typer.echo(json.dumps(comparison.to_json()))
    else:
        say("\n".join(describe_comparison(comparison)))
    if out is not None:
        typer.echo(f"page: {comparison.to_page(out)}", err=as_json)


def describe_comparison(comparison: Comparison) -> list[str]:
    """Say a comparison in lines for a terminal: verdict, why, frames."""
    names = {dimension.key: dimension.name for dimension in comparison.dimensions}
    words = {0: "a tie", 1: "video 1", 2: "video 2"}
    lines = [
        str(comparison),
        f"  video 1: {comparison.video_1}",
        f"  video 2: {comparison.video_2}",
    ]
    verdicts = [
        f"{names.get(key, 'overall')}: {words[verdict]}"
        for key, verdict in (comparison.verdicts or {}).items()
    ]
    lines += ["", "verdicts   " + "; ".join(verdicts)] if verdicts else []
    lines += ["", *_describe_certainty(comparison)]
    for record in comparison.records:
        swapped = " (its video 1 is your video 2)" if record.order.value == "BA" else ""
        lines += ["", f"order {record.order.value}{swapped}"]
        for reasoning in comparison.reasoning:
            if reasoning.order is not record.order:
                continue
            said = " ".join(f"{reasoning.snapshot} {reasoning.thought}".split())
            lines.append(f"  turn {reasoning.turn}: {said or '(no reasoning)'}")
            frames = [
                f"{f.number} (video {f.video}, {f.time_s:.2f} s)"
                for f in comparison.frames_asked
                if (f.order, f.turn) == (reasoning.order, reasoning.turn)
            ]
            lines += [f"    looked at frames {', '.join(frames)}"] if frames else []
    return lines


def _describe_certainty(comparison: Comparison) -> list[str]:
    stated = ", ".join(
        f"{order.value} {'unsaid' if value is None else value}"
        for order, value in comparison.stated_confidence.items()
    )
    agree = {True: "agree", False: "disagree", None: "cannot be compared"}
    lines = [f"certainty  orders {agree[comparison.orders_agree]}; stated confidence {stated}"]
    if comparison.confidence is not None:
        lines[0] += f"; right in {comparison.confidence:.0%} of such pairs (calibrated)"
    read, written = comparison.num_prompt_tokens, comparison.num_reply_tokens
    cost = f"{read} tokens read, {written} written, " if read is not None else ""
    return [
        *lines,
        f"cost       {cost}{comparison.seconds:.1f} s, {comparison.num_cached} remembered",
    ]


def _read_pairs(path: Path) -> list[Pair]:
    """Read a file of pairs, and say before any model is loaded which films are not there."""
    from verl_videosearch.judge.pair_file import read_pairs

    pairs = read_pairs(path)
    films = dict.fromkeys(film for _, *videos in pairs for film in videos)
    missing = {film for film in films if not os.path.isfile(film)}
    if not missing:
        return pairs
    lost = sum(not missing.isdisjoint(videos) for _, *videos in pairs)
    words = f"{path}: no such file: {_name_films([film for film in films if film in missing])}"
    if lost == len(pairs):
        raise ValueError(f"{words}; paths are absolute or relative to the folder of {path.name}")
    typer.echo(clean_text(f"{words}; {lost} of {len(pairs)} pairs will fail"), err=True)
    return pairs


def _judge_pairs(judge: Judge, pairs: list[Pair], out: Path | None, as_json: bool) -> None:
    from verl_videosearch.failures import EpisodeFailure
    from verl_videosearch.runs.folder import RunFolder
    from verl_videosearch.runs.progress import make_bar

    if out is not None:
        kept = f"Killed, the same command goes on: episodes are kept in {judge.config.cache}."
        typer.echo(clean_text(kept), err=True)
    total = len(set(pairs)) * len(judge.config.orders)
    judge.cache.make_room(total)
    with make_bar() as bar:
        task = bar.add_task("episodes", total=total, figures="")
        try:
            outcomes = judge.compare_many(pairs, on_episode=lambda record: bar.advance(task))
        except EpisodeFailure as failure:  # the deadline
            advice = "" if judge.config.cache is None else "; the same command goes on"
            raise ValueError(f"not all pairs were judged: {failure.detail}{advice}") from failure
    lines = [describe_outcome(*each) for each in zip(pairs, outcomes, strict=True)]
    if out is not None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        RunFolder(out.parent).write_text(out.name, text)
    for number, (line, outcome) in enumerate(zip(lines, outcomes, strict=True), start=1):
        typer.echo(json.dumps(line)) if as_json else say(f"{number}: {line['error'] or outcome}")
    failed = sum(line["error"] is not None for line in lines)
    remembered = (
        ""
        if judge.config.cache is None
        else f"; {judge.cache.num_hits} of {total} episodes remembered"
    )
    words = f"{len(lines) - failed} of {len(lines)} pairs judged, {failed} failed{remembered}"
    typer.echo(words, err=True)
    if failed:
        raise typer.Exit(INCOMPLETE)


def describe_outcome(pair: tuple[str, Any, Any], outcome: Outcome) -> dict[str, Any]:
    """Return what became of one pair as plain data; `error` is null for a comparison."""
    from verl_videosearch.failures import EpisodeFailure

    if isinstance(outcome, EpisodeFailure):
        prompt, video_1, video_2 = pair
        paths = [os.path.abspath(video) for video in (video_1, video_2)]  # as in a comparison
        given = {"prompt": prompt, "video_1": paths[0], "video_2": paths[1]}
        return given | {"overall": None, "error": outcome.detail, "error_kind": outcome.label}
    return outcome.to_json() | {"error": None}
