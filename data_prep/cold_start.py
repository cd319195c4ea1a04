"""Let a teacher judge pairs through the same Episode as everything else, keep what is right, and
write SFT rows.

    python -m data_prep.cold_start --pairs outputs/hide_and_seek/train.parquet \\
        --video-root outputs/hide_and_seek --out outputs/cold_start \\
        --recipe videosearch_cold_start_tiny                               # template teacher
    OPENAI_API_KEY=... python -m data_prep.cold_start --pairs pairs.parquet --video-root VIDEOS \\
        --out outputs/gpt4o --endpoint https://api.openai.com/v1 --model gpt-4o \\
        --price-in 2.5 --price-out 10                                      # any compatible server

The one idea: the teacher sees what the student will see, and only what a filter finds well-formed
and right is taught. Every pair ends as a record of the journal; the same command goes on after a
kill. `sft.parquet` is written at the end, in the order of the pairs, and only when no pair is left
to be asked: a teacher that is away or has no quota left ends the program with status 2, and the
same command goes on with a repaired one.

| file of `--out` | holds |
|---|---|
| `run.json`, `samples.parquet` | what the traces are made with, and of |
| `journal.jsonl` | a record per pair, and per failure |
| `episodes.jsonl` | the same at the end, in order; `extra.reasons` says why the filter refused one |
| `sft.parquet` | what is taught, as `VideoSearchSFTDataset` reads it |

Covers: one trace per pair (paper section 4.1). Does not cover: several per pair
(`rejection_sampling`). Exit status: as in `verl_videosearch.runs.jobs`.
"""  # noqa: E501

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from PIL import Image
from rich.console import Console
from verl_videosearch.data_prep.traces.notes import Notes
from verl_videosearch.data_prep.traces.sft_rows import SFT_ROWS, make_sft_row, write_sft_rows
from verl_videosearch.data_prep.traces.teacher import TeacherConfig, TemplateTeacher
from verl_videosearch.data_prep.traces.trace_filter import (
    Filter,
    Trace,
    filter_records,
    leave_out_unlabelled,
)
from verl_videosearch.data_prep.traces.trace_report import (
    describe_preambles,
    tabulate_reasons,
    tabulate_yields,
)

from verl_videosearch.checkpoint import check_samples
from verl_videosearch.episode import EpisodeConfig, Message, Reply
from verl_videosearch.models.option_groups import Recipe, RunOptions, Set, VideoRoot, takes_group
from verl_videosearch.models.options import AcceptOtherSettings, PriceIn, PriceOut, takes_source
from verl_videosearch.models.source import ModelSource
from verl_videosearch.recipe import read_episode
from verl_videosearch.reply import NativeThought
from verl_videosearch.report.console import explain_errors, say
from verl_videosearch.rollout import GenerateFn
from verl_videosearch.runs.estimate import Announcement, estimate_run, read_prices
from verl_videosearch.runs.folder import EPISODES, RunFolder, RunFolderError
from verl_videosearch.runs.identity import hash_model, make_identity
from verl_videosearch.runs.jobs import (
    MAX_FAILED_SHARE,
    ExitStatus,
    Job,
    RunLimits,
    RunSummary,
    check_share,
)
from verl_videosearch.runs.play import PlaySetup, play_episode
from verl_videosearch.runs.record import EpisodeRecord, RecordKind
from verl_videosearch.runs.session import EpisodeModel, PlayWithModel, play_all
from verl_videosearch.sample import PreferenceSample, read_samples
from verl_videosearch.video.pair import PairFrames
from verl_videosearch.video.store import FrameStore

TEMPLATE = "template"
_OLD_LOGS = ("accepted.jsonl", "rejected.jsonl")
"""Of version 0.1.0; they lack what a record needs."""


@dataclass(frozen=True)
class TraceRun:
    """What `make_traces` has done."""

    summary: RunSummary
    traces: tuple[Trace, ...]
    """Of all finished pairs, in their order."""
    status: ExitStatus
    num_rows: int | None
    """Traces in `sft.parquet`; null when it was not written."""

    @property
    def accepted(self) -> list[Trace]:
        """The traces that are taught."""
        return [trace for trace in self.traces if trace.is_accepted]


