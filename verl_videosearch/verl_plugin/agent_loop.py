"""The agent loop `videosearch`: verl's rollout side of an Episode.

The one idea: it only connects. `Episode` decides, `TokenGenerator` speaks with the engine and keeps
the training sequences, the group shares who searched, `score_episode` scores - inside the loop,
from the typed result, because verl 0.9.1's own reward path cannot pad the M-RoPE positions of
several sequences per episode. Every sequence of an episode is one `AgentLoopOutput`; the last one
carries the score. Any infrastructure failure raises, which makes verl drop and replace the whole
group (`sync_refill_failed_groups`)."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import transfer_queue as tq
from omegaconf import OmegaConf
from PIL import Image
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput

from verl_videosearch.episode import Episode, EpisodeResult, Message, Reply
from verl_videosearch.failures import ContextTooLong, EpisodeFailure, FailureKind
from verl_videosearch.judgement import STOP_STRINGS
from verl_videosearch.reply import NativeThought
from verl_videosearch.reward import Score, measure_episode, score_episode
from verl_videosearch.rollout import run_episode, take_turn
from verl_videosearch.runs.record import (
    EpisodeRecord,
    Identity,
    RecordKind,
    Usage,
    record_episode,
    record_failure,
)
from verl_videosearch.runs.record_file import append_record
from verl_videosearch.sample import Order, PreferenceSample, from_row
from verl_videosearch.verl_plugin.group import EpisodeGroup, join_group, leave_group
from verl_videosearch.verl_plugin.references import drop_pixels
from verl_videosearch.verl_plugin.settings import FramesConfig, Settings
from verl_videosearch.verl_plugin.tokens import (
    ContextRenderer,
    SentContext,
    TokenMismatch,
    TrainingSequence,
    check_sequence,
    digest_image,
    pack_ids,
)
from verl_videosearch.video.pair import PairFrames, load_pair
from verl_videosearch.video.store import FrameStore

FAILURES = "videosearch_failures"
"""Partition of TransferQueue in which workers tell the trainer about failed episodes, one tag
each."""


class TokenGenerator:
    """A `GenerateFn` over verl's engine that records what every reply was sampled from."""

    def __init__(
        self,
        loop: VideoSearchAgentLoop,
        episode: Episode,
        group: EpisodeGroup,
        sampling: dict[str, Any],
    ) -> None:
        self.sequences: list[TrainingSequence] = []
        self.generate_s = 0.0
        self.extra_fields: dict[str, Any] = {}
        self.num_preempted = -1
        self.num_continued = 0
        """How often generation went on after a stop string inside an open block."""
        self._loop, self._episode, self._group = loop, episode, group
        self._sampling = sampling | {"stop": list(STOP_STRINGS), "include_stop_str_in_output": True}
        self._request_id = uuid4().hex
        self._previous: tuple[str, Reply] | None = None

    async def __call__(self, messages: list[Message], images: Sequence[Image.Image]) -> Reply:
        """Sample one reply; raises `ContextTooLong` when no whole turn fits any more."""
        self._group.raise_if_failed(self._episode.sample.uid)
        context = await take_turn(self._extend, messages, images)
        reply_ids, is_truncated = list[int](), False
        while True:
            room = self._loop.measure_room(self.sequences[-1].num_tokens, self._episode, reply_ids)
            if room < 1:  # used up by a draft
                is_truncated = True
                break
            new_ids = await self._sample(images, room)
            reply_ids += new_ids
            is_truncated = len(new_ids) >= room
            if is_truncated or await take_turn(self._loop.renderer.is_finished, reply_ids):
                break
            self.num_continued += 1
        reply = await take_turn(self._make_reply, reply_ids, is_truncated)
        self._previous = (context, reply)
        return reply

    def _make_reply(self, reply_ids: list[int], is_truncated: bool) -> Reply:
        return self._loop.renderer.make_reply(reply_ids, is_truncated=is_truncated)

    async def _sample(self, images: Sequence[Image.Image], max_tokens: int) -> list[int]:
        """Go on after everything that the sequence holds; returns the new ids."""
        sequence, start = self.sequences[-1], time.perf_counter()
        sent_ids = sequence.prompt_ids + sequence.response_ids
        output = await self._loop.server_manager.generate(
            request_id=self._request_id,
            prompt_ids=sent_ids.tolist(),
            sampling_params=self._sampling | {"max_tokens": max_tokens},
            image_data=list(images),
        )
        self.generate_s += time.perf_counter() - start
        self._refuse_bad_output(output)
        token_ids = list(output.token_ids)
        digests = tuple(map(digest_image, images))
        sequence.sent.append(SentContext(sent_ids, digests, pack_ids(token_ids)))
        sequence.add_reply(token_ids, output.log_probs)
        self._note(output)
        return token_ids

    def _refuse_bad_output(self, output: Any) -> None:
        """Raise a failure for what no working engine returns."""
        uid, problem = self._episode.sample.uid, None
        if not output.token_ids:
            problem = "the engine returned no tokens"
        elif output.log_probs and len(output.log_probs) != len(output.token_ids):
            problem = (
                f"the engine gave {len(output.log_probs)} log-probabilities for "
                f"{len(output.token_ids)} tokens"
            )
        elif not self._loop.renderer.placeholder_ids.isdisjoint(output.token_ids):
            problem = "the engine sampled a placeholder of an image or video, which it must not"
        if problem is not None:
            raise EpisodeFailure(FailureKind.SERVER, problem, uid)

    def _extend(self, messages: list[Message], images: Sequence[Image.Image]) -> str:
        """Append the new context to the current sequence, or start a new one after an eviction;
        returns its text."""
        renderer, text = self._loop.renderer, self._loop.renderer.render(messages)
        stored = [drop_pixels(image, self._loop.settings.frames) for image in images]
        if self._previous is not None and self._episode.context_grew():
            rest = renderer.find_rest(*self._previous, text)
            if rest is not None:
                sequence = self.sequences[-1]
                new_images = stored[len(sequence.images) :]
                reply_ids = sequence.sent[-1].reply_ids
                sequence.add_context(renderer.continue_ids(reply_ids, rest, new_images), new_images)
                return text
        self.sequences.append(TrainingSequence(renderer.tokenize(text, stored), stored))
        return text

    def close(self) -> None:
        """Leave sequences that can be trained on; raises `TokenMismatch` where that is no longer
        what was sampled from."""
        self.drop_unanswered()
        for sequence in self.sequences:
            check_sequence(sequence)

    def drop_unanswered(self) -> None:
        """Forget context that was appended but never answered: the episode ended as overlong."""
        if self.sequences and not self.sequences[-1].sent:
            self.sequences.pop()
        if self.sequences:
            sequence = self.sequences[-1]
            stop = (
                len(sequence.sent[-1].token_ids)
                + len(sequence.sent[-1].reply_ids)
                - len(sequence.prompt_ids)
            )
            sequence.response_ids = sequence.response_ids[:stop]
            sequence.response_mask = sequence.response_mask[:stop]
            sequence.logprobs = sequence.logprobs[:stop]
            sequence.images = sequence.images[: len(sequence.sent[-1].image_digests)]

    def _note(self, output: Any) -> None:
        """Keep the engine's versions: the first reply's oldest weights, the last reply's newest."""
        oldest = self.extra_fields.get(
            "min_global_steps", output.extra_fields.get("min_global_steps")
        )
        self.extra_fields = dict(output.extra_fields) | {"min_global_steps": oldest}
        if output.num_preempted is not None:
            self.num_preempted = max(self.num_preempted, output.num_preempted)


