"""Rewards of a generator: tensors or files, in a group or against an anchor; cheating is
noticed."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clips import write_clip
from tests.judge.episodes import SETTINGS, make_judge
from tests.judge.test_ranking import tau_b
from tests.seeing_judge import HIDDEN, prefer_first, serve_judge
from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.judge import reward
from verl_videosearch.judge.clips import ClipMeasures, measure_clip, to_frames, write_clips
from verl_videosearch.judge.monitors import MonitorConfig, RewardMonitor, WatchedGroup
from verl_videosearch.judge.reward import (
    ClipRewards,
    GroupScoreConfig,
    GroupScores,
    compute_score,
    score_group,
)

LEVELS = (60, 250, 105, 180)
"""Brightness of each clip's hidden frame; the darker, the better."""


def make_tensor() -> np.ndarray:
    """A batch [B, C, T, H, W] of floats, one clip per level."""
    batch = np.full((len(LEVELS), 3, 8, 56, 84), 60 / 255, np.float32)
    for clip, level in zip(batch, LEVELS, strict=True):
        clip[:, HIDDEN] = level / 255
    return batch


def test_tensors_and_files_get_the_same_scores(tmp_path: Path) -> None:
    batch = make_tensor()
    with serve_judge() as server, make_judge(server, tmp_path) as judge:
        rewards = ClipRewards(judge=judge)
        scores = rewards("a cat", batch)
        assert list(np.argsort(scores)) == [1, 3, 2, 0] and 0 < min(scores) < max(scores) < 1
        files = write_clips(batch, tmp_path / "clips")
        singles = [np.rint(clip.transpose(1, 0, 2, 3) * 255).astype(np.uint8) for clip in batch]
        num_requests = len(server.requests)
        assert rewards("a cat", files) == rewards("a cat", singles) == scores
        assert len(server.requests) == num_requests  # the same content was judged before
        assert rewards("a cat", batch, anchor=files[2]) == [1.0, 0.0, 0.5, 0.0]
        rewards.close()


def test_a_torch_tensor_is_read_like_an_array() -> None:
    torch = pytest.importorskip("torch")
    batch = make_tensor()
    frames = to_frames(torch.from_numpy(batch[1]).permute(1, 0, 2, 3).bfloat16())
    assert frames.shape == (8, 56, 84, 3) and frames.dtype == np.uint8
    assert abs(int(frames[HIDDEN].mean()) - 250) <= 1