def make_traces(
    samples: Sequence[PreferenceSample],
    out: Path,
    teacher: TeacherConfig | ModelSource,
    config: EpisodeConfig,
    *,
    stages: Filter = Filter.CORRECT,
    video_root: Path | None = None,
    store: FrameStore | None = None,
    limits: RunLimits | None = None,
    episode_timeout_s: float = 900.0,
    max_failed_share: float = MAX_FAILED_SHARE,
    accepts_other_settings: bool = False,
    announcement: Announcement | None = None,
) -> TraceRun:
    """Let a teacher judge pairs, and write what the filter takes to `out`/sft.parquet.

    `accepts_other_settings`: a teacher that is a checkpoint of ours may be asked otherwise than it
    was trained. `announcement` says what the run will cost before it begins.

    Goes on with a run of the same settings. The file is written only when every pair has a result
    or a permanent failure (status 0 or 3). Raises `ValueError` for the user."""
    check_share(max_failed_share)
    refuse_old_logs(out)
    name = TEMPLATE if isinstance(teacher, TeacherConfig) else teacher.name
    folder = None if isinstance(teacher, TeacherConfig) else teacher.folder
    check_samples(folder, config, samples, is_overridden=accepts_other_settings)
    settings = describe_settings(teacher, config)
    identity = make_identity(
        name, hash_model(folder) if folder else None, settings, config.pack.words_hash
    )
    setup = PlaySetup(
        RecordKind.TRACE,
        config,
        store or FrameStore(),
        video_root,
        episode_timeout_s,
        identity,
    )
    run_folder = RunFolder(out)

    def announce(before: RunSummary) -> None:
        if announcement is not None:
            rate = None if isinstance(teacher, TeacherConfig) else teacher.requests_per_minute
            announcement(before, setup, limits or RunLimits(), rate)

    with run_folder.claim(settings, samples) as journal:
        summary = play_all(
            [Job(sample) for sample in samples],
            make_player(teacher, setup),
            journal,
            TemplateSource() if isinstance(teacher, TeacherConfig) else teacher,
            "pairs",
            kind=RecordKind.TRACE,
            identity=identity,
            limits=limits,
            on_start=announce,
            native_thought=config.native_thought,
        )
        return finish(run_folder, samples, summary, stages, max_failed_share)


def make_player(teacher: TeacherConfig | ModelSource, setup: PlaySetup) -> PlayWithModel:
    """Return what lets the teacher judge one pair."""

    async def play(job: Job, model: EpisodeModel) -> EpisodeRecord:
        if isinstance(teacher, TeacherConfig):
            writer = TemplateWriter(job.sample, setup.config, teacher)
            return await play_episode(job.sample, job.order, setup, writer, alter=writer.meet)
        generate = model.for_episode(job.key, job.seed)
        return await play_episode(job.sample, job.order, setup, generate)

    return play


class TemplateSource:
    """Stands for a model where the template teacher writes."""

    endpoints: tuple[str, ...] = ()
    num_replicas = 1

    @asynccontextmanager
    async def open(
        self, log: Path | None = None, native_thought: NativeThought = NativeThought.AUTO
    ) -> AsyncIterator[TemplateSource]:
        """Yield itself; there is nothing to open."""
        yield self

    def for_episode(self, key: str = "", seed: int | None = None) -> GenerateFn:
        """The template teacher is made for its pair by `TemplateWriter`."""
        raise AssertionError("a template teacher asks no model")


