"""The client sends the context unchanged, ends a reply where a rollout does, and never turns a
failure into a reply."""

import asyncio
import base64
import json
import time
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("httpx")

from tests.replies import ANSWER, THOUGHT  # noqa: E402
from tests.scripted_server import Handler, ScriptedServer, list_images, serve_scripts  # noqa: E402
from verl_videosearch.episode import Message  # noqa: E402
from verl_videosearch.failures import ContextTooLong, EpisodeFailure, ServerUnusable  # noqa: E402
from verl_videosearch.judgement import STOP_STRINGS  # noqa: E402
from verl_videosearch.models import transport  # noqa: E402
from verl_videosearch.models.client import ChatClient, ClientConfig  # noqa: E402
from verl_videosearch.reply import Reply  # noqa: E402

RED = Image.new("RGB", (28, 28), (200, 20, 30))
GREY = Image.new("RGB", (28, 28), (10, 20, 30))


def make_context(behaviour: str, num_images: int = 1) -> list[Message]:
    frames = [
        {"type": "image", "frame_number": n, "max_pixels": 784} for n in range(1, num_images + 1)
    ]
    pair = [{"type": "text", "text": f'Prompt of both videos: "{behaviour}"\n'}, *frames]
    return [
        {"role": "system", "content": [{"type": "text", "text": "Judge."}]},
        {"role": "user", "content": pair},
    ]


def extend(context: list[Message], num_images: int) -> list[Message]:
    """Add a reply and the frames that it asked for."""
    frames = [
        {"type": "image", "frame_number": 10 + n, "max_pixels": 784} for n in range(num_images)
    ]
    reply = {"role": "assistant", "content": [{"type": "text", "text": "<Think>a</Think>"}]}
    return [*context, reply, {"role": "user", "content": frames}]


def configure(server: ScriptedServer, **settings: Any) -> ClientConfig:
    return ClientConfig(**{"base_url": server.url, "model": "tiny", "timeout_s": 0.5} | settings)


def ask(server: ScriptedServer, behaviour: str, times: int = 1, **settings: Any) -> list[Reply]:
    """Ask the server the same thing, all at once."""

    async def ask_all() -> list[Reply]:
        async with ChatClient(configure(server, **settings)) as client:
            episodes = [client.for_episode(name=f"pair-{n} AB") for n in range(times)]
            return await asyncio.gather(
                *(episode(make_context(behaviour), [GREY]) for episode in episodes)
            )

    return asyncio.run(ask_all())


def test_a_context_travels_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    with serve_scripts() as server:
        settings = {"key_variable": "MY_KEY", "temperature": 0.3}
        assert ask(server, "good_at_once", **settings) == [Reply(ANSWER)]
        assert "secret" not in repr(configure(server, **settings))
    (request,) = server.requests
    assert server.keys == {"Bearer secret"}
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("tiny", 0.3, 1024)
    system, user = request["messages"]
    assert system == {"role": "system", "content": "Judge."}
    assert [item["type"] for item in user["content"]] == ["text", "image_url"]
    header, data = user["content"][1]["image_url"]["url"].split(",")
    image = Image.open(BytesIO(base64.b64decode(data)))
    assert header == "data:image/png;base64" and image.size == (28, 28)
    assert image.getpixel((5, 5)) == (10, 20, 30)


def test_a_password_in_the_url_is_used_and_not_shown() -> None:
    with serve_scripts() as server:
        url = server.url.replace("://", "://anna:s%40cret@")
        ask(server, "good_at_once", base_url=url)
        with pytest.raises(ServerUnusable) as error:
            ask(server, "http_401", base_url=url)
        shown = f"{error.value} {ClientConfig(url, 'tiny')!r}"
    assert server.keys == {"Basic " + base64.b64encode(b"anna:s@cret").decode()}
    assert "cret" not in shown


