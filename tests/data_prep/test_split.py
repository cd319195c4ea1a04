"""Splits share nothing, keep the balance, and nothing of a benchmark stays in them."""

import json
import os
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result
from verl_videosearch.data_prep import split
from verl_videosearch.data_prep.sets.sample_keys import identify_videos, make_keys, normalise_prompt
from verl_videosearch.data_prep.split import Parts, find_overlaps, parse_fractions, split_samples

from verl_videosearch.sample import PreferenceSample, read_samples, swap_videos, write_samples

APP = typer.Typer()
APP.command()(split.main)
FRACTIONS = {"cold_start": 0.1, "rft": 0.3, "grpo": 0.5, "validation": 0.1}


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(APP, [str(each) for each in arguments])


def make(
    uid: object, prompt: str, video_1: str, video_2: str, overall: int | None = 0
) -> PreferenceSample:
    labels = {"TA": 0, "VQ": 0, "MQ": 0, "OA": overall}
    return PreferenceSample(str(uid), prompt, video_1, video_2, labels, source="set")


PROMPTS = [
    ("A cat runs.", "a  CAT, runs!", True),
    ("A cat runs.", "A cat run", False),
    ("Ａ ｃａｔ", "a cat", True),
    ("naïve café", "NAÏVE CAFE\u0301", True),
    ("一只猫", "一只狗", False),
    ("🐱", "🐶", False),
    ("🐱 jumps", "🐶 jumps", False),
    ("a dog\u00b4s tail", "a dog's tail", True),
    ("a \u00a8big\u00a8 cat", 'a "big" cat', True),
    ("\u00bd cup", "1/2 cup", True),
    ("\u22125 degrees", "-5 degrees", True),
    ("A sunny day ☀️!", "a sunny day ☀", True),
    ("किताब", "काताब", False),
    ("काला", "कल", False),
    ("ม้า", "มา", False),
    ("5 < 6 cats", "5 > 6 cats", False),
    ("5<6 cats", "5 < 6 cats.", True),
    ("a cat + a dog", "a cat - a dog", False),
    ("a $5 bill", "a 5 bill", False),
    ("co\u00adoperate", "cooperate", True),
    ("x_1", "x 1", False),
]


@pytest.mark.parametrize(("first", "second", "is_same"), PROMPTS)
def test_prompts_that_are_the_same(first: str, second: str, is_same: bool) -> None:
    assert (normalise_prompt(first) == normalise_prompt(second)) is is_same


def test_videos_are_named_by_their_bytes(tmp_path: Path) -> None:
    contents = {
        "a": b"one",
        "copy of a": b"one",
        "b": b"two",
        "c": b"three",
        "empty": b"",
        "empty too": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    os.symlink(tmp_path / "a", tmp_path / "link")
    identity = identify_videos([*tmp_path.iterdir()])
    assert (
        identity[tmp_path / "a"] == identity[tmp_path / "copy of a"] == identity[tmp_path / "link"]
    )
    assert len(set(identity.values())) == 4
    with pytest.raises(ValueError, match=r"2 videos are missing.*check --video-root"):
        identify_videos([tmp_path / "x", tmp_path / "y", tmp_path / "a"])


def videos_of(samples: list[PreferenceSample]) -> set[str]:
    return {video for sample in samples for video in (sample.video_1, sample.video_2)}


samples_st = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.integers(0, 40),
        st.integers(41, 80),
        st.sampled_from([0, 1, 2, None]),
    ),
    min_size=8,
    max_size=60,
).map(lambda rows: [make(n, f"p{p}", f"{a}", f"{b}", o) for n, (p, a, b, o) in enumerate(rows)])


@settings(deadline=None)
@given(samples_st, st.integers(0, 3))
def test_parts_share_no_prompt_and_no_video(samples: list[PreferenceSample], seed: int) -> None:
    (keys,) = make_keys([(samples, None)], by_path=True)
    try:
        parts = split_samples(samples, keys, {"a": 0.5, "b": 0.3, "c": 0.2}, seed)
    except ValueError as error:
        assert "no group is left" in str(error)
        return
    assert sorted(sample.uid for part in parts.values() for sample in part) == sorted(
        sample.uid for sample in samples
    )
    for first, second in combinations(parts.values(), 2):
        assert not {sample.prompt for sample in first} & {sample.prompt for sample in second}
        assert not {v for s in first for v in (s.video_1, s.video_2)} & {
            v for s in second for v in (s.video_1, s.video_2)
        }
    assert parts == split_samples(samples, keys, {"a": 0.5, "b": 0.3, "c": 0.2}, seed)


