"""Players: play episodes of a served policy, on one server or several, each episode with its own
seed and account.

The one idea: what made an episode is written down with it. A policy is named by the hash of its
files, and every setting that changes how it is sampled is sent explicitly, so a server's own
defaults change nothing.

    policy = Policy("judge", hash_served([endpoint]))
    async with Players(policy, config, store, [endpoint]) as players:
        row = await players.play(sample, Key(sample.uid, Order.AB, 0))

Covers: asking servers who they are, taking them in turn. Does not cover: retries
(`evaluation.runner`)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from verl_videosearch.data_prep.traces.attempts import Attempt, Input, Key, to_row
from verl_videosearch.data_prep.traces.judging import RunConfig, judge_pair

from verl_videosearch.extras import Extra, require
from verl_videosearch.models.client import ChatClient, ClientConfig
from verl_videosearch.runs.folder import Line
from verl_videosearch.runs.identity import UNKNOWN_MODEL, hash_model, read_commit
from verl_videosearch.runs.play import derive_seed
from verl_videosearch.sample import PreferenceSample, show_in_order
from verl_videosearch.video.store import FrameStore

UNCHANGED = {"top_k": 0, "repetition_penalty": 1.0}
"""A vLLM server would take these from the model's folder; the policy is sampled as it is."""


@dataclass(frozen=True)
class Endpoint:
    """A server, as it presents itself."""

    url: str
    is_vllm: bool
    root: str | None
    """The folder or name that it loaded the model from, if it says."""
    name: str
    """How provenance calls it."""


@dataclass(frozen=True)
class Policy:
    """Who plays, and how its replies are drawn; with the episode's settings it decides what a log
    means."""

    model: str
    """Name on the servers."""
    checkpoint: str
    """Hash of its files."""
    temperature: float = 1.0
    top_p: float = 1.0
    max_turn_tokens: int = 1024
    seed: int = 0

    def seed_of(self, key: Key) -> int:
        """Give each episode a seed of its own, the same in every run."""
        return derive_seed(self.seed, str(key))


def find_endpoint(url: str, model: str, key_variable: str, name: str | None = None) -> Endpoint:
    """Ask a server who it is; raises `ValueError` if it does not answer or does not serve the
    model."""
    openai = require("openai", Extra.JUDGE)
    ClientConfig(url, model)  # its checks name a wrong URL or an empty model
    try:
        with openai.OpenAI(
            base_url=url, api_key=os.environ.get(key_variable) or "none", timeout=30
        ) as client:
            models = {each.id: each for each in client.models.list().data}
    except (openai.OpenAIError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{url} does not say which models it serves ({error}); is the server up?"
        ) from error
    if model not in models:
        raise ValueError(f"{url} serves {sorted(models)}, got --model {model!r}")
    served = models[model]
    return Endpoint(
        url, getattr(served, "owned_by", "") == "vllm", getattr(served, "root", None), name or url
    )


def hash_served(endpoints: Sequence[Endpoint]) -> str:
    """Hash the checkpoint that all servers loaded; `UNKNOWN_MODEL` if its folder cannot be seen
    from here."""
    roots = {endpoint.root for endpoint in endpoints}
    if len(roots) > 1:
        raise ValueError(
            f"the servers have loaded different checkpoints, {sorted(map(str, roots))}; give equal ones"
        )
    root = Path(roots.pop() or "")
    return hash_model(root) if (root / "config.json").is_file() else UNKNOWN_MODEL


class Players:
    """Plays episodes on several servers in turn; all attempts at an input go to one, whose cache
    holds its prompt."""

    def __init__(
        self,
        policy: Policy,
        config: RunConfig,
        store: FrameStore,
        endpoints: Sequence[Endpoint],
        key_variable: str = ClientConfig.key_variable,
    ) -> None:
        self.policy, self.config, self.store = policy, config, store
        self._endpoints = endpoints
        self._clients = [
            ChatClient(self._configure(endpoint, key_variable)) for endpoint in endpoints
        ]
        self._numbers: dict[Input, int] = {}
        self._tries: Counter[Key] = Counter()
        self._commit = read_commit()

    def _configure(self, endpoint: Endpoint, key_variable: str) -> ClientConfig:
        return ClientConfig(
            base_url=endpoint.url,
            model=self.policy.model,
            key_variable=key_variable,
            temperature=self.policy.temperature,
            max_turn_tokens=self.policy.max_turn_tokens,
            is_vllm=endpoint.is_vllm,
            extra_body={"top_p": self.policy.top_p} | (UNCHANGED if endpoint.is_vllm else {}),
        )

    async def __aenter__(self) -> Players:
        async with AsyncExitStack() as stack:
            for client in self._clients:
                await stack.enter_async_context(client)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def play(self, sample: PreferenceSample, key: Key) -> Line:
        """Play one episode and return its line of the log; raises `EpisodeFailure`."""
        number = self._numbers.setdefault(key.input, len(self._numbers)) + self._tries[key]
        self._tries[key] += 1
        endpoint, shared = (
            each[number % len(self._clients)] for each in (self._endpoints, self._clients)
        )
        seed = self.policy.seed_of(key)
        client = shared.for_episode(seed, str(key))
        trace = await judge_pair(
            show_in_order(sample, key.order), lambda *_: client, self.store, self.config
        )
        provenance = asdict(self.policy) | {
            "server": endpoint.name,
            "seed": seed,
            "commit": self._commit,
        }
        tokens = {
            name: getattr(client.usage, name) for name in ("num_prompt_tokens", "num_reply_tokens")
        }
        return to_row(Attempt(key, trace, provenance | tokens))
