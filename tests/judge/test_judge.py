"""A verdict for somebody's own two videos: right, explained, remembered, and never invented."""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import verl_videosearch
from tests.clips import write_clip
from tests.judge.episodes import SETTINGS, make_judge
from tests.report.packed import unpack_pairs
from tests.seeing_judge import CLIPS, HIDDEN, prefer_first, search, serve_judge, write_clips
from verl_videosearch import Judge
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.failures import EpisodeFailure, FailureKind, ServerUnusable
from verl_videosearch.judge.comparison import Comparison
from verl_videosearch.judgement import Dimension
from verl_videosearch.sample import Order

CLEAN, OTHER, DEFECT = CLIPS


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    write_clips(tmp_path)
    return tmp_path


@pytest.fixture
def judge(tmp_path: Path) -> Iterator[Judge]:
    """A judge that looks."""
    with serve_judge() as server, make_judge(server, tmp_path) as judge:
        yield judge


def test_the_better_video_wins_wherever_it_stands(judge: Judge, clips: Path) -> None:
    first = judge.compare("a cat", clips / CLEAN, clips / DEFECT)
    second = judge.compare("a cat", clips / DEFECT, clips / OTHER)
    tie = judge.compare("a cat", clips / CLEAN, clips / OTHER)
    assert [each.overall for each in (first, second, tie)] == [1, 2, 0]
    assert first.winner == str(clips / CLEAN) and second.winner == str(clips / OTHER)
    assert first.verdicts == {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1} and first.orders_agree
    assert str(first) == f"video 1 is better: {CLEAN}" and str(tie) == "a tie"


def test_a_comparison_says_what_was_looked_at(judge: Judge, clips: Path) -> None:
    verdict = judge.compare("a cat", clips / CLEAN, clips / DEFECT)
    asked = [(f.order, f.turn, f.number, f.video, round(f.time_s, 2)) for f in verdict.frames_asked]
    assert asked == [
        (Order.AB, 1, 3, 1, 0.08),
        (Order.AB, 1, 11, 2, 0.08),
        (Order.BA, 1, 3, 2, 0.08),  # in the other order the first video is the caller's second
        (Order.BA, 1, 11, 1, 0.08),
    ]
    words = [(r.order, r.turn, r.thought, (r.verdicts or {}).get("OA")) for r in verdict.reasoning]
    assert words == [
        (Order.AB, 1, "look", 0),
        (Order.AB, 2, "look", 1),
        (Order.BA, 1, "look", 0),
        (Order.BA, 2, "look", 1),
    ]
    assert verdict.stated_confidence == {Order.AB: 1, Order.BA: 1}
    assert verdict.confidence is None and not verdict.abstains
    assert (verdict.num_prompt_tokens, verdict.num_reply_tokens) == (400, 40)
    assert verdict.seconds > 0


def test_orders_that_disagree_are_a_tie_and_say_so(tmp_path: Path, clips: Path) -> None:
    with serve_judge(prefer_first) as server, make_judge(server, tmp_path) as judge:
        verdict = judge.compare("a cat", clips / CLEAN, clips / DEFECT)
    assert verdict.overall == 0 and verdict.orders_agree is False and verdict.winner is None
    assert str(verdict) == "a tie: the two orders disagree"
    assert {o: v and v["OA"] for o, v in verdict.verdicts_by_order.items()} == {
        Order.AB: 1,
        Order.BA: 2,
    }


def test_one_order_costs_half_and_knows_of_no_agreement(tmp_path: Path, clips: Path) -> None:
    with serve_judge() as server, make_judge(server, tmp_path, orders=(Order.AB,)) as judge:
        verdict = judge.compare("a cat", clips / CLEAN, clips / DEFECT)
    assert verdict.overall == 1 and verdict.orders_agree is None and len(server.requests) == 2


