"""Find the files that the paths of a preference set mean.

The one idea: sets disagree on where their paths start, so a few folders below one root are tried,
and a bare file name is looked up everywhere below it.

Covers: relative and absolute paths, missing files (None). Does not cover: paths that lead out of
the root (the readers refuse them), files inside archives.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath


class VideoFinder:
    """Finds the files that a source's paths mean, below one root."""

    def __init__(self, root: Path, folders: Iterable[str]) -> None:
        self.root, self.folders = root, tuple(folders)
        self._by_name: dict[str, list[str]] | None = None

    def find(self, path: str) -> str | None:
        """Return the path relative to the root (an absolute one as it is) of an existing file, or
        None.

        A bare file name may lie in any folder below the root, if only one file there has it.
        """
        for candidate in (str(PurePosixPath(folder, path)) for folder in self.folders):
            if os.path.isfile(self.root / candidate):
                return candidate
        found = self._files_named(path) if "/" not in path else []
        return found[0] if len(found) == 1 else None

    def _files_named(self, name: str) -> list[str]:
        if self._by_name is None:
            self._by_name = defaultdict(list)
            for folder, _, files in os.walk(self.root):
                for file in files:
                    self._by_name[file].append(Path(folder, file).relative_to(self.root).as_posix())
        return self._by_name.get(name, [])
