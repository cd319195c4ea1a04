"""evaluate, probe, compare: what the commands do, from Python.

    from verl_videosearch import EpisodeConfig, evaluate
    from verl_videosearch.models.source import ModelSource
    from verl_videosearch.sample import read_samples

    source = ModelSource(local="outputs/demo/models/grpo")
    found = evaluate(read_samples("test.parquet"), source, "runs/grpo", config=EpisodeConfig())
    print(found.summary.overall.with_ties)          # 71.2 % (57/80)
    found.run.lines()                               # what failed, what is left, what to do

The one idea: a run is a folder. The same call on the same folder goes on where it was, does nothing
twice, and refuses other settings; what is said about failures is `RunSummary`, the same as the
commands print. Nothing here exits or prints.

Covers: judging pairs, probing a finished run, comparing runs. Does not cover: who writes replies
(`models`), figures (`summary`), public sets by name (`cli.benchmarks`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from verl_videosearch.checkpoint import check_samples
from verl_videosearch.config import above, between, check
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.evaluation.calibration import Calibration
from verl_videosearch.evaluation.compared_runs import compare_paths
from verl_videosearch.evaluation.comparison import Comparison
from verl_videosearch.evaluation.memory_controls import (
    Donors,
    MemoryControl,
    MemorySummary,
    is_controlled,
    name_control,
    play_control,
)
from verl_videosearch.evaluation.probes import (
    ProbeSummary,
    draw_other_prompt,
    is_probed,
    name_probe,
    play_probe,
)
from verl_videosearch.evaluation.results import (
    Run,
    RunSettings,
    hash_records,
    read_run,
    write_episodes,
    write_memory_results,
    write_probe_results,
    write_results,
)
from verl_videosearch.evaluation.summary import Summary
from verl_videosearch.models.source import ModelSource
from verl_videosearch.recipe import read_episode
from verl_videosearch.runs.estimate import Announcement
from verl_videosearch.runs.folder import Journal, RunFolder
from verl_videosearch.runs.identity import (
    UNKNOWN_MODEL,
    hash_model,
    hash_names,
    hash_pair,
    hash_pairs,
    make_identity,
)
from verl_videosearch.runs.jobs import MAX_FAILED_SHARE, ExitStatus, Job, RunLimits, RunSummary
from verl_videosearch.runs.play import PlaySetup, derive_seed, make_key, play_episode
from verl_videosearch.runs.record import EpisodeRecord, RecordKind
from verl_videosearch.runs.session import EpisodeModel, PlayWithModel, play_all
from verl_videosearch.sample import Order, PreferenceSample
from verl_videosearch.video.altered_frames import Replacement, double_frames
from verl_videosearch.video.store import FrameStore


@dataclass(frozen=True)
class PlayOptions:
    """How a run is played; none of it decides what the episodes are, so all of it may change when a
    run goes on."""

    video_root: Path | None = None
    """Folder of relative video paths."""
    store: Path | None = None
    """Frame store; null: $VIDEOSEARCH_FRAME_STORE or the user's cache."""
    episode_timeout_s: float = 900.0
    """Most seconds of one episode; then it has failed in a way that may pass."""
    limits: RunLimits = field(default_factory=RunLimits)
    """Episodes in flight, tries, pace."""
    max_failed_share: float = MAX_FAILED_SHARE
    """Pairs that may fail for good in a complete run."""
    shows_progress: bool = True
    """Show a bar on stderr."""
    announcement: Announcement | None = None
    """Says what the run will cost before its first request; null: it is not estimated."""

    def announce(self, setup: PlaySetup, source: ModelSource) -> Callable[[RunSummary], None]:
        """Return what is to be called when a run begins."""
        if self.announcement is None:
            return lambda summary: None
        announcement, rate = self.announcement, source.requests_per_minute
        return lambda summary: announcement(summary, setup, self.limits, rate)

    def __post_init__(self) -> None:
        check(self, episode_timeout_s=above(0), max_failed_share=between(0, 1))


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` has done so far."""

    run: RunSummary
    """What was played, what failed and why; `run.lines()` says it in words."""
    status: ExitStatus
    """`COMPLETE` when the figures are of all pairs that can be judged."""
    folder: Path
    summary: Summary | None
    """The figures; None when the run stopped before it was through."""
    num_relabelled: int = 0
    """Pairs with other labels than when they were judged; they are scored with those of now."""


@dataclass(frozen=True)
class Probe:
    """What `probe` has done so far."""

    run: RunSummary
    status: ExitStatus
    folder: Path
    summary: ProbeSummary | None
    """What replaced frames did; None when the run stopped before it was through."""


@dataclass(frozen=True)
class MemoryProbe:
    """What `probe_memory` has done so far."""

    run: RunSummary
    status: ExitStatus
    folder: Path
    summary: MemorySummary | None
    """What altered memories cost; None when the run stopped before it was through."""


def evaluate(
    samples: Sequence[PreferenceSample],
    source: ModelSource,
    out: str | Path,
    *,
    config: EpisodeConfig | None = None,
    orders: Sequence[Order] = tuple(Order),
    name: str = "samples",
    split: str | None = None,
    num_missing: int = 0,
    is_redundant: bool = False,
    model_dir: Path | None = None,
    calibration: Calibration | None = None,
    accepts_other_settings: bool = False,
    options: PlayOptions | None = None,
) -> Evaluation:
    """Judge pairs with a model, score the verdicts against the labels, write the pages.

    Args:
        samples: the pairs, for example `read_samples("test.parquet")`.
        source: who writes the replies: `ModelSource(endpoints=("http://localhost:8000/v1",),
            model="NAME")`, `ModelSource(local=FOLDER)`, `ModelSource(serve=FOLDER)`. Greedy unless
            its `temperature` says otherwise.
        out: folder of the run. The same call on it goes on where it was; a run with other settings
            in it is a `ValueError` that lists them, one of other pairs a `ValueError` that names
            one. Labels may change: the verdicts are scored anew.
        config: how an episode runs; None takes what the checkpoint was trained with, where its
            folder says so, else the defaults. For a server's model give it:
            `read_episode("videosearch_grpo", [])` of `verl_videosearch.recipe`.
        orders: both orders of the two videos, or one.
        name, split, num_missing: what the header says about the pairs; `split` None is read from
            them.
        is_redundant: show every candidate frame under two numbers.
        model_dir: the model's files, for the hash in the header; None: those of `source`.
        calibration: of `videosearch calibrate`, fitted with this model on other pairs.
        accepts_other_settings: judge otherwise than the checkpoint was trained, on purpose; without
            it a difference is a `ValueError` that names every setting.
        options: videos, frame store, episodes in flight, allowed failures.

    Returns the figures and what failed; failures of the server never raise. A pair whose video
    cannot be read is in no figure and counted in every table's header.
    """
    options = options or PlayOptions()
    model_dir = model_dir or source.folder
    model_hash = hash_model(model_dir) if model_dir else UNKNOWN_MODEL
    config = config or read_episode(None, (), model_dir)
    check_samples(model_dir, config, samples, is_overridden=accepts_other_settings)
    if calibration is not None:
        hashes, names = [*map(hash_pair, samples)], [*map(hash_names, samples)]
        calibration.check_use(hashes, model_hash, names)
    settings = RunSettings(
        benchmark=name,
        split=split or ", ".join(sorted({sample.split for sample in samples})),
        pairs_hash=hash_pairs(samples),
        num_pairs=len(samples),
        orders=tuple(orders),
        model=source.name,
        model_hash=model_hash,
        max_turn_tokens=source.max_turn_tokens,
        episode=config,
        is_redundant=is_redundant,
        num_missing=num_missing,
        temperature=source.temperature,
        seed=source.seed if source.temperature else 0,
        reply_options=_list_reply_options(source),
        words_hash=config.pack.words_hash,
    )
    setup = _make_setup(RecordKind.EVALUATION, settings, options, settings.to_json())
    jobs = [
        Job(sample, order, seed=_seed_of(source, sample, order))
        for sample in samples
        for order in settings.orders
    ]

    async def play(job: Job, model: EpisodeModel) -> EpisodeRecord:
        generate = model.for_episode(job.key, job.seed)
        return await play_episode(job.sample, job.order, setup, generate, seed=job.seed)

    folder, summary = RunFolder(out), None
    with folder.claim(settings.to_json(), samples) as journal:
        run = _play_all(jobs, play, journal, source, "episodes", setup, options)
        if run.stopped is None:
            concurrency = options.limits.concurrency
            summary = write_results(
                folder, settings, samples, run, concurrency=concurrency, calibration=calibration
            )
            title = f"{settings.model} on {settings.benchmark}"
            write_episodes(folder, title, run, setup.store, options.video_root)
    status = run.status(options.max_failed_share)
    return Evaluation(run, status, folder.path, summary, journal.num_relabelled)


def probe(
    run: str | Path,
    source: ModelSource,
    out: str | Path,
    *,
    replacements: Sequence[Replacement] = tuple(Replacement),
    limit: int | None = None,
    seed: int = 0,
    options: PlayOptions | None = None,
) -> Probe:
    """Replay finished episodes with other frames than the judge asked for: did its search matter?

    Args:
        run: folder of a finished `evaluate`, or any file of episodes (*.jsonl): a log of
            training, traces or sampling. Those may have been sampled: compare each replacement
            with `same`, which hands over the true frames.
        source: the same model; its temperature should be 0.
        out: folder of the probe; the same call on it goes on where it was.
        replacements: what is altered (`video.altered_frames`): what calls get, or the opening.
        limit: probe so many of the episodes, whether they searched or not, and give all figures
            over these; None probes all.
        seed: draws them.
        options: videos, frame store, episodes in flight, allowed failures.

    Returns how many verdicts changed and how many right ones needed the search.
    """
    options, (probed, source) = options or PlayOptions(), _read_greedy_run(run, source)
    settings = probed.settings
    records = _draw(probed.done, limit, seed)
    prompts = [sample.prompt for sample in probed.samples]
    claimed = {
        "episodes": hash_records(probed.done),
        "limit": limit,
        "replacements": [each.value for each in replacements],
        "model": source.name,
        "words_hash": settings.episode.pack.words_hash,
        **({} if limit is None else {"seed": seed}),
    } | ({"reply_options": found} if (found := _list_reply_options(source)) else {})
    setup = _make_setup(RecordKind.PROBE, settings, options, claimed)
    jobs = [
        Job(record.own, record.order, content=(record, each), name=name_probe(record, each))
        for record in records
        for each in replacements
        if is_probed(record, each)
        and not (each is Replacement.OTHER_PROMPT and draw_other_prompt(record, prompts) is None)
    ]

    async def play(job: Job, model: EpisodeModel) -> EpisodeRecord:
        record, replacement = job.content
        other = draw_other_prompt(record, prompts)
        return await play_probe(record, replacement, setup, model.for_episode(job.key), other)

    folder, summary = RunFolder(out), None
    with folder.claim(claimed, probed.samples) as journal:
        played = _play_all(jobs, play, journal, source, "replays", setup, options)
        if played.stopped is None:
            summary = write_probe_results(folder, settings, records, played, replacements)
            title = f"Probe of {settings.model} on {settings.benchmark}"
            write_episodes(folder, title, played, setup.store, options.video_root)
    return Probe(played, played.status(options.max_failed_share), folder.path, summary)


def probe_memory(
    run: str | Path,
    source: ModelSource,
    out: str | Path,
    *,
    controls: Sequence[MemoryControl] = tuple(MemoryControl),
    options: PlayOptions | None = None,
) -> MemoryProbe:
    """Judge the pairs of a finished run again with an altered memory of the judge's own words.

    Args:
        run: folder of a finished, greedy `evaluate`, or any file of its episodes (*.jsonl).
        source: the same model; its temperature should be 0.
        out: folder of the controls; the same call on it goes on where it was.
        controls: what the judge finds when it looks back (`evaluation.memory_controls`).
        options: videos, frame store, episodes in flight, allowed failures.

    Returns accuracy, calls and tokens by pair type for each memory.
    """
    options, (probed, source) = options or PlayOptions(), _read_greedy_run(run, source)
    records, donors = probed.done, Donors(probed.done)
    claimed = {
        "episodes": hash_records(records),
        "memory": [each.value for each in controls],
        "model": source.name,
        "words_hash": probed.settings.episode.pack.words_hash,
    } | ({"reply_options": found} if (found := _list_reply_options(source)) else {})
    setup = _make_setup(RecordKind.PROBE, probed.settings, options, claimed)
    jobs = [
        Job(record.own, record.order, content=(record, each), name=name_control(record, each))
        for record in records
        for each in controls
        if is_controlled(record, each, donors)
    ]

    async def play(job: Job, model: EpisodeModel) -> EpisodeRecord:
        record, control = job.content
        return await play_control(record, control, setup, model.for_episode(job.key), donors)

    folder, summary = RunFolder(out), None
    with folder.claim(claimed, probed.samples) as journal:
        played = _play_all(jobs, play, journal, source, "episodes", setup, options)
        if played.stopped is None:
            summary = write_memory_results(folder, probed.settings, records, played, controls)
            title = f"Memory of {probed.settings.model} on {probed.settings.benchmark}"
            write_episodes(folder, title, played, setup.store, options.video_root)
    return MemoryProbe(played, played.status(options.max_failed_share), folder.path, summary)


def _draw(
    records: Sequence[EpisodeRecord], limit: int | None, seed: int
) -> Sequence[EpisodeRecord]:
    """Return at most `limit` episodes in their order, drawn by the seed: those that never searched
    as likely as the others, or a share of them would say nothing about all."""
    if limit is None or limit >= len(records):
        return records
    return [records[i] for i in sorted(Random(seed).sample(range(len(records)), limit))]


def _read_greedy_run(run: str | Path, source: ModelSource) -> tuple[Run, ModelSource]:
    """Read what is probed, and give its model the limit of tokens that it had; raises `ValueError`
    for a sampled run, whose verdicts change by themselves."""
    probed = read_run(run)
    settings = probed.settings
    if settings.temperature:
        raise ValueError(
            f"{run} was sampled at temperature {settings.temperature:g}; probe a greedy run"
        )
    _check_words(settings)
    if settings.max_turn_tokens is not None:
        source = replace(source, max_turn_tokens=settings.max_turn_tokens)
    return probed, source


def compare(
    judges: Sequence[str | Path],
    *,
    samples: Sequence[PreferenceSample] | None = None,
    out: str | Path | None = None,
) -> Comparison:
    """Put judges in one table: intervals, paired tests against the first, baselines, costs.

    Args:
        judges: folders of runs, files of episodes (*.jsonl), and files of other judges' verdicts
            or scores (csv, jsonl, json, parquet); the first is the reference.
        samples: the pairs with their labels; None takes those that all runs share.
        out: folder for the page; None writes nothing.
    """
    compared = compare_paths([Path(path) for path in judges], samples)
    if out is not None:
        compared.write(out)
    return compared.comparison


def _play_all(
    jobs: Sequence[Job],
    play: PlayWithModel,
    journal: Journal,
    source: ModelSource,
    what: str,
    setup: PlaySetup,
    options: PlayOptions,
) -> RunSummary:
    """Play what is left of a run, as its options say."""
    return play_all(
        jobs,
        play,
        journal,
        source,
        what,
        kind=setup.kind,
        identity=setup.identity,
        limits=options.limits,
        shows_progress=options.shows_progress,
        on_start=options.announce(setup, source),
        native_thought=setup.config.native_thought,
    )


def _make_setup(
    kind: RecordKind, settings: RunSettings, options: PlayOptions, claimed: dict[str, Any]
) -> PlaySetup:
    return PlaySetup(
        kind,
        settings.episode,
        FrameStore(options.store),
        options.video_root,
        options.episode_timeout_s,
        make_identity(
            settings.model, settings.model_hash, claimed, settings.episode.pack.words_hash
        ),
        alter=double_frames if settings.is_redundant else None,
    )


def _check_words(settings: RunSettings) -> None:
    """Raise `ValueError` if the prompt pack of a run has other words by now."""
    now = settings.episode.pack.words_hash
    if settings.words_hash not in (None, now):
        raise ValueError(
            f"the words of prompt pack {settings.episode.prompt_pack!r} are others now ({now}) "
            "than "
            f"when {settings.benchmark} was judged ({settings.words_hash}): a replay would mix "
            "them; "
            "put the file back as it was, or judge again"
        )


def _seed_of(source: ModelSource, sample: PreferenceSample, order: Order) -> int | None:
    """Give an episode of a sampled run its own seed; a greedy one has none."""
    return derive_seed(source.seed, make_key(sample.uid, order)) if source.temperature else None


def _list_reply_options(source: ModelSource) -> dict[str, Any]:
    """Return what decides the replies and has no field in `RunSettings`."""
    own = ("model", "temperature", "max_turn_tokens", "seed")
    return {name: value for name, value in source.describe().items() if name not in own}
