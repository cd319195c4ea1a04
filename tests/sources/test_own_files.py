"""The user's own pairs: what is read is meant, and what is not read is said with row and value."""

from pathlib import Path

import pytest

from verl_videosearch.sample import PreferenceSample
from verl_videosearch.sources import SOURCES
from verl_videosearch.sources.read import read_samples_of
from verl_videosearch.sources.source import DropReason, ReadOptions, ReadReport, SourceError
from verl_videosearch.sources.video_finder import VideoFinder

HEAD = "path_a,path_b,prompt,"


def read_csv(
    folder: Path, content: str | bytes, **options: object
) -> tuple[list[PreferenceSample], ReadReport]:
    path, report = folder / "mine.csv", ReadReport()
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    finder = VideoFinder(folder, ("",))
    samples = read_samples_of(
        SOURCES["pairs_csv"],
        "train",
        path,
        finder,
        ReadOptions(**options),
        report,
        keep_missing=True,
    )
    return list(samples), report


def read_labels(folder: Path, header: str, *cells: str) -> list[dict[str, int | None]]:
    rows = "".join(f"{n}.mp4,{n + 1}.mp4,p,{cell}\n" for n, cell in enumerate(cells))
    return [dict(sample.labels) for sample in read_csv(folder, f"{HEAD}{header}\n{rows}")[0]]


@pytest.mark.parametrize(
    "cells",
    [
        ("1", "2", "0"),
        ("1.0", "2.0", "0.0"),
        ("A", "B", "tie"),
        ("left", "right", "same"),
        ("Video 1 better", "Video 2 Better", "both bad"),
    ],
)
@pytest.mark.parametrize("header", ["OA", "overall", "Overall", "oa", "overall_label", " OA "])
def test_overall_labels(header: str, cells: tuple[str, ...], tmp_path: Path) -> None:
    found = read_labels(tmp_path, header, *cells)
    assert [labels["OA"] for labels in found] == [1, 2, 0]


def test_dimensions_in_any_case(tmp_path: Path) -> None:
    [labels] = read_labels(tmp_path, "ta,Vq,MQ,overall", "1.0,B,,tie")
    assert labels == {"TA": 1, "VQ": 2, "MQ": None, "OA": 0}


REFUSED = {
    "OA\n1.mp4,2.mp4,p,0.6\n": "mine.csv, row 1: OA: 0.6 is a number but none of 0, 1, 2",
    "OA\n1.mp4,2.mp4,p,1\n1.mp4,2.mp4,p,True\n": "mine.csv, row 2: OA: True is a truth value",
    "OA\n1.mp4,2.mp4,p,2.99\n": "row 1: OA: 2.99 is a number",
    "OA\n1.mp4,2.mp4,p,good\n1.mp4,2.mp4,q,bad\n": "no label could be read from the words of OA",
    "TA,OA\n1.mp4,2.mp4,p,good,1\n": "no label could be read from the words of TA: 'good'",
    "OA,overall\n1.mp4,2.mp4,p,1,2\n": "columns 'OA' and 'overall' both mean OA",
    "OA,OA\n1.mp4,2.mp4,p,1,2\n": r"has the columns \['OA'\] more than once",
    "winner\n1.mp4,2.mp4,p,1\n": "column 'winner' looks like the overall label; call it OA",
    "TA,preference\n1.mp4,2.mp4,p,1,2\n": "column 'preference' looks like the overall label",
    "OA\n1.mp4,2.mp4,a cat, running,1\n": "line 2: 5 fields, but the first line names 4",
    'OA\n1.mp4,2.mp4,"a cat,1\n1.mp4,2.mp4,p,1\n': "line 2: .*a quote is not closed in the row",
    'OA\n1.mp4,2.mp4,p,1\n1.mp4,2.mp4,"a cat,1\n1.mp4,2.mp4,"p",1\n': "line 3: .*not closed",
    'OA\n1.mp4,2.mp4,"a cat,1\n1.mp4,2.mp4,p,1\n1.mp4,2.mp4,a 12",1\n': "line 2: a quote is not",
}


@pytest.mark.parametrize(("rest", "message"), REFUSED.items())
def test_doubtful_files_are_refused(rest: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=message) as raised:
        read_csv(tmp_path, HEAD + rest)
    assert "--source" not in str(raised.value) and "\n" not in str(raised.value)


BAD_FILES = {
    "path_a;path_b;prompt;OA\n1.mp4;2.mp4;p;1\n": "separated by ';': save it with commas",
    "a,b,prompt\n1,2,3\n": "its first line must name path_a, path_b, prompt",
    "": "holds no rows; a first line with names",
    "path_a,path_b,prompt,OA\n": "holds no rows",
    "path_a,path_b,prompt,OA\n1.mp4,2.mp4,caf\xe9,1\n".encode(
        "latin-1"
    ): "mine.csv, line 2: not UTF-8 .*save it as UTF-8",
    "path_a,path_b,prompt,OA\n1.mp4,2.mp4,p,1\n".encode("utf-16"): "save it as UTF-8",
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.items())
def test_messages_speak_of_the_own_file(content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=message) as raised:
        read_csv(tmp_path, content)
    assert "mine.csv" in str(raised.value) and "--source" not in str(raised.value)


def test_texts_of_several_lines_are_fine(tmp_path: Path) -> None:
    rows = '1.mp4,2.mp4,"a cat,\nruns, jumps,\nsays ""hi""",1\n'
    [sample], _ = read_csv(tmp_path, f"{HEAD}OA\n{rows}")
    assert sample.prompt == 'a cat,\nruns, jumps,\nsays "hi"' and sample.labels["OA"] == 1


def test_pairs_without_labels_are_kept_to_be_judged(tmp_path: Path) -> None:
    [sample], _ = read_csv(tmp_path, "path_a,path_b,prompt,model_a\n1.mp4,2.mp4,p,kling\n")
    assert not sample.is_labelled and "overall_is_derived" not in sample.meta
    content = f"{HEAD}OA\n1.mp4,2.mp4,p,\n3.mp4,4.mp4,q,1\n"
    [labelled], report = read_csv(tmp_path, content)
    assert labelled.labels["OA"] == 1 and report.dropped == {DropReason.NO_LABEL: 1}
    both, _ = read_csv(tmp_path, content, keeps_unlabelled=True)
    assert [sample.is_labelled for sample in both] == [False, True]