class VideoSearchAgentLoop(AgentLoopBase):
    """One session of one prompt group."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = _read_settings(OmegaConf.to_yaml(self.config.videosearch, resolve=True))
        self.identity = Identity(
            model=str(self.config.actor_rollout_ref.model.path),
            package_version=version("verl-videosearch"),
        )
        self.renderer = _make_renderer(
            self.tokenizer,
            self.processor,
            json.dumps(dict(self.apply_chat_template_kwargs)),
            self.settings.episode.native_thought,
        )

    async def run(self, sampling_params: dict[str, Any], **row: Any) -> list[AgentLoopOutput]:
        """Run one episode; `row` is a row of the contract (`sample.py`) plus verl's `uid`,
        `session_id`, `global_steps`."""
        group, sample = join_group(row["uid"]), None
        sample_uid = str(row.get("sample_uid", "?"))
        try:
            sample = read_sample(row)
            return await self._run_session(sample, group, sampling_params, row)
        # the one boundary: whatever it was, the group is told and the failure gets a kind
        except Exception as error:
            failure = to_failure(error, sample_uid)
            group.fail(failure)
            await self._report_failure(failure, sample, row)
            raise failure from error
        except asyncio.CancelledError:
            group.fail(EpisodeFailure(FailureKind.TIMEOUT, "the session was cancelled", sample_uid))
            raise
        finally:
            leave_group(row["uid"], group)

    async def _run_session(
        self,
        sample: PreferenceSample,
        group: EpisodeGroup,
        sampling_params: dict[str, Any],
        row: dict[str, Any],
    ) -> list[AgentLoopOutput]:
        """Run, share, score, pack."""
        settings = self.settings
        store = _open_store(settings.frames)
        async with running_slots(settings.rollout.max_running_episodes):
            start = time.perf_counter()
            pair = await asyncio.to_thread(
                load_pair, sample, store, settings.episode, settings.frames.video_root
            )
            load_s = time.perf_counter() - start
            episode = await take_turn(Episode, sample, pair.candidates, settings.episode)
            generator = TokenGenerator(self, episode, group, sampling_params)
            result = await run_episode(
                episode, pair, generator, timeout_s=settings.rollout.episode_timeout_s
            )
        await take_turn(generator.close)
        search_rate = await group.share_search(
            result.has_searched, timeout_s=settings.rollout.group_timeout_s, sample_uid=sample.uid
        )
        score = score_episode(result, sample.labels, search_rate, settings.reward)
        measures = measure_episode(result, score, sample.labels) | _measure_cost(
            generator, pair, load_s
        )
        record = record_episode(
            RecordKind.ROLLOUT,
            name_session(row),
            sample,
            Order.AB,
            episode,
            score=score,
            usage=Usage(
                num_reply_tokens=int(measures["num_sampled_tokens"]),
                num_requests=sum(len(sequence.sent) for sequence in generator.sequences),
            ),
            seconds=time.perf_counter() - start,
            identity=self.identity,
            **describe_session(row),
        )
        await asyncio.to_thread(self._write_record, record)
        return self._pack(generator, result, score, measures)

    def measure_room(
        self, num_context_tokens: int, episode: Episode, reply_ids: Sequence[int] = ()
    ) -> int:
        """Return how many tokens the reply, of which `reply_ids` are there, may still have; a first
        context that is too long is a wrong setting."""
        limits = self.rollout_config
        is_first = episode.num_turns == 0 and not reply_ids
        if is_first and num_context_tokens > limits.prompt_length:
            raise EpisodeFailure(
                FailureKind.PROMPT_TOO_LONG,
                f"the first context has {num_context_tokens} tokens, data.max_prompt_length is "
                f"{limits.prompt_length}; "
                f"raise data.max_prompt_length to at least {num_context_tokens}, "
                "or lower videosearch.episode.initial_max_pixels",
                episode.sample.uid,
            )
        room = min(
            limits.prompt_length + limits.response_length - num_context_tokens,
            self.settings.rollout.max_turn_tokens - len(reply_ids),
        )
        if room < 1 and not reply_ids:
            raise ContextTooLong
        return room

    def _pack(
        self,
        generator: TokenGenerator,
        result: EpisodeResult,
        score: Score,
        measures: dict[str, float],
    ) -> list[AgentLoopOutput]:
        """Make one output per training sequence; the last carries the score and the figures."""
        outputs = [
            AgentLoopOutput(
                prompt_ids=sequence.prompt_ids.tolist(),
                response_ids=sequence.response_ids.tolist(),
                response_mask=sequence.response_mask.tolist(),
                response_logprobs=sequence.logprobs.tolist()
                if self.rollout_config.calculate_log_probs
                else None,
                multi_modal_data={"images": sequence.images},
                num_turns=2 * len(result.turns),
                metrics=AgentLoopMetrics(
                    generate_sequences=generator.generate_s, num_preempted=generator.num_preempted
                ),
                extra_fields=dict(generator.extra_fields),
            )
            for sequence in generator.sequences
        ]
        outputs[-1].reward_score = score.total
        outputs[-1].extra_fields["reward_extra_info"] = measures
        return outputs

    async def _report_failure(
        self, failure: EpisodeFailure, sample: PreferenceSample | None, row: dict[str, Any]
    ) -> None:
        """Tell the trainer, and the file of episodes, that this session failed."""
        tag = {"kind": failure.label, "detail": str(failure)[:500], "uid": row["uid"]}
        await tq.async_kv_put(
            key=f"{row['uid']}_{row['session_id']}_0", partition_id=FAILURES, tag=tag
        )
        record = record_failure(
            RecordKind.ROLLOUT,
            name_session(row),
            sample,
            Order.AB,
            failure,
            identity=self.identity,
            **describe_session(row),
        )
        await asyncio.to_thread(self._write_record, record)

    def _write_record(self, record: EpisodeRecord) -> None:
        """Append one episode to this process's file of records."""
        if self.settings.rollout.episodes_dir is None:
            return
        folder = Path(self.settings.rollout.episodes_dir)
        folder.mkdir(parents=True, exist_ok=True)
        # Sessions write from several threads: a line is one append and stays in one piece.
        append_record(folder / f"episodes-{os.getpid()}.jsonl", record)


