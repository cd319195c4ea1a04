"""The program that reads a preference set: what it writes, finds, counts and says."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result
from verl_videosearch.data_prep import build

from tests.sources.test_sources import GENAI_ROW, MJ_ROW, OWN_ROW, real_labels, write_table
from verl_videosearch.sample import read_samples
from verl_videosearch.sources.video_finder import VideoFinder

APP = typer.Typer()
APP.command()(build.main)


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(APP, [str(each) for each in arguments])


def words_of(result: Result) -> str:
    """The output with tables and line breaks reduced to words."""
    return " ".join(result.output.replace("│", " ").split())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three pairs, one of which lacks a video; one bad row."""
    rows = [
        {**MJ_ROW, "video_0_path": f"train/{n}_0.mp4", "video_1_path": f"train/{n}_1.mp4"}
        for n in range(3)
    ]
    write_table(tmp_path / "train.json", [*rows, {**MJ_ROW, "caption": ""}])
    for name in ("0_0", "0_1", "1_0", "1_1", "2_0"):
        path = tmp_path / "videos" / "train" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")
    return tmp_path


def test_writes_what_is_complete_and_counts_the_rest(root: Path) -> None:
    out = root / "out" / "train.parquet"
    result = run("--source", "mj_bench_video", "--root", root, "--out", out)
    assert result.exit_code == 0, result.output
    samples = read_samples(out)
    assert [sample.uid for sample in samples] == [
        "mj_bench_video/train/000001",
        "mj_bench_video/train/000002",
    ]
    assert all(path.is_file() for sample in samples for path in sample.resolve_videos(root))
    for words in (
        "read 4",
        "dropped: video file missing 1 row 3: train/2_1.mp4",
        "dropped: no prompt 1 row 4: caption is ''",
        "samples 2",
        "MQ 0 0 0 2 Hard to judge 2",
        "TA 2 0 0 0 Video 1 Better 2",
        "1 video files are missing",
        f"looked in {root}",
        "wrote 2 samples",
    ):
        assert words in words_of(result)


def test_check_writes_nothing(root: Path) -> None:
    before = set(root.rglob("*"))
    assert run("--source", "mj_bench_video", "--root", root, "--check").exit_code == 0
    assert set(root.rglob("*")) == before


def test_missing_videos_may_be_kept_and_listed(root: Path) -> None:
    listed = root / "missing.tsv"
    result = run(
        "--source",
        "mj_bench_video",
        "--root",
        root,
        "--check",
        "--keep-missing",
        "--missing-list",
        listed,
    )
    assert "samples 3" in words_of(result) and listed.read_text() == "train/2_1.mp4\t\n"
    write_table(root / "genai" / "test.json", [GENAI_ROW])
    (root / "genai" / "videos.zip").touch()
    result = run(
        "--source", "genai_bench", "--root", root / "genai", "--check", "--missing-list", listed
    )
    assert (
        result.exit_code == 2
        and "no sample is left" in result.output
        and "unpack videos.zip" in result.output
    )
    assert (
        listed.read_text().splitlines()[1]
        == "2b.mp4\thttps://huggingface.co/datasets/x/y/resolve/main/dir/2b.mp4"
    )


def test_only_ten_missing_files_are_named(tmp_path: Path) -> None:
    rows = [{**OWN_ROW, "path_a": f"{n}a.mp4", "path_b": f"{n}b.mp4"} for n in range(8)]
    result = run(
        "--source",
        "pairs_csv",
        "--root",
        write_table(tmp_path / "p.csv", rows),
        "--check",
        "--keep-missing",
    )
    assert "16 video files are missing" in result.output and "4b.mp4" in result.output
    assert "5a.mp4" not in result.output


def test_text_from_a_file_is_no_markup(root: Path) -> None:
    rows = [
        MJ_ROW,
        {**MJ_ROW, "overall_preference": "[/red]"},
        {**MJ_ROW, "video_0_path": "../[/bold]"},
    ]
    result = run(
        "--source",
        "mj_bench_video",
        "--root",
        write_table(root / "m" / "train.json", rows),
        "--check",
        "--keep-missing",
    )
    assert (
        result.exit_code == 0
        and "[/red] 1" in words_of(result)
        and "../[/bold]" in words_of(result)
    )


