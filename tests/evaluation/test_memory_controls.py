"""`videosearch probe --memory`: a judge whose verdict stands on its earlier Snapshot loses it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("httpx")

from tests.replies import GUESS, call_frames  # noqa: E402
from tests.seeing_judge import (  # noqa: E402
    HIDDEN_NUMBERS,
    answer,
    prefer_first,
    read_levels,
    serve_judge,
    write_pairs,
)
from verl_videosearch.cli import app  # noqa: E402
from verl_videosearch.evaluation.memory_controls import (  # noqa: E402
    Donors,
    MemoryControl,
    alter_replies,
    empty_snapshots,
    keep_call,
    make_alteration,
    read_snapshot,
)
from verl_videosearch.runs.record import EpisodeRecord, PlayedTurn  # noqa: E402
from verl_videosearch.runs.record_file import read_records  # noqa: E402

EPISODE = ("frames_per_video=8", "initial_frames_per_video=2", "max_tool_calls=2", "window=1")


def remember(request: dict[str, Any]) -> str:
    """Look at the hidden frames, note which is darker, look elsewhere, and answer by the note."""
    messages = request["messages"]
    if len(messages) == 2:
        return call_frames(*HIDDEN_NUMBERS)
    if len(messages) == 4:
        one, two = read_levels(messages[-1])
        better = 0 if abs(one - two) < 40 else 1 if one < two else 2
        return call_frames(4, 12).replace("grey", f"better {better}")
    text = read_text(messages[4])
    noted = [label for label in (0, 1, 2) if f"better {label}" in text]
    return answer(noted[0] if noted else 0, confidence=1)


def read_text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(item["text"] for item in content)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Judge pairs with a judge that remembers and one that answers at once; control both."""
    folder = tmp_path_factory.mktemp("memory")
    pairs = write_pairs(folder / "pairs")
    for name, judge in (("remembers", remember), ("at_once", prefer_first)):
        with serve_judge(judge) as server:
            place = ["--endpoint", server.url, "--model", "tiny", "--order", "AB"]
            settings = [word for setting in EPISODE for word in ("--set", setting)]
            run = ["eval", "--benchmark", str(pairs), *place, *settings]
            check(invoke([*run, "--out", str(folder / name)]))
            check(invoke(list_arguments(folder, name, server.url, "--memory", "all")))
    return folder


def list_arguments(folder: Path, name: str, url: str, *more: str) -> list[str]:
    out, videos = folder / f"{name}-memory", folder / "pairs"
    place = ["--endpoint", url, "--out", str(out), "--video-root", str(videos)]
    return ["probe", str(folder / name), *place, *more]


def invoke(arguments: list[str]) -> Result:
    return CliRunner().invoke(app, arguments)


def check(result: Result) -> None:
    assert result.exit_code == 0, result.output


def read_rows(runs: Path, name: str) -> dict[str, dict[str, dict[str, Any]]]:
    return json.loads((runs / f"{name}-memory/results.json").read_text())["rows"]


def test_a_verdict_that_stands_on_a_snapshot_falls_with_it(runs: Path) -> None:
    rows = read_rows(runs, "remembers")
    right = {name: row["all"]["accuracy"]["correct"] for name, row in rows.items()}
    # of 12 pairs 3 are ties: without a note the answer is a tie, with another's note the wrong one
    assert right == {"run": 12, "as_written": 12, "emptied": 3, "opposite": 0, "no_text": 3}
    assert {name: row["all"]["num_altered"] for name, row in rows.items()} == {
        **{name.value: 12 for name in MemoryControl},
        "run": 0,
    }
    assert rows["emptied"]["hidden"]["accuracy"]["correct"] == 0
    assert rows["emptied"]["tie"]["accuracy"]["correct"] == 3
    assert rows["emptied"]["all"]["change"]["only_b"] == 9 and rows["run"]["all"]["change"] is None
    assert all(row["all"]["calls"] == 2 for row in rows.values())
    page = (runs / "remembers-memory/results.md").read_text()
    assert "| emptied | hidden | 0.0 %" in page


def test_only_what_is_looked_back_at_is_altered(runs: Path) -> None:
    """What the judge writes itself is recorded as it wrote it."""
    records = read_records(runs / "remembers-memory/episodes.jsonl").records
    assert len(records) == 4 * 12
    own = {r.key: r for r in read_records(runs / "remembers/episodes.jsonl").records}
    for record in records:
        original = own[record.extra["probed"]]
        assert [turn.reply for turn in record.turns[:2]] == [t.reply for t in original.turns[:2]]
        if record.extra["memory"] == "opposite":
            donor = own[record.extra["donor"]]
            assert donor.own.labels["OA"] != original.own.labels["OA"]
            assert len(donor.turns) == len(original.turns) and donor.uid != original.uid


