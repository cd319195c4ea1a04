"""`videosearch probe`: frames matter to a judge that looks, not to one that does not; citations are
checked."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("httpx")

from tests.seeing_judge import (  # noqa: E402
    EPISODE,
    HIDDEN_NUMBERS,
    make_samples,
    prefer_first,
    serve_judge,
    write_pairs,
)
from verl_videosearch.cli import app  # noqa: E402
from verl_videosearch.evaluation.citations import Citations, count_citations, find_cited  # noqa: E402
from verl_videosearch.evaluation.probes import Change, count_can_need, name_change  # noqa: E402
from verl_videosearch.frames import CandidateFrames  # noqa: E402
from verl_videosearch.runs.record import EpisodeRecord, PlayedTurn, RecordKind  # noqa: E402
from verl_videosearch.runs.record_file import read_records, write_record  # noqa: E402
from verl_videosearch.sample import PreferenceSample  # noqa: E402
from verl_videosearch.video.altered_frames import READING, AlteredPair, Replacement, double_frames  # noqa: E402
from verl_videosearch.video.pair import PairFrames  # noqa: E402


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finish one run of a judge that searches and one of a judge that does not, and probe both."""
    folder = tmp_path_factory.mktemp("probes")
    pairs = write_pairs(folder / "pairs")
    for name, judge in {"looks": None, "blind": prefer_first}.items():
        with serve_judge(*([judge] if judge else [])) as server:
            place = ["--endpoint", server.url, "--model", "tiny", "--out", str(folder / name)]
            settings = [word for setting in EPISODE for word in ("--set", setting)]
            check(invoke(["eval", "--benchmark", str(pairs), *place, *settings]))
            check(invoke(list_probe_arguments(folder, name, server.url)))
    return folder


def list_probe_arguments(folder: Path, name: str, url: str, *more: str) -> list[str]:
    place = [
        "--endpoint",
        url,
        "--out",
        str(folder / f"{name}-probe"),
        "--video-root",
        str(folder / "pairs"),
    ]
    return ["probe", str(folder / name), *place, *more]


def invoke(arguments: list[str]) -> Result:
    return CliRunner().invoke(app, arguments)


