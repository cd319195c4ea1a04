"""The first request says within seconds, and with what to do, that a server cannot work."""

import asyncio
import json
from typing import Any

import pytest

pytest.importorskip("httpx")

from tests.scripted_server import Handler, ScriptedServer, list_images, serve_scripts  # noqa: E402
from verl_videosearch.failures import ServerUnusable  # noqa: E402
from verl_videosearch.models.endpoint import ClientConfig, Endpoint, read_models  # noqa: E402


class MeetHandler(Handler):
    """Answers as the test says, by the path and by whether there is a picture."""

    def do_GET(self) -> None:
        self.send_body(*self.server.listing)

    def do_POST(self) -> None:
        self.request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.looks.append(self.request)
        status, body = self.server.answer(self.request)
        if status == 200 and body is None:
            self.send_reply("red", "stop")
        else:
            self.send_json(status, body)


def meet(
    answer: Any = lambda request: (200, None), listing: Any = (200, b'{"data": [{"id": "tiny"}]}')
) -> tuple[Endpoint, ScriptedServer]:
    with serve_scripts() as server:
        server.RequestHandlerClass = MeetHandler
        server.answer, server.listing = answer, listing

        async def run() -> Endpoint:
            async with Endpoint(ClientConfig(server.url, "tiny", timeout_s=5)) as endpoint:
                await endpoint.meet()
                return endpoint

        return asyncio.run(run()), server


def refuse(**error: Any) -> Any:
    return lambda request: (400, {"error": error})


def refuse_pictures(status: int, message: str) -> Any:
    def answer(request: dict[str, Any]) -> tuple[int, Any]:
        return (status, {"error": {"message": message}}) if list_images(request) else (200, None)

    return answer


def test_a_server_that_works_is_asked_once() -> None:
    endpoint, server = meet()
    assert len(server.looks) == 1 and len(list_images(server.looks[0])) == 1
    assert endpoint.is_vllm is False and endpoint.names == ("tiny",)


def test_nothing_there() -> None:
    with serve_scripts() as server:
        pass

    async def run() -> None:
        async with Endpoint(ClientConfig(server.url, "tiny")) as endpoint:
            await endpoint.meet()

    with pytest.raises(ServerUnusable, match=f"nothing answers at {server.url}.* is the server up"):
        asyncio.run(run())


def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

        async def run() -> None:
            async with Endpoint(ClientConfig(url, "tiny", timeout_s=0.3)) as endpoint:
                await endpoint.meet()

        with pytest.raises(ServerUnusable, match=r"did not answer within 0\.3 s"):
            asyncio.run(run())


@pytest.mark.parametrize(
    "listing",
    [
        b'{"data": [{"id": "big"}, {"id": "bigger"}]}',
        b'{"models": [{"name": "big"}, {"name": "bigger"}]}',
        b'["big", "bigger"]',
        b'{"data": {"big": {}, "bigger": {}}}',
        b'{"data": [null, 7, {"id": "big"}, {"id": "bigger"}]}',
    ],
)
def test_an_unknown_model_is_answered_with_those_it_serves(listing: bytes) -> None:
    with pytest.raises(ServerUnusable, match="does not know model 'tiny'; it serves big, bigger"):
        meet(listing=(200, listing))


@pytest.mark.parametrize(
    "listing",
    [
        (200, b'{"data": [{"id": "tiny:latest"}]}'),
        (200, b'{"object": "list", "data": []}'),
        (200, b'{"data": "tiny"}'),
        (200, b'{"data": [{"id": 7}]}'),
        (200, b"<html>"),
        (200, b"null"),
        (404, b""),
        (501, b""),
        (500, b"busy"),
    ],
)
def test_a_list_that_says_nothing_is_no_reason(listing: tuple[int, bytes]) -> None:
    meet(listing=listing)


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_is_known_from_the_list(status: int) -> None:
    with pytest.raises(ServerUnusable, match=r"check the key in \$OPENAI_API_KEY"):
        meet(listing=(status, b'{"error": "no"}'))


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "tiny is not a multimodal model"),
        (400, "At most 0 image(s) may be provided in one prompt."),
        (400, "Invalid content type"),
        (422, "messages[1].content must be a string"),
        (500, "image input is not supported - hint: you may need to provide the mmproj"),
    ],
)
def test_a_server_that_cannot_see(status: int, message: str) -> None:
    with pytest.raises(ServerUnusable, match="cannot see") as error:
        meet(refuse_pictures(status, message))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ("use 'max_completion_tokens' instead", "--max-tokens-parameter max_completion_tokens"),
        ("'temperature' does not support 0", "leave the temperature out with --extra-body"),
        ("nothing is allowed", "refuses a plain request, too"),
    ],
)
def test_a_server_that_refuses_everything(message: str, hint: str) -> None:
    with pytest.raises(ServerUnusable) as error:
        meet(refuse(message=message))
    assert hint in str(error.value) and message in str(error.value)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_server_that_is_only_busy_is_no_reason(status: int) -> None:
    meet(lambda request: (status, {"error": {"message": "busy"}}))


def test_a_spent_quota_is_known_at_once() -> None:
    spent = {"error": {"message": "no money", "code": "insufficient_quota"}}
    with pytest.raises(ServerUnusable, match="quota has ended"):
        meet(lambda request: (429, spent))


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"7", b'"a"', b"[" * 100_000, b'{"data": {"a": 1}}', b'[{"id": null}]', b"\xff"],
)
def test_no_list_breaks_the_reader(body: bytes) -> None:
    assert all(isinstance(entry, dict) for entry in read_models(body))


def says_miss(request: dict[str, Any]) -> tuple[int, Any]:
    if any(item["image_url"] is None for item in list_images(request)):
        return 400, {"error": {"message": "Cache miss for image at index 0 but data is not"}}
    return 200, None


@pytest.mark.parametrize(
    ("answer", "keeps"),
    [
        (says_miss, True),
        (lambda request: (200, None), False),
        (refuse_pictures(500, "busy"), False),
    ],
)
def test_only_a_server_that_misses_an_unknown_image_keeps_images(answer: Any, keeps: bool) -> None:
    listing = (200, b'{"data": [{"id": "tiny", "owned_by": "vllm", "root": "/models/tiny"}]}')
    endpoint, _ = meet(answer, listing)
    assert endpoint.is_vllm and endpoint.keeps_images is keeps
    assert not endpoint.names or endpoint.model_root == "/models/tiny"
