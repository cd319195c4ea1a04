"""A run as files: what was asked for, what was found, and the pages that say so.

The one idea: `write_results` is a pure function of the journal's rows. The final files hold no time
of day and no path of this machine, are sorted, and are written in one step each: a run that was
killed ten times ends with equal bytes.

    run = read_run(Path("runs/genai"))
    run.pairs[0].verdict()          # merged over both orders
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.evaluation.calibration import Calibration
from verl_videosearch.evaluation.old_jobs import OldRunFolder, RunState
from verl_videosearch.evaluation.pages.header import RunHeader, describe_frames, describe_protocol
from verl_videosearch.evaluation.pages.probe_tables import describe_probes
from verl_videosearch.evaluation.pages.tables import describe_summary
from verl_videosearch.evaluation.probes import ProbeSummary, summarise_probes
from verl_videosearch.evaluation.summary import Summary, read_timing, summarise, to_plain
from verl_videosearch.evaluation.verdicts import PairVerdicts, merge_lines
from verl_videosearch.report.page import Block, render_markdown, render_page
from verl_videosearch.runs.folder import EPISODES, Line, RunFolder
from verl_videosearch.sample import Order, PreferenceSample
from verl_videosearch.video.altered_frames import Replacement

_ORDER_WORDS = {
    True: "both orders: agreement is the verdict, disagreement a tie, unreadable in one is unreadable",
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
    max_turn_tokens: int
    episode: EpisodeConfig
    is_redundant: bool = False
    num_missing: int = 0
    """Pairs of the benchmark that were left out because their videos are not there."""
    temperature: float = 0.0
    """0 is greedy, the protocol."""
    seed: int = 0
    """Of sampling; without meaning when greedy."""

    def to_json(self) -> dict[str, Any]:
        """Write the settings as plain data; `from_json` reads them back."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunSettings:
        values = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        values["orders"] = tuple(Order(order) for order in content["orders"])
        values["episode"] = EpisodeConfig.from_dict(content["episode"])
        return cls(**values)


@dataclass(frozen=True)
class Run:
    """A run read back from its folder."""

    name: str
    settings: RunSettings
    samples: list[PreferenceSample]
    pairs: list[PairVerdicts]
    seconds_per_pair: float | None


def read_run(path: Path) -> Run:
    """Read a finished run; raises `RunFolderError` if the folder holds none."""
    folder = OldRunFolder(path)
    settings = RunSettings.from_json(folder.read_settings())
    timing = folder.read_json("timing.json") or {}
    pairs = merge_lines(folder.read_lines(EPISODES), settings.orders)
    return Run(path.name, settings, folder.read_samples(), pairs, timing.get("seconds_per_pair"))


def write_results(
    folder: RunFolder,
    settings: RunSettings,
    samples: Sequence[PreferenceSample],
    state: RunState,
    *,
    concurrency: int,
    calibration: Calibration | None = None,
) -> Summary:
    """Write the final files of a run and return its figures."""
    rows = sorted(state.rows.values(), key=lambda row: (row["sample_uid"], row["order"]))
    lines = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    pairs = merge_lines(lines, settings.orders)
    commits = ", ".join(sorted({line["commit"] for line in lines})) or "unknown"
    header = make_header(settings, len(pairs), commits, calibration)
    summary = summarise(header, samples, pairs, state.count_failures(), calibration)
    folder.write_lines(EPISODES, lines)
    folder.write_json("results.json", to_plain(summary))
    write_pages(
        folder,
        f"{settings.model} on {settings.benchmark}",
        describe_summary(summary),
        header.lines(),
    )
    folder.write_json("timing.json", read_timing(rows, concurrency))
    return summary


def make_header(
    settings: RunSettings, num_scored: int, commits: str, calibration: Calibration | None = None
) -> RunHeader:
    """Say under which conditions the figures were made."""
    has_both = len(settings.orders) == len(Order)
    missing = (
        f", {settings.num_missing} pairs without videos left out" if settings.num_missing else ""
    )
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
        verdicts="as judged" if calibration is None else _describe_calibration(calibration),
    )


def write_pages(
    folder: RunFolder, title: str, blocks: Sequence[Block], facts: Sequence[tuple[str, str]]
) -> None:
    """Write the same blocks as Markdown and as a page."""
    folder.write_text("results.md", render_markdown(title, blocks, facts))
    folder.write_text("index.html", render_page(title, blocks, facts))


def hash_lines(folder: RunFolder) -> str:
    """Name the episodes of a run by their bytes."""
    return hashlib.sha256((folder.path / EPISODES).read_bytes()).hexdigest()[:16]


def _describe_calibration(calibration: Calibration) -> str:
    return (
        f"tie up to |margin| {calibration.tie_threshold:g}, fitted on {len(calibration.pair_hashes)} held-out pairs "
        f"with model {calibration.model_hash}"
    )


def write_probe_results(
    folder: RunFolder,
    settings: RunSettings,
    samples: Sequence[PreferenceSample],
    lines: Sequence[Line],
    state: RunState,
    replacements: Sequence[Replacement],
) -> ProbeSummary:
    """Write the final files of a probe; `lines` are the true episodes that it is about."""
    after = sorted(
        state.rows.values(), key=lambda row: (row["sample_uid"], row["order"], row["replacement"])
    )
    summary = summarise_probes(samples, lines, after, replacements, state.count_failures())
    commits = ", ".join(sorted({line["commit"] for line in lines})) or "unknown"
    facts = make_header(settings, len({line["sample_uid"] for line in lines}), commits).lines()
    folder.write_lines(EPISODES, after)
    folder.write_json("results.json", to_plain(summary))
    write_pages(
        folder,
        f"Probe of {settings.model} on {settings.benchmark}",
        describe_probes(summary),
        facts,
    )
    return summary