def test_the_same_pair_is_asked_once_whatever_its_files_are_called(
    tmp_path: Path, clips: Path
) -> None:
    with serve_judge() as server, make_judge(server, tmp_path) as judge:
        judge.compare("a cat", clips / CLEAN, clips / DEFECT)
        num_requests = len(server.requests)
        (clips / CLEAN).rename(clips / "renamed.mp4")
        again = judge.compare("a cat", clips / "renamed.mp4", clips / DEFECT)
        turned = judge.compare("a cat", clips / DEFECT, clips / "renamed.mp4")
        assert len(server.requests) == num_requests
        assert (again.overall, turned.overall) == (1, 2) and turned.num_cached == 2
        assert again.records[0].own.video_1 == str(clips / "renamed.mp4")
        judge.compare("a dog", clips / DEFECT, clips / "renamed.mp4")
        assert len(server.requests) > num_requests


def test_a_cache_file_outlives_the_judge(tmp_path: Path, clips: Path) -> None:
    cache = tmp_path / "cache.sqlite"
    with serve_judge() as server:
        for _ in range(2):
            with make_judge(server, tmp_path, cache=cache) as judge:
                verdict = judge.compare("a cat", clips / CLEAN, clips / DEFECT)
        assert verdict.overall == 1 and verdict.num_cached == 2 and len(server.requests) == 4
        with make_judge(server, tmp_path, cache=cache, max_turn_tokens=99) as judge:
            assert judge.compare("a cat", clips / CLEAN, clips / DEFECT).num_cached == 0


def test_many_pairs_keep_their_order_and_a_broken_one_its_reason(judge: Judge, clips: Path) -> None:
    (clips / "torn.mp4").write_bytes((clips / CLEAN).read_bytes()[:200])
    heard = []
    outcomes = judge.compare_many(
        [
            ("a cat", clips / DEFECT, clips / CLEAN),
            ("a cat", clips / "torn.mp4", clips / CLEAN),
            ("a cat", clips / "missing.mp4", clips / CLEAN),
            ("a cat", clips / CLEAN, clips / DEFECT),
            ("a cat", clips / DEFECT, clips / CLEAN),
        ],
        on_episode=heard.append,
    )
    assert [getattr(each, "overall", None) for each in outcomes] == [2, None, None, 1, 2]
    torn, missing = outcomes[1], outcomes[2]
    assert isinstance(torn, EpisodeFailure) and torn.label == "video_truncated"
    assert isinstance(missing, EpisodeFailure) and "missing.mp4" in str(missing)
    assert len(heard) == 8  # the pair that was given twice is played once
    with pytest.raises(EpisodeFailure, match="torn.mp4"):
        judge.compare("a cat", clips / "torn.mp4", clips / CLEAN)


@pytest.mark.parametrize(
    "broken", [("a cat", None, "b.mp4"), ("a cat", "a\0.mp4", "b.mp4"), (None, "a", "b"), ("a",)]
)
def test_a_row_that_is_no_pair_fails_alone(judge: Judge, clips: Path, broken: tuple) -> None:
    good = ("a cat", clips / CLEAN, clips / DEFECT)
    before, outcome, after = judge.compare_many([good, broken, good])
    assert before.overall == after.overall == 1
    assert isinstance(outcome, EpisodeFailure) and outcome.kind is FailureKind.SAMPLE
    assert not outcome.is_passing and "a prompt and the paths of two videos" in outcome.detail


def test_async_code_and_a_running_loop_can_use_it(judge: Judge, clips: Path) -> None:
    async def use() -> list[int | None]:
        works = [judge.compare_async("a cat", clips / CLEAN, clips / DEFECT) for _ in range(3)]
        verdicts = [each.overall for each in await asyncio.gather(*works)]
        plain = await asyncio.to_thread(judge.compare, "a dog", clips / DEFECT, clips / CLEAN)
        in_notebook = judge.compare("a cow", clips / DEFECT, clips / CLEAN)
        return [*verdicts, plain.overall, in_notebook.overall]

    assert asyncio.run(use()) == [1, 1, 1, 2, 2]


def test_custom_dimensions_reach_the_model_and_the_verdict(tmp_path: Path, clips: Path) -> None:
    from tests.replies import THOUGHT

    def answer(request: dict) -> str:
        assert "how much like cheese" in request["messages"][0]["content"]
        return f"{THOUGHT}<Answer>CH=2, OA=1, CF=3</Answer>"

    dimensions = (Dimension("CH", "Cheese", "how much like cheese it looks"),)
    settings = {"dimensions": dimensions, "orders": (Order.AB,)}
    with serve_judge(answer) as server, make_judge(server, tmp_path, **settings) as judge:
        verdict = judge.compare("brie", clips / CLEAN, clips / OTHER)
    assert verdict.verdicts == {"CH": 2, "OA": 1} and verdict.stated_confidence[Order.AB] == 3


