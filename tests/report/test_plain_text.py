"""What comes from outside is shown, never acted upon."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table as RichTable

from verl_videosearch.report.page import Note, render_markdown
from verl_videosearch.report.plain_text import (
    clean_line,
    clean_markdown,
    clean_markup,
    clean_text,
)
from verl_videosearch.report.table import Table

CLIPBOARD = "\x1b]52;c;cm0gLXJmIH4=\x1b\\x.mp4"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [a, b] é 中 ✓", "plain [a, b] é 中 ✓"),
        (CLIPBOARD, r"\x1b]52;c;cm0gLXJmIH4=\x1b\x.mp4"),
        ("\x9b2J", r"\x9b2J"),
        ("a\u202eb\u200bc\ufeff", r"a\u202eb\u200bc\ufeff"),
        ("a\ud800b", r"a\ud800b"),
        ("a\r\nb\u2028c\x00\x7f", "a\\r\nb\\u2028c\\x00\\x7f"),
    ],
)
def test_codes(text: str, shown: str) -> None:
    assert clean_text(text) == shown


@given(st.text(st.characters()))
def test_nothing_harmful_is_left(text: str) -> None:
    for cleaned in (clean_text(text), clean_line(text), clean_markup(text), clean_markdown(text)):
        assert all(
            character.isprintable() or character in "\n\t " or ord(character) > 127
            for character in cleaned
        )
        assert "\x1b" not in cleaned
        cleaned.encode()
    assert "\n" not in clean_line(text)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_rich_shows_cells_as_they_are(text: str) -> None:
    table = RichTable("uid", box=None)
    table.add_row(clean_markup(f"u[/x][red]{text}"))
    console = Console(file=io.StringIO(), width=1000, force_terminal=False)
    console.print(table)
    assert "u[/x][red]" in console.file.getvalue()


def test_markdown_has_no_tags_and_no_other_cells() -> None:
    table = Table("T|<b>", ("a", "b"), [("x | y", "<script>`z`"), ("[l](javascript:x)", CLIPBOARD)])
    page = render_markdown("<h1>", [table, Note("<i>\x1b[2J")], [("file", "a\nb<c>")])
    assert "<" not in page and "\x1b" not in page and "](" not in page
    assert "| x \\| y |" in page and "- file: a b&lt;c&gt;" in page
