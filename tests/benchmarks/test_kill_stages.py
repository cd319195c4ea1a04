"""The trial of SIGKILLs looks at every file that counts, and its kill takes all that was started
along."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks import kill_stages
from benchmarks.kill_stages import Trial, hash_files, kill_all

STARTER = """
import subprocess
child = subprocess.Popen(["sleep", "60"], start_new_session=True, stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
child.wait()
"""


def test_files_that_count(tmp_path: Path) -> None:
    kept = [
        "models/grpo/weights",
        "pairs/videos/1.mkv",
        "runs/grpo/results.json",
        "samples/sft.parquet",
    ]
    left_out = [
        "logs/a.log",
        "results.json",
        "runs/grpo/journal.jsonl",
        "runs/grpo/.lock",
        "training/grpo/step",
    ]
    for name in kept + left_out:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    before = dict(hash_files(tmp_path))
    assert sorted(before) == kept and len(set(before.values())) == 4
    (tmp_path / kept[0]).write_text("other")
    after = dict(hash_files(tmp_path))
    assert [name for name in kept if before[name] != after[name]] == kept[:1]


def test_a_kill_takes_everything_along() -> None:
    process = subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    kill_all(process)
    assert process.returncode == -9
    while is_alive(int(line)):  # who takes over an orphan reaps it when it comes to it
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_row_of_the_table() -> None:
    trial = Trial("rft", 20.0, 10.04, 12.5, ["rft"], ["a", "b", "c", "d", "e"])
    assert trial.row == ("rft", "20.0", "10.0", "12.5", "rft", "a, b, c and 2 more")
    assert Trial("start", 1.0, None, 0.0, [], []).row == (
        "start",
        "1.0",
        "ended before",
        "0.0",
        "",
        "",
    )


SCRIPT = """
stage() {
  [[ $ONLY != *[a-z]* || $ONLY == *" $1 "* ]] || return 0
  [[ $ONLY != *" $1 "* ]] || rm -f "$OUT/$1"
  [[ ! -e $OUT/$1 ]] || { echo "$1: done before"; return; }
  echo "$1: started, log"
  sleep 0.6
  echo "$2" > "$OUT/$1"
  echo '{"stage": "'$1'", "seconds": 0.6}' >> "$OUT/logs/times.jsonl"
}
ONLY=" $* "
stage same same
stage other $RANDOM$RANDOM
"""


def test_a_stage_is_killed_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    for path, text in ((tmp_path / "recipes/pipeline.sh", SCRIPT), (out / "logs/times.jsonl", "")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    monkeypatch.setattr(kill_stages, "ROOT", tmp_path)
    kill_stages.start_pipeline(out).communicate()
    trials = [kill_stages.try_stage(out, stage, 0.6) for stage in ("same", "other")]
    assert [
        trial.killed_s is not None and trial.run_again == [trial.stage] for trial in trials
    ] == [True, True]
    assert [trial.different for trial in trials] == [[], ["other"]]
    assert [trial.rest_s for trial in trials] == [0.6, 0.6]
