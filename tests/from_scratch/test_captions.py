"""Captions: dialogues are driven like episodes, rows tell the truth about frames in the teacher's
words."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner, Result
from verl_videosearch.data_prep.captions import CAPTION_SCHEMA, CaptionConfig, PairCaptions, main
from verl_videosearch.data_prep.synthetic.defects import PAIRED

from tests.data_prep.test_teacher import TINY, judge, make_pairs
from tests.replies import call_frames
from verl_videosearch.episode import Episode, EpisodeConfig, Reply, images_of
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.from_scratch.captions import CaptionDialogue
from verl_videosearch.prompts import PromptStyle
from verl_videosearch.sample import PreferenceSample, from_row, write_samples
from verl_videosearch.video.lossless import write_lossless

CANDIDATES = CandidateFrames((0.0,) * 16, (0.0,) * 16)
CONFIG = EpisodeConfig(frames_per_video=16, max_frames_per_call=4, prompt_pack="brief")


def defect(type_name: str, first_index: int, num_frames: int, is_hidden: bool) -> dict:
    return {
        "type": type_name, "severity": 1, "first_index": first_index, "num_frames": num_frames,
        "is_hidden": is_hidden, "seed": 0, "colour": None, "dimension": "VQ",
    }  # fmt: skip


SAMPLE = PreferenceSample(
    "pair",
    "a cat",
    "1.mkv",
    "2.mkv",
    {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1},
    meta={
        "defects_1": [defect("lines", 0, 16, False)],
        "defects_2": [defect("snow", 5, 2, True), defect("flicker", 9, 3, True)],
        "cue": {"first_index": 5, "num_frames": 3},
    },
)
"""Index 4 has the cue; video 2 has snow on the frames 22 and 23, and flickers on 26 to 28."""
CAPTIONS = PairCaptions(SAMPLE, CANDIDATES, CONFIG)
RARE_NUMBERS = {5, 21, 22, 23}
"""The cue in both videos and the hidden snow; a single frame shows no flicker."""


@pytest.mark.parametrize(
    ("numbers", "caption"),
    [
        ([1], "lines"),
        ([5], "lines and marker"),
        ([21], "marker"),
        ([22], "snow"),
        ([23], "snow"),
        ([24], "clean"),
        ([26], "clean"),  # flicker shows only between neighbours
        ([2, 3, 18, 19], "<Snapshot>video 1 lines; video 2 clean</Snapshot>"),
        ([6, 7, 22, 23], "<Snapshot>video 1 lines; video 2 snow</Snapshot>"),
        ([7, 8, 23, 24], "<Snapshot>video 1 lines; video 2 snow on 23</Snapshot>"),
        ([10, 11, 26, 27], "<Snapshot>video 1 lines; video 2 flicker</Snapshot>"),
        (
            [12, 13, 28, 29],
            "<Snapshot>video 1 lines; video 2 clean</Snapshot>",
        ),  # one frame of the flicker
        (
            [5, 6, 21, 22],
            "<Snapshot>video 1 lines; video 2 snow on 22; marker on 5, 21, behind it 6, "
            "22</Snapshot>",
        ),
        (
            [22, 23, 26, 27],
            "<Snapshot>video 1 clean; video 2 snow on 22, 23 and flicker on 26, 27</Snapshot>",
        ),
    ],
)
def test_captions_are_true(numbers: list[int], caption: str) -> None:
    assert describe(CAPTIONS, numbers) == caption


def describe(captions: PairCaptions, numbers: Sequence[int]) -> str:
    """Return what a caption says about frames, without the verdict that follows from it."""
    if len(numbers) == 1:
        return captions.caption_frame(numbers)
    return captions.caption_look(numbers, random.Random(0)).split("\n")[0]


@pytest.mark.parametrize(
    ("numbers", "verdict"),
    [
        ([2, 3, 18, 19], "TA=0, VQ=2, MQ=0, OA=2"),  # only the lines of video 1 are seen
        ([22, 23, 26, 27], "TA=0, VQ=1, MQ=1, OA=1"),  # of video 1 nothing is seen
        ([6, 7, 22, 23], "TA=0, VQ=0, MQ=0, OA=0"),  # both have a mild defect
        ([18, 19, 20, 24], "TA=0, VQ=0, MQ=0, OA=0"),
    ],
)
def test_a_look_is_judged_by_what_it_shows_alone(numbers: list[int], verdict: str) -> None:
    caption = CAPTIONS.caption_look(numbers, random.Random(0))
    assert caption.endswith(f"</Think>\n<Answer>{verdict}</Answer>")


@pytest.mark.parametrize(
    ("numbers", "caption"),
    [
        ([5], "bright lines across the picture and marker"),
        ([22], "bright snow over the picture"),
        (
            [7, 8, 23, 24],
            "<Snapshot>video 1 bright lines across the picture; video 2 bright snow over the "
            "picture on 23</Snapshot>",
        ),
    ],
)
def test_full_style_uses_whole_words(numbers: list[int], caption: str) -> None:
    assert (
        describe(PairCaptions(SAMPLE, CANDIDATES, replace(CONFIG, prompt_pack="full")), numbers)
        == caption
    )


@pytest.mark.parametrize(
    ("count", "num_rare", "num_chosen"),
    [(0, 0, 0), (1, 0, 1), (2, 1, 2), (4, 2, 4), (8, 4, 8), (32, 4, 32), (99, 4, 32)],
)
def test_half_of_the_frames_are_rare_as_far_as_there_are_any(
    count: int, num_rare: int, num_chosen: int
) -> None:
    chosen = [CAPTIONS.choose_frames(count, random.Random(seed)) for seed in range(100)]
    for numbers in chosen:
        assert len(numbers) == len(set(numbers)) == num_chosen and set(numbers) <= set(range(1, 33))
        assert len(RARE_NUMBERS & set(numbers)) >= num_rare
    if 0 < count < 8:
        mean = sum(len(RARE_NUMBERS & set(numbers)) for numbers in chosen) / len(chosen)
        assert mean < num_rare + 0.5  # the other half is drawn from all frames
        assert len(set().union(*chosen)) > 30 or count == 1


TINY_GAPS = [range(1, 4), range(5, 8), range(9, 12), range(13, 16)]
SETTINGS = {
    "tiny": (TINY, 16, 2, TINY_GAPS),
    "one frame each": (replace(TINY, max_frames_per_call=2), 16, 1, TINY_GAPS),
    "an odd limit": (replace(TINY, max_frames_per_call=5), 16, 2, TINY_GAPS),
    "calls longer than gaps": (replace(TINY, max_frames_per_call=12), 16, 3, TINY_GAPS),
    "a shorter video": (
        replace(TINY, initial_frames_per_video=2),
        14,
        2,
        [range(1, 7), range(9, 14)],
    ),
}
"""Episode, frames of video 2, frames of each video in a look, gaps that neither initial view
shows."""


@pytest.mark.parametrize("name", SETTINGS)
def test_looks_are_neighbours_of_both_videos_in_one_gap(name: str) -> None:
    episode, num_frames_2, num_each, gaps = SETTINGS[name]
    candidates = CandidateFrames((0.0,) * 16, (0.0,) * num_frames_2)
    captions, seen = PairCaptions(SAMPLE, candidates, episode), set()
    for seed in range(50):
        looks = captions.choose_looks(99, random.Random(seed))
        places = [[candidates.locate(number) for number in look] for look in looks]
        assert all(
            [place.video for place in look] == [1] * num_each + [2] * num_each for look in places
        )
        indices = [[place.index for place in look] for look in places]
        for look in indices:
            assert look == list(range(look[0], look[0] + num_each)) * 2
        found = [gap for look in indices for gap in gaps if set(look) <= set(gap)]
        assert len(found) == len(looks) == len(gaps) and set(found) == set(gaps)
        seen |= {look[0] for look in indices}
    assert seen == {
        start for gap in gaps for start in gap[: len(gap) - num_each + 1]
    }  # every place in a gap


@pytest.mark.parametrize(("both_hidden_share", "num_cues"), [(0.0, 1), (1.0, 2)])
def test_gaps_with_a_cue_come_first(both_hidden_share: float, num_cues: int) -> None:
    others = set()
    for seed, pair in enumerate(make_pairs("tiny", 40, both_hidden_share=both_hidden_share)):
        looks = PairCaptions(pair, CANDIDATES, TINY).choose_looks(num_cues + 1, random.Random(seed))
        gaps = [(look[0] - 1) // 4 * 4 + 1 for look in looks]
        cues = [cue["first_index"] for cue in pair.meta["cues"]]
        assert gaps[:num_cues] == cues and gaps[num_cues] not in cues
        others.add(gaps[num_cues])
    assert others == {1, 5, 9, 13}


@pytest.mark.parametrize("style", list(PromptStyle))
@pytest.mark.parametrize("choices", [{"cued_gap": 1.0}, {"cued_gap": 0.0, "detour": 1.0}])
def test_a_look_is_captioned_as_the_teacher_says_it(
    style: PromptStyle, choices: dict[str, float]
) -> None:
    episode = replace(TINY, prompt_pack=style)
    for pair in make_pairs("tiny", 60, both_hidden_share=0.2):
        captions, result = (
            PairCaptions(pair, CANDIDATES, episode),
            judge(pair, episode, **choices)[0],
        )
        looks = [
            CANDIDATES.initial_view(4),
            *(outcome.frame_numbers for outcome in result.outcomes),
        ]
        said = [turn.reply.text.split("\n")[0] for turn in result.turns]
        assert [describe(captions, numbers) for numbers in looks] == said
        last = captions.caption_look(looks[-1], random.Random(0)).split("<Answer>")[1]
        if len(looks) == 2 and {
            d["type"] for side in (1, 2) for d in pair.meta[f"defects_{side}"]
        }.isdisjoint(PAIRED):
            assert result.turns[-1].reply.text.endswith(
                f"<Answer>{last}"
            )  # one look behind the cue shows everything


@pytest.mark.parametrize(("num_frames", "num_looks"), [(8, 3), (6, 0), (0, 2)])
def test_a_row_mixes_frames_and_looks(num_frames: int, num_looks: int) -> None:
    rows = [
        CAPTIONS.make_row(CaptionConfig(num_frames, num_looks, seed=n)) for n in (0, 0, 1, 2, 3, 4)
    ]
    for row in rows:
        sizes = [len(group) for group in row["captioned_frames"]]
        assert sorted(sizes) == [1] * num_frames + [4] * num_looks
        described = [describe(CAPTIONS, group) for group in row["captioned_frames"]]
        assert [reply.split("\n")[0] for reply in row["replies"]] == described
        assert json.loads(row["episode"])["prompt_pack"] == "brief" and from_row(row) == SAMPLE
    assert rows[0] == rows[1] and any(row != rows[0] for row in rows)
    orders = {tuple(len(group) for group in row["captioned_frames"]) for row in rows}
    assert len(orders) > 1 or 0 in (num_frames, num_looks)  # the two kinds come in random order


@pytest.mark.parametrize(("num_frames", "num_marked"), [(8, 2), (2, 2), (2, 1), (4, 3)])
def test_marked_frames_can_be_asked_for(num_frames: int, num_marked: int) -> None:
    for seed in range(20):
        chosen = CAPTIONS.choose_frames(num_frames, random.Random(seed), num_marked)
        assert len(set(chosen)) == num_frames
        assert len({5, 21} & set(chosen)) >= min(num_marked, 2)  # the two that show the cue


def test_each_pair_draws_its_own_frames() -> None:
    other = PairCaptions(replace(SAMPLE, uid="another"), CANDIDATES, CONFIG)
    rows = [captions.make_row(CaptionConfig()) for captions in (CAPTIONS, other)]
    assert rows[0]["captioned_frames"] != rows[1]["captioned_frames"]


def test_a_row_is_a_dialogue() -> None:
    row = CAPTIONS.make_row(CaptionConfig(num_frames=4, num_looks=2))
    groups = row["captioned_frames"]
    dialogue = CaptionDialogue(CANDIDATES, groups, CONFIG)
    for shown, caption in enumerate(row["replies"], 1):
        messages = dialogue.messages()
        assert [item["frame_number"] for item in images_of(messages)] == sum(groups[:shown], [])
        assert [item["frame_number"] for item in images_of(messages[-1:])] == groups[shown - 1]
        assert messages[-1]["role"] == "user" and not dialogue.is_done and dialogue.context_grew()
        dialogue.step(Reply(caption))
    messages = dialogue.messages()
    roles = [role for role, _ in groupby(message["role"] for message in messages)]
    assert dialogue.is_done and roles == ["system"] + ["user", "assistant"] * 6
    assert [message["content"][0]["text"] for message in messages[2::2]] == row["replies"]


@pytest.mark.parametrize("style", list(PromptStyle))
@pytest.mark.parametrize("label_frames", [True, False])
def test_frames_are_shown_as_a_call_shows_them(style: PromptStyle, label_frames: bool) -> None:
    config = replace(CONFIG, prompt_pack=style, label_frames=label_frames, tool_max_pixels=3136)
    episode = Episode(SAMPLE, CANDIDATES, config)
    episode.step(Reply(call_frames(6, 7, 22, 23)))
    (shown,) = [message["content"] for message in episode.messages()[-1:]]
    content = CaptionDialogue(CANDIDATES, [[6, 7, 22, 23]], config).messages()[-1]["content"]
    assert content == shown[1:] and len(content) == (
        8 if label_frames else 4
    )  # without the line that opens a reply


def test_a_pair_without_truth_is_refused() -> None:
    with pytest.raises(ValueError, match="does not say what is wrong"):
        PairCaptions(replace(SAMPLE, meta={}), CANDIDATES, CONFIG)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one pair of videos."""
    folder = tmp_path_factory.mktemp("videos")
    for side in (1, 2):
        write_lossless(folder / f"{side}.mkv", np.full((16, 56, 56, 3), 90 * side, np.uint8))
    return folder


