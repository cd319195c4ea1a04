"""A progress bar for a run: episodes done, time left, failures, and how many verdicts are right.

    with show_progress("episodes", summary) as on_record:
        summary = asyncio.run(run_jobs(jobs, play, journal, on_record=on_record))

The one idea: it watches records and knows nothing else, so every program has the same bar. It goes
to stderr; where that is no terminal, rich prints its last state only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from verl_videosearch.runs.jobs import RunSummary
from verl_videosearch.runs.record import EpisodeRecord


@dataclass
class RunningFigures:
    """What is known of a run so far; episodes without a gold label count in neither figure."""

    num_right: int = 0
    num_labelled: int = 0
    num_failed: int = 0

    def add(self, record: EpisodeRecord) -> None:
        """Count one more record."""
        is_right = record.is_right
        self.num_failed += not record.has_result
        self.num_labelled += is_right is not None
        self.num_right += bool(is_right)

    def describe(self) -> str:
        """Return the figures in words.

        >>> RunningFigures(3, 4, 1).describe(), RunningFigures().describe()
        ('right 75.0 % (3/4), failed 1', '')
        """
        words = []
        if self.num_labelled:
            share = self.num_right / self.num_labelled
            words.append(f"right {share * 100:.1f} % ({self.num_right}/{self.num_labelled})")
        if self.num_failed:
            words.append(f"failed {self.num_failed}")
        return ", ".join(words)


@contextmanager
def show_progress(
    what: str, summary: RunSummary, console: Console | None = None
) -> Iterator[Callable[[EpisodeRecord], None]]:
    """Show a bar while a run goes on from `summary`; yields the `on_record` of `run_jobs`."""
    figures = RunningFigures()
    final = [*summary.done, *summary.permanent]
    _add_all(figures, final)
    with make_bar(console) as progress:
        task = progress.add_task(
            what, total=len(summary.jobs), completed=len(final), figures=figures.describe()
        )

        def on_record(record: EpisodeRecord) -> None:
            figures.add(record)
            progress.update(task, advance=1, figures=figures.describe())

        yield on_record


def make_bar(console: Console | None = None) -> Progress:
    """Return a bar that tells how many are done and how long the rest will take; its tasks have a
    field `figures`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=console or Console(stderr=True),
    )


def _add_all(figures: RunningFigures, records: Iterable[EpisodeRecord]) -> None:
    for record in records:
        figures.add(record)
