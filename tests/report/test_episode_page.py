"""The page of episodes without a browser: what stands in it, missing videos, any kind of record."""

import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from tests.report.conftest import PlayedPage
from tests.report.packed import read_index, unpack_block, unpack_pairs
from tests.report.played import HOSTILE
from verl_videosearch.cli import app
from verl_videosearch.report.episode_page import (
    draw_episodes,
    read_sources,
    render_inline,
    write_episode_page,
)
from verl_videosearch.report.episode_view import Source, make_views
from verl_videosearch.report.thumbnails import Thumbnails
from verl_videosearch.runs.record import EpisodeRecord, RecordKind
from verl_videosearch.runs.record_file import RecordError, write_record
from verl_videosearch.sample import Order
from verl_videosearch.video.store import FrameStore


def view_records(played: PlayedPage, *records: EpisodeRecord):
    return make_views([Source("run", records)], Thumbnails(played.store, played.folder))


def test_every_picture_stands_once_and_nothing_is_loaded(played: PlayedPage) -> None:
    html = played.written.path.read_text("utf-8")
    blocks = re.findall(r'<div hidden id="(f\d+)">(.*?)</div>', html, re.DOTALL)
    assert len({name for name, _ in blocks}) == len(blocks) == 6, "six clips, one film each"
    for _, content in blocks:
        indices = [line.split(" ")[0] for line in content.splitlines()]
        assert len(set(indices)) == len(indices)
    assert not re.search(r"https?://|url\(|@import", html)
    assert "default-src 'none'" in html and "unsafe-inline" not in html
    assert HOSTILE not in html and HOSTILE not in unpack_pairs(played.written.path)


def test_the_index_names_every_episode_and_comes_first(played: PlayedPage) -> None:
    entries = read_index(played.written.path)
    assert sorted(each["anchor"] for each in entries) == sorted(r.key for r in played.records)
    assert (
        max(len(each["title"]) for each in entries)
        == 160
        < max(len(record.own.prompt) for record in played.records if record.sample)
    )
    html = played.written.path.read_text("utf-8")
    assert html.index('id="index"') < html.index("</script>") < html.index('id="p0"')
    words = unpack_block(html, "texts").split("\n")
    assert len(words) == len(entries)
    for each, line in zip(entries, words, strict=True):
        assert each["anchor"].lower() in line


def test_pages_of_equal_episodes_have_equal_bytes(played: PlayedPage, tmp_path: Path) -> None:
    again = write_episode_page(
        [Source("episodes", sorted(played.records, key=lambda record: record.key))],
        tmp_path / "again.html",
        title="Played",
        store=FrameStore(tmp_path / "another"),
        video_root=played.folder,
    )
    assert again.num_episodes == played.written.num_episodes
    first, second = (read_index(path) for path in (played.written.path, again.path))
    assert [each["anchor"] for each in first] == [each["anchor"] for each in second]


def test_missing_and_changed_videos_say_so(played: PlayedPage, tmp_path: Path) -> None:
    record = played.record("pair-001 AB")
    written = write_episode_page(
        [Source("run", [record])], tmp_path / "a.html", store=played.store, video_root=tmp_path
    )
    assert len(written.problems) == 2 and "no such file" in written.describe()
    assert "No pictures: " in unpack_pairs(written.path)
    late = msgspec.structs.replace(
        record,
        candidates=replace(
            record.candidates, times_1=tuple(time + 0.5 for time in record.candidates.times_1)
        ),
    )
    strips = view_records(played, late)[0].strips
    assert "has changed" in strips[0].problem and strips[1].problem == ""
    assert all(not each.frame.film for each in strips[0].frames)