def test_shares_and_class_balance() -> None:
    overall = [1] * 400 + [2] * 300 + [0] * 280 + [None] * 20
    samples = [
        make(n, f"prompt {n // 2}", f"{n}a", f"{n}b", label) for n, label in enumerate(overall)
    ]
    (keys,) = make_keys([(samples, None)], by_path=True)
    parts = split_samples(samples, keys, FRACTIONS)
    whole = Counter(overall)
    for name, part in parts.items():
        assert len(part) == pytest.approx(1000 * FRACTIONS[name], abs=4)
        labels = Counter(sample.labels["OA"] for sample in part)
        for label, count in whole.items():
            assert labels[label] == pytest.approx(count * FRACTIONS[name], abs=2), (name, label)
        assert {sample.split for sample in part} == {name}
    assert (
        parts
        == split_samples(samples, keys, FRACTIONS)
        != split_samples(samples, keys, FRACTIONS, seed=1)
    )


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Forty samples, and a benchmark into which a prompt, a copied video, and both at once are
    planted."""
    for n in range(40):
        for side in "ab":
            (tmp_path / f"{n}{side}.mp4").write_bytes(f"video {n:03d} {side}".encode())
    (tmp_path / "bench").mkdir()
    for name, content in {
        "copy.mp4": "video 007 b",
        "new.mp4": "video xxx x",
        "other.mp4": "another length",
    }.items():
        (tmp_path / "bench" / name).write_bytes(content.encode())
    samples = [make(n, f"Prompt number {n}.", f"{n}a.mp4", f"{n}b.mp4", n % 3) for n in range(40)]
    write_samples(tmp_path / "train.parquet", samples)
    planted = [
        make("e1", "PROMPT  number 3", "bench/new.mp4", "bench/other.mp4"),
        make("e2", "Something else", "bench/copy.mp4", "bench/new.mp4"),
        make("e3", "prompt number 11!", "11a.mp4", "bench/other.mp4"),
    ]
    write_samples(tmp_path / "bench.parquet", planted)
    write_samples(
        tmp_path / "clean.parquet",
        [make("c", "Nothing in common", "bench/new.mp4", "bench/other.mp4")],
    )
    return tmp_path


def test_against_finds_and_removes_what_was_planted(files: Path) -> None:
    bench, clean = files / "bench.parquet", files / "clean.parquet"
    result = run(
        files / "train.parquet",
        "--video-root",
        files,
        "--out",
        files,
        "--against",
        bench,
        "--against",
        clean,
    )
    assert result.exit_code == 0, result.output
    found = {
        overlap["uid"]: overlap for overlap in json.loads((files / "overlaps.json").read_text())
    }
    assert {uid: overlap["shared"] for uid, overlap in found.items()} == {
        "3": ["prompt"],
        "7": ["video"],
        "11": ["prompt", "video"],
    }
    assert [found[uid]["against_uid"] for uid in ("3", "7", "11")] == ["e1", "e2", "e3"]
    assert "1 share prompt" in result.output and "3 removed" in result.output
    assert f"against {clean}: no overlap" in result.output.replace("\n", "")
    parts = {name: read_samples(files / f"{name}.parquet") for name in FRACTIONS}
    left = [sample.uid for part in parts.values() for sample in part]
    assert sorted(left) == sorted(set(map(str, range(40))) - {"3", "7", "11"})


def test_by_path_misses_copies_and_says_so(files: Path) -> None:
    arguments = (
        files / "train.parquet",
        "--out",
        files,
        "--against",
        files / "bench.parquet",
        "--by-path",
    )
    result = run(*arguments)
    assert result.exit_code == 0 and "compared by name only" in result.output
    assert [each["uid"] for each in json.loads((files / "overlaps.json").read_text())] == [
        "3",
        "11",
    ]


def test_by_path_compares_names_below_any_folder() -> None:
    ours = [make("a", "One", "videos/x.mkv", "videos/y.mkv")]
    theirs = [make("b", "Two", "/data/x/videos/x.mkv", "/data/x/videos/z.mkv")]
    others = [make("c", "Three", "kling/x.mkv", "wan/x.mkv")]
    keys = make_keys([(ours, None), (theirs, None), (others, None)], by_path=True)
    (overlap,) = find_overlaps(ours, keys[0], "them", theirs, keys[1])
    assert (overlap.against_uid, overlap.shared) == ("b", ("video",))
    assert not find_overlaps(ours, keys[0], "others", others, keys[2])


def test_same_seed_same_bytes(files: Path) -> None:
    contents = set()
    for out in ("one", "two"):
        run(files / "train.parquet", "--video-root", files, "--out", files / out, "--seed", 5)
        contents.add(tuple((files / out / f"{name}.parquet").read_bytes() for name in FRACTIONS))
    assert len(contents) == 1


def test_both_orders_of_a_part(files: Path) -> None:
    meta = {"model_1": "a", "model_2": "b", "defects_1": [], "defects_2": ["snow"], "cue": 3}
    samples = [replace(sample, meta=meta) for sample in read_samples(files / "train.parquet")]
    write_samples(files / "train.parquet", samples)
    common = [files / "train.parquet", "--video-root", files]
    run(*common, "--out", files / "plain")
    result = run(
        *common, "--out", files / "both", "--both-orders", "validation", "--both-orders", "rft"
    )
    assert result.exit_code == 0, result.output
    for name in FRACTIONS:
        plain, both = (read_samples(files / out / f"{name}.parquet") for out in ("plain", "both"))
        if name not in ("validation", "rft"):
            assert both == plain
            continue
        assert both[::2] == plain and len({sample.uid for sample in both}) == len(both)
        for sample, swapped in zip(both[::2], both[1::2], strict=True):
            assert swapped.uid == f"{sample.uid}-swapped" and swapped.split == name
            assert (swapped.video_1, swapped.video_2) == (sample.video_2, sample.video_1)
            assert swapped.labels == {
                key: {0: 0, 1: 2, 2: 1}[label] for key, label in sample.labels.items()
            }
            assert swapped.meta == {
                "model_1": "b",
                "model_2": "a",
                "defects_1": ["snow"],
                "defects_2": [],
                "cue": 3,
            }
            assert replace(swap_videos(swapped), uid=sample.uid) == sample


MISTAKES = [
    (["--fractions", "a=.5"], "must add up to 1, got 0.5"),
    (["--fractions", "a=.5,a=.5"], "names that differ, got 'a=.5'"),
    (["--fractions", "a=0,b=1"], "got 'a=0'"),
    (["--fractions", "../a=1"], "got '../a=1'"),
    (
        ["--both-orders", "test"],
        "names no part: test; the parts are cold_start, rft, grpo, validation",
    ),
    (
        ["--by-path", "--fractions", "a=1,b=40"],
        "asks for 40 samples by number, and only 40 are there",
    ),
    (["--against", "nowhere.parquet"], "no such file: 'nowhere.parquet'"),
    (["--against", "x.parquet", "--against", "x.parquet"], "x.parquet more than once"),
    ([], "a video root is needed"),
    (["--video-root", "/nowhere"], "80 videos are missing"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[row[1] for row in MISTAKES])
def test_mistakes_are_one_line(arguments: list[str], message: str, files: Path) -> None:
    result = run(files / "train.parquet", "--out", files / "out", *arguments)
    assert result.exit_code == 2 and message in " ".join(result.output.split())
    assert not (files / "out").exists()


def test_parts_of_another_split_are_not_left_beside_the_new_ones(files: Path) -> None:
    common = [files / "train.parquet", "--by-path", "--out", files / "out", "--fractions"]
    assert run(*common, "a=.5,b=.5").exit_code == 0
    assert run(*common, "a=.4,b=.6").exit_code == 0
    other = run(*common, "a=.5,c=.5")
    assert other.exit_code == 2 and "holds b.parquet of another split" in other.output
    assert not (files / "out/c.parquet").exists()
    (files / "out/b.parquet").unlink()
    assert run(*common, "a=.5,c=.5").exit_code == 0


def test_too_few_groups_are_refused(files: Path) -> None:
    write_samples(
        files / "one.parquet", [make(n, "one prompt", f"{n}a.mp4", f"{n}b.mp4") for n in range(40)]
    )
    result = run(files / "one.parquet", "--video-root", files, "--out", files / "out")
    assert result.exit_code == 2 and "40 samples in 1 groups" in result.output


def test_fractions_of_one_part() -> None:
    assert parse_fractions("all=1") == Parts({"all": 1.0}, {})


def test_a_part_may_be_a_number_of_samples(files: Path) -> None:
    """Validation is drawn once and no larger than asked, however large the set is."""
    arguments = [files / "train.parquet", "--video-root", files, "--seed", 3]
    arguments += ["--fractions", "cold_start=.5,grpo=.5,validation=6"]
    result = run(*arguments, "--both-orders", "validation", "--out", files / "one")
    assert result.exit_code == 0, result.output
    run(*arguments, "--both-orders", "validation", "--out", files / "two")
    parts = {
        name: read_samples(files / "one" / f"{name}.parquet")
        for name in ("cold_start", "grpo", "validation")
    }
    assert len(parts["validation"]) == 12 and len(parts["cold_start"] + parts["grpo"]) == 34
    assert parts["validation"] == read_samples(files / "two/validation.parquet")


def test_samples_above_the_number_are_left_out_and_told(files: Path) -> None:
    grouped = [make(n, f"prompt {n // 10}", f"{n}a.mp4", f"{n}b.mp4") for n in range(40)]
    write_samples(files / "train.parquet", grouped)
    arguments = ["--video-root", files, "--fractions", "grpo=1,validation=6"]
    result = run(files / "train.parquet", "--out", files / "out", *arguments)
    assert result.exit_code == 0, result.output
    assert "validation: 4 samples above its number were left out" in result.output
    assert len(read_samples(files / "out/validation.parquet")) == 6
    assert len(read_samples(files / "out/grpo.parquet")) == 30


def test_each_benchmark_has_its_own_folder(files: Path, tmp_path: Path) -> None:
    arguments = [files / "train.parquet", "--video-root", files, "--out", files / "out"]
    for name in ("bench", "clean"):
        arguments += ["--against", files / f"{name}.parquet"]
    roots = [["--against-root", root] for root in (files, tmp_path / "nowhere")]
    assert run(*arguments, *roots[0], *roots[0]).exit_code == 0
    wrong = run(*arguments, *roots[0], *roots[1])
    assert wrong.exit_code == 2 and "2 videos are missing" in wrong.output
    three = run(*arguments, *roots[0], *roots[0], *roots[0])
    assert three.exit_code == 2 and "got 3 for 2 benchmarks" in " ".join(three.output.split())
