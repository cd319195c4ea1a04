"""Every reader on rows in the exact published schema, good and bad, and on the real label files
where they are.

The real files do not belong to this project: $VIDEOSEARCH_REAL_LABELS names their folder. Without
it these tests are skipped; in continuous integration that is a failure.
"""

import csv
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_videosearch.judgement import OVERALL
from verl_videosearch.sample import SCHEMA, PreferenceSample, from_row, to_row
from verl_videosearch.sources import SOURCES
from verl_videosearch.sources.fields import read_video
from verl_videosearch.sources.read import read_samples_of, to_sample
from verl_videosearch.sources.source import (
    BadRow,
    DropReason,
    PairTable,
    RatingTable,
    ReadOptions,
    ReadReport,
    SourceError,
)
from verl_videosearch.sources.tables import find_files, read_rows
from verl_videosearch.sources.video_finder import VideoFinder
from verl_videosearch.sources.videogen_reward import BENCHMARK_COLUMNS


def real_labels(name: str) -> Path:
    folder = os.environ.get("VIDEOSEARCH_REAL_LABELS")
    if not folder and not os.environ.get("CI"):
        pytest.skip("VIDEOSEARCH_REAL_LABELS names no folder with the public label files")
    path = Path(folder or "VIDEOSEARCH_REAL_LABELS is unset") / name
    assert path.exists(), f"{path} is missing"
    return path


def read(
    name: str, root: Path, split: str | None = None, **options: Any
) -> tuple[list[PreferenceSample], ReadReport]:
    """Read a split without its videos."""
    source, report = SOURCES[name], ReadReport()
    finder = VideoFinder(root, source.video_folders)
    chosen = split or next(iter(source.splits))
    samples = read_samples_of(
        source, chosen, root, finder, ReadOptions(**options), report, keep_missing=True
    )
    return list(samples), report


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows in the format of the suffix; returns the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), "utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path.parent


def count(samples: Sequence[PreferenceSample], key: str) -> dict[int | None, int]:
    return dict(Counter(sample.labels[key] for sample in samples))


def test_genai_bench_real_file() -> None:
    samples, report = read("genai_bench", real_labels("genai_bench_video"))
    assert (report.num_read, len(samples), len({sample.uid for sample in samples})) == (
        1889,
        1889,
        1889,
    )
    votes = Counter(sample.meta["raw_labels"][OVERALL] for sample in samples)
    assert votes == {"leftvote": 619, "rightvote": 651, "tievote": 215, "bothbad_vote": 404}
    assert count(samples, OVERALL) == {1: 619, 2: 651, 0: 619} and count(samples, "TA") == {
        None: 1889
    }
    assert samples[0].prompt == "A polar bear is playing guitar" and samples[0].labels[OVERALL] == 2
    assert (
        samples[0].video_1 == "86aa85eec53c4b1293ef632e6183fe93.mp4" and len(report.missing) == 3778
    )


def test_mj_bench_video_real_file() -> None:
    samples, report = read("mj_bench_video", real_labels("mj_bench_video"), "test")
    assert (report.num_read, len(samples)) == (1085, 1085)
    assert count(samples, OVERALL) == {0: 959, 1: 72, 2: 46, None: 8}
    assert sum(sample.labels[OVERALL] in (1, 2) for sample in samples) == 118
    assert count(samples, "TA") == {0: 914, 1: 99, 2: 66, None: 6}
    assert count(samples, "VQ") == {0: 1002, 1: 34, 2: 42, None: 7}
    assert count(samples, "MQ") == {0: 936, 1: 80, 2: 66, None: 3}
    assert (
        samples[0].video_1 == "test/0_0.mp4"
        and samples[0].dimensions[2].name == "Coherence & Consistency"
    )
    assert samples[0].meta["safety"] == "Same" and samples[0].meta["total_score_2"] == 1


def test_videogen_reward_real_file() -> None:
    samples, report = read("videogen_reward", real_labels("videogen_reward"))
    assert (report.num_read, len(samples)) == (12, 12)
    assert [dict(sample.labels) for sample in samples[:3]] == [
        {"TA": 1, "VQ": 2, "MQ": 2, "OA": 2},
        {"TA": 1, "VQ": 0, "MQ": 0, "OA": 1},
        {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1},
    ]
    assert samples[0].video_2 == "videos/example_1_B.mp4" and samples[0].meta["overall_is_derived"]
    assert (samples[2].meta["fps_1"], samples[2].meta["num_frames_2"]) == (24.0, 60.0)


