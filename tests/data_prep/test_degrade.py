"""`python -m data_prep.degrade` writes true pairs, balanced, with the same bytes for the same
seed."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from verl_videosearch.data_prep.degrade import DEFAULT_TYPES, DegradeConfig, app, make_pairs

from tests.clips import write_clip
from verl_videosearch.judgement import OVERALL
from verl_videosearch.sample import read_samples
from verl_videosearch.video.decode import FramePlan, read_candidate_frames


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of two clips with motion and detail."""
    folder = tmp_path_factory.mktemp("clips")
    for seed, name in enumerate(("a", "b")):
        still = (
            np.random.default_rng(seed)
            .integers(0, 256, (9, 14, 3), dtype=np.uint8)
            .repeat(8, 0)
            .repeat(8, 1)
        )
        write_clip(
            folder / f"{name}.mp4", np.stack([np.roll(still, 3 * i, axis=1) for i in range(40)])
        )
    return folder


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def degrade(out: Path, clips: Path, *options: str) -> str:
    result = CliRunner().invoke(
        app, ["--out", str(out), "--clips", str(clips), "--pairs", "12", *options]
    )
    assert result.exit_code == 0, result.output
    return result.output


def test_pairs_are_true_and_balanced(tmp_path: Path, clips: Path) -> None:
    output = degrade(tmp_path, clips)
    assert "12 pairs" in output and "tearing" in output
    samples = read_samples(tmp_path / "pairs.parquet")
    assert sorted(sample.labels[OVERALL] for sample in samples) == [1] * 6 + [2] * 6
    kinds = []
    for sample in samples:
        loser = 3 - sample.labels[OVERALL]
        (defect,) = sample.meta[f"defects_{loser}"]
        assert sample.meta[f"defects_{3 - loser}"] == []
        others = {"TA", "VQ", "MQ"} - {defect["dimension"]}
        assert sample.labels[defect["dimension"]] == 3 - loser and {
            sample.labels[key] for key in others
        } == {0}
        assert (sample.meta["pair_type"], sample.meta["cue"], defect["is_hidden"]) == (
            "visible",
            None,
            False,
        )
        kinds.append(defect["type"])
        one, two = (
            read_candidate_frames(p, FramePlan(16, 56 * 56)).frames
            for p in sample.resolve_videos(tmp_path)
        )
        assert one.shape == two.shape == (16, 56, 56, 3)
        assert sum((a != b).any() for a, b in zip(one, two, strict=True)) >= 15
    assert kinds == list(DEFAULT_TYPES)


def test_same_seed_same_bytes(tmp_path: Path, clips: Path) -> None:
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        degrade(tmp_path / name, clips, "--seed", seed, "--size", "28", "--frames", "6")
    first, second, other = (read_tree(tmp_path / name) for name in "abc")
    assert first == second
    same = [path for path in first if first[path] == other[path]]
    assert (
        len(first) == 25 and len(same) <= 1
    )  # a video of dropped frames is flat grey whatever the seed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--defects", "snow,glitter"], "unknown defect types ['glitter']"),
        (["--defects", "recolour"], "unknown defect types ['recolour']"),
        (["--size", "57"], "size must be a whole number that is even and at least 28, got 57"),
        (["--frames", "99"], "a clip has 40 frames, a window needs 99"),
        (["--clips", "nowhere"], "no such folder of clips: 'nowhere'"),
    ],
)
def test_bad_options(tmp_path: Path, clips: Path, options: list[str], message: str) -> None:
    result = CliRunner().invoke(
        app, ["--out", str(tmp_path / "out"), "--clips", str(clips), *options]
    )
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "out/pairs.parquet").exists()


def test_severities_take_turns(tmp_path: Path, clips: Path) -> None:
    samples = make_pairs(
        sorted(clips.iterdir()), tmp_path, DegradeConfig(6, num_frames=4, types=("noise", "grey"))
    )
    defects = [(sample.meta["defects_1"] + sample.meta["defects_2"])[0] for sample in samples]
    assert [(d["type"], d["severity"]) for d in defects] == [
        (t, s) for s in (3, 2, 1) for t in ("noise", "grey")
    ]
