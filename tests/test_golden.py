"""Golden transcripts: every whole episode reads as it did; `python -m tests.golden` rewrites
them."""

from pathlib import Path

import pytest

from tests.golden import FOLDER, SCRIPTS, render_script, write_golden


@pytest.mark.parametrize("name", SCRIPTS)
def test_transcript(name: str) -> None:
    assert render_script(SCRIPTS[name]) == (FOLDER / f"{name}.txt").read_text("utf-8"), (
        "see tests/golden.py"
    )


def test_no_file_is_stale(tmp_path: Path) -> None:
    write_golden(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in FOLDER.iterdir()}