BENCH_ROW = {
    "path_A": "videos/kling1.5/kling1.5_00103.mp4",
    "path_B": "videos/minimax/minimax_00103.mp4",
    "A_model": "kling1.5",
    "B_model": "minimax",
    "prompt": "Static camera, a metal ball rolls on a smooth tabletop.",
    "VQ": "A",
    "MQ": "same",
    "TA": "B",
    "Overall": "A",
    "fps_A": "24.0",
    "num_frames_A": "126.0",
    "fps_B": "",
    "num_frames_B": "nan",
}
MJ_ROW = {
    "caption": "A cat.",
    "video_0_path": "train/0_0.mp4",
    "video_1_path": "train/0_1.mp4",
    "category_preference": {
        "Alignment": "Video 1 Better",
        "Fineness": "Same",
        "Coherence & Consistency": "Hard to judge",
    },
    "overall_preference": "Video 2 better",
    "discard": False,
}
GENAI_ROW = {
    "prompt": "A cat.",
    "left_model": "a",
    "left_video": "https://huggingface.co/datasets/x/y/blob/main/dir/1a.mp4",
    "right_model": "b",
    "right_video": "https://huggingface.co/datasets/x/y/blob/main/dir/2b.mp4",
    "vote_type": "bothbad_vote",
}
RAPIDATA_ROW = {
    "prompt": "A cat.",
    "file_name1": "sora/1.mp4",
    "file_name2": "hunyuan/1.mp4",
    **{"weighted_results1_Alignment": 0.7, "weighted_results2_Alignment": 0.3},
    **{"weighted_results1_Preference": 0.5, "weighted_results2_Preference": 0.5},
    **{"weighted_results1_Coherence": 0.4, "weighted_results2_Coherence": 0.6},
    "prompt_asset": b"\x89PNG",
}
FEEDBACK_ROW = {
    "id": "0000123",
    "images": ["0000123/0.jpg"],
    "text prompt": "A cat.",
    "video link": "https://host/annotated/0000123.mp4",
    "visual quality": 3,
    "temporal consistency": 2,
    "dynamic degree": 4,
    "text-to-video alignment": 4,
    "factual consistency": 1,
    "conversations": [{"from": "human", "value": "?"}],
}
ANNOTATION = {
    **{
        "alignment": 5,
        "composition": 3,
        "focus": 3,
        "camera movement": 1,
        "color": 5,
        "lighting accurate": 4,
    },
    **{
        "lighting aes": 5,
        "shape at beginning": 3,
        "shape throughout": 4,
        "object motion dynamic": 1,
    },
    **{"camera motion dynamic": 1, "movement smoothness": 4, "movement reality": 4, "clear": 5},
    **{
        "image quality stability": 5,
        "camera stability": 3,
        "detail refinement": 5,
        "letters": 1,
        "physics law": 5,
    },
    **{"unsafe type": 1, "safety": 5},
}
VISION_ROW = {
    "video_path": "videos/a.mp4",
    "internal_id": "a",
    "prompt": "A cat.",
    "url": "https://host/a.mp4",
    "annotation": ANNOTATION,
    "meta_result": [1],
    "meta_mask": [1],
}
VISION_PAIR = {
    "internal_id": "a",
    "prompt": "A cat.",
    "standard_answer": "Video 2",
    "video1_path": "1.mp4",
    "video2_path": "2.mp4",
}
ASKED = {"TA": "semantic consistency issues", "VQ": "fidelity issues", "MQ": "motion issues"}


def lift_row(video: str, key: str, answer: str, caption: str = "A cat walks.") -> dict[str, Any]:
    question = f"<video>\n {caption} Please identify the {ASKED[key]} in this video, and so on."
    return {
        "video": f"videos/{video}",
        "conversations": [
            {"from": "human", "value": question},
            {"from": "gpt", "value": f"{answer}. Because."},
        ],
    }


OWN_ROW = {
    "path_a": "1.mp4",
    "path_b": "2.mp4",
    "prompt": "A cat.",
    "TA": "A",
    "VQ": "",
    "OA": "tie",
    "model_a": "x",
}

REWARD_ROW = {key: BENCH_ROW[key] for key in BENCH_ROW if key not in BENCHMARK_COLUMNS}

