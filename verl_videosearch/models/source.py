"""ModelSource: who writes the replies of a run - servers, a checkpoint served here, or a folder
loaded into this process.

    source = ModelSource(endpoints=("http://localhost:8000/v1",), model="judge")
    async with source.open() as model:
        record = await play_episode(sample, Order.AB, setup, model.for_episode("a AB"))

The one idea: whoever drives episodes asks for a `GenerateFn` per episode and does not know which of
the three it is. All programs take the same options for it (`models.options`).

| source | for |
|---|---|
| `endpoints` | OpenAI-compatible servers that run already; several share the episodes |
| `serve` | a checkpoint: vLLM is started for it, one replica per GPU, and stopped |
| `local` | a small model: transformers in this process, batched over the episodes in flight |

Opening asks each server for its models and shows it one picture: what cannot work is a
`ServerUnusable` within seconds, with what to do. Covers: one model. Does not cover: retries
(`runs.jobs`)."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from verl_videosearch.checkpoint import explain_no_model
from verl_videosearch.config import NOT_EMPTY, above, at_least, between, check
from verl_videosearch.failures import ServerUnusable
from verl_videosearch.models.address import hide_password, read_address
from verl_videosearch.models.endpoint import ClientConfig
from verl_videosearch.models.local import LocalConfig, LocalModel, find_thought
from verl_videosearch.models.pool import Pool
from verl_videosearch.models.replica import Replica
from verl_videosearch.models.replicas import count_replicas, serve_replicas
from verl_videosearch.models.server import SERVER_LOG
from verl_videosearch.reply import NativeThought, ThoughtForm
from verl_videosearch.rollout import GenerateFn
from verl_videosearch.runs.play import derive_seed

LOG = logging.getLogger(__name__)
_RESERVED = ("messages", "model", "n", "stream", "stop", "include_stop_str_in_output")
"""Fields of a request that are no option."""


class Secret:
    """A text that shows itself to nobody by accident."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "Secret(***)"

    def reveal(self) -> str:
        """Return the text."""
        return self._text


