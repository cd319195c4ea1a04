"""Episodes as verl 0.9.1 runs them: its own worker, data set and post-processing around our loop, a
scripted engine."""

import asyncio
import json
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# ruff: noqa: E402  (imports after the skip)
torch = pytest.importorskip("torch")
pytest.importorskip("verl")

import numpy as np
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from tensordict import TensorDict
from verl.trainer.ppo.utils import create_rl_dataset
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.rl_dataset import collate_fn

from tests.clips import grey_frames, write_clip
from tests.engine import (
    ANSWER,
    THOUGHT,
    EngineCall,
    MemoryQueue,
    Script,
    ScriptedEngine,
    call_frames,
    compose_recipe,
    processor,
    read_sequences,
    tokenize,
    tokenize_oddly,
    use_memory_queue,
)
from verl_videosearch.runs.record import replay_episode
from verl_videosearch.runs.record_file import read_records
from verl_videosearch.sample import PreferenceSample, write_samples
from verl_videosearch.verl_plugin import agent_loop, group
from verl_videosearch.verl_plugin.agent_loop import (
    FAILURES,
    VideoSearchAgentLoop,
    running_slots,
)
from verl_videosearch.verl_plugin.references import make_pixels
from verl_videosearch.video.pair import PairFrames

Worker = AgentLoopWorkerTQ.__ray_metadata__.modified_class
"""verl's worker without its Ray actor."""
IM_END = "<|im_end|>"
LONG_TURNS = {"videosearch.rollout.max_turn_tokens": 1000, "data.max_response_length": 4000}
LABELS = {"TA": 0, "VQ": 1, "MQ": None, "OA": 1}


class Run:
    """One prompt group, run by verl's worker: what the engine saw and what verl stored."""

    def __init__(self, engine: ScriptedEngine, queue: MemoryQueue) -> None:
        self.engine, self.queue = engine, queue

    @property
    def status(self) -> str:
        return self.queue.tags["train"]["prompt"]["status"]

    @property
    def failures(self) -> list[dict[str, Any]]:
        return list(self.queue.tags[FAILURES].values())

    def rows(self, session: int = 0) -> list[dict[str, Any]]:
        return list(read_sequences(self.queue, f"prompt_{session}"))

    def find(self, **measures: float) -> list[int]:
        """Return the sessions with these figures; scripts reach sessions in any order."""
        sessions = range(len(self.engine.scripts))
        return [i for i in sessions if measures.items() <= self.measures(i).items()]

    def measures(self, session: int = 0) -> dict[str, float]:
        return self.rows(session)[-1]["extra_fields"]["reward_extra_info"]


@cache
def base_config() -> DictConfig:
    return compose_recipe("videosearch_grpo_tiny", "videosearch.frames.video_root=.")


@pytest.fixture(scope="module")
def video_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    write_clip(root / "1.mp4")
    write_clip(root / "2.mp4", grey_frames(20)[8:])
    (root / "broken.mp4").write_bytes((root / "1.mp4").read_bytes()[:300])
    return root


@cache
def make_worker() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        use_memory_queue(patch)
        return Worker(config=base_config(), llm_client=None)


@pytest.fixture(scope="module")
def data_rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Rows as verl's data set reads them, by the name of their second video."""
    path, names = tmp_path_factory.mktemp("rows") / "rows.parquet", ("2.mp4", "broken.mp4")
    write_samples(
        path, [PreferenceSample("pair-7", "a cat", "1.mp4", name, LABELS) for name in names]
    )
    worker = make_worker()
    dataset = create_rl_dataset(str(path), worker.config.data, worker.tokenizer, worker.processor)
    return {name: dataset[index] for index, name in enumerate(names)}


@pytest.fixture
def run_group(
    video_root: Path, data_rows: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Run]:
    """Run one prompt group: `run_group(script of session 1, script of session 2, ...,
    **settings)`."""

    def run(*scripts: Script, video_2: str = "2.mp4", **settings: Any) -> Run:
        worker = make_worker()
        worker.config = OmegaConf.merge(
            base_config(),
            {
                "videosearch": {
                    "frames": {"video_root": str(video_root)},
                    "rollout": {"episodes_dir": str(tmp_path)},
                }
            },
            {"actor_rollout_ref": {"rollout": {"n": len(scripts)}}},
            OmegaConf.from_dotlist(
                [f"{key}={json.dumps(value)}" for key, value in settings.items()]
            ),
        )
        worker.llm_client = engine = ScriptedEngine(list(scripts))
        queue = use_memory_queue(monkeypatch)
        asyncio.run(generate(worker, make_batch(data_rows[video_2])))
        return Run(engine, queue)

    return run


