"""Keep every test to this machine and to temporary folders.

The environment is set before any module is collected: verl and Hugging Face read it on import, and
processes that a test starts inherit it.
"""

import ipaddress
import os
import socket
import tempfile
from collections.abc import Iterator

import pytest

HERMETIC_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment of this process and of all that it starts."""
    scratch = tempfile.TemporaryDirectory(prefix="videosearch-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(scratch.cleanup)
    os.environ.update(
        HERMETIC_ENVIRONMENT, VIDEOSEARCH_FRAME_STORE=os.path.join(scratch.name, "frame_store")
    )
    os.environ.pop(
        "PYTHONDONTWRITEBYTECODE", None
    )  # it makes every start of verl or vLLM three times as long


@pytest.fixture(autouse=True)
def no_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections from a test to public addresses; local servers and Ray stay reachable."""
    connect = socket.socket.connect

    def connect_nearby(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and self.type == socket.SOCK_STREAM:
            host = ipaddress.ip_address(socket.getaddrinfo(*address[:2])[0][4][0])
            if host.is_global:
                raise PermissionError(f"got a connection to {address}; tests stay on this machine")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_nearby)


@pytest.fixture(autouse=True)
def ordinary_schedule() -> Iterator[None]:
    """Refuse a test that leaves this process a real-time one: all that later tests start would be
    one, too, and some of their threads spin until another has run (`clips.keep_schedule`)."""
    before = os.sched_getscheduler(0)
    yield
    after = os.sched_getscheduler(0)
    if after != before:
        os.sched_setscheduler(0, before, os.sched_param(0))
        pytest.fail(f"got scheduling policy {after} from a test that began with {before}")
