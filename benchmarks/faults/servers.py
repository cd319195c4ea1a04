"""Faults of a server, injected into `videosearch eval` while it is killed: is anything lost, or
scored that no model said?

The one idea: the judge of `tests/seeing_judge.py` answers from the pixels alone, so the right
records are known: those of an undisturbed run. Then a third of the requests meets a fault, whose
body holds another verdict wherever it can, and the process is killed in between. An episode may
fail under its name and be played later; its verdict may never differ. At the end, without
faults, the file of episodes must be equal byte by byte.

Covers: bodies, statuses, connections, time. Does not cover: training's engine."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import random
import signal
import socket
import struct
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.faults.tally import End, Outcome, Trial
from tests.scripted_server import ScriptedServer, keep_serving, read_prompt
from tests.seeing_judge import EPISODE, JudgeHandler, answer, make_samples, search, write_clips
from verl_videosearch.cli import app
from verl_videosearch.failures import ContextTooLong
from verl_videosearch.models.refusal import Asker, read_refusal
from verl_videosearch.models.transport import Answer
from verl_videosearch.runs.record import EpisodeRecord, Identity, Usage
from verl_videosearch.runs.record_file import read_records, settle_records, write_record
from verl_videosearch.sample import write_samples

NUM_COPIES = 4
"""Times the twelve pairs."""
FAULT_SHARE = 0.3
NUM_KILLS = 4
"""Of one round."""
MAX_STARTS = 12
TIMEOUT_S = 2.0
"""Of one request."""
Body = dict[str, Any]
Change = Callable[[Body], Any]


def _set(*path: str | int, value: Any) -> Change:
    """Make a change that puts a value into a body."""

    def change(body: Body) -> Body:
        place: Any = body
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        return body

    return change


_CHOICE, _MESSAGE = ("choices", 0), ("choices", 0, "message")
BODIES: dict[str, Change] = {
    "choices null": _set("choices", value=None),
    "choices empty": _set("choices", value=[]),
    "choices of null": _set("choices", value=[None]),
    "choices an object": _set("choices", value={"0": {}}),
    "choice a text": _set("choices", value=["hi"]),
    "two choices": lambda body: body | {"choices": body["choices"] * 2},
    "index 1": _set(*_CHOICE, "index", value=1),
    "index -1": _set(*_CHOICE, "index", value=-1),
    "index a text": _set(*_CHOICE, "index", value="1"),
    "index true": _set(*_CHOICE, "index", value=True),
    "another model": _set("model", value="other"),
    "message null": _set(*_MESSAGE, value=None),
    "message a list": _set(*_MESSAGE, value=[]),
    "role user": _set(*_MESSAGE, "role", value="user"),
    "role system": _set(*_MESSAGE, "role", value="system"),
    "content a number": _set(*_MESSAGE, "content", value=7),
    "content an object": _set(*_MESSAGE, "content", value={"text": "hi"}),
    "content null, no tokens": lambda body: _set("usage", value=None)(
        _set(*_MESSAGE, "content", value=None)(body)
    ),
    "content parts of null": _set(*_MESSAGE, "content", value=[None]),
    "content an image": _set(*_MESSAGE, "content", value=[{"type": "image_url"}]),
    "reasoning only": _set(*_MESSAGE, value={"content": "", "reasoning_content": "hm"}),
    "refusal": _set(*_MESSAGE, value={"content": None, "refusal": "no"}),
    "calls taken out": _set(*_MESSAGE, "tool_calls", value=[{"id": "1"}]),
    "finish null": _set(*_CHOICE, "finish_reason", value=None),
    "finish a number": _set(*_CHOICE, "finish_reason", value=1),
    "finish content_filter": _set(*_CHOICE, "finish_reason", value="content_filter"),
    "finish abort": _set(*_CHOICE, "finish_reason", value="abort"),
    "finish error": _set(*_CHOICE, "finish_reason", value="error"),
    "error in 200": lambda body: {"error": {"message": "CUDA out of memory"}},
    "a list": lambda body: [body],
    "a text": lambda body: json.dumps(body),
    "null": lambda body: None,
    "deep": lambda body: "[" * 200_000,
}
"""Bodies of status 200 with another verdict inside; none may be taken for a reply."""
HARMLESS: dict[str, Change] = {
    "usage a text": _set("usage", value="12 tokens"),
    "usage null": _set("usage", value=None),
    "usage negative": _set("usage", value={"prompt_tokens": -1, "completion_tokens": "x"}),
    "content as parts": lambda body: _set(
        *_MESSAGE,
        "content",
        value=[{"type": "text", "text": body["choices"][0]["message"]["content"]}],
    )(body),
    "unknown fields": lambda body: body | {"x": [1], "choices": [body["choices"][0] | {"y": None}]},
    "text behind the answer": lambda body: _set(
        *_MESSAGE,
        "content",
        value=body["choices"][0]["message"]["content"] + " <Answer>TA=2</Answer>",
    )(body),
}
"""Odd bodies of the right reply, which must be read."""
STATUSES: dict[str, tuple[int, dict[str, str], str]] = {
    "429": (429, {}, "slow down"),
    "429, Retry-After 0": (429, {"Retry-After": "0"}, "slow down"),
    "429, Retry-After 0.2": (429, {"Retry-After": "0.2"}, "slow down"),
    "429, Retry-After-ms": (429, {"Retry-After-Ms": "150"}, "slow down"),
    "429, Retry-After a date": (429, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, ""),
    "429, Retry-After words": (429, {"Retry-After": "soon"}, ""),
    "503, Retry-After": (503, {"Retry-After": "0.1"}, "overloaded"),
    "500": (500, {}, "internal"),
    "502, a page": (502, {}, "<html>Bad Gateway</html>"),
    "504": (504, {}, ""),
    "408": (408, {}, ""),
    "409": (409, {}, "conflict"),
    "400": (400, {}, "bad request"),
    "422": (422, {}, "unprocessable"),
    "413": (413, {}, "too large"),
    "418": (418, {}, "teapot"),
    "599": (599, {}, ""),
}
STOPPING: dict[str, tuple[int, dict[str, str], str]] = {
    "quota": (429, {}, '{"error": {"message": "no quota", "code": "insufficient_quota"}}'),
    "401": (401, {}, "key expired"),
    "redirect": (302, {"Location": "http://127.0.0.1:1/"}, ""),
}
"""The whole run stops, and goes on when the same command is given again."""
STOPPING_SHARE = 0.02
CONNECTIONS = (
    "reset", "closed at once", "closed in the head", "closed in the body", "sent twice", "no JSON",
    "slow", "too slow", "dripping", "body too long", "body too short", "packed", "packed bomb",
    "broken chunks", "no HTTP",
    "204", "1xx",
)  # fmt: skip
SURELY_READ = (*HARMLESS, "slow", "sent twice", "packed")
OVERLONG = (
    "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens",
    "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
    "This model's maximum context length is 32768 tokens, but your request has 40000 input tokens.",
    "the request exceeds the available context size, try increasing it",
    "input (9000 tokens) exceeds the model's maximum context length",
    "prompt is too long: 210000 tokens > 200000 maximum",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000",
    "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
    "Requested token count exceeds the model's maximum context length of 131072 tokens.",
    "Please reduce the length of the messages or completion.",
    "Input is too long for requested model.",
    "exceeded max context length",
    "context length exceeded",
    "Trying to keep the first 9000 tokens when context overflows. However, the model is loaded "
    "with context length of only 4096 tokens",
)


class FaultyHandler(JudgeHandler):
    """Answers as the seeing judge does, but for a share of the requests."""

    server: FaultyServer

    def do_POST(self) -> None:
        request = self.read_request()
        if request is None:
            return
        fault = self.server.draw_fault(read_prompt(request))
        right = self.server.judge(request)
        label = random.Random(right).choice([0, 1, 2])
        wrong = answer(label, confidence=1)
        if fault == "":
            self.send_reply(right, "stop")
        elif fault in HARMLESS:
            self.send_json(200, HARMLESS[fault](self.make_body(right)))
        elif fault in BODIES:
            self.send_json(200, BODIES[fault](self.make_body(wrong)))
        elif fault in STATUSES or fault in STOPPING:
            self.send_status(*(STATUSES | STOPPING)[fault])
        else:
            self.break_connection(fault, json.dumps(self.make_body(right)).encode())

    def make_body(self, text: str) -> Body:
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return {"id": "1", "model": self.request["model"], "usage": usage, "choices": [choice]}

    def send_status(self, status: int, headers: dict[str, str], words: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        body = words.encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def write_head(self, length: int, *more: tuple[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        for name, value in more:
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def break_connection(self, fault: str, body: bytes) -> None:
        """Answer in a way that HTTP does not foresee, or late."""
        self.close_connection = True
        if fault in RAW:
            self.wfile.write(RAW[fault] + body * (fault == "broken chunks"))
        elif fault in ("reset", "closed at once"):
            self.drop(is_reset=fault == "reset")
        elif fault in LENGTHS:
            sent, length = LENGTHS[fault](body)
            self.write_head(length)
            self.wfile.write(sent)
        elif fault in PACKED:
            packed = gzip.compress(PACKED[fault](body))
            self.write_head(len(packed), ("Content-Encoding", "gzip"))
            self.wfile.write(packed)
        elif fault == "sent twice":
            self.send_twice(body)
        elif fault == "no JSON":
            self.send_body(200, b"<html>" + body)
        else:
            self.send_late(fault, body)

    def drop(self, *, is_reset: bool) -> None:
        if is_reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)

    def send_twice(self, body: bytes) -> None:
        """Send the answer, and behind it the one to an earlier request."""
        self.write_head(len(body))
        stale = self.server.last_body or body
        head = b"HTTP/1.1 200 OK\r\nContent-Length: " + str(len(stale)).encode() + b"\r\n\r\n"
        self.wfile.write(body + head + stale)
        self.server.last_body = body

    def send_late(self, fault: str, body: bytes) -> None:
        if fault != "dripping":
            time.sleep(0.2 if fault == "slow" else TIMEOUT_S + 0.5)
            self.send_body(200, body)
            return
        self.write_head(len(body))
        for letter in body:
            self.wfile.write(bytes([letter]))
            self.wfile.flush()
            time.sleep(0.05)


RAW = {
    "closed in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "broken chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "1xx": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50,
}
LENGTHS: dict[str, Callable[[bytes], tuple[bytes, int]]] = {
    "closed in the body": lambda body: (body[: len(body) // 2], len(body)),
    "body too long": lambda body: (bytes(17 * 2**20), 17 * 2**20),
    "body too short": lambda body: (body, len(body) - 20),
}
"""What is sent, and the length that is said."""
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "packed": lambda body: body,
    "packed bomb": lambda body: bytes(64 * 2**20),
}


class FaultyServer(ScriptedServer):
    """Draws a fault for a share of the requests, and keeps which pair met which."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__("vllm")
        self.RequestHandlerClass = FaultyHandler
        self.judge = search
        self.is_faulty = True
        self.met: defaultdict[str, list[str]] = defaultdict(list)
        """Fault to the prompts of the pairs that met it."""
        self.last_body = b""
        self._rng, self._lock = rng, threading.Lock()
        self._kinds: list[str] = []

    @property
    def num_faults(self) -> int:
        return sum(len(prompts) for prompts in self.met.values())

    def draw_fault(self, prompt: str) -> str:
        with self._lock:
            if not self.is_faulty or self._rng.random() > FAULT_SHARE:
                return ""
            if self._rng.random() < STOPPING_SHARE:
                fault = self._rng.choice(list(STOPPING))
            else:
                if not self._kinds:  # every kind comes equally often
                    self._kinds = [*BODIES, *HARMLESS, *STATUSES, *CONNECTIONS]
                    self._rng.shuffle(self._kinds)
                fault = self._kinds.pop()
            self.met[fault].append(prompt)
            return fault


