"""Driving an episode: a scripted model on real clips, and every way in which something around it
can break."""

import asyncio
import json
import math
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import GREY_STEP, grey_frames, write_clip
from tests.episode_contract import answer_reply, call_reply, pair_of
from verl_videosearch.episode import (
    Ending,
    Episode,
    EpisodeConfig,
    EpisodeResult,
    Message,
    Reply,
    images_of,
)
from verl_videosearch.failures import ContextTooLong, EpisodeFailure, FailureKind
from verl_videosearch.reward import RewardConfig, score_episode
from verl_videosearch.rollout import run_episode, take_turn, to_record
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.video.pair import PairFrames, load_pair, plan_frames
from verl_videosearch.video.plan import FramePlan
from verl_videosearch.video.store import FrameStore

CONFIG = EpisodeConfig(frames_per_video=8, initial_frames_per_video=2)
LABELS = {"TA": 0, "VQ": 1, "MQ": 2, "OA": 1}
SIZE = (56, 84)


class ScriptedModel:
    """A `GenerateFn` that writes given replies, or raises given exceptions, and keeps what it
    saw."""

    def __init__(self, *script: Reply | Exception, delay_s: float = 0.0) -> None:
        self.script, self.delay_s = list(script), delay_s
        self.contexts: list[list[Message]] = []
        self.images: list[list[Image.Image]] = []

    async def __call__(self, messages: list[Message], images: Sequence[Image.Image]) -> Reply:
        self.contexts.append(messages)
        self.images.append(list(images))
        await asyncio.sleep(self.delay_s)
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


def sample_of(video_1: str = "1.mp4", video_2: str = "2.mp4") -> PreferenceSample:
    return PreferenceSample("pair-7", "a cat", video_1, video_2, LABELS)


def make_pair(num_1: int = 8, num_2: int = 4, config: EpisodeConfig = CONFIG) -> PairFrames:
    """Make grey frames whose level says the index; video 2 is inverted."""
    frames_1, frames_2 = grey_frames(num_1, *SIZE), 255 - grey_frames(num_2, *SIZE)
    return PairFrames(
        pair_of(num_1, num_2), frames_1, frames_2, patch_multiple=config.patch_multiple
    )


def run(
    model: ScriptedModel, config: EpisodeConfig = CONFIG, timeout_s: float | None = None
) -> tuple[Episode, EpisodeResult]:
    pair = make_pair(config=config)
    episode = Episode(sample_of(), pair.candidates, config)
    return episode, asyncio.run(run_episode(episode, pair, model, timeout_s=timeout_s))


def grey_of(image: Image.Image) -> int:
    """Read the grey of the lower right corner."""
    return image.getpixel((image.width - 1, image.height - 1))[0]


def test_each_reference_gets_its_pixels() -> None:
    model = ScriptedModel(call_reply(8, 12), call_reply(3), answer_reply())
    _, result = run(model)
    assert result.ending is Ending.ANSWERED
    expected = {
        n: GREY_STEP * (n - 1) if n <= 8 else 255 - GREY_STEP * (n - 9) for n in range(1, 13)
    }
    for context, images in zip(model.contexts, model.images, strict=True):
        assert [grey_of(image) for image in images] == [
            expected[item["frame_number"]] for item in images_of(context)
        ]
    assert [
        [item["frame_number"] for item in images_of(context)] for context in model.contexts
    ] == [
        [1, 5, 9, 11],
        [1, 5, 9, 11, 8, 12],
        [1, 5, 9, 11, 3],
    ]


@pytest.mark.parametrize(
    ("max_pixels", "size"),
    [(56 * 84, (84, 56)), (56 * 84 * 9, (84, 56)), (56 * 84 - 1, (56, 28)), (28 * 28, (28, 28))],
)
def test_an_image_keeps_to_its_budget(max_pixels: int, size: tuple[int, int]) -> None:
    image = make_pair().image(1, max_pixels)
    assert image.size == size and image.width * image.height <= max_pixels
    if size == SIZE[::-1]:
        assert np.array_equal(np.asarray(image), grey_frames(1, *SIZE)[0]), (
            "lossless unless it has to shrink"
        )


def test_an_episode_has_a_plan_for_each_of_its_sizes() -> None:
    config = EpisodeConfig(initial_max_pixels=1000, tool_max_pixels=2000, frames_per_video=9)
    assert plan_frames(config) == (FramePlan(9, 2000), FramePlan(9, 1000, shown=4))
    same = EpisodeConfig(initial_max_pixels=2000, tool_max_pixels=2000)
    assert plan_frames(same) == (FramePlan(48, 2000),)