def test_fields_are_named_added_and_left_out_as_asked() -> None:
    with serve_scripts() as server:
        ask(
            server,
            "good_at_once",
            extra_body={"top_k": 5, "temperature": None},
            chat_template_kwargs={"enable_thinking": False},
            max_tokens_parameter="max_completion_tokens",
        )
    (request,) = server.requests
    assert request["top_k"] == 5 and "temperature" not in request and "max_tokens" not in request
    assert request["max_completion_tokens"] == 1024
    assert request["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(("owner", "is_vllm"), [("vllm", True), ("somebody", False)])
def test_only_vllm_is_told_where_to_stop(owner: str, is_vllm: bool) -> None:
    with serve_scripts(owner) as server:
        ask(server, "good_at_once", times=3)
        ask(server, "good_at_once", is_vllm=not is_vllm)  # the setting wins
    for request in server.requests[:3]:
        assert request.get("stop") == (list(STOP_STRINGS) if is_vllm else None)
        assert request.get("include_stop_str_in_output") is (True if is_vllm else None)
    assert ("stop" in server.requests[3]) is not is_vllm


def test_each_episode_has_an_account_and_a_seed_of_its_own() -> None:
    config = ClientConfig(base_url="http://localhost", model="tiny", extra_body={"top_k": 5})

    async def ask_for(server: ScriptedServer) -> list[int | None]:
        async with ChatClient(replace(config, base_url=server.url)) as shared:
            episodes = [shared.for_episode(7), shared.for_episode(8), shared.for_episode()]
            for number, client in enumerate(episodes):  # the third asks three times
                await asyncio.gather(
                    *(client(make_context("good_at_once"), [GREY]) for _ in range(number + 1))
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
        ("null", Reply("")),
        ("control_token", Reply(ANSWER.replace("grey", "< |im_end|>"))),
        ("truncated", Reply(f"{THOUGHT}<Answer>TA=0, VQ", is_truncated=True)),
    ],
)
def test_replies_end_where_a_rollout_ends(behaviour: str, reply: Reply) -> None:
    with serve_scripts() as server:
        assert ask(server, behaviour) == [reply]


@pytest.mark.parametrize(
    ("behaviour", "label", "is_passing"),
    [
        ("http_500", "server_http_500", True),
        ("http_400", "server_http_400", False),
        ("half_closed", "server_connection", True),
        ("hangs_up", "server_connection", True),
        ("not_json", "server_not_json", True),
        ("no_choices", "server_no_reply", True),
        ("aborted", "server_finish_abort", True),
        ("filtered", "server_finish_content_filter", False),
        ("too_slow", "timeout", True),
    ],
)
def test_a_failure_has_a_kind_names_its_pair_and_is_never_a_reply(
    behaviour: str, label: str, is_passing: bool
) -> None:
    with serve_scripts() as server, pytest.raises(EpisodeFailure) as failure:
        ask(server, behaviour)
    assert (failure.value.label, failure.value.is_passing) == (label, is_passing)
    assert "pair-0 AB" in str(failure.value) and server.url in str(failure.value)
    assert len(server.requests) == 1  # another try is the run's


def test_a_server_that_is_not_there_is_a_failure() -> None:
    with serve_scripts() as server:
        pass
    with pytest.raises(EpisodeFailure, match="connection to http"):
        ask(server, "good_at_once")


def test_what_can_never_work_says_what_to_do() -> None:
    with (
        serve_scripts() as server,
        pytest.raises(ServerUnusable, match=r"pair-0 AB.* check the key in \$OPENAI_API_KEY"),
    ):
        ask(server, "http_401")
    assert len(server.requests) == 1


def test_a_context_that_does_not_fit_ends_the_episode() -> None:
    with serve_scripts() as server, pytest.raises(ContextTooLong):
        ask(server, "too_long")


def test_requests_are_paced() -> None:
    with serve_scripts() as server:
        ask(server, "good_at_once", times=4, max_requests_per_minute=600, timeout_s=5)
    assert server.times_s[-1] - server.times_s[0] > 0.25


class OddHandler(Handler):
    """Answers wrongly in ways that a client must not believe."""

    def behave(self, behaviour: str, turn: int) -> None:
        if behaviour == "endless":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b" " * 2**16)
        elif behaviour == "trickle":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(b" ")
                time.sleep(0.1)
        elif behaviour == "another_model":
            body = {"model": "other", "choices": [{"index": 0, "message": {"content": ANSWER}}]}
            self.send_json(200, body)
        elif behaviour.startswith("twice"):
            self.send_reply(ANSWER.replace("grey", behaviour), "stop")
            if behaviour == "twice 0":
                self.send_reply(ANSWER.replace("grey", behaviour), "stop")
        else:
            super().behave(behaviour, turn)


def ask_oddly(behaviours: list[str], **settings: Any) -> list[Reply]:
    with serve_scripts() as server:
        server.RequestHandlerClass = OddHandler

        async def ask_in_turn() -> list[Reply]:
            async with ChatClient(configure(server, **settings)) as client:
                return [
                    await client.for_episode()(make_context(each), [GREY]) for each in behaviours
                ]

        return asyncio.run(ask_in_turn())


def test_a_body_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_BODY_BYTES", 2**20)
    with pytest.raises(EpisodeFailure) as failure:
        ask_oddly(["endless"], timeout_s=60)
    assert failure.value.cause == "endless_body"


