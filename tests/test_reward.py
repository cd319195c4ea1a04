"""The reward: each part by hand-computed values from the method's formulas, and the figures of
every outcome."""

import math
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.episode_contract import answer_reply, call_reply, check_episode, pair_of
from verl_videosearch.episode import Ending, EpisodeConfig, EpisodeResult, Reply
from verl_videosearch.judgement import Judgement, Problem, format_judgement
from verl_videosearch.reward import (
    RewardConfig,
    Score,
    load_function,
    measure_episode,
    measure_gain,
    score_episode,
)
from verl_videosearch.tool import CallFault

GOLD = {"TA": 0, "VQ": 1, "MQ": 2, "OA": 1}
RIGHT, NEUTRAL, WRONG = "TA=0, VQ=1, MQ=2, OA=1", "TA=0, VQ=0, MQ=0, OA=0", "TA=1, VQ=2, MQ=1, OA=2"
DEFAULT = RewardConfig()


def read(text: str) -> dict[str, int]:
    return {key: int(value) for key, value in (pair.split("=") for pair in text.split(", "))}


def sure(verdict: str) -> str:
    """Write a verdict as a recommendation, with its confidence."""
    return f"{verdict}, CF=1"


def play(*replies: Reply) -> EpisodeResult:
    return check_episode(EpisodeConfig(), pair_of(8, 8), replies).result


@pytest.mark.parametrize(
    ("verdict", "labels", "overall_weight", "accuracy"),
    [
        (RIGHT, GOLD, 0.5, 1.0),
        (WRONG, GOLD, 0.5, 0.0),
        (NEUTRAL, GOLD, 0.5, 1 / 6),  # OA wrong, one dimension of three: 0.5 * 1/3
        ("TA=0, VQ=1, MQ=0, OA=1", GOLD, 0.5, 5 / 6),  # 0.5 + 0.5 * 2/3
        ("TA=1, VQ=2, MQ=1, OA=1", GOLD, 0.5, 0.5),
        ("TA=0, VQ=1, MQ=2, OA=2", GOLD, 0.5, 0.5),
        ("TA=0, VQ=1, MQ=2, OA=2", GOLD, 0.25, 0.75),
        ("TA=1, VQ=2, MQ=1, OA=1", GOLD, 1, 1.0),
        ("TA=0, VQ=1, MQ=2, OA=2", GOLD, 0, 1.0),
        # a dimension without gold is left out of the mean
        (RIGHT, GOLD | {"MQ": None}, 0.5, 1.0),
        ("TA=0, VQ=2, MQ=0, OA=1", GOLD | {"MQ": None}, 0.5, 0.75),
        # without any the overall verdict counts alone, and the other way round
        ("TA=0, VQ=0, MQ=0, OA=1", {"TA": None, "VQ": None, "MQ": None, "OA": 1}, 0.5, 1.0),
        ("TA=0, VQ=0, MQ=0, OA=2", {"TA": None, "VQ": None, "MQ": None, "OA": 1}, 0.5, 0.0),
        ("TA=0, VQ=1, MQ=0, OA=0", GOLD | {"OA": None}, 0.5, 2 / 3),
        ("TA=0, VQ=0, MQ=0, OA=0", dict.fromkeys(GOLD), 0.5, 0.0),
        # a tie is a label like the others
        (NEUTRAL, dict.fromkeys(GOLD, 0), 0.5, 1.0),
    ],
)
def test_accuracy(
    verdict: str, labels: Mapping[str, int | None], overall_weight: float, accuracy: float
) -> None:
    assert RewardConfig(overall_weight=overall_weight).accuracy(
        read(verdict), labels
    ) == pytest.approx(accuracy)


def play_verdicts(verdicts: list[str]) -> EpisodeResult:
    """Play an episode that recommends all but the last verdict and answers with that one."""
    calls = [call_reply(2, verdict=f"{verdict}, CF=2") for verdict in verdicts[:-1]]
    config = EpisodeConfig(max_tool_calls=9)
    return check_episode(config, pair_of(8, 8), [*calls, answer_reply(verdicts[-1])]).result


