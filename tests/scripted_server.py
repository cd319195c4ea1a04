"""An OpenAI-compatible server on this machine that behaves as the prompt of a pair tells it to:
well, or badly.

A pair whose prompt is `wrong_labels` gets wrong labels, and so on; the names are the keys of
`BEHAVIOURS`."""

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.replies import ANSWER, THOUGHT, call_frames

GOLD = ANSWER
BEHAVIOURS: dict[str, list[str | None]] = {
    "good": [call_frames(2), GOLD],
    "good_at_once": [GOLD],
    "chatter": [f"{GOLD}\nI hope this helps! <Answer>TA=2</Answer>"],
    "slow": [GOLD],
    "http_500_once": [GOLD],
    "wrong_tags": ["<Notes>grey</Notes><Final>TA=0, VQ=1, MQ=0, OA=1</Final>"],
    "no_snapshot": [GOLD.replace("<Snapshot>grey</Snapshot>", "")],
    "wrong_labels": [GOLD.replace("OA=1", "OA=2")],
    "endless_calls": [call_frames(2)] * 9,
    "refused_call": [call_frames(99), GOLD],
    "empty": [""],
    "null": [None],
    "control_token": [GOLD.replace("grey", "<|im_end|>")],
    "truncated": [f"{THOUGHT}<Answer>TA=0, VQ"],
    "unreadable": [GOLD.replace("OA=1", "OA=5")],
}
"""Replies by turn."""
FINISH_REASONS = {"truncated": "length", "aborted": "abort", "filtered": "content_filter"}
SLOW_S, TOO_SLOW_S = 0.15, 3.0
FIRST_LOOK = "first look"
"""The prompt of a client's first request."""


def read_prompt(request: dict[str, Any]) -> str:
    """Return the prompt of the pair, which stands in quotes."""
    return request["messages"][1]["content"][0]["text"].split('"')[1]


def list_images(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the images of a request, in order."""
    contents = [m["content"] for m in request["messages"] if isinstance(m["content"], list)]
    return [item for content in contents for item in content if item["type"] == "image_url"]


class ScriptedServer(ThreadingHTTPServer):
    """Answers with scripts; keeps what it was asked."""

    daemon_threads = True

    def __init__(self, owner: str = "somebody", port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.owner = owner
        self.models = ["tiny", "judge", "teacher", "policy", "m", "huge"]
        """Names under which it answers."""
        self.root: str | None = None
        """Folder of its model, as vLLM tells it."""
        self.requests: list[dict[str, Any]] = []
        """Those of episodes."""
        self.looks: list[dict[str, Any]] = []
        """Those by which a client finds out what the server can: its first one, and those that only
        count tokens."""
        self.behaviours: list[str] = []
        """Of the pairs of `requests`."""
        self.num_asked_for_models = 0
        self.keys: set[str | None] = set()
        self.times_s: list[float] = []
        self.count_tokens: Callable[[dict[str, Any]], int | None] = lambda request: 100
        """Of a request's prompt."""

    def handle_error(self, *_: object) -> None:
        """Keep quiet about a client that did not wait."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: ScriptedServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        self.server.num_asked_for_models += 1
        self.send_json(
            200,
            {
                "object": "list",
                "data": [
                    {"id": name, "object": "model", "owned_by": self.server.owner}
                    | ({"root": self.server.root} if self.server.root else {})
                    for name in self.server.models
                ],
            },
        )

    def do_POST(self) -> None:
        request = self.read_request()
        if request is None:
            return
        self.server.times_s.append(time.monotonic())
        behaviour = read_prompt(request)
        self.server.behaviours.append(behaviour)
        turn = sum(message["role"] == "assistant" for message in request["messages"])
        self.behave(behaviour, turn)

    def read_request(self) -> dict[str, Any] | None:
        """Read and note a request; one that is no episode's is answered here."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.keys.add(self.headers.get("Authorization"))
        self.request = request
        limits = request.get("max_tokens"), request.get("max_completion_tokens")
        if read_prompt(request) != FIRST_LOOK and 1 not in limits:
            self.server.requests.append(request)
            return request
        self.server.looks.append(request)
        lacks = [item for item in list_images(request) if item["image_url"] is None]
        if lacks:
            words = "image_url: Input should be a valid dictionary"
            self.send_json(400, {"error": {"message": words}})
        else:
            self.send_reply("red", "stop")
        return None

    def behave(self, behaviour: str, turn: int) -> None:
        if behaviour in ("http_400", "http_401", "http_500") or (
            behaviour == "http_500_once" and self.server.behaviours.count(behaviour) == 1
        ):
            self.send_json(int(behaviour.split("_")[1]), {"error": {"message": "scripted"}})
        elif behaviour == "too_long":
            self.send_json(
                400, {"error": {"message": "This model's maximum context length is 8 tokens"}}
            )
        elif behaviour == "half_closed":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"id": "1", "choices": [{"mess')
            self.close_connection = True
        elif behaviour == "hangs_up":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif behaviour in ("not_json", "no_choices"):
            body = (
                b"<html>"
                if behaviour == "not_json"
                else b'{"id": "1", "object": "chat.completion", "choices": []}'
            )
            self.send_body(200, body)
        else:
            if behaviour in ("slow", "too_slow"):
                time.sleep(SLOW_S if behaviour == "slow" else TOO_SLOW_S)
            replies = BEHAVIOURS.get(behaviour, [GOLD])
            self.send_reply(
                replies[min(turn, len(replies) - 1)], FINISH_REASONS.get(behaviour, "stop")
            )

    def send_reply(self, text: str | None, finish_reason: str) -> None:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": finish_reason,
        }
        num_tokens = self.server.count_tokens(self.request)
        usage = {"prompt_tokens": num_tokens, "completion_tokens": 10, "total_tokens": 10}
        completion = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": self.request["model"],
            "usage": usage,
        }
        self.send_json(200, completion | {"choices": [choice]})

    def send_json(self, status: int, body: dict[str, Any]) -> None:
        self.send_body(status, json.dumps(body).encode())

    def send_body(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def keep_serving(server: socketserver.BaseServer) -> Iterator[None]:
    """Answer requests in a thread until the end of a block."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def serve_scripts(owner: str = "somebody") -> Iterator[ScriptedServer]:
    """Run a server for the length of a test."""
    server = ScriptedServer(owner)
    with keep_serving(server):
        yield server