def test_orders_are_one_pair_and_attempts_are_not(played: PlayedPage) -> None:
    both = [played.record("pair-001 AB"), played.record("pair-001 BA")]
    [view] = view_records(played, *both)
    assert [column.record.order for column in view.columns] == [Order.AB, Order.BA]
    tries = [
        msgspec.structs.replace(both[0], key=f"pair-001 AB {n}", attempt=n, kind=RecordKind.SAMPLE)
        for n in range(3)
    ]
    assert len(view_records(played, *tries)) == 3
    rollouts = [
        msgspec.structs.replace(both[0], key=f"session {n}", kind=RecordKind.ROLLOUT, step=1)
        for n in range(3)
    ]
    assert len(view_records(played, *rollouts)) == 3


def test_a_failure_stands_beside_the_other_order(played: PlayedPage) -> None:
    [view] = view_records(played, played.record("pair-014 AB"), played.record("pair-014 BA"))
    assert view.columns[1].outcome == "failed: video truncated"
    assert "truncated &lt;b&gt;file&lt;/b&gt;" in unpack_pairs(played.written.path)


def test_equal_keys_of_two_runs_have_two_links(played: PlayedPage) -> None:
    record = played.record("pair-001 AB")
    views = make_views(
        [Source("one", [record]), Source("two", [record])],
        Thumbnails(played.store, played.folder),
    )
    anchors = [column.anchor for view in views for column in view.columns]
    assert anchors == ["one: pair-001 AB", "two: pair-001 AB"]


def test_a_record_without_a_sample_is_shown(played: PlayedPage, tmp_path: Path) -> None:
    broken = msgspec.structs.replace(
        played.record("pair-014 BA"), sample=None, key="row \ud800 7", uid="row 7"
    )
    played_without = msgspec.structs.replace(played.record("pair-001 BA"), sample=None)
    written = write_episode_page(
        [Source("run", [broken, played_without])], tmp_path / "a.html", store=played.store
    )
    assert unpack_pairs(written.path).count("could not be read") == 2


def test_a_probe_says_that_other_frames_were_shown(played: PlayedPage) -> None:
    record = msgspec.structs.replace(
        played.record("pair-001 AB"), kind=RecordKind.PROBE, extra={"replacement": "random"}
    )
    [view] = view_records(played, record)
    assert "other frames" in view.notes[0]


def test_inline_pages_need_no_script(played: PlayedPage) -> None:
    source = Source("judge", [played.record("pair-001 AB")])
    html = render_inline(source, played.store, played.folder, [("probability", "71 %")])
    assert "<script" not in html and "71 %" in html
    assert html.count("data:image/webp;base64,") == html.count('<img class="picture"')


def test_draw_keeps_the_orders_of_a_pair_together(played: PlayedPage) -> None:
    [source] = draw_episodes([Source("run", played.records)], 6, seed=0)
    assert len(source.records) == 6 and len({record.uid for record in source.records}) == 3


def test_command(played: PlayedPage, tmp_path: Path) -> None:
    file, out = played.folder / "episodes.jsonl", tmp_path / "pages" / "report.html"
    arguments = ["report", str(file), "--video-root", str(played.folder), "-o", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--limit", "4", "--store", str(tmp_path / "s")])
    assert result.exit_code == 0, result.output
    assert "4 of 30 episodes" in result.output and out.is_file()
    result = CliRunner().invoke(app, ["report", str(tmp_path), "-o", str(out)])
    assert result.exit_code == 2 and "holds neither" in result.output
    (tmp_path / "empty.jsonl").write_text("")
    result = CliRunner().invoke(app, ["report", str(tmp_path / "empty.jsonl"), "-o", str(out)])
    assert result.exit_code == 2 and "no episode" in result.output


def test_an_unfinished_run_shows_what_was_played(played: PlayedPage, tmp_path: Path) -> None:
    lines = [write_record(record) for record in played.records[:3]]
    (tmp_path / "journal.jsonl").write_text("".join(lines) + '{"format": 1, "ki')
    sources, damaged = read_sources([tmp_path])
    assert len(sources[0].records) == 3 and len(damaged) == 1
    with pytest.raises(RecordError, match="no such file"):
        read_sources([tmp_path / "nothing.jsonl"])