@pytest.mark.parametrize(
    ("clips", "words"),
    [
        ("a.mp4", "give a list"),
        (np.zeros((2, 3, 4, 4)), r"\[B, C, T, H, W\]"),
        ([np.zeros((3, 4, 4))], r"\[T, C, H, W\]"),
        ([np.zeros((2, 4, 4, 3))], r"\[T, C, H, W\]"),
        ([np.full((2, 3, 4, 4), -0.5)], r"-0.5 .*\(x \+ 1\) / 2"),
        ([np.full((2, 3, 4, 4), np.nan)], r"0\.\.1"),
        ([np.full((2, 3, 4, 4), 7)], "uint8 or floats"),
    ],
)
def test_what_is_no_clip_is_refused_with_advice(clips: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        write_clips(clips, tmp_path)


def test_the_budget_is_kept_and_still_orders_the_group(tmp_path: Path) -> None:
    asked = []

    async def compare(prompt: str, video_1: str, video_2: str) -> Any:
        asked.append((video_1, video_2))
        return FakeComparison(1 if video_1 < video_2 else 2)

    config = GroupScoreConfig(max_comparisons=16)
    scores = asyncio.run(score_group("a cat", list("abcdefgh"), compare, config)).require_all()
    assert len(asked) == 16 and tau_b(scores, list(range(8, 0, -1))) >= 0.8


def test_equal_clips_are_one_clip(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in "aAbcd"}
    for name, file in files.items():
        file.write_text(name.lower())  # A is a copy of a
    asked = []

    async def compare(prompt: str, video_1: str, video_2: str) -> Any:
        asked.append({Path(video_1).name.lower(), Path(video_2).name.lower()})
        return FakeComparison(1 if Path(video_1).name.lower() < Path(video_2).name.lower() else 2)

    def score(names: str, anchor: str | None = None, **config: Any) -> GroupScores:
        videos = [str(files[name]) for name in names]
        against = None if anchor is None else str(files[anchor])
        asked.clear()
        return asyncio.run(
            score_group("a cat", videos, compare, GroupScoreConfig(**config), against)
        )

    for budget in (None, 3, 4):
        group = score("abAcd", max_comparisons=budget)
        assert len(asked) == (budget or 6) and all(len(pair) == 2 for pair in asked)
        scores = group.require_all()
        assert scores[0] == scores[2] == max(scores)
        assert group.places == (0, 1, 0, 2, 3) and len(group.ranking.strengths) == 4
    assert score("abab").require_all() == score("ab").require_all() * 2
    against = score("abAb", anchor="b", max_comparisons=4)
    assert against.scores == (1.0, 0.5, 1.0, 0.5) and asked == [{"a", "b"}]


def test_a_group_of_equal_clips_is_a_tie_unless_they_are_broken(tmp_path: Path) -> None:
    async def compare(prompt: str, video_1: str, video_2: str) -> Any:
        raise AssertionError("there is nothing to compare")

    whole, copy, torn = (tmp_path / name for name in ("whole.mkv", "copy.mkv", "torn.mkv"))
    write_clip(whole, np.full((8, 56, 84, 3), 100, np.uint8))
    copy.write_bytes(whole.read_bytes())
    torn.write_bytes(whole.read_bytes()[:200])
    for videos, anchor in (([whole, copy, whole], None), ([copy], whole)):
        given = [str(video) for video in videos]
        group = asyncio.run(score_group("a", given, compare, anchor=anchor and str(anchor)))
        assert group.require_all() == [0.5] * len(videos) and group.comparisons == ()
    for video in (torn, tmp_path / "gone.mkv"):
        with pytest.raises(EpisodeFailure, match=video.name) as refused:
            asyncio.run(score_group("a", [str(video)] * 2, compare))
        assert refused.value.kind is FailureKind.VIDEO


class FakeComparison:
    """What the scores read of a `Comparison`."""

    def __init__(self, overall: int | None, stated: int | None = None) -> None:
        self.overall, self.abstains, self.confidence = overall, False, None
        self.stated_confidence = {"AB": stated, "BA": stated}
        self.orders_agree = True


def test_doubt_draws_a_score_towards_the_middle() -> None:
    def score(stated: int | None, confidence: float | None = None) -> float:
        async def compare(*_: str) -> Any:
            comparison = FakeComparison(1, stated)
            comparison.confidence = confidence
            return comparison

        [value] = asyncio.run(score_group("a", ["x"], compare, anchor="y")).require_all()
        return value

    assert score(None) == score(1) == 1.0
    assert score(2) == pytest.approx(0.5 + 1 / 3) and score(3) == pytest.approx(0.5 + 1 / 6)
    assert score(3, confidence=0.9) == pytest.approx(0.9)
    assert score(1, confidence=0.5) < 0.55


def test_orders_that_disagree_score_nobody_and_are_counted(tmp_path: Path) -> None:
    with serve_judge(prefer_first) as server, make_judge(server, tmp_path) as judge:
        rewards = ClipRewards(judge=judge, monitor=MonitorConfig(window_steps=1))
        [group] = rewards.score_groups([("a cat", make_tensor(), None)])
    assert group.require_all() == [0.5] * 4 and group.num_flips == 6
    assert rewards.figures["flip_share"] == 1 and rewards.figures["alarm_orders_flip"] == 1
    assert rewards.figures["alarm_saturated"] == 1


def test_a_failure_is_no_score() -> None:
    async def compare(prompt: str, video_1: str, video_2: str) -> Any:
        if "c" in (video_1, video_2):
            raise EpisodeFailure(FailureKind.VIDEO, "c is torn")
        return FakeComparison(1)

    scores = asyncio.run(score_group("a", ["a", "b", "c"], compare))
    assert scores.scores[2] is None and None not in scores.scores[:2]
    with pytest.raises(EpisodeFailure, match="c is torn"):
        scores.require_all()


def test_verl_scores_a_batch_group_by_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward, "_REWARDS", {})
    files = [str(path) for path in write_clips(make_tensor(), tmp_path / "clips")]
    infos = [{"prompt": prompt, "clip": file} for file in files for prompt in ("a cat", "a dog")]
    infos.append({"prompt": "a cow", "clip": files[0], "anchor": files[1]})
    blank = [""] * len(infos)
    with serve_judge() as server:
        settings = {"endpoint": server.url, "model": "tiny", "episode": SETTINGS}
        settings |= {"store": str(tmp_path / "frames"), "max_comparisons": 6}
        rows = compute_score(blank, blank, blank, infos, **settings)
        assert len(reward._REWARDS) == 1
        for made in reward._REWARDS.values():
            made.close()
    scores = [row["score"] for row in rows]
    assert scores[0:8:2] == pytest.approx(scores[1:8:2]) and scores[8] == 1.0
    assert list(np.argsort(scores[0:8:2])) == [1, 3, 2, 0] and rows[0]["flip_share"] == 0
    with pytest.raises(ValueError, match="row 0 .* lacks"):
        compute_score([""], [""], [""], [{"prompt": "a"}], **settings)


