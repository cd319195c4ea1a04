"""Alarms: literal tables of logged figures, what each sounds, and that no log can break the
reading."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_videosearch.verl_plugin.alarms import AlarmConfig, AlarmKind, find_alarms

NAN = math.nan
SHORT = AlarmConfig(window_steps=4)


def step(**figures: Any) -> dict[str, Any]:
    """Return a step as logged, of 32 episodes unless said otherwise."""
    return {
        f"videosearch/{name}": value for name, value in ({"num_episodes": 32.0} | figures).items()
    }


def sounds(history: Sequence[Mapping[str, Any]], config: AlarmConfig = SHORT) -> list[str]:
    return [alarm.kind.value for alarm in find_alarms(history, config)]


def message_of(history: Sequence[Mapping[str, Any]], config: AlarmConfig = SHORT) -> str:
    (alarm,) = find_alarms(history, config)
    return alarm.message


# One step


@pytest.mark.parametrize(
    ("rate", "limit", "is_on"),
    [
        (0.9, 0.2, False),
        (0.2, 0.2, False),  # the limit itself is allowed
        (0.19, 0.2, True),
        (0.0, 0.2, True),
        (0.0, 0.0, False),  # off
        (NAN, 0.2, False),
        (None, 0.2, False),  # NaN as the log's JSON writes it
    ],
)
def test_search_is_lost(rate: float | None, limit: float, is_on: bool) -> None:
    config = AlarmConfig(min_search_rate=limit)
    assert sounds([step(has_searched=rate)], config) == ["search_lost"] * is_on


@pytest.mark.parametrize(
    ("rate", "limit", "is_on"),
    [
        (0.0, 0.8, False),
        (0.8, 0.8, False),
        (0.81, 0.8, True),
        (0.9, 0.8, True),
        (1.0, 1.0, False),
        (NAN, 0.8, False),
    ],
)
def test_signal_is_lost(rate: float, limit: float, is_on: bool) -> None:
    config = AlarmConfig(max_filtered_group_rate=limit)
    assert sounds([step(filtered_group_rate=rate)], config) == ["signal_lost"] * is_on


@pytest.mark.parametrize(
    ("shares", "has_verdict", "is_on"),
    [
        ((0.3, 0.4, 0.3), 1.0, False),
        ((0.05, 0.9, 0.05), 1.0, False),
        ((0.0, 0.0, 1.0), 1.0, True),
        ((0.95, 0.05, 0.0), 1.0, True),
        ((0.0, 1.0, 0.0), 0.5, True),  # 16 verdicts of 32
        ((0.0, 1.0, 0.0), 15 / 32, False),  # too few to tell
        ((NAN, NAN, NAN), 0.0, False),
        ((0.0, 1.0, 0.0), NAN, False),
    ],
)
def test_one_verdict(shares: tuple[float, float, float], has_verdict: float, is_on: bool) -> None:
    figures = {f"verdict_{label}": share for label, share in enumerate(shares)}
    assert sounds([step(has_verdict=has_verdict, **figures)]) == ["one_verdict"] * is_on


def test_only_the_last_step_counts() -> None:
    lost, found = step(has_searched=0.0), step(has_searched=1.0)
    assert sounds([lost, found]) == []
    assert sounds([found, lost]) == ["search_lost"]


def test_all_kinds_may_sound_together_in_the_order_of_their_names() -> None:
    figures = {
        "has_searched": 0.0,
        "filtered_group_rate": 0.9,
        "has_verdict": 1.0,
        "verdict_2": 1.0,
        "correct_OA": 0.5,
    }
    history = [step(score=score, **figures) for score in (1.0, 1.0, 2.0, 2.0)]
    assert sounds(history) == [kind.value for kind in AlarmKind]


# A window of steps


@pytest.mark.parametrize(
    ("scores", "accuracies", "is_on"),
    [
        # median of the last two - median of the first two, of four steps
        ([1.0, 1.0, 1.25, 1.25], [0.5, 0.5, 0.5, 0.5], True),
        ([1.0, 1.0, 1.25, 1.25], [0.5, 0.5, 0.25, 0.25], True),
        ([1.0, 1.0, 1.25, 1.25], [0.5, 0.5, 0.505, 0.505], True),  # no more than noise
        ([1.0, 1.0, 1.25, 1.25], [0.5, 0.5, 0.625, 0.625], False),  # an honest rise
        ([1.0, 1.0, 1.03125, 1.03125], [0.5, 0.5, 0.5, 0.5], False),  # too small
        ([1.25, 1.25, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5], False),
        ([1.0, 1.0, 1.0, 1.25], [0.5, 0.5, 0.5, 0.5], True),  # the half rose by 0.125
        ([1.0, 1.25, 1.25], [0.5, 0.5, 0.5], False),  # not yet a window
        (
            [9.0, 9.0, 1.0, 1.0, 1.25, 1.25],
            [0.0, 0.0, 0.5, 0.5, 0.5, 0.5],
            True,
        ),  # what was before is forgotten
        # steps that lack one of the two are left out
        ([1.0, 1.0, 7.0, 1.25, 1.25], [0.5, 0.5, None, 0.5, 0.5], True),
        ([1.0, 1.0, 1.25, 1.25], [0.5, 0.5, NAN, 0.5], False),
        ([1.0, 1.0, 1.25, 1.25], [None] * 4, False),
        ([1e308, 1e308, 1e308, 1e308], [0.5] * 4, False),  # its median overflows
    ],
)
def test_reward_without_accuracy(
    scores: list[float], accuracies: list[float | None], is_on: bool
) -> None:
    history = [step(score=s, correct_OA=a) for s, a in zip(scores, accuracies, strict=True)]
    assert sounds(history) == ["reward_without_accuracy"] * is_on


@pytest.mark.parametrize("wild", range(6))
def test_one_wild_step_sounds_nothing_and_hides_nothing(wild: int) -> None:
    config = AlarmConfig(window_steps=6)
    for rise, kinds in ((0.0, []), (0.5, ["reward_without_accuracy"])):
        history = [step(score=1.0 + rise * (i >= 3), correct_OA=0.5) for i in range(6)]
        history[wild] |= step(score=9.0, correct_OA=0.5 + 0.5 * (wild >= 3))
        assert sounds(history, config) == kinds


def test_a_slow_rise_is_seen_within_the_default_window() -> None:
    history = [step(score=1.5 + 0.0075 * i, correct_OA=0.6) for i in range(20)]
    assert sounds(history[:19], AlarmConfig()) == []
    assert sounds(history, AlarmConfig()) == ["reward_without_accuracy"]
    assert (
        sounds(
            [
                figures | {"videosearch/correct_OA": 0.6 + 0.005 * i}
                for i, figures in enumerate(history)
            ]
        )
        == []
    )


@pytest.mark.parametrize("num_groups", [256, 32])
def test_the_chance_of_each_step_s_pairs_sounds_nothing(num_groups: int) -> None:
    """60 steps of a policy that does not change: pairs of every difficulty, 8 episodes of 4
    verdicts each."""
    draw = random.Random(0)
    history = []
    for _ in range(60):
        groups = [draw.betavariate(1.2, 1.2) for _ in range(num_groups)]
        hits = [[draw.random() < chance for _ in range(4)] for chance in groups for _ in range(8)]
        accuracy = sum(overall for overall, *_ in hits) / len(hits)
        dimensions = sum(sum(others) / 3 for _, *others in hits) / len(hits)
        history.append(step(score=1.0 + 0.5 * accuracy + 0.5 * dimensions, correct_OA=accuracy))
    assert [sounds(history[:end], AlarmConfig()) for end in range(20, 61)] == [[]] * 41


# What a line of the log may be


VALIDATION = {"val-core/clips/acc/mean@1": 0.5, "val-aux/clips/has_searched/mean@1": 0.0}


def test_validation_is_no_step() -> None:
    assert sounds([VALIDATION]) == sounds([]) == []
    lost, found = step(has_searched=0.0), step(has_searched=1.0)
    assert sounds([VALIDATION, lost, VALIDATION]) == ["search_lost"]
    assert sounds([lost, found | VALIDATION]) == []


def test_a_log_is_read_as_it_is() -> None:
    lines = [
        '{"step":0,"data":{"val-core/clips/acc/mean@1":0.5}}',
        '{"step":1,"data":{"videosearch/num_episodes":32.0,"videosearch/has_searched":0.75,"videosearch/verdict_0":null}}',
        '{"step":2,"data":{"videosearch/num_episodes":32.0,"videosearch/has_searched":0.125,"actor/lr":1e-06}}',
    ]
    history = [json.loads(line)["data"] for line in lines]
    assert [sounds(history[: i + 1]) for i in range(3)] == [[], [], ["search_lost"]]


NAMES = [
    "num_episodes",
    "has_searched",
    "filtered_group_rate",
    "has_verdict",
    "verdict_0",
    "verdict_1",
    "verdict_2",
]
NAMES += ["score", "correct_OA", "reward_format", "reward_gain"]
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just([0.5])
)
NUMBERS = st.floats(0, 2) | st.just(NAN)


@settings(deadline=None)  # machines that run the tests are shared
@given(st.lists(st.dictionaries(st.sampled_from(NAMES), VALUES | NUMBERS), max_size=8))
def test_no_log_can_break_the_reading(history: list[dict[str, Any]]) -> None:
    """Whatever stands in the log: no error, each kind at most once, and the same again with
    validation between."""
    logged = [
        {f"videosearch/{name}": value for name, value in figures.items()} for figures in history
    ]
    alarms = find_alarms(logged, SHORT)
    assert len({alarm.kind for alarm in alarms}) == len(alarms)
    assert not [alarm for alarm in alarms if "nan" in alarm.message]
    assert (
        find_alarms(
            [line for figures in logged for line in (VALIDATION, figures)] + [VALIDATION], SHORT
        )
        == alarms
    )


# Words


def test_a_message_says_what_was_got_the_limit_and_what_helps() -> None:
    search = message_of([step(has_searched=0.03125)])
    assert (
        "(videosearch/has_searched) is 0.0312, below videosearch.alarms.min_search_rate=0.2"
        in search
    )
    for words in (
        "earlier checkpoint",
        "cold-start traces that search",
        "optim.lr",
        "kl_loss_coef",
    ):
        assert words in search
    signal = message_of([step(filtered_group_rate=0.875)])
    assert "0.875 were filtered" in signal and "max_filtered_group_rate=0.8" in signal
    verdict = message_of([step(has_verdict=0.75, verdict_0=1.0, verdict_1=0.0, verdict_2=0.0)])
    assert (
        "Of 24 overall verdicts 1 are 0 (videosearch/verdict_0)" in verdict
        and "max_verdict_share=0.9" in verdict
    )


def test_the_parts_that_rose_are_named_the_largest_first() -> None:
    parts = [(1.0, 0.5, 0.0, 0.25, 7.0), (1.0, 0.5, 0.0, 0.25, 7.0), (1.125, 0.25, 0.5, 0.25, NAN)]
    names = ("reward_format", "reward_accuracy", "reward_gain", "reward_exploration", "reward_new")
    steps = [dict(zip(names, values, strict=True)) for values in (*parts, parts[-1])]
    history = [
        step(score=1.0 + 0.5 * (i > 1), correct_OA=0.5, **values) for i, values in enumerate(steps)
    ]
    message = message_of(history)
    assert "Over 4 steps the reward (videosearch/score) rose by 0.5" in message
    assert "min_reward_rise=0.05" in message and "max_accuracy_rise=0.01" in message
    assert "Parts that rose: gain +0.500, format +0.125." in message


# Settings


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"min_search_rate": -0.1}, ["min_search_rate must be a number from 0 to 1, got -0.1"]),
        ({"min_search_rate": True}, ["min_search_rate must be a number from 0 to 1, got True"]),
        (
            {"max_filtered_group_rate": "0.8"},
            ["max_filtered_group_rate must be a number from 0 to 1, got '0.8'"],
        ),
        ({"max_verdict_share": 90}, ["max_verdict_share must be a number from 0 to 1, got 90"]),
        ({"min_verdicts": 0}, ["min_verdicts must be a whole number of at least 1, got 0"]),
        ({"min_verdicts": 16.0}, ["min_verdicts must be a whole number of at least 1, got 16.0"]),
        ({"window_steps": 2}, ["window_steps must be an even whole number of at least 4, got 2"]),
        ({"window_steps": 5}, ["window_steps must be an even whole number of at least 4, got 5"]),
        (
            {"window_steps": None},
            ["window_steps must be an even whole number of at least 4, got None"],
        ),
        ({"min_reward_rise": 0}, ["min_reward_rise must be a positive number, got 0"]),
        ({"min_reward_rise": math.inf}, ["min_reward_rise must be a positive number, got inf"]),
        ({"max_accuracy_rise": NAN}, ["max_accuracy_rise must be a number from 0 to 1, got nan"]),
        (
            {"min_search_rate": 2, "min_verdicts": -1, "window_steps": 3, "min_reward_rise": -1},
            [
                "bad alarm settings: min_search_rate must",
                "; min_verdicts must",
                "; window_steps must",
                "; min_reward_rise",
            ],
        ),
    ],
)
def test_config_refuses_all_mistakes_at_once(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        AlarmConfig(**given)
    assert not [word for word in words if word not in str(error.value)]
