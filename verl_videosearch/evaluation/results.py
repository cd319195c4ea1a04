"""A run as files: what was asked for, what was found, and the pages that say so.

The one idea: `write_results` is a pure function of the records. The final files hold no time of
day, are sorted, and are written in one step each: a run that was killed ten times ends with equal
bytes.

    run = read_run(Path("runs/genai"))      # or any file of episodes
    run.pairs[0].verdict()                  # merged over both orders
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.evaluation.calibration import Calibration
from verl_videosearch.evaluation.memory_controls import (
    MemoryControl,
    MemorySummary,
    summarise_memory,
)
from verl_videosearch.evaluation.pages.header import RunHeader, describe_frames, describe_protocol
from verl_videosearch.evaluation.pages.memory_tables import describe_memory
from verl_videosearch.evaluation.pages.probe_tables import describe_probes
from verl_videosearch.evaluation.pages.tables import describe_summary
from verl_videosearch.evaluation.probes import ProbeSummary, summarise_probes
from verl_videosearch.evaluation.summary import Summary, read_timing, summarise, to_plain
from verl_videosearch.evaluation.verdicts import PairVerdicts, merge_records
from verl_videosearch.report.episode_page import WrittenPage, write_episode_page
from verl_videosearch.report.episode_view import Source
from verl_videosearch.report.page import Block, render_markdown, render_page
from verl_videosearch.runs.folder import EPISODES, RunFolder, RunFolderError
from verl_videosearch.runs.identity import UNKNOWN_MODEL, hash_pairs
from verl_videosearch.runs.jobs import RunSummary
from verl_videosearch.runs.record import EpisodeRecord
from verl_videosearch.runs.record_file import (
    iterate_lines,
    parse_record,
    read_records,
    settle_records,
    write_record,
)
from verl_videosearch.sample import Order, PreferenceSample, read_samples
from verl_videosearch.video.altered_frames import Replacement
from verl_videosearch.video.store import FrameStore

EPISODE_PAGE = "episodes.html"
"""Beside the figures of a run: what was looked at and said (`report.episode_page`)."""
_LINKS = (("episodes", EPISODE_PAGE),)
_ORDER_WORDS = {
    True: "both orders: agreement is the verdict, disagreement a tie, unreadable in one is "
    "unreadable",
    False: "one order only ({}): position bias is not corrected",
}


@dataclass(frozen=True)
class RunSettings:
    """What decides the episodes of a run; a folder goes on only under equal settings."""

    benchmark: str
    split: str
    pairs_hash: str
    num_pairs: int
    orders: tuple[Order, ...]
    model: str
    model_hash: str
    max_turn_tokens: int | None
    """Null for a file of episodes, which does not say."""
    episode: EpisodeConfig
    is_redundant: bool = False
    num_missing: int = 0
    """Pairs of the benchmark that were left out because their videos are not there."""
    temperature: float | None = 0.0
    """0 is greedy, the protocol; null for a file of episodes, which does not say."""
    seed: int = 0
    """Of sampling; without meaning when greedy."""
    reply_options: Mapping[str, Any] = field(default_factory=dict)
    """What else decides the replies: `top_p`, `extra_body`, `chat_template_kwargs`."""
    words_hash: str | None = None
    """Of the prompt pack's words: a pack's file may change under its name; null where it is not
    known."""

    def to_json(self) -> dict[str, Any]:
        """Write the settings as plain data; `from_json` reads them back."""
        content = json.loads(json.dumps(asdict(self)))
        for name in ("reply_options", "words_hash"):
            if not content[name]:
                del content[name]
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunSettings:
        """Read what `to_json` wrote; raises `RunFolderError` for the settings of something else."""
        try:
            values = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
            values["orders"] = tuple(Order(order) for order in content["orders"])
            values["episode"] = EpisodeConfig.from_dict(content["episode"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise RunFolderError(
                f"the folder holds no run of `videosearch eval`: its settings lack {error}"
            ) from error


@dataclass(frozen=True)
class Run:
    """A run read back from its folder, or from a file of episodes."""

    name: str
    settings: RunSettings
    samples: list[PreferenceSample]
    records: tuple[EpisodeRecord, ...]
    """One per key, failures included."""
    pairs: list[PairVerdicts]
    seconds_per_pair: float | None
    damaged: tuple[str, ...] = ()
    """Lines of the file that do not count, file and line included."""

    @property
    def done(self) -> list[EpisodeRecord]:
        """The episodes with a result."""
        return [record for record in self.records if record.has_result]


def is_run(path: Path) -> bool:
    """True for the folder of a run and for a file of episodes."""
    if path.is_dir():
        return True
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    first = next(iterate_lines(path), None)
    try:
        return first is not None and parse_record(first[1]) is not None
    except ValueError:
        return False


def name_run(path: Path) -> str:
    """Return the name of a run, or of another judge's file, in tables."""
    return path.name if path.is_dir() else path.stem


