"""One HTML file from tables, plots and text: nothing is loaded, nothing runs, everything from
outside is escaped.

>>> page = render_page("Run", [Table("Judges", ("judge",), [("<script>",)])], facts=[("n", "3")])
>>> "&lt;script&gt;" in page, "<script" in page, "http" in page.replace("http-equiv", "")
(True, False, False)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from verl_videosearch.report.markup import render
from verl_videosearch.report.plain_text import clean_markdown
from verl_videosearch.report.table import Table


@dataclass(frozen=True)
class Plot:
    """An SVG from `chart`, with a title and what one must know to read it."""

    title: str
    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Note:
    """A sentence that the reader must not miss."""

    text: str


Block = Table | Plot | Note


def render_page(
    title: str,
    blocks: Sequence[Block],
    facts: Sequence[tuple[str, str]] = (),
    links: Sequence[tuple[str, str]] = (),
) -> str:
    """Return a whole HTML document; `facts` stand above everything else, and `links` (name, file
    beside the page) above them."""
    return render("figures.html", title=title, facts=facts, blocks=blocks, links=links)


def render_markdown(
    title: str, blocks: Sequence[Block], facts: Sequence[tuple[str, str]] = ()
) -> str:
    """Return the same as Markdown, without the plots.

    >>> render_markdown("Run", [Note("It never searches.")], facts=[("n", "3")])
    '# Run\\n\\n- n: 3\\n\\n> It never searches.\\n'
    """
    lines = [f"- {clean_markdown(name)}: {clean_markdown(value)}" for name, value in facts]
    parts = [f"# {clean_markdown(title)}", "\n".join(lines)]
    for block in blocks:
        if isinstance(block, Note):
            parts.append(f"> {clean_markdown(block.text)}")
        elif isinstance(block, Table):
            parts.append(block.to_markdown().rstrip("\n"))
    return "\n\n".join(part for part in parts if part) + "\n"
