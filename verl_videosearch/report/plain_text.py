r"""Text from data, servers and paths, made harmless before anybody looks at it.

The one idea: what came from outside may hold anything - an escape sequence that sets the clipboard,
a mark that turns the line around, markup of the table library. Nothing is removed silently: each
such character is written as its code.

>>> clean_text("clip\x1b]52;c;AA==\x07.mp4")
'clip\\x1b]52;c;AA==\\x07.mp4'
>>> clean_markup("[red]u0[/x]")
'\\[red]u0\\[/x]'
>>> clean_markdown("a|b <img src=x>")
'a\\|b &lt;img src=x&gt;'

Use `clean_text` for what is printed as it is, `clean_markup` for cells of rich tables and progress
bars, `clean_markdown` for .md files. Pages escape by themselves (jinja2).
"""

from __future__ import annotations

import unicodedata

from rich.markup import escape

_KEPT = "\n\t"
_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def clean_text(value: object) -> str:
    """Write control and format characters, lone surrogates and odd line ends as their codes; line
    feeds and tabs stay."""
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _is_harmless(character) else _code(character) for character in text)


def clean_line(value: object) -> str:
    """Return the same on one line.

    >>> clean_line("a\\n  b")
    'a b'
    """
    return " ".join(clean_text(value).split())


def clean_markup(value: object) -> str:
    """Return a line in which rich finds no markup."""
    return escape(clean_line(value))


def clean_markdown(value: object) -> str:
    """Return a line that Markdown shows as text: no cell border, no tag, no code, no link."""
    line = clean_line(value).replace("|", "\\|").replace("`", "\\`")
    return line.replace("<", "&lt;").replace(">", "&gt;").replace("](", "]\\(")


def _is_harmless(character: str) -> bool:
    return character in _KEPT or unicodedata.category(character) not in _CATEGORIES


def _code(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
