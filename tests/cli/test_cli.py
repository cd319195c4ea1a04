"""The verbs that need no model, on real label files and on imported predictions; and a light
start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.seeing_judge import PAIRS, make_samples
from verl_videosearch.cli import app
from verl_videosearch.cli.console import read_assignments
from verl_videosearch.sample import write_samples


def invoke(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def refuse(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    return result.output


def real_labels(name: str) -> Path:
    """Return the folder of a public label file; the files do not belong to this project."""
    folder = os.environ.get("VIDEOSEARCH_REAL_LABELS")
    if not folder and not os.environ.get("CI"):
        pytest.skip("VIDEOSEARCH_REAL_LABELS names no folder with the public label files")
    return Path(folder or "VIDEOSEARCH_REAL_LABELS is unset") / name


def test_baselines_of_the_real_genai_bench() -> None:
    output = invoke("baselines", "--benchmark", "genai", "--root", real_labels("genai_bench_video"))
    assert "overall labels: tie 619, video 1 619, video 2 651, none 0, of 1889" in output
    assert "| majority class | 34.5 % (651/1889) | 51.3 % (651/1270) |" in output
    assert "| always tie | 32.8 % (619/1889) | 0.0 % (0/1270) |" in output
    assert "| random | 33.3 % (629.7/1889) | 50.0 % (635/1270) |" in output


def test_baselines_of_the_real_mj_bench() -> None:
    output = invoke("baselines", "--benchmark", "mj", "--root", real_labels("mj_bench_video"))
    assert "overall labels: tie 959, video 1 72, video 2 46, none 8, of 1085" in output
    assert "| majority class | 89.0 % (959/1077) | 61.0 % (72/118) |" in output
    assert "| always tie | 89.0 % (959/1077) | 0.0 % (0/118) |" in output
    assert "| random | 33.3 % (359/1077) | 50.0 % (59/118) |" in output
    assert (
        "Without looking: VQ" in output
        and "| majority class | 92.9 % (1002/1078) | 55.3 % (42/76) |" in output
    )


def test_missing_videos_of_a_benchmark_are_counted_first() -> None:
    place = ["--endpoint", "http://localhost:1/v1", "--model", "m", "--out", "never-made"]
    output = refuse("eval", "--benchmark", "mj", "--root", real_labels("mj_bench_video"), *place)
    assert "2170 videos are missing below" in output and "--allow-missing" in output
    assert not Path("never-made").exists()


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    write_samples(tmp_path / "pairs.parquet", make_samples())
    return tmp_path / "pairs.parquet"


def test_baselines_of_a_file_of_samples(samples: Path) -> None:
    output = invoke("baselines", "--benchmark", samples)
    assert (
        "overall labels: tie 3, video 1 5, video 2 4, none 0, of 12" in output
        and "Without looking: MQ" not in output
    )


def test_other_judges_are_compared_without_any_run(samples: Path, tmp_path: Path) -> None:
    labels = [label for label, _, _ in PAIRS]
    for name, verdicts in {"right": labels, "tie": [0] * 12}.items():
        rows = "".join(f"test-{n:02d},{verdict}\n" for n, verdict in enumerate(verdicts))
        (tmp_path / f"{name}.csv").write_text("sample_uid,verdict\n" + rows)
    place = ["--samples", samples, "--out", tmp_path / "out"]
    output = invoke("compare", tmp_path / "right.csv", tmp_path / "tie.csv", *place)
    assert "| tie | with ties | -75.0 [-100.0, -50.0] | 0 : 9 | 0.0039 |" in output
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [judge["overall"]["with_ties"]["correct"] for judge in results["judges"]] == [12, 3]
    assert (tmp_path / "out/index.html").exists()


def test_comparisons_that_mean_nothing_are_refused(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sample_uid,verdict\ntest-00,1\n")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/a.csv").write_text("sample_uid,verdict\ntest-00,1\n")
    assert "give them with --samples" in refuse("compare", tmp_path / "a.csv")
    assert "two judges have one name" in refuse(
        "compare", tmp_path / "a.csv", tmp_path / "b/a.csv", "--samples", samples
    )
    assert "has no run.json" in refuse("compare", tmp_path / "b", "--samples", samples)
    assert "no such run or file" in refuse(
        "compare", tmp_path / "a.csv", tmp_path / "c", "--samples", samples
    )


@pytest.mark.parametrize(
    ("assignments", "values"),
    [
        ([], {}),
        (["window=null", "label_frames=false"], {"window": None, "label_frames": False}),
        (["prompt_style=brief", "a=b=c", "x="], {"prompt_style": "brief", "a": "b=c", "x": ""}),
    ],
)
def test_assignments(assignments: list[str], values: dict) -> None:
    assert read_assignments(assignments) == values


def test_a_second_benchmark_does_not_replace_the_first(samples: Path) -> None:
    place = ["--endpoint", "http://localhost:1/v1", "--model", "m", "--out", "never-made"]
    both = ["--benchmark", samples, "--benchmark", "genai"]
    options = ["--video-root", samples.parent, "--allow-missing", *place]
    assert "no such folder: 'nowhere'" in refuse("eval", *both, "--root", "nowhere", *options)
    roots = ["--root", "a", "--root", "b", "--root", "c"]
    assert "got 3 for 2 benchmarks" in refuse("eval", *both, *roots, *options)
    assert not Path("never-made").exists()


def test_help_is_light() -> None:
    program = (
        "import sys; from verl_videosearch.cli import app; app(standalone_mode=False); "
        "print(*sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, "--help"], capture_output=True, text=True, check=True
    )
    help_text, modules = run.stdout.rsplit("\n", 2)[0], set(run.stdout.split())
    assert all(verb in help_text for verb in ("eval", "probe", "compare", "baselines", "calibrate"))
    assert not modules & {
        "torch",
        "verl",
        "ray",
        "transformers",
        "openai",
        "av",
        "pyarrow",
        "numpy",
    }
