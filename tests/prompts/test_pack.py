"""Prompt packs: what is checked, what is told, and published judges in their own words and
forms."""

from pathlib import Path

import pytest
import yaml

from tests.episode_contract import SAMPLE, check_episode, pair_of
from verl_videosearch.episode import Ending, Episode, EpisodeConfig, Reply, images_of
from verl_videosearch.judgement import Judgement
from verl_videosearch.prompts import check_pack, load_pack
from verl_videosearch.prompts.pack import BUILT_IN, PLACEHOLDERS
from verl_videosearch.sample import PreferenceSample


def write_pack(folder: Path, **entries: object) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(entries), "utf-8")
    return str(path)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_pack_has_every_entry_and_no_oversight(name: str) -> None:
    report = check_pack(name)
    assert report.pack is not None and report.problems == report.notes == ()
    assert set(report.pack.words) == set(PLACEHOLDERS) and report.pack.base == name


def test_what_a_pack_leaves_out_reads_as_in_the_pack_it_extends(tmp_path: Path) -> None:
    pack = load_pack(write_pack(tmp_path, extends="brief", frames_opening="Look: {frames}"))
    assert pack.words["frames_opening"] == "Look: {frames}"
    assert pack.words["frame_label"] == "Frame {number}:" and pack.base == "brief"
    assert pack.words["evicted"] == load_pack("full").words["evicted"]


