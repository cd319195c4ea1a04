"""A stage's result appears in one step or not at all, and nothing that it started outlives it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result
from verl_videosearch.recipes.stage import (
    ENVIRONMENT,
    TOTAL,
    TRACKER,
    Stage,
    StageFailed,
    main,
    publish_result,
    run_program,
    tell_step,
)

APP = typer.Typer()
APP.command()(main)


def list_arguments(folder: Path, *options: str, program: str) -> list[str]:
    """Return the arguments of a stage `train` that runs a shell script in `folder` and makes
    `model`."""
    place = ["--result", str(folder / "model"), "--logs", str(folder / "logs")]
    return ["train", *place, *options, "--", "sh", "-c", f"cd '{folder}'; {program}"]


def run(folder: Path, *options: str, program: str) -> Result:
    return CliRunner().invoke(APP, list_arguments(folder, *options, program=program))


def read_times(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "logs/times.jsonl").read_text().splitlines()]


def list_work(folder: Path) -> list[str]:
    return ["--work", str(folder / "work")]


TRAIN = "echo run >> runs; mkdir -p work/global_step_9/hf; echo 9 > work/global_step_9/hf/weights"
PRODUCT = ["--product", "global_step_*/hf"]


def test_a_stage_is_run_once(tmp_path: Path) -> None:
    first = run(tmp_path, *list_work(tmp_path), *PRODUCT, program=TRAIN)
    second = run(tmp_path, *list_work(tmp_path), *PRODUCT, program=TRAIN)
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert (
        first.output.startswith(f"train: started, log {tmp_path}/logs/train.log\ntrain: ")
        and second.output == "train: done before\n"
    )
    assert (tmp_path / "runs").read_text() == "run\n" and (
        tmp_path / "model/weights"
    ).read_text() == "9\n"
    [line] = read_times(tmp_path)
    assert line["stage"] == "train" and 0 <= line["seconds"] < 60


@pytest.mark.parametrize(
    ("there", "product", "published"),
    [
        (
            ["global_step_9/hf", "global_step_10/hf", "global_step_100/other"],
            "global_step_*/hf",
            "global_step_10/hf",
        ),
        (
            ["global_step_7/actor/hf", "other/hf"],
            "global_step_*/actor/hf",
            "global_step_7/actor/hf",
        ),
        (["a", "b"], None, ""),
        (["results"], "results", "results"),
        (["global_step_9/other"], "global_step_*/hf", None),
        ([], None, None),
    ],
)
def test_the_highest_step_is_published(
    tmp_path: Path, there: list[str], product: str | None, published: str | None
) -> None:
    for name in there:
        (tmp_path / "work" / name).mkdir(parents=True)
        (tmp_path / "work" / name / "name").write_text(name)
    stage = Stage("train", [], tmp_path / "models/train", tmp_path, tmp_path / "work", product)
    if published is None:
        with pytest.raises(StageFailed, match=r"train ended without .*/work.*; see .*/train\.log"):
            publish_result(stage)
        assert not stage.result.exists()
    else:
        publish_result(stage)
        assert not (tmp_path / "work" / published).exists()
        names = [path.read_text() for path in stage.result.rglob("name")]
        assert sorted(names) == ([published] if published else there)


def test_a_program_may_make_its_result_itself(tmp_path: Path) -> None:
    assert run(tmp_path, program="echo made > model").exit_code == 0
    assert (tmp_path / "model").read_text() == "made\n"


@pytest.mark.parametrize(
    "options", [[], ["--work", "nowhere"], ["--work", "nowhere", "--product", "*/hf"]]
)
def test_no_result_is_an_error(tmp_path: Path, options: list[str]) -> None:
    result = run(tmp_path, *options, program="true")
    assert result.exit_code == 1 and "error: train ended without " in result.output
    assert f"see {tmp_path}/logs/train.log" in result.output


def test_a_failing_program_shows_the_end_of_its_log_and_goes_on_later(tmp_path: Path) -> None:
    fails = (
        f"{TRAIN}; for i in $(seq 40); do echo line $i of the log; done; echo no memory >&2; exit 3"
    )
    result = run(tmp_path, *list_work(tmp_path), *PRODUCT, program=fails)
    assert (
        result.exit_code == 1
        and f"train failed (exit 3); kept in {tmp_path}/work. End of {tmp_path}/logs/train.log:\n"
        in result.output
    )
    shown = result.output.splitlines()
    assert (
        "line 40 of the log" in shown and "no memory" in shown and "line 1 of the log" not in shown
    )
    assert not (tmp_path / "model").exists() and (tmp_path / "work/global_step_9").exists()
    assert (
        run(
            tmp_path,
            *list_work(tmp_path),
            *PRODUCT,
            program="echo on >> work/global_step_9/hf/weights",
        ).exit_code
        == 0
    )
    assert (tmp_path / "model/weights").read_text() == "9\non\n"
    assert [line["stage"] for line in read_times(tmp_path)] == [
        "train",
        "train",
    ]  # the failed run took time, too


@pytest.mark.parametrize(
    ("status", "words"),
    [(1, "is incomplete"), (2, "was refused"), (3, "is complete, but more pairs")],
)
def test_a_partial_result_is_kept_and_not_published(
    tmp_path: Path, status: int, words: str
) -> None:
    """`videosearch eval` writes its results although some episodes failed."""
    arguments = list_arguments(tmp_path, program=f"echo partly > model; exit {status}")
    first = CliRunner().invoke(APP, [*arguments, "verl_videosearch.cli"])
    assert first.exit_code == status
    assert f"train {words}" in first.output and f"kept in {tmp_path}/model" in first.output
    assert (tmp_path / "model").read_text() == "partly\n"
    second = run(tmp_path, program="cat model; echo whole > model")
    assert second.exit_code == 0 and (tmp_path / "model").read_text() == "whole\n"
    assert "partly" in (tmp_path / "logs/train.log").read_text()
    assert run(tmp_path, program="false").output == "train: done before\n"


def test_a_program_of_others_has_no_meaning_of_its_status(tmp_path: Path) -> None:
    result = run(tmp_path, program="exit 2")
    assert result.exit_code == 1 and "train failed (exit 2). End of" in result.output


def test_a_result_of_another_run_is_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("from elsewhere\n")
    assert run(tmp_path, program="exit 1").output == "train: done before\n"
    failed = run(tmp_path, "--again", program="echo new > model; exit 1")
    assert failed.exit_code == 1 and f"kept in {tmp_path}/logs/train.previous" in failed.output
    assert (tmp_path / "logs/train.previous").read_text() == "from elsewhere\n"
    again = run(tmp_path, "--again", program="exit 1")  # the partial one is no result
    assert again.exit_code == 1
    assert (tmp_path / "logs/train.previous").read_text() == "from elsewhere\n"
    assert run(tmp_path, program="echo newest > model").exit_code == 0
    assert not (tmp_path / "logs/train.previous").exists()


@pytest.mark.parametrize(
    ("tracked", "total", "is_run"),
    [("9", "9", False), ("12", "9", False), ("8", "9", True), (None, "9", True), ("9", None, True)],
)
def test_a_finished_training_is_published_and_not_trained_further(
    tmp_path: Path, tracked: str | None, total: str | None, is_run: bool
) -> None:
    """verl's SFT trainer does one step more when it is started at its last one (0.9.1)."""
    (tmp_path / "work/global_step_9/hf").mkdir(parents=True)
    if tracked is not None:
        (tmp_path / "work" / TRACKER).write_text(tracked)
    program = f"echo > ran; echo 9 > work/{TRACKER}"
    arguments = list_arguments(tmp_path, *list_work(tmp_path), *PRODUCT, program=program)
    arguments += [] if total is None else [f"trainer.total_training_steps={total}"]
    result = CliRunner().invoke(APP, arguments)
    assert result.exit_code == 0 and (tmp_path / "model").is_dir()
    assert (tmp_path / "ran").exists() is is_run
    assert ("all 9 steps were trained before" in result.output) is not is_run


