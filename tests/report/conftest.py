"""Thirty real episodes and their page, made once for all tests of this folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.report.browser import Page, start_browser
from tests.report.played import play_records, reward
from verl_videosearch.report.episode_page import WrittenPage, read_sources, write_episode_page
from verl_videosearch.runs.record import EpisodeRecord
from verl_videosearch.runs.record_file import write_record
from verl_videosearch.video.store import FrameStore


@dataclass(frozen=True)
class PlayedPage:
    """The page and what it was made of."""

    folder: Path
    records: list[EpisodeRecord]
    store: FrameStore
    written: WrittenPage

    def record(self, key: str) -> EpisodeRecord:
        return next(record for record in self.records if record.key == key)


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> PlayedPage:
    folder = tmp_path_factory.mktemp("played")
    store = FrameStore(folder / "store")
    records = play_records(folder, 15, store)
    records[:2] = [reward(record) for record in records[:2]]
    file = folder / "episodes.jsonl"
    file.write_text("".join(map(write_record, records)), "utf-8")
    sources, damaged = read_sources([file])
    assert not damaged
    written = write_episode_page(
        sources, folder / "report.html", title="Played", store=store, video_root=folder
    )
    return PlayedPage(folder, records, store, written)


@pytest.fixture(scope="session")
def browser() -> Iterator[Page]:
    with start_browser() as page:
        yield page