# source, split, file, rows -> labels of the first sample
GOOD = [
    (
        "videogen_rewardbench",
        None,
        "videogen-rewardbench.csv",
        [BENCH_ROW],
        {"TA": 2, "VQ": 1, "MQ": 0, "OA": 1},
    ),
    ("videogen_reward", None, "train.csv", [REWARD_ROW], {"TA": 2, "VQ": 1, "MQ": 0, "OA": 0}),
    ("mj_bench_video", "train", "train.json", [MJ_ROW], {"TA": 1, "VQ": 0, "MQ": None, "OA": 2}),
    (
        "genai_bench",
        "test_v1",
        "video_generation/test_v1-00000-of-00001.parquet",
        [GENAI_ROW],
        {"TA": None, "VQ": None, "MQ": None, "OA": 0},
    ),
    (
        "rapidata",
        None,
        "data/train-00000-of-00001.parquet",
        [RAPIDATA_ROW],
        {"TA": 1, "VQ": 0, "MQ": 2, "OA": 1},
    ),
    (
        "vision_reward_db",
        "test",
        "test/test-00000-of-00001.parquet",
        [VISION_PAIR],
        {"TA": None, "VQ": None, "MQ": None, "OA": 2},
    ),
    ("pairs_csv", None, "mine.csv", [OWN_ROW], {"TA": 1, "VQ": None, "MQ": None, "OA": 0}),
]


@pytest.mark.parametrize(
    ("name", "split", "file", "rows", "labels"), GOOD, ids=[row[0] for row in GOOD]
)
def test_published_schema(
    name: str, split: str | None, file: str, rows: list[dict], labels: dict, tmp_path: Path
) -> None:
    write_table(tmp_path / file, rows)
    samples, report = read(name, tmp_path, split)
    assert [dict(sample.labels) for sample in samples] == [labels] and not report.dropped
    assert from_row(to_row(samples[0])) == samples[0]
    assert (samples[0].source, samples[0].split) == (
        name,
        split or next(iter(SOURCES[name].splits)),
    )


@pytest.mark.parametrize("file", ["videogen-rewardbench.csv", "train.csv"])
def test_the_benchmark_is_not_read_as_training_pairs(file: str, tmp_path: Path) -> None:
    write_table(tmp_path / file, [BENCH_ROW])
    with pytest.raises(SourceError, match="another set's file; is it the right --source"):
        read("videogen_reward", tmp_path)


def test_details_that_are_kept(tmp_path: Path) -> None:
    (bench,), _ = read(
        "videogen_rewardbench",
        write_table(tmp_path / "b" / "videogen-rewardbench.csv", [BENCH_ROW]),
    )
    assert bench.meta == {
        **{"fps_1": 24.0, "num_frames_1": 126.0, "model_1": "kling1.5", "model_2": "minimax"},
        "raw_labels": {"TA": "B", "VQ": "A", "MQ": "same", "OA": "A"},
    }
    (genai,), _ = read(
        "genai_bench", write_table(tmp_path / "g" / "test-00000-of-00001.parquet", [GENAI_ROW])
    )
    assert (genai.video_1, genai.meta["url_1"]) == (
        "1a.mp4",
        "https://huggingface.co/datasets/x/y/resolve/main/dir/1a.mp4",
    )
    (own,), _ = read("pairs_csv", write_table(tmp_path / "o" / "mine.csv", [OWN_ROW]))
    assert own.meta["model_1"] == "x"


def test_rapidata_without_an_axis(tmp_path: Path) -> None:
    rows = [{key: value for key, value in RAPIDATA_ROW.items() if "Coherence" not in key}]
    (sample,), _ = read("rapidata", write_table(tmp_path / "benchmark.parquet", rows))
    assert dict(sample.labels) == {"TA": 1, "VQ": 0, "MQ": None, "OA": 1}
    (wide,), _ = read("rapidata", tmp_path, margin=0.4)
    assert dict(wide.labels) == {"TA": 0, "VQ": 0, "MQ": None, "OA": 0}


