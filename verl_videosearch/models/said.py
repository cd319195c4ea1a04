"""What a server said, fit for a message: one line, harmless, not too long.

>>> quote("wiped \\x1b[2J\\nand more"), quote("abcdef", 5)
('wiped \\\\x1b[2J and more', 'ab...')
"""

from __future__ import annotations

from verl_videosearch.report.plain_text import clean_line


def quote(value: object, max_length: int = 400) -> str:
    """Write anything on one line of at most `max_length` characters."""
    line = clean_line(value)
    return line if len(line) <= max_length else line[: max_length - 3] + "..."