@pytest.mark.parametrize(
    ("verdicts", "gain"),
    [
        ([RIGHT], 0.0),  # one readable judgement: no change
        ([WRONG, RIGHT], 1.0),
        ([RIGHT, WRONG], -1.0),
        ([NEUTRAL, RIGHT], 5 / 6),
        ([RIGHT, RIGHT], 0.0),
        ([WRONG, RIGHT, WRONG], 0.0),  # detours cancel
        ([NEUTRAL, WRONG, NEUTRAL, RIGHT], 5 / 6),
        # without a final verdict nothing was gained
        ([WRONG, RIGHT, "none"], 0.0),
        ([WRONG, RIGHT, "TA=0/1/2, VQ=0/1/2, MQ=0/1/2, OA=0/1/2"], 0.0),
        ([RIGHT, WRONG, ""], 0.0),
    ],
)
def test_gain_telescopes(verdicts: list[str], gain: float) -> None:
    assert measure_gain(play_verdicts(verdicts), GOLD, DEFAULT) == pytest.approx(gain)


VERDICTS = st.fixed_dictionaries({key: st.integers(0, 2) for key in GOLD})


@settings(deadline=None)  # machines that run the tests are shared
@given(st.lists(VERDICTS, min_size=1, max_size=6))
def test_gain_is_the_sum_of_all_changes(verdicts: list[dict[str, int]]) -> None:
    accuracies = [DEFAULT.accuracy(verdict, GOLD) for verdict in verdicts]
    changes = sum(after - before for before, after in zip(accuracies, accuracies[1:], strict=False))
    result = play_verdicts([format_judgement(Judgement(verdict)) for verdict in verdicts])
    assert measure_gain(result, GOLD, DEFAULT) == pytest.approx(changes)


@pytest.mark.parametrize(
    ("replies", "search_rate", "parts"),
    [
        # parts: format, accuracy, gain, exploration
        ([answer_reply(RIGHT)], 0.0, (1.0, 1.0, 0.0, 0.0)),
        ([answer_reply(WRONG)], 0.0, (1.0, 0.0, 0.0, 0.0)),
        ([answer_reply("OA=1")], 0.0, (0.0, 0.0, 0.0, 0.0)),
        ([Reply(f"<Answer>{RIGHT}</Answer>")], 0.0, (0.0, 1.0, 0.0, 0.0)),
        ([Reply("")], 0.0, (0.0, 0.0, 0.0, 0.0)),
        (
            [call_reply(2, verdict=sure(NEUTRAL)), answer_reply(RIGHT)],
            1.0,
            (1.0, 1.0, 0.2 * 5 / 6, 0.0),
        ),
        ([call_reply(2, verdict=sure(RIGHT)), answer_reply(WRONG)], 1.0, (1.0, 0.0, -0.2, 0.0)),
        # an unreadable recommendation is skipped, not counted as 0
        ([call_reply(2, verdict="none"), answer_reply(RIGHT)], 1.0, (0.0, 1.0, 0.0, 0.0)),
        (
            [
                call_reply(2, verdict=sure(WRONG)),
                call_reply(3, verdict="none"),
                answer_reply(RIGHT),
            ],
            1.0,
            (0.0, 1.0, 0.2, 0.0),
        ),
        # 0.5 * (0.2 - share of the group that searched), for who did
        ([call_reply(2, verdict=sure(RIGHT)), answer_reply(RIGHT)], 1 / 8, (1.0, 1.0, 0.0, 0.0375)),
        ([call_reply(2, verdict=sure(RIGHT)), answer_reply(RIGHT)], 2 / 8, (1.0, 1.0, 0.0, 0.0)),
        ([answer_reply(RIGHT)], 1 / 8, (1.0, 1.0, 0.0, 0.0)),
        (
            [call_reply(99, verdict=sure(RIGHT)), answer_reply(RIGHT)],
            0.0,
            (1.0, 1.0, 0.0, 0.0),
        ),  # no frames came back
        # it searched, then never answered
        ([call_reply(2, verdict=sure(WRONG)), Reply("")], 1 / 8, (0.0, 0.0, 0.0, 0.0375)),
        (
            [call_reply(2, verdict=sure(WRONG)), call_reply(3, verdict=sure(RIGHT)), Reply("")],
            1.0,
            (0.0, 0.0, 0.0, 0.0),  # better and better, but no verdict: no gain
        ),
        # frames that were in view already are no search
        ([call_reply(1, 13, verdict=sure(RIGHT)), answer_reply(RIGHT)], 0, (1.0, 1.0, 0.0, 0.0)),
        ([call_reply(1, 2, verdict=sure(RIGHT)), answer_reply(RIGHT)], 0, (1.0, 1.0, 0.0, 0.1)),
        # a recommendation without its confidence is not well-formed
        ([call_reply(2, verdict=RIGHT), answer_reply(RIGHT)], 1.0, (0.0, 1.0, 0.0, 0.0)),
    ],
)
def test_score(replies: list[Reply], search_rate: float, parts: tuple[float, ...]) -> None:
    score = score_episode(play(*replies), GOLD, search_rate, DEFAULT)
    assert tuple(score.parts) == ("format", "accuracy", "gain", "exploration", "needless")
    assert tuple(score.parts.values()) == pytest.approx((*parts, 0.0))
    assert score.total == pytest.approx(sum(parts))


