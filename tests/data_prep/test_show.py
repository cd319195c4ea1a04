"""The page of samples: complete in itself, numbered as an episode numbers, marked where the truth
says."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result
from verl_videosearch.data_prep import show
from verl_videosearch.data_prep.show import View, make_page

from tests.clips import grey_frames, write_clip
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.sample import PreferenceSample, write_samples

APP = typer.Typer()
APP.command()(show.main)
DEFECT = {
    "dimension": "VQ",
    "type": "snow",
    "severity": 2,
    "first_index": 5,
    "num_frames": 3,
    "is_hidden": True,
}
META = {
    "defects_1": [],
    "defects_2": [DEFECT],
    "cue": {"first_index": 4, "num_frames": 2},
    "pair_type": "hidden",
}


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(APP, [str(each) for each in arguments])


@pytest.fixture
def sample(tmp_path: Path) -> PreferenceSample:
    write_clip(tmp_path / "1.mkv", grey_frames(12))
    write_clip(tmp_path / "2.mkv", grey_frames(12))
    labels = {"TA": 0, "VQ": 1, "MQ": None, "OA": 1}
    return PreferenceSample(
        "uid/1", "A <script>cat</script> & dog", "1.mkv", "2.mkv", labels, meta=META
    )


class Figures(HTMLParser):
    """Collects (classes, number) of every frame, and every address that the page names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.figures: list[tuple[str, str]] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self._classes = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.tags.append(tag)
        self.addresses += [values[name] for name in ("src", "href", "action") if name in values]
        if tag == "figure":
            self._classes = values["class"]
        elif tag == "img":
            self.figures.append((self._classes, values["alt"].removeprefix("frame ")))


def test_frames_are_numbered_and_marked_as_the_truth_says(
    sample: PreferenceSample, tmp_path: Path
) -> None:
    page = Figures(make_page([sample], tmp_path, View(frames_per_video=12, initial_frames=3), "t"))
    assert [number for _, number in page.figures] == [str(number) for number in range(1, 25)]
    marked = {int(number): classes for classes, number in page.figures if classes}
    assert {number for number, classes in marked.items() if "first" in classes} == set(
        CandidateFrames((0.0,) * 12, (0.0,) * 12).initial_view(3)
    )
    assert {number for number, classes in marked.items() if "defect" in classes} == {18, 19, 20}
    assert {number for number, classes in marked.items() if "cue" in classes} == {5, 6, 17, 18}


def test_spans_are_indices_of_the_file_not_of_the_candidates(
    sample: PreferenceSample, tmp_path: Path
) -> None:
    page = Figures(make_page([sample], tmp_path, View(frames_per_video=4, initial_frames=1), "t"))
    assert [number for classes, number in page.figures if "defect" in classes] == ["7"], (
        "index 6 is candidate 3 of 4"
    )


def test_page_is_complete_in_itself_and_escapes(sample: PreferenceSample, tmp_path: Path) -> None:
    html = make_page([sample], tmp_path, View(), "<title>")
    page = Figures(html)
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert not re.search(r"https?://|url\(|@import", html) and not {
        "script",
        "link",
        "iframe",
    } & set(page.tags)
    assert "A &lt;script&gt;cat&lt;/script&gt; &amp; dog" in html
    for words in (
        "uid/1",
        "video 1",
        "tie",
        "not judged",
        "VQ: snow, severity 2, frame indices 5 to 7",
        "0.44 s",
    ):
        assert words in html


def test_broken_video_is_named_in_place(sample: PreferenceSample, tmp_path: Path) -> None:
    (tmp_path / "1.mkv").unlink()
    html = make_page([sample], tmp_path, View(), "t")
    assert "missing: no such file" in html and len(Figures(html).figures) == 12


def test_program(sample: PreferenceSample, tmp_path: Path) -> None:
    file, out = tmp_path / "s.parquet", tmp_path / "pages" / "page.html"
    write_samples(file, [replace(sample, uid=f"uid/{n}") for n in range(9)])
    result = run(file, "--n", 2, "--out", out, "--frames-per-video", 4)
    assert result.exit_code == 0, result.output
    assert out.read_text().count("<article>") == 2 and "2 of 9 samples" in out.read_text()
    run(file, "--uid", "uid/7", "--out", out)
    assert "uid/7" in out.read_text() and out.read_text().count("<article>") == 1
    result = run(file, "--uid", "nope", "--out", out)
    assert result.exit_code == 2 and "has no sample ['nope']" in result.output
    assert run(tmp_path / "none.parquet").exit_code == 2
