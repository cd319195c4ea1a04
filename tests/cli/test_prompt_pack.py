"""`videosearch prompt-pack check`: one line a mistake, exit status 2."""

from pathlib import Path

from typer.testing import CliRunner

from verl_videosearch.cli import app
from verl_videosearch.prompts import load_pack


def check(path: Path | str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["prompt-pack", "check", str(path)])
    return result.exit_code, " ".join(result.output.split())


def test_a_good_pack_tells_its_hash() -> None:
    code, output = check("full")
    assert code == 0 and load_pack("full").words_hash in output and "note" not in output


def test_mistakes_are_lines_and_notes_are_none(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("sistem: x\nevicted: 'gone: {frame}'\n")
    code, output = check(path)
    assert code == 2 and output.count("error: ") == 2 and "unknown entry 'sistem'" in output
    path.write_text("system_at_once: 'Judge {dimensions}.'\n")
    code, output = check(path)
    assert code == 0 and "note: system_at_once shows no <Answer>" in output