@pytest.mark.parametrize(
    ("asked", "noted", "done", "is_published"),
    [
        (None, "18", "9", False),  # what the trainer has noted: the command says epochs only
        (None, "18", "18", True),
        ("12", None, "9", False),
        ("9", "18", "9", True),  # what is asked decides
        ("12", "12", None, False),
        (None, None, None, True),  # no training
    ],
)
def test_a_training_that_ends_early_is_no_result(
    tmp_path: Path, asked: str | None, noted: str | None, done: str | None, is_published: bool
) -> None:
    """A trainer may end well before its last step: no epochs are left, or none were trained."""
    program = "mkdir -p work/global_step_9/hf"
    for name, number in ((TOTAL, noted), (TRACKER, done)):
        program += f"; echo {number} > work/{name}" if number else ""
    arguments = list_arguments(tmp_path, *list_work(tmp_path), *PRODUCT, program=program)
    arguments += [f"trainer.total_training_steps={asked}"] if asked else []
    result = CliRunner().invoke(APP, arguments)
    assert (tmp_path / "model").is_dir() is is_published
    assert result.exit_code == (0 if is_published else 1)
    ended = f"train ended at step {done or 0} of {asked or noted}: not published, kept in"
    assert (ended in result.output) is not is_published


def test_again_starts_from_nothing(tmp_path: Path) -> None:
    run(tmp_path, *list_work(tmp_path), *PRODUCT, program=TRAIN)
    for name in ("train.jsonl", "train.20260101-000000.jsonl", "trainer.jsonl"):
        (tmp_path / "logs" / name).touch()
    short = TRAIN.replace("global_step_9", "global_step_8")
    assert run(tmp_path, *list_work(tmp_path), *PRODUCT, "--again", program=short).exit_code == 0
    assert (tmp_path / "runs").read_text() == "run\nrun\n"
    assert [path.name for path in (tmp_path / "work").iterdir()] == [
        "global_step_8"
    ]  # step 9 is of the run before
    assert {path.name for path in (tmp_path / "logs").glob("*.jsonl")} == {
        "times.jsonl",
        "trainer.jsonl",
    }