@pytest.fixture
def run(tmp_path: Path, videos: Path) -> Callable[..., Result]:
    """Write pairs and run the program on them; what it writes is `captions.parquet`."""

    def run_program(pairs: list[PreferenceSample], *options: str) -> Result:
        write_samples(tmp_path / "pairs.parquet", pairs)
        app = typer.Typer()
        app.command()(main)
        files = [
            "--pairs",
            str(tmp_path / "pairs.parquet"),
            "--out",
            str(tmp_path / "captions.parquet"),
        ]
        episode = [
            f"--episode={text}"
            for text in ("frames_per_video=16", "max_frames_per_call=4", "prompt_style=brief")
        ]
        return CliRunner().invoke(app, [*files, "--video-root", str(videos), *episode, *options])

    return run_program


def test_the_program_writes_rows_and_counts_what_it_cannot_read(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    pairs = [SAMPLE, replace(SAMPLE, uid="broken", video_2="gone.mkv"), replace(SAMPLE, uid="last")]
    options = ["--frames", "5", "--looks", "2", "--seed", "7"]
    assert run(pairs, *options).exit_code == 3
    result = run(pairs, *options, "--max-failed-share", "0.34")
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert (
        "left out: " in output and "1 pairs could not be read" in output and "2 rows in" in output
    )
    table = pq.read_table(tmp_path / "captions.parquet")
    assert table.schema.equals(CAPTION_SCHEMA) and [
        row["sample_uid"] for row in table.to_pylist()
    ] == ["pair", "last"]
    expected = CAPTIONS.make_row(CaptionConfig(num_frames=5, num_looks=2, seed=7))
    row = table.to_pylist()[0]
    assert {name: row[name] for name in ("captioned_frames", "replies", "episode")} == {
        name: expected[name] for name in ("captioned_frames", "replies", "episode")
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--frames", "-1"],
            "error: CaptionConfig: num_frames must be a whole number of at least 0, got -1",
        ),
        (
            ["--marked", "9"],
            "error: CaptionConfig: num_marked must be at most num_frames=8, got 9",
        ),
        (
            ["--looks", "-1"],
            "error: CaptionConfig: num_looks must be a whole number of at least 0, got -1",
        ),
        (
            ["--frames", "0", "--looks", "0"],
            "error: CaptionConfig: num_frames and num_looks must not both be 0",
        ),
        (["--episode", "max_frames_per_call=1"], "error: max_frames_per_call must be at least 2"),
        (
            ["--episode", "frames_per_video=8"],
            "set frames_per_video to the number of frames of the videos",
        ),
        (["--pairs", "none.parquet"], "no such file"),
        (["--video-root", "/nowhere"], "none of 1 pairs could be read"),
        (["--out", "/proc/x/a.parquet"], "cannot write /proc/x/a.parquet"),
    ],
)
def test_a_wrong_option_is_one_line(
    run: Callable[..., Result], tmp_path: Path, options: list[str], words: str
) -> None:
    result = run([SAMPLE], *options)
    assert result.exit_code == 2 and words in result.output and "Traceback" not in result.output
    assert not (tmp_path / "captions.parquet").exists()


def test_words_for_numbers_are_refused_by_name(run: Callable[..., Result]) -> None:
    for option in ("--frames", "--looks"):
        result = run([SAMPLE], option, "few")
        assert result.exit_code == 2 and option in result.output


def test_the_program_keeps_notes_as_it_is_told(run: Callable[..., Result], tmp_path: Path) -> None:
    """The cue of this pair is on frame 5 of 16; the words of a look begin with its first frames."""
    result = run([SAMPLE], "--notes", "list", "--frames", "32", "--looks", "1")
    assert result.exit_code == 0, result.output
    (row,) = pq.read_table(tmp_path / "captions.parquet").to_pylist()
    said = dict(zip(map(tuple, row["captioned_frames"]), row["replies"], strict=True))
    assert said[5,].endswith("marker, behind it 6, 22") and said[1,] == "lines"
    (look,) = (reply for numbers, reply in said.items() if len(numbers) > 1)
    assert (
        ", in all 1 against 1, equal" in look
        and look.startswith("<Snapshot>")
        and ": video 1 " in look
    )
