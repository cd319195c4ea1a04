"""A server of ours that dies comes back at the same address, a few times; then it is said why."""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("httpx")

from tests.models.dying_server import QUICK, make_replica, read_pids
from verl_videosearch.failures import ServerUnusable
from verl_videosearch.models import replica as replica_module
from verl_videosearch.models.replica import Replica, RestartPolicy
from verl_videosearch.models.server import Health, ask_health, find_ports, read_end

pytestmark = pytest.mark.timeout(120)


@contextmanager
def run(replica: Replica) -> Iterator[Replica]:
    replica.start()
    try:
        yield replica
    finally:
        replica.close()


def wait(replica: Replica) -> None:
    asyncio.run(replica.wait_until_ready())


def kill_last(folder: Path, sign: int = signal.SIGKILL) -> None:
    os.kill(read_pids(folder)[-1], sign)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_server_comes_back_at_its_address(tmp_path: Path, sign: int) -> None:
    with run(make_replica(tmp_path)) as replica:
        wait(replica)
        url = replica.url
        kill_last(tmp_path, sign)
        replica.doubt()  # what a request that fails does
        wait(replica)
        assert replica.url == url and replica.num_restarts == 1 and not replica.is_given_up
        first, second = read_pids(tmp_path)
        assert first != second and not is_running(first) and is_running(second)
    assert not is_running(second)


def test_a_server_without_its_engine_is_started_again(tmp_path: Path) -> None:
    with run(make_replica(tmp_path)) as replica:
        wait(replica)
        replica.doubt()
        wait(replica)
        assert len(read_pids(tmp_path)) == 1, "it said that it is well"
        (tmp_path / "ill").touch()
        replica.doubt()
        wait(replica)
        assert len(read_pids(tmp_path)) == 2 and not is_running(read_pids(tmp_path)[0])


def test_a_server_that_dies_again_and_again_is_given_up(tmp_path: Path) -> None:
    with run(make_replica(tmp_path)) as replica:
        wait(replica)
        (tmp_path / "fail").touch()
        kill_last(tmp_path)
        replica.doubt()
        with pytest.raises(ServerUnusable) as caught:
            wait(replica)
        assert replica.is_given_up and not replica.is_ready
    words = str(caught.value)
    assert "ended with status 7" in words and "no memory left" in words
    assert "started again 3 times and is given up" in words and "server.log" in words
    assert (tmp_path / "server.log").read_text().count("no memory left") == 3


def test_a_server_that_never_came_up_is_not_tried_again(tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    with (
        run(make_replica(tmp_path)) as replica,
        pytest.raises(ServerUnusable, match="ended with status 7:\nno memory left"),
    ):
        wait(replica)
    assert replica.num_restarts == 0


@pytest.mark.parametrize(("settled_s", "is_given_up"), [(0.0, False), (600.0, True)])
def test_only_deaths_in_a_row_count(tmp_path: Path, settled_s: float, is_given_up: bool) -> None:
    policy = RestartPolicy(max_restarts=1, delay_s=0.0, settled_s=settled_s)
    with run(make_replica(tmp_path, policy)) as replica:
        for _ in range(2):
            wait(replica)
            kill_last(tmp_path)
            replica.doubt()
        if is_given_up:
            with pytest.raises(ServerUnusable, match="started again 1 time and"):
                wait(replica)
        else:
            wait(replica)
        assert replica.is_given_up is is_given_up


def test_closing_ends_a_server_that_is_still_starting(tmp_path: Path) -> None:
    policy = RestartPolicy(delay_s=3600.0)
    with run(make_replica(tmp_path, policy)) as replica:
        wait(replica)
        kill_last(tmp_path)
        replica.doubt()
        while replica.num_restarts == 0:
            time.sleep(0.02)
    with pytest.raises(ServerUnusable, match="ended by its user"):
        wait(replica)


def test_a_policy_is_checked() -> None:
    assert QUICK.max_restarts == 3
    with pytest.raises(ValueError, match="max_restarts must be"):
        RestartPolicy(max_restarts=-1)


def test_a_program_that_cannot_be_started_is_said(tmp_path: Path) -> None:
    replica = Replica(["no-such-program"], find_ports(1)[0], tmp_path / "server.log", policy=QUICK)
    with run(replica), pytest.raises(ServerUnusable, match="FileNotFoundError.*no-such-program"):
        wait(replica)
    assert replica.is_given_up


def test_a_log_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    log = tmp_path / "gone" / "server.log"
    with (
        run(Replica(["true"], find_ports(1)[0], log, policy=QUICK)) as replica,
        pytest.raises(ServerUnusable, match="gone/server.log"),
    ):
        wait(replica)


def test_a_server_is_started_again_without_its_log(tmp_path: Path) -> None:
    with run(make_replica(tmp_path)) as replica:
        wait(replica)
        replica.log.unlink()
        kill_last(tmp_path)
        replica.doubt()
        wait(replica)
        assert replica.num_restarts == 1
    assert "cannot be read" in read_end(tmp_path / "server.gone")


@pytest.mark.parametrize(
    "greeting",
    [b"\xff\0\0ZMTP\n\n", b"HTTP/1.1 302 Found\r\nLocation: http://[bad\r\n\r\n"],
)
def test_who_speaks_no_http_is_not_healthy(greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        thread = threading.Thread(target=greet_strangely, args=(stranger, greeting))
        thread.start()
        port = stranger.getsockname()[1]
        assert ask_health(f"http://127.0.0.1:{port}/health") is Health.SILENT
        thread.join()


def greet_strangely(stranger: socket.socket, greeting: bytes) -> None:
    connection, _ = stranger.accept()
    with connection:
        connection.recv(1024)
        connection.sendall(greeting)


def test_one_cut_connection_ends_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Health.ILL, Health.WELL])
    with run(make_replica(tmp_path)) as replica:
        wait(replica)
        monkeypatch.setattr(replica_module, "ask_health", lambda url: next(answers))
        replica.doubt()
        wait(replica)
        assert len(read_pids(tmp_path)) == 1
    assert next(answers, None) is None, "it was asked twice"
