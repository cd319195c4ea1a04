"""One HTML file from tables, plots and text: nothing is loaded, nothing runs, everything from outside is escaped.

>>> page = render_page("Run", [Table("Judges", ("judge",), [("<script>",)])], facts=[("n", "3")])
>>> "&lt;script&gt;" in page, "<script" in page, "http" in page.replace("http-equiv", "")
(True, False, False)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from verl_videosearch.extras import Extra, require
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

_TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --ink: #1d2433; --soft: #5d677a; --line: #dfe3ea; --paper: #fff; --stripe: #f6f7fa;
  --ours: #2456c9; --reference: #98a2b3; --note: #fff5dc; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #a0a9ba; --line: #333b4a; --paper: #14181f;
  --stripe: #1b212b; --ours: #7ea6ff; --reference: #6b7588; --note: #3a3115; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 68rem;
  margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin: 0 0 1rem; } h2 { font-size: 1.05rem; margin: 2.2rem 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0 0 1rem; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } tbody tr:nth-child(even) { background: var(--stripe); }
p.caption { color: var(--soft); font-size: .85rem; margin: .4rem 0 0; max-width: 50rem; }
p.note { background: var(--note); padding: .6rem .9rem; border-radius: .3rem; }
svg { width: 100%; max-width: 680px; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
.grid { stroke: var(--line); }
.ours { stroke: var(--ours); stroke-width: 2.5; } circle.ours { fill: var(--ours); stroke: none; }
.reference { stroke: var(--reference); stroke-width: 2; } circle.reference { fill: var(--reference); stroke: none; }
.series-0 { --colour: #2456c9; } .series-1 { --colour: #c2571a; } .series-2 { --colour: #16845b; }
.series-3 { --colour: #8b46b8; } .series-4 { --colour: #a88a00; } .series-5 { --colour: #c4364f; }
[class^=series] { stroke: var(--colour); stroke-width: 2; } circle[class^=series] { fill: var(--colour); stroke: none; }
polyline { fill: none; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<dl>{% for name, value in facts %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
{% for block in blocks %}
{% if block.text is defined %}<p class="note">{{ block.text }}</p>{% else %}
<h2>{{ block.title }}</h2>
{% if block.svg is defined %}{{ block.svg | safe }}{% else %}
<div class="scroll"><table>
<thead><tr>{% for cell in block.columns %}<th>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in block.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>{% endif %}
{% if block.caption %}<p class="caption">{{ block.caption }}</p>{% endif %}{% endif %}
{% endfor %}
</body>
</html>
"""


def render_page(title: str, blocks: Sequence[Block], facts: Sequence[tuple[str, str]] = ()) -> str:
    """Return a whole HTML document; `facts` stand above everything else."""
    jinja2 = require("jinja2", Extra.JUDGE)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.from_string(_TEMPLATE).render(title=title, facts=facts, blocks=blocks)


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