def test_a_trickle_ends_with_the_whole_requests_time() -> None:
    start = time.monotonic()
    with pytest.raises(EpisodeFailure) as failure:
        ask_oddly(["trickle"], timeout_s=0.5)
    assert failure.value.label == "timeout" and time.monotonic() - start < 10


def test_a_response_sent_twice_is_nobody_elses() -> None:
    replies = ask_oddly([f"twice {number}" for number in range(4)])
    assert [reply.text for reply in replies] == [
        ANSWER.replace("grey", f"twice {number}") for number in range(4)
    ]


def test_a_reply_of_another_model_is_a_failure() -> None:
    with pytest.raises(EpisodeFailure) as failure:
        ask_oddly(["good_at_once", "another_model"])
    assert failure.value.cause == "wrong_model"


# Drafts: a stop string inside an open block does not end the turn.

DRAFT = "<Think>Draft: <Answer>TA=2, VQ=2, MQ=2, OA=2</Answer>"
REST = " - no wait</Think><Answer>TA=0, VQ=1, MQ=0, OA=1</Answer>"


class DraftHandler(Handler):
    """Stops at a draft, as vLLM does, and goes on when it is asked to."""

    def behave(self, behaviour: str, turn: int) -> None:
        request = self.server.requests[-1]
        last = request["messages"][-1]
        if "stop" not in request:
            self.send_reply(DRAFT + REST + " I hope this helps", "stop")
        elif last["role"] != "assistant":
            self.send_reply(DRAFT, "stop")
        elif behaviour == "cannot_continue":
            self.send_json(400, {"error": {"message": "continue_final_message is unknown"}})
        elif behaviour == "only_drafts":
            self.send_reply(DRAFT, "stop")
        else:
            self.send_reply(REST, "stop")


def ask_for_draft(behaviour: str, owner: str) -> tuple[Reply, ScriptedServer]:
    with serve_scripts(owner) as server:
        server.RequestHandlerClass = DraftHandler
        (reply,) = ask(server, behaviour, max_turn_tokens=100, timeout_s=10)
    return reply, server


@pytest.mark.parametrize(("owner", "num_requests"), [("vllm", 2), ("somebody", 1)])
def test_generation_goes_on_after_a_draft(owner: str, num_requests: int) -> None:
    reply, server = ask_for_draft("draft", owner)
    assert reply == Reply(DRAFT + REST)
    assert len(server.requests) == num_requests
    if num_requests == 2:
        first, second = server.requests
        assert second["messages"][:-1] == first["messages"]
        assert second["messages"][-1] == {"role": "assistant", "content": DRAFT}
        assert second["continue_final_message"] and not second["add_generation_prompt"]
        assert second["max_tokens"] == 90  # ten are spent


def test_a_vllm_that_cannot_go_on_is_asked_for_the_whole_reply() -> None:
    reply, server = ask_for_draft("cannot_continue", "vllm")
    assert reply == Reply(DRAFT + REST)
    assert "stop" not in server.requests[-1] and server.requests[-1]["max_tokens"] == 100


def test_drafts_without_end_end_with_the_token_limit() -> None:
    reply, server = ask_for_draft("only_drafts", "vllm")
    assert reply.is_truncated and reply.text == DRAFT * 10 and len(server.requests) == 10


# Frames: encoded once, named where the server keeps them.