def make_batch(row: dict[str, Any]) -> TensorDict:
    """Batch a row as verl's trainer does (`PPOTrainer._fetch_one_gen_batch`)."""
    rows = collate_fn([dict(row)]) | {"uid": np.array(["prompt"], dtype=object)}
    batch = tu.get_tensordict(rows)
    tu.assign_non_tensor_data(batch, "global_steps", 3)
    return batch


async def generate(worker: Any, batch: TensorDict) -> None:
    await worker.generate_sequences(batch)
    await asyncio.gather(*worker.background_tasks)


def digest(images: list[Image.Image]) -> list[bytes]:
    return [image.tobytes() for image in images]


TURNS = [call_frames(2, 14), call_frames(3, 15), call_frames(4, 5, 16), call_frames(6)]
EPISODES = {
    # name: replies, window, number of replies per sequence
    "answer": ([ANSWER], 1, [1]),
    "one call": ([TURNS[0], ANSWER], 1, [2]),
    "two calls": ([*TURNS[:2], ANSWER], 1, [2, 1]),
    "three calls": ([*TURNS[:3], ANSWER], 1, [2, 1, 1]),
    "three calls, two visible": ([*TURNS[:3], ANSWER], 2, [3, 1]),
    "four calls, two visible": ([*TURNS, ANSWER], 2, [3, 1, 1]),
    "nothing forgotten": ([*TURNS[:3], ANSWER], None, [4]),
    "a refused call evicts nothing": ([TURNS[0], call_frames(99), TURNS[1], ANSWER], 1, [3, 1]),
    "no call tag closed": ([f"{THOUGHT}<tool_call>[1", ANSWER], 1, [2]),
}
STYLES = {
    "as the tokenizer": tokenize,
    "with end of turn": lambda text: tokenize(text + IM_END),
    "letter by letter": tokenize_oddly,
    "with control tokens inside": lambda text: tokenize(
        text.replace("look", "lo<|im_start|><|vision_start|>ok")
    ),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", EPISODES)
def test_what_is_trained_is_what_the_engine_was_given(
    run_group: Callable[..., Run], name: str, style: str
) -> None:
    replies, window, replies_per_sequence = EPISODES[name]
    run = run_group(
        [STYLES[style](reply) for reply in replies],
        **{"videosearch.episode.window": window, "videosearch.episode.max_tool_calls": 4},
        **LONG_TURNS,
    )
    assert run.status == "finished" and not run.failures
    assert len(run.rows()) == len(replies_per_sequence)
    calls = iter(run.engine.calls[0])
    for row, num_replies in zip(run.rows(), replies_per_sequence, strict=True):
        check_row(row, [next(calls) for _ in range(num_replies)])
    assert next(calls, None) is None
    assert run.measures()["ending_answered"] == 1.0


def check_row(row: dict[str, Any], calls: list[EngineCall]) -> None:
    """Compare a stored sequence with the calls of the engine that it comes from."""
    ids = row["input_ids"].tolist()
    assert row["prompts"].tolist() == calls[0].prompt_ids
    assert ids == row["prompts"].tolist() + row["responses"].tolist()
    mask, logprobs = [0] * len(ids), [0.0] * len(ids)
    for call in calls:
        start, stop = len(call.prompt_ids), len(call.prompt_ids) + len(call.reply_ids)
        assert ids[:start] == call.prompt_ids
        assert ids[start:stop] == call.reply_ids
        mask[start:stop] = [1] * len(call.reply_ids)
        logprobs[start:stop] = call.logprobs
    assert stop == len(ids), "a sequence ends with its last reply"
    assert row["response_mask"].tolist() == row["loss_mask"].tolist() == mask[len(row["prompts"]) :]
    assert row["rollout_log_probs"].tolist() == logprobs[len(row["prompts"]) :]
    check_images(row, calls)


def check_images(row: dict[str, Any], calls: list[EngineCall]) -> None:
    """Each call saw the sequence's first images; the stored features are those of the last call's
    images."""
    for call in calls:
        assert digest(call.images) == digest(calls[-1].images[: len(call.images)])
    expected = processor().image_processor(images=calls[-1].images, return_tensors="pt")
    assert "pixel_values" not in row["multi_modal_inputs"]
    (pixels,) = make_pixels(processor(), [row["multi_modal_inputs"]])
    assert torch.equal(pixels, expected["pixel_values"])
    assert torch.equal(row["multi_modal_inputs"]["image_grid_thw"], expected["image_grid_thw"])
    num_features = int(expected["image_grid_thw"].prod(dim=1).sum()) // 4
    assert row["input_ids"].tolist().count(processor().image_token_id) == num_features
    assert row["position_ids"].shape == (4, len(row["input_ids"]))


def test_the_context_is_the_episode_s(run_group: Callable[..., Run]) -> None:
    run = run_group([*TURNS[:2], ANSWER])
    first, second, third = (
        processor().tokenizer.decode(call.prompt_ids) for call in run.engine.calls[0]
    )
    assert second.startswith(first + TURNS[0] + f"{IM_END}\n<|im_start|>user\n")
    assert "Frames 2, 14 were shown here and have left your view" in third
    assert [len(call.images) for call in run.engine.calls[0]] == [8, 10, 10]
    times = [f"Frame {number}:<|vision" in third for number in (2, 3, 14, 15)]
    assert times == [False, True, False, True]


def test_sampling_stops_after_a_call_or_an_answer(run_group: Callable[..., Run]) -> None:
    run = run_group([ANSWER], **{"videosearch.rollout.max_turn_tokens": 500})
    sampling = run.engine.calls[0][0].sampling
    assert sampling["include_stop_str_in_output"] is True
    assert {"</tool_call>", "</Answer>"} <= set(sampling["stop"])
    assert (sampling["temperature"], sampling["top_p"], sampling["max_tokens"]) == (0.8, 1.0, 500)


def test_score_and_figures_of_an_episode(run_group: Callable[..., Run]) -> None:
    run = run_group([TURNS[0], TURNS[1], ANSWER], [ANSWER])
    (searching,), (answering,) = run.find(num_turns=3), run.find(num_turns=1)
    rows = run.rows(searching)
    assert [row["rm_scores"].tolist()[-1] for row in rows] == pytest.approx([2.15, 2.15])
    assert all(row["rm_scores"].count_nonzero() == 1 for row in rows)
    measures = run.measures(searching)
    assert measures["reward_accuracy"] == 1.0 and measures["reward_format"] == 1.0
    assert measures["reward_gain"] == pytest.approx(0.2 * (1.0 - 0.25))
    expected = {
        "num_calls": 2,
        "num_turns": 3,
        "num_sequences": 2,
        "num_evictions": 1,
        "has_searched": 1,
        "acc": 1,
    }
    assert {name: measures[name] for name in expected} == expected
    assert measures["num_sampled_tokens"] == sum(
        len(tokenize(reply)) for reply in (TURNS[0], TURNS[1], ANSWER)
    )
    assert measures["max_context_tokens"] == max(len(row["input_ids"]) for row in rows)
    assert measures["visible_images_per_turn"] == pytest.approx((8 + 10 + 10) / 3)
    assert np.isnan(measures["correct_MQ"])
    assert set(measures) == set(run.measures(answering)), "the same figures for every episode"
    assert [row["extra_fields"]["min_global_steps"] for row in rows] == [5, 5]
    assert [row["extra_fields"]["max_global_steps"] for row in rows] == [7, 7]


@pytest.mark.parametrize(("searching", "bonus"), [(1, 0.5 * (0.2 - 1 / 8)), (2, 0.0)])
def test_the_group_s_search_rate_decides_the_exploration_bonus(
    run_group: Callable[..., Run], searching: int, bonus: float
) -> None:
    scripts = [[TURNS[0], ANSWER]] * searching + [[ANSWER]] * (8 - searching)
    run = run_group(*scripts)
    assert [
        run.measures(i)["reward_exploration"] for i in run.find(has_searched=1)
    ] == pytest.approx([bonus] * searching)
    assert [run.measures(i)["reward_exploration"] for i in run.find(has_searched=0)] == [0.0] * (
        8 - searching
    )


ENDINGS = {
    "no answer": (["I see grey."], "no_answer"),
    "unreadable": (["<Answer>TA=7</Answer>"], "unreadable"),
    "call limit": ([TURNS[0], TURNS[1], TURNS[2], TURNS[3]], "call_limit"),
    "truncated": (["<Think>" + "grey " * 300], "truncated"),
    "only control tokens": ([[*tokenize(IM_END)]], "no_answer"),
    "not text at all": ([[*tokenize("é")][:1]], "no_answer"),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_mistake_of_the_model_is_data(run_group: Callable[..., Run], name: str) -> None:
    replies, ending = ENDINGS[name]
    run = run_group(replies)
    assert run.status == "finished" and not run.failures
    assert run.measures()[f"ending_{ending}"] == 1.0
    assert run.measures()["reward_accuracy"] == 0.0


def test_a_placeholder_spelt_by_the_model_needs_no_image(run_group: Callable[..., Run]) -> None:
    spelt = tokenize_oddly(TURNS[0].replace("look", "<|image_pad|> <|vision_start|>"))
    run = run_group([spelt, TURNS[1], ANSWER], **LONG_TURNS)
    assert run.status == "finished"
    for row, calls in zip(
        run.rows(), (run.engine.calls[0][:2], run.engine.calls[0][2:]), strict=True
    ):
        check_row(row, calls)


def test_an_overlong_episode_ends_whole(run_group: Callable[..., Run]) -> None:
    """No room for the frames of the first call: they are dropped with their message, and the first
    turn is trained."""
    length = len(run_group([ANSWER]).engine.calls[0][0].prompt_ids)
    room = len(tokenize(TURNS[0])) + 30
    run = run_group(
        [TURNS[0], ANSWER], **{"data.max_prompt_length": length, "data.max_response_length": room}
    )
    (row,) = run.rows()
    assert run.status == "finished"
    assert run.measures()["ending_overlong"] == 1.0 and run.measures()["num_turns"] == 1.0
    check_row(row, run.engine.calls[0])
    assert len(run.engine.calls[0]) == 1


def test_an_overlong_episode_keeps_its_earlier_sequences(run_group: Callable[..., Run]) -> None:
    """After an eviction the next context starts a new sequence; it does not fit, so it leaves none
    behind."""
    calls = run_group(
        [TURNS[0], TURNS[0], TURNS[1], ANSWER], **{"videosearch.episode.max_tool_calls": 3}
    ).engine.calls[0]
    total = len(calls[2].prompt_ids) - 1
    run = run_group(
        [TURNS[0], TURNS[0], TURNS[1], ANSWER],
        **{"data.max_prompt_length": 600, "data.max_response_length": total - 600},
        **{"videosearch.episode.max_tool_calls": 3},
    )
    (row,) = run.rows()
    assert run.measures()["ending_overlong"] == 1.0 and run.measures()["num_turns"] == 2.0
    check_row(row, run.engine.calls[0][:2])


def test_a_reply_gets_what_room_is_left(run_group: Callable[..., Run]) -> None:
    length = len(run_group([ANSWER]).engine.calls[0][0].prompt_ids)
    run = run_group([ANSWER], **{"data.max_prompt_length": length, "data.max_response_length": 9})
    assert run.engine.calls[0][0].sampling["max_tokens"] == 9
    assert run.measures()["ending_truncated"] == 1.0


def only_failure(run: Run, kind: str) -> str:
    """Check that nothing of the group was stored and that the trainer was told; the detail."""
    assert run.status == "failure"
    assert not run.queue.rows["train"]
    details = [tag["detail"] for tag in run.failures if tag["kind"] == kind]
    assert details, run.failures
    return details[0]


def test_a_broken_video_fails_the_whole_group(
    run_group: Callable[..., Run], video_root: Path, tmp_path: Path
) -> None:
    run = run_group([ANSWER], [ANSWER], video_2="broken.mp4")
    kinds = {tag["kind"] for tag in run.failures}
    assert (
        len(run.failures) == 2
        and all(kind.startswith("video_") for kind in kinds - {"sibling"})
        and kinds
    )
    detail = only_failure(run, sorted(kinds - {"sibling"})[0])
    assert "pair-7" in detail and "broken.mp4" in detail
    assert not run.engine.calls
    records = read_records(next(tmp_path.glob("episodes-*.jsonl"))).records
    assert {record.failure.label for record in records} == kinds
    assert all(record.score is None and record.uid == "pair-7" for record in records)


def test_an_engine_without_tokens_is_no_score(run_group: Callable[..., Run]) -> None:
    run = run_group([[]], [ANSWER], [ANSWER])
    assert "the engine returned no tokens" in only_failure(run, "server")
    assert {tag["kind"] for tag in run.failures} == {"server", "sibling"}


def test_an_engine_that_raises_fails_the_group(run_group: Callable[..., Run]) -> None:
    run = run_group([TURNS[0]], [ANSWER])  # the script has no second turn
    assert "IndexError" in only_failure(run, "server")


def test_a_prompt_that_is_too_long_names_the_limit(run_group: Callable[..., Run]) -> None:
    length = len(run_group([ANSWER]).engine.calls[0][0].prompt_ids)
    run = run_group([ANSWER], **{"data.max_prompt_length": length - 1})
    detail = only_failure(run, "prompt_too_long")
    assert (
        f"the first context has {length} tokens, data.max_prompt_length is {length - 1}" in detail
    )
    assert f"raise data.max_prompt_length to at least {length}" in detail


def test_waiting_for_siblings_is_bounded(
    run_group: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, first_request = ScriptedEngine.generate, []

    async def stall(self: ScriptedEngine, request_id: str, **kwargs: Any) -> Any:
        first_request.append(request_id)
        if request_id != first_request[0]:
            await asyncio.sleep(3)
        return await generate(self, request_id, **kwargs)

    monkeypatch.setattr(ScriptedEngine, "generate", stall)
    run = run_group(
        [ANSWER],
        [ANSWER],
        **{"videosearch.rollout.group_timeout_s": 0.3},
    )
    assert "1 of 2 siblings not done after 0.3 s" in only_failure(run, "timeout")


def test_an_episode_is_bounded(
    run_group: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stall(self: ScriptedEngine, request_id: str, **kwargs: Any) -> Any:
        await asyncio.sleep(60)

    monkeypatch.setattr(ScriptedEngine, "generate", stall)
    run = run_group([ANSWER], **{"videosearch.rollout.episode_timeout_s": 0.2})
    assert "no result after 0.2 s" in only_failure(run, "timeout")


def drop_image(sequence: Any) -> None:
    sequence.images.pop(3)


def change_token(sequence: Any) -> None:
    sequence.prompt_ids[40] += 1


@pytest.mark.parametrize(
    ("damage", "message"), [(drop_image, "trained images"), (change_token, "trained prompt")]
)
def test_one_changed_token_or_image_fails_the_group(
    run_group: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, damage: Any, message: str
) -> None:
    drop_unanswered = agent_loop.TokenGenerator.drop_unanswered

    def drop_and_damage(self: agent_loop.TokenGenerator) -> None:
        drop_unanswered(self)
        damage(self.sequences[-1])

    monkeypatch.setattr(agent_loop.TokenGenerator, "drop_unanswered", drop_and_damage)
    run = run_group([TURNS[0], ANSWER])
    detail = only_failure(run, "bug")
    assert "TokenMismatch" in detail and message in detail


def test_videos_images_and_files_are_handled_off_the_event_loop(
    run_group: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[int]] = {}

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            threads.setdefault(name, set()).add(threading.get_ident())
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)

    watch(agent_loop, "load_pair")
    watch(PairFrames, "images")
    watch(VideoSearchAgentLoop, "_write_record")
    run_group([TURNS[0], ANSWER])
    assert len(threads) == 3
    assert all(threading.get_ident() not in seen for seen in threads.values())


def test_every_episode_is_one_record(run_group: Callable[..., Run], tmp_path: Path) -> None:
    run_group(*[[call_frames(2, 14), "long " * 20 + ANSWER]] * 12)
    file = read_records(next(tmp_path.glob("episodes-*.jsonl")))
    assert not file.damaged
    assert sorted(record.attempt for record in file.records) == list(range(12))
    assert len({record.key for record in file.records}) == 12
    record = file.records[0]
    assert (record.kind.value, record.step, record.group, record.uid) == (
        "rollout",
        3,
        "prompt",
        "pair-7",
    )
    assert record.outcome == "answered"
    assert record.verdicts == {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}
    assert record.turns[0].shown == (2, 14)
    assert record.score == pytest.approx(sum(record.reward_parts.values()))
    assert replay_episode(record).result().ending.value == "answered"


# Drafts, thoughts and what an engine must not return


DRAFTS = {
    "an answer": "<Think>perhaps <Answer>TA=2, VQ=2, MQ=2, OA=2</Answer>",
    "a call": '<Think>try <tool_call>{"name": "select_frames", "arguments": {"target_frames": '
    "[9]}}</tool_call>",
}


@pytest.mark.parametrize("name", DRAFTS)
def test_a_draft_inside_a_block_is_not_acted_upon(run_group: Callable[..., Run], name: str) -> None:
    """The engine stops at the draft's stop string; it is asked to go on, in the same sequence."""
    draft, rest = DRAFTS[name], " no</Think><Answer>TA=0, VQ=1, MQ=0, OA=1</Answer>"
    run = run_group([f"<Snapshot>grey</Snapshot>{draft}", rest])
    first, second = run.engine.calls[0]
    assert second.prompt_ids == first.prompt_ids + first.reply_ids
    assert [len(call.images) for call in (first, second)] == [8, 8]
    used = len(first.reply_ids)
    assert first.sampling["max_tokens"] - second.sampling["max_tokens"] == used
    (row,) = run.rows()
    check_row(row, [first, second])
    assert row["response_mask"].tolist() == [1] * len(row["responses"])
    measures = run.measures()
    assert measures["num_turns"] == 1.0 and measures["num_calls"] == 0.0
    assert measures["correct_OA"] == 1.0 and measures["num_continued"] == 1.0


def test_a_draft_that_uses_up_the_turn_is_truncated(run_group: Callable[..., Run]) -> None:
    draft = DRAFTS["an answer"]
    num_tokens = len(tokenize(draft))
    run = run_group([draft, ANSWER], **{"videosearch.rollout.max_turn_tokens": num_tokens})
    assert len(run.engine.calls[0]) == 1
    assert run.measures()["num_turns"] == 1.0


def test_an_end_of_turn_inside_a_block_ends_the_turn(run_group: Callable[..., Run]) -> None:
    run = run_group([tokenize(f"<Think>so{IM_END}"), ANSWER])
    assert len(run.engine.calls[0]) == 1 and run.measures()["ending_no_answer"] == 1.0


def test_a_sampled_placeholder_is_no_score(run_group: Callable[..., Run]) -> None:
    """verl bans them in vLLM; an engine that samples one would shift every image behind it."""
    run = run_group([[*tokenize("a"), processor().image_token_id]])
    assert "sampled a placeholder" in only_failure(run, "server")


def test_log_probabilities_of_another_length_are_no_score(
    run_group: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = ScriptedEngine.generate

    async def lose_one(self: ScriptedEngine, request_id: str, **kwargs: Any) -> Any:
        output = await generate(self, request_id, **kwargs)
        output.log_probs.pop()
        return output

    monkeypatch.setattr(ScriptedEngine, "generate", lose_one)
    detail = only_failure(run_group([ANSWER]), "server")
    length = len(tokenize(ANSWER))
    assert f"{length - 1} log-probabilities for {length} tokens" in detail


def test_nothing_is_left_of_a_group(run_group: Callable[..., Run]) -> None:
    run_group([ANSWER], [[]])
    run_group([ANSWER], [ANSWER])
    assert group._groups == {}


def test_so_many_episodes_run_at_once() -> None:
    running, most = 0, 0

    async def run_one() -> None:
        nonlocal running, most
        async with running_slots(3):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1

    async def run_all() -> None:
        await asyncio.gather(*(run_one() for _ in range(20)))

    asyncio.run(run_all())
    asyncio.run(run_all())  # another loop has its own
    assert most == 3
