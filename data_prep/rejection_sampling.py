"""Let the policy judge each pair several times, keep the shortest right episode, balance, and write
SFT rows.

    python -m data_prep.rejection_sampling --pairs pairs.parquet --video-root VIDEOS --out
    outputs/rft \\
        --recipe videosearch_rft --serve CHECKPOINT                       # starts vLLM here, and stops it
    python -m data_prep.rejection_sampling ... --endpoint http://a:8000/v1 --endpoint
    http://b:8000/v1 --model judge
    python -m data_prep.rejection_sampling ... --shard 0/4                # one of four processes; then once without

The one idea: playing and choosing are apart. Playing only appends to a log (`attempts`), so it can
be killed, spread over machines and continued with more pairs or more samples; choosing
(`selection`) is a pure function of the log.

| file of `--out` | holds |
|---|---|
| `shard-I-of-N/journal.jsonl` | every episode, accepted or not, with all that made it; and every failure |
| `sft.parquet` | the selection, as `VideoSearchSFTDataset` reads it |
| `provenance.jsonl` | a line per row of `sft.parquet`: model, checkpoint hash, server, seed, settings |
| `audit.json` | yields per dimension, source, order, verdict, turns; reasons; failures by kind |

Covers: method section 8. Does not cover: who taught the policy first (`cold_start`), training
(`recipes`)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from verl_videosearch.data_prep.cold_start import SFT_ROWS, read_pairs
from verl_videosearch.data_prep.traces.attempts import (
    Key,
    check_attempts,
    open_shard,
    read_attempts,
)
from verl_videosearch.data_prep.traces.judging import RunConfig
from verl_videosearch.data_prep.traces.players import (
    Endpoint,
    Players,
    Policy,
    find_endpoint,
    hash_served,
)
from verl_videosearch.data_prep.traces.sampling_report import (
    describe_run,
    find_missing_verdicts,
    tabulate_audit,
)
from verl_videosearch.data_prep.traces.selection import Selection, SelectionConfig, select
from verl_videosearch.data_prep.traces.sft_rows import write_sft_rows
from verl_videosearch.data_prep.traces.trace_filter import Filter

from verl_videosearch.evaluation.old_jobs import Job, RunLimits, ServerGone, run_jobs
from verl_videosearch.models.client import ClientConfig
from verl_videosearch.models.server import SERVER_LOG, serve_checkpoint
from verl_videosearch.recipe import read_episode
from verl_videosearch.runs.folder import RunFolder
from verl_videosearch.runs.identity import UNKNOWN_MODEL, hash_model
from verl_videosearch.sample import Order, PreferenceSample
from verl_videosearch.video.store import FrameStore

PROVENANCE, AUDIT = "provenance.jsonl", "audit.json"


@dataclass(frozen=True)
class Servers:
    """Where the policy is served: by others, or by a server that this program starts."""

    urls: Sequence[str]
    serve: Path | None
    """Checkpoint to serve here."""
    options: Sequence[str]
    """For the server that is started, as `vllm serve` takes them."""
    key_variable: str

    def __post_init__(self) -> None:
        if bool(self.urls) == (self.serve is not None):
            raise ValueError("give either --endpoint URL (one or more) or --serve CHECKPOINT")

    def hash_checkpoint(self, model: str, given: Path | None) -> str:
        """Name the checkpoint by its files: those given, those to be served, or those that the
        servers have loaded."""
        folder = given or self.serve
        return (
            hash_model(folder)
            if folder
            else hash_served([self._find(url, model) for url in self.urls])
        )

    @contextmanager
    def open(self, model: str, log: Path) -> Iterator[list[Endpoint]]:
        """Yield the servers, all of them up."""
        if self.serve is None:
            yield [self._find(url, model) for url in self.urls]
            return
        with serve_checkpoint(self.serve, model, log, self.options) as url:
            yield [
                find_endpoint(
                    url, model, self.key_variable, name=f"started on {socket.gethostname()}"
                )
            ]

    def _find(self, url: str, model: str) -> Endpoint:
        return find_endpoint(url, model, self.key_variable)


def plan_keys(
    samples: Sequence[PreferenceSample], orders: Sequence[Order], num_samples: int
) -> list[Key]:
    """List the episodes to play; those of one input stand together."""
    return [
        Key(sample.uid, order, index)
        for sample in samples
        for order in orders
        for index in range(num_samples)
    ]


def read_shard(text: str | None) -> tuple[int, int]:
    """Read which part of the pairs this process plays.

    >>> read_shard("1/4"), read_shard(None)
    ((1, 4), (0, 1))
    """
    index, slash, count = (text or "0/1").partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ValueError(f"--shard takes i/n with 0 <= i < n, such as 0/4; got {text!r}")
    return int(index), int(count)


def play(
    keys: Sequence[Key],
    samples: dict[str, PreferenceSample],
    players: Players,
    folder: Path,
    settings: dict[str, Any],
    console: Console,
) -> None:
    """Play these episodes on one event loop, each a line of the log in `folder`; raises
    `ValueError` if servers die."""
    jobs = [Job(str(key), key) for key in keys]
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())

    async def drive() -> None:
        async with players:
            limits = RunLimits(players.config.concurrency)
            await run_jobs(
                jobs, lambda key: players.play(samples[key.uid], key), journal, limits, advance
            )

    with open_shard(folder, settings) as journal, Progress(*columns, console=console) as progress:
        task = progress.add_task("episodes", total=len(jobs))

        def advance() -> None:
            progress.advance(task)

        try:
            asyncio.run(drive())
        except ServerGone as error:
            raise ValueError(
                f"{error}; nothing is lost: repeat the command when the servers answer"
            ) from error


def finish(
    out: Path,
    keys: Sequence[Key],
    settings: dict[str, Any],
    config: SelectionConfig,
    is_whole: bool,
    console: Console,
) -> None:
    """Choose from the logs, write what is taught and where it comes from, and print the audit."""
    logs = read_attempts(out, settings)
    attempts = [logs.attempts[str(key)] for key in keys if str(key) in logs.attempts]
    selection = select(attempts, config)
    content = describe_run([str(key) for key in keys], logs, selection) | {
        "selection": asdict(config)
    }
    for table in tabulate_audit(content):
        console.print(table)
    for verdict in find_missing_verdicts(attempts, selection):
        console.print(
            f"no episode of gold verdict {verdict} was accepted: what is taught is one-sided",
            style="bold",
        )
    missing = content["planned"] - content["finished"]
    if missing:
        console.print(
            f"{missing} of {len(keys)} episodes are not finished; the same command tries them again"
        )
    if is_whole:
        write_selection(out, selection)
        RunFolder(out).write_json(AUDIT, content)
        console.print(f"{len(selection.taken)} traces in {out / SFT_ROWS}", highlight=False)
    else:
        console.print(
            "this was one shard: when all are done, the same command without --shard merges them"
        )


def write_selection(out: Path, selection: Selection) -> None:
    """Write the rows and, line by line, where they come from."""
    write_sft_rows(out / SFT_ROWS, [attempt.trace for attempt in selection.taken])
    lines = [
        dict(attempt.provenance)
        | {
            "sample_uid": attempt.key.uid,
            "order": attempt.key.order.value,
            "index": attempt.key.index,
        }
        | {"episode": asdict(attempt.trace.episode)}
        for attempt in selection.taken
    ]
    RunFolder(out).write_lines(PROVENANCE, lines)


def main(
    pairs: Annotated[
        list[Path], typer.Option(help="Parquet file of pairs; may be given more than once.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the logs and sft.parquet.")],
    video_root: Annotated[
        Path | None, typer.Option(help="Folder that relative video paths start from.")
    ] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(help="OpenAI-compatible vLLM server; repeatable.")
    ] = None,
    model: Annotated[str, typer.Option(help="The policy's name on the servers.")] = "policy",
    serve: Annotated[
        Path | None, typer.Option(help="Checkpoint: start a vLLM server for it, and stop it.")
    ] = None,
    serve_option: Annotated[
        list[str] | None, typer.Option(help="Option of vllm serve: --max-model-len=4096.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The served model's files, to name it by a hash.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Take the episode settings of this recipe.")
    ] = None,
    episode: Annotated[
        list[str] | None, typer.Option(help="Change one of them: window=2; repeatable.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Episodes per input.")] = 4,
    temperature: Annotated[float, typer.Option(min=0, help="Of the policy.")] = Policy.temperature,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Of the policy.")] = Policy.top_p,
    max_turn_tokens: Annotated[
        int, typer.Option(min=1, help="Most tokens of a reply.")
    ] = Policy.max_turn_tokens,
    both_orders: Annotated[
        bool, typer.Option("--both-orders", help="Play each pair swapped, too.")
    ] = False,
    stages: Annotated[
        Filter, typer.Option("--filter", help="well_formed keeps wrong answers.")
    ] = Filter.CORRECT,
    keep: Annotated[int, typer.Option(help="Most traces per input.")] = SelectionConfig.keep,
    target: Annotated[int | None, typer.Option(help="Most traces in all.")] = None,
    max_per_verdict: Annotated[
        int | None, typer.Option(help="Most traces of one overall verdict.")
    ] = None,
    max_ratio: Annotated[
        float, typer.Option(help="Most per trace of the scarcest verdict; inf: all.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of sampling, and of the draw among equals.")] = 0,
    shard: Annotated[
        str | None, typer.Option(help="i/n: play only this part of the pairs.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first pairs.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Episodes at the same time.")] = 16,
    episode_timeout_s: Annotated[float, typer.Option(help="Most seconds of one episode.")] = 900.0,
    key_variable: Annotated[
        str, typer.Option(help="Environment variable with the key.")
    ] = ClientConfig.key_variable,
    store: Annotated[
        Path | None, typer.Option(help="Frame store; default: $VIDEOSEARCH_FRAME_STORE.")
    ] = None,
) -> None:
    """Sample traces from a policy and keep what is worth learning."""
    console = Console()
    try:
        servers = Servers(endpoint or (), serve, serve_option or (), key_variable)
        selection = SelectionConfig(keep, target, max_per_verdict, max_ratio, seed)
        index, count = read_shard(shard)
        by_uid = {sample.uid: sample for sample in read_pairs(pairs, limit)[index::count]}
        policy_hash = servers.hash_checkpoint(model, checkpoint)
        if policy_hash == UNKNOWN_MODEL:
            console.print(
                "the servers' checkpoint cannot be seen from here; --checkpoint FOLDER names it by its files"
            )
        policy = Policy(model, policy_hash, temperature, top_p, max_turn_tokens, seed)
        episode_config = read_episode(recipe, episode or ())
        config = RunConfig(
            episode_config, stages, video_root, model, episode_timeout_s, concurrency
        )
        settings = {
            "policy": asdict(policy),
            "filter": stages.value,
            "episode": asdict(episode_config),
        }
        logs = read_attempts(out, settings)
        check_attempts(logs.attempts.values(), by_uid)
        keys = plan_keys(
            list(by_uid.values()), tuple(Order) if both_orders else (Order.AB,), samples
        )
        if waiting := [key for key in keys if str(key) not in logs.attempts]:
            folder = out / f"shard-{index}-of-{count}"
            with servers.open(model, folder / SERVER_LOG) as endpoints:
                players = Players(policy, config, FrameStore(store), endpoints, key_variable)
                play(waiting, by_uid, players, folder, settings, console)
        finish(out, keys, settings, selection, shard is None, console)
    except (
        ValueError,
        ImportError,
    ) as error:  # a wrong option or file, a server that refuses this model
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