def check(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


def read_results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def test_a_judge_that_looks_needs_its_frames(runs: Path) -> None:
    results = read_results(runs / "looks-probe")
    assert results["searched"] | {"low": 0, "high": 0} == {
        "value": 1,
        "correct": 24,
        "total": 24,
        "low": 0,
        "high": 0,
    }
    figures = results["figures"]
    assert figures["same"]["changed"]["correct"] == 0
    for name in ("refused", "in_view"):  # nothing new comes back: the 18 decided ones are lost
        needed = figures[name]["needed_search"]
        assert (needed["correct"], needed["total"], figures[name]["can_need"]) == (18, 24, None)
        lost = figures[name]["by_type"]
        assert (lost["hidden"]["correct"], lost["hidden"]["total"]) == (18, 18)
        assert (lost["tie"]["correct"], lost["tie"]["total"]) == (0, 6)
    for name in ("random", "blank"):
        # 18 of 24 verdicts prefer a video; without the defect in sight they become ties
        assert figures[name]["directions"][Change.TO_TIE.value] == 18, name
    # the defect is in the other answer; within each video there is one frame to reverse
    assert figures["other_video"]["directions"][Change.TO_OTHER_VIDEO.value] == 18
    assert figures["reversed"]["changed"]["correct"] == 0
    for name in ("random", "blank", "other_video", "reversed", "first_blank"):
        assert figures[name]["needed_search"] is None  # trust and reading say nothing about need
    assert (figures["other_video"]["lost"]["correct"], figures["other_video"]["won"]["total"]) == (
        18,
        0,
    )
    # this judge looks at nothing but its calls' frames, and never reads the prompt
    for name in ("first_blank", "first_swapped", "other_prompt"):
        assert (figures[name]["changed"]["correct"], figures[name]["changed"]["total"]) == (0, 24)
    assert figures["blank"]["by_confidence"]["1"]["total"] == 24
    page = (runs / "looks-probe/results.md").read_text()
    assert "| refused |" in page.split("Did it need the search?")[1].split("Trust in")[0]


def test_a_judge_that_never_searches_is_said_to(runs: Path) -> None:
    results = read_results(runs / "blind-probe")
    assert results["searched"]["correct"] == 0
    for name in ("refused", "in_view"):  # 5 in AB, 4 in BA are right
        needed = results["figures"][name]["needed_search"]
        assert (needed["correct"], needed["total"]) == (0, 9)
    assert results["figures"]["other_prompt"]["changed"]["total"] == 24
    for page in ("index.html", "results.md"):
        assert "This model never searches" in (runs / "blind-probe" / page).read_text()


def test_a_replay_repeats_what_was_said(runs: Path) -> None:
    before = {record.key: record for record in read_episodes(runs / "looks")}
    after = read_episodes(runs / "looks-probe")
    assert len(after) == 24 * len(Replacement)
    for record in after:
        original, altered = before[record.extra["probed"]], record.extra["replacement"]
        assert record.kind is RecordKind.PROBE and len(record.turns) == 2
        if altered in ("first_blank", "first_swapped", "other_prompt"):
            assert (record.own.prompt == original.own.prompt) == (altered != "other_prompt")
            continue
        assert record.turns[0].reply == original.turns[0].reply
        assert record.messages[:3] == original.messages[:3]  # all up to the altered act
        if altered == "refused":
            assert record.turns[0].shown == () and "No frames" in str(record.messages[3])
        elif altered == "in_view":
            assert record.turns[0].shown == (1, 9) and set(record.turns[0].visible) >= {1, 9}
        else:  # text and numbers are those of the true episode
            assert record.turns[0].shown == original.turns[0].shown
            assert record.messages[3] == original.messages[3]


def read_episodes(folder: Path) -> tuple[EpisodeRecord, ...]:
    return read_records(folder / "episodes.jsonl").records


def test_a_probe_goes_on_and_ends_with_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    whole = (runs / "looks-probe/episodes.jsonl").read_bytes()
    journal = runs / "looks-probe/journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:7]) + lines[7][:50])
    with serve_judge() as server:
        check(invoke(list_probe_arguments(runs, "looks", server.url)))
        # one live reply per replay, two where the opening is altered
        altered = [json.loads(line)["extra"]["replacement"] for line in lines[7:]]
        assert len(server.requests) == sum(1 + (name in READING) for name in altered)
    assert (runs / "looks-probe/episodes.jsonl").read_bytes() == whole


def test_alterations_are_compared_one_by_one(runs: Path, tmp_path: Path) -> None:
    probed, blank = runs / "looks-probe/episodes.jsonl", tmp_path / "blank.jsonl"
    mixed = invoke(["compare", str(runs / "looks"), str(probed)])
    assert mixed.exit_code == 2 and "holds episodes of 10 alterations (blank," in mixed.output
    check(invoke(["episodes", str(probed), "--altered", "blank", "--out", str(blank)]))
    assert "| blank |" in check(invoke(["compare", str(runs / "looks"), str(blank)]))


def test_a_limit_draws_from_all_episodes(runs: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed.jsonl"
    one, two = (read_episodes(runs / name) for name in ("looks", "blind"))
    mixed.write_text("".join(map(write_record, [*one[:12], *two[12:]])))
    drawn = set()
    with serve_judge() as server:
        for seed in ("0", "1"):
            out = tmp_path / seed
            place = ["--endpoint", server.url, "--out", str(out)]
            place += ["--video-root", str(runs / "pairs"), "--replacement", "first_blank"]
            check(invoke(["probe", str(mixed), *place, "--limit", "8", "--seed", seed]))
            results = read_results(out)
            assert results["searched"]["total"] == 8
            assert results["figures"]["first_blank"]["changed"]["total"] == 8
            drawn.add(tuple(record.key for record in read_episodes(out)))
    assert len(drawn) == 2


def test_no_more_verdicts_need_the_search_than_can() -> None:
    def known(share: float | None) -> PreferenceSample:
        meta = {} if share is None else {"no_search_accuracy": share}
        return replace(make_samples()[0], meta=meta)

    assert count_can_need([known(0.4)] * 400, 378) == 218
    assert count_can_need([known(0.5)] * 4, 1) == 0
    assert count_can_need([known(0.5), known(None)], 2) is None


def test_an_unknown_replacement_is_refused(runs: Path) -> None:
    result = invoke(
        list_probe_arguments(runs, "looks", "http://localhost:1/v1", "--replacement", "none")
    )
    assert result.exit_code == 2 and "choose among ['same', 'refused'" in result.output


def test_another_limit_of_tokens_than_in_the_run_is_refused(runs: Path) -> None:
    options = ["--max-turn-tokens", "16"]
    result = invoke(list_probe_arguments(runs, "looks", "http://localhost:1/v1", *options))
    assert result.exit_code == 2 and "is not what the run had, 1024" in result.output


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    result = invoke(
        [
            "probe",
            str(tmp_path),
            "--endpoint",
            "http://localhost:1/v1",
            "--out",
            str(tmp_path / "out"),
        ]
    )
    assert (
        result.exit_code == 2
        and "has no run.json; make one with `videosearch eval`" in result.output
    )


def make_pair(num_1: int = 6, num_2: int = 3) -> PairFrames:
    """Frame i of video v is a flat level of 100 * v + i."""
    levels = [np.full((n, 28, 28, 3), 0, np.uint8) for n in (num_1, num_2)]
    for video, frames in enumerate(levels, 1):
        frames += (
            (100 * video + np.arange(len(frames), dtype=np.uint8))
            .reshape(-1, 1, 1, 1)
            .astype(np.uint8)
        )
    return PairFrames(CandidateFrames((0.0,) * num_1, (0.0,) * num_2), *levels)


def show(replacement: Replacement, *numbers: int, seed: str = "") -> list[int]:
    """Return the levels of the initial view (frames 1 and 7), then of a call for `numbers`."""
    context = [
        {"role": "system", "content": [{"type": "text", "text": "Judge."}]},
        {"role": "user", "content": [image(1), image(7)]},
        {"role": "assistant", "content": [{"type": "text", "text": "call"}]},
        {"role": "user", "content": [image(number) for number in numbers]},
    ]
    images = AlteredPair.of(make_pair(), replacement, seed).images(context)
    return [each.getpixel((0, 0))[0] for each in images]


def image(number: int) -> dict:
    return {"type": "image", "frame_number": number, "max_pixels": 784}


@pytest.mark.parametrize(
    ("replacement", "shown"),
    [
        (Replacement.SAME, [102, 105, 201]),
        (Replacement.BLANK, [128, 128, 128]),
        (Replacement.OTHER_VIDEO, [201, 202, 102]),
        (Replacement.REVERSED, [105, 102, 201]),  # within each video
    ],
)
def test_only_what_a_call_brings_is_replaced(replacement: Replacement, shown: list[int]) -> None:
    assert show(replacement, 3, 6, 8) == [100, 200, *shown]


@pytest.mark.parametrize("seed", ["a", "b", "c"])
def test_random_frames_are_others_of_the_same_video(seed: str) -> None:
    _, _, first, second, third = show(Replacement.RANDOM, 3, 6, 8, seed=seed)
    assert {first, second} < {100, 101, 103, 104} and first != second and third in (200, 202)
    assert show(Replacement.RANDOM, 3, 6, 8, seed=seed)[2:] == [
        first,
        second,
        third,
    ]  # rendered again: the same


def test_random_frames_when_all_were_asked_for() -> None:
    assert set(show(Replacement.RANDOM, 7, 8, 9)[2:]) <= {200, 201, 202}


def test_doubled_frames_are_the_same_pixels() -> None:
    times = tuple(map(float, range(6)))
    pair = replace(make_pair(6, 6), candidates=CandidateFrames(times, times))
    doubled = double_frames(pair)
    levels = [doubled.image(number, 784).getpixel((0, 0))[0] for number in range(1, 25)]
    own = [round(100 + time) for time in doubled.candidates.times_1]
    assert levels == [*own, *(level + 100 for level in own)]
    assert set(own) == set(range(100, 106)) and own == sorted(own) and len(own) == 12
    assert own != sorted([*range(100, 106)] * 2), "copies stand at random places"
    assert double_frames(pair).candidates == doubled.candidates


@pytest.mark.parametrize(
    ("text", "cited"),
    [
        ("Frame 12 tears.", (12,)),
        ("frames 3, 7 and 9 are fine", (3, 7, 9)),
        ("frames 3,7,and 9", (3, 7, 9)),
        ("Frame #4 and frame 5", (4, 5)),
        ("frames 1 to 48 are video 1", ()),
        ("frames 1-8, 12 and 20–24", (12,)),
        ("framework 12, 12 frames", ()),
        ('<tool_call>{"arguments": {"target_frames": [3]}} frame 5</tool_call> frame 6', (6,)),
        ("<tool_call> frame 5", ()),
        ("", ()),
    ],
)
def test_citations(text: str, cited: tuple[int, ...]) -> None:
    assert find_cited(text) == cited


def test_what_was_shown_may_be_cited() -> None:
    said = "<Snapshot>Frame 5 is dark.</Snapshot><Think>I need frame 9, or frame 40.</Think>"
    first = PlayedTurn(reply=said, shown=(9,))
    second = PlayedTurn(reply="<Snapshot>Frames 1 and 9 tear.</Snapshot>")

    def cite(initial: tuple[int, ...], *turns: PlayedTurn) -> Citations:
        what = {"kind": RecordKind.JUDGE, "key": "a", "uid": "a"}
        return count_citations([EpisodeRecord(**what, initial_frames=initial, turns=turns)])

    found = cite((1, 5), first, second)
    assert (found.never_shown.correct, found.never_shown.total) == (1, 5)  # frame 40
    assert (found.snapshot_unseen.correct, found.snapshot_unseen.total) == (0, 3)
    late = cite((1,), second)
    assert (late.snapshot_unseen.correct, late.snapshot_unseen.total) == (
        1,
        2,
    ) and late.episodes.correct == 1


def test_citations_of_a_run(runs: Path) -> None:
    cited = read_results(runs / "looks-probe")["citations"]  # frame 99 never, frame 3 by every call
    assert HIDDEN_NUMBERS[0] == 3
    assert (cited["never_shown"]["correct"], cited["never_shown"]["total"]) == (24, 72)


@pytest.mark.parametrize(
    ("was", "now", "change"),
    [
        (1, 2, Change.TO_OTHER_VIDEO),
        (2, 0, Change.TO_TIE),
        (0, 1, Change.FROM_TIE),
        (0, None, Change.TO_UNREADABLE),
        (None, 0, Change.FROM_UNREADABLE),
    ],
)
def test_directions(was: int | None, now: int | None, change: Change) -> None:
    assert name_change(was, now) is change
