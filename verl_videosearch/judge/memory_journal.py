"""MemoryJournal: what `run_jobs` notes, kept in memory - a call that is over leaves no file.

>>> len(MemoryJournal().records)
0
"""

from __future__ import annotations

from verl_videosearch.runs.record import EpisodeRecord


class MemoryJournal:
    """Stands in for `runs.folder.Journal` where nothing has to survive a kill."""

    def __init__(self) -> None:
        self.records: list[EpisodeRecord] = []
        self.damaged: list[str] = []

    def append(self, record: EpisodeRecord) -> None:
        """Note one record."""
        self.records.append(record)
