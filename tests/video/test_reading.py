"""Time limits and the memory that all decodes share."""

import threading
import time
from pathlib import Path

import pytest

from tests.clips import grey_frames, write_clip
from verl_videosearch.video import films, reading
from verl_videosearch.video.decode import (
    FramePlan,
    VideoError,
    VideoErrorKind,
    check_file,
    read_candidate_frames,
)
from verl_videosearch.video.reading import DecodeBudget, Reading, run_in_time


def test_the_budget_is_never_exceeded(tmp_path: Path) -> None:
    budget, held, lock = DecodeBudget(100), [], threading.Lock()

    def work(num_bytes: int) -> None:
        with budget.hold(num_bytes, Reading(tmp_path, None, 60)):
            with lock:
                held.append(budget.held_bytes)
            time.sleep(0.002)

    threads = [threading.Thread(target=work, args=(10 + 9 * n % 91,)) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(held) == 40 and max(held) <= 100 and budget.held_bytes == 0


def test_what_never_fits_is_refused_at_once(tmp_path: Path) -> None:
    with (
        pytest.raises(VideoError, match="needs about 0.0 GB") as caught,
        DecodeBudget(100).hold(101, Reading(tmp_path, None, 60)),
    ):
        pass
    assert caught.value.kind is VideoErrorKind.TOO_LARGE


def test_waiting_for_others_is_not_the_own_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, budget = write_clip(tmp_path / "c.mp4"), DecodeBudget(10**9)
    monkeypatch.setattr("verl_videosearch.video.decode.BUDGET", budget)
    with budget.hold(10**9, Reading(path, None, 60)):
        results: list[object] = []

        def read() -> None:
            results.append(read_candidate_frames(path, FramePlan(), timeout_s=2))

        thread = threading.Thread(target=read)
        thread.start()
        thread.join(3)
        assert thread.is_alive() and results == []
    thread.join(60)
    assert len(results) == 1


def test_who_waits_for_ever_gets_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MAX_WAIT_S", 0.05)
    budget = DecodeBudget(10)
    with (
        budget.hold(10, Reading(tmp_path, None, 60)),
        pytest.raises(VideoError, match="other decodes held the memory") as caught,
        budget.hold(1, Reading(tmp_path, None, 60)),
    ):
        pass
    assert caught.value.kind is VideoErrorKind.TIMEOUT and budget.held_bytes == 0


def test_a_huge_film_is_refused_by_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "c.mp4", grey_frames(3, 560, 840))
    monkeypatch.setattr("verl_videosearch.video.decode.BUDGET", DecodeBudget(10**6))
    with pytest.raises(VideoError, match="of memory") as caught:
        read_candidate_frames(path, FramePlan())
    assert caught.value.kind is VideoErrorKind.TOO_LARGE


def test_no_memory_is_a_failure_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(reading: Reading) -> None:
        raise MemoryError

    monkeypatch.setattr(films, "survey", fail)
    with pytest.raises(VideoError) as caught:
        read_candidate_frames(write_clip(tmp_path / "c.mp4"), FramePlan())
    assert caught.value.kind is VideoErrorKind.NO_MEMORY


def test_a_bug_of_ours_is_no_failure_of_the_file(tmp_path: Path) -> None:
    def work(reading: Reading) -> None:
        raise AssertionError("a bug")

    with pytest.raises(AssertionError, match="a bug"):
        run_in_time(write_clip(tmp_path / "c.mp4"), 60, None, work)


NAMES = {
    "nul": ("a\0b.mp4", VideoErrorKind.MISSING),
    "surrogate": ("a\ud800b.mp4", VideoErrorKind.MISSING),
    "too long": ("a" * 5000 + ".mp4", VideoErrorKind.UNREADABLE),
    "too deep": ("a/" * 4000 + "b.mp4", VideoErrorKind.UNREADABLE),
}


@pytest.mark.parametrize("name", NAMES)
def test_impossible_names(tmp_path: Path, name: str) -> None:
    path, kind = NAMES[name]
    with pytest.raises(VideoError) as caught:
        check_file(f"{tmp_path}/{path}", uid="pair-7")
    assert caught.value.kind is kind and len(str(caught.value)) < 700
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "I/O")])
def test_a_file_that_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """As root every file can be opened, so the refusal is made here."""
    path, open_file = write_clip(tmp_path / "c.mp4"), Path.open

    def refuse(self: Path, *args: object, **kwargs: object) -> object:
        if self == path:
            raise error
        return open_file(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(VideoError, match=error.strerror) as caught:
        read_candidate_frames(path, FramePlan())
    assert caught.value.kind is VideoErrorKind.UNREADABLE