def test_a_result_may_stay_beside_the_work(tmp_path: Path) -> None:
    """A run of `videosearch eval` is a folder of which `results.json` comes last."""
    options = [
        *list_work(tmp_path),
        "--product",
        "results",
        "--result",
        str(tmp_path / "work/results"),
    ]
    program = "mkdir -p work; echo line >> work/journal; cp work/journal work/results"
    assert run(tmp_path, *options, program=program).exit_code == 0
    assert run(tmp_path, *options, program=program).output == "train: done before\n"
    assert run(tmp_path, *options, "--again", program=program).exit_code == 0
    assert (tmp_path / "work/results").read_text() == "line\n"


def test_again_without_a_result_is_a_first_run(tmp_path: Path) -> None:
    assert run(tmp_path, *list_work(tmp_path), "--again", program="mkdir work").exit_code == 0


def test_the_program_gets_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    stage = Stage("train", ["env"], tmp_path / "model", tmp_path)
    for environment, num_threads in (({}, "7"), (ENVIRONMENT, "1")):
        run_program(stage, environment, Console(quiet=True))
        lines = (tmp_path / "train.log").read_text().splitlines()
        assert f"VERL_FILE_LOGGER_PATH={tmp_path}/train.jsonl" in lines
        assert [line for line in lines if line.startswith("OMP_NUM_THREADS=")][
            -1
        ] == f"OMP_NUM_THREADS={num_threads}"


@pytest.mark.parametrize(
    ("log", "total", "words"),
    [
        ('{"step":3,"data":{}}\n{"step":4,"data":{}}\n', 40, "step 4 of 40"),
        ('{"step": 3, "data": {}}\n{"step": 4, "da', 40, "step 4 of 40"),
        ('{"step": 3, "data": {}}\n{"st', 40, ""),
        ("", 40, ""),
        (None, 40, ""),
        ('{"step": 3, "data": {}}\n', None, "step 3"),
    ],
)
def test_progress(tmp_path: Path, log: str | None, total: int | None, words: str) -> None:
    if log is not None:
        (tmp_path / "train.jsonl").write_text(log)
    command = ["python"] if total is None else ["python", f"trainer.total_training_steps={total}"]
    assert tell_step(Stage("train", command, tmp_path, tmp_path)) == words


# Killing

