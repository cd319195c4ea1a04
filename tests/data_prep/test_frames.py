"""Filling the frame store: every video once, the broken ones named, a killed run goes on where it
was."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from verl_videosearch.data_prep import frames
from verl_videosearch.data_prep.frames import FillReport, list_videos
from verl_videosearch.data_prep.sets.frame_filler import WORKER_DIED, FrameFiller, fill_video

from tests.clips import grey_frames, write_clip
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.sample import PreferenceSample, read_samples, write_samples
from verl_videosearch.video.decode import FramePlan
from verl_videosearch.video.pair import plan_frames
from verl_videosearch.video.store import FrameStore

NUM_GOOD = 22
FIRST_BY_RAY = frames.NUM_PROBED + 1  # entries from then on were not written by the estimate
PLAN = FramePlan(frames_per_video=4)
ROOT = Path(__file__).parents[2]


def make(uid: str, video_1: str, video_2: str) -> PreferenceSample:
    return PreferenceSample(uid, "p", video_1, video_2, {"TA": 0, "VQ": 0, "MQ": 0, "OA": 0})


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Twelve pairs of clips that differ; one is broken, one missing."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(24):
        write_clip(folder / f"{number}.mp4", grey_frames(6 + number))
    (folder / "3.mp4").write_bytes(b"not a video" * 99)
    (folder / "8.mp4").unlink()
    samples = [
        make(f"s{number}", f"{2 * number}.mp4", f"{2 * number + 1}.mp4") for number in range(12)
    ]
    write_samples(tmp_path / "s.parquet", samples)
    return folder


def start(videos: Path, *arguments: object) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "data_prep.frames",
        videos.parent / "s.parquet",
        "--video-root",
        videos,
    ]
    command += ["--store", videos.parent / "store", "--frames-per-video", 4, *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def num_entries(videos: Path) -> int:
    return len(list((videos.parent / "store").rglob("*.frames")))


def test_every_video_is_listed_once(tmp_path: Path) -> None:
    rows = list_videos([make("s1", "a.mp4", "b.mp4"), make("s2", "a.mp4", "./c.mp4")], tmp_path)
    assert [(Path(row["path"]).name, row["uid"]) for row in rows] == [
        ("a.mp4", "s1"),
        ("b.mp4", "s1"),
        ("c.mp4", "s2"),
    ]


def die_on_five(row: Mapping[str, str], **settings: Any) -> dict[str, Any]:
    """A decoder that takes its process along."""
    if row["path"].endswith("5.mp4"):
        os.kill(os.getpid(), signal.SIGKILL)
    return fill_video(row, **settings)


def test_a_video_that_kills_its_process_is_broken_and_the_next_one_is_fine(
    videos: Path, tmp_path: Path
) -> None:
    filler = FrameFiller(
        partial(die_on_five, store=str(tmp_path / "store"), plans=(PLAN,), timeout_s=60)
    )
    results = [
        filler({"path": str(videos / f"{number}.mp4"), "uid": "s"}) for number in (4, 5, 6, 3)
    ]
    assert [result["kind"] for result in results] == ["", WORKER_DIED, "", "not_a_video"]
    assert len({tuple(result) for result in results}) == 1, "all rows have the same columns"
    assert results[0]["num_bytes"] == 4 * 56 * 84 * 3


def test_report_adds_up() -> None:
    report, row = (
        FillReport(),
        {"path": "p", "uid": "u", "kind": "", "cause": "", "was_hit": True, "num_bytes": 10},
    )
    for change in ({}, {"was_hit": False}, {"kind": "empty", "cause": "why", "num_bytes": 0}):
        report.add({**row, **change})
    assert (report.num_hits, report.num_decoded, report.num_good, report.num_bytes) == (1, 1, 2, 20)
    assert report.broken == [{"path": "p", "uid": "u", "kind": "empty", "cause": "why"}]


def test_missing_ray_is_one_clear_error(
    videos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "ray.data", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(typer.Exit) as raised:
        frames.main([videos.parent / "s.parquet"], video_root=videos, store=videos.parent / "store")
    assert raised.value.exit_code == 2
    assert 'pip install ".[gpu]"' in capsys.readouterr().err


def test_too_small_a_disk_stops_before_the_work(
    videos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("ray.data")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(typer.Exit):
        frames.main(
            [videos.parent / "s.parquet"],
            video_root=videos,
            store=videos.parent / "store",
            frames_per_video=4,
        )
    captured = capsys.readouterr()
    assert "the disk is too small" in captured.err and "24 videos, about" in captured.out
    assert num_entries(videos) <= frames.NUM_PROBED


@pytest.mark.slow_start
def test_killed_run_is_resumed(videos: Path) -> None:
    """SIGKILL after the first entries; the next run does the rest and reports all that is
    broken."""
    pytest.importorskip("ray.data")
    process = start(videos, "--workers", 2)
    while num_entries(videos) < FIRST_BY_RAY and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.communicate(
        timeout=60
    )  # returns only when no child holds the pipes any more: nothing was left behind
    done = num_entries(videos)
    assert done >= 3
    report_file, out = videos.parent / "report.json", videos.parent / "good.parquet"
    process = start(videos, "--workers", 2, "--report", report_file, "--out", out)
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, output + errors
    report = json.loads(report_file.read_text())
    assert (report["hits"] + report["decoded"], report["broken"]) == (NUM_GOOD, 2) and report[
        "hits"
    ] >= done
    assert {
        (Path(video["path"]).name, video["kind"], video["uid"]) for video in report["videos"]
    } == {
        ("3.mp4", "not_a_video", "s1"),
        ("8.mp4", "missing", "s4"),
    }
    assert [sample.uid for sample in read_samples(out)] == [
        "s0",
        "s2",
        "s3",
        *(f"s{number}" for number in range(5, 12)),
    ]
    assert (
        num_entries(videos) == NUM_GOOD
        and "videos/s with 2 workers" in output
        and "24 videos, about" in output
    )
    store = FrameStore(videos.parent / "store")
    plans = plan_frames(EpisodeConfig(frames_per_video=4))
    assert all(store.open(videos / f"{number}.mp4", plans).was_hit for number in (0, 1, 2, 11))
