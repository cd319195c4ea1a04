"""The row contract: what is written is read back, everywhere, and a bad row says what is wrong."""

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_videosearch.judgement import Dimension
from verl_videosearch.sample import (
    SCHEMA,
    PreferenceSample,
    from_row,
    read_samples,
    swap_videos,
    to_row,
    write_samples,
)

LABELS = {"TA": 0, "VQ": 1, "MQ": None, "OA": 2}
SAMPLE = PreferenceSample(
    "u1", "A cat.", "a/1.mp4", "a/2.mp4", LABELS, source="set", split="test", meta={"fps_1": 24.0}
)

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
labels_st = st.sampled_from([0, 1, 2, None])
keys_st = st.lists(
    st.from_regex(r"[A-Z][A-Z0-9]{0,7}", fullmatch=True), min_size=1, max_size=4, unique=True
).filter(lambda keys: not {"OA", "CF"} & set(keys))
json_st = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**50), 2**50)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)
names_st = st.text(max_size=5) | st.sampled_from(
    ["fps_1", "fps_2", "defects_1", "model_2", "_1", "_2"]
)


@st.composite
def samples_st(draw: st.DrawFn) -> PreferenceSample:
    keys = draw(keys_st)
    paths = texts.filter(lambda path: "://" not in path and "\0" not in path)
    return PreferenceSample(
        uid=draw(texts),
        prompt=draw(texts),
        video_1=draw(paths),
        video_2=draw(paths),
        labels={key: draw(labels_st) for key in [*keys, "OA"]},
        dimensions=tuple(Dimension(key, draw(texts), draw(texts)) for key in keys),
        source=draw(texts),
        split=draw(texts),
        meta=draw(st.dictionaries(names_st, json_st, max_size=4)),
    )


@given(samples_st())
def test_row_round_trip(sample: PreferenceSample) -> None:
    assert from_row(to_row(sample)) == sample
    assert set(to_row(sample)) == set(SCHEMA.names)


@settings(deadline=None, max_examples=30)
@given(st.lists(samples_st(), max_size=5, unique_by=lambda sample: sample.uid))
def test_file_round_trip(samples: list[PreferenceSample]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "deep", "s.parquet")
        assert write_samples(path, samples) == len(samples)
        assert read_samples(path) == samples
        assert [file.name for file in path.parent.iterdir()] == ["s.parquet"], (
            "no partial file is left"
        )


@given(samples_st())
def test_swapping_twice_is_identity(sample: PreferenceSample) -> None:
    assert swap_videos(swap_videos(sample)) == sample


def test_swap_moves_everything_that_belongs_to_a_video() -> None:
    meta = {"fps_1": 24.0, "fps_2": 30.0, "defects_1": ["x"], "seed": 7, "cue": {"first_index": 1}}
    swapped = swap_videos(replace(SAMPLE, meta=meta))
    assert (swapped.video_1, swapped.video_2) == ("a/2.mp4", "a/1.mp4")
    assert dict(swapped.labels) == {"TA": 0, "VQ": 2, "MQ": None, "OA": 1}
    assert swapped.meta == {
        "fps_2": 24.0,
        "fps_1": 30.0,
        "defects_2": ["x"],
        "seed": 7,
        "cue": {"first_index": 1},
    }
    assert (swapped.uid, swapped.prompt, swapped.dimensions) == (
        SAMPLE.uid,
        SAMPLE.prompt,
        SAMPLE.dimensions,
    )


def test_row_columns() -> None:
    row = to_row(SAMPLE)
    assert (
        row["prompt"] == [{"role": "user", "content": "A cat."}]
        and row["agent_name"] == "videosearch"
    )
    assert row["reward_model"] == {"style": "rule", "ground_truth": json.dumps(LABELS)}
    assert [dimension["label"] for dimension in row["dimensions"]] == [0, 1, None] and row[
        "overall_label"
    ] == 2