class KeptServers:
    """Servers that are started by the first of several runs and stopped after the last.

    with KeptServers() as kept:
        for samples in benchmarks:
            evaluate(samples, replace(source, kept=kept), ...)
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._replicas: Sequence[Replica] | None = None

    def __enter__(self) -> KeptServers:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._replicas = None

    @property
    def is_running(self) -> bool:
        """True once the first run has started them."""
        return self._replicas is not None

    def enter(self, servers: AbstractContextManager[Sequence[Replica]]) -> Sequence[Replica]:
        """Return the running servers; `servers` starts them where none run."""
        if self._replicas is None:
            self._replicas = self._stack.enter_context(servers)
        return self._replicas


@dataclass(frozen=True)
class ModelSource:
    """One model, and how its replies are drawn; exactly one of `endpoints`, `serve` and `local`."""

    endpoints: tuple[str, ...] = ()
    """OpenAI-compatible servers, such as http://localhost:8000/v1; a password in one is split
    off."""
    serve: Path | None = None
    """Checkpoint to start vLLM servers for."""
    local: Path | None = None
    """Small checkpoint to load into this process."""
    model: str = ""
    """Name under which the servers know the model; empty for `serve` and `local`: the folder's."""
    serve_options: tuple[str, ...] = ()
    """Of `vllm serve`, such as --max-model-len=4096."""
    is_policy: bool = False
    """Sample as the weights say: a vLLM server would take some settings from the model's folder."""
    num_replicas: int | None = None
    """Of `serve`; null: as many as the GPUs hold, one without a GPU."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of every request to a server; null leaves one of ours out."""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the chat template, such as `{"enable_thinking": false}`."""
    max_tokens_parameter: str = "max_tokens"
    """Name of the token limit in a request; OpenAI's newer models want `max_completion_tokens`."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the servers' key."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Share of the probability that is sampled from; null in `extra_body` does not send it."""
    max_turn_tokens: int = 1024
    """Most tokens of one reply."""
    timeout_s: float = 120.0
    """Most seconds of one request."""
    max_requests_per_minute: float | None = None
    """To each endpoint, evenly spaced; null does not limit."""
    seed: int = 0
    """Of sampling; each episode gets one of its own from it and its key."""
    kept: KeptServers | None = field(default=None, repr=False, compare=False)
    """Where servers of `serve` go on running for the next run; null: they end with each run."""
    secrets: Mapping[str, Secret] = field(default_factory=dict, repr=False, compare=False)
    """Full URL of each endpoint that came with a password; filled here."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "endpoints", self._hide_passwords())
        check(
            self,
            self._find_problems(),
            temperature=at_least(0),
            top_p=between(0, 1),
            max_turn_tokens=at_least(1),
            timeout_s=above(0),
            max_requests_per_minute=above(0),
            num_replicas=at_least(1),
            max_tokens_parameter=NOT_EMPTY,
            key_variable=NOT_EMPTY,
        )

    def _hide_passwords(self) -> tuple[str, ...]:
        """Return the endpoints as they may be shown, and keep those with a password apart."""
        given = (self.endpoints,) if isinstance(self.endpoints, str) else self.endpoints
        shown, hidden = [], dict(self.secrets)
        for url in given:
            try:
                address = read_address(url)
            except (ValueError, TypeError):
                shown.append(hide_password(str(url)))
                continue
            shown.append(address.url)
            if address.user is not None:
                hidden[address.url] = Secret(url)
        object.__setattr__(self, "secrets", hidden)
        return tuple(shown)

    def _find_problems(self) -> list[str]:
        problems = []
        if sum(map(bool, (self.endpoints, self.serve, self.local))) != 1:
            problems.append("give one of --endpoint URL, --serve CHECKPOINT and --local CHECKPOINT")
        for url in self.endpoints:
            try:
                read_address(url)
            except ValueError as error:
                problems.append(str(error))
        if self.endpoints and not self.model:
            problems.append(
                "model is empty; give --model, the name under which the server knows it"
            )
        if self.serve_options and self.serve is None:
            problems.append(
                f"--serve-option is for --serve; got {list(self.serve_options)} without it"
            )
        if self.num_replicas is not None and self.serve is None:
            problems.append(f"--replicas is for --serve; got {self.num_replicas} without it")
        if self.folder is not None and not os.path.isfile(self.folder / "config.json"):
            problems.append(explain_no_model(self.folder))
        if reserved := sorted(set(_RESERVED) & set(self.extra_body)):
            problems.append(f"extra_body must not hold {reserved}: they are set by the package")
        return problems

    @property
    def folder(self) -> Path | None:
        """Return the model's files, if they are here."""
        path = self.serve or self.local
        return None if path is None else Path(path)

    @property
    def requests_per_minute(self) -> float | None:
        """Most requests per minute to all endpoints together; None where nothing limits them."""
        rate = self.max_requests_per_minute
        return None if rate is None else rate * max(1, len(self.endpoints))

    @property
    def name(self) -> str:
        """Return the model's name: the given one, or its folder's."""
        return self.model or (self.folder.resolve().name if self.folder else "")

    def describe(self) -> dict[str, Any]:
        """Return what decides the replies, JSON-ready and without addresses, for a run's
        settings."""
        sampled = {"top_p": self.top_p, "seed": self.seed} if self.temperature else {}
        optional = {
            "extra_body": self.extra_body,
            "chat_template_kwargs": self.chat_template_kwargs,
        }
        return {
            "model": self.name,
            "temperature": self.temperature,
            "max_turn_tokens": self.max_turn_tokens,
            **sampled,
            **{name: dict(value) for name, value in optional.items() if value},
        }

    @asynccontextmanager
    async def open(
        self, log: Path | None = None, native_thought: NativeThought = NativeThought.AUTO
    ) -> AsyncIterator[OpenModel]:
        """Yield the model, ready to write; raises `ServerUnusable` if it cannot.

        `log` takes the output of a server that is started here (null: a temporary file);
        `native_thought` is the episodes' setting."""
        thought = find_thought(self.folder, native_thought)
        async with AsyncExitStack() as stack:
            writer: LocalModel | Pool
            if self.local is not None:
                writer, num_replicas = LocalModel(self.local, self._configure_local(), thought), 1
            else:
                writer = await self._meet(log, stack, thought)
                num_replicas = len(writer.endpoints)
            yield OpenModel(self, writer, num_replicas, thought)

    async def _meet(
        self, log: Path | None, stack: AsyncExitStack, thought: ThoughtForm | None
    ) -> Pool:
        """Return the servers, ready to write; those of a checkpoint are started here."""
        is_new = self.kept is None or not self.kept.is_running
        started = [] if self.serve is None else self._serve(log, stack)
        replicas = await self._await(started, is_new=is_new)
        urls = [replica.url for replica in replicas] or map(self._reveal, self.endpoints)
        pool = Pool([self._configure(url) for url in urls], thought, replicas)
        await stack.enter_async_context(pool)
        await pool.meet()
        return pool

    async def _await(self, started: Sequence[Replica], *, is_new: bool) -> list[Replica]:
        """Return the servers that are ready. A new one that does not come up ends the run; of those
        that are kept, one may be gone for good."""
        ready, lost = [], None
        for replica in started:
            try:
                await replica.wait_until_ready()
                ready.append(replica)
            except ServerUnusable as error:
                if is_new:
                    raise
                lost = error
                LOG.warning("the run goes on without the server at %s", replica.url)
        if lost is not None and not ready:
            raise lost
        return ready

    def _serve(self, log: Path | None, stack: AsyncExitStack) -> Sequence[Replica]:
        """Start the servers of a checkpoint, unless they run already."""
        assert self.serve is not None, "without endpoints and --local there is a folder to serve"
        servers = serve_replicas(
            self.serve,
            self.name,
            log or Path(tempfile.mkdtemp(prefix="videosearch-")) / SERVER_LOG,
            self.serve_options,
            self.num_replicas or count_replicas(self.serve_options),
        )
        return stack.enter_context(servers) if self.kept is None else self.kept.enter(servers)

    def _reveal(self, url: str) -> str:
        return self.secrets[url].reveal() if url in self.secrets else url

    def _configure(self, url: str) -> ClientConfig:
        sampled = {"top_p": self.top_p} if self.temperature and self.top_p < 1 else {}
        return ClientConfig(
            url,
            self.name,
            key_variable=self.key_variable,
            temperature=self.temperature,
            max_turn_tokens=self.max_turn_tokens,
            timeout_s=self.timeout_s,
            max_requests_per_minute=self.max_requests_per_minute,
            is_policy=self.is_policy,
            extra_body={**sampled, **self.extra_body},
            chat_template_kwargs=self.chat_template_kwargs,
            max_tokens_parameter=self.max_tokens_parameter,
        )

    def _configure_local(self) -> LocalConfig:
        return LocalConfig(
            self.temperature,
            self.max_turn_tokens,
            top_p=self.top_p,
            seed=self.seed,
            chat_template_kwargs=self.chat_template_kwargs,
        )