@pytest.mark.parametrize(
    ("script", "num_turns"), [([], 0), ([call_reply(3)], 1), ([call_reply(3), call_reply(4)], 2)]
)
def test_a_context_that_does_not_fit_ends_the_episode(script: list[Reply], num_turns: int) -> None:
    _, result = run(ScriptedModel(*script, ContextTooLong()))
    assert result.ending is Ending.OVERLONG and len(result.turns) == num_turns


def test_time_out_is_a_failure_not_a_result() -> None:
    with pytest.raises(
        EpisodeFailure, match=r"sample 'pair-7' failed \(timeout\): no result after 0.05 s"
    ) as failure:
        run(ScriptedModel(answer_reply(), delay_s=5), timeout_s=0.05)
    assert failure.value.kind is FailureKind.TIMEOUT and failure.value.label == "timeout"


def test_the_time_out_bounds_the_whole_episode() -> None:
    calls = [call_reply(3), call_reply(4), call_reply(5), answer_reply()]
    with pytest.raises(EpisodeFailure, match="no result after 0.3 s"):
        run(ScriptedModel(*calls, delay_s=0.15), timeout_s=0.3)


def test_a_models_own_time_out_keeps_its_words() -> None:
    with pytest.raises(EpisodeFailure, match="the server did not answer") as failure:
        run(ScriptedModel(TimeoutError("the server did not answer")), timeout_s=60)
    assert failure.value.kind is FailureKind.TIMEOUT


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("gone"),
        RuntimeError("CUDA error"),
        EpisodeFailure(FailureKind.SERVER, "no tokens", "pair-7"),
        ValueError("bad image"),
    ],
)
def test_other_exceptions_of_a_model_pass_through(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        run(ScriptedModel(call_reply(3), error))
    assert raised.value is error


def test_cancelling_stops_the_model() -> None:
    async def cancel() -> ScriptedModel:
        pair, model = make_pair(), ScriptedModel(answer_reply(), delay_s=60)
        task = asyncio.create_task(
            run_episode(Episode(sample_of(), pair.candidates, CONFIG), pair, model)
        )
        while not model.contexts:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return model

    assert asyncio.run(cancel()).script, "no reply was taken"


def test_many_episodes_run_at_once() -> None:
    async def run_all() -> list[EpisodeResult]:
        pair = make_pair()
        episodes = [Episode(sample_of(), pair.candidates, CONFIG) for _ in range(20)]
        models = [
            ScriptedModel(*[call_reply(i % 12 + 1)] * (i % 4), answer_reply(), delay_s=0.01)
            for i in range(20)
        ]
        return await asyncio.gather(
            *(run_episode(e, pair, m) for e, m in zip(episodes, models, strict=True))
        )

    assert [len(result.turns) for result in asyncio.run(run_all())] == [
        i % 4 + 1 for i in range(20)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two good clips of unequal length and broken ones."""
    folder = tmp_path_factory.mktemp("videos")
    write_clip(folder / "1.mp4", grey_frames(16, *SIZE))
    write_clip(folder / "2.mp4", grey_frames(3, *SIZE))
    whole = (folder / "1.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_bytes(b"<html>404</html>" * 100)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> FrameStore:
    return FrameStore(tmp_path / "store")


def test_load_pair_reads_both_videos(folder: Path, store: FrameStore) -> None:
    pairs = [load_pair(sample_of(), store, CONFIG, folder) for _ in range(2)]
    for pair in pairs:
        assert [len(pair.candidates.numbers_of(video)) for video in (1, 2)] == [8, 3]
        assert [pair.size_of(number, 10**6) for number in (1, 9)] == [SIZE, SIZE]
        assert pair.candidates.times_1 == pytest.approx([i * 2 / 25 for i in range(8)])
        assert all(type(time_s) is float for time_s in pair.candidates.times_1)
        levels = [grey_of(pair.image(number, 10**6)) for number in range(1, 12)]
        assert levels == pytest.approx(
            [GREY_STEP * index for index in [*range(0, 16, 2), 0, 1, 2]], abs=3
        )
    assert [pair.num_hits for pair in pairs] == [0, 2]
    assert pairs[0].decode_s > 0 == pairs[1].decode_s


def test_an_episode_on_real_clips(folder: Path, store: FrameStore) -> None:
    pair = load_pair(sample_of(), store, CONFIG, folder)
    model = ScriptedModel(call_reply(8, 11), answer_reply())
    result = asyncio.run(run_episode(Episode(sample_of(), pair.candidates, CONFIG), pair, model))
    assert result.has_searched and [len(images) for images in model.images] == [4, 6]


@pytest.mark.parametrize(
    ("video", "label", "words"),
    [
        ("missing.mp4", "video_missing", "missing.mp4 of sample pair-7"),
        ("empty.mp4", "video_empty", "empty.mp4 of sample pair-7"),
        ("cut.mp4", "video_truncated", "cut.mp4 of sample pair-7"),
        ("text.mp4", "video_not_a_video", "text.mp4 of sample pair-7"),
        ("../1.mp4", "video_bad_path", "leads out of the video root"),
        ("a/../../1.mp4", "video_bad_path", "leads out of the video root"),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_broken_video_is_a_failure(
    folder: Path, store: FrameStore, video: str, label: str, words: str, is_first: bool
) -> None:
    sample = sample_of(video_1=video) if is_first else sample_of(video_2=video)
    with pytest.raises(EpisodeFailure, match="sample 'pair-7' failed") as failure:
        load_pair(sample, store, CONFIG, folder)
    assert failure.value.kind is FailureKind.VIDEO and failure.value.label == label
    assert words in failure.value.detail and failure.value.__cause__ is not None


def test_a_relative_path_needs_a_root(store: FrameStore) -> None:
    with pytest.raises(EpisodeFailure, match="a video root is needed") as failure:
        load_pair(sample_of(), store, CONFIG)
    assert failure.value.label == "video_bad_path"


def test_a_link_that_the_root_itself_holds_is_followed(
    folder: Path, store: FrameStore, tmp_path: Path
) -> None:
    """As in a hub's cache; a *row* cannot lead out of the root, whoever fills the folder may
    link."""
    (tmp_path / "root").mkdir()
    for name in ("1.mp4", "2.mp4"):
        (tmp_path / "root" / name).symlink_to(folder / name)
    assert load_pair(sample_of(), store, CONFIG, tmp_path / "root").candidates


@pytest.mark.parametrize(
    "failure",
    [
        EpisodeFailure(FailureKind.VIDEO, "cut", "a", cause="truncated"),
        *(EpisodeFailure(kind, "why") for kind in FailureKind),
    ],
)
def test_a_failure_crosses_processes(failure: EpisodeFailure) -> None:
    copy = pickle.loads(pickle.dumps(failure))
    assert (
        type(copy) is EpisodeFailure and str(copy) == str(failure) and copy.label == failure.label
    )
    assert (copy.kind, copy.detail, copy.sample_uid) == (
        failure.kind,
        failure.detail,
        failure.sample_uid,
    )


@pytest.mark.parametrize(
    ("script", "ending", "frames"),
    [
        ([answer_reply()], "answered", [[]]),
        ([call_reply(3, 3, 12), call_reply(99), answer_reply()], "answered", [[3, 12], [], []]),
        ([answer_reply("?")], "unreadable", [[]]),
        ([Reply("\ud800 <|im_end|>")], "no_answer", [[]]),
        ([Reply("<Answer>", is_truncated=True)], "truncated", [[]]),
        ([call_reply(2)] * 5, "call_limit", [[2], [2], [2], [], []]),
        ([call_reply(2), ContextTooLong()], "overlong", [[2]]),
        ([ContextTooLong()], "overlong", []),
    ],
)
def test_a_record_is_json(
    script: list[Reply | Exception], ending: str, frames: list[list[int]]
) -> None:
    episode, result = run(ScriptedModel(*script))
    score = score_episode(result, LABELS, 0.5, RewardConfig())
    record = json.loads(
        json.dumps(to_record(episode.sample, episode, result, score), allow_nan=False)
    )
    assert record["ending"] == ending and [turn["frames"] for turn in record["turns"]] == frames
    assert (record["verdict"] is None) == (record["problem"] is not None) == (ending != "answered")
    assert record["messages"] == episode.messages() and record["window"] == 1
    assert math.isclose(record["score"], sum(record["reward_parts"].values()))
    assert record["failure"] is None


def test_the_record_of_a_failure_has_no_score() -> None:
    failure = EpisodeFailure(FailureKind.VIDEO, "cut short", "pair-7", cause="truncated")
    record = json.loads(json.dumps(to_record(sample_of(), None, None, None, failure)))
    assert (record["failure"], record["failure_detail"]) == ("video_truncated", "cut short")
    assert not {"score", "reward_parts", "verdict", "ending", "messages"} & set(record)


def test_the_event_loop_is_served_between_two_turns_however_many_are_ready() -> None:
    async def play() -> list[str]:
        done, loop = list[str](), asyncio.get_running_loop()

        async def compute(name: str) -> None:
            await take_turn(lambda: (done.append(name), loop.call_soon(done.append, "served")))

        await asyncio.gather(*(compute(name) for name in "abc"))
        await asyncio.sleep(0)
        return done

    assert asyncio.run(play()) == ["a", "served", "b", "served", "c", "served"]


def test_what_a_turn_raises_lets_the_next_one_pass() -> None:
    async def play() -> list[object]:
        pieces = (take_turn(int, text) for text in ("1", "x", "2"))
        return await asyncio.gather(*pieces, return_exceptions=True)

    one, error, two = asyncio.run(play())
    assert (one, two) == (1, 2) and isinstance(error, ValueError)