def read_labels(path: Path) -> list[PreferenceSample]:
    """Return the pairs of a run, of a file of episodes or of a file of samples."""
    return read_run(path).samples if is_run(path) else read_samples(path)


def read_run(path: str | Path, *, keeps_words: bool = True) -> Run:
    """Read a finished run, or a file of episodes of any program; raises `ValueError` for what is
    neither. Figures alone need no replies: `keeps_words=False` takes half the memory."""
    path = Path(path)
    if not path.is_dir():
        return _read_file(path, keeps_words)
    folder = RunFolder(path)
    settings = RunSettings.from_json(folder.read_settings())
    timing = folder.read_json("timing.json") or {}
    found = folder.read_records(keeps_words=keeps_words)
    return Run(
        name_run(path),
        settings,
        folder.read_samples(),
        found.records,
        merge_records(found.records, settings.orders),
        timing.get("seconds_per_pair"),
        found.damaged,
    )


def _read_file(path: Path, keeps_words: bool) -> Run:
    """Read a log of training, traces, sampling or probes as a run of its own."""
    found = read_records(path, keeps_words=keeps_words)
    records = tuple(settle_records(found.records))
    samples = {record.uid: record.sample for record in records if record.sample is not None}
    done = [record for record in records if record.has_result]
    if not done:
        raise RunFolderError(f"{path} holds no finished episode")
    settings = _infer_settings(path, done, list(samples.values()))
    return Run(
        name_run(path),
        settings,
        list(samples.values()),
        records,
        merge_records(done, settings.orders),
        read_timing(done, None)["seconds_per_pair"],
        found.damaged,
    )


def _infer_settings(
    path: Path, done: Sequence[EpisodeRecord], samples: list[PreferenceSample]
) -> RunSettings:
    """Say what a file of episodes is: one kind of episode, or `RunFolderError`."""
    configs = {json.dumps(record.config, sort_keys=True) for record in done}
    if len(configs) > 1:
        raise RunFolderError(
            f"{path} holds episodes of {len(configs)} different settings; give one file for each"
        )
    if len(altered := sorted({record.altered or "nothing" for record in done})) > 1:
        raise RunFolderError(
            f"{path} holds episodes of {len(altered)} alterations ({', '.join(altered)}), which "
            f"are as many judges; take one: videosearch episodes {path} --altered {altered[0]} "
            f"--out {altered[0]}.jsonl"
        )
    orders = {record.order for record in done}
    models = {(each.identity.model, each.identity.model_hash) for each in done}
    model, model_hash = models.pop() if len(models) == 1 else (None, None)
    words = {record.identity.words_hash for record in done}
    return RunSettings(
        benchmark=path.name,
        split=", ".join(sorted({sample.split for sample in samples})),
        pairs_hash=hash_pairs(samples),
        num_pairs=len(samples),
        orders=tuple(order for order in Order if order in orders),
        model=model or "several or unknown",
        model_hash=model_hash or UNKNOWN_MODEL,
        max_turn_tokens=None,
        episode=done[0].episode_config,
        temperature=None,
        words_hash=words.pop() if len(words) == 1 else None,
    )


def write_results(
    folder: RunFolder,
    settings: RunSettings,
    samples: Sequence[PreferenceSample],
    run: RunSummary,
    *,
    concurrency: int,
    calibration: Calibration | None = None,
) -> Summary:
    """Write the final files of a run and return its figures; failures that are final are in the
    file of episodes, too."""
    pairs = merge_records(run.done, settings.orders)
    header = make_header(
        settings, len(pairs), list_commits(run.done), calibration, run.count_failures()
    )
    summary = summarise(header, samples, pairs, run.count_failures(), calibration)
    folder.write_records(EPISODES, list_final(run))
    folder.write_json("results.json", to_plain(summary))
    write_pages(
        folder,
        f"{settings.model} on {settings.benchmark}",
        describe_summary(summary),
        header.lines(),
        _LINKS,
    )
    folder.write_json("timing.json", read_timing(run.done, concurrency))
    return summary