BAD_ROWS = [
    ({"video_1": ""}, "video_1 must be a local path, got ''"),
    ({"video_2": "https://host/x.mp4"}, "video_2 must be a local path"),
    ({"overall_label": 3}, "overall_label must be 0, 1, 2 or null, got 3"),
    ({"overall_label": 0.6}, "overall_label must be 0, 1, 2 or null, got 0.6"),
    ({"overall_label": 2.99}, "got 2.99"),
    ({"overall_label": -0.5}, "got -0.5"),
    ({"overall_label": True}, "got True"),
    ({"overall_label": "1"}, "got '1'"),
    ({"overall_label": float("inf")}, "got inf"),
    ({"overall_label": 1}, "OA is 1 in the row and 2 in ground_truth"),
    ({"reward_model": {"style": "rule", "ground_truth": "{"}}, "ground_truth must be a JSON"),
    ({"reward_model": {"ground_truth": '{"OA": 2}'}}, "VQ is 1 in the row and None in ground"),
    ({"reward_model": "rule"}, "reward_model must be {style, ground_truth}, got 'rule'"),
    ({"prompt": None}, "prompt must be a list of one {role, content}, got None"),
    ({"prompt": []}, "got 0"),
    ({"prompt": [None]}, "got None in it"),
    ({"prompt": [{"role": "user", "content": None}]}, "prompt's content must be text, got None"),
    ({"prompt": 2 * [{"role": "user", "content": "a"}]}, "one {role, content}, got 2"),
    ({"prompt": "a cat"}, "got 'a cat'"),
    ({"dimensions": None}, "dimensions must be a list"),
    ({"dimensions": [None]}, "got None in it"),
    ({"dimensions": [{"key": "TA"}]}, "a dimension lacks ['name', 'explanation', 'label']"),
    ({"meta": "{"}, "meta must be a JSON object"),
    ({"meta": "[1]"}, "meta must be a JSON object, got '[1]'"),
    ({"meta": '{"a": 1, "a": 2}'}, "the names ['a'] more than once"),
    ({"meta": {"a": 1}}, "meta must be text"),
    ({"video_1": None}, "video_1 must be text, got None"),
    ({"video_1": "a\0b"}, "video_1 must be a local path"),
    ({"sample_uid": 7}, "sample_uid must be text, got 7"),
    ({"split": 1}, "split must be text, got 1"),
    ({"sample_uid": ""}, "uid is empty"),
    ({"dimensions": [{"key": "oa", "name": "", "explanation": "", "label": 0}]}, "capital letters"),
]


@pytest.mark.parametrize(("change", "message"), BAD_ROWS, ids=[row[1] for row in BAD_ROWS])
def test_bad_row_says_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as raised:
        from_row({**to_row(SAMPLE), **change})
    assert message in str(raised.value)


def test_repeated_dimension_is_refused() -> None:
    row = to_row(SAMPLE)
    row["dimensions"][1]["key"] = "TA"
    with pytest.raises(ValueError, match="sample 'u1': dimension TA stands there more than once"):
        from_row(row)
    with pytest.raises(ValueError, match="dimension TA stands there more than once"):
        replace(SAMPLE, dimensions=(*SAMPLE.dimensions, SAMPLE.dimensions[0]))


def test_labels_of_pandas_are_read_as_whole_numbers(tmp_path: Path) -> None:
    row = to_row(SAMPLE) | {"overall_label": 2.0}
    row["dimensions"] = [d | {"label": d["label"] and float(d["label"])} for d in row["dimensions"]]
    row["dimensions"][2]["label"] = float("nan")
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "floats.parquet")
    [sample] = read_samples(tmp_path / "floats.parquet")
    assert sample == SAMPLE and all(type(each) is not float for each in sample.labels.values())


ODD_VALUES = [None, 7, 0.6, True, "", "x", b"x", [], [None], [1], ["x"], {"a": 1}, [{"a": None}]]


@pytest.mark.parametrize("name", SCHEMA.names)
def test_malformed_file_is_one_line_that_names_the_row(name: str, tmp_path: Path) -> None:
    """Every column gets every odd value: the file is read, or one line says which row is bad."""
    path = tmp_path / "odd.parquet"
    for value in ODD_VALUES:
        rows = [to_row(SAMPLE), to_row(replace(SAMPLE, uid="u2"))]
        for row in rows:
            row[name] = value
        pq.write_table(pa.Table.from_pylist(rows), path)
        try:
            read_samples(path)
        except ValueError as error:
            assert re.match(rf"{path}, row [12]: .+$", str(error)) and "\n" not in str(error)
        else:
            assert name not in ("prompt", "video_1", "video_2") or value in ("", "x")


