"""The page of benchmarks keeps what was run, in order, and says what was not."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import run_all


@pytest.fixture(autouse=True)
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(run_all, "RESULTS", tmp_path / "RESULTS.md")
    return tmp_path / "RESULTS.md"


def test_every_program_is_there() -> None:
    for name in run_all.PROGRAMS:
        found = find_spec(f"benchmarks.{name}")
        assert found is not None
        assert not found.submodule_search_locations or find_spec(f"benchmarks.{name}.__main__")


def test_sections_are_kept_and_ordered(page: Path) -> None:
    run_all.write_page({"loop": "## loop\n\nslow\n", "frames": "## frames\n\nfast\n"})
    text = page.read_text()
    assert text.index("## frames") < text.index("## loop")
    assert "Not run yet: requests," in text
    assert run_all.read_sections()["loop"].strip().endswith("slow")


def test_a_program_speaks_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    section, is_well = run_all.run_program("code_shape")
    assert is_well and "shape of the code" in section
    monkeypatch.setitem(run_all.PROGRAMS, "code_shape", ["/nowhere"])
    section, is_well = run_all.run_program("code_shape")
    assert not is_well and "exit status 1" in section