def list_final(run: RunSummary) -> list[EpisodeRecord]:
    """Return the results and final failures, sorted by key, without what no two runs share."""
    final = sorted([*run.done, *run.permanent], key=lambda record: record.key)
    return [msgspec.structs.replace(record, seconds=None) for record in final]


def list_commits(records: Iterable[EpisodeRecord]) -> str:
    """Name the code that made the episodes."""
    return (
        ", ".join(sorted({record.identity.commit or "unknown" for record in records})) or "unknown"
    )


def make_header(
    settings: RunSettings,
    num_scored: int,
    commits: str,
    calibration: Calibration | None = None,
    failures: Mapping[str, int] | None = None,
) -> RunHeader:
    """Say under which conditions the figures were made."""
    has_both = len(settings.orders) == len(Order)
    missing = (
        f", {settings.num_missing} pairs without videos left out" if settings.num_missing else ""
    )
    failed = ", ".join(f"{kind} {count}" for kind, count in (failures or {}).items())
    return RunHeader(
        benchmark=settings.benchmark,
        split=settings.split + missing,
        pairs_hash=settings.pairs_hash,
        num_pairs=settings.num_pairs,
        num_scored=num_scored,
        order=_ORDER_WORDS[has_both].format(settings.orders[0].value),
        frames=describe_frames(settings.episode, is_redundant=settings.is_redundant),
        model=settings.model,
        model_hash=settings.model_hash,
        commit=commits,
        protocol=describe_protocol(settings.temperature, settings.seed),
        failed=failed or "none",
        verdicts="as judged" if calibration is None else _describe_calibration(calibration),
    )


def write_pages(
    folder: RunFolder,
    title: str,
    blocks: Sequence[Block],
    facts: Sequence[tuple[str, str]],
    links: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the same blocks as Markdown and as a page."""
    folder.write_text("results.md", render_markdown(title, blocks, facts))
    folder.write_text("index.html", render_page(title, blocks, facts, links))


def write_episodes(
    folder: RunFolder, title: str, run: RunSummary, store: FrameStore, video_root: Path | None
) -> WrittenPage:
    """Write the page of a run's episodes, to which the page of figures links."""
    return write_episode_page(
        [Source(folder.path.name, list_final(run))],
        folder.path / EPISODE_PAGE,
        title=title,
        store=store,
        video_root=video_root,
        links=[("figures", "index.html")],
    )


def hash_records(records: Iterable[EpisodeRecord]) -> str:
    """Name the episodes of a run by their content, times apart."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(write_record(msgspec.structs.replace(record, seconds=None)).encode())
    return digest.hexdigest()[:16]


def _describe_calibration(calibration: Calibration) -> str:
    return (
        f"tie up to |margin| {calibration.tie_threshold:g}, fitted on "
        f"{len(calibration.pair_hashes)} held-out pairs with model {calibration.model_hash}"
    )


def write_memory_results(
    folder: RunFolder,
    settings: RunSettings,
    records: Sequence[EpisodeRecord],
    run: RunSummary,
    controls: Sequence[MemoryControl],
) -> MemorySummary:
    """Write the final files of the memory controls; `records` are the run's own episodes."""
    failed = [each.key for each in run.permanent + run.passing]
    summary = summarise_memory(records, run.done, controls, run.count_failures(), failed)
    pages = describe_memory(summary)
    _write_probed(folder, "Memory", settings, records, run, to_plain(summary), pages)
    return summary


def write_probe_results(
    folder: RunFolder,
    settings: RunSettings,
    records: Sequence[EpisodeRecord],
    run: RunSummary,
    replacements: Sequence[Replacement],
) -> ProbeSummary:
    """Write the final files of a probe; `records` are the true episodes that it is about."""
    summary = summarise_probes(records, run.done, replacements, run.count_failures())
    pages = describe_probes(summary)
    _write_probed(folder, "Probe", settings, records, run, to_plain(summary), pages)
    return summary


def _write_probed(
    folder: RunFolder,
    what: str,
    settings: RunSettings,
    records: Sequence[EpisodeRecord],
    run: RunSummary,
    results: Any,
    blocks: Sequence[Block],
) -> None:
    header = make_header(
        settings,
        len({record.uid for record in records}),
        list_commits(records),
        failures=run.count_failures(),
    )
    folder.write_records(EPISODES, list_final(run))
    folder.write_json("results.json", results)
    title = f"{what} of {settings.model} on {settings.benchmark}"
    write_pages(folder, title, blocks, header.lines(), _LINKS)
