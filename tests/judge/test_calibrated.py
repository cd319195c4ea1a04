"""A calibration beside a judge: its figure is of the verdict that is given, and where it does not
belong it is refused before anything is asked."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import verl_videosearch
from tests.clips import write_clip
from tests.judge.episodes import make_judge
from tests.seeing_judge import CLIPS, Judge, answer, read_levels, serve_judge, write_clips
from verl_videosearch.evaluation.calibration import Calibration, CalibrationError, to_json
from verl_videosearch.judge.comparison import Comparison
from verl_videosearch.judge.opening import describe_files
from verl_videosearch.models.source import ModelSource
from verl_videosearch.runs.identity import hash_model, hash_names
from verl_videosearch.sample import PreferenceSample

CLEAN, OTHER, DEFECT = CLIPS
FITTED = {
    "tie_threshold": 0.5,
    "decided": [(1.0, 0.6), (3.0, 0.9)],
    "tied": [(0.0, 0.5)],
    "max_risk": 0.2,
    "min_confidence": 0.8,
    "coverage": 0.5,
    "pair_hashes": (),
    "model_hash": "unknown",
}


def write_calibration(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps(to_json(Calibration(**FITTED | changes))))
    return path


@contextmanager
def judge_calibrated(
    folder: Path, judge: Judge | None = None, **changes: Any
) -> Iterator[tuple[Any, Any]]:
    path = write_calibration(folder / "calibration.json", **changes)
    with (
        serve_judge(*[judge] * bool(judge)) as server,
        make_judge(server, folder, calibration=path) as made,
    ):
        yield made, server


def test_a_calibration_gives_probabilities_and_abstains(tmp_path: Path) -> None:
    write_clips(tmp_path)
    with judge_calibrated(tmp_path) as (judge, _):
        sure = judge.compare("a cat", tmp_path / CLEAN, tmp_path / DEFECT)
        tie = judge.compare("a cat", tmp_path / CLEAN, tmp_path / OTHER)
    assert (sure.confidence, sure.abstains, sure.overall) == (0.9, False, 1)
    assert (tie.confidence, tie.abstains) == (0.5, True) and "abstains" in str(tie)


def say_by_order(dark_first: tuple[int, int], light_first: tuple[int, int]) -> Judge:
    """Answer (verdict, stated confidence) by which film is shown first."""

    def judge(request: dict[str, Any]) -> str:
        levels = read_levels(request["messages"][1])
        return answer(*(dark_first if levels[0] < levels[-1] else light_first))

    return judge


@pytest.mark.parametrize(
    ("threshold", "said", "overall", "confidence"),
    [
        (0.5, ((1, 1), (1, 3)), 1, 0.6),  # +3 and -1 of 3: above the threshold
        (1.0, ((1, 1), (1, 3)), 0, 0.25),
        (1.5, ((1, 3), (2, 3)), 0, 0.25),  # both say video 1, unsure
        (0.5, ((1, 3), (2, 3)), 1, 0.6),
        (0.5, ((1, 1), (0, 2)), 1, 0.6),
        (0.0, ((1, 1), (1, 1)), 0, 0.25),
    ],
)
def test_the_verdict_that_is_given_is_the_one_that_is_graded(
    tmp_path: Path,
    threshold: float,
    said: tuple[tuple[int, int], tuple[int, int]],
    overall: int,
    confidence: float,
) -> None:
    for name, level in (("dark.mp4", 40), ("light.mp4", 120)):
        write_clip(tmp_path / name, np.full((8, 56, 84, 3), level, np.uint8))
    settings = {"tie_threshold": threshold, "tied": [(0.0, 0.25)], "min_confidence": 0.0}
    with judge_calibrated(tmp_path, say_by_order(*said), **settings) as (judge, _):
        verdict = judge.compare("a cat", tmp_path / "dark.mp4", tmp_path / "light.mp4")
    assert (verdict.overall, verdict.confidence) == (overall, confidence)
    assert verdict.winner == (str(tmp_path / "dark.mp4") if overall else None)
    assert ("though the two orders disagree" in str(verdict)) == (
        bool(overall) and not verdict.orders_agree
    )
    assert Comparison.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict


def make_model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_the_calibration_of_another_model_is_refused_before_its_server_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: Any) -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr(ModelSource, "open", start)
    model = make_model(tmp_path / "model")
    path = write_calibration(tmp_path / "calibration.json", model_hash="another")
    with judge_served(model, path) as judge, pytest.raises(CalibrationError, match="model another"):
        judge.open()
    write_calibration(path, model_hash=hash_model(model))
    with judge_served(model, path) as judge, pytest.raises(AssertionError, match="was started"):
        judge.open()


def judge_served(model: Path, calibration: Path) -> Any:
    return verl_videosearch.Judge.serve(model, calibration=calibration, store=model / "frames")


def test_a_pair_that_it_was_fitted_on_is_refused_before_any_is_asked(tmp_path: Path) -> None:
    write_clips(tmp_path)
    pair = ("a cat", tmp_path / CLEAN, tmp_path / DEFECT)
    labels = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}
    fitted_on = PreferenceSample("7", "a cat", f"films/{DEFECT}", f"films/{CLEAN}", labels)
    with judge_calibrated(tmp_path, pair_names=(hash_names(fitted_on),)) as (judge, server):
        with pytest.raises(CalibrationError, match="fitted on 1 of these 2 pairs"):
            judge.compare_many([("a dog", *pair[1:]), pair])
        assert not server.requests


def test_only_files_that_decide_replies_name_a_model(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    before = describe_files(model)
    write_calibration(model / "videosearch_calibration.json")
    (model / "README.md").write_text("notes")
    assert describe_files(model) == before
    (model / "model.safetensors").write_bytes(b"other weights")
    assert describe_files(model) != before
