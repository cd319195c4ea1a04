"""The parts below the verbs: verdicts of a pair, subsets, hashes, calibration, comparison,
citations, pages."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_videosearch.evaluation.calibration import (
    NEVER,
    CalibrationError,
    check_held_out,
    fit_calibration,
    fit_isotonic,
    from_json,
    look_up,
    read_calibration,
    to_json,
)
from verl_videosearch.evaluation.comparison import (
    ImportedFileError,
    JudgePredictions,
    compare_judges,
    map_shared_pairs,
    read_predictions,
    rename_pairs,
)
from verl_videosearch.evaluation.subsets import find_subsets, longest_tenth
from verl_videosearch.evaluation.summary import to_plain
from verl_videosearch.evaluation.verdicts import PairVerdicts, merge_records
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.metrics import Rate
from verl_videosearch.report.chart import Bar, Line, draw_intervals, draw_lines
from verl_videosearch.report.page import Note, Plot, render_page
from verl_videosearch.report.table import Table
from verl_videosearch.runs.identity import (
    CALIBRATION_NAME,
    hash_model,
    hash_names,
    hash_pair,
    hash_pairs,
)
from verl_videosearch.runs.record import EpisodeRecord, RecordKind
from verl_videosearch.sample import Order, PreferenceSample, swap_videos

BOTH = (Order.AB, Order.BA)


def make_record(
    uid: str, order: str, verdict: int | None, confidence: int | None = None, last_s: float = 1.0
) -> EpisodeRecord:
    return EpisodeRecord(
        kind=RecordKind.EVALUATION,
        key=f"{uid} {order}",
        uid=uid,
        order=Order(order),
        candidates=CandidateFrames((0.0, last_s), (0.0, last_s)),
        verdicts=None if verdict is None else {"OA": verdict},
        confidence=confidence,
    )


def make_pair(
    ab: int | None, ba: int | None, cf_ab: int | None = None, cf_ba: int | None = None
) -> PairVerdicts:
    return merge_records(
        [make_record("a", "AB", ab, cf_ab), make_record("a", "BA", ba, cf_ba)], BOTH
    )[0]


def make_sample(uid: str = "a", split: str = "validation", **changes: object) -> PreferenceSample:
    labels = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}
    return replace(
        PreferenceSample(uid, "a cat", f"x/{uid}1", f"x/{uid}2", labels, split=split), **changes
    )


@pytest.mark.parametrize(
    ("pair", "verdict", "margin", "confidence"),
    [
        (make_pair(1, 2, 1, 1), 1, 3.0, 3.0),
        (make_pair(2, 1, 3, None), 2, -1.5, 1.5),
        (make_pair(0, 0, 1, 3), 0, 0.0, 2.0),  # an agreed tie is as sure as the judge says
        (make_pair(1, 1, 1, 1), 0, 0.0, 0.0),  # both prefer the first place: no evidence at all
        (make_pair(1, 1, 1, 3), 0, 1.0, 0.0),  # surer in one order: the margin keeps it
        (make_pair(1, 0, None, None), 0, 1.0, 0.0),
        (make_pair(1, None), None, None, None),
        (make_pair(None, None), None, None, None),
    ],
)
def test_two_orders_make_one_verdict(
    pair: PairVerdicts, verdict: int | None, margin: float | None, confidence: float | None
) -> None:
    assert (pair.verdict(), pair.margin, pair.confidence) == (verdict, margin, confidence)


@pytest.mark.parametrize(("order", "verdict"), [(Order.AB, 1), (Order.BA, 2)])
def test_one_order_counts_in_the_samples_order(order: Order, verdict: int) -> None:
    [pair] = merge_records([make_record("a", order.value, 1, 1)], (order,))
    assert (pair.verdict(), pair.margin) == (verdict, 3.0 if order is Order.AB else -3.0)


def test_a_pair_without_all_orders_is_set_aside() -> None:
    lines = [make_record("b", "AB", 1), make_record("a", "BA", 2), make_record("a", "AB", 1)]
    assert [pair.uid for pair in merge_records(lines, BOTH)] == ["a"]
    assert [pair.uid for pair in merge_records(lines, (Order.AB,))] == ["a", "b"]


@pytest.mark.parametrize(
    ("lengths", "positions"),
    [
        ([], []),
        ([1], []),
        ([3, 3, 3], []),
        ([1, 2], [1]),
        (list(range(20)), [18, 19]),
        (list(range(21)), [18, 19, 20]),
        ([0] * 10 + [5] * 10, list(range(10, 20))),  # equally long ones stay together
    ],
)
def test_longest_tenth(lengths: list[float], positions: list[int]) -> None:
    assert longest_tenth(lengths) == positions


def test_subsets_come_from_facts_about_the_pair() -> None:
    durations = [2.0] * 9 + [9.0]
    pairs = merge_records(
        [make_record(f"{i}", "AB", 1, last_s=s) for i, s in enumerate(durations)], (Order.AB,)
    )
    samples = [
        make_sample(f"{i}", meta={"model_1": "b", "model_2": "a" if i else "c"}) for i in range(10)
    ]
    assert find_subsets(samples, pairs) == {
        "long videos (top 10 %)": [9],
        "duration: 8 s or more": [9],
        "duration: under 3 s": list(range(9)),
        "models: a, b": list(range(1, 10)),
        "models: b, c": [0],
    }


def test_a_pair_is_named_by_its_content() -> None:
    sample = make_sample(meta={"model_1": "x", "seed": 1})
    same = [
        swap_videos(sample),
        replace(sample, uid="b", split="test"),
        replace(sample, video_1="/data/x/a1"),
    ]
    other = [
        replace(sample, prompt="a dog"),
        replace(sample, video_1="x/b1"),
        replace(sample, meta={"seed": 2}),
    ]
    assert {hash_pair(each) for each in same} == {hash_pair(sample)}
    assert hash_pair(sample) not in {hash_pair(each) for each in other}
    assert hash_pairs([sample, *other]) == hash_pairs([*other, sample]) != hash_pairs(other)


def test_a_model_is_named_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    before = hash_model(tmp_path)
    (tmp_path / CALIBRATION_NAME).write_text("{}")
    (tmp_path / "README.md").write_text("words")
    assert hash_model(tmp_path) == before
    (tmp_path / "config.json").write_text("{ }")
    assert hash_model(tmp_path) != before


def make_held_out(num: int = 60) -> tuple[list[PairVerdicts], list[int], list[PreferenceSample]]:
    """A judge that is right when it is sure (both orders, confidence 1) and right half of the time
    when it is not."""
    pairs, gold, samples = [], [], []
    for number in range(num):
        is_sure = number % 2 == 0
        confidence = 1 if is_sure else 3
        lines = [
            make_record(f"{number:03d}", "AB", 1, confidence),
            make_record(f"{number:03d}", "BA", 2, confidence),
        ]
        pairs += merge_records(lines, BOTH)
        gold.append(1 if is_sure or number % 4 == 1 else 2)
        samples.append(make_sample(f"{number:03d}"))
    return pairs, gold, samples


def fit(max_risk: float) -> tuple:
    pairs, gold, samples = make_held_out()
    hashes, names = [*map(hash_pair, samples)], [*map(hash_names, samples)]
    fitted = fit_calibration(
        pairs, gold, max_risk=max_risk, pair_hashes=hashes, model_hash="m", pair_names=names
    )
    return fitted, pairs, samples


def test_confidences_get_their_meaning() -> None:
    fitted, pairs, _ = fit(max_risk=0.1)
    assert fitted.tie_threshold == 0.0 and fitted.tied == []
    assert fitted.decided == [(1.0, 16 / 32), (3.0, 31 / 32)]
    assert [fitted.map_confidence(pair) for pair in pairs[:2]] == [31 / 32, 0.5]
    assert (fitted.min_confidence, fitted.coverage) == (31 / 32, 0.5)


@pytest.mark.parametrize(
    ("max_risk", "coverage", "limit"), [(0.25, 1.0, 0.5), (0.24, 0.5, 31 / 32), (0.0, 0.5, 31 / 32)]
)
def test_the_risk_sets_how_much_is_answered(max_risk: float, coverage: float, limit: float) -> None:
    fitted, _, _ = fit(max_risk)
    assert (fitted.coverage, fitted.min_confidence) == (coverage, limit)


def test_a_judge_that_is_always_wrong_answers_nothing() -> None:
    pairs, _, _ = make_held_out()
    fitted = fit_calibration(
        pairs, [0] * 30 + [2] * 30, max_risk=0.1, pair_hashes=[], model_hash="m"
    )
    assert fitted.tie_threshold == 3.0 and fitted.coverage == 0.0 and fitted.min_confidence == NEVER


def test_what_was_fitted_on_is_never_reported_on() -> None:
    fitted, _, samples = fit(max_risk=0.1)
    swapped = replace(swap_videos(samples[7]), uid="elsewhere", split="test")
    with pytest.raises(CalibrationError, match="fitted on 1 of these 2 pairs"):
        fitted.check_use([hash_pair(swapped), hash_pair(make_sample("new"))], "m")
    moved = replace(samples[7], prompt=f" {samples[7].prompt.upper()}!", source="x", meta={"a": 8})
    names = [Path(path).name for path in (samples[7].video_1, samples[7].video_2)]
    moved = replace(moved, video_1=f"/data/{names[1]}", video_2=f"else/where/{names[0]}")
    fitted.check_use([hash_pair(moved)], "m")
    with pytest.raises(CalibrationError, match="fitted on 1 of these 1 pairs"):
        fitted.check_use([hash_pair(moved)], "m", [hash_names(moved)])
    with pytest.raises(CalibrationError, match="1 of the 60 pairs are among those"):
        check_held_out(samples, [moved])
    fitted.check_use([hash_pair(make_sample("new"))], "m")
    fitted.check_use([hash_pair(make_sample("new"))], "unknown")
    with pytest.raises(CalibrationError, match="model m, this one is other"):
        fitted.check_use([hash_pair(make_sample("new"))], "other")


def test_a_test_split_is_refused() -> None:
    held_out = [make_sample("a"), make_sample("b")]
    check_held_out(held_out, [make_sample("c", split="test")])
    with pytest.raises(CalibrationError, match="not on a test split"):
        check_held_out([*held_out, make_sample("c", split="test")])
    with pytest.raises(
        CalibrationError, match="1 of the 2 pairs are among those to be reported on"
    ):
        check_held_out(held_out, [replace(swap_videos(held_out[0]), split="test")])


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(CalibrationError, match="at least 10"):
        fit_calibration(
            [make_pair(1, None)] * 50, [1] * 50, max_risk=0.1, pair_hashes=[], model_hash="m"
        )


def test_a_calibration_is_read_back(tmp_path: Path) -> None:
    fitted, _, _ = fit(max_risk=0.1)
    path = tmp_path / CALIBRATION_NAME
    path.write_text(json.dumps(to_json(fitted)))
    assert read_calibration(path) == fitted
    with pytest.raises(CalibrationError, match="format 2"):
        from_json(to_json(fitted) | {"format": 2})
    for text in ("{", "[1]", '"a"'):
        path.write_text(text)
        with pytest.raises(CalibrationError, match="is no calibration"):
            read_calibration(path)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.5, 1.0, 2.0, 3.0]), st.booleans()), min_size=1, max_size=60
    ),
    st.randoms(),
)
def test_a_fit_rises_and_ignores_the_order(rows: list[tuple[float, bool]], rng: object) -> None:
    steps = fit_isotonic(*zip(*rows, strict=True))
    shares = [share for _, share in steps]
    assert shares == sorted(shares) and all(0 < share < 1 for share in shares)
    rng.shuffle(rows)
    assert fit_isotonic(*zip(*rows, strict=True)) == steps
    assert look_up(steps, -1.0) == shares[0] and look_up(steps, 9.0) == shares[-1]


GOLD = {f"{number}": label for number, label in enumerate([1, 2, 0, 1, 2, None])}


def label_samples(gold: dict[str, int | None]) -> list[PreferenceSample]:
    """Return a sample per label, each of its own prompt."""
    return [
        make_sample(uid, prompt=f"cat {uid}", labels={"TA": 0, "VQ": 1, "MQ": 0, "OA": label})
        for uid, label in gold.items()
    ]


def judge(name: str, *verdicts: int | None, **changes: object) -> JudgePredictions:
    return replace(JudgePredictions(name, dict(zip(GOLD, verdicts, strict=False)), {}), **changes)


def test_judges_share_their_rows() -> None:
    first = judge("first", 1, 2, 0, 0, None, 1, failed=frozenset({"0"}))
    second = judge("second", 2, 2, 0, 1)  # nothing about pairs 4 and 5
    found = compare_judges([first, second], label_samples(GOLD))
    assert (found.num_pairs, found.num_left_out) == (4, 1)
    assert [(j.overall.with_ties.correct, j.overall.with_ties.total) for j in found.judges] == [
        (2, 4),
        (3, 4),
    ]
    assert [j.missing for j in found.judges] == [0, 2]
    assert [j.unreadable for j in found.judges] == [1, 0]
    test = found.judges[1].against_first
    assert found.judges[0].against_first is None and (test.only_a, test.only_b, test.p_value) == (
        1,
        0,
        1.0,
    )
    assert found.judges[1].against_first_decided.b.total == 3
    assert found.baselines.always_tie.with_ties.correct == 1


@pytest.mark.parametrize(
    ("name", "text", "verdicts"),
    [
        ("a.csv", "sample_uid,verdict\n0,1\n1,2.0\n2,tie\n3,\n", [1, 2, 0, None]),
        ("a.csv", '\ufeffsample_uid,OA,note\n0,0,"a\nb"\n', [0]),
        (
            "a.csv",
            "sample_uid,score_1,score_2\n0,0.5,0.1\n1,1,1\n2,nan,1\n3,0,1\n",
            [1, 0, None, 2],
        ),
        ("a.csv", "sample_uid,verdict\n0,1\n1,-1\n2,0\n3,\n", [1, 2, 0, None]),
        ("a.csv", "sample_uid,verdict\n0,1\n1,-1\n2,2\n", [1, None, 2]),
        ("a.csv", "Sample_UID,Margin\n0,0.5\n1,-1\n", [1, 2]),
        ("a.csv", "sample_uid,Score_1, SCORE_2\n0,0.5,0.1\n1,0,1\n", [1, 2]),
        (
            "a.jsonl",
            '{"sample_uid": 0, "margin": -0.5}\n\n{"sample_uid": 1, "margin": null}\n',
            [2, None],
        ),
        (
            "a.jsonl",
            '{"sample_uid": "0", "verdict": true}\n{"sample_uid": "1", "verdict": "A"}\n',
            [None, 1],
        ),
    ],
)
def test_predictions_are_read(
    tmp_path: Path, name: str, text: str, verdicts: list[int | None]
) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    found = read_predictions(tmp_path / name)
    assert found.name == "a" and found.verdicts == {
        f"{n}": verdict for n, verdict in enumerate(verdicts)
    }


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "pair,verdict\n0,1\n", "names no pairs; it needs sample_uid"),
        ("a.csv", "sample_uid,verdict\n,1\n", "row 1: a row without sample_uid"),
        ("a.csv", 'sample_uid,verdict\n0,1\n1,"2\n', "line 3: .* a quote is not closed"),
        ("a.csv", "sample_uid,verdict\n0,good\n1,bad\n", "2 of the 2 words in 'verdict'"),
        ("a.csv", "sample_uid,verdict\n0,1\n0,2\n", "a sample_uid twice"),
        (
            "a.csv",
            "sample_uid,verdict\n"
            + "".join(f"{n},{'better' if n < 6 else 1}\n" for n in range(99)),
            "'better' stands in 6 of the 99 rows",
        ),
        ("a.csv", 'sample_uid,margin\n0,"0,4"\n1,"0,5"\n2,1\n', "2 of the 3 rows .* '0,4'; write"),
        ("a.csv", "sample_uid,score_1,score_2\n0,a,1\n1,2,\n", "2 of the 2 rows .*'score_2'"),
        ("a.csv", "sample_uid,OA,margin\n0,1,high\n", "1 of the 1 rows of .'margin'"),
        (
            "a.csv",
            "sample_uid,winner\n0,1\n",
            "it needs verdict, or margin, or score_1 and score_2",
        ),
        ("a.csv", "sample_uid,verdict\n", "holds no rows"),
        ("a.jsonl", "[1]\n", "holds no rows with named fields"),
        ("a.jsonl", "{\n", "cannot be read"),
        ("a.txt", "", "is none of .csv, .json, .jsonl, .parquet"),
    ],
)
def test_a_bad_file_of_predictions_is_refused(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ImportedFileError, match=words):
        read_predictions(tmp_path / name)
    with pytest.raises(ImportedFileError, match="cannot be read|is none of"):
        read_predictions(tmp_path / f"missing-{name}")


SHARED = label_samples(GOLD)


def read_csv(tmp_path: Path, text: str, samples: list[PreferenceSample]) -> JudgePredictions:
    (tmp_path / "a.csv").write_text(text)
    return read_predictions(tmp_path / "a.csv", samples)


def test_rivals_are_joined_by_the_paths_of_the_videos(tmp_path: Path) -> None:
    rows = ["video_1,video_2,OA,VQ"]
    for number, words in enumerate(["A,B", "A,tie", "tie,1", "video 1 better,2", ",", "2,0"]):
        pair = (f"/data/{number}1", f"/data/{number}2")
        rows.append(",".join([*(pair[::-1] if number == 1 else pair), words]))
    found = read_csv(tmp_path, "\n".join(rows) + "\n", SHARED)
    assert found.verdicts == {"0": 1, "1": 2, "2": 0, "3": 1, "4": None, "5": 2}
    assert found.dimensions["VQ"] == {"0": 2, "1": 0, "2": 1, "3": 2, "4": None, "5": 0}
    [judge] = compare_judges([found], SHARED).judges
    assert str(judge.overall.with_ties).endswith("(4/5)") and judge.unreadable == 1
    assert str(judge.dimensions["VQ"].with_ties).endswith("(1/6)") and not judge.as_published


def test_a_rival_that_names_other_pairs_is_an_error_with_both_sides(tmp_path: Path) -> None:
    rows = "".join(f"genai-{n},1\n" for n in range(6))
    with pytest.raises(ImportedFileError, match=r"names 0.0 % \(0/6\).*'genai-0'.*called.*'0'"):
        read_csv(tmp_path, "sample_uid,verdict\n" + rows, SHARED)
    half = read_csv(tmp_path, "sample_uid,verdict\n0,1\n1,2\n2,0\n", SHARED)
    [judge] = compare_judges([half], SHARED).judges
    assert (judge.missing, judge.unreadable, judge.overall.with_ties.correct) == (3, 0, 3)


def test_runs_over_overlapping_pairs_share_rows_and_turn_swapped_ones() -> None:
    others = [swap_videos(replace(SHARED[0], uid="x")), replace(SHARED[2], uid="y")]
    mapped = map_shared_pairs(SHARED, others)
    assert mapped == {"x": ("0", True), "y": ("2", False)}
    other = JudgePredictions(
        "o", {"x": 2, "y": 0, "z": 1}, {"x": -1.0, "z": 1.0}, orders=[{"x": 2, "y": 1}]
    )
    renamed = rename_pairs(other, mapped)
    assert (renamed.verdicts, renamed.margins) == ({"0": 1, "2": 0}, {"0": 1.0})
    assert renamed.orders == [{"0": 1, "2": 1}]


def test_a_pair_of_equal_file_names_in_two_folders_is_turned_too() -> None:
    sample = replace(SHARED[0], video_1="kling/1.mp4", video_2="wan/1.mp4")
    turned = replace(swap_videos(sample), uid="x")
    assert map_shared_pairs([sample], [turned]) == {"x": ("0", True)}
    assert map_shared_pairs([sample], [replace(sample, uid="x")]) == {"x": ("0", False)}


def test_several_samples_of_one_pair_are_all_found() -> None:
    first, second = SHARED[0], replace(SHARED[0], uid="again")
    turned = replace(swap_videos(first), uid="turned")
    assert map_shared_pairs([first, second], [second, first]) == {
        "again": ("again", False),
        "0": ("0", False),
    }
    assert map_shared_pairs([first, second], [turned, second, replace(first, uid="third")]) == {
        "again": ("again", False),
        "turned": ("0", True),
    }


def test_scores_get_upper_bounds_beside_them(tmp_path: Path) -> None:
    rows = [(0, 0.1)] * 40 + [(1, 0.9)] * 46 + [(1, -0.9)] * 14
    path = tmp_path / "scores.csv"
    path.write_text(
        "sample_uid,margin\n" + "".join(f"{n},{margin}\n" for n, (_, margin) in enumerate(rows))
    )
    [found] = compare_judges(
        [read_predictions(path)],
        label_samples({f"{n}": label for n, (label, _) in enumerate(rows)}),
    ).judges
    assert found.overall.with_ties.correct == 46  # no threshold is chosen for the headline
    assert (found.best_threshold.accuracy.correct, found.best_threshold.threshold) == (86, 0.1)


def test_figures_become_plain_json() -> None:
    plain = to_plain({"rate": Rate(0, 0), "order": Order.AB, "steps": [(1.0, float("inf"))]})
    assert plain == {
        "rate": {"value": None, "correct": 0, "total": 0, "low": None, "high": None},
        "order": "AB",
        "steps": [[1.0, None]],
    }
    json.dumps(plain, allow_nan=False)


EVIL = '"><script src="https://example.com/x.js"></script><img src=x onerror=alert(1)>'


def test_a_page_asks_nobody_for_anything() -> None:
    plot = Plot(
        EVIL, draw_intervals([Bar(EVIL, 0.5, 0.4, 0.6), Bar("empty", float("nan"))], EVIL), EVIL
    )
    lines = Plot(
        "lines", draw_lines([Line(EVIL, [(0.0, 0.5), (1.0, 1.0)]), Line("none", [])], EVIL, EVIL)
    )
    page = render_page(
        EVIL, [Table(EVIL, (EVIL,), [(EVIL,)], EVIL), plot, lines, Note(EVIL)], facts=[(EVIL, EVIL)]
    )
    tags = set(re.findall(r"<\s*([a-z]+)", page))
    assert not tags & {
        "script",
        "img",
        "link",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "audio",
        "video",
        "use",
    }
    assert not re.search(r"""<[^>]*\s(?:src|href|srcset|xlink:href|on\w+)\s*=""", page)
    assert "url(" not in page and "@import" not in page and "default-src 'none'" in page


@pytest.mark.parametrize(
    ("max_x", "ticks", "last"),
    [
        (None, ["0 %", "25 %", "50 %", "75 %", "100 %"], 1.0),
        (40, ["0", "10", "20", "30", "40"], 40),
        (2, ["0", "0.5", "1", "1.5", "2"], 2),
    ],
)
def test_a_plot_goes_from_zero_to_its_last_step(
    max_x: int | None, ticks: list[str], last: float
) -> None:
    svg = draw_lines(
        [Line("ours", [(0, 0.0), (last / 2, 0.5), (last, 1.0)])], "step", "share", max_x=max_x
    )
    [points] = re.findall(r'<polyline class="ours" points="([^"]+)"', svg)
    assert points == "64.0,250.0 277.0,131.0 490.0,12.0"
    assert re.findall(r'y="264" text-anchor="middle">([^<]+)<', svg) == ticks


def test_lines_of_several_series_are_told_apart() -> None:
    lines = [Line(f"line {n}", [(0.0, 0.1 * n), (1.0, 1.0)], series=n) for n in range(6)]
    svg = draw_lines(
        [*lines, Line("ours", [(0.0, 0.0)]), Line("old", [(0.0, 0.0)], is_reference=True)], "x", "y"
    )
    styles = re.findall(r'<polyline class="([^"]+)"', svg)
    assert styles == [*(f"series-{n}" for n in range(6)), "ours", "reference"]
    page = render_page("plots", [Plot("lines", svg)])
    colours = [re.search(rf"\.{style} {{ --colour: (#\w+);", page)[1] for style in styles[:6]]
    assert len(set(colours)) == 6 and "[class^=series] { stroke: var(--colour);" in page


def test_plots_stay_inside_their_frame() -> None:
    svg = draw_intervals(
        [Bar("x" * 80, value, value / 2, 1.0) for value in np.linspace(0, 1, 5)], "share"
    )
    numbers = [float(x) for x in re.findall(r'\bc?x[12]?="([\d.]+)"', svg)]
    assert min(numbers) >= 0 and max(numbers) <= 680 and "x" * 40 not in svg
