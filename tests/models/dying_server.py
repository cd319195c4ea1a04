"""A model server as a program of its own, for tests that kill it: it judges as `serve_judge` does.

    python -m tests.models.dying_server PORT FOLDER

Each start leaves its process id in FOLDER/pids. A file `fail` in FOLDER lets a start end with
status 7; a file `ill` lets a running server refuse everything, as vLLM does without its engine,
until it is started again."""

import os
import sys
from pathlib import Path

from tests.seeing_judge import JudgeHandler, make_server
from verl_videosearch.models.replica import Replica, RestartPolicy
from verl_videosearch.models.server import find_ports

QUICK = RestartPolicy(delay_s=0.05)


class DyingHandler(JudgeHandler):
    """Falls ill when it is told to."""

    folder: Path

    def is_ill(self) -> bool:
        if not (self.folder / "ill").exists():
            return False
        self.send_json(503, {"error": {"message": "EngineDeadError"}})
        return True

    def do_GET(self) -> None:
        if not self.is_ill():
            super().do_GET()

    def do_POST(self) -> None:
        if self.is_ill():
            self.read_request = lambda: None  # type: ignore[method-assign]
        else:
            super().do_POST()


def make_replica(folder: Path, policy: RestartPolicy = QUICK) -> Replica:
    """Return a replica that runs this program."""
    [port] = find_ports(1)
    command = [sys.executable, "-m", "tests.models.dying_server", str(port), str(folder)]
    return Replica(command, port, folder / "server.log", policy=policy)


def read_pids(folder: Path) -> list[int]:
    """Return the process of each start that came up."""
    file = folder / "pids"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def main(port: str, folder: str) -> None:
    """Serve until killed."""
    if (Path(folder) / "fail").exists():
        print("no memory left", flush=True)
        raise SystemExit(7)
    (Path(folder) / "ill").unlink(missing_ok=True)
    server = make_server(delay_s=0.05, port=int(port))
    server.RequestHandlerClass = type("Handler", (DyingHandler,), {"folder": Path(folder)})
    with (Path(folder) / "pids").open("a") as file:
        file.write(f"{os.getpid()}\n")
    server.serve_forever(0.01)


if __name__ == "__main__":
    main(*sys.argv[1:])
