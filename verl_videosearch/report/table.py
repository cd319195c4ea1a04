"""Table: rows of text with a caption, written as Markdown or put on a page.

>>> print(Table("Judges", ("judge", "with ties"), [("ours", "61.0 %"), ("a|b", "n/a")]).to_markdown())
**Judges**
<BLANKLINE>
| judge | with ties |
|---|---|
| ours | 61.0 % |
| a\\|b | n/a |
<BLANKLINE>
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from verl_videosearch.report.plain_text import clean_markdown


@dataclass(frozen=True)
class Table:
    """A table of text; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    caption: str = ""
    """What one must know to read the numbers."""

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        assert not wrong, (
            f"{self.title}: {len(self.columns)} columns, but a row has {len(wrong[0])}"
        )

    def to_markdown(self) -> str:
        """Write the table with its title and caption; whatever stands in the cells is shown, never
        acted upon."""
        lines = [_row(self.columns), "|" + "---|" * len(self.columns), *map(_row, self.rows)]
        parts = [f"**{clean_markdown(self.title)}**", "\n".join(lines)]
        if self.caption:
            parts.append(clean_markdown(self.caption))
        return "\n\n".join(parts) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(clean_markdown, cells)) + " |"
