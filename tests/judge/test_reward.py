"""Rewards of a generator: tensors or files, in a group or against an anchor; cheating is
noticed."""

import asyncio
import json
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clips import write_clip
from tests.judge.episodes import SETTINGS, make_judge
from tests.judge.test_ranking import tau_b
from tests.seeing_judge import HIDDEN, prefer_first, search, serve_judge
from verl_videosearch.failures import EpisodeFailure, FailureKind, ServerUnusable
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


@pytest.mark.parametrize("watches", [True, False])
def test_a_broken_clip_takes_no_other_group_along(tmp_path: Path, watches: bool) -> None:
    best, worse = map(str, write_clips(make_tensor()[:2], tmp_path / "clips"))
    torn = tmp_path / "torn.mkv"
    torn.write_bytes(Path(best).read_bytes()[:200])
    groups = [("a cat", [best, worse, torn], None), ("a dog", [best, torn], None)]
    groups += [("a cow", [best, worse], None), ("a pig", [torn, best], worse)]
    groups += [("an owl", [best], torn)]
    with serve_judge() as server, make_judge(server, tmp_path) as judge:
        rewards = ClipRewards(judge=judge, config=GroupScoreConfig(watches=watches))
        partly, wholly, healthy, against, base = rewards.score_groups(groups)
    assert healthy.require_all()[0] > 0.5 > healthy.require_all()[1]
    assert [score is None for score in partly.scores] == [False, False, True]
    assert against.scores == (None, 1.0)
    for group, num_clips in ((wholly, 2), (base, 1)):
        assert group.scores == (None,) * num_clips and "torn.mkv" in str(group.failures[0])
        with pytest.raises(EpisodeFailure, match="torn.mkv") as failed:
            group.require_all()
        assert failed.value.kind is FailureKind.VIDEO
    assert bool(rewards.figures) is watches


def test_a_group_that_is_too_small_is_refused_before_any_is_judged(tmp_path: Path) -> None:
    with serve_judge() as server, make_judge(server, tmp_path) as judge:
        rewards = ClipRewards(judge=judge)
        with pytest.raises(ValueError, match="two clips, got 1 of 'a dog'"):
            rewards.score_groups([("a cat", make_tensor(), None), ("a dog", ["a.mp4"], None)])
    assert server.requests == []


def test_an_unusable_server_is_raised_when_the_other_groups_are_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def compare(prompt: str, video_1: str, video_2: str) -> Any:
        if prompt == "a dog":
            raise ServerUnusable("the quota has ended")
        await asyncio.sleep(0.2)
        asked.append(prompt)
        return FakeComparison(1)

    with serve_judge() as server, make_judge(server, tmp_path) as judge:
        monkeypatch.setattr(judge, "compare_async", compare)
        rewards = ClipRewards(judge=judge)
        with pytest.raises(ServerUnusable, match="quota"):
            rewards.score_groups([("a dog", ["a", "b"], None), ("a cat", ["a", "b"], None)])
    assert asked == ["a cat"]


def test_a_group_that_is_late_takes_no_other_group_along(tmp_path: Path) -> None:
    gate, clips, cache = threading.Event(), make_tensor()[:3], tmp_path / "cache.sqlite"
    late_requests = []

    def answer(request: dict) -> str:
        if "a slow dog" in json.dumps(request):
            late_requests.append(request)
            gate.wait(60)
        return search(request)

    with serve_judge(answer) as server:
        with make_judge(server, tmp_path, cache=cache) as judge:
            expected = ClipRewards(judge=judge)("a cat", clips)
        with make_judge(server, tmp_path, cache=cache, deadline_s=5.0) as judge:
            judge.open()
            groups = [("a cat", clips, None), ("a slow dog", clips, None)]
            early, late = ClipRewards(judge=judge).score_groups(groups)
            gate.set()
    assert early.require_all() == expected and late.scores == (None,) * 3
    assert len(late_requests) <= 2, "one deadline of the group, not one of each pair"
    assert late.failures[0].kind is FailureKind.TIMEOUT and "5 s" in str(late.failures[0])


def test_a_clip_that_nobody_can_measure_is_counted_and_no_error() -> None:
    monitor = RewardMonitor(MonitorConfig(window_steps=1))
    monitor.update([watch(motion=10)])
    figures = monitor.update([watch(measures=[None, ClipMeasures(10, 100, 2)])])
    assert figures["unmeasured"] == 1 and figures["motion"] == 10
    assert not any(value for name, value in figures.items() if name.startswith("alarm"))


def test_written_clips_are_gone_after_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    own = write_clips(make_tensor()[:1], tmp_path / "clips")
    with serve_judge() as server, make_judge(server, tmp_path) as judge:
        rewards = ClipRewards(judge=judge)
        first = rewards("a cat", make_tensor())
        assert not list(folder.iterdir())
        num_requests = len(server.requests)
        assert rewards("a cat", make_tensor()) == first and len(server.requests) == num_requests
        with pytest.raises(ValueError, match="0..1"):
            rewards("a cat", [make_tensor()[0].swapaxes(0, 1), np.full((2, 3, 4, 4), 7.0)])
        rewards("a cat", [*own, make_tensor()[1].swapaxes(0, 1)])
    assert not list(folder.iterdir()) and own[0].is_file()


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
    values = {"scores": (0.9, 0.1), "num_flips": 0, "num_both_orders": 1, "measures": measures}
    return WatchedGroup(**values | more)


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
