"""The clock of a start: which phase, which process, whose CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.startup import (
    Processes,
    Start,
    find_descendants,
    name_kind,
    note_phases,
    read_cpu_s,
    show_medians,
)

BUSY = "import time\nwhile time.process_time() < 0.3: pass\ninput()\n"
PARENT = f"""import subprocess, sys, time
print(subprocess.run([sys.executable, '-c', {BUSY!r}]).returncode, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("ray::TaskRunner.run", "trainer"),
        ("/x/.venv/bin/python -m verl.trainer.main_ppo +recipe=a", "command"),
        ("VLLM::EngineCore", "vLLM engine"),
        ("ray::vLLMHttpServer", "vLLM server"),
        ("ray::SimpleStorageUnit", "transfer queue"),
        ("ray::IDLE", "idle ray workers"),
        ("", "other"),
    ],
)
def test_processes_have_kinds(command: str, kind: str) -> None:
    assert name_kind(command) == kind


def test_a_name_with_blanks_does_not_shift_the_fields() -> None:
    plain = read_cpu_s("9 (python) S 4 0 0 0 0 0 0 0 0 0 300 200 0 0")
    assert read_cpu_s("9 (my (odd) name) S 4 0 0 0 0 0 0 0 0 0 300 200 0 0") == plain
    assert plain[0] == 4 and plain[1] > 0


def test_descendants_need_no_order() -> None:
    assert find_descendants({9: 5, 5: 2, 2: 1, 7: 1}, 2) == {2, 5, 9}


def test_a_phase_keeps_its_first_time() -> None:
    start = Start()
    note_phases("step:1 - a", 1.0, start)
    note_phases("step:1 - a\nstep:2", 2.0, start)
    assert start.seconds == {"step 1": 1.0}


def test_step_ten_is_not_step_one() -> None:
    start = Start()
    note_phases("step:10 - a", 1.0, start)
    assert start.seconds == {}


def test_an_ended_child_keeps_its_cpu_and_all_end(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    processes = Processes(process.pid)
    assert process.stdin is not None and process.stdout is not None
    while sum(processes.sum_by_kind().values()) < 0.2:  # the child computes 0.3 s, then waits
        processes.look()
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline().strip() == "0"
    processes.look()
    assert sum(processes.sum_by_kind().values()) >= 0.2
    processes.end()
    assert process.wait() != 0


def test_the_table_sums_cpu_of_each_checkout() -> None:
    starts = {
        "this one": [Start(cpu_s={"actor": 2.0}), Start(cpu_s={"actor": 4.0, "other": 1.0})],
        "the other": [Start(cpu_s={"actor": 9.0})],
    }
    table = show_medians("CPU seconds to step 1", starts, lambda start: start.cpu_s)
    assert table.rows == [
        ("actor", "3.0", "9.0"),
        ("other", "0.5", "0.0"),
        ("all", "3.5", "9.0"),
    ]
