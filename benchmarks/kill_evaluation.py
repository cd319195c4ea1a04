"""Kill `videosearch eval` at random moments and go on: is anything lost, or done twice?

    python -m benchmarks.kill_evaluation --kills 20

The one idea: the server's reply depends on the request alone, so a run that was killed must end
with
the same records as one that was not; times apart. Prints one line per kill and the verdict.

Covers: eval against a server in this process. Does not cover: training stages (`kill_stages`)."""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from tests.seeing_judge import EPISODE, serve_judge, write_pairs
from verl_videosearch.runs.record import EpisodeRecord, Usage
from verl_videosearch.runs.record_file import read_records, settle_records


def main() -> None:
    """Run the trial; exit status 1 when a record differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest-s", type=float, default=2.4, help="longest time of play")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        is_equal = run_trial(Path(folder), options.kills, options.longest_s, options.seed)
    sys.exit(0 if is_equal else 1)


def run_trial(folder: Path, num_kills: int, longest_s: float, seed: int) -> bool:
    """Play an undisturbed run and one with kills; True when their records are equal."""
    pairs, moments = write_pairs(folder / "pairs"), random.Random(seed)
    with serve_judge() as server:
        subprocess.run(list_command(pairs, server.url, folder / "calm"), check=True)
        num_calm = len(server.requests)
    out, num_killed = folder / "killed", 0
    with serve_judge(delay_s=0.6) as server:
        command = list_command(pairs, server.url, out)
        while num_killed < num_kills:
            num_before = len(server.requests)
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            waits = moments.random() > 0.1
            while waits and len(server.requests) == num_before:
                time.sleep(0.05)  # nine of ten kills come while episodes are played
                if process.poll() is not None:
                    break
            time.sleep(moments.uniform(0, longest_s))
            if process.poll() is not None:
                break
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            num_killed += 1
            print(f"kill {num_killed}: {count_lines(out / 'journal.jsonl')} lines", flush=True)
        server.delay_s = 0.0
        status = subprocess.run(command, check=False).returncode
        num_requests = len(server.requests)
    calm, killed = (read_plain(folder / name / "journal.jsonl") for name in ("calm", "killed"))
    finals = [(folder / name / "episodes.jsonl").read_bytes() for name in ("calm", "killed")]
    lines = count_lines(out / "journal.jsonl")
    print(f"{num_killed} kills, status {status}, {len(killed)} episodes in {lines} lines")
    print(f"requests: {num_calm} undisturbed, {num_requests} with kills")
    print(f"records equal: {calm == killed}; episodes.jsonl equal: {finals[0] == finals[1]}")
    return calm == killed and finals[0] == finals[1] and status == 0 and lines == len(killed)


def list_command(pairs: Path, url: str, out: Path) -> list[str]:
    """Return the command of a run."""
    settings = [word for setting in EPISODE for word in ("--set", setting)]
    place = ["--benchmark", str(pairs), "--endpoint", url, "--model", "tiny", "--out", str(out)]
    program = [sys.executable, "-m", "verl_videosearch.cli", "eval", "--concurrency", "2"]
    return [*program, *place, *settings]


def read_plain(path: Path) -> list[EpisodeRecord]:
    """Return the records by key, without what no two runs share."""
    return [
        msgspec.structs.replace(record, seconds=None, usage=Usage())
        for record in settle_records(read_records(path).records)
    ]


def count_lines(path: Path) -> int:
    """Count whole lines; 0 for no file."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


if __name__ == "__main__":
    main()