def test_an_unreadable_answer_is_no_verdict_and_says_why(tmp_path: Path, clips: Path) -> None:
    reply = "I like both."
    with serve_judge(lambda _: reply) as server, make_judge(server, tmp_path) as judge:
        verdict = judge.compare("a cat", clips / CLEAN, clips / DEFECT)
    assert verdict.overall is None and verdict.verdicts is None and verdict.orders_agree is None
    assert "no_answer" in str(verdict) and verdict.reasoning[0].thought == "I like both."


def test_json_holds_everything_and_reads_back(judge: Judge, clips: Path) -> None:
    verdict = judge.compare("a cat", clips / CLEAN, clips / DEFECT)
    content = json.loads(json.dumps(verdict.to_json()))
    assert Comparison.from_json(content) == verdict
    assert content["overall"] == 1 and content["confidence"] is None
    assert content["frames_asked"][2] == {
        "order": "BA",
        "turn": 1,
        "number": 3,
        "video": 2,
        "time_s": 0.08,
    }


def test_the_page_shows_the_frames_and_escapes_the_words(tmp_path: Path, clips: Path) -> None:
    def answer(request: dict) -> str:
        return "<Think><script>alert(1)</script></Think><Answer>TA=0, VQ=0, MQ=0, OA=0</Answer>"

    with serve_judge(answer) as server, make_judge(server, tmp_path) as judge:
        verdict = judge.compare("<b>cat</b>", clips / CLEAN, clips / DEFECT)
        page = verdict.to_page(tmp_path / "new" / "page.html")
        inline = verdict._repr_html_()
    assert "<script" not in inline
    for html in (unpack_pairs(page), inline):
        assert "<script>alert" not in html and "&lt;script&gt;" in html and "<b>cat" not in html
        assert "frame 1, video 2, 0.00 s" in html
    assert inline.count("data:image/webp") == 4 + 2 * 4, "the films, and turn 1 of both orders"
    (clips / CLEAN).unlink()
    assert "No pictures: " in verdict._repr_html_()


def test_a_server_that_fails_now_and_then_loses_no_pair(tmp_path: Path, clips: Path) -> None:
    faults = {2: "http_500", 5: "hangs_up", 7: "half_closed"}
    with serve_judge(faults=faults) as server, make_judge(server, tmp_path) as judge:
        outcomes = judge.compare_many(
            [(f"cat {number}", clips / CLEAN, clips / DEFECT) for number in range(5)]
        )
    assert [getattr(each, "overall", each) for each in outcomes] == [1] * 5


@pytest.mark.parametrize("num_pairs", [1, 2])
def test_a_server_that_refuses_all_is_no_passing_failure(
    tmp_path: Path, clips: Path, num_pairs: int
) -> None:
    with serve_judge(fault="http_401") as server, make_judge(server, tmp_path) as judge:
        pairs = [(f"cat {number}", clips / CLEAN, clips / DEFECT) for number in range(num_pairs)]
        with pytest.raises(ServerUnusable, match="401"):
            judge.compare_many(pairs)


def test_a_film_that_cannot_be_read_is_said_beside_a_server_that_refuses(
    tmp_path: Path, clips: Path
) -> None:
    broken = clips / "broken.mp4"
    broken.write_bytes(b"no film")
    pairs = [("a dog", broken, clips / DEFECT), ("a cat", clips / CLEAN, clips / DEFECT)]
    with (
        serve_judge(fault="http_401") as server,
        make_judge(server, tmp_path) as judge,
        pytest.raises(ServerUnusable, match="401.*besides, .*broken.mp4"),
    ):
        judge.compare_many(pairs)


def test_a_server_that_stays_away_is_an_error_within_the_deadline(
    tmp_path: Path, clips: Path
) -> None:
    with serve_judge() as server:
        judge = make_judge(server, tmp_path, deadline_s=3.0, max_tries=2)
        judge.open()
    with judge, pytest.raises((EpisodeFailure, ServerUnusable)):
        judge.compare("a cat", clips / CLEAN, clips / DEFECT)


