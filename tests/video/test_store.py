"""The store of decoded frames: shared, lossless, self-checking, bounded."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from tests.clips import grey_frames, read_levels, write_clip
from verl_videosearch.video import decode as video
from verl_videosearch.video import known_files, upkeep
from verl_videosearch.video import store as frame_store
from verl_videosearch.video.decode import (
    FramePlan,
    VideoError,
    VideoErrorKind,
    read_candidate_frames,
)
from verl_videosearch.video.space import estimate_space
from verl_videosearch.video.store import FrameStore, FrameStoreStats, default_root

PLAN = FramePlan(frames_per_video=4)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", grey_frames(12))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def entries_of(root: Path) -> list[Path]:
    return sorted(root.rglob("*.frames"))


def test_stored_frames_equal_decoded_ones(clip: Path, root: Path) -> None:
    store, decoded = FrameStore(root), read_candidate_frames(clip, PLAN)
    first, second = store.get(clip, PLAN), store.get(clip, PLAN)
    for stored in (first, second):
        assert np.array_equal(stored.frames, decoded.frames) and np.array_equal(
            stored.times_s, decoded.times_s
        )
        assert isinstance(stored.frames, np.memmap) and not stored.frames.flags.writeable
        assert (stored.num_decoded_frames, stored.source_height, stored.source_width) == (
            12,
            56,
            84,
        )
    assert (first.was_hit, second.was_hit) == (False, True)
    assert first.decode_s > 0 == second.decode_s
    assert store.stats == FrameStoreStats(hits=1, misses=1, decode_s=first.decode_s)
    assert (
        store.size_bytes()
        == sum(path.stat().st_size for path in entries_of(root))
        > decoded.frames.nbytes
    )


def test_entry_belongs_to_content_and_plan(clip: Path, root: Path, tmp_path: Path) -> None:
    store = FrameStore(root)
    store.get(clip, PLAN)
    moved = clip.rename(tmp_path / "moved.mp4")
    assert store.get(moved, PLAN).was_hit
    assert not store.get(moved, FramePlan(frames_per_video=3)).was_hit
    assert not store.get(moved, FramePlan(frames_per_video=4, patch_multiple=14)).was_hit
    write_clip(moved, grey_frames(20))
    changed = store.get(moved, PLAN)
    assert not changed.was_hit and read_levels(changed.frames) == [0, 5, 10, 15]


def test_everything_stays_inside_the_root(clip: Path, root: Path, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    FrameStore(root).get(clip, PLAN)
    assert all(root == path or root in path.parents for path in set(tmp_path.rglob("*")) - before)


DAMAGE = {
    "magic": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "header": lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:],
    "header length": lambda data: data[:16] + b"\xff" * 8 + data[24:],
    "a pixel in the middle": lambda data: data[:-9000] + bytes([data[-9000] ^ 1]) + data[-8999:],
    "the last byte": lambda data: data[:-1] + bytes([data[-1] ^ 128]),
    "half written": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "one byte more": lambda data: data + b"\0",
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_entry_is_rebuilt(clip: Path, root: Path, damage: str) -> None:
    FrameStore(root).get(clip, PLAN)
    (entry,) = entries_of(root)
    intact = entry.read_bytes()
    entry.write_bytes(DAMAGE[damage](intact))
    store = FrameStore(root)
    assert read_levels(store.get(clip, PLAN).frames) == [0, 3, 6, 9]
    assert (store.stats.hits, store.stats.misses, store.stats.rebuilt) == (0, 1, 1)
    assert entry.read_bytes() == intact
    assert FrameStore(root).get(clip, PLAN).was_hit


def count_decodes(
    root: Path, clip: Path, barrier: "multiprocessing.synchronize.Barrier"
) -> FrameStoreStats:
    store = FrameStore(root)
    barrier.wait(60)
    assert read_levels(store.get(clip, PLAN).frames) == [0, 3, 6, 9]
    return store.stats


def test_processes_decode_a_video_once(clip: Path, root: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(4) as pool:
        stats = pool.starmap(count_decodes, [(root, clip, manager.Barrier(4))] * 4, chunksize=1)
    assert sorted((one.hits, one.misses) for one in stats) == [(0, 1), (1, 0), (1, 0), (1, 0)]


KILLED_BEFORE_THE_MOVE = """
import sys, time
from verl_videosearch.video import entries, store as frame_store
from verl_videosearch.video.decode import FramePlan
entries.os.replace = lambda *paths: (print("written", flush=True), time.sleep(60))
frame_store.FrameStore(sys.argv[1]).get(sys.argv[2], FramePlan(frames_per_video=4))
"""


def test_killed_writer_leaves_no_entry_and_no_lock(clip: Path, root: Path) -> None:
    command = [sys.executable, "-c", KILLED_BEFORE_THE_MOVE, str(root), str(clip)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"written\n"
        writer.send_signal(signal.SIGKILL)
    (part,) = root.rglob("*.part")
    store, start = FrameStore(root, timeout_s=20), time.monotonic()
    assert read_levels(store.get(clip, PLAN).frames) == [0, 3, 6, 9]
    assert time.monotonic() - start < 10 and store.stats.misses == 1
    assert part.exists()  # it may belong to a living process
    os.utime(part, (0, 0))
    FrameStore(root).get(clip, FramePlan(frames_per_video=3))
    assert not part.exists()


def test_lock_that_is_never_freed_only_costs_time(clip: Path, root: Path) -> None:
    store = FrameStore(root, timeout_s=0.5)
    _, content = store._known.identify(clip, None)
    with FileLock(root / "locks" / f"{content[:3]}.lock"):
        assert read_levels(store.get(clip, PLAN).frames) == [0, 3, 6, 9]


def test_least_recently_used_entries_go_first(root: Path, tmp_path: Path) -> None:
    clips = [write_clip(tmp_path / f"{n}.mp4", grey_frames(n)) for n in (8, 9, 10, 11)]
    unbounded = FrameStore(root)
    entries, kept = {}, {}
    for age, path in enumerate(clips[:3]):
        known = set(entries_of(root))
        kept[path] = unbounded.get(path, PLAN)
        (entries[path],) = set(entries_of(root)) - known
        os.utime(entries[path], (1000 + age, 1000 + age))
    store = FrameStore(root, max_bytes=3 * max(entry.stat().st_size for entry in entries.values()))
    assert store.get(clips[0], PLAN).was_hit  # the oldest entry becomes the newest
    store.get(clips[3], PLAN)
    assert [entries[path].exists() for path in clips[:3]] == [True, False, True]
    assert store.stats.evicted == 1 and store.size_bytes() <= store.max_bytes
    assert read_levels(kept[clips[1]].frames) == [0, 2, 4, 6]  # still mapped


@pytest.mark.parametrize(("max_bytes", "num_scans"), [(None, 1), (10**9, 1), (1, 6)])
def test_a_large_folder_is_not_read_for_every_video(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_bytes: int | None,
    num_scans: int,
) -> None:
    scans, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scans.append(path) or scandir(path))
    store = FrameStore(root, max_bytes=max_bytes)
    for num_frames in range(8, 14):
        store.get(write_clip(tmp_path / f"{num_frames}.mp4", grey_frames(num_frames)), PLAN)
    assert sum(path == store._entries for path in scans) == num_scans


def test_a_full_store_keeps_its_bound_with_few_scans(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "_SLACK", 0.5)
    clips = [write_clip(tmp_path / f"{n}.mp4", grey_frames(n)) for n in range(8, 20)]
    size = FrameStore(tmp_path / "other").get(clips[0], PLAN).frames.nbytes
    store, scans = FrameStore(root, max_bytes=int(6.5 * size)), []
    evict = store.upkeep.evict
    monkeypatch.setattr(store.upkeep, "evict", lambda keep: scans.append(keep) or evict(keep))
    for path in clips:
        store.get(path, PLAN)
        assert store.size_bytes() <= store.max_bytes
    assert 1 < len(scans) < len(clips) and store.stats.evicted > 0


def test_newest_entry_stays_even_if_it_is_too_large(clip: Path, root: Path) -> None:
    store = FrameStore(root, max_bytes=1)
    store.get(clip, PLAN)
    assert store.get(clip, PLAN).was_hit and len(entries_of(root)) == 1


def test_broken_video_fails_again_without_a_second_decode(tmp_path: Path, root: Path) -> None:
    path = write_clip(tmp_path / "damaged.mp4", grey_frames(30))
    data = path.read_bytes()
    at = data.index(b"mdat") + 900
    path.write_bytes(data[:at] + bytes(200) + data[at + 200 :])
    store = FrameStore(root)
    for uid in ("pair-1", "pair-2"):
        with pytest.raises(VideoError, match=uid) as caught:
            store.get(path, PLAN, uid=uid)
        assert caught.value.kind in (VideoErrorKind.DAMAGED, VideoErrorKind.UNREADABLE)
    assert store.stats.misses == 1 and entries_of(root) == []
    write_clip(path)
    assert not store.get(path, PLAN).was_hit


def test_missing_video_is_a_video_error(tmp_path: Path, root: Path) -> None:
    with pytest.raises(VideoError, match="missing.*pair-1|pair-1.*missing"):
        FrameStore(root).get(tmp_path / "no.mp4", PLAN, uid="pair-1")


def test_video_that_changes_while_it_is_read_is_not_stored(
    clip: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_while_it_grows(path: str, *args: object, **kwargs: object) -> list[object]:
        with open(path, "ab") as file:
            file.write(b"\0")
        return video.read_frames(path, *args, **kwargs)

    monkeypatch.setattr(frame_store, "read_frames", read_while_it_grows)
    with pytest.raises(VideoError, match="changed while"):
        FrameStore(root).get(clip, PLAN)
    assert entries_of(root) == []


def test_default_root_can_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIDEOSEARCH_FRAME_STORE", str(tmp_path / "here"))
    assert default_root() == FrameStore().root == tmp_path / "here"
    monkeypatch.delenv("VIDEOSEARCH_FRAME_STORE")
    assert default_root().parts[-2:] == ("verl-videosearch", "frames")


@pytest.mark.parametrize("wrong", [{"max_bytes": 0}, {"timeout_s": 0}, {"timeout_s": float("nan")}])
def test_bad_limits_are_refused(root: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FrameStore(root, **wrong)


BOTH = (FramePlan(12, 28 * 56), FramePlan(12, 28 * 28, shown=4))


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "large.mp4", grey_frames(30, 112, 168))


def test_one_decode_makes_an_entry_for_each_plan(large: Path, root: Path) -> None:
    store = FrameStore(root)
    video = store.open(large, BOTH)
    assert store.stats.misses == 1 and len(entries_of(root)) == 2
    assert [video.size_of(plan.max_pixels) for plan in BOTH] == [(28, 56), (28, 28)]
    for plan in BOTH:
        decoded = read_candidate_frames(large, plan)
        for index, expected in zip(plan.choose(12), decoded.frames, strict=True):
            found = video.frame(index, plan.max_pixels)
            assert np.array_equal(found, expected) and isinstance(found, np.memmap)
    assert store.stats.misses == 1 and FrameStore(root).open(large, BOTH).was_hit


def test_a_small_video_has_one_entry(clip: Path, root: Path) -> None:
    plans = (FramePlan(12, 10**6), FramePlan(12, 2 * 10**6, shown=4))
    for store in (FrameStore(root), FrameStore(root)):
        video = store.open(clip, plans)
        assert video.frame(3, 2 * 10**6).shape == (56, 84, 3)
    assert len(entries_of(root)) == 1 and store.stats.misses == 0


@pytest.mark.parametrize("num_frames", [1, 2, 5, 11, 12, 13, 30])
def test_every_frame_at_every_size_by_reference(
    tmp_path: Path, root: Path, num_frames: int
) -> None:
    path = write_clip(tmp_path / "c.mp4", grey_frames(num_frames, 112, 168))
    store = FrameStore(root)
    video = store.open(path, BOTH)
    other = FrameStore(tmp_path / "another machine's store")
    for max_pixels in (28 * 56, 28 * 28, None, 56 * 84):
        plan = FramePlan(12, max_pixels)
        expected = read_candidate_frames(path, plan).frames
        assert expected.shape[1:3] == video.size_of(max_pixels)
        indices = list(range(video.num_frames))[::-1]
        for reader in (store, other):
            assert np.array_equal(
                reader.read_frames(video.key, indices, max_pixels), expected[::-1]
            )
        assert np.array_equal(video.frame(0, max_pixels), expected[0])


def read_by_text(root: Path, key: str) -> tuple[np.ndarray, FrameStoreStats]:
    store = FrameStore(root)
    return store.read_frames(key, [5, 2, 5], 28 * 56), store.stats


def test_another_process_reads_from_the_map(large: Path, root: Path) -> None:
    video = FrameStore(root).open(large, BOTH)
    large.unlink()  # what is stored needs no video
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        frames, stats = pool.apply(read_by_text, (root, video.key))
    assert np.array_equal(frames, np.stack([video.frame(index, 28 * 56) for index in (5, 2, 5)]))
    assert stats.misses == 0 and len(video.key) < 80 + len(str(large))


def test_a_reference_to_another_file_is_refused(large: Path, root: Path, tmp_path: Path) -> None:
    video = FrameStore(root).open(large, BOTH)
    write_clip(large, grey_frames(7))
    with pytest.raises(VideoError, match="another file has taken its place"):
        FrameStore(tmp_path / "empty").read_frames(video.key, [0], 28 * 56)


@pytest.mark.parametrize("max_pixels", [28 * 56, 28 * 28, None])
def test_a_frame_that_is_not_there_is_refused(
    large: Path, root: Path, max_pixels: int | None
) -> None:
    store = FrameStore(root)
    video = store.open(large, BOTH)
    with pytest.raises(VideoError, match="12 candidate frames"):
        store.read_frames(video.key, [3, 12], max_pixels)
    assert store.open(large, BOTH).was_hit  # the file itself is not broken


def no_space(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_serves_without_storing(
    clip: Path, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(frame_store, "write_entry", no_space)
    store = FrameStore(root)
    for _ in range(3):
        stored = store.get(clip, PLAN)
        assert read_levels(stored.frames) == [0, 3, 6, 9] and not stored.frames.flags.writeable
    assert (store.stats.misses, store.stats.unstored, entries_of(root)) == (3, 3, [])
    assert caplog.text.count("No space left on device") == 1


def test_a_read_only_disk_still_serves_what_it_holds(
    clip: Path, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    FrameStore(root).get(clip, PLAN)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(frame_store, "write_entry", read_only)
    monkeypatch.setattr(Path, "mkdir", read_only)
    monkeypatch.setattr(os, "utime", read_only)
    monkeypatch.setattr(FileLock, "acquire", read_only)
    store = FrameStore(root)
    assert store.get(clip, PLAN).was_hit
    other = store.get(clip, FramePlan(frames_per_video=3))
    assert read_levels(other.frames) == [0, 4, 8] and not other.was_hit
    assert caplog.text.count("said once") == 3


@pytest.mark.parametrize("below", ["file", "nowhere"])
def test_a_root_that_cannot_be_made(clip: Path, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    root = tmp_path / "file" / "store" if below == "file" else Path("/proc/none/store")
    store = FrameStore(root)
    assert read_levels(store.get(clip, PLAN).frames) == [0, 3, 6, 9]
    assert store.size_bytes() == 0 and store.limit_bytes() > 0 and "0 entries" in store.describe()


@pytest.mark.parametrize(
    "error", [PermissionError(13, "no"), OSError(5, "I/O"), OSError(12, "mem")]
)
def test_an_entry_that_cannot_be_opened_is_decoded_again(
    clip: Path, root: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    FrameStore(root).get(clip, PLAN)

    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr(frame_store, "open_entry", fail)
    assert read_levels(FrameStore(root).get(clip, PLAN).frames) == [0, 3, 6, 9]


def test_what_is_no_video_is_refused_before_it_is_hashed(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_files.xxhash, "xxh3_128", None)  # hashing would crash
    path = tmp_path / "c.mp4"
    with path.open("wb") as file:
        file.write(b"<html>not found</html>")
    with pytest.raises(VideoError, match="a web page"):
        FrameStore(root).get(path, PLAN)
    with path.open("wb") as file:
        file.write(os.urandom(100))
        file.truncate(30 * 2**30)  # sparse
    with pytest.raises(VideoError) as caught:
        FrameStore(root).get(path, PLAN)
    assert caught.value.kind is VideoErrorKind.NOT_A_VIDEO


def test_hashing_keeps_to_the_time_limit(
    clip: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_files, "_hash_file", lambda reading: time.sleep(5))
    start = time.monotonic()
    with pytest.raises(VideoError, match="timeout"):
        FrameStore(root, timeout_s=0.1).get(clip, PLAN)
    assert time.monotonic() - start < 3


def test_no_memory_is_tried_again(clip: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FrameStore(root)

    def fail(*_: object, **__: object) -> None:
        raise VideoError(VideoErrorKind.NO_MEMORY, str(clip), "none")

    with monkeypatch.context() as patch:
        patch.setattr(frame_store, "read_frames", fail)
        with pytest.raises(VideoError, match="no_memory"):
            store.get(clip, PLAN)
    assert read_levels(store.get(clip, PLAN).frames) == [0, 3, 6, 9]


def test_entries_of_the_first_format_are_ignored(clip: Path, root: Path) -> None:
    old = root / "v1" / f"{'0' * 32}.frames"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"VSFRAMES and more")
    store = FrameStore(root)
    assert not store.get(clip, PLAN).was_hit
    assert old.exists() and "of an older format" in store.describe()
    assert store.prune() == 17 and not old.parent.exists() and store.get(clip, PLAN).was_hit


def test_the_limit_comes_from_the_free_disk(
    clip: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("verl_videosearch.video.space.count_free", lambda root: 1000)
    store = FrameStore(root)
    assert store.limit_bytes() == 500
    store.get(clip, PLAN)
    assert store.limit_bytes() == (1000 + store.size_bytes()) // 2
    store.get(clip, FramePlan(frames_per_video=3))
    assert store.stats.evicted == 1 and len(entries_of(root)) == 1


def test_the_need_of_a_run_is_known_before_it(root: Path) -> None:
    plans = (FramePlan(48, 400 * 784), FramePlan(48, 512 * 784, shown=4))
    each = 3 * 784 * (48 * 400 + 4 * 512)
    store = FrameStore(root, max_bytes=10 * each)
    for num_videos, fits in ((10, True), (11, False)):
        estimate = estimate_space(num_videos, plans, store)
        assert (estimate.needed_bytes, estimate.fits) == (num_videos * each, fits)
    assert "decoded again" in str(estimate)