def test_verl_scores_each_row_against_its_own_anchor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward, "_REWARDS", {})
    plain, defect = np.full((2, 8, 3, 56, 84), 60, np.uint8)
    defect[HIDDEN, :, 4:-4, 4:-4] = 255
    assert str(plain) == str(defect), "numpy leaves out what differs"
    rows = [{"prompt": "a cat", "clip": plain, "anchor": each} for each in (plain, defect, plain)]
    blank = [""] * len(rows)
    with serve_judge() as server:
        settings = {"endpoint": server.url, "model": "tiny", "episode": SETTINGS}
        settings["store"] = str(tmp_path / "frames")
        scored = compute_score(blank, blank, blank, rows, **settings)
        reward._REWARDS.popitem()[1].close()
    assert [row["score"] for row in scored] == [0.5, 1.0, 0.5]


def test_rows_of_one_group_share_prompt_and_anchor(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Rewards:
        def score_groups(self, groups: Any) -> list[GroupScores]:
            asked.extend(groups)
            return [GroupScores((0.5,) * len(clips), (), ()) for _, clips, _ in groups]

    monkeypatch.setattr(reward, "_find_rewards", lambda settings: Rewards())
    rows = [
        {"prompt": "a cat", "clip": "a", "group": 1},
        {"prompt": "a dog", "clip": "b", "group": 1},
        {"prompt": "a cat", "clip": "c", "group": 1, "anchor": None},
        {"prompt": "a cat", "clip": "d", "group": 1, "anchor": "base.mp4"},
        {"prompt": "a cat", "clip": "e", "group": 1, "anchor": Path("base.mp4")},
    ]
    blank = [""] * len(rows)
    compute_score(blank, blank, blank, rows)
    assert asked == [
        ("a cat", ["a", "c"], None),
        ("a dog", ["b"], None),
        ("a cat", ["d", "e"], "base.mp4"),
    ]


def test_a_clip_is_measured(tmp_path: Path) -> None:
    still = write_clip(tmp_path / "still.mkv", np.full((8, 56, 84, 3), 100, np.uint8))
    blink = np.full((8, 56, 84, 3), 100, np.uint8)
    blink[::2] = 140
    moving = write_clip(tmp_path / "moving.mkv", blink)
    assert measure_clip(still).motion < 2 and measure_clip(moving).motion > 30
    assert measure_clip(still).brightness == pytest.approx(100, abs=3)
    assert measure_clip(still).seconds == pytest.approx(7 / 25)


def watch(motion: float = 10, brightness: float = 100, seconds: float = 2, **more: Any) -> Any:
    """A group whose winner has these measures."""
    measures = [ClipMeasures(motion, brightness, seconds), ClipMeasures(10, 100, 2)]
    values = {"scores": (0.9, 0.1), "num_flips": 0, "num_both_orders": 1} | more
    return WatchedGroup(measures=measures, **values)


@pytest.mark.parametrize(
    ("later", "alarm"),
    [
        (watch(), None),
        (watch(motion=4), "motion_collapsed"),
        (watch(seconds=2.6), "length_drifted"),
        (watch(seconds=1.4), "length_drifted"),
        (watch(brightness=145), "brightness_drifted"),
        (watch(scores=(0.5, 0.5)), "saturated"),
        (watch(num_flips=1), "orders_flip"),
    ],
)
def test_each_way_to_cheat_sounds_its_alarm(later: Any, alarm: str | None) -> None:
    monitor = RewardMonitor(MonitorConfig(window_steps=2))
    for _ in range(2):
        figures = monitor.update([watch()])
    assert not any(value for name, value in figures.items() if name.startswith("alarm"))
    for _ in range(2):
        figures = monitor.update([later])
    on = {
        name.removeprefix("alarm_")
        for name, value in figures.items()
        if name[:5] == "alarm" and value
    }
    assert on == ({alarm} if alarm else set())


def test_a_passing_failure_against_the_anchor_is_asked_once_more() -> None:
    asked: list[str] = []

    async def compare(prompt: str, video: str, anchor: str) -> Any:
        asked.append(video)
        if video == "gone":
            raise EpisodeFailure(FailureKind.VIDEO, "cut short", is_passing=False)
        if asked.count(video) == 1 or video == "away":
            raise EpisodeFailure(FailureKind.SERVER, "busy", is_passing=True)
        return FakeComparison(1)

    scores = asyncio.run(score_group("a", ["x", "away", "gone"], compare, anchor="base"))
    assert scores.scores == (1.0, None, None) and len(scores.failures) == 2
    assert [asked.count(video) for video in ("x", "away", "gone")] == [2, 2, 1]
