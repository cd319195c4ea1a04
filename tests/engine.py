"""What stands around our code inside verl, small enough for a test: a model folder, an engine, a
TransferQueue.

The tokenizer, the processor, verl's agent-loop worker and the packing of TransferQueue's values are
real; only the engine's sampling is scripted and the queue's storage is a dict in this process.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transfer_queue
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from PIL import Image
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from transfer_queue.storage.managers.simple_storage_manager import AsyncSimpleStorageManager
from transformers import AutoProcessor
from verl.workers.rollout.replica import TokenOutput

from verl_videosearch.from_scratch.tiny_model import build_tiny_model

GUESS = "<Recommend Answer>TA=0, VQ=0, MQ=0, OA=0, CF=3</Recommend Answer>"
THOUGHT = "<Snapshot>grey</Snapshot><Think>look</Think>"
ANSWER = f"{THOUGHT}<Answer>TA=0, VQ=1, MQ=0, OA=1</Answer>"

Script = list[str | list[int]]
"""Replies of one session, as text or as the exact ids to sample."""


def call_frames(*numbers: int) -> str:
    """Write a well-formed turn that asks for frames."""
    arguments = f'{{"name": "select_frames", "arguments": {{"target_frames": {list(numbers)}}}}}'
    return f"{THOUGHT}{GUESS}<tool_call>{arguments}</tool_call>"


@cache
def model_dir() -> Path:
    """Build the tiny model once per run, beside the frame store that `conftest.py` removes."""
    return build_tiny_model(Path(os.environ["VIDEOSEARCH_FRAME_STORE"]).with_name("tiny_model"))


@cache
def processor() -> Any:
    return AutoProcessor.from_pretrained(model_dir())


def tokenize(text: str) -> list[int]:
    return processor().tokenizer(text)["input_ids"]


def tokenize_oddly(text: str) -> list[int]:
    """Tokenise as no tokenizer does: one character at a time; an engine may sample such ids."""
    return [token_id for character in text for token_id in tokenize(character)]


@cache
def compose_recipe(name: str, *overrides: str) -> DictConfig:
    """Compose a recipe as `python -m verl.trainer.main_ppo +recipe=NAME` does, with files that need
    not exist."""
    given = [
        f"actor_rollout_ref.model.path={model_dir()}",
        "data.train_files=train",
        "data.val_files=val",
    ]
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=[f"+recipe={name}", *given, *overrides])


@dataclass(frozen=True)
class EngineCall:
    """What the engine was given for one reply, and what it sampled."""

    prompt_ids: list[int]
    images: list[Image.Image]
    sampling: dict[str, Any]
    reply_ids: list[int]
    logprobs: list[float]


class ScriptedEngine:  # no dataclass: Hydra, which makes the loop, would turn one into a config
    """verl's `LLMServerClient` with scripted replies; each new request id takes the next script."""

    def __init__(self, scripts: list[Script]) -> None:
        self.scripts = scripts
        self.calls: list[list[EngineCall]] = []
        """Of each session, in the order of `scripts`."""
        self.sessions: dict[str, int] = {}
        """Request id to index of its script."""

    async def generate(
        self,
        request_id: str,
        *,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        image_data: list[Image.Image] | None = None,
    ) -> TokenOutput:
        await asyncio.sleep(0)
        session = self.sessions.setdefault(request_id, len(self.sessions))
        if session == len(self.calls):
            self.calls.append([])
        turn = len(self.calls[session])
        reply = self.scripts[session][turn]
        ids = (tokenize(reply) if isinstance(reply, str) else list(reply))[
            : sampling_params["max_tokens"]
        ]
        logprobs = [-1.0 - turn - i / 1024 for i in range(len(ids))]
        images = [image.copy() for image in image_data or []]
        self.calls[session].append(
            EngineCall(list(prompt_ids), images, dict(sampling_params), ids, logprobs)
        )
        return TokenOutput(
            token_ids=ids,
            log_probs=logprobs,
            num_preempted=0,
            extra_fields={
                "global_steps": 5 + turn,
                "min_global_steps": 5 + turn,
                "max_global_steps": 5 + turn,
            },
        )


class MemoryQueue:
    """TransferQueue's key-value interface on dicts; values are packed by TransferQueue itself."""

    def __init__(self) -> None:
        self.tags: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self.rows: dict[str, dict[str, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))

    def kv_put(self, key: str, partition_id: str, tag: dict[str, Any]) -> None:
        self.tags[partition_id].setdefault(key, {}).update(tag)

    def kv_batch_put(
        self,
        keys: list[str],
        partition_id: str,
        fields: TensorDict | None = None,
        tags: list[dict] | None = None,
    ) -> KVBatchMeta:
        for key, tag in zip(keys, tags or [{}] * len(keys), strict=True):
            self.kv_put(key, partition_id, tag)
        for name, values in () if fields is None else fields.items():
            values = values.unbind() if isinstance(values, torch.Tensor) else values.tolist()
            for key, value in zip(keys, values, strict=True):
                self.rows[partition_id][key][name] = value
        return KVBatchMeta(keys, [self.tags[partition_id][key] for key in keys], partition_id)

    def kv_batch_get(
        self, keys: list[str], partition_id: str, select_fields: list[str] | None = None
    ) -> TensorDict:
        rows = [self.rows[partition_id][key] for key in keys]
        names = [name for name in select_fields or rows[0] if name in rows[0]]
        pack = AsyncSimpleStorageManager._pack_field_values
        return TensorDict(
            {name: pack([row[name] for row in rows]) for name in names}, batch_size=len(keys)
        )

    def kv_list(self, partition_id: str | None = None) -> dict[str, dict[str, dict[str, Any]]]:
        return {
            name: dict(tags) for name, tags in self.tags.items() if partition_id in (None, name)
        }

    def kv_clear(self, keys: list[str], partition_id: str) -> None:
        for key in keys:
            self.tags[partition_id].pop(key, None)
            self.rows[partition_id].pop(key, None)


def use_memory_queue(monkeypatch: pytest.MonkeyPatch) -> MemoryQueue:
    """Put a fresh queue in the place of TransferQueue's functions."""
    queue = MemoryQueue()

    def to_async(function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(0)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(transfer_queue, "init", lambda *_: None)
    for name in ("kv_put", "kv_batch_put", "kv_batch_get", "kv_list", "kv_clear"):
        monkeypatch.setattr(transfer_queue, name, getattr(queue, name))
        monkeypatch.setattr(transfer_queue, f"async_{name}", to_async(getattr(queue, name)))
    return queue


def read_sequences(queue: MemoryQueue, session: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of one session, `{uid}_{session_id}`, in order."""
    rows = queue.rows["train"]
    for index in range(sum(key.rsplit("_", 1)[0] == session for key in rows)):
        yield rows[f"{session}_{index}"]