@contextmanager
def serve_faults(rng: random.Random) -> Iterator[FaultyServer]:
    """Run a server on this machine."""
    server = FaultyServer(rng)
    with keep_serving(server):
        yield server


_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["verl_videosearch.cli.evaluate", "verl_videosearch.cli.benchmarks", "httpx"]
    + ["verl_videosearch.evaluation.evaluate", "verl_videosearch.evaluation.calibration"]
)
"""Starts a process without its imports: a round starts some ten of them."""


def start_run(pairs: Path, url: str, out: Path, *more: str) -> Any:
    """Start `videosearch eval` as a process of its own."""
    settings = [word for setting in EPISODE for word in ("--set", setting)]
    place = ["--benchmark", str(pairs), "--endpoint", url, "--model", "tiny", "--out", str(out)]
    limits = ["--timeout-s", str(TIMEOUT_S), "--max-failed-share", "1", "--concurrency", "8"]
    store = ["--store", str(out.parent / "store")]
    process = _CONTEXT.Process(
        target=_run_program,
        args=(["eval", *place, *settings, *limits, *store, *more], str(out.parent / "log")),
    )
    process.start()
    return process


def _run_program(arguments: list[str], log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    app(arguments, prog_name="videosearch")  # ends the process with its status


def wait_for(process: Any) -> int:
    """Return a process's exit status."""
    process.join()
    return process.exitcode


def play_round(folder: Path, rng: random.Random, num_wanted: int) -> Iterator[Outcome]:
    """Play the pairs undisturbed, then with faults and kills, then what has failed; compare."""
    folder.mkdir(exist_ok=True)
    write_clips(folder)
    pairs = folder / "test.parquet"
    samples = [sample for copy in range(NUM_COPIES) for sample in make_samples("test", 12 * copy)]
    write_samples(pairs, samples)
    with serve_faults(rng) as server:
        server.is_faulty = False
        wait_for(start_run(pairs, server.url, folder / "calm"))
        server.is_faulty = True
        out, statuses, num_kills = folder / "faulty", Counter[int](), 0
        for _ in range(MAX_STARTS):
            is_killed = num_kills < NUM_KILLS
            num_before = server.num_faults
            process = start_run(pairs, server.url, out)
            if is_killed:
                goal = num_before + rng.randrange(1, 20)
                while server.num_faults < goal and process.is_alive():
                    time.sleep(0.05)
                process.kill()
            status = wait_for(process)
            statuses[status] += 1
            num_kills += status == -signal.SIGKILL
            is_enough = server.num_faults >= num_wanted and num_kills >= NUM_KILLS
            if is_enough or statuses[0]:
                break
        faulty = settle_records(read_records(out / "journal.jsonl").records)
        server.is_faulty = False
        last = wait_for(start_run(pairs, server.url, out, "--forget-failures"))
    yield from compare_runs(folder, faulty, server, last, num_kills)


def compare_runs(
    folder: Path, faulty: list[EpisodeRecord], server: FaultyServer, last: int, num_kills: int
) -> Iterator[Outcome]:
    """Yield what came of the faults, by kind, and of the whole round."""
    calm = {record.key: record for record in _read(folder / "calm")}
    whole = {record.key: record for record in _read(folder / "faulty")}
    wrong = {
        record.own.prompt
        for record in faulty
        if record.has_result and record.own_verdicts != calm[record.key].own_verdicts
    }
    lost = {record.own.prompt for key, record in calm.items() if key not in whole}
    for fault, prompts in sorted(server.met.items()):
        group = _group(fault)
        for prompt in prompts:
            end = End.WRONG if prompt in wrong else End.LOST if prompt in lost else End.HANDLED
            yield Outcome(group, end, f"{fault}: pair {prompt.count('cat')}")
    yield Outcome("episodes played under faults", count=len(faulty))
    is_equal = _plain(calm.values()) == _plain(whole.values())
    words = " ".join((folder / "log").read_text("utf-8", "replace").split())[-200:]
    detail = f"status {last}, equal: {is_equal}, {words}"
    yield Outcome("SIGKILLs", End.HANDLED if is_equal else End.WRONG, detail, num_kills)
    is_fine = is_equal and last == 0 and len(calm) == 24 * NUM_COPIES
    yield Outcome(
        "runs equal byte by byte in the end", End.HANDLED if is_fine else End.WRONG, detail
    )


def _plain(records: Iterable[EpisodeRecord]) -> bytes:
    """Write records as a file of episodes, but for the tokens, whose number some faults hide, and
    the commit, which may change while a long trial runs."""
    replace, plain = msgspec.structs.replace, []
    for record in records:
        turns = (replace(t, num_prompt_tokens=None, num_reply_tokens=None) for t in record.turns)
        plain.append(replace(record, turns=tuple(turns), usage=Usage(), identity=Identity()))
    return "\n".join(write_record(record) for record in plain).encode()


def _read(folder: Path) -> list[EpisodeRecord]:
    return settle_records(read_records(folder / "episodes.jsonl").records)


def _group(fault: str) -> str:
    groups = {
        "malformed bodies": BODIES,
        "odd bodies that must be read": HARMLESS,
        "statuses, with and without Retry-After": STATUSES,
        "quota, key, redirect: the run stops and goes on": STOPPING,
    }
    return next((name for name, faults in groups.items() if fault in faults), "connections")


def try_wordings() -> Iterator[Outcome]:
    """Read every wording of an over-long context, in the forms in which servers put it."""
    asker = Asker("http://host/v1", "judge", "KEY")
    forms: list[Callable[[str], Any]] = [
        lambda words: {"error": {"message": words, "type": "invalid_request_error"}},
        lambda words: {"object": "error", "message": words, "code": 400},
        lambda words: {"error": words},
        lambda words: {"detail": words},
    ]
    for words in OVERLONG:
        for form in forms:
            error = read_refusal(Answer(400, {}, json.dumps(form(words)).encode()), asker)
            is_right = isinstance(error, ContextTooLong)
            yield Outcome(
                "wordings of an over-long context",
                End.HANDLED if is_right else End.WRONG,
                f"{form(words)}: {error!r}",
            )


def run(seed: int, first: int, count: int) -> Iterator[Outcome]:
    """Play rounds until so many faults have been met."""
    if first == 0:
        yield from try_wordings()
    rng = random.Random(f"{seed}/{first}")
    with tempfile.TemporaryDirectory() as folder:
        yield from play_round(Path(folder) / "round", rng, count)


# a round ends when all is played, after some 100 faults: 12 rounds meet more than 1,000
TRIAL = Trial("servers", run, chunk=100, default_count=1200, short_count=100)
