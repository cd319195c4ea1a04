"""How far a program is: a bar on a terminal, and a line a minute in a log.

    with show_progress("episodes", summary) as on_record:
        summary = asyncio.run(run_jobs(jobs, play, journal, on_record=on_record))
    for pair in track(pairs, "writing pairs"):
        ...

The one idea: long runs end in the log of a batch system, where no bar can be drawn; there the same
bar says now and then how many are done and how long the rest will take. It goes to stderr. A bar of
episodes watches records and knows nothing else, so every program has the same one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from verl_videosearch.runs.jobs import RunSummary
from verl_videosearch.runs.record import EpisodeRecord

T = TypeVar("T")
LINE_EVERY_S = 60.0
"""Between two lines of a bar that is no bar, in seconds."""
PACE_S = 1800.0
"""The time left is told from the steps of so many seconds."""


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


class LoggedProgress(Progress):
    """Progress that is written line by line where there is no terminal; its tasks have a field
    `figures`."""

    def __init__(self, *columns: Any, line_every_s: float = LINE_EVERY_S, **options: Any) -> None:
        # rich forgets steps of more than so many seconds ago: a slow run would never have a pace
        super().__init__(*columns, **{"speed_estimate_period": PACE_S, **options})
        self._line_every_s, self._said_s = line_every_s, self.get_time()

    def update(self, task_id: TaskID, **changes: Any) -> None:  # type: ignore[override]
        """Change a task, see `rich.progress.Progress`."""
        super().update(task_id, **changes)
        self._say_now_and_then(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Count steps of a task."""
        super().advance(task_id, advance)
        self._say_now_and_then(task_id)

    def _say_now_and_then(self, task_id: TaskID) -> None:
        now = self.get_time()
        if (
            self.console.is_interactive
            or self.console.is_jupyter
            or now - self._said_s < self._line_every_s
        ):
            return
        self._said_s = now
        task = self._tasks[task_id]
        total = "" if task.total is None else f" of {task.total:,.0f}"
        words = [f"{task.completed:,.0f}{total} done"]
        if task.elapsed is not None:
            words.append(f"{_in_words(task.elapsed)} gone")
        if task.time_remaining is not None:
            words.append(f"{_in_words(task.time_remaining)} left")
        if figures := task.fields.get("figures"):
            words.append(str(figures))
        line = f"{task.description}: {', '.join(words)}"
        self.console.print(line, markup=False, soft_wrap=True, highlight=False)


def make_bar(console: Console | None = None) -> LoggedProgress:
    """Return a bar that tells how many are done and how long the rest will take; its tasks have a
    field `figures`."""
    return LoggedProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=console or Console(stderr=True),
    )


def track(
    items: Iterable[T], what: str, total: int | None = None, console: Console | None = None
) -> Iterator[T]:
    """Yield items and show how many are done; `total` for those that do not know their number."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with make_bar(console) as bar:
        task = bar.add_task(what, total=total, figures="")
        for item in items:
            yield item
            bar.advance(task)


def _add_all(figures: RunningFigures, records: Iterable[EpisodeRecord]) -> None:
    for record in records:
        figures.add(record)


def _in_words(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