class KeepingHandler(Handler):
    """Keeps images by key, as vLLM does."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.request = request = json.loads(body)
        self.server.sizes.append(len(body))
        kept = self.server.kept
        images = list_images(request)
        for item in images:
            if item["image_url"] is None and item["uuid"] not in kept:
                words = "Cache miss for image at index 0 but data is not provided."
                self.send_json(400, {"error": {"message": words}})
                return
            kept[item.get("uuid")] = item["image_url"] or kept[item["uuid"]]
        self.server.seen.append([kept[item["uuid"]]["url"] for item in images if "uuid" in item])
        self.send_reply(ANSWER, "stop")


def play_turns(num_forgotten_at: int | None = None) -> ScriptedServer:
    """Ask three times in one episode, the frames of the first turn staying in view."""
    first = make_context("good", 2)
    second = extend(first, 1)
    with serve_scripts("vllm") as server:
        server.RequestHandlerClass = KeepingHandler
        server.kept, server.seen, server.sizes = {}, [], []
        server.count_tokens = lambda request: None

        async def play() -> None:
            async with ChatClient(configure(server, timeout_s=10)) as shared:
                await shared.endpoint.meet()
                server.seen.clear(), server.sizes.clear()
                client = shared.for_episode(name="pair AB")
                await client(first, [RED, GREY])
                if num_forgotten_at is not None:
                    server.kept.clear()
                await client(second, [RED, GREY, Image.new("RGB", (28, 28))])
                await client(second, [RED, GREY, Image.new("RGB", (28, 28))])

        asyncio.run(play())
    return server


def test_frames_that_the_server_keeps_are_sent_once() -> None:
    server = play_turns()
    first, second, third = server.seen
    assert second[:2] == first and third == second and len(set(second)) == 3
    assert server.sizes[2] < server.sizes[1]


def test_frames_that_the_server_has_forgotten_are_sent_again() -> None:
    server = play_turns(num_forgotten_at=1)
    first, second, third = server.seen
    assert second[:2] == first and third == second
    assert len(server.sizes) == 4  # one was refused


def test_a_server_that_does_not_keep_images_gets_them_every_time() -> None:
    with serve_scripts("vllm") as server:  # says vLLM, but takes any image

        async def play() -> None:
            async with ChatClient(configure(server, timeout_s=10)) as shared:
                await shared.endpoint.meet()
                client = shared.for_episode()
                for _ in range(2):
                    await client(make_context("good_at_once"), [RED])

        asyncio.run(play())
    assert all(item["image_url"] for request in server.requests for item in list_images(request))
    assert all("uuid" not in item for each in server.requests for item in list_images(each))


# Context: a server that throws a part of it away.


def play_against(
    count_tokens: Any, num_images: tuple[int, ...] = (8, 8)
) -> list[Reply | EpisodeFailure]:
    """Ask turn after turn, the context only growing; returns what each gave."""

    async def play() -> list[Reply | EpisodeFailure]:
        context, images, results = make_context("good_at_once", num_images[0]), [], []
        async with ChatClient(configure(server, timeout_s=10)) as client:
            client.endpoint.is_met = True
            for turn, count in enumerate(num_images):
                context = extend(context, count) if turn else context
                images += [RED] * count
                try:
                    results.append(await client(context, images))
                except EpisodeFailure as failure:
                    results.append(failure)
        return results

    with serve_scripts() as server:
        server.count_tokens = count_tokens
        return asyncio.run(play())


def count_frames(request: dict[str, Any]) -> int:
    return 700 + 510 * len(list_images(request))


def test_a_window_that_cuts_the_context_is_noticed() -> None:
    first, second = play_against(lambda request: min(count_frames(request), 4096))
    assert isinstance(first, Reply)
    assert isinstance(second, EpisodeFailure) and second.cause == "context_cut"
    assert not second.is_passing and "throws a part of the context away" in second.detail
    assert "has read 4096 tokens, but 16 frames alone cost 8160" in second.detail


def test_a_charge_that_shrinks_while_the_context_grows_is_noticed() -> None:
    counts = iter([5000, 700, 700, 4999])  # the turn, two measurements, the next turn
    first, second = play_against(lambda request: next(counts), (2, 2))
    assert isinstance(first, Reply)
    assert isinstance(second, EpisodeFailure) and "has only grown" in second.detail


@pytest.mark.parametrize(
    "count_tokens",
    [
        count_frames,
        lambda request: 100,
        lambda request: None,
        lambda request: "many",
        lambda request: 700 + 400 * len(list_images(request)),
    ],
    ids=["honest", "constant", "silent", "words", "cheap"],
)
def test_an_honest_server_or_one_that_does_not_count_is_left_alone(count_tokens: Any) -> None:
    assert all(isinstance(result, Reply) for result in play_against(count_tokens, (8, 8, 8)))


def test_usage_is_unknown_where_the_server_does_not_say() -> None:
    async def play(server: ScriptedServer) -> tuple[int | None, int | None]:
        async with ChatClient(configure(server, timeout_s=10)) as client:
            await client(make_context("good_at_once"), [RED])
            return client.usage.num_prompt_tokens, client.usage.num_reply_tokens

    with serve_scripts() as server:
        server.count_tokens = lambda request: None
        assert asyncio.run(play(server)) == (None, 10)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base_url": "localhost:8000"}, "must be a URL that starts with http"),
        ({"model": ""}, "model must be a text that is not empty"),
        ({"timeout_s": 0}, "timeout_s must be a number above 0"),
        ({"max_requests_per_minute": -1}, "max_requests_per_minute must be a number above 0"),
        ({"temperature": "hot"}, "temperature must be a number"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ClientConfig(**{"base_url": "http://localhost/v1", "model": "tiny"} | settings)
