"""Let the policy judge each pair several times, keep right episodes, and write SFT rows.

    python -m data_prep.rejection_sampling --pairs pairs.parquet --video-root VIDEOS --out RFT \\
        --recipe videosearch_rft --serve CHECKPOINT                # starts vLLM here, and stops it
    python -m data_prep.rejection_sampling ... --endpoint http://a:8000/v1 \\
        --endpoint http://b:8000/v1 --model judge
    python -m data_prep.rejection_sampling ... --shard 0/4         # one of four processes; then
                                                                   once without

The one idea: playing and choosing are apart. Playing only appends to a journal, so it can be
killed, spread over machines and continued with more pairs or more samples; choosing (`selection`)
is a pure function of the journal.

Inputs are asked in an order drawn by the seed, all samples of one before the next, and no further
than `--target` needs: so many inputs as could fill it, then as many more as the share of right ones
says. Only whole leading parts of that order are chosen from, so stopping early favours nobody -
neither the front of the file nor episodes that are short and done first.

| file of `--out` | holds |
|---|---|
| `shard-I-of-N/journal.jsonl` | every episode, accepted or not, with all that made it; every failure |
| `sft.parquet` | the selection, as `VideoSearchSFTDataset` reads it |
| `provenance.jsonl` | a line per row of `sft.parquet`: model, checkpoint hash, seed, settings |
| `audit.json` | yields per dimension, source, order, verdict, turns; reasons; failures by kind |

Covers: method section 8. Does not cover: who taught the policy first (`cold_start`), training
(`recipes`). Exit status: as in `verl_videosearch.runs.jobs`."""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from verl_videosearch.data_prep.cold_start import read_checked_pairs
from verl_videosearch.data_prep.traces.sampling_report import (
    describe_run,
    find_missing_verdicts,
    tabulate_audit,
)
from verl_videosearch.data_prep.traces.selection import (
    Choice,
    Input,
    Selection,
    SelectionConfig,
    draw_rank,
    find_shortfall,
    select,
)
from verl_videosearch.data_prep.traces.sft_rows import SFT_ROWS, make_sft_row, write_sft_rows
from verl_videosearch.data_prep.traces.shards import Shard, read_shards
from verl_videosearch.data_prep.traces.trace_filter import Filter, Trace, filter_records

from verl_videosearch.checkpoint import check_samples
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.models.option_groups import Recipe, RunOptions, Set, VideoRoot, takes_group
from verl_videosearch.models.options import AcceptOtherSettings, PriceIn, PriceOut, takes_source
from verl_videosearch.models.source import ModelSource, OpenModel
from verl_videosearch.recipe import read_episode
from verl_videosearch.report.console import explain_errors, say
from verl_videosearch.runs.estimate import Announcement, read_prices
from verl_videosearch.runs.folder import Journal, RunFolder
from verl_videosearch.runs.identity import UNKNOWN_MODEL, hash_model, make_identity
from verl_videosearch.runs.jobs import (
    MAX_FAILED_SHARE,
    ExitStatus,
    Job,
    RunLimits,
    RunSummary,
    check_share,
    list_waiting,
    run_jobs,
)
from verl_videosearch.runs.pairs import check_pairs
from verl_videosearch.runs.play import PlaySetup, derive_seed, play_episode
from verl_videosearch.runs.progress import show_progress
from verl_videosearch.runs.record import EpisodeRecord, Identity, RecordKind
from verl_videosearch.runs.session import SERVER_LOG, run_blocking
from verl_videosearch.sample import Order, PreferenceSample
from verl_videosearch.video.store import FrameStore

PROVENANCE, AUDIT = "provenance.jsonl", "audit.json"
_MARGIN = 1.05
"""How many more inputs are asked than the share of right ones says."""
_MAX_GROWTH = 4
"""Most inputs of a further round, in times of those before it."""


