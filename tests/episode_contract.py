"""The contract of an Episode as one check that any driver can reuse: over any configuration, for
any replies.

The one idea: every promise is computed here a second time, from what was written and what came back
first, and compared with what the model reads later; the first broken promise is an
`AssertionError`::

    trace = check_episode(EpisodeConfig(window=2), pair_of(48, 12), [call_reply(3, 60),
    answer_reply()]) trace.result.ending, trace.contexts[1]

Covers: limits, endings, visible images, memory, verbatim replies, growth of the context. Does not
cover: the wording (`golden/`), tokens (`verl_plugin`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from verl_videosearch import prompts
from verl_videosearch.episode import (
    Ending,
    Episode,
    EpisodeConfig,
    EpisodeResult,
    Message,
    Reply,
    images_of,
)
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.sample import PreferenceSample

SAMPLE = PreferenceSample("a", "a cat runs", "1.mp4", "2.mp4", {"TA": 0, "VQ": 1, "MQ": 2, "OA": 1})
VERDICT = "TA=0, VQ=1, MQ=0, OA=1"


def pair_of(num_1: int, num_2: int) -> CandidateFrames:
    """Make candidate frames of two videos at 4 and at 2 frames per second."""
    return CandidateFrames(tuple(i / 4 for i in range(num_1)), tuple(i / 2 for i in range(num_2)))


def write_call(*numbers: object) -> str:
    """Write a call as the model does."""
    call = {"name": "select_frames", "arguments": {"target_frames": numbers}}
    return f"<tool_call>{json.dumps(call)}</tool_call>"


def call_reply(
    *numbers: object, verdict: str = "TA=0, VQ=0, MQ=0, OA=0, CF=3", note: str = "seen"
) -> Reply:
    """Write a well-formed turn that asks for frames."""
    recommendation = f"<Recommend Answer>{verdict}</Recommend Answer>"
    return Reply(
        f"<Snapshot>{note}</Snapshot><Think>open</Think>{recommendation}{write_call(*numbers)}"
    )


def answer_reply(verdict: str = VERDICT, *, snapshot: str = "<Snapshot>seen</Snapshot>") -> Reply:
    """Write a well-formed last turn."""
    return Reply(f"{snapshot}<Think>settled</Think><Answer>{verdict}</Answer>")


@dataclass(frozen=True)
class Trace:
    """A finished episode with every context that a reply was written from."""

    contexts: tuple[list[Message], ...]
    transcript: list[Message]
    grew: tuple[bool, ...]
    """Whether context i + 1 only appended to context i."""
    result: EpisodeResult


def check_episode(
    config: EpisodeConfig,
    candidates: CandidateFrames,
    replies: Iterable[Reply],
    sample: PreferenceSample = SAMPLE,
) -> Trace:
    """Drive one episode and check every promise at every turn; when the replies run out it is
    stopped as overlong."""
    episode, script = Episode(sample, candidates, config), iter(replies)
    contexts: list[list[Message]] = []
    written: list[Reply] = []
    brought: list[tuple[int, ...]] = []  # by each turn, () where it brought no frames
    grew: list[bool] = []
    while not episode.is_done:
        context = episode.messages()
        assert context == episode.messages(), "rendering has no side effects"
        if contexts:
            brought.append(tuple(image["frame_number"] for image in images_of(context[-1:])))
            expected = [*contexts[-1], assistant_message(written[-1])]
            grew.append(episode.context_grew())
            assert grew[-1] == (context[: len(expected)] == expected), (
                "context_grew() says whether it only appended"
            )
        check_context(context, config, candidates, written, brought)
        with pytest.raises(AssertionError, match="still running"):
            episode.result()
        contexts.append(context)
        reply = next(script, None)
        if reply is None:
            episode.stop_overlong()
        else:
            episode.step(reply)
            written.append(reply)
    check_end(episode, contexts, written, brought)
    return Trace(tuple(contexts), episode.messages(), tuple(grew), episode.result())


def assistant_message(reply: Reply) -> Message:
    return {"role": "assistant", "content": [{"type": "text", "text": reply.text}]}


def check_context(
    context: list[Message],
    config: EpisodeConfig,
    candidates: CandidateFrames,
    written: list[Reply],
    brought: list[tuple[int, ...]],
) -> None:
    """Check what the next reply will be written from."""
    roles = [message["role"] for message in context]
    assert roles == ["system", "user"] + ["assistant", "user"] * len(written), (
        "every reply was answered"
    )
    assert context[2::2] == [assistant_message(reply) for reply in written], (
        "replies stay word for word"
    )
    assert len(written) < config.max_turns, "the turns are limited"

    initial = candidates.initial_view(config.initial_frames_per_video)
    with_frames = [index for index, numbers in enumerate(brought) if numbers]
    visible = with_frames if config.window is None else with_frames[-config.window :]
    asked = [number for index in visible for number in brought[index]]
    images = images_of(context)
    assert [image["frame_number"] for image in images] == [*initial, *asked], (
        "the initial view, then the window"
    )
    budgets = [config.initial_max_pixels] * len(initial) + [config.tool_max_pixels] * len(asked)
    assert [image["max_pixels"] for image in images] == budgets
    assert len(with_frames) <= config.max_tool_calls, "the calls are limited"
    assert all(
        len(set(numbers)) == len(numbers) <= config.max_frames_per_call for numbers in brought
    )
    if config.window is not None:
        assert len(images) <= len(initial) + config.window * config.max_frames_per_call, (
            "the images are limited"
        )

    for index in set(with_frames) - set(visible):
        (note,) = context[3 + 2 * index]["content"]
        numbers = ", ".join(map(str, brought[index]))
        assert f"Frames {numbers} were shown here" in note["text"], "what was forgotten is named"
    check_labels(context, config, candidates)


def check_labels(
    context: list[Message], config: EpisodeConfig, candidates: CandidateFrames
) -> None:
    """Check that each image stands behind its own number, video and time, or that none does."""
    for message in context:
        for before, item in zip([None, *message["content"]], message["content"], strict=False):
            if item["type"] == "image":
                label = prompts.frame_label(item["frame_number"], candidates, config.pack)
                assert (before == {"type": "text", "text": label}) == config.label_frames


def check_end(
    episode: Episode,
    contexts: list[list[Message]],
    written: list[Reply],
    brought: list[tuple[int, ...]],
) -> None:
    """Check that the end is the end, and that the result tells what happened."""
    result, transcript, config = episode.result(), episode.messages(), episode.config
    for act in (lambda: episode.step(answer_reply()), episode.stop_overlong):
        with pytest.raises(AssertionError, match="the episode is over"):
            act()
    assert (episode.result(), episode.messages()) == (result, transcript), "an end does not change"

    assert len(result.turns) == len(written) <= config.max_turns
    assert [record.reply for record in result.turns] == written
    outcomes = [record.outcome for record in result.turns]
    assert [outcome.frame_numbers if outcome else () for outcome in outcomes][
        : len(brought)
    ] == brought
    views = [[(image.number, image.region) for image in images_of(each)] for each in contexts]
    gained = [
        sum((image.number, image.region) not in view for image in images_of(after[-1:]))
        for view, after in zip(views, contexts[1:], strict=False)
    ]
    assert [record.num_new_frames for record in result.turns][: len(gained)] == gained
    assert result.has_searched == any(record.num_new_frames for record in result.turns)
    assert [record.num_visible_images for record in result.turns] == [
        len(images_of(context)) for context in contexts[: len(written)]
    ]
    if written:
        last = contexts[len(written) - 1]
        assert transcript == [*last, assistant_message(written[-1])], (
            "the transcript is what the last reply was part of"
        )
    num_forgotten = sum(
        "were shown here and have left your view" in m["content"][0]["text"]
        for m in transcript[3::2]
    )
    assert result.num_evictions == num_forgotten
    assert (result.ending is Ending.ANSWERED) == hasattr(result.verdict, "verdicts")
    assert json.loads(json.dumps(transcript)) == transcript
