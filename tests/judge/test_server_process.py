"""The server as a process: many clients, slow ones, SIGTERM, SIGKILL; none is lost, memory is
flat."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

pytest.importorskip("fastapi", reason='pip install ".[judge]"')

from tests.judge.episodes import SETTINGS
from tests.scripted_server import ScriptedServer
from tests.seeing_judge import CLIPS, serve_judge, write_clips
from verl_videosearch.models.server import find_ports

CLEAN, OTHER, DEFECT = CLIPS
START_S = 120.0


class ServerProcess:
    """`videosearch serve` in a process of its own."""

    def __init__(self, folder: Path, model: ScriptedServer, *options: str) -> None:
        [port] = find_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        sets = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
        where = ["--state", str(folder / "state"), "--root", str(folder), f"--port={port}"]
        source = ["--endpoint", model.url, "--model", "tiny"]
        command = [sys.executable, "-m", "verl_videosearch.cli", "serve"]
        self.log = (folder / "serve.log").open("ab")
        self.process = subprocess.Popen(
            [*command, *where, *source, *sets, *options], stdout=self.log, stderr=self.log
        )
        self.client = httpx.Client(base_url=self.url, timeout=60.0, trust_env=False)
        wait_for(self.is_healthy, START_S)

    def is_healthy(self) -> bool:
        assert self.process.poll() is None, Path(self.log.name).read_text()
        try:
            return self.client.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def compare(self, number: int, **more: Any) -> httpx.Response:
        pair = {"prompt": f"cat {number}", "video_1": CLEAN, "video_2": DEFECT}
        return self.client.post("/v1/compare", json=pair | more)

    def memory_mb(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def end(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()
        self.log.close()


def wait_for(condition: Any, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@contextmanager
def run_server(folder: Path, model: ScriptedServer, *options: str) -> Iterator[ServerProcess]:
    server = ServerProcess(folder, model, *options)
    try:
        yield server
    finally:
        server.end()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_clips(tmp_path)
    return tmp_path


def test_fifty_clients_at_once_lose_nothing_and_a_full_queue_says_so(folder: Path) -> None:
    with serve_judge(delay_s=0.02) as model, run_server(folder, model) as server:
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(server.compare, range(50)))
        assert [answer.json()["overall"] for answer in answers] == [1] * 50
    options = ("--limit", "max_queued=1", "--limit", "max_running=1")
    with serve_judge(delay_s=0.3) as model, run_server(folder, model, *options) as server:
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(server.compare, range(100, 112)))
        codes = [answer.status_code for answer in answers]
        assert set(codes) == {200, 429} and codes.count(200) >= 2
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["error"]["reason"] == "busy" and refused.headers["retry-after"]


def test_sigterm_answers_what_is_in_flight_and_ends(folder: Path) -> None:
    with serve_judge(delay_s=0.5) as model, run_server(folder, model) as server:
        with ThreadPoolExecutor(10) as pool:
            works = [pool.submit(server.compare, number) for number in range(10)]
            wait_for(lambda: count_in_flight(server) == 10)
            server.process.send_signal(signal.SIGTERM)
            answers = [work.result() for work in works]
        assert [answer.status_code for answer in answers] == [200] * 10
        assert server.process.wait(30) in (0, -signal.SIGTERM)


def count_in_flight(server: ServerProcess) -> int:
    state = server.client.get("/healthz").json()
    return state["num_running"] + state["num_waiting"]


def test_a_killed_server_goes_on_with_its_batch(folder: Path) -> None:
    pairs = [
        {"prompt": f"cat {number}", "video_1": CLEAN, "video_2": DEFECT} for number in range(12)
    ]
    with serve_judge(delay_s=0.1) as model:
        with run_server(folder, model) as server:
            name = server.client.post("/v1/batches", json={"pairs": pairs}).json()["id"]
            wait_for(lambda: server.client.get(f"/v1/batches/{name}").json()["num_done"] >= 4)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
        before = len(model.requests)
        assert before < 48  # four requests a pair: it was not through
        with run_server(folder, model) as server:
            batch = f"/v1/batches/{name}"
            wait_for(lambda: server.client.get(batch).json()["state"] == "done")
            assert server.client.get(batch).json()["num_done"] == 12
            results = server.client.get(f"{batch}/results").json()["results"]
            assert [each["result"]["overall"] for each in results] == [1] * 12
        assert len(model.requests) <= 48 + 16  # at most what was in flight is asked again


def test_the_model_may_die_and_come_back(folder: Path) -> None:
    with serve_judge(delay_s=0.1) as model:
        port = model.server_address[1]
        options = ("--limit", "deadline_s=30")
        server = ServerProcess(folder, model, *options)
    try:
        with ThreadPoolExecutor(20) as pool:  # the model's server has just ended
            start = time.monotonic()
            answers = list(pool.map(server.compare, range(20)))
        assert time.monotonic() - start < 60
        assert {answer.status_code for answer in answers} <= {503, 504}
        assert all(answer.json()["error"]["detail"] for answer in answers)
        with serve_judge_at(port):
            assert server.compare(1).json()["overall"] == 1
    finally:
        server.end()


@contextmanager
def serve_judge_at(port: int) -> Iterator[None]:
    """Run the scripted model on a port that an earlier one had."""
    import threading

    from tests.seeing_judge import JudgeHandler, search

    original = ScriptedServer.__init__.__globals__["ThreadingHTTPServer"]
    assert original.allow_reuse_address

    class AtPort(ScriptedServer):
        def server_bind(self) -> None:
            self.server_address = ("127.0.0.1", port)
            super().server_bind()

    model = AtPort("vllm")
    model.RequestHandlerClass = JudgeHandler
    model.judge, model.faults, model.fault, model.delay_s = search, {}, None, 0.0
    thread = threading.Thread(target=model.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        model.shutdown()
        thread.join()
        model.server_close()


def test_hostile_uploads_leave_memory_flat(folder: Path) -> None:
    limits = ["max_upload_bytes=20000000", "body_timeout_s=2", "max_seconds=10"]
    options = [word for limit in limits for word in ("--limit", limit)]
    clip = (folder / CLEAN).read_bytes()
    huge = b"GIF89a" + (0xFFFF).to_bytes(2, "little") * 2 + b"\0\0\0," + b"\0" * 4
    huge += (0xFFFF).to_bytes(2, "little") * 2 + b"\0\x02\x02L\x01\0;"
    hostile = {
        "cut short": clip[: len(clip) // 2],
        "a playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "zeros": b"\0" * 15_000_000,
        "a huge frame": huge,
        "too large": b"\0" * 25_000_000,
    }
    with serve_judge() as model, run_server(folder, model, *options) as server:
        server.client.post("/v1/videos", content=clip).raise_for_status()
        before = server.memory_mb()
        for _ in range(4):
            for name, content in hostile.items():
                answer = server.client.post("/v1/videos", content=content)
                wanted = 413 if name == "too large" else 422
                assert answer.status_code == wanted, (name, answer.text)
                assert "Traceback" not in answer.text and answer.json()["error"]["detail"]
        assert slow_upload(server) == 408
        grown = server.memory_mb() - before
        print(f"memory grew by {grown:.0f} MB")
        assert grown < 60
        assert server.compare(1).status_code == 200
        assert os.listdir(folder / "state" / "uploads").__len__() == 1


def slow_upload(server: ServerProcess) -> int:
    """Send a byte now and then; returns the status of the answer."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"POST /v1/videos HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode())
        for _ in range(20):
            try:
                connection.sendall(b"\0")
                connection.settimeout(0.3)
                return int(connection.recv(100).split()[1])
            except TimeoutError:
                continue
    raise AssertionError("the server waits for ever")


@pytest.mark.parametrize(
    ("shares", "words"),
    [("state", "in use by another server"), ("port", "Address already in use; choose another")],
)
def test_a_second_server_in_the_same_place_is_refused(
    folder: Path, shares: str, words: str
) -> None:
    with serve_judge() as model, run_server(folder, model) as server:
        state = folder / ("state" if shares == "state" else "other")
        port = 0 if shares == "state" else server.client.base_url.port
        second = subprocess.run(
            [sys.executable, "-m", "verl_videosearch.cli", "serve", f"--port={port}"]
            + ["--state", str(state), "--endpoint", model.url, "--model", "tiny"],
            capture_output=True,
            text=True,
            timeout=START_S,
        )
    assert second.returncode == 2 and words in second.stderr
    assert json.dumps(second.stderr).count("error") == 1 and "serving" not in second.stdout