@dataclass(frozen=True)
class Sampling:
    """What is played, and with what it is played."""

    samples: Sequence[PreferenceSample]
    source: ModelSource
    config: EpisodeConfig
    num_samples: int = 4
    """Episodes per input."""
    orders: tuple[Order, ...] = (Order.AB,)
    shard: Shard = Shard()
    checkpoint: Path | None = None
    """Files of the served model, to name it by their hash; null: those of the source."""

    @property
    def folder(self) -> Path | None:
        """The policy's files, where they can be seen."""
        return self.checkpoint or self.source.folder

    @cached_property
    def checkpoint_hash(self) -> str:
        """Name the policy by its files; "unknown" where they cannot be seen."""
        return hash_model(self.folder) if self.folder else UNKNOWN_MODEL

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the episodes, as plain data."""
        return {
            "policy": self.source.describe() | {"seed": self.source.seed},
            "checkpoint": self.checkpoint_hash,
            "episode": asdict(self.config),
            "words_hash": self.config.pack.words_hash,
        }

    def list_inputs(self) -> list[Input]:
        """Return the inputs of this shard in the order in which they are asked, drawn by the
        seed."""
        inputs = [Input(sample.uid, order) for sample in self.samples for order in self.orders]
        seed = self.source.seed
        inputs.sort(key=lambda each: (draw_rank(seed, f"{each.uid} {each.order.value}"), each))
        return inputs[self.shard.index :: self.shard.count]

    def list_jobs(self, inputs: Sequence[Input]) -> list[Job]:
        """Return the episodes of some inputs; those of one stand together, each with a seed that is
        the same in every run."""
        by_uid = {sample.uid: sample for sample in self.samples}
        jobs = []
        for uid, order in inputs:
            for attempt in range(self.num_samples):
                job = Job(by_uid[uid], order, attempt)
                jobs.append(replace(job, seed=derive_seed(self.source.seed, job.key)))
        return jobs


@dataclass(frozen=True)
class SamplingRun:
    """What `sample_traces` has done."""

    summary: RunSummary
    """Of the inputs that were needed."""
    num_planned: int
    """Episodes of all inputs of this process."""
    traces: tuple[Trace, ...]
    selection: Selection
    status: ExitStatus
    num_rows: int | None
    """Traces in `sft.parquet`; null when it was not written."""
    notes: tuple[str, ...] = ()
    """What the user should know."""

    @property
    def audit(self) -> dict[str, Any]:
        """All figures as plain data."""
        failures = [*self.summary.passing, *self.summary.permanent]
        return describe_run(self.num_planned, self.traces, failures, self.selection)


@dataclass
class _Round:
    """One process that samples: what it has, and how far it has to go."""

    sampling: Sampling
    out: Path
    selection: SelectionConfig
    stages: Filter
    inputs: list[Input] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inputs = self.sampling.list_inputs()

    @property
    def own_selection(self) -> SelectionConfig:
        """The selection with this shard's part of the target."""
        target = self.selection.target
        if target is None:
            return self.selection
        return replace(self.selection, target=-(-target // self.sampling.shard.count))

    def summarise(self, num_inputs: int, **details: Any) -> RunSummary:
        """Say where the leading inputs stand, whichever process has played them."""
        jobs = tuple(self.sampling.list_jobs(self.inputs[:num_inputs]))
        played = read_shards(self.out, self.sampling.settings)
        check_pairs(played.records.values(), self.sampling.samples)
        keys = {job.key for job in jobs}
        records = {key: record for key, record in played.records.items() if key in keys}
        return RunSummary(jobs, records, played.damaged, **details)

    def choose(self, summary: RunSummary) -> Selection:
        """Choose from what is played of these inputs."""
        return select(filter_records(summary.done, self.stages), self.own_selection)

    def count_first(self) -> int:
        """Return how many inputs could fill the target at best."""
        target = self.own_selection.target
        if target is None:
            return len(self.inputs)
        return min(len(self.inputs), -(-target // self.selection.keep))

    def count_next(self, num_inputs: int, selection: Selection) -> int:
        """Return how many inputs are needed after so many; as many again when that is enough."""
        target = self.own_selection.target
        if target is None or selection.is_full(self.own_selection):
            return num_inputs
        missing, found = target - len(selection.taken), max(1, len(selection.taken))
        more = math.ceil(missing * num_inputs / found * _MARGIN)
        return min(len(self.inputs), num_inputs + min(more, _MAX_GROWTH * num_inputs))


def sample_traces(
    sampling: Sampling,
    out: Path,
    selection: SelectionConfig | None = None,
    *,
    stages: Filter = Filter.CORRECT,
    video_root: Path | None = None,
    store: FrameStore | None = None,
    limits: RunLimits | None = None,
    episode_timeout_s: float = 900.0,
    max_failed_share: float = MAX_FAILED_SHARE,
    accepts_other_settings: bool = False,
    announcement: Announcement | None = None,
) -> SamplingRun:
    """Play what the target needs, choose, and write `out`/sft.parquet.

    `accepts_other_settings`: the policy may be asked otherwise than it was trained;
    `announcement` says what the first round will cost before it begins.

    The policy is sampled as its weights say: a vLLM server does not apply the sampling settings of
    the model's folder. Goes on with a run of the same settings. The file is written only by a
    process that is the whole
    (no shard), when no episode that is needed is left (status 0 or 3). Raises `ValueError` for the
    user."""
    check_share(max_failed_share)
    sampling = replace(sampling, source=replace(sampling.source, is_policy=True))
    check_samples(
        sampling.folder,
        sampling.config,
        sampling.samples,
        is_overridden=accepts_other_settings,
    )
    limits = limits or RunLimits(concurrency=16)
    this = _Round(sampling, out, selection or SelectionConfig(), stages)
    setup = PlaySetup(
        RecordKind.SAMPLE,
        sampling.config,
        store or FrameStore(),
        video_root,
        episode_timeout_s,
        make_identity(
            sampling.source.name,
            sampling.checkpoint_hash,
            sampling.settings,
            sampling.config.pack.words_hash,
        ),
    )
    summary = _go_on(this, setup, limits, announcement)
    return _finish(this, summary, max_failed_share)


def _go_on(
    this: _Round, setup: PlaySetup, limits: RunLimits, announcement: Announcement | None
) -> RunSummary:
    """Play until the target is full, the inputs are through or the server is away; asks nobody when
    that is so already."""
    num_inputs = this.count_first()
    summary = this.summarise(num_inputs)
    while not list_waiting(summary, forgets_failures=limits.forgets_failures):
        following = this.count_next(num_inputs, this.choose(summary))
        if following == num_inputs:
            return summary
        num_inputs, summary = following, this.summarise(following)
    if announcement is not None:
        announcement(summary, setup, limits, this.sampling.source.requests_per_minute)
    folder = RunFolder(this.out / this.sampling.shard.name)
    with folder.claim(this.sampling.settings) as journal:
        return run_blocking(_play(this, num_inputs, setup, limits, journal))


async def _play(
    this: _Round, num_inputs: int, setup: PlaySetup, limits: RunLimits, journal: Journal
) -> RunSummary:
    source = this.sampling.source
    thought = this.sampling.config.native_thought
    async with source.open(journal.path.with_name(SERVER_LOG), thought) as model:
        setup = replace(setup, identity=identify(model, setup.identity, journal.records))
        limits = replace(limits, concurrency=limits.concurrency * model.num_replicas)

        async def play(job: Job) -> EpisodeRecord:
            generate = model.for_episode(job.key, job.seed)
            return await play_episode(
                job.sample, job.order, setup, generate, attempt=job.attempt, seed=job.seed
            )

        while True:
            summary = this.summarise(num_inputs)
            waiting = list_waiting(summary, forgets_failures=limits.forgets_failures)
            with show_progress("episodes", summary) as on_record:
                own = await run_jobs(
                    waiting,
                    play,
                    journal,
                    limits,
                    kind=RecordKind.SAMPLE,
                    identity=setup.identity,
                    server=", ".join(source.endpoints),
                    on_record=on_record,
                )
            limits = replace(limits, forgets_failures=False)  # once is enough
            summary = this.summarise(num_inputs, stopped=own.stopped)
            following = this.count_next(num_inputs, this.choose(summary))
            if own.stopped or summary.passing or following == num_inputs:
                return summary
            num_inputs = following


def identify(model: OpenModel, identity: Identity, records: Sequence[EpisodeRecord]) -> Identity:
    """Name the policy by the files that its servers have loaded, where they can be seen from here;
    raises `ValueError` when the journal holds episodes of other files."""
    if identity.model_hash is not None or model.model_root is None:
        return identity
    root = Path(model.model_root)
    if not (root / "config.json").is_file():
        return identity
    found = hash_model(root)
    others = {record.identity.model_hash for record in records} - {found, UNKNOWN_MODEL, None}
    if others:
        raise ValueError(
            f"the servers have loaded another checkpoint (hash {found}) than the one that the log "
            f"was begun with ({', '.join(sorted(map(str, others)))}); choose another --out"
        )
    return msgspec.structs.replace(identity, model_hash=found)


def _finish(this: _Round, summary: RunSummary, max_failed_share: float) -> SamplingRun:
    """Choose, and write what is taught, where it comes from, and the audit."""
    traces = filter_records(summary.done, this.stages)
    chosen, status = this.choose(summary), summary.status(max_failed_share)
    is_complete = status in (ExitStatus.COMPLETE, ExitStatus.TOO_MANY_FAILED)
    num_rows, is_whole = None, this.sampling.shard.is_whole
    if is_complete and is_whole and chosen.taken:
        num_rows = write_sft_rows(
            this.out / SFT_ROWS, [make_sft_row(trace.record) for trace in chosen.taken]
        )
        lines = [describe_origin(trace, this.sampling) for trace in chosen.taken]
        RunFolder(this.out).write_lines(PROVENANCE, lines)
    elif status is ExitStatus.COMPLETE and is_whole:
        status = ExitStatus.UNUSABLE  # nothing can be taught
    num_planned = len(this.inputs) * this.sampling.num_samples
    notes = _list_notes(this, traces, chosen, status)
    run = SamplingRun(summary, num_planned, tuple(traces), chosen, status, num_rows, notes)
    if is_complete and is_whole:
        config = asdict(this.selection)
        config["max_ratio"] = None if math.isinf(config["max_ratio"]) else config["max_ratio"]
        RunFolder(this.out).write_json(AUDIT, run.audit | {"selection": config})
    return run


def _list_notes(
    this: _Round, traces: Sequence[Trace], chosen: Selection, status: ExitStatus
) -> tuple[str, ...]:
    notes = []
    if status in (ExitStatus.INCOMPLETE, ExitStatus.UNUSABLE):
        return ()
    for verdict in find_missing_verdicts(traces, chosen):
        notes.append(
            f"no episode of gold verdict {verdict} was accepted: what is taught is one-sided"
        )
    if shortfall := find_shortfall(chosen, this.own_selection):
        notes.append(shortfall)
    return tuple(notes)


def describe_origin(trace: Trace, sampling: Sampling) -> dict[str, Any]:
    """Return what made a row, as plain data."""
    record = trace.record
    return {
        "sample_uid": record.uid,
        "order": record.order.value,
        "index": record.attempt,
        "model": record.identity.model,
        "checkpoint": record.identity.model_hash,
        "commit": record.identity.commit,
        "seed": record.seed,
        "num_prompt_tokens": record.usage.num_prompt_tokens,
        "num_reply_tokens": record.usage.num_reply_tokens,
        "sampling": sampling.source.describe(),
        "episode": record.config,
    }


def print_run(
    run: SamplingRun, out: Path, shard: Shard, max_failed_share: float, console: Console
) -> None:
    """Show the audit, what is left, and where the result lies."""
    content = run.audit
    for table in tabulate_audit(content) if run.traces else ():
        console.print(table)
    for note in run.notes:
        console.print(note, style="bold", markup=False, soft_wrap=True)
    for line in run.summary.lines(max_failed_share):
        say(line)
    if content["not_asked"] and not run.summary.num_waiting:
        say(f"{content['not_asked']} episodes were not needed: the target is full")
    if not shard.is_whole:
        say("this was one shard: when all are done, the same command without --shard merges them")
    elif run.num_rows is not None:
        say(f"{run.num_rows} traces in {out / SFT_ROWS}")
    elif run.traces and not run.selection.taken:
        say(f"error: no episode was accepted, so {SFT_ROWS} is not written; the reasons are above")
    else:
        say(f"{SFT_ROWS} is not written: episodes are left")


@takes_source(temperature=1.0)
@takes_group(RunOptions, concurrency=16)
def main(
    pairs: Annotated[
        list[Path], typer.Option(help="Parquet file of pairs; may be given more than once.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the logs and sft.parquet.")],
    source: ModelSource,
    video_root: VideoRoot = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The served model's files, to name it by a hash.")
    ] = None,
    recipe: Recipe = None,
    episode: Set = None,
    samples: Annotated[int, typer.Option(min=1, help="Episodes per input.")] = 4,
    both_orders: Annotated[
        bool, typer.Option("--both-orders", help="Play each pair swapped, too.")
    ] = False,
    stages: Annotated[
        Filter, typer.Option("--filter", help="well_formed keeps wrong answers.")
    ] = Filter.CORRECT,
    keep: Annotated[int, typer.Option(help="Most traces per input.")] = SelectionConfig.keep,
    choose: Annotated[
        Choice, typer.Option(help="Which right ones: shortest is within equal numbers of turns.")
    ] = SelectionConfig.choice,
    target: Annotated[
        int | None, typer.Option(help="Most traces in all; no more is asked than it needs.")
    ] = None,
    max_per_verdict: Annotated[
        int | None, typer.Option(help="Most traces of one overall verdict.")
    ] = None,
    max_ratio: Annotated[
        float,
        typer.Option(help="Most traces of a verdict, in even shares; 1: balance, inf: own shares."),
    ] = SelectionConfig.max_ratio,
    seed: Annotated[int, typer.Option(help="Of sampling, its order, and all draws.")] = 0,
    shard: Annotated[
        str | None, typer.Option(help="i/n: play only this part of the inputs.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first pairs.")] = None,
    accept_other_settings: AcceptOtherSettings = False,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    *,
    playing: RunOptions,
) -> None:
    """Sample traces from a policy and keep what is worth learning."""
    console = Console()
    with explain_errors():
        part, (checked, note) = Shard.parse(shard), read_checked_pairs(pairs, limit, stages)
        if note:
            say(note)
        orders = tuple(Order) if both_orders else (Order.AB,)
        config = read_episode(recipe, episode or (), checkpoint or source.folder)
        sampling = Sampling(checked, source, config, samples, orders, part, checkpoint)
        run = sample_traces(
            sampling,
            out,
            SelectionConfig(keep, target, max_per_verdict, max_ratio, choose, seed),
            stages=stages,
            video_root=video_root,
            store=FrameStore(playing.store),
            limits=RunLimits(playing.concurrency, forgets_failures=playing.forget_failures),
            episode_timeout_s=playing.episode_timeout_s,
            max_failed_share=playing.max_failed_share,
            accepts_other_settings=accept_other_settings,
            announcement=Announcement(say, read_prices(price_in, price_out)),
        )
    print_run(run, out, part, playing.max_failed_share, console)
    if run.status:
        raise typer.Exit(int(run.status))


if __name__ == "__main__":
    typer.run(main)