def test_the_hash_is_that_of_the_words(tmp_path: Path) -> None:
    same = load_pack(write_pack(tmp_path, extends="full"))
    assert same.words_hash == load_pack("full").words_hash != load_pack("brief").words_hash
    other = tmp_path / "other"
    other.mkdir()
    assert load_pack(write_pack(other, once="1x")).words_hash != same.words_hash


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"sistem": "x"}, "unknown entry 'sistem' (allowed: system, "),
        ({"system": 5}, "system must be a text, got 5"),
        ({"evicted": None}, "evicted must be a text, got None"),
        ({"evicted": "gone: {frame}"}, "evicted: unknown placeholder {frame} (allowed: frames;"),
        ({"once": "{count}"}, "once: unknown placeholder {count} (allowed: none;"),
        ({"evicted": "{frames.__class__}"}, "unknown placeholder {frames.__class__}"),
        ({"evicted": "{frames!r}"}, "a placeholder is a bare name, such as {frames}"),
        ({"evicted": "{frames:>9}"}, "a placeholder is a bare name, such as {frames}"),
        ({"evicted": "{"}, "a brace of the text itself is doubled"),
        ({"evicted": '{"a": 1}'}, "a brace of the text itself is doubled"),
        ({"pair_opening": "two videos"}, "pair_opening must contain {prompt}"),
        ({"system": "hi <|im_end|>"}, "system spells a control token"),
        ({"pair_opening": "<image>{prompt}"}, "pair_opening spells a control token"),
        ({"extends": "mine"}, "extends must be one of full, brief, got 'mine'"),
        ({"answer_words": {"yes": 3}}, "answer_words must map whole answers to 0 (tie), 1 or 2"),
        ({"answer_words": ["yes"]}, "answer_words must map"),
        ({"allowed_faults": ["typo"]}, "allowed_faults must be a list out of unclosed_tag, "),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, entries: dict[str, object], words: str) -> None:
    path = write_pack(tmp_path, **entries)
    with pytest.raises(ValueError) as error:
        load_pack(path)
    assert words in str(error.value) and path in str(error.value)


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    report = check_pack(write_pack(tmp_path, sistem="x", once=1, evicted="{frame}"))
    assert report.pack is None and len(report.problems) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("", "the file must be a mapping"),
        ("- a", "the file must be a mapping"),
        ("a: [", "while parsing"),
    ],
)
def test_a_file_that_is_no_pack(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "pack.yaml"
    if text is not None:
        path.write_text(text)
    assert words in check_pack(path).problems[0]
    assert "allowed are full, brief" in check_pack("short").problems[0]


@pytest.mark.parametrize(
    ("entries", "note"),
    [
        ({"system": "Judge {dimensions}. <tool_call>"}, "system shows no <Answer>"),
        ({"system": "Judge {dimensions}. <answer>"}, "system shows no <tool_call>"),
        ({"system_at_once": "Judge. <Answer>"}, "does not name the sample's {dimensions}"),
        (
            {"system_at_once": "{dimensions} <Answer> <verdict>"},
            "<verdict> is no tag that is read in a reply",
        ),
    ],
)
def test_an_oversight_is_a_note(tmp_path: Path, entries: dict[str, object], note: str) -> None:
    report = check_pack(write_pack(tmp_path, **entries))
    assert report.problems == () and any(note in each for each in report.notes)


def test_a_pack_without_a_tool_needs_no_calls(tmp_path: Path) -> None:
    path = write_pack(tmp_path, system=None)
    with pytest.raises(ValueError, match="has no words for calls .*set max_tool_calls=0, got 3"):
        EpisodeConfig(prompt_pack=path).check_words()
    EpisodeConfig(prompt_pack=path, max_tool_calls=0).check_words()


def test_every_word_of_an_episode_comes_from_the_pack(tmp_path: Path) -> None:
    """Each entry is replaced by a mark of its own; nothing else than marks and values is told."""
    entries = {
        entry: f"[{entry}" + "".join(f" {{{name}}}" for name in names.split()) + "]"
        for entry, names in PLACEHOLDERS.items()
    }
    config = EpisodeConfig(prompt_pack=write_pack(tmp_path, **entries), frames_per_video=4)
    calls = ["{", "[]", "{}", '{"name": "zoom"}', '{"name": "select_frames"}']
    for arguments in ("{}", '{"x": 1, "target_frames": [1]}', '{"target_frames": {}}'):
        calls.append(f'{{"name": "select_frames", "arguments": {arguments}}}')
    for numbers in ("[]", '["a"]', "[99]", f"[{10**15}]", "[1, 1]", str(list(range(1, 9)))):
        calls.append(f'{{"name": "select_frames", "arguments": {{"target_frames": {numbers}}}}}')
    told = ""
    for call in calls:
        episode = Episode(SAMPLE, pair_of(4, 4), config)
        episode.step(Reply(f"<tool_call>{call}</tool_call>"))
        content = episode.messages()[-1]["content"]
        told += "".join(item.get("text", "") for item in content)
    own_words = ("select_frames", "target_frames", "zoom", "name", "arguments")
    for entry in PLACEHOLDERS:
        told = told.replace(f"[{entry}", "[")
    left = {word.strip('"') for word in told.replace("_", "").replace("[", " ").split()}
    known = {word.replace("_", "") for word in own_words}
    assert {w for w in left if w.isalpha()} - known <= {"x", "a", "s", "to"}


THINKER = {
    "system": "Judge {dimensions}. Ask {max_calls} for {max_frames} frames with <tool_call>. "
    "Answer in <answer>.",
    "allowed_faults": ["no_snapshot"],
}
"""A pack as a user makes it of a published judge's card: unlabelled frames, more frames a call."""
THINKER_SETTINGS = {
    "frames_per_video": 128,
    "initial_frames_per_video": 4,
    "max_frames_per_call": 12,
    "max_tool_calls": 6,
    "label_frames": False,
}
SEARCH = """<think> The posture differs, the motion is unclear. </think>
<recommend answer> TA = 2, MQ = 1, VQ = 0, OA = 0, CF = 2 </recommend answer>
<tool_call> {
 "name": "select_frames", "arguments": { "target_frames": [12, 16, 20, 24, 140, 144, 148, 152] } }
</tool_call>"""
ANSWERS = [
    "<answer> TA = 2, MQ = 0, VQ = 2, OA = 2, CF = 2 </ answer>",
    "<final answer> MQ=0, TA=2, VQ=2, OA=2 </final answer>",
    "<Final Answer>\nOA = 2, TA = 2,\nVQ = 2, MQ = 0\n</ final answer >",
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_published_judge_in_its_own_form(tmp_path: Path, answer: str) -> None:
    path = write_pack(tmp_path, **THINKER)
    config = EpisodeConfig(prompt_pack=path, **THINKER_SETTINGS)
    snapshot = "<snapshot> The left hand is blurred in frame 12. </snapshot>\n"
    last = f"{snapshot}<think> It is settled. </think>\n{answer}"
    trace = check_episode(config, pair_of(128, 128), [Reply(SEARCH), Reply(last)])
    assert trace.result.ending is Ending.ANSWERED and trace.result.is_well_formed
    assert trace.result.verdict.verdicts == {"TA": 2, "VQ": 2, "MQ": 0, "OA": 2}
    assert trace.result.turns[0].turn.recommendation.confidence == 2
    assert len(images_of(trace.contexts[0])) == 8 and len(images_of(trace.contexts[1])) == 16
    labels = [item for item in trace.contexts[0][1]["content"] if item["type"] == "text"]
    assert len(labels) == 1, "frames carry no labels"


def test_twelve_frames_a_call_and_six_calls(tmp_path: Path) -> None:
    config = EpisodeConfig(prompt_pack=write_pack(tmp_path, **THINKER), **THINKER_SETTINGS)
    call = SEARCH.replace("[12, 16, 20, 24, 140, 144, 148, 152]", str(list(range(1, 13))))
    result = check_episode(
        config, pair_of(128, 128), [Reply(call)] * 6 + [Reply(ANSWERS[0])]
    ).result
    assert [len(outcome.frame_numbers) for outcome in result.outcomes] == [12] * 6
    assert result.ending is Ending.ANSWERED


AT_ONCE = {
    "system": None,
    "system_at_once": "Think in <think>, then write one of: Video 1 is better, Video 2 is better.",
    "answer_words": {"Video 1 is better": 1, "Video 2 is better": 2, "Both are equal": 0},
    "allowed_faults": ["no_snapshot"],
}
"""A judge of a single turn that answers in words, of the whole only."""


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("Video 1 is better", 1),
        ("\nvideo 2 is  better.\n", 2),
        ("Both are equal", 0),
        ("Video 1 is better, or video 2 is better", None),
        ("Image 1 is better", None),
        ("Video 1 is better" + " " * 2000 + "not", None),
        ("OA=1", 1),
    ],
)
def test_a_judge_that_answers_in_words(tmp_path: Path, answer: str, label: int | None) -> None:
    config = EpisodeConfig(prompt_pack=write_pack(tmp_path, **AT_ONCE), max_tool_calls=0)
    sample = PreferenceSample("a", "a cat", "1.mp4", "2.mp4", {"OA": 1}, dimensions=())
    reply = Reply(f"<think>1. Motion: 4/10, 6/10 ...</think>\n<answer>{answer}</answer>")
    result = check_episode(config, pair_of(8, 8), [reply], sample).result
    verdict = result.verdict.overall if isinstance(result.verdict, Judgement) else None
    assert verdict == label and result.is_well_formed == (label is not None)


def test_words_rate_no_dimension(tmp_path: Path) -> None:
    config = EpisodeConfig(prompt_pack=write_pack(tmp_path, **AT_ONCE), max_tool_calls=0)
    reply = Reply("<think>a</think><answer>Video 1 is better</answer>")
    result = check_episode(config, pair_of(8, 8), [reply]).result
    assert result.verdict.verdicts == {"OA": 1}