def name_session(row: dict[str, Any]) -> str:
    """Return the key of an episode's record: verl's prompt group and session."""
    return f"{row['uid']}_{row['session_id']}"


def describe_session(row: dict[str, Any]) -> dict[str, Any]:
    """Return where in the training an episode was played, as fields of its record."""
    return {
        "step": int(row["global_steps"]),
        "group": str(row["uid"]),
        "attempt": int(row["session_id"]),
    }


def read_sample(row: dict[str, Any]) -> PreferenceSample:
    """Read the row; a broken one is a failure of kind `sample`."""
    try:
        return from_row(row)
    except (ValueError, KeyError, TypeError) as error:
        raise EpisodeFailure(
            FailureKind.SAMPLE, str(error), str(row.get("sample_uid", "?"))
        ) from error


def to_failure(error: Exception, sample_uid: str) -> EpisodeFailure:
    """Give any exception of a session its kind."""
    if isinstance(error, EpisodeFailure):
        return error
    kind = FailureKind.BUG if isinstance(error, TokenMismatch) else FailureKind.SERVER
    return EpisodeFailure(kind, f"{type(error).__name__}: {error}", sample_uid)


def _measure_cost(generator: TokenGenerator, pair: PairFrames, load_s: float) -> dict[str, float]:
    """Return what an episode cost: sequences, tokens, frame-store hits, seconds."""
    sequences = generator.sequences
    return {
        "num_sequences": float(len(sequences)),
        "num_continued": float(generator.num_continued),
        "num_sampled_tokens": float(sum(sum(sequence.response_mask) for sequence in sequences)),
        "num_trained_tokens": float(sum(sequence.num_tokens for sequence in sequences)),
        "max_context_tokens": float(max(sequence.num_tokens for sequence in sequences)),
        "frame_store_hit_rate": pair.num_hits / 2,
        "decode_ms": 1000 * pair.decode_s,
        "load_ms": 1000 * load_s,
        "generate_s": generator.generate_s,
    }


_slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def running_slots(max_running: int) -> asyncio.Semaphore:
    """Return what limits the episodes that run at once in this process; first come, first served,
    so that siblings, which start together, end together."""
    loop = asyncio.get_running_loop()
    return _slots.setdefault(loop, asyncio.Semaphore(max_running))


@lru_cache(maxsize=4)
def _read_settings(yaml: str) -> Settings:
    """Read the node once per process (a loop object is made per session)."""
    return Settings.from_dict(OmegaConf.to_container(OmegaConf.create(yaml)))


@lru_cache(maxsize=4)
def _make_renderer(
    tokenizer: Any, processor: Any, template_kwargs: str, native_thought: NativeThought
) -> ContextRenderer:
    """Learn the model's template once per process, and keep the ids of what many contexts share."""
    spare_imports()
    return ContextRenderer(tokenizer, processor, json.loads(template_kwargs), native_thought)


def spare_imports() -> None:
    """Take all that is imported out of garbage collection: walking over torch, transformers and
    verl blocks the event loop for 0.3 s and more, and finds nothing."""
    gc.collect()
    gc.freeze()


@lru_cache(maxsize=4)
def _open_store(frames: FramesConfig) -> FrameStore:
    """Open the store once per process, so that its counters and memory maps are shared by all
    sessions."""
    return frames.open_store()
