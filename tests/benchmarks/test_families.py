"""A family of models goes through both trainers; a disagreement or a failed run is an error."""

from pathlib import Path

import numpy as np
import pytest

# ruff: noqa: E402  (imports after the skip)
pytest.importorskip("verl")

from verl_videosearch.data_prep.traces.sft_rows import SftRow, write_sft_rows

from benchmarks import families
from benchmarks.families import COLUMNS, FAMILIES, Files, run_family
from tests.engine import ANSWER, call_frames
from verl_videosearch.from_scratch.families import ModelFamily
from verl_videosearch.recipe import read_episode
from verl_videosearch.sample import PreferenceSample, write_samples
from verl_videosearch.video.lossless import write_lossless

THOUGHT = "<think>\nfirst look\n</think>"


def write_files(folder: Path) -> Files:
    """Write eight pairs of the same two noisy videos, and a trace of each: a call, an answer."""
    rng = np.random.default_rng(0)
    for side in (1, 2):
        frames = rng.integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
        write_lossless(folder / f"{side}.mkv", frames)
    labels = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}
    samples = [PreferenceSample(f"{i}", "a cat", "1.mkv", "2.mkv", labels) for i in range(8)]
    write_samples(folder / "pairs.parquet", samples)
    config = read_episode("videosearch_cold_start_tiny", [])
    replies = (f"\n\n{call_frames(2, 20)}", f"\n\n{ANSWER}")
    rows = [SftRow(sample, replies, config, (THOUGHT, THOUGHT)) for sample in samples]
    write_sft_rows(folder / "sft.parquet", rows)
    return Files(
        folder / "pairs.parquet",
        folder / "sft.parquet",
        folder,
        folder / "out",
        grpo_settings=("actor_rollout_ref.rollout.n=2",),
    )


@pytest.mark.slow_start
@pytest.mark.timeout(1500)
def test_a_thinking_model_trains_what_it_sampled(tmp_path: Path) -> None:
    """One family that is not the demo's; the others: `python -m benchmarks.families`."""
    row = run_family("qwen3_vl_thinking", write_files(tmp_path), sft_steps=2, timeout_s=700)
    found = dict(zip(COLUMNS, row, strict=True))
    assert found["episodes"] == "16"
    assert 0 < float(found["agreement, mean"]) <= float(found["largest"]) <= 1e-5


def row_of(name: str, largest: str) -> tuple[str, ...]:
    values = {"family": name, "largest": largest, "allowed": "1e-05"}
    return tuple(values.get(column, "1") for column in COLUMNS)


@pytest.mark.parametrize("largest", ["1.1e-05", "nan"])
def test_a_disagreement_ends_with_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, largest: str
) -> None:
    monkeypatch.setattr(
        families, "run_family", lambda name, *_: row_of(name, largest if name == "b" else "9e-06")
    )
    with pytest.raises(SystemExit, match=f"^b: engine and trainer differ by {largest}$"):
        families.main(tmp_path, tmp_path, tmp_path, tmp_path, family=["a", "b"])
    families.main(tmp_path, tmp_path, tmp_path, tmp_path, family=["a"])


def test_a_failed_run_names_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(families.sys, "executable", "false")
    with pytest.raises(SystemExit, match=r"^qwen3_vl: start ended with status 1; see .*start\.log"):
        families.main(tmp_path, tmp_path, tmp_path, tmp_path, family=["qwen3_vl"])
    assert "| family |" in capsys.readouterr().out


def test_a_refusal_of_preflight_is_said_and_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "refuse"
    program.write_text(
        "#!/bin/sh\necho 'some line'\necho 'This run cannot start:\n- why' && exit 1"
    )
    program.chmod(0o755)
    monkeypatch.setattr(families.sys, "executable", str(program))
    families.main(tmp_path, tmp_path, tmp_path, tmp_path, family=["qwen3_5"])
    assert "qwen3_5: GRPO is refused. This run cannot start:\n- why\n" in capsys.readouterr().out


def test_every_family_has_a_tiny_model() -> None:
    assert [family.value for family in ModelFamily] == list(FAMILIES)