def test_weights_scale_their_part() -> None:
    result = play(call_reply(2, verdict=sure(WRONG)), answer_reply(RIGHT))
    config = RewardConfig(
        format_weight=3, gain_weight=0.1, exploration_weight=2.0, exploration_target=0.5
    )
    assert score_episode(result, GOLD, 0.25, config).parts == pytest.approx(
        {"format": 3.0, "accuracy": 1.0, "gain": 0.1, "exploration": 0.5, "needless": 0.0}
    )


def test_a_call_costs_nothing() -> None:
    results = [
        play(*[call_reply(2, verdict=sure(RIGHT))] * num_calls, answer_reply(RIGHT))
        for num_calls in range(4)
    ]
    assert {score_episode(result, GOLD, 1.0, DEFAULT).total for result in results} == {2.0}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"overall_weight": 1.5}, ["overall_weight must be a number from 0 to 1, got 1.5"]),
        (
            {"gain_weight": -0.2},
            ["gain_weight must be a number of at least 0 that is finite, got -0.2"],
        ),
        (
            {"format_weight": "1"},
            ["format_weight must be a number of at least 0 that is finite, got '1'"],
        ),
        (
            {"format_weight": True},
            ["format_weight must be a number of at least 0 that is finite, got True"],
        ),
        (
            {"exploration_weight": None},
            ["exploration_weight must be a number of at least 0 that is finite, got None"],
        ),
        (
            {"exploration_weight": math.nan},
            ["exploration_weight must be a number of at least 0 that is finite, got nan"],
        ),
        (
            {"exploration_weight": math.inf},
            ["exploration_weight must be a number of at least 0 that is finite, got inf"],
        ),
        ({"exploration_target": 2}, ["exploration_target must be a number from 0 to 1, got 2"]),
        (
            {"alpha": 0.5},
            ["unknown setting 'alpha'", "(allowed: overall_weight, format_weight,"],
        ),
        (
            {"alpha": 0.5, "overall_weight": -1, "gain_weight": "k", "exploration_target": 9},
            ["'alpha'", "overall_weight must", "gain_weight must", "exploration_target must"],
        ),
    ],
)
def test_config_refuses_all_mistakes_at_once(settings: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        RewardConfig.from_dict(settings)
    assert all(word in str(error.value) for word in words)


def test_config_defaults_are_the_papers() -> None:
    config = RewardConfig.from_dict({})
    assert config == DEFAULT
    assert (config.overall_weight, config.gain_weight, config.exploration_weight) == (0.5, 0.2, 0.5)
    assert (config.exploration_target, config.format_weight) == (0.2, 1.0)


OUTCOMES = {
    "right": [answer_reply(RIGHT)],
    "searched": [call_reply(2), call_reply(99), call_reply(3), answer_reply(WRONG)],
    "unreadable": [answer_reply("OA")],
    "no answer": [Reply("")],
    "truncated": [Reply("<Think>", is_truncated=True)],
    "call limit": [call_reply(2)] * 5,
    "overlong": [call_reply(2)],
    "overlong at once": [],
}


@pytest.mark.parametrize("labels", [GOLD, GOLD | {"MQ": None}, dict.fromkeys(GOLD)])
def test_every_outcome_has_the_same_figures(labels: Mapping[str, int | None]) -> None:
    names = set()
    for replies in OUTCOMES.values():
        result = play(*replies)
        measures = measure_episode(result, score_episode(result, labels, 0.5, DEFAULT), labels)
        names.add(tuple(measures))
        assert all(type(value) is float for value in measures.values())
        without_gold = {f"correct_{key}" for key, label in labels.items() if label is None}
        shares = {"verdict_0", "verdict_1", "verdict_2"}
        without_verdict = set() if measures["has_verdict"] else shares
        assert {
            name for name, value in measures.items() if math.isnan(value)
        } == without_gold | without_verdict
        assert measures["has_verdict"] == 0 or sum(measures[name] for name in shares) == 1
        assert sum(measures[f"ending_{ending.value}"] for ending in Ending) == 1
        assert (
            sum(measures[f"unreadable_{problem.value}"] for problem in Problem)
            == 1 - measures["has_verdict"]
        )
        assert (
            sum(measures[f"invalid_{fault.value}"] for fault in CallFault)
            == measures["num_invalid_calls"]
        )
    assert len(names) == 1


@pytest.mark.parametrize(
    ("outcome", "figures"),
    [
        (
            "right",
            {
                "score": 2.0,
                "acc": 1.0,
                "has_verdict": 1,
                "correct_OA": 1,
                "num_calls": 0,
                "num_turns": 1,
            },
        ),
        ("right", {"verdict_0": 0, "verdict_1": 1, "verdict_2": 0}),
        ("searched", {"verdict_0": 0, "verdict_1": 0, "verdict_2": 1}),
        (
            "searched",
            {
                "has_searched": 1,
                "num_calls": 3,
                "num_invalid_calls": 1,
                "invalid_out_of_range": 1,
                "num_evictions": 1,
            }
            | {
                "num_frames_asked": 2,
                "num_turns": 4,
                "visible_images_per_turn": (8 + 9 + 9 + 9) / 4,
                "correct_OA": 0,
            },
        ),
        (
            "unreadable",
            {"ending_unreadable": 1, "unreadable_not_a_pair": 1, "has_verdict": 0, "correct_OA": 0},
        ),
        (
            "no answer",
            {"ending_no_answer": 1, "unreadable_no_answer": 1, "acc": 0, "is_well_formed": 0},
        ),
        ("truncated", {"ending_truncated": 1, "unreadable_truncated": 1}),
        (
            "call limit",
            {
                "ending_call_limit": 1,
                "invalid_call_limit": 2,
                "num_calls": 5,
                "num_invalid_calls": 2,
            },
        ),
        ("overlong", {"ending_overlong": 1, "has_searched": 1, "num_evictions": 0}),
        ("overlong at once", {"ending_overlong": 1, "num_turns": 0, "visible_images_per_turn": 0}),
    ],
)
def test_figures(outcome: str, figures: dict[str, float]) -> None:
    result = play(*OUTCOMES[outcome])
    measures = measure_episode(result, score_episode(result, GOLD, 1.0, DEFAULT), GOLD)
    assert {name: measures[name] for name in figures} == pytest.approx(figures)


@pytest.mark.parametrize(
    ("replies", "num_needless"),
    [
        ([answer_reply(RIGHT)], 0),
        ([call_reply(2, verdict=sure(RIGHT)), answer_reply(RIGHT)], 1),
        ([call_reply(99, verdict=sure(RIGHT)), answer_reply(RIGHT)], 1),  # refused, and needless
        ([call_reply(2, verdict=sure(NEUTRAL)), answer_reply(RIGHT)], 0),
        ([call_reply(2, verdict="none"), answer_reply(RIGHT)], 0),
        (
            [call_reply(2, verdict=sure(WRONG)), call_reply(4, verdict=sure(RIGHT)), Reply("")],
            1,
        ),
    ],
)
def test_only_a_needless_call_has_a_price(replies: list[Reply], num_needless: int) -> None:
    result, config = play(*replies), RewardConfig(needless_call_price=0.25)
    score, free = (score_episode(result, GOLD, 1.0, each) for each in (config, DEFAULT))
    assert score.parts["needless"] == -0.25 * num_needless and free.parts["needless"] == 0
    assert score.total == pytest.approx(free.total - 0.25 * num_needless)
    assert measure_episode(result, score, GOLD)["num_needless_calls"] == num_needless


def test_without_labels_no_call_is_needless() -> None:
    result = play(call_reply(2, verdict=sure(RIGHT)), answer_reply(RIGHT))
    config = RewardConfig(needless_call_price=1.0)
    assert score_episode(result, dict.fromkeys(GOLD), 1.0, config).parts["needless"] == 0


def pay_short(result: EpisodeResult, labels: Mapping[str, int | None], score: Score) -> float:
    """A user's own reward: ours, less a tenth a turn."""
    return score.total - 0.1 * len(result.turns)


def pay_parts(result: EpisodeResult, labels: Mapping[str, int | None], score: Score) -> Score:
    return Score(3.0, {"mine": 3.0})


def pay_nothing_readable(result: object, labels: object, score: object) -> object:
    return "a lot"


HERE = "pkg://tests.test_reward:"


def test_an_own_reward_is_called_with_the_typed_result_and_our_score() -> None:
    result = play(call_reply(2, verdict=sure(WRONG)), answer_reply(RIGHT))
    ours = score_episode(result, GOLD, 1.0, DEFAULT)
    score = score_episode(result, GOLD, 1.0, RewardConfig(function=f"{HERE}pay_short"))
    assert score.total == pytest.approx(ours.total - 0.2)
    assert score.parts == {**ours.parts, "own": pytest.approx(-0.2)}
    own = score_episode(result, GOLD, 1.0, RewardConfig(function=f"{HERE}pay_parts"))
    assert own == Score(3.0, {"mine": 3.0})
    measures = measure_episode(result, own, GOLD)
    assert measures["reward_mine"] == measures["score"] == 3.0
    assert measures["acc"] == 1.0, "accuracy is measured, whatever is paid"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my_reward", "function must be a text of the form pkg://module:name, or null"),
        ("pkg://my_reward", "must be pkg://module:name"),
        ("pkg://no_such_module:x", "cannot be imported: No module named 'no_such_module'"),
        (f"{HERE}no_such_name", "cannot be imported"),
        (f"{HERE}GOLD", "is no function"),
    ],
)
def test_an_own_reward_that_cannot_be_used_is_refused_at_the_start(name: str, words: str) -> None:
    with pytest.raises(ValueError) as error:
        load_function(RewardConfig(function=name))
    assert words in str(error.value)


def test_an_own_reward_must_be_a_number() -> None:
    config = RewardConfig(function=f"{HERE}pay_nothing_readable")
    with pytest.raises(
        ValueError, match="must return a finite number or a reward.Score, got 'a lot'"
    ):
        score_episode(play(answer_reply(RIGHT)), GOLD, 1.0, config)
