"""The client sends the context unchanged, ends a reply where a rollout does, and never turns a
failure into a reply."""

import asyncio
import base64
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("openai")

from tests.replies import ANSWER  # noqa: E402
from tests.scripted_server import ScriptedServer, serve_scripts  # noqa: E402
from verl_videosearch.episode import Message, Reply  # noqa: E402
from verl_videosearch.failures import ContextTooLong, EpisodeFailure  # noqa: E402
from verl_videosearch.judgement import STOP_STRINGS  # noqa: E402
from verl_videosearch.models.client import ChatClient, ClientConfig, cut_after_stop, to_openai  # noqa: E402


def make_context(behaviour: str) -> list[Message]:
    pair = [
        {"type": "text", "text": f'Prompt of both videos: "{behaviour}"\n'},
        {"type": "text", "text": "Frame 1:"},
        {"type": "image", "frame_number": 1, "max_pixels": 784},
    ]
    return [
        {"role": "system", "content": [{"type": "text", "text": "Judge."}]},
        {"role": "user", "content": pair},
    ]


def ask(server: ScriptedServer, behaviour: str, times: int = 1, **settings: Any) -> list[Reply]:
    """Ask the server the same thing, all at once."""
    config = ClientConfig(
        **{"base_url": server.url, "model": "tiny", "timeout_s": 0.5, "max_retries": 1} | settings
    )
    image = Image.new("RGB", (28, 28), (10, 20, 30))

    async def ask_all() -> list[Reply]:
        async with ChatClient(config) as client:
            return await asyncio.gather(
                *(client(make_context(behaviour), [image]) for _ in range(times))
            )

    return asyncio.run(ask_all())


def test_a_context_travels_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    with serve_scripts() as server:
        assert ask(server, "good_at_once", key_variable="MY_KEY", temperature=0.3) == [
            Reply(ANSWER)
        ]
    (request,) = server.requests
    assert server.keys == {"Bearer secret"} and "secret" not in str(
        ClientConfig(server.url, "tiny")
    )
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("tiny", 0.3, 1024)
    system, user = request["messages"]
    assert system == {"role": "system", "content": "Judge."}
    assert [item["type"] for item in user["content"]] == ["text", "text", "image_url"]
    header, data = user["content"][2]["image_url"]["url"].split(",")
    image = Image.open(BytesIO(base64.b64decode(data)))
    assert (
        header == "data:image/png;base64"
        and image.size == (28, 28)
        and image.getpixel((5, 5)) == (10, 20, 30)
    )


@pytest.mark.parametrize(("owner", "is_vllm"), [("vllm", True), ("somebody", False)])
def test_only_vllm_is_told_where_to_stop(owner: str, is_vllm: bool) -> None:
    with serve_scripts(owner) as server:
        ask(server, "good_at_once", times=3)
        ask(
            server, "good_at_once", is_vllm=not is_vllm
        )  # the setting wins over what the server says
    for request in server.requests[:3]:
        assert request.get("stop") == (list(STOP_STRINGS) if is_vllm else None)
        assert request.get("include_stop_str_in_output") is (True if is_vllm else None)
    assert ("stop" in server.requests[3]) is not is_vllm


def test_each_episode_has_an_account_and_a_seed_of_its_own() -> None:
    config = ClientConfig(base_url="http://localhost", model="tiny", extra_body={"top_k": 5})
    image = Image.new("RGB", (28, 28))

    async def ask_for(server: ScriptedServer) -> list[int]:
        async with ChatClient(replace(config, base_url=server.url)) as shared:
            episodes = [shared.for_episode(7), shared.for_episode(8), shared.for_episode()]
            for number, client in enumerate(
                episodes
            ):  # the second episode asks twice, the third three times
                await asyncio.gather(
                    *(client(make_context("good_at_once"), [image]) for _ in range(number + 1))
                )
            assert (shared.usage.num_requests, shared.config.extra_body) == (0, {"top_k": 5})
            return [client.usage.num_reply_tokens for client in episodes]

    with serve_scripts("vllm") as server:
        assert asyncio.run(ask_for(server)) == [10, 20, 30]
    assert [request.get("seed") for request in server.requests] == [7, 8, 8, None, None, None]
    assert all(request["top_k"] == 5 and "stop" in request for request in server.requests)
    assert server.num_asked_for_models == 1  # what the server is, is found out once


@pytest.mark.parametrize(
    ("behaviour", "reply"),
    [
        ("chatter", Reply(ANSWER)),
        ("empty", Reply("")),
        ("http_500_once", Reply(ANSWER)),
        (
            "truncated",
            Reply(
                "<Snapshot>grey</Snapshot><Think>look</Think><Answer>TA=0, VQ", is_truncated=True
            ),
        ),
    ],
)
def test_replies_end_where_a_rollout_ends(behaviour: str, reply: Reply) -> None:
    with serve_scripts() as server:
        assert ask(server, behaviour) == [reply]


@pytest.mark.parametrize(
    ("behaviour", "label", "num_requests"),
    [
        ("http_500", "server_http_500", 2),
        ("http_400", "server_http_400", 1),
        ("half_closed", "server", 2),
        ("hangs_up", "server", 2),
        ("not_json", "server", 1),
        ("no_choices", "server_no_reply", 1),
        ("null", "server_no_reply", 1),
        ("aborted", "server_finish_abort", 1),
        ("filtered", "server_finish_content_filter", 1),
        ("too_slow", "timeout", 2),
    ],
)
def test_a_failure_has_a_kind_and_is_never_a_reply(
    behaviour: str, label: str, num_requests: int
) -> None:
    with serve_scripts() as server, pytest.raises(EpisodeFailure) as failure:
        ask(server, behaviour)
    assert failure.value.label == label
    assert len(server.requests) == num_requests  # tried again where that may help


def test_a_server_that_is_not_there_is_a_failure() -> None:
    with serve_scripts() as server:
        pass
    with pytest.raises(EpisodeFailure, match="server"):
        ask(server, "good_at_once")


def test_what_can_never_work_says_what_to_do() -> None:
    with (
        serve_scripts() as server,
        pytest.raises(ValueError, match=r"check the URL, .* key in \$OPENAI_API_KEY"),
    ):
        ask(server, "http_401")
    assert len(server.requests) == 1


def test_a_context_that_does_not_fit_ends_the_episode() -> None:
    with serve_scripts() as server, pytest.raises(ContextTooLong):
        ask(server, "too_long")


def test_requests_are_paced() -> None:
    with serve_scripts() as server:
        ask(server, "good_at_once", times=4, max_requests_per_minute=600)
    gaps = [
        after - before for before, after in zip(server.times_s, server.times_s[1:], strict=False)
    ]
    assert sum(gaps) > 0.25  # three tenths of a second between the first and the last


@pytest.mark.parametrize("stop", STOP_STRINGS)
def test_every_stop_string_cuts(stop: str) -> None:
    assert cut_after_stop(f"a{stop}b{stop}") == f"a{stop}"


def test_earlier_replies_are_plain_text() -> None:
    reply = {"role": "assistant", "content": [{"type": "text", "text": "<Think>a</Think>"}]}
    assert to_openai([reply], []) == [{"role": "assistant", "content": "<Think>a</Think>"}]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base_url": "localhost:8000"}, "base_url must start with http"),
        ({"model": ""}, "model is empty"),
        ({"timeout_s": 0}, "timeout_s must be a positive number"),
        ({"max_requests_per_minute": -1}, "max_requests_per_minute must be a positive number"),
        ({"max_retries": -1}, "max_retries must be at least 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ClientConfig(**{"base_url": "http://localhost/v1", "model": "tiny"} | settings)