def test_a_deadline_ends_a_slow_server(tmp_path: Path, clips: Path) -> None:
    with serve_judge(delay_s=1.0) as server, make_judge(server, tmp_path, deadline_s=0.5) as judge:
        judge.open()
        with pytest.raises(EpisodeFailure, match=r"0\.5 s") as caught:
            judge.compare("a cat", clips / CLEAN, clips / DEFECT)
    assert caught.value.kind is FailureKind.TIMEOUT


def test_ranking_clips_equals_the_round_robin_and_one_more_costs_only_its_pairs(
    tmp_path: Path, clips: Path
) -> None:
    names = write_levels(clips, (250, 200, 150, 105, 60))
    with serve_judge() as server, make_judge(server, tmp_path) as judge:
        ranking = judge.rank("a cat", names[:4])
        assert ranking.order == tuple(reversed(names[:4])) and ranking.ranks == (4, 3, 2, 1)
        assert ranking.tournament.num_new == 6 and ranking.cycles == ()
        more = judge.rank("a cat", names)
        assert more.tournament.num_new == 4 and more.num_known == 6
        assert more.order[0] == names[4]
        short = judge.rank("a dog", names, max_comparisons=7)
        assert short.tournament.num_new == 7 and set(short.order[:2]) == set(names[3:])
    content = json.loads(json.dumps(short.to_json()))
    assert [clip["rank"] for clip in content["clips"]] == [1, 2, 3, 4, 5]


def test_a_deadline_bounds_a_whole_ranking_and_loses_nothing(tmp_path: Path) -> None:
    names, asked, gate = write_levels(tmp_path, (60, 110, 160, 210)), [], threading.Event()
    gate.set()

    def answer(request: dict) -> str:
        asked.append(request)
        gate.wait(60)
        return search(request)

    settings = {"cache": tmp_path / "cache.sqlite", "concurrency": 1}
    with serve_judge(answer) as server:
        with make_judge(server, tmp_path, **settings) as judge:
            judge.rank("a cat", names, max_comparisons=1)
        gate.clear()
        asked.clear()
        with make_judge(server, tmp_path, deadline_s=1.0, **settings) as judge:
            judge.open()
            with pytest.raises(EpisodeFailure, match="no result after 1 s") as caught:
                judge.rank("a cat", names)
        assert caught.value.kind is FailureKind.TIMEOUT
        assert len(asked) <= 1, "one deadline of the ranking, not one of each pair"
        gate.set()
        with make_judge(server, tmp_path, **settings) as judge:
            judge.open()
            again = judge.rank("a cat", names)
    assert again.num_known == 1 and again.tournament.num_new == 5


def write_levels(folder: Path, levels: Sequence[int]) -> list[str]:
    """Write clips whose hidden frame has these levels, the darker the better."""
    names = []
    for number, level in enumerate(levels):
        frames = np.full((8, 56, 84, 3), 60, np.uint8)
        frames[HIDDEN] = level
        names.append(str(write_clip(folder / f"{number}.mkv", frames)))
    return names


def test_a_closed_judge_says_so(judge: Judge, clips: Path) -> None:
    judge.open()
    judge.close()
    for use in (judge.open, lambda: judge.compare("a cat", clips / CLEAN, clips / DEFECT)):
        with pytest.raises(RuntimeError, match="closed; make a new one"):
            use()


def test_a_callback_that_waits_for_its_own_judge_is_an_error(judge: Judge, clips: Path) -> None:
    pair = ("a cat", clips / CLEAN, clips / DEFECT)
    with pytest.raises(RuntimeError, match="callback.*for ever"):
        judge.compare_many([pair], on_episode=lambda record: judge.compare(*pair))
    assert judge.compare(*pair).overall == 1


