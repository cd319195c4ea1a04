"""Scores over HTTP are those of the judge itself; refusals are typed failures."""

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
