"""A missing extra names the command that installs it; a broken package keeps its own error."""

import re
import sys
from importlib.metadata import metadata
from pathlib import Path

import pytest

from verl_videosearch.extras import Extra, install_command, require


@pytest.mark.parametrize("extra", Extra)
def test_a_missing_module_names_the_command(extra: Extra) -> None:
    with pytest.raises(ImportError, match=re.escape(install_command(extra))):
        require("a_module_that_is_absent.part", extra)


def test_a_broken_package_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "installed_but_broken.py").write_text("import its_own_dependency")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ModuleNotFoundError, match="No module named 'its_own_dependency'"):
        require("installed_but_broken", Extra.GPU)


def test_every_extra_exists_in_the_metadata() -> None:
    assert set(metadata("verl-videosearch").get_all("Provides-Extra")) == {
        extra.value for extra in Extra
    }
