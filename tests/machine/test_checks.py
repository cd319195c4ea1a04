"""Every check names what it found and how to mend it; the exit status says whether it must be."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.scripted_server import serve_scripts
from verl_videosearch.cli import app
from verl_videosearch.extras import Extra
from verl_videosearch.machine import checks, driver
from verl_videosearch.machine.checks import Status

H100 = "580.65.06, NVIDIA H100 80GB HBM3, 81559 MiB\n"


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a program that stands for nvidia-smi."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{H100}{H100}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(driver, "QUERY", (str(program),))
    return program


def test_cards_are_counted(cards: Path) -> None:
    assert checks.check_gpus().found.startswith("2 x NVIDIA H100 80GB HBM3 (81559 MiB), driver 580")
    cards.write_text("#!/bin/sh\necho 570.12, Card, 1 MiB\n")
    assert "CUDA 13 needs >= 580" in checks.check_gpus().found
    cards.unlink()
    assert checks.check_gpus().status is Status.FAULT


def test_a_missing_extra_names_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checks.EXTRAS, Extra.PLOTS, ("a_module_that_is_absent",))
    check = checks.check_extra(Extra.PLOTS)
    assert check.status is Status.NOTE and '".[plots]"' in check.fix
    assert checks.check_extra(Extra.PLOTS, needed=True).status is Status.FAULT


def test_a_store_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_store(tmp_path / "store").status is Status.FINE
    (tmp_path / "file").write_text("")
    assert checks.check_store(tmp_path / "file" / "store").status is Status.FAULT
    monkeypatch.setattr(checks, "MIN_FREE_BYTES", 10**30)
    assert "videosearch store empty" in checks.check_store(tmp_path / "store").fix


def test_a_codec_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.check_decoders().status is Status.FINE
    monkeypatch.setattr(checks, "CODECS", ("h264", "no_such_codec"))
    check = checks.check_decoders()
    assert check.status is Status.FAULT and "no_such_codec" in check.found


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *arguments])
    return result.exit_code, result.output


def test_the_exit_status(cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--store", str(tmp_path))[0] == 0
    cards.unlink()
    status, text = run("--store", str(tmp_path))
    assert status == 0 and "note  GPU: no NVIDIA driver" in text
    assert "ready; for training ask with --train" in text.splitlines()[-1]
    with monkeypatch.context() as patch:
        patch.setattr(checks, "EXTRAS", {Extra.PLOTS: ("no_such_module",)})
        assert run("--store", str(tmp_path))[1].rstrip().endswith("; without extra plots")
    status, text = run("--store", str(tmp_path), "--train")
    assert status == 1 and "FAULT GPU" in text


def test_a_server_is_asked(tmp_path: Path) -> None:
    with serve_scripts() as server:
        status, text = run("--store", str(tmp_path), "--endpoint", server.url, "--model", "tiny")
        assert status == 0 and "server: tiny answers and sees" in text
        status, text = run("--store", str(tmp_path), "--endpoint", server.url, "--model", "other")
        assert status == 1 and "FAULT server" in text


def test_a_flash_attn_that_does_not_load_is_a_fault_of_training(
    cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flash_attn.py").write_text("raise ImportError('undefined symbol: _ZN3c10')")
    monkeypatch.syspath_prepend(tmp_path)
    status, text = run("--store", str(tmp_path), "--train")
    assert status == 1
    assert "FAULT flash-attn: cannot be imported (undefined symbol: _ZN3c10)" in text
    assert "To mend it: the overrides of docs/seven_b.md, 'Without flash-attn', or: " in text
    assert "note  flash-attn" in run("--store", str(tmp_path))[1]
    (tmp_path / "flash_attn.py").write_text("")
    assert "fine  flash-attn: installed" in run("--store", str(tmp_path), "--train")[1]