def test_lift_hra_merges_three_questions(tmp_path: Path) -> None:
    good, bad = (
        {"TA": "Good", "VQ": "Normal", "MQ": "Bad"},
        {"TA": "Bad", "VQ": "normal", "MQ": "Good"},
    )
    rows = [
        lift_row(name, key, word)
        for name, words in (("g", good), ("b", bad))
        for key, word in words.items()
    ]
    rows += [lift_row("only", "TA", "Good", "Alone."), lift_row("g", "TA", "Perhaps")]
    (sample,), report = read("lift_hra", write_table(tmp_path / "LiFT-HRA-data.json", rows))
    expected = {
        "videos/g": {"TA": 1, "VQ": 0, "MQ": 2, "OA": 0},
        "videos/b": {"TA": 2, "VQ": 0, "MQ": 1, "OA": 0},
    }
    assert dict(sample.labels) == expected[sample.video_1] and sample.prompt == "A cat walks."
    assert (report.num_read, dict(report.dropped)) == (
        8,
        {DropReason.UNPAIRED: 1, DropReason.NO_RATING: 1},
    )


def test_pointwise_sets_pair_within_a_prompt(tmp_path: Path) -> None:
    rows = [
        {**FEEDBACK_ROW, "id": str(n), "video link": f"{n}.mp4", "visual quality": n % 5}
        for n in range(12)
    ]
    write_table(tmp_path / "annotated" / "train-00000-of-00001.parquet", rows)
    samples, _ = read("video_feedback", tmp_path, max_pairs_per_prompt=30)
    assert len(samples) == 30
    for sample in samples:
        first, second = (int(Path(path).stem) % 5 for path in (sample.video_1, sample.video_2))
        assert sample.labels["VQ"] == (0 if first == second else 1 if first > second else 2)
        assert sample.labels["MQ"] == 0 and sample.meta["dynamic_degree_1"] == 4
    verdicts = count(samples, "VQ")
    assert verdicts[1] > 3 < verdicts[2], "the better video must not always come first"
    assert samples == read("video_feedback", tmp_path, max_pairs_per_prompt=30)[0]
    assert samples != read("video_feedback", tmp_path, max_pairs_per_prompt=30, seed=1)[0]
    assert len(read("video_feedback", tmp_path)[0]) == 4


def test_vision_reward_db_scales_by_the_card(tmp_path: Path) -> None:
    worse = {
        **VISION_ROW,
        "video_path": "videos/b.mp4",
        "annotation": {**ANNOTATION, "alignment": 1, "clear": 4},
    }
    write_table(tmp_path / "train" / "train-00000-of-00001.parquet", [VISION_ROW, worse])
    (sample,), _ = read("vision_reward_db", tmp_path)
    best = 1 if sample.video_1 == "videos/a.mp4" else 2
    assert dict(sample.labels) == {"TA": best, "VQ": 0, "MQ": 0, "OA": best}, (
        "one step of eight ratings is a tie"
    )
    assert sample.meta[f"ratings_{best}"] == {"TA": 1.0, "VQ": 1.0, "MQ": 1.0}


def test_own_dimensions(tmp_path: Path) -> None:
    root = write_table(tmp_path / "mine.csv", [{**OWN_ROW, "FUN": "1"}])
    with pytest.raises(SourceError, match=r"column 'FUN' is none of the dimensions"):
        read("pairs_csv", root)


# what is done to a good row of MJ-Bench-Video -> why it is dropped
BAD = [
    ({"caption": "  "}, DropReason.NO_PROMPT),
    ({"caption": None}, DropReason.NO_PROMPT),
    ({"caption": "a\ud800b"}, DropReason.BAD_TEXT),
    ({"video_0_path": ""}, DropReason.NO_VIDEO),
    ({"video_0_path": 7}, DropReason.NO_VIDEO),
    ({"video_0_path": "a\0b"}, DropReason.NO_VIDEO),
    ({"video_0_path": "https://host/"}, DropReason.NO_VIDEO),
    ({"video_0_path": "http://[broken/x.mp4"}, DropReason.NO_VIDEO),
    ({"video_0_path": "../../etc/passwd"}, DropReason.OUTSIDE_ROOT),
    ({"video_0_path": "x/../../y.mp4"}, DropReason.OUTSIDE_ROOT),
    ({"video_0_path": "./train//0_1.mp4"}, DropReason.SAME_VIDEO),
    ({"category_preference": [], "overall_preference": {}}, DropReason.NO_LABEL),
    ({"discard": True}, DropReason.DISCARDED),
]


