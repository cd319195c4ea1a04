"""Playing one episode: swapped videos, the account of tokens, altered frames, what is recorded."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.clips import grey_frames, write_clip
from tests.replies import ANSWER, call_frames
from verl_videosearch.episode import EpisodeConfig, Reply
from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.runs.play import PlaySetup, play_episode
from verl_videosearch.runs.record import Identity, RecordKind, replay_episode
from verl_videosearch.sample import Order, PreferenceSample
from verl_videosearch.video.store import FrameStore

LABELS = {"TA": 0, "VQ": 2, "MQ": 0, "OA": 2}
CONFIG = EpisodeConfig(frames_per_video=8, initial_frames_per_video=2)


class CountingModel:
    """Writes given replies and counts as a server's client does."""

    def __init__(self, *replies: str, counts_tokens: bool = True) -> None:
        self.replies, self.counts_tokens = list(replies), counts_tokens
        self.usage = SimpleNamespace(num_requests=0, num_prompt_tokens=0, num_reply_tokens=0)
        self.images: list[int] = []

    async def __call__(self, messages, images) -> Reply:
        self.images.append(len(images))
        self.usage.num_requests += 1
        if self.counts_tokens:
            self.usage.num_prompt_tokens += 100 * len(self.images)
            self.usage.num_reply_tokens += 10
        return Reply(self.replies.pop(0))


@pytest.fixture
def sample(tmp_path: Path) -> PreferenceSample:
    write_clip(tmp_path / "long.mkv", grey_frames(8, 56, 84))
    write_clip(tmp_path / "short.mkv", grey_frames(4, 56, 84))
    return PreferenceSample("pair", "a cat", "long.mkv", "short.mkv", LABELS)


def setup_of(path: Path, **options) -> PlaySetup:
    identity = Identity(model="tiny")
    store = FrameStore(path / "store")
    return PlaySetup(RecordKind.EVALUATION, CONFIG, store, path, identity=identity, **options)


def play(sample: PreferenceSample, order: Order, setup: PlaySetup, model, **options):
    return asyncio.run(play_episode(sample, order, setup, model, **options))


def test_a_swapped_pair_is_shown_swapped_and_kept_in_its_own_order(
    sample: PreferenceSample, tmp_path: Path
) -> None:
    model = CountingModel(call_frames(2, 3), ANSWER)
    record = play(sample, Order.BA, setup_of(tmp_path), model)
    assert record.key == "pair BA" and record.own == sample
    assert (len(record.candidates.times_1), len(record.candidates.times_2)) == (4, 8)
    assert record.own_verdicts["OA"] == 2 and record.is_right
    assert model.images == [4, 6] and [len(turn.visible) for turn in record.turns] == [4, 6]
    assert record.identity.model == "tiny" and record.seconds > 0
    assert replay_episode(record).messages() == record.messages


def test_tokens_are_counted_by_turn_and_unknown_ones_are_null(
    sample: PreferenceSample, tmp_path: Path
) -> None:
    model = CountingModel(call_frames(2), ANSWER)
    record = play(sample, Order.AB, setup_of(tmp_path), model)
    assert [turn.num_prompt_tokens for turn in record.turns] == [100, 200]
    assert [turn.num_reply_tokens for turn in record.turns] == [10, 10]
    assert (record.usage.num_prompt_tokens, record.usage.num_requests) == (300, 2)
    record = play(sample, Order.AB, setup_of(tmp_path), CountingModel(ANSWER, counts_tokens=False))
    assert (record.usage.num_prompt_tokens, record.usage.num_requests) == (None, 1)
    assert record.turns[0].num_prompt_tokens is None

    async def count_nothing(messages, images) -> Reply:
        return Reply(ANSWER)

    usage = play(sample, Order.AB, setup_of(tmp_path), count_nothing).usage
    assert (usage.num_prompt_tokens, usage.num_requests) == (None, None)


def test_attempt_seed_and_extra_are_kept_and_messages_may_be_left_out(
    sample: PreferenceSample, tmp_path: Path
) -> None:
    setup = setup_of(tmp_path, has_messages=False)
    record = play(
        sample, Order.AB, setup, CountingModel(ANSWER), attempt=3, seed=7, extra={"server": "a"}
    )
    assert (record.key, record.attempt, record.seed) == ("pair AB 3", 3, 7)
    assert record.extra == {"server": "a"} and record.messages is None


def test_a_broken_video_is_a_failure(sample: PreferenceSample, tmp_path: Path) -> None:
    (tmp_path / "short.mkv").write_bytes(b"no video")
    with pytest.raises(EpisodeFailure) as caught:
        play(sample, Order.AB, setup_of(tmp_path), CountingModel(ANSWER))
    assert caught.value.kind is FailureKind.VIDEO and not caught.value.is_passing
