"""The second tool, as a user adds it: one file and one line of settings."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from examples.zoom_tool import ZoomFault
from tests.episode_contract import SAMPLE, answer_reply, call_reply, check_episode, pair_of
from verl_videosearch.episode import Episode, EpisodeConfig, Reply, images_of
from verl_videosearch.frames import ImageReference
from verl_videosearch.reward import RewardConfig, measure_episode, score_episode
from verl_videosearch.rollout import run_episode
from verl_videosearch.runs.record import RecordKind, record_episode, replay_episode
from verl_videosearch.sample import Order
from verl_videosearch.tool import CallFault
from verl_videosearch.video.pair import PairFrames, cut_region

CONFIG = EpisodeConfig.from_dict(
    {
        "tools": ["select_frames", "pkg://examples.zoom_tool:ZoomTool"],
        "tool_max_pixels": 28 * 28 * 4,
    }
)
BEFORE = (
    "<Snapshot>seen</Snapshot><Think>open</Think>"
    "<Recommend Answer>TA=0, VQ=0, MQ=0, OA=0, CF=3</Recommend Answer>"
)


def zoom_reply(arguments: str) -> Reply:
    return Reply(f'{BEFORE}<tool_call>{{"name": "zoom", "arguments": {arguments}}}</tool_call>')


ZOOM = zoom_reply('{"frame": 9, "box": [0.5, 0, 1, 0.5]}')


def test_the_prompt_shows_both_tools() -> None:
    (item,) = Episode(SAMPLE, pair_of(8, 8), CONFIG).messages()[0]["content"]
    assert '"name": "select_frames"' in item["text"] and '"name": "zoom"' in item["text"]
    assert "</tool_call> or <tool_call>" in item["text"]


def test_a_zoom_stands_under_the_window() -> None:
    trace = check_episode(CONFIG, pair_of(8, 8), [ZOOM, call_reply(2), answer_reply()])
    zoomed = images_of(trace.contexts[1])[-1]
    assert zoomed == ImageReference(9, CONFIG.tool_max_pixels, (0.5, 0, 1, 0.5))
    assert zoomed not in images_of(trace.contexts[2])
    assert "Frames 9 were shown here" in trace.contexts[2][3]["content"][0]["text"]
    assert trace.result.is_well_formed


def test_a_zoom_of_a_frame_in_view_is_a_search() -> None:
    result = check_episode(CONFIG, pair_of(8, 8), [ZOOM, answer_reply()]).result
    assert result.has_searched and result.turns[0].num_new_frames == 1
    again = check_episode(replace(CONFIG, window=None), pair_of(8, 8), [ZOOM, ZOOM, answer_reply()])
    assert [turn.num_new_frames for turn in again.result.turns] == [1, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ("{}", ZoomFault.BAD_ARGUMENTS),
        ('{"frame": 1, "box": [0, 0, 1, 1], "x": 1}', ZoomFault.BAD_ARGUMENTS),
        ('{"frame": 0, "box": [0, 0, 1, 1]}', ZoomFault.BAD_FRAME),
        ('{"frame": true, "box": [0, 0, 1, 1]}', ZoomFault.BAD_FRAME),
        ('{"frame": 1, "box": [0.5, 0, 0.5, 1]}', ZoomFault.BAD_BOX),
        ('{"frame": 1, "box": [0, 0, 2, 1]}', ZoomFault.BAD_BOX),
        ('{"frame": 1, "box": NaN}', ZoomFault.BAD_BOX),
        ("[]", CallFault.NO_ARGUMENTS),
    ],
)
def test_a_wrong_zoom_is_counted_by_tool(arguments: str, fault: object) -> None:
    trace = check_episode(CONFIG, pair_of(8, 8), [zoom_reply(arguments), answer_reply()])
    outcome, result = trace.result.turns[0].outcome, trace.result
    assert (outcome.fault, outcome.tool, outcome.images) == (fault, "zoom", ())
    assert 'Write <tool_call>{"name": "zoom"' in trace.contexts[1][-1]["content"][0]["text"]
    score = score_episode(result, SAMPLE.labels, 0.5, RewardConfig())
    measures = measure_episode(result, score, SAMPLE.labels)
    assert (measures["num_calls_zoom"], measures["num_calls_select_frames"]) == (1, 0)
    names = {f"invalid_zoom_{each.value}" for each in ZoomFault}
    assert names <= set(measures)
    assert sum(measures[name] for name in names) == isinstance(fault, ZoomFault)


def test_the_pixels_are_those_of_the_box_at_full_resolution() -> None:
    frames = np.zeros((8, 224, 224, 3), np.uint8)
    frames[0, :112, 112:] = np.random.default_rng(0).integers(0, 255, (112, 112, 3))
    pair = PairFrames(pair_of(8, 8), frames, frames)
    seen = []

    async def judge(messages: list, images: list) -> Reply:
        seen.append(images)
        return ZOOM if len(seen) == 1 else answer_reply()

    config = replace(CONFIG, tool_max_pixels=112 * 112)
    asyncio.run(run_episode(Episode(SAMPLE, pair.candidates, config), pair, judge))
    assert (np.asarray(seen[1][-1]) == frames[0, :112, 112:]).all()
    small = pair.image(9, 56 * 56, (0.5, 0, 1, 0.5))
    assert small.size == (56, 56)


def test_a_tiny_box_grows_to_a_patch_inside_the_frame() -> None:
    frame = np.arange(100 * 100 * 3, dtype=np.uint8).reshape(100, 100, 3)
    assert cut_region(frame, (0.95, 0.95, 1.0, 1.0), 28).shape == (28, 28, 3)
    assert cut_region(frame[:20, :20], (0, 0, 0.1, 0.1), 28).shape == (20, 20, 3)


def test_a_record_keeps_the_zoom() -> None:
    episode = Episode(SAMPLE, pair_of(8, 8), CONFIG)
    for reply in (ZOOM, answer_reply()):
        episode.step(reply)
    record = record_episode(RecordKind.EVALUATION, "a AB", SAMPLE, Order.AB, episode)
    assert record.has_searched and record.turns[0].regions == ((0.5, 0.0, 1.0, 0.5),)
    assert replay_episode(record).messages() == episode.messages()