class TemplateWriter:
    """The template teacher as a `GenerateFn`: it meets the frames of its pair before it writes."""

    def __init__(
        self, sample: PreferenceSample, config: EpisodeConfig, choices: TeacherConfig
    ) -> None:
        self._sample, self._config, self._choices = sample, config, choices
        self._teacher: TemplateTeacher | None = None

    def meet(self, pair: PairFrames) -> PairFrames:
        """Take note of the candidates, and change nothing."""
        self._teacher = TemplateTeacher(self._sample, pair.candidates, self._config, self._choices)
        return pair

    async def __call__(self, messages: list[Message], images: Sequence[Image.Image]) -> Reply:
        assert self._teacher is not None, "play_episode alters the pair before it asks"
        return await self._teacher(messages, images)


def finish(
    folder: RunFolder,
    samples: Sequence[PreferenceSample],
    summary: RunSummary,
    stages: Filter,
    max_failed_share: float,
) -> TraceRun:
    """Filter what was played, and write the files of a complete run."""
    by_uid = {record.uid: record for record in summary.done}
    ordered = [by_uid[sample.uid] for sample in samples if sample.uid in by_uid]
    traces, status = filter_records(ordered, stages), summary.status(max_failed_share)
    num_rows = None
    if status in (ExitStatus.COMPLETE, ExitStatus.TOO_MANY_FAILED):
        folder.write_records(EPISODES, map(add_reasons, traces))
        if accepted := [trace.record for trace in traces if trace.is_accepted]:
            num_rows = write_sft_rows(folder.path / SFT_ROWS, map(make_sft_row, accepted))
        elif status is ExitStatus.COMPLETE:
            status = ExitStatus.UNUSABLE  # nothing can be taught
    return TraceRun(summary, tuple(traces), status, num_rows)


def add_reasons(trace: Trace) -> EpisodeRecord:
    """Write into a record why the filter refused it."""
    extra = trace.record.extra | {"reasons": list(trace.reasons)}
    return msgspec.structs.replace(trace.record, extra=extra)


def describe_settings(
    teacher: TeacherConfig | ModelSource, config: EpisodeConfig
) -> dict[str, Any]:
    """Return what decides the traces of a run, as plain data."""
    if isinstance(teacher, TeacherConfig):
        how: dict[str, Any] = {"teacher": TEMPLATE, "choices": asdict(teacher)}
    else:
        how = {"teacher": teacher.name, "source": teacher.describe()}
    return how | {"episode": asdict(config), "words_hash": config.pack.words_hash}


def refuse_old_logs(out: Path) -> None:
    """Raise `RunFolderError` for a folder of traces that an older version has begun."""
    if old := [name for name in _OLD_LOGS if (out / name).exists()]:
        raise RunFolderError(
            f"{out} holds traces of verl-videosearch 0.1.0 ({', '.join(old)}), which lack what a "
            "record needs; its sft.parquet stays usable, but to go on choose another --out"
        )


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


def read_pairs(files: Sequence[Path], limit: int | None = None) -> list[PreferenceSample]:
    """Read the pairs that can be judged right or wrong: those with a gold label."""
    samples = [sample for file in files for sample in read_samples(file)]
    twice = [uid for uid, count in Counter(sample.uid for sample in samples).items() if count > 1]
    if twice:
        raise ValueError(
            f"sample_uid must be unique, {len(twice)} come more than once, such as {twice[0]!r}"
        )
    labelled = [each for each in samples if any(x is not None for x in each.labels.values())]
    return labelled[:limit]


def read_checked_pairs(
    files: Sequence[Path], limit: int | None, stages: Filter
) -> tuple[list[PreferenceSample], str]:
    """Read the pairs whose traces the filter can take; returns them, and what was left out in words
    (empty: nothing)."""
    kept, note = leave_out_unlabelled(read_pairs(files), stages)
    if not kept:
        raise ValueError(f"no pair can be checked: {note or 'none has a gold label'}")
    return kept[:limit], note


