"""Tables of a probed run: did the verdicts depend on the frames that the judge asked for?"""

from __future__ import annotations

from collections.abc import Mapping

from verl_videosearch.evaluation.pages.tables import to_bar
from verl_videosearch.evaluation.probes import ProbeFigures, ProbeSummary
from verl_videosearch.metrics import Rate
from verl_videosearch.report.chart import draw_intervals
from verl_videosearch.report.page import Block, Note, Plot
from verl_videosearch.report.table import Table


def describe_probes(summary: ProbeSummary) -> list[Block]:
    """Return the blocks of a probed run."""
    blocks: list[Block] = [Note(summary.note)] if summary.note else []
    blocks.append(
        Table("Search", ("figure", "value"), [("episodes that searched", str(summary.searched))])
    )
    rows = [
        (name, str(each.changed), str(each.lost), str(each.won), str(each.needed_search))
        for name, each in summary.figures.items()
    ]
    columns = (
        "frames handed over",
        "verdict changed",
        "right became wrong",
        "wrong became right",
        "right ones that needed it",
    )
    blocks.append(Table("Verdicts with replaced frames", columns, rows, _PROBE_CAPTION))
    bars = [to_bar(name, each.needed_search) for name, each in summary.figures.items()]
    blocks.append(
        Plot(
            "Right verdicts that needed the search",
            draw_intervals(bars, "share of all right verdicts"),
        )
    )
    if summary.searched.correct:
        blocks += [_direction_table(summary.figures), _confidence_table(summary.figures)]
    cited = summary.citations
    citation_rows = [
        ("cited frames that were never shown", str(cited.never_shown)),
        ("frames described in a snapshot before they were shown", str(cited.snapshot_unseen)),
        ("episodes with a citation of a frame that was never shown", str(cited.episodes)),
    ]
    return [*blocks, Table("Frames in the text", ("figure", "value"), citation_rows)]


_PROBE_CAPTION = (
    "Each episode that searched is replayed up to its first answered call; from there on every call gets the replaced "
    "frames. `same` is the noise of the server. The last column is over all right verdicts, with or without a search."
)


def _direction_table(figures: Mapping[str, ProbeFigures]) -> Table:
    directions = list(next(iter(figures.values())).directions)
    rows = [
        (name, *(str(each.directions[d]) for d in directions)) for name, each in figures.items()
    ]
    return Table("Where changed verdicts went", ("frames handed over", *directions), rows)


def _confidence_table(figures: Mapping[str, ProbeFigures]) -> Table:
    levels = sorted({level for each in figures.values() for level in each.by_confidence})
    rows = [
        (n, *(str(each.by_confidence.get(lv, Rate(0, 0))) for lv in levels))
        for n, each in figures.items()
    ]
    caption = "Confidence as stated: 1 high, 2 medium, 3 low."
    return Table("Changed verdicts by confidence", ("frames handed over", *levels), rows, caption)
