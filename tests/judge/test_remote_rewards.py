"""Scores over HTTP are those of the judge itself; refusals are typed failures."""

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

uvicorn = pytest.importorskip("uvicorn", reason='pip install ".[judge]"')
pytest.importorskip("fastapi", reason='pip install ".[judge]"')

from tests.judge.episodes import make_judge  # noqa: E402
from tests.judge.test_reward import make_tensor  # noqa: E402
from tests.scripted_server import Handler, keep_serving  # noqa: E402
from tests.seeing_judge import serve_judge  # noqa: E402
from verl_videosearch.failures import EpisodeFailure, ServerUnusable  # noqa: E402
from verl_videosearch.judge.remote_rewards import ask_rewards  # noqa: E402
from verl_videosearch.judge.reward import ClipRewards  # noqa: E402
from verl_videosearch.judge.server.app import make_app  # noqa: E402
from verl_videosearch.judge.server.settings import ServerConfig  # noqa: E402
from verl_videosearch.models.server import find_ports  # noqa: E402

TOKEN = "a secret of the trainer"


@contextmanager
def serve_app(app: Any) -> Iterator[str]:
    """Run the server in a thread, on a port of its own."""
    [port] = find_ports(1)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def test_scores_over_http_are_those_of_the_judge(tmp_path: Path) -> None:
    batch = make_tensor()
    config = ServerConfig(state=tmp_path / "state", token=TOKEN)
    with serve_judge() as server, make_judge(server, tmp_path) as judge:
        expected = ClipRewards(judge=judge)("a cat", batch)
        with serve_app(make_app(judge, config)) as url:
            assert ask_rewards(url, "a cat", batch, token=TOKEN) == expected
            against = ask_rewards(url, "a cat", batch, batch[2].transpose(1, 0, 2, 3), token=TOKEN)
            assert against == [1.0, 0.0, 0.5, 0.0]
            (tmp_path / "torn.mp4").write_bytes(b"no video")
            with pytest.raises(EpisodeFailure, match="422") as refused:
                ask_rewards(url, "a cat", [tmp_path / "torn.mp4"] * 2, token=TOKEN)
            assert not refused.value.is_passing
            with pytest.raises(ServerUnusable, match="401"):
                ask_rewards(url, "a cat", batch)
    with pytest.raises(EpisodeFailure) as away:
        ask_rewards(url, "a cat", batch, token=TOKEN)
    assert away.value.is_passing


class Foreign(Handler):
    """Answers every request with one status and body."""

    answer: tuple[int, bytes] = (200, b"")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_body(*self.answer)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    (tmp_path / "clip.mp4").write_bytes(b"a film")
    return tmp_path / "clip.mp4"


@contextmanager
def serve_foreign(status: int, body: bytes) -> Iterator[str]:
    handler = type("Handler", (Foreign,), {"answer": (status, body)})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    with keep_serving(server):
        yield f"http://127.0.0.1:{server.server_address[1]}"


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405])
@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'"x"', b'{"error": "nope"}', b'{"a": 1}', b"\xff"]
)
def test_a_wrong_address_or_token_is_no_passing_failure(
    status: int, body: bytes, clip: Path
) -> None:
    with serve_foreign(status, body) as url, pytest.raises(ServerUnusable, match=f"{status}"):
        ask_rewards(url, "a cat", [clip, clip])


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"null", b'{"x": 1}', b'{"video": 3}', b'{"video": "a"}']
    + [
        b'{"video": "a", "scores": %s}' % scores
        for scores in (b"1", b"[1, 2]", b'["a", 1]', b"[1]")
    ],
)
def test_a_server_of_something_else_is_unusable(body: bytes, clip: Path) -> None:
    with serve_foreign(200, body) as url, pytest.raises(ServerUnusable, match="judge server"):
        ask_rewards(url, "a cat", [clip, clip])


@pytest.mark.parametrize("status", [400, 422, 429, 500, 502, 503])
def test_whether_a_refusal_passes_is_the_status_to_say(status: int, clip: Path) -> None:
    with serve_foreign(status, b"<html>") as url, pytest.raises(EpisodeFailure) as refused:
        ask_rewards(url, "a cat", [clip, clip])
    assert refused.value.is_passing == (status in (429, 502, 503))
    assert str(status) in str(refused.value) and "<html>" in str(refused.value)


@pytest.mark.parametrize(
    "address",
    ["", "judge", "judge:8080", "127.0.0.1:80", "ftp://judge", "http://", "http://[::1"]
    + ["http://judge:port", "http://anna:secret@[::1", "/v1"],
)
def test_what_is_no_address_says_what_one_is(address: str, clip: Path) -> None:
    with pytest.raises(ServerUnusable, match="http://judge:8080") as refused:
        ask_rewards(address, "a cat", [clip, clip])
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("token", ["a token\n", "t\u00f6ken"])
def test_a_token_that_no_header_can_hold_is_not_shown(token: str, clip: Path) -> None:
    with pytest.raises(ServerUnusable, match="the token holds") as refused:
        ask_rewards("http://127.0.0.1:1", "a cat", [clip, clip], token=token)
    assert "ken\n" not in str(refused.value)
