"""A run's folder: whole lines or none, one writer, one text for other settings, named damage."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tests.replies import ANSWER, call_frames
from tests.runs.test_record import record
from verl_videosearch.judgement import DEFAULT_DIMENSIONS as DIMENSIONS
from verl_videosearch.runs.folder import SETTINGS, Journal, RunFolder, RunFolderError
from verl_videosearch.runs.pairs import OtherPairError
from verl_videosearch.runs.record import RecordKind
from verl_videosearch.runs.record_file import RecordError, write_record
from verl_videosearch.sample import PreferenceSample, swap_videos

PAIR = PreferenceSample("a", "a cat", "x/1.mp4", "x/2.mp4", {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1})
RECORDS = [record(ANSWER), record(call_frames(2), ANSWER)]
CONTENT = "".join(map(write_record, RECORDS)).encode()


@pytest.mark.parametrize("share", [0, 0.1, 0.45, 0.5, 0.7, 0.999, 1])
def test_a_journal_cut_anywhere_keeps_its_whole_lines(tmp_path: Path, share: float) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(CONTENT[: int(len(CONTENT) * share)])
    num_whole = path.read_bytes().count(b"\n")
    is_torn = not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    with Journal(path) as journal:
        assert journal.records == RECORDS[:num_whole]
        assert len(journal.damaged) == is_torn
        journal.append(RECORDS[0])
    with Journal(path) as journal:
        assert journal.records == [*RECORDS[:num_whole], RECORDS[0]] and not journal.damaged


def test_a_journal_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"format": 7}\n')
    with pytest.raises(RecordError, match="journal.jsonl, line 1: .* format 7"):
        Journal(path)
    assert path.read_text() == '{"format": 7}\n'


def test_settings_are_kept_and_compared(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    settings = {"a": 1, "b": [2], "episode": {"window": 1}}
    for _ in range(2):
        with folder.claim(settings, [PAIR]):
            pass
    assert [sample.uid for sample in folder.read_samples()] == [PAIR.uid]
    other = {"a": 1, "b": [2], "c": 3, "episode": {"window": None}}
    with pytest.raises(RunFolderError) as caught, folder.claim(other):
        pass
    assert str(caught.value) == (
        f"{tmp_path / 'run'} was begun with other settings (c: absent there, 3 now; "
        "episode.window: 1 there, None now); choose another --out, or repeat its settings to go on "
        "with it"
    )


def begin(folder: RunFolder, kind: RecordKind, *samples: PreferenceSample) -> None:
    """Play every pair, and leave the folder as a killed run does."""
    with folder.claim({}, samples) as journal:
        for each in samples:
            played = msgspec.structs.replace(RECORDS[0], kind=kind, key=each.uid, uid=each.uid)
            journal.append(msgspec.structs.replace(played, sample=each))


OTHER = replace(PAIR, uid="b", prompt="a dog", video_1="3.mp4", video_2="4.mp4")
RELABELLED = replace(PAIR, labels=PAIR.labels | {"OA": 2})


@pytest.mark.parametrize(
    ("kind", "now", "changed"),
    [
        (RecordKind.EVALUATION, [replace(OTHER, uid="a"), replace(PAIR, uid="b")], "prompt"),
        (RecordKind.EVALUATION, [swap_videos(PAIR), OTHER], "videos"),
        (RecordKind.EVALUATION, [replace(PAIR, video_1="9.mp4"), OTHER], "videos"),
        (RecordKind.EVALUATION, [replace(PAIR, meta={"fps": 8}), OTHER], "meta"),
        (RecordKind.EVALUATION, [replace(PAIR, dimensions=DIMENSIONS[::-1])], "dimensions"),
        (RecordKind.TRACE, [replace(PAIR, prompt="a cow"), OTHER], "prompt"),
        (RecordKind.TRACE, [RELABELLED, OTHER], "labels"),
        (RecordKind.TRACE, [replace(PAIR, video_1="/old/x/1.mp4")], "folder of the videos"),
    ],
)
def test_a_run_goes_on_with_its_own_pairs_only(
    tmp_path: Path, kind: RecordKind, now: list[PreferenceSample], changed: str
) -> None:
    folder = RunFolder(tmp_path)
    begin(folder, kind, PAIR, OTHER)
    words = f"an episode of another pair 'a': its .*{changed}.* changed since"
    with pytest.raises(OtherPairError, match=words), folder.claim({}, now):
        pass
    assert folder.read_samples() == [PAIR, OTHER]


@pytest.mark.parametrize(
    ("now", "num_relabelled"),
    [
        ([OTHER, PAIR], 0),
        ([RELABELLED, OTHER], 1),
        ([replace(PAIR, video_1="/a/x/1.mp4", split="test")], 0),
        ([PAIR, OTHER, replace(PAIR, uid="c")], 0),
    ],
)
def test_an_evaluation_takes_over_labels_and_places(
    tmp_path: Path, now: list[PreferenceSample], num_relabelled: int
) -> None:
    folder = RunFolder(tmp_path)
    begin(folder, RecordKind.EVALUATION, PAIR, OTHER)
    with folder.claim({}, now) as journal:
        found = {record.uid: record.own for record in journal.records}
        assert journal.num_relabelled == num_relabelled
    assert folder.read_samples() == now
    assert all(found[sample.uid] == sample for sample in now if sample.uid in found)


def test_a_probe_alters_its_pairs_itself(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    begin(folder, RecordKind.PROBE, replace(PAIR, prompt="another"))
    with folder.claim({}, [PAIR]) as journal:
        assert journal.records[0].own.prompt == "another"


def test_a_tuple_and_its_list_are_equal_settings(tmp_path: Path) -> None:
    for _ in range(2):
        with RunFolder(tmp_path).claim({"orders": ("AB", "BA")}):
            pass


@pytest.mark.parametrize("text", ["", '{"a": 1', "[]", "\0\0"])
def test_a_torn_settings_file_names_itself(tmp_path: Path, text: str) -> None:
    (tmp_path / SETTINGS).write_text(text)
    with pytest.raises(RunFolderError, match=SETTINGS), RunFolder(tmp_path).claim({"a": 1}):
        pass
    assert (tmp_path / SETTINGS).read_text() == text


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    program = (
        "from verl_videosearch.runs.folder import RunFolder\n"
        f"with RunFolder({str(tmp_path)!r}).claim({{}}): pass"
    )
    with RunFolder(tmp_path).claim({}):
        second = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert second.returncode and "is in use by another process" in second.stderr
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_file_in_the_place_of_the_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with (
        pytest.raises(RunFolderError, match="cannot write .*run.*choose another --out"),
        RunFolder(tmp_path / "run").claim({}),
    ):
        pass
    assert (tmp_path / "run").read_text() == "mine"


def test_a_final_file_is_whole_or_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.write_text("results.md", "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        folder.write_text("results.md", "new")
    assert (tmp_path / "results.md").read_text() == "old"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.write_text("results.md", "old")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("verl_videosearch.runs.folder.os.fsync", refuse)
    with pytest.raises(RunFolderError, match="results.md: .*disk is full"):
        folder.write_text("results.md", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.md"]
    assert (tmp_path / "results.md").read_text() == "old"


def test_records_of_a_finished_run_are_read_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_records("episodes.jsonl", RECORDS)
    assert folder.read_records().records == tuple(RECORDS)
    with pytest.raises(RunFolderError, match="is no finished run: it has no episodes.jsonl"):
        RunFolder(tmp_path / "absent").read_records()


def test_a_pack_of_the_same_words_is_the_same_setting(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    begun = {"episode": {"window": 1, "prompt_pack": "a/prompt_pack.yaml"}, "words_hash": "x"}
    folder.check_settings(begun)
    moved = {"episode": {"window": 1, "prompt_pack": "/b/prompt_pack.yaml"}, "words_hash": "x"}
    folder.check_settings(moved)
    for other in ({"words_hash": "y"}, {"words_hash": None}, {"episode": {"window": 2}}):
        with pytest.raises(RunFolderError, match="was begun with other settings"):
            folder.check_settings({**moved, **other})