def print_run(run: TraceRun, out: Path, max_failed_share: float, console: Console) -> None:
    """Show yields, reasons, cost, and where the result lies."""
    if run.traces:
        console.print(tabulate_yields(run.traces))
    failures = [*run.summary.passing, *run.summary.permanent]
    if failures or len(run.accepted) < len(run.traces):
        console.print(tabulate_reasons(run.traces, failures))
    if note := describe_preambles(run.traces):
        say(note)
    counted = [trace.record.usage for trace in run.traces]
    if any(usage.num_prompt_tokens for usage in counted):
        prompt = sum(usage.num_prompt_tokens or 0 for usage in counted)
        reply = sum(usage.num_reply_tokens or 0 for usage in counted)
        say(f"{prompt:,} prompt tokens and {reply:,} reply tokens in all finished episodes")
    for line in run.summary.lines(max_failed_share):
        say(line)
    if run.num_rows is not None:
        say(f"{run.num_rows} traces in {out / SFT_ROWS}")
    elif run.traces and not run.accepted:
        say(f"error: no trace was accepted, so {SFT_ROWS} is not written; the reasons are above")
    else:
        say(f"{SFT_ROWS} is not written: pairs are left")


@takes_source(is_optional=True, alias="teacher", no_alias=TEMPLATE)
@takes_group(RunOptions)
def main(
    pairs: Annotated[
        list[Path], typer.Option(help="Parquet file of pairs; may be given more than once.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the logs and sft.parquet.")],
    source: ModelSource | None = None,
    video_root: VideoRoot = None,
    teacher: Annotated[
        str, typer.Option(help="template, or a URL: the same as --endpoint URL.")
    ] = TEMPLATE,
    recipe: Recipe = None,
    episode: Set = None,
    stages: Annotated[
        Filter, typer.Option("--filter", help="well_formed keeps wrong answers.")
    ] = Filter.CORRECT,
    limit: Annotated[int | None, typer.Option(help="Only the first pairs.")] = None,
    max_retries: Annotated[
        int, typer.Option(min=0, help="Further tries of an episode that failed in passing.")
    ] = 2,
    accept_other_settings: AcceptOtherSettings = False,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
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
    looks: Annotated[
        str, typer.Option(help="Template: weights of 0, 1, ... calls without a cue.")
    ] = "0.4,0.3,0.3",
    max_calls: Annotated[
        int | None, typer.Option(help="Template: most calls; default: the episode's limit.")
    ] = None,
    one_cue: Annotated[
        float, typer.Option(help="Template: weight of looking behind the first of two cues only.")
    ] = TeacherConfig.one_cue,
    notes: Annotated[
        Notes, typer.Option(help="Template: the newest frames only, or a list of all places.")
    ] = TeacherConfig.notes,
    seed: Annotated[int, typer.Option(help="The same seed gives the same words.")] = 0,
    *,
    playing: RunOptions,
) -> None:
    """Make cold-start traces."""
    console = Console()
    with explain_errors():
        samples, note = read_checked_pairs(pairs, limit, stages)
        if note:
            say(note)
        choices = TeacherConfig(
            direct,
            cued_gap,
            wrong_gap,
            detour,
            read_weights(looks),
            max_calls,
            one_cue=one_cue,
            notes=notes,
            seed=seed,
        )
        folder = None if source is None else source.folder
        config, frame_store = read_episode(recipe, episode or (), folder), FrameStore(playing.store)
        prices = read_prices(price_in, price_out)
        if estimate_only:
            estimate = estimate_run(
                samples, len(samples), config, frame_store, video_root, prices=prices
            )
            for line in estimate.lines():
                say(line)
            return
        run = make_traces(
            samples,
            out,
            source or choices,
            config,
            stages=stages,
            video_root=video_root,
            store=frame_store,
            limits=RunLimits(
                playing.concurrency,
                max_tries=max_retries + 1,
                forgets_failures=playing.forget_failures,
            ),
            episode_timeout_s=playing.episode_timeout_s,
            max_failed_share=playing.max_failed_share,
            accepts_other_settings=accept_other_settings,
            announcement=Announcement(say, prices) if source is not None else None,
        )
    print_run(run, out, playing.max_failed_share, console)
    if run.status:
        raise typer.Exit(int(run.status))


if __name__ == "__main__":
    typer.run(main)