def test_a_ranking_does_not_buy_unreadable_pairs_again(tmp_path: Path) -> None:
    names = write_levels(tmp_path, (60, 110, 160, 210))
    reply = "I like both."
    with serve_judge(lambda _: reply) as server:
        found = []
        for _ in range(3):
            with make_judge(server, tmp_path, cache=tmp_path / "cache.sqlite") as judge:
                judge.open()
                content = judge.rank("a cat", names, max_comparisons=3).to_json()
            found.append((content["num_new"], content["num_known"], len(content["undecided"])))
            assert content["uncompared"] == names and content["num_comparisons"] == 0
    assert found == [(3, 0, 3), (3, 3, 6), (0, 6, 6)] and len(server.requests) == 12


def test_a_ranking_names_the_clips_that_no_verdict_is_about(tmp_path: Path) -> None:
    names = write_levels(tmp_path, (60, 110, 160))
    with serve_judge() as server, make_judge(server, tmp_path) as judge:
        ranking = judge.rank("a cat", names, max_comparisons=1)
        content = ranking.to_json()
        assert ranking.uncompared == tuple(content["uncompared"]) == (names[2],)
        assert {each["video"]: each["num_comparisons"] for each in content["clips"]} == dict(
            zip(names, (1, 1, 0), strict=True)
        )
        assert judge.rank("a cat", names).uncompared == ()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"frames": 3}, r"unknown settings \['frames'\]"),
        ({"concurrency": 0}, "concurrency must be a whole number of at least 1"),
        ({"orders": ()}, "orders must name at least one order"),
        ({"episode": {"windows": 1}}, "windows"),
        ({"temperature": -1.0}, "temperature"),
    ],
)
def test_bad_settings_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Judge("http://127.0.0.1:1/v1", "judge", **settings)


def test_a_model_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--endpoint|endpoint"):
        Judge()
    with pytest.raises(ValueError, match="config.json"):
        Judge.local(tmp_path)


def test_the_settings_are_those_of_an_episode(tmp_path: Path, clips: Path) -> None:
    with serve_judge() as server, make_judge(server, tmp_path) as judge:
        record = judge.compare("a cat", clips / CLEAN, clips / DEFECT).records[0]
    assert record.episode_config == EpisodeConfig.from_dict(SETTINGS)


def test_the_package_exports_it_lazily() -> None:
    assert "Judge" in dir(verl_videosearch) and verl_videosearch.Judge is Judge
    with pytest.raises(AttributeError, match="Jugde"):
        verl_videosearch.Jugde  # noqa: B018


def test_a_checkpoint_of_ours_needs_no_settings(tmp_path: Path) -> None:
    from verl_videosearch.checkpoint import write_checkpoint_settings
    from verl_videosearch.judge.opening import read_model_settings

    config = EpisodeConfig.from_dict(SETTINGS)
    dimensions = (Dimension("CH", "Cheese", "how much like cheese it looks"),)
    assert read_model_settings(tmp_path) == (None, None)
    write_checkpoint_settings(tmp_path, config, dimensions)
    assert read_model_settings(tmp_path) == (config, dimensions)


def test_a_checkpoint_is_not_asked_otherwise_unawares(tmp_path: Path, clips: Path) -> None:
    from verl_videosearch.checkpoint import write_checkpoint_settings
    from verl_videosearch.judgement import DEFAULT_DIMENSIONS

    (tmp_path / "config.json").write_text("{}")
    write_checkpoint_settings(tmp_path, EpisodeConfig.from_dict(SETTINGS), DEFAULT_DIMENSIONS)
    other = {"episode": SETTINGS | {"window": 3}}
    custom = {"dimensions": (Dimension("CH", "Cheese", "how much like cheese it looks"),)}
    pair = ("a cat", clips / CLEAN, clips / DEFECT)
    with serve_judge() as server:
        server.root = str(tmp_path)  # vLLM tells where its model lies
        for settings in (other, custom):
            with make_judge(server, tmp_path, **{"episode": None} | settings) as judge:
                for _ in range(2):  # what was refused once is refused again
                    with pytest.raises(ValueError, match="trained otherwise"):
                        judge.compare(*pair)
        assert server.requests == []
        with make_judge(server, tmp_path, episode=None) as judge:
            assert judge.compare(*pair).records[0].episode_config == EpisodeConfig(**SETTINGS)
        with make_judge(server, tmp_path, **other, accepts_other_settings=True) as judge:
            assert judge.compare(*pair).records[0].episode_config.window == 3
