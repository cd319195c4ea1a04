"""Tables of the memory controls: accuracy, calls and tokens by pair type."""

from __future__ import annotations

from collections.abc import Sequence

from verl_videosearch.evaluation.memory_controls import ALL, RUN, MemoryRow, MemorySummary
from verl_videosearch.report.page import Block, Note
from verl_videosearch.report.table import Table

_CAPTION = (
    "The same policy judges the same pairs again; before each reply its earlier replies are "
    "altered. as_written: nothing is. emptied: their Snapshots are empty. opposite: their "
    "Snapshots are those of a pair with another label. no_text: only their calls are left. An "
    "episode without a call looks back at nothing and counts as it was. Intervals draw prompts."
)


def describe_memory(summary: MemorySummary) -> list[Block]:
    """Return the blocks of a run whose memory was altered."""
    blocks: list[Block] = []
    altered = [rows[ALL].num_altered for name, rows in summary.rows.items() if name != RUN]
    if not any(altered):
        blocks.append(Note("No episode of this run has a second turn: there is nothing to alter."))
    columns = ("memory", "pairs", "right", "against the run", "calls", "tokens", "altered")
    cells = [
        (memory, name, *_describe_row(row))
        for memory, rows in summary.rows.items()
        for name, row in rows.items()
    ]
    return [*blocks, Table("What the judge finds when it looks back", columns, cells, _CAPTION)]


def _describe_row(row: MemoryRow) -> Sequence[str]:
    change = ""
    if row.change is not None:
        low, high = 100 * row.change.low, 100 * row.change.high
        change = f"{100 * row.change.value:+.1f} [{low:+.1f}, {high:+.1f}]"
    tokens = "" if row.tokens is None else f"{row.tokens:.0f}"
    return str(row.accuracy), change, f"{row.calls:.2f}", tokens, str(row.num_altered)