RESUMABLE = """
import os, pathlib, sys, time
steps = pathlib.Path(sys.argv[1], "steps")
steps.parent.mkdir(exist_ok=True)
is_first = not steps.exists()
with steps.open("a") as file:
    print(os.getpid(), file=file, flush=True)
if is_first:
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_stage_leaves_nothing_running_and_goes_on(
    tmp_path: Path, kind: signal.Signals
) -> None:
    options = [
        "--result",
        tmp_path / "model",
        "--work",
        tmp_path / "work",
        "--logs",
        tmp_path / "logs",
    ]
    program = [sys.executable, "-c", RESUMABLE, tmp_path / "work"]
    command = [
        sys.executable,
        "-m",
        "verl_videosearch.recipes.stage",
        "train",
        *options,
        "--",
        *program,
    ]
    command = [str(word) for word in command]
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job of `&` ignores it
    )
    pid = int(wait_for_text(tmp_path / "work/steps"))
    process.send_signal(kind)
    assert process.wait() != 0
    wait_until_gone(pid)
    assert not (tmp_path / "model").exists()
    assert (
        subprocess.run(command, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL).returncode
        == 0
    )
    assert (tmp_path / "model/steps").read_text().splitlines()[0] == str(
        pid
    )  # the work of before was kept
    assert len(read_times(tmp_path)) == (2 if kind is signal.SIGINT else 1)


def test_what_a_failed_program_has_started_ends_too(tmp_path: Path) -> None:
    assert run(tmp_path, program="sleep 60 & echo $! > pid; exit 1").exit_code == 1
    wait_until_gone(int((tmp_path / "pid").read_text()))


def wait_for_text(path: Path) -> str:
    """Return what a program writes, once it is there; pytest's time limit ends the wait."""
    while not (path.exists() and (text := path.read_text()).endswith("\n")):
        time.sleep(0.02)
    return text


def wait_until_gone(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        while True:  # the child of a dead process is gone once init has collected it
            os.kill(pid, 0)
            time.sleep(0.02)


def log_line(step: int, **data: float) -> str:
    return (
        json.dumps(
            {"step": step, "data": {name.replace("__", "/"): value for name, value in data.items()}}
        )
        + "\n"
    )


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        (None, 30),
        ("", 30),
        ("val/*/acc", 20),  # the mean of both sources
        ("val/a/acc", 30),  # of equals the later one
        ("val/b/acc", 10),  # in the log of an earlier try
    ],
)
def test_the_best_step_is_published(tmp_path: Path, best: str | None, expected: int) -> None:
    first = log_line(0, val__a__acc=1.0) + log_line(10, val__a__acc=0.2, val__b__acc=0.9)
    second = log_line(20, val__a__acc=0.8, val__b__acc=0.8) + log_line(
        30, val__a__acc=0.8, val__b__acc=0.4, loss=9.0
    )
    for name, log, at in (
        ("train.20260101-000000.jsonl", first, 1),
        ("train.jsonl", second + '{"step": 4', 2),
    ):
        (tmp_path / name).write_text(log)
        os.utime(tmp_path / name, (at, at))
    for step in (10, 20, 30):
        (tmp_path / f"work/global_step_{step}/huggingface").mkdir(parents=True)
    stage = Stage(
        "train",
        [],
        tmp_path / "model",
        tmp_path,
        tmp_path / "work",
        "global_step_*/huggingface",
        best,
    )
    said: list[str] = []
    publish_result(stage, said.append)
    assert not (tmp_path / f"work/global_step_{expected}/huggingface").exists()
    assert len(said) == bool(best)
    if best == "val/*/acc":
        [line] = said
        assert line == (
            "train: step 20 is the best by val/*/acc of 10 (0.5500), 20 (0.8000), 30 (0.6000)"
        )


def test_the_log_names_validated_steps_whose_checkpoints_are_gone(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(log_line(10, acc=0.9) + log_line(20, acc=0.5))
    (tmp_path / "work/global_step_20").mkdir(parents=True)
    place = (tmp_path / "model", tmp_path, tmp_path / "work", "global_step_*", "acc")
    said: list[str] = []
    publish_result(Stage("train", [], *place), said.append)
    [line] = said
    assert line.endswith("of 20 (0.5000); validated, but their checkpoints are gone: [10]")


def test_a_best_step_needs_figures(tmp_path: Path) -> None:
    (tmp_path / "work/global_step_10").mkdir(parents=True)
    (tmp_path / "train.jsonl").write_text(log_line(20, acc=1.0))
    with pytest.raises(StageFailed, match=r"no figure 'acc' for any of the steps \[10\]"):
        publish_result(
            Stage(
                "train", [], tmp_path / "model", tmp_path, tmp_path / "work", "global_step_*", "acc"
            )
        )
