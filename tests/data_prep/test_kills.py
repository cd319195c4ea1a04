"""Killed at random moments and started again, a program publishes the same bytes as if it had been
left alone, and asks nobody twice for what it has."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.data_prep.test_cold_start import list_arguments as list_cold_start
from tests.data_prep.test_cold_start import list_server_options, make_pair, read_plain, videos
from tests.data_prep.test_rejection_sampling import ChangingHandler, list_arguments_of
from tests.scripted_server import serve_scripts
from verl_videosearch.runs.record_file import read_records

pytest.importorskip("httpx")

__all__ = ["videos"]
NUM_KILLS = int(os.environ.get("VIDEOSEARCH_KILLS", "3"))
"""For each program; docs/reliability.md was made with 20."""


def run_and_kill(module: str, arguments: list[str], moments: random.Random) -> None:
    """Start the program again and again, kill it after a while each time, and let the last one
    end."""
    command = [sys.executable, "-m", f"verl_videosearch.data_prep.{module}", *arguments]
    for _ in range(NUM_KILLS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        journals = list(Path(arguments[arguments.index("--out") + 1]).rglob("journal.jsonl"))
        size = sum(path.stat().st_size for path in journals)
        wait_for_growth(Path(arguments[arguments.index("--out") + 1]), size, process)
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


def wait_for_growth(out: Path, size: int, process: subprocess.Popen) -> None:
    """Wait until something was played, or the program has ended."""
    while process.poll() is None:
        if sum(path.stat().st_size for path in out.rglob("journal.jsonl")) > size:
            return
        time.sleep(0.02)


@pytest.mark.timeout(1200)
def test_cold_start(tmp_path: Path, videos: Path) -> None:  # noqa: F811  (the fixture)
    pairs = [make_pair(f"pair-{i:03d}", "slow" if i % 3 else "wrong_labels") for i in range(90)]
    with serve_scripts() as server:
        options = [*list_server_options(server), "--concurrency", "2"]
        killed, whole = tmp_path / "killed", tmp_path / "whole"
        run_and_kill(
            "cold_start", list_cold_start(killed, videos, pairs, *options), random.Random(0)
        )
        num_requests = len(server.requests)
        in_flight = 2 * NUM_KILLS
        assert len(pairs) <= num_requests <= len(pairs) + in_flight
        command = [sys.executable, "-m", "verl_videosearch.data_prep.cold_start"]
        subprocess.run(
            [*command, *list_cold_start(whole, videos, pairs, *options)],
            stdout=subprocess.DEVNULL,
            check=True,
        )
    assert read_plain(killed) == read_plain(whole)
    assert (killed / "sft.parquet").read_bytes() == (whole / "sft.parquet").read_bytes()


@pytest.mark.timeout(1200)
def test_rejection_sampling(tmp_path: Path, videos: Path) -> None:  # noqa: F811  (the fixture)
    pairs = [make_pair(f"pair-{i:03d}", "slow" if i % 3 else "changing") for i in range(30)]
    with serve_scripts("vllm") as server:
        server.RequestHandlerClass = ChangingHandler
        options = ["--concurrency", "2", "--samples", "3", "--target", "12"]
        killed, whole = tmp_path / "killed", tmp_path / "whole"
        for out in (killed, whole):
            arguments = list_arguments_of(out, videos, pairs, *options, servers=[server])
            if out == killed:
                run_and_kill("rejection_sampling", arguments, random.Random(1))
            else:
                command = [sys.executable, "-m", "verl_videosearch.data_prep.rejection_sampling"]
                subprocess.run([*command, *arguments], stdout=subprocess.DEVNULL, check=True)
    keys = [
        [record.key for record in read_records(out / "shard-0-of-1/journal.jsonl").records]
        for out in (killed, whole)
    ]
    assert sorted(keys[0]) == sorted(keys[1]) and len(set(keys[0])) == len(keys[0])
    for name in ("sft.parquet", "provenance.jsonl", "audit.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