def test_a_judge_without_a_call_has_nothing_to_look_back_at(runs: Path) -> None:
    rows = read_rows(runs, "at_once")
    for row in rows.values():
        assert (row["all"]["num_altered"], row["all"]["accuracy"]["correct"]) == (0, 5)
    assert "there is nothing to alter" in (runs / "at_once-memory/results.md").read_text()


def test_controls_go_on_where_they_were(runs: Path) -> None:
    whole = (runs / "remembers-memory/episodes.jsonl").read_bytes()
    journal = runs / "remembers-memory/journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-5]))
    with serve_judge(remember) as server:
        check(invoke(list_arguments(runs, "remembers", server.url, "--memory", "all")))
        assert len(server.requests) == 5 * 3
    after = read_records(runs / "remembers-memory/episodes.jsonl").records
    assert [r.key for r in after] == [json.loads(line)["key"] for line in whole.splitlines()]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--memory", "none"], "choose among ['as_written', 'emptied', 'opposite', 'no_text']"),
        (["--memory", "all", "--replacement", "same"], "leave out --replacement and --limit"),
    ],
)
def test_wrong_use_is_refused(runs: Path, words: list[str], said: str) -> None:
    result = invoke(list_arguments(runs, "remembers", "http://localhost:1/v1", *words))
    assert result.exit_code == 2 and said in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("text", "emptied", "call"),
    [
        ("<Snapshot>a</Snapshot><Think>b</Think>", "<Snapshot></Snapshot><Think>b</Think>", ""),
        ("< snapshot >a\nb</ Snapshot><tool_call>c</tool_call>",) * 1
        + ("<Snapshot></Snapshot><tool_call>c</tool_call>", "<tool_call>c</tool_call>"),
        ("<Snapshot>never closed", "<Snapshot></Snapshot>", ""),
        ("words", "words", ""),
        ("<tool_call>a</tool_call><tool_call>b</tool_call>",) * 2 + ("<tool_call>a</tool_call>",),
    ],
)
def test_what_is_left_of_a_reply(text: str, emptied: str, call: str) -> None:
    assert (empty_snapshots(text), keep_call(text)) == (emptied, call)


def test_backslashes_of_a_snapshot_are_words(runs: Path) -> None:
    donor = EpisodeRecord(
        kind="evaluation",
        key="a AB",
        uid="a",
        turns=(PlayedTurn(reply=r"<Snapshot>\1 \g</Snapshot>"),),
    )
    alter = make_alteration(MemoryControl.OPPOSITE, donor)
    assert alter(0, call_frames(1)).startswith(r"<Snapshot>\1 \g</Snapshot><Think>")
    assert alter(1, call_frames(1)).startswith("<Snapshot></Snapshot><Think>")  # it has no more
    assert read_snapshot(alter(0, GUESS)) == ""


def test_images_and_questions_stay() -> None:
    image = {"type": "image", "frame_number": 3, "max_pixels": 784}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "<Snapshot>a</Snapshot>"}, image]},
        {"role": "assistant", "content": [{"type": "text", "text": call_frames(3)}]},
        {"role": "user", "content": [image]},
    ]
    altered = alter_replies(messages, make_alteration(MemoryControl.EMPTIED))
    assert altered[0] is messages[0] and altered[2] is messages[2]
    assert altered[1]["content"][0]["text"] == empty_snapshots(call_frames(3))
    assert "grey" in messages[1]["content"][0]["text"], "the episode's own messages are not touched"


def test_a_donor_has_as_many_turns_another_label_and_the_same_type_if_it_can(runs: Path) -> None:
    records = list(read_records(runs / "remembers/episodes.jsonl").records)
    donors = Donors(records)
    for record in records:
        donor = donors.draw(record)
        assert donor is not None and donor == Donors(reversed(records)).draw(record)
        label = record.own.labels["OA"]
        assert donor.own.labels["OA"] == {1: 2, 2: 1}.get(label, donor.own.labels["OA"])
        assert donor.own.labels["OA"] != label
    assert Donors(records[:1]).draw(records[0]) is None
