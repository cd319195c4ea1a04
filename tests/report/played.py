"""Real episodes for tests of pages: real clips, a real episode loop, replies from a script."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from tests.clips import write_clip
from verl_videosearch.episode import EpisodeConfig, Reply
from verl_videosearch.failures import EpisodeFailure, FailureKind
from verl_videosearch.runs.play import PlaySetup, make_key, play_episode
from verl_videosearch.runs.record import EpisodeRecord, Identity, RecordKind, record_failure
from verl_videosearch.sample import Order, PreferenceSample
from verl_videosearch.video.store import FrameStore

NUM_FRAMES = 24
CONFIG = EpisodeConfig(
    frames_per_video=NUM_FRAMES,
    initial_frames_per_video=4,
    initial_max_pixels=112 * 196,
    tool_max_pixels=112 * 196,
)
HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
)
PROMPTS = (
    "A red lantern drifts over a harbour at dusk, slow pan to the right",
    "Two dogs run along a beach, waves behind them, golden hour, handheld camera, shallow "
    "depth of field",
    "A paper boat in a rain gutter " + "turns around a stone and goes on, " * 12,
    f"A cat {HOSTILE}",
    "ネオンの街を歩く猫",
)
CALLS = ((3, 5), (27, 30, 31), (2, 3, 26), (10, 11, 12, 40, 41, 42))


def draw_clip(seed: int, num_frames: int = NUM_FRAMES) -> np.ndarray:
    """Make a film, uint8 (N, H, W, 3): a sky that changes, a hill, a ball on its way."""
    random = np.random.default_rng(seed)
    height, width = 180, 320
    top, bottom, ball, hill = random.integers(30, 226, (4, 3))
    y, x = np.mgrid[0:height, 0:width]
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for index in range(num_frames):
        share = (y / height)[..., None]
        frame = top * (1 - share) + bottom * share
        frame[y > 130 + 18 * np.sin(x / 40 + seed + index / 9)] = hill
        at_x, at_y = 30 + index * 11, 60 + 40 * np.cos(index / 4 + seed)
        frame[(x - at_x) ** 2 + (y - at_y) ** 2 < 22**2] = ball
        frames[index] = frame.clip(0, 255)
    return frames


def write_turn(words: str, verdict: int, numbers: Sequence[int] = ()) -> str:
    """Write a well-formed turn that asks for frames, or answers where none are given."""
    text = (
        f"<Snapshot>{words}: the ball leaves the frame early in video 1, "
        "while the hill of video 2 keeps its shape.</Snapshot><Think>Video 1 shows a jump between "
        "two frames; I want to see what lies between them before I trust it.\nVideo 2 is smooth so "
        "far.</Think>"
    )
    verdicts = f"TA=0, VQ={verdict}, MQ={verdict}, OA={verdict}"
    if not numbers:
        return f"{text}<Answer>{verdicts}, CF=1</Answer>"
    call = f'{{"name": "select_frames", "arguments": {{"target_frames": {list(numbers)}}}}}'
    return (
        f"{text}<Recommend Answer>{verdicts}, CF=3</Recommend Answer><tool_call>{call}</tool_call>"
    )


def write_replies(number: int, order: Order) -> list[str]:
    """Return the replies of one episode; what happens in it goes by its number."""
    verdict = (1, 2, 0)[number % 3] if order is Order.AB else (2, 1, 1)[number % 3]
    first, second = CALLS[number % 4], CALLS[(number + 1) % 4]
    answer = write_turn("At last", verdict)
    if number % 7 == 5:
        return ["I cannot tell <b>which</b> is better."]
    if number % 7 == 4:
        return [write_turn("At first", 0, [3, 999]), answer]
    if number % 7 == 3:
        return [answer]
    return [write_turn("At first", 0, first), write_turn("Then", verdict, second), answer]


class ScriptedModel:
    """Writes given replies, one a turn."""

    def __init__(self, replies: list[str]) -> None:
        self.replies = list(replies)

    async def __call__(self, messages, images) -> Reply:
        return Reply(self.replies.pop(0))


def make_samples(folder: Path, num_pairs: int, num_clips: int = 6) -> list[PreferenceSample]:
    """Write clips and return pairs of them; the paths are relative to the folder."""
    for seed in range(num_clips):
        if not (folder / f"{seed}.mp4").exists():
            write_clip(folder / f"{seed}.mp4", draw_clip(seed))
    return [
        PreferenceSample(
            f"pair-{number:03d}",
            PROMPTS[number % len(PROMPTS)],
            f"{number % num_clips}.mp4",
            f"{(number + 1 + number // num_clips) % num_clips}.mp4",
            {"TA": 0, "VQ": 1 + number % 2, "MQ": None, "OA": (1, 2, 0, 1)[number % 4]},
            meta={"pair_type": ("hidden", "visible", "tie")[number % 3]},
        )
        for number in range(num_pairs)
    ]


def play_records(folder: Path, num_pairs: int, store: FrameStore) -> list[EpisodeRecord]:
    """Play every pair in both orders; the last one fails in order BA."""
    setup = PlaySetup(
        RecordKind.EVALUATION, CONFIG, store, folder, identity=Identity(model="scripted-7b")
    )

    async def play_all() -> list[EpisodeRecord]:
        records = []
        for number, sample in enumerate(make_samples(folder, num_pairs)):
            for order in Order:
                model = ScriptedModel(write_replies(number, order))
                records.append(await play_episode(sample, order, setup, model))
        return records

    records = asyncio.run(play_all())
    last = records[-1]
    failure = EpisodeFailure(
        FailureKind.VIDEO, f"{last.own.video_2}: truncated <b>file</b>", last.uid, cause="truncated"
    )
    key = make_key(last.uid, Order.BA)
    details = {"identity": Identity(model="scripted-7b")}
    records[-1] = record_failure(RecordKind.EVALUATION, key, last.own, Order.BA, failure, **details)
    return records


def reward(record: EpisodeRecord) -> EpisodeRecord:
    """Return the record with a reward, as reinforcement learning writes it."""
    parts = {"accuracy": 0.75, "format_valid": 1.0, "needless": -0.1}
    return msgspec.structs.replace(
        record, kind=RecordKind.ROLLOUT, step=3, score=0.55, reward_parts=parts
    )
