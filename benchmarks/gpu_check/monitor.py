"""What a run takes while it runs: most memory of the card, least free memory of the host."""

from __future__ import annotations

import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

MEMINFO = Path("/proc/meminfo")


@dataclass
class Peaks:
    """Extremes of a run, MiB."""

    gpu_used: int = 0
    host_free: int = 1 << 40
    host_free_at_start: int = 0


class Monitor:
    """Looks every second; a context manager."""

    def __init__(self, interval_s: float = 1.0) -> None:
        self.peaks = Peaks(host_free_at_start=read_host_free())
        self._interval_s, self._stop = interval_s, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Monitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:  # a program that ends before the first interval is measured, too
            self.peaks.gpu_used = max(self.peaks.gpu_used, read_gpu_used())
            self.peaks.host_free = min(self.peaks.host_free, read_host_free())
            if self._stop.wait(self._interval_s):
                return


def read_gpu_used() -> int:
    """Return the used memory of the fullest card, MiB."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    return max(map(int, lines))


def read_host_free() -> int:
    """Return the memory that this host can still give, MiB."""
    for line in MEMINFO.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    raise RuntimeError(f"{MEMINFO} does not say MemAvailable")
