"""`videosearch store`: show, prune, empty."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.clips import grey_frames, write_clip
from verl_videosearch.cli import app
from verl_videosearch.video.plan import FramePlan
from verl_videosearch.video.store import FrameStore

PLAN = FramePlan(frames_per_video=4)


@pytest.fixture
def store(tmp_path: Path) -> FrameStore:
    store = FrameStore(tmp_path / "store")
    for number in (8, 9, 10):
        store.get(write_clip(tmp_path / f"{number}.mp4", grey_frames(number)), PLAN)
    old = store.root / "v1" / "0123.frames"
    old.parent.mkdir()
    old.write_bytes(bytes(5000))
    return store


def run(store: FrameStore, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["store", *arguments, "--store", str(store.root)])
    assert result.exit_code == 0, result.output
    return result.output


def test_show(store: FrameStore) -> None:
    output = run(store, "show")
    assert str(store.root) in output and "3 entries" in output and "limit" in output
    assert "5 kB of an older format" in output


def test_prune_removes_old_formats_and_what_is_too_much(store: FrameStore) -> None:
    assert "freed 5 kB" in run(store, "prune") and "3 entries" in run(store, "show")
    assert not (store.root / "v1").exists()
    size = store.size_bytes()
    run(store, "prune", "--max-gigabytes", str(size * 0.7 / 1e9))
    assert 0 < store.size_bytes() <= size * 0.7


def test_empty(store: FrameStore) -> None:
    assert "0 entries" in run(store, "empty") and store.size_bytes() == 0
    assert "0 entries" in run(store, "empty")


@pytest.mark.parametrize("verb", ["show", "prune", "empty"])
def test_looking_for_a_store_makes_none(tmp_path: Path, verb: str) -> None:
    result = CliRunner().invoke(app, ["store", verb, "--store", str(tmp_path / "none")])
    assert result.exit_code == 0 and "no store in" in result.output
    assert not (tmp_path / "none").exists()