@pytest.mark.parametrize(("change", "reason"), BAD, ids=lambda value: str(value)[:40])
def test_bad_row_is_counted(change: dict, reason: DropReason, tmp_path: Path) -> None:
    root = write_table(tmp_path / "train.json", [MJ_ROW, {**MJ_ROW, **change}, MJ_ROW])
    samples, report = read("mj_bench_video", root, "train")
    assert [sample.uid[-6:] for sample in samples] == ["000001", "000003"]
    assert dict(report.dropped) == {reason: 1} and report.examples[reason].startswith("row 2")


def test_rows_that_are_no_objects(tmp_path: Path) -> None:
    root = write_table(tmp_path / "train.json", [MJ_ROW, 3, None, [], "x"])  # type: ignore[list-item]
    assert read("mj_bench_video", root, "train")[1].dropped == {DropReason.NOT_A_ROW: 4}


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters(), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=4,
)
PUBLISHED = [
    ("videogen_rewardbench", "eval", BENCH_ROW),
    ("genai_bench", "test", GENAI_ROW),
    ("mj_bench_video", "train", MJ_ROW),
    ("rapidata", "train", RAPIDATA_ROW),
    ("video_feedback", "train", FEEDBACK_ROW),
    ("vision_reward_db", "train", VISION_ROW),
    ("vision_reward_db", "test", VISION_PAIR),
    ("lift_hra", "train", lift_row("1", "TA", "Good")),
    ("pairs_csv", "train", OWN_ROW),
]


@settings(deadline=None, max_examples=400)
@given(st.data(), st.sampled_from(PUBLISHED))
def test_no_row_crashes_a_reader(data: st.DataObject, published: tuple[str, str, dict]) -> None:
    """Any value in any field gives a pair or a `BadRow`; in the user's own file a number or truth
    value that is no label may stop the reading."""
    name, split, good = published
    damaged = data.draw(st.sets(st.sampled_from(sorted(good)), min_size=1))
    row = {**good, **{field: data.draw(VALUES) for field in sorted(damaged)}}
    table = SOURCES[name].splits[split]
    try:
        if isinstance(table, RatingTable):
            assert table.to_rating(row).ratings
        else:
            assert isinstance(table, PairTable)
            sample = to_sample(table.to_pair(row, ReadOptions()), "uid", name, split)
            assert pa.Table.from_pylist([to_row(sample)], schema=SCHEMA).num_rows == 1
    except BadRow as problem:
        assert problem.reason in DropReason
    except SourceError as problem:
        assert name == "pairs_csv" and "allowed are" in str(problem)


@given(st.text(min_size=1))
def test_video_paths_stay_below_the_root(text: str) -> None:
    try:
        path = read_video({"path": text}, "path")
    except BadRow:
        return
    assert ".." not in path.split("/")[:1] and "://" not in path


WRONG_FILES = [
    ("test.json", b"[{", "cannot be read as .json"),
    ("test.json", b"\xff\xfe\x00", "line 1: not UTF-8"),
    ("test.json", b'{"a": 1}', "holds a dict, not a list"),
    ("test.json", b"[]", "holds no rows"),
    ("test.json", b'[{"a": 1}]', r"lacks the columns \['prompt', 'vote_type'\], it has \['a'\]"),
    ("test.json", b"[" * 100_000, "cannot be read as .json"),
    ("test-0.parquet", b"PAR1", "cannot be read as .parquet"),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG_FILES)
def test_wrong_file_is_one_clear_error(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read("genai_bench", tmp_path)


def test_wrong_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        read("genai_bench", tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"looked for data\.json, test\.json"):
        read("genai_bench", tmp_path)


def test_shards_and_files_by_name(tmp_path: Path) -> None:
    for shard in range(3):
        write_table(
            tmp_path / f"test-0000{shard}-of-00003.parquet", [{**GENAI_ROW, "prompt": str(shard)}]
        )
    files = find_files(tmp_path, ("data.json", "test-*.parquet"))
    assert [row["prompt"] for row in read_rows(files, ("prompt",))] == ["0", "1", "2"]
    assert find_files(files[1], ("data.json",)) == [files[1]]
    assert "prompt_asset" not in next(read_rows([_parquet_with_bytes(tmp_path)], ("prompt",)))


def _parquet_with_bytes(folder: Path) -> Path:
    write_table(folder / "bytes.parquet", [RAPIDATA_ROW])
    return folder / "bytes.parquet"
