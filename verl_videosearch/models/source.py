"""ModelSource: where replies come from - a server, a checkpoint served here, or a folder loaded
into this process.

    source = ModelSource(local=Path("outputs/demo/models/grpo"))
    async with source.open(decoding, log) as start_episode:
        line = await play_episode(sample, Order.AB, stage, start_episode())

The one idea: whoever drives episodes asks for a `GenerateFn` per episode and does not know which of
the three it is.

| source | for |
|---|---|
| `endpoint` | any OpenAI-compatible server that runs already |
| `serve` | a checkpoint: vLLM is started for it, and stopped |
| `local` | a small model: transformers in this process, no start-up, batched over the episodes in flight |

Covers: one model. Does not cover: several servers at once (`data_prep.rejection_sampling`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from verl_videosearch.models.client import ChatClient, ClientConfig
from verl_videosearch.models.local import LocalConfig, LocalModel
from verl_videosearch.models.server import serve_checkpoint
from verl_videosearch.rollout import GenerateFn

StartEpisode = Callable[[int | None], GenerateFn]
"""Gives an episode its `GenerateFn`, with an account of tokens of its own; takes its seed, or
None."""


@dataclass(frozen=True)
class Decoding:
    """How replies are drawn."""

    model: str
    """Name under which a server knows the model."""
    temperature: float = 0.0
    max_turn_tokens: int = 1024
    """Most tokens of one reply."""
    timeout_s: float = 120.0
    """Most seconds of one request to a server; it is repeated after that."""
    seed: int = 0
    """Of a model in this process, which cannot seed single episodes."""


@dataclass(frozen=True)
class ModelSource:
    """One model; exactly one of the first three is given."""

    endpoint: str | None = None
    serve: Path | None = None
    local: Path | None = None
    serve_options: Sequence[str] = ()
    """Of `vllm serve`, for `serve`."""

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.endpoint, self.serve, self.local)) != 1:
            raise ValueError(
                "give one of --endpoint URL, --serve CHECKPOINT and --local CHECKPOINT"
            )
        if self.serve_options and self.serve is None:
            raise ValueError(
                f"--serve-option is for --serve; got {list(self.serve_options)} without it"
            )
        if self.folder is not None and not (self.folder / "config.json").is_file():
            raise ValueError(
                f"{self.folder} is no model: it has no config.json; give a Hugging Face folder"
            )

    @property
    def folder(self) -> Path | None:
        """Return the model's files, if they are here."""
        return self.serve or self.local

    @asynccontextmanager
    async def open(self, decoding: Decoding, log: Path) -> AsyncIterator[StartEpisode]:
        """Yield what gives each episode its replies; `log` takes the output of a server that is
        started here."""
        if self.local is not None:
            config = LocalConfig(decoding.temperature, decoding.max_turn_tokens, seed=decoding.seed)
            yield LocalModel(self.local, config).for_episode
        elif self.serve is not None:
            with serve_checkpoint(self.serve, decoding.model, log, self.serve_options) as url:
                async with ChatClient(
                    _configure(url, decoding, max_retries=1)
                ) as client:  # it cannot be overloaded
                    yield client.for_episode
        else:
            async with ChatClient(_configure(self.endpoint, decoding)) as client:
                yield client.for_episode


def _configure(
    url: str, decoding: Decoding, max_retries: int = ClientConfig.max_retries
) -> ClientConfig:
    return ClientConfig(
        url,
        decoding.model,
        temperature=decoding.temperature,
        max_turn_tokens=decoding.max_turn_tokens,
        timeout_s=decoding.timeout_s,
        max_retries=max_retries,
    )