class _Writer(Protocol):
    """What gives each episode its `GenerateFn`."""

    def for_episode(self, name: str, seed: int | None) -> GenerateFn: ...


@dataclass(frozen=True)
class OpenModel:
    """A model that is ready to write."""

    source: ModelSource
    _writer: _Writer
    num_replicas: int
    """Servers that share the episodes; a run's concurrency counts for each of them."""
    thought: ThoughtForm | None
    """How the model marks its native thought, where that is known."""

    def for_episode(self, key: str = "", seed: int | None = None) -> GenerateFn:
        """Return one episode's `GenerateFn`: on one server from beginning to end, with an account
        of its own (`.usage`); `key` names the pair in messages.

        Without a `seed`, an episode that samples gets one from the run's seed and its key."""
        if seed is None and self.source.temperature:
            seed = derive_seed(self.source.seed, key)
        return self._writer.for_episode(key, seed)

    @property
    def is_away(self) -> bool:
        """True while servers of ours are being started again."""
        return isinstance(self._writer, Pool) and self._writer.is_away

    @property
    def is_given_up(self) -> bool:
        """True once the servers of ours have died for good: opening the model again may help."""
        return isinstance(self._writer, Pool) and self._writer.is_given_up

    @property
    def model_root(self) -> str | None:
        """Return the folder or name that the servers have loaded the model from, if they say."""
        if isinstance(self._writer, Pool):
            return next((e.model_root for e in self._writer.endpoints if e.model_root), None)
        return str(self.source.folder)