def test_a_repeated_uid_is_refused(tmp_path: Path) -> None:
    write_samples(tmp_path / "s.parquet", [SAMPLE, replace(SAMPLE, uid="u2"), SAMPLE])
    with pytest.raises(ValueError, match=r"s.parquet, row 3: sample_uid 'u1' is that of row 1"):
        read_samples(tmp_path / "s.parquet")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"path_a,path_b\n", b"PAR1" + 50 * b"\0"])
def test_what_is_no_parquet_file_is_said_to_be_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.parquet").write_bytes(content)
    with pytest.raises(ValueError, match="s.parquet is no readable parquet file: "):
        read_samples(tmp_path / "s.parquet")


@pytest.mark.parametrize("place", [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.6, 0.65, 0.7, 0.9])
def test_a_damaged_file_names_itself_in_one_line(place: float, tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    write_samples(path, [SAMPLE])
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0xFF
    path.write_bytes(content)
    try:
        assert read_samples(path) == [SAMPLE]
    except ValueError as error:
        assert "s.parquet" in str(error) and str(error).isprintable()


def test_all_mistakes_at_once() -> None:
    with pytest.raises(ValueError) as raised:
        PreferenceSample("", "p", "", "x://y", {"TA": True, "OA": 1})
    for words in (
        "uid is empty",
        "video_1 must be",
        "video_2 must be",
        "labels must have the keys",
        "got True",
    ):
        assert words in str(raised.value)


def test_missing_columns_are_all_named() -> None:
    row = to_row(SAMPLE)
    del row["video_1"], row["overall_label"]
    with pytest.raises(
        ValueError, match=r"row 'u1' lacks the columns \['video_1', 'overall_label'\]"
    ):
        from_row(row)
    minimal = {
        name: to_row(SAMPLE)[name]
        for name in SCHEMA.names
        if name not in ("data_source", "split", "meta")
    }
    assert from_row(minimal) == replace(SAMPLE, source="unknown", split="train", meta={})


def test_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data_prep.build"):
        read_samples(tmp_path / "none.parquet")


OUTSIDE = ["../x.mp4", "a/../../x.mp4", "a/b/../../../x.mp4"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_paths_stay_below_the_root(path: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leads out of the video root"):
        replace(SAMPLE, video_2=path).resolve_videos(tmp_path)


def test_paths_that_are_fine(tmp_path: Path) -> None:
    first, second = replace(SAMPLE, video_1="a/../b.mp4", video_2="/data/x.mp4").resolve_videos(
        tmp_path
    )
    assert (first, second) == (tmp_path.resolve() / "b.mp4", Path("/data/x.mp4"))
    with pytest.raises(ValueError, match="a video root is needed"):
        SAMPLE.resolve_videos(None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "s.parquet"
    write_samples(
        path, [SAMPLE, swap_videos(replace(SAMPLE, uid="u2", labels={**LABELS, "OA": None}))]
    )
    return path


def test_datasets_and_pandas_read_the_same_rows(file: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    expected = read_samples(file)
    loaded = datasets.load_dataset(
        "parquet", data_files=str(file), cache_dir=str(tmp_path / "cache")
    )["train"]
    assert [from_row(row) for row in loaded] == expected
    loaded.to_parquet(str(tmp_path / "again.parquet"))
    assert read_samples(tmp_path / "again.parquet") == expected
    assert [from_row(row) for row in pq.read_table(file).to_pandas().to_dict("records")] == expected


def test_verl_reads_the_file_as_it_is(file: Path, tmp_path: Path) -> None:
    """The class that verl's trainer uses, with the settings of a trainer."""
    rl_dataset = pytest.importorskip("verl.utils.dataset.rl_dataset")
    from omegaconf import OmegaConf

    config = OmegaConf.create(
        {"cache_dir": str(tmp_path / "verl"), "filter_overlong_prompts": False}
    )
    dataset = rl_dataset.RLHFDataset([str(file)], tokenizer=None, config=config)
    rows = [dataset[index] for index in range(len(dataset))]
    assert [from_row(row) for row in rows] == read_samples(file)
    assert list(rows[0]["raw_prompt"]) == [{"role": "user", "content": "A cat."}]
    assert rows[0]["agent_name"] == "videosearch" and rows[0]["data_source"] == "set"
    batch = rl_dataset.collate_fn(rows)
    assert list(batch["sample_uid"]) == ["u1", "u2"] and batch["reward_model"][0]["style"] == "rule"
