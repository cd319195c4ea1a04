"""Episodes: the contract over many configurations and any replies, every ending, every rule of a
turn."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.episode_contract import (
    SAMPLE,
    VERDICT,
    answer_reply,
    call_reply,
    check_episode,
    pair_of,
    write_call,
)
from verl_videosearch.episode import Ending, Episode, EpisodeConfig, Reply, images_of
from verl_videosearch.judgement import Fault, Judgement, Problem
from verl_videosearch.prompts.pack import BUILT_IN
from verl_videosearch.tool import CallFault

CONFIGS = [
    EpisodeConfig(
        window=window, max_tool_calls=max_tool_calls, label_frames=label_frames, prompt_pack=style
    )
    for window, max_tool_calls, (label_frames, style) in product(
        (1, 2, None), range(7), [(True, "full"), (False, "brief")]
    )
]
PAIRS = [pair_of(*lengths) for lengths in [(48, 48), (1, 1), (3, 60), (60, 2), (8, 5)]]


def valid_calls(num: int, num_frames: int) -> list[Reply]:
    """Ask for other frames every time."""
    return [
        call_reply(i % num_frames + 1, (i + 3) % num_frames + 1, note=f"look {i}")
        for i in range(num)
    ]


@pytest.mark.parametrize(
    "config",
    CONFIGS,
    ids=lambda config: f"{config.window}-{config.max_tool_calls}-{config.prompt_style.value}",
)
def test_contract(config: EpisodeConfig) -> None:
    for candidates in PAIRS:
        calls = valid_calls(9, len(candidates))
        for num_calls in range(config.max_tool_calls + 3):
            result = check_episode(config, candidates, [*calls[:num_calls], answer_reply()]).result
            is_over = num_calls >= config.max_tool_calls + 2
            assert result.ending is (Ending.CALL_LIMIT if is_over else Ending.ANSWERED)
            assert sum(bool(outcome.frame_numbers) for outcome in result.outcomes) == min(
                num_calls, config.max_tool_calls
            )
        check_episode(config, candidates, calls[:2])  # stopped as overlong
        check_episode(
            config,
            candidates,
            [Reply(text) for text in ("<tool_call>", write_call(0), write_call("3"), "")],
        )


PIECES = st.sampled_from(
    [
        "<Snapshot>",
        "</Snapshot>",
        "<Think>x</Think>",
        "<Recommend Answer>",
        "</Recommend Answer>",
        "<Answer>",
        "</Answer>",
    ]
    + [
        "<tool_call>",
        "</tool_call>",
        VERDICT,
        VERDICT[:-1] + "7",
        write_call(1),
        write_call(2, 2),
        write_call(0, 3),
    ]
    + [write_call(*range(1, 10)), write_call(True), "<|im_end|>", "\n", "\ud800"]
)
GARBAGE = st.builds(
    Reply, st.lists(PIECES | st.text(max_size=4), max_size=9).map("".join), st.booleans()
)
VALID = st.builds(call_reply, st.integers(1, 4), st.integers(1, 4))
SETTINGS = st.builds(
    EpisodeConfig,
    initial_frames_per_video=st.integers(1, 5),
    max_frames_per_call=st.sampled_from([1, 2, 8, 24]),
    max_tool_calls=st.sampled_from([0, 1, 2, 3, 6]),
    window=st.sampled_from([1, 1, 2, 3, None]),
    label_frames=st.booleans(),
    prompt_pack=st.sampled_from(BUILT_IN),
)


@settings(deadline=None)  # machines that run the tests are shared
@given(
    SETTINGS,
    st.builds(pair_of, st.integers(1, 60), st.integers(1, 60)),
    st.lists(GARBAGE | VALID | VALID, min_size=2, max_size=9),
)
def test_contract_for_any_reply(
    config: EpisodeConfig, candidates: object, replies: list[Reply]
) -> None:
    check_episode(config, candidates, replies)


RUNS = st.builds(
    lambda start, size: range(start, start + size),
    st.integers(1, 30),
    st.sampled_from([1, 2, 8, 20]),
)


@settings(deadline=None)  # machines that run the tests are shared
@given(SETTINGS, st.lists(RUNS, min_size=2, max_size=8))
def test_contract_for_any_frames(config: EpisodeConfig, asked: list[range]) -> None:
    check_episode(config, pair_of(30, 30), [call_reply(*numbers) for numbers in asked])


ONE_CALL = EpisodeConfig(max_tool_calls=1)
TEXT, ANSWER = "<Snapshot>a</Snapshot><Think>b</Think>", f"<Answer>{VERDICT}</Answer>"
ENDINGS = [
    ([answer_reply()], Ending.ANSWERED, None),
    ([call_reply(1), answer_reply()], Ending.ANSWERED, None),
    (
        [call_reply(1), call_reply(2), answer_reply()],
        Ending.ANSWERED,
        None,
    ),  # told to answer, and did
    (
        [Reply(TEXT + ANSWER, is_truncated=True)],
        Ending.ANSWERED,
        None,
    ),  # the last token that fitted closed it
    ([Reply(ANSWER + write_call(1))], Ending.ANSWERED, None),  # the turn ended at the answer
    ([Reply(ANSWER + "<Answer>")], Ending.ANSWERED, None),
    ([answer_reply("OA=1")], Ending.UNREADABLE, Problem.MISSING_KEY),
    ([answer_reply("video 1")], Ending.UNREADABLE, Problem.NOT_A_PAIR),
    ([Reply(ANSWER + "<Answer>TA=2</Answer>")], Ending.UNREADABLE, Problem.CONFLICTING),
    ([Reply("<Answer>TA=1, VQ")], Ending.UNREADABLE, Problem.TRUNCATED),  # it stopped by itself
    ([call_reply(1), Reply("<Answer> </Answer>")], Ending.UNREADABLE, Problem.EMPTY),
    ([Reply("")], Ending.NO_ANSWER, Problem.NO_ANSWER),
    ([Reply("Video 1 is better.")], Ending.NO_ANSWER, Problem.NO_ANSWER),
    (
        [Reply(f"<Recommend Answer>{VERDICT}</Recommend Answer>")],
        Ending.NO_ANSWER,
        Problem.NO_ANSWER,
    ),
    ([Reply("</tool_call>")], Ending.NO_ANSWER, Problem.NO_ANSWER),
    ([Reply("<Think>so", is_truncated=True)], Ending.TRUNCATED, Problem.TRUNCATED),
    ([Reply("<Answer>TA=1, VQ", is_truncated=True)], Ending.TRUNCATED, Problem.TRUNCATED),
    ([Reply('<tool_call>{"name": "sel', is_truncated=True)], Ending.TRUNCATED, Problem.TRUNCATED),
    ([call_reply(1), call_reply(2), call_reply(3)], Ending.CALL_LIMIT, Problem.NO_ANSWER),
    ([Reply("<tool_call>")] * 3, Ending.CALL_LIMIT, Problem.NO_ANSWER),
    ([], Ending.OVERLONG, Problem.NO_ANSWER),
    ([call_reply(1)], Ending.OVERLONG, Problem.NO_ANSWER),
]


@pytest.mark.parametrize(("replies", "ending", "problem"), ENDINGS)
def test_endings(replies: list[Reply], ending: Ending, problem: Problem | None) -> None:
    result = check_episode(ONE_CALL, pair_of(8, 8), replies).result
    assert result.ending is ending
    if problem is None:
        assert result.verdict == Judgement({"TA": 0, "VQ": 1, "MQ": 0, "OA": 1})
    else:
        assert result.verdict.problem is problem


def test_every_ending_has_a_row() -> None:
    assert {ending for _, ending, _ in ENDINGS} == set(Ending)


@pytest.mark.parametrize(
    ("text", "fault", "frames", "told"),
    [
        (write_call(3, 60), None, (3, 60), "Frames 3, 60:"),
        (write_call(3, 60, 3), None, (3, 60), "You named 3 more than once; each is shown once."),
        (write_call(0, 97), CallFault.OUT_OF_RANGE, (), "No frames: outside the videos: 0, 97."),
        (
            write_call(*range(1, 10)),
            CallFault.TOO_MANY,
            (),
            "No frames: you asked for 9 frames; at most 8 are allowed",
        ),
        (
            write_call(),
            CallFault.EMPTY_LIST,
            (),
            'No frames: "target_frames" must be a list of one or more',
        ),
        (
            write_call("3"),
            CallFault.NOT_INTEGERS,
            (),
            'No frames: "target_frames" must be a list of one or more',
        ),
        (
            write_call()[:-14] + "</tool_call>",
            CallFault.BAD_JSON,
            (),
            "No frames: the call is not valid JSON. Write <",
        ),
        (
            "<tool_call></tool_call>",
            CallFault.BAD_JSON,
            (),
            "No frames: the call is not valid JSON. Write <",
        ),
        ("<tool_call>" + write_call(1), None, (1,), "Frames 1:"),  # the second one is whole
        (
            "<tool_call>{}",
            CallFault.UNCLOSED_TAG,
            (),
            "No frames: the call was not closed with </tool_call>. Write",
        ),
        (
            "<tool_call>{}<Think>b</Think>",
            CallFault.UNCLOSED_TAG,
            (),
            "No frames: the call was not closed",
        ),
        (
            write_call(1) + write_call(2),
            None,
            (1,),
            "You made more than one call; only the first one counts.",
        ),
        (
            write_call(0) + write_call(2),
            CallFault.OUT_OF_RANGE,
            (),
            "more than one call; only the first one counts.",
        ),
        (write_call(1) + ANSWER, None, (1,), "Frames 1:"),  # the turn ended at the call
    ],
)
def test_what_a_call_gets(
    text: str, fault: CallFault | None, frames: tuple[int, ...], told: str
) -> None:
    trace = check_episode(EpisodeConfig(), pair_of(48, 48), [Reply(text), answer_reply()])
    outcome = trace.result.turns[0].outcome
    assert (outcome.fault, outcome.frame_numbers) == (fault, frames)
    answer = "\n".join(
        item["text"] for item in trace.contexts[1][-1]["content"] if item["type"] == "text"
    )
    assert told in answer and "You may call the tool twice more." in answer


@pytest.mark.parametrize(
    "text", [write_call(1), write_call(0), "<tool_call>", write_call(1) + write_call(2)]
)
def test_after_the_call_limit_an_answer_is_due(text: str) -> None:
    trace = check_episode(ONE_CALL, pair_of(48, 48), [call_reply(1), Reply(text), answer_reply()])
    assert trace.result.turns[1].outcome.fault is CallFault.CALL_LIMIT
    told = trace.contexts[2][-1]["content"][0]["text"]
    assert (
        told.startswith("No frames: ")
        and "An answer is due now" in told
        and "No calls are left" in told
    )
    assert "Write <tool_call>" not in told


@pytest.mark.parametrize(
    ("replies", "faults"),
    [
        ([answer_reply()], [()]),
        ([call_reply(1), answer_reply()], [(), ()]),
        ([answer_reply(snapshot="")], [(Fault.NO_SNAPSHOT,)]),  # the initial view is new
        ([call_reply(1), answer_reply(snapshot="")], [(), (Fault.NO_SNAPSHOT,)]),
        (
            [call_reply(0), answer_reply(snapshot="")],
            [(), ()],
        ),  # no frames came, so there is nothing to note
        ([call_reply(0), answer_reply()], [(), ()]),
        ([Reply(TEXT + write_call(1)), answer_reply()], [(Fault.NO_RECOMMENDATION,), ()]),
        ([call_reply(1, verdict="OA"), answer_reply()], [(Fault.UNREADABLE_VERDICT,), ()]),
        ([call_reply(1, verdict=VERDICT), answer_reply()], [(Fault.NO_CONFIDENCE,), ()]),
        ([Reply("So: " + answer_reply().text)], [(Fault.OUTSIDE_TEXT,)]),
    ],
)
def test_well_formed_turns(replies: list[Reply], faults: list[tuple[Fault, ...]]) -> None:
    result = check_episode(EpisodeConfig(), pair_of(8, 8), replies).result
    assert [record.faults for record in result.turns] == faults
    assert result.is_well_formed == (not any(faults))


@pytest.mark.parametrize("replies", [[answer_reply("OA")], [call_reply(1)], [Reply("")]])
def test_without_an_answer_an_episode_is_not_well_formed(replies: list[Reply]) -> None:
    assert not check_episode(EpisodeConfig(), pair_of(8, 8), replies).result.is_well_formed


def test_recommendations_are_the_readable_ones_and_the_answer() -> None:
    replies = [
        call_reply(1, verdict="TA=1, VQ=1, MQ=1, OA=1"),
        call_reply(2, verdict="none"),
        answer_reply(),
    ]
    recommendations = check_episode(EpisodeConfig(), pair_of(8, 8), replies).result.recommendations
    assert [judgement.verdicts["TA"] for judgement in recommendations] == [1, 0]


@pytest.mark.parametrize(
    ("window", "calls", "grew", "num_images", "num_evictions"),
    [
        (1, [(9,), (10, 11), (12,)], (True, False, False), [8, 9, 10, 9], 2),
        (2, [(9,), (10, 11), (12,)], (True, True, False), [8, 9, 11, 11], 1),
        (None, [(9,), (10, 11), (12,)], (True, True, True), [8, 9, 11, 12], 0),
        (
            1,
            [(9,), (0,), (12,)],
            (True, True, False),
            [8, 9, 9, 9],
            1,
        ),  # a refused call evicts nothing
        (1, [(0,), (0,), (12,)], (True, True, True), [8, 8, 8, 9], 0),
        (
            1,
            [(9,), (9,), (9,)],
            (True, False, False),
            [8, 9, 9, 9],
            2,
        ),  # the same frames are shown anew
    ],
)
def test_memory(
    window: int | None,
    calls: list[tuple[int, ...]],
    grew: tuple[bool, ...],
    num_images: list[int],
    num_evictions: int,
) -> None:
    replies = [*(call_reply(*numbers) for numbers in calls), answer_reply()]
    trace = check_episode(EpisodeConfig(window=window), pair_of(48, 48), replies)
    assert trace.grew == grew
    assert [len(images_of(context)) for context in trace.contexts] == num_images
    assert trace.result.num_evictions == num_evictions


def test_six_calls_with_window_one_cost_the_same_from_turn_three_on() -> None:
    calls = [call_reply(*range(8 * i + 1, 8 * i + 9)) for i in range(6)]
    trace = check_episode(
        EpisodeConfig(max_tool_calls=6), pair_of(48, 48), [*calls, answer_reply()]
    )
    assert [len(images_of(context)) for context in trace.contexts] == [8, 16, 16, 16, 16, 16, 16]


def test_an_overlong_end_forgets_nothing_that_the_last_reply_saw() -> None:
    trace = check_episode(EpisodeConfig(), pair_of(48, 48), [call_reply(9), call_reply(10)])
    assert trace.result.ending is Ending.OVERLONG and trace.result.num_evictions == 0
    assert [image["frame_number"] for image in images_of(trace.transcript)][8:] == [9]


def test_the_models_words_are_never_rewritten() -> None:
    text = f" <think>\u00e9e\u0301 \r\n\t<|im_end|></think>{write_call(1)} trailing \u2028 "
    trace = check_episode(EpisodeConfig(), pair_of(8, 8), [Reply(text), answer_reply()])
    assert trace.contexts[1][2]["content"] == [{"type": "text", "text": text}]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"frames_per_video": 0}, "frames_per_video must be a whole number of at least 1, got 0"),
        ({"max_tool_calls": -1}, "max_tool_calls must be a whole number of at least 0, got -1"),
        (
            {"max_frames_per_call": 2.0},
            "max_frames_per_call must be a whole number of at least 1, got 2.0",
        ),
        ({"max_tool_calls": True}, "max_tool_calls must be a whole number of at least 0, got True"),
        ({"patch_multiple": "28"}, "patch_multiple must be a whole number of at least 1, got '28'"),
        (
            {"window": 0},
            "window must be a whole number of at least 1, or null, got 0",
        ),
        ({"window": "all"}, "window must be a whole number of at least 1, or null, got 'all'"),
        ({"label_frames": "no"}, "label_frames must be true or false, got 'no'"),
        (
            {"prompt_pack": "short"},
            "prompt_pack must be a text that is one of 'full', 'brief' or ends",
        ),
        ({"prompt_style": "full", "prompt_pack": "brief"}, "unknown setting 'prompt_style'"),
        ({"tools": []}, "tools must be a list of tool names, got ()"),
        ({"tools": "select_frames"}, "tools must be a list of tool names, got 'select_frames'"),
        (
            {"frames_per_video": 3},
            "initial_frames_per_video (4) must not exceed frames_per_video (3)",
        ),
        (
            {"tool_max_pixels": 700},
            "tool_max_pixels must hold one patch, patch_multiple ** 2 = 784; got 700",
        ),
        (
            {"windows": 1},
            "unknown setting 'windows', perhaps 'window'? (allowed: frames_per_video,",
        ),
    ],
)
def test_config_refuses(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError) as error:
        EpisodeConfig.from_dict(settings)
    assert words in str(error.value)


def test_config_tells_all_mistakes_at_once() -> None:
    settings = {
        "window": 0,
        "frames_per_video": 0,
        "prompt_pack": "short",
        "windows": 1,
        "label_frames": None,
    }
    with pytest.raises(ValueError) as error:
        EpisodeConfig.from_dict(settings)
    assert all(f"{name}" in str(error.value) for name in settings)


def test_config_from_plain_settings() -> None:
    config = EpisodeConfig.from_dict({"window": None, "prompt_style": "brief", "max_tool_calls": 6})
    assert config == EpisodeConfig(window=None, prompt_pack="brief", max_tool_calls=6)
    assert config.prompt_pack == "brief" and config.pack.base == "brief" and config.max_turns == 8
    assert EpisodeConfig.from_dict({}) == EpisodeConfig()


def test_dimensions_come_from_the_sample() -> None:
    episode = Episode(SAMPLE, pair_of(8, 8), EpisodeConfig())
    episode.step(Reply("<Answer>TA=0, VQ=1, OA=1</Answer>"))
    assert episode.result().verdict.detail == "MQ"