def test_limit_is_a_seeded_draw_in_order(root: Path) -> None:
    drawn = set()
    for seed in range(6):
        out = root / f"{seed}.parquet"
        arguments = (
            "--source",
            "mj_bench_video",
            "--root",
            root,
            "--keep-missing",
            "--limit",
            2,
            "--seed",
            seed,
        )
        assert "dropped: not drawn by --limit 1" in words_of(run(*arguments, "--out", out))
        first = [sample.uid for sample in read_samples(out)]
        run(*arguments, "--out", out)
        assert first == [sample.uid for sample in read_samples(out)] == sorted(first)
        drawn.add(tuple(first))
    assert len(drawn) > 1


def test_own_dimensions_from_a_file(root: Path) -> None:
    listed = root / "dimensions.json"
    listed.write_text(json.dumps([{"key": "FUN", "name": "Fun", "explanation": "how funny it is"}]))
    table = root / "own" / "mine.csv"
    write_table(table, [{"path_a": "0_0.mp4", "path_b": "0_1.mp4", "prompt": "A cat.", "FUN": "B"}])
    out, videos = root / "own.parquet", root / "videos" / "train"
    result = run(
        *(
            "--source",
            "pairs_csv",
            "--root",
            table,
            "--video-root",
            videos,
            "--out",
            out,
            "--dimensions",
            listed,
        )
    )
    assert result.exit_code == 0, result.output
    (sample,) = read_samples(out)
    assert (
        dict(sample.labels) == {"FUN": 2, "OA": 2}
        and sample.dimensions[0].explanation == "how funny it is"
    )


def test_several_label_files_are_named(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("path_a,path_b,prompt,OA\n1.mp4,2.mp4,a cat,1\n")
    result = run("--source", "pairs_csv", "--root", tmp_path, "--check", "--keep-missing")
    assert result.exit_code == 0 and "read 2 label files: a.csv, b.csv" in words_of(result)


@pytest.mark.parametrize("option", ["--missing-list", "--out"])
def test_a_place_that_cannot_be_written_is_one_line(root: Path, option: str) -> None:
    files = {"--out": root / "pairs.parquet", option: "/proc/x/y.parquet"}
    words = [str(word) for item in files.items() for word in item]
    result = run("--source", "mj_bench_video", "--root", root, *words)
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert "cannot write /proc/x/y.parquet" in words_of(result)


MISTAKES = [
    (
        ["--source", "nope", "--root", ".", "--check"],
        "unknown source 'nope'; choose one of videogen_reward",
    ),
    (
        ["--source", "genai_bench", "--root", ".", "--split", "train", "--check"],
        "no split 'train'; choose one of test",
    ),
    (["--source", "genai_bench", "--root", "."], "give either --out FILE or --check"),
    (["--source", "genai_bench", "--root", "/nowhere", "--check"], "no such folder: '/nowhere'"),
    (
        ["--source", "pairs_csv", "--root", ".", "--check", "--dimensions", "/nowhere"],
        "give a JSON list of key",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[row[1] for row in MISTAKES])
def test_mistakes_are_one_line(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert (
        result.exit_code == 2 and message in words_of(result) and "Traceback" not in result.output
    )


def test_finder_takes_a_bare_name_from_anywhere_but_only_if_it_is_clear(tmp_path: Path) -> None:
    for path in ("a/1.mp4", "a/2.mp4", "b/2.mp4", "videos/3.mp4"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    finder = VideoFinder(tmp_path, ("", "videos"))
    names = (
        "1.mp4",
        "2.mp4",
        "3.mp4",
        "a/2.mp4",
        "c/1.mp4",
        str(tmp_path / "a/1.mp4"),
        "a",
        "x" * 5000,
    )
    expected = [
        "a/1.mp4",
        None,
        "videos/3.mp4",
        "a/2.mp4",
        None,
        str(tmp_path / "a/1.mp4"),
        None,
        None,
    ]
    assert [finder.find(name) for name in names] == expected


def test_counts_of_the_real_file_by_command() -> None:
    root = real_labels("mj_bench_video")
    result = run(
        "--source", "mj_bench_video", "--split", "test", "--root", root, "--check", "--keep-missing"
    )
    assert "read 1,085" in words_of(result) and "OA 72 46 959 8" in words_of(result)
