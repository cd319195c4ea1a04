"""Tables of a probed run: was the search needed, are frames trusted, is the prompt read?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from verl_videosearch.evaluation.pages.tables import to_bar
from verl_videosearch.evaluation.probes import ProbeFigures, ProbeSummary
from verl_videosearch.metrics import Rate
from verl_videosearch.report.chart import draw_intervals
from verl_videosearch.report.page import Block, Note, Plot
from verl_videosearch.report.table import Table
from verl_videosearch.video.altered_frames import NEED, READING, TRUST, Replacement

_NEED_CAPTION = (
    "Each episode that searched is replayed word for word up to its first answered call; from "
    "there on calls are refused (`refused`: no frames, answer now) or bring frames of the "
    "first view "
    "(`in_view`). Needed: right before and not right now, of all right verdicts, with or without a "
    "search; never more than can need it by what the data knows about first sight. `same` hands "
    "over the true frames: the noise of the server."
)
_TRUST_CAPTION = (
    "The same replay with false frames. What is lost here shows that the judge believes what comes "
    "back, not that it needed it."
)
_READING_CAPTION = (
    "The whole episode with another opening: a first view in grey, the two videos' first views "
    "exchanged, or another pair's prompt. A judge that looks and reads must change its mind."
)


def describe_probes(summary: ProbeSummary) -> list[Block]:
    """Return the blocks of a probed run."""
    blocks: list[Block] = [Note(summary.note)] if summary.note else []
    blocks.append(
        Table("Search", ("figure", "value"), [("episodes that searched", str(summary.searched))])
    )
    if need := _take(summary.figures, (Replacement.SAME, *NEED)):
        blocks += [_need_table(need), *_need_plot(need)]
    columns = ("altered", "verdict changed", "right became wrong", "wrong became right")
    for title, kinds, caption in (
        ("Trust in returned frames", TRUST, _TRUST_CAPTION),
        ("Reading and looking at first", READING, _READING_CAPTION),
    ):
        if figures := _take(summary.figures, kinds):
            rows = [(n, str(f.changed), str(f.lost), str(f.won)) for n, f in figures.items()]
            blocks.append(Table(title, columns, rows, caption))
    blocks += _type_table(summary.figures)
    if any(each.changed.total for each in summary.figures.values()):
        blocks += [_direction_table(summary.figures), _confidence_table(summary.figures)]
    cited = summary.citations
    citation_rows = [
        ("cited frames that were never shown", str(cited.never_shown)),
        ("frames described in a snapshot before they were shown", str(cited.snapshot_unseen)),
        ("episodes with a citation of a frame that was never shown", str(cited.episodes)),
    ]
    return [*blocks, Table("Frames in the text", ("figure", "value"), citation_rows)]


def _take(
    figures: Mapping[str, ProbeFigures], kinds: Sequence[Replacement]
) -> dict[str, ProbeFigures]:
    return {kind.value: figures[kind.value] for kind in kinds if kind.value in figures}


def _need_table(figures: Mapping[str, ProbeFigures]) -> Table:
    rows = []
    for name, each in figures.items():
        needed = "" if each.needed_search is None else str(each.needed_search)
        can = "not known" if each.can_need is None else str(each.can_need)
        rows.append((name, str(each.changed), str(each.lost), needed, can))
    columns = ("answer to the call", "verdict changed", "right became wrong", "needed the search")
    return Table("Did it need the search?", (*columns, "can need it"), rows, _NEED_CAPTION)


def _need_plot(figures: Mapping[str, ProbeFigures]) -> list[Block]:
    bars = [
        to_bar(name, each.needed_search)
        for name, each in figures.items()
        if each.needed_search is not None
    ]
    title = "Right verdicts that needed the search"
    return [Plot(title, draw_intervals(bars, "share of all right verdicts"))] if bars else []


def _type_table(figures: Mapping[str, ProbeFigures]) -> list[Block]:
    """Cross the alterations with the pair types, where pairs have types."""
    types = sorted({name for each in figures.values() for name in each.by_type})
    rows = [
        (name, *(str(each.by_type.get(t, Rate(0, 0))) for t in types))
        for name, each in figures.items()
    ]
    caption = "Right before and not right now, of all right verdicts of the pair type."
    title = "Right verdicts lost, by pair type"
    return [Table(title, ("altered", *types), rows, caption)] if types else []


def _direction_table(figures: Mapping[str, ProbeFigures]) -> Table:
    directions = list(next(iter(figures.values())).directions)
    rows = [
        (name, *(str(each.directions[d]) for d in directions)) for name, each in figures.items()
    ]
    return Table("Where changed verdicts went", ("altered", *directions), rows)


def _confidence_table(figures: Mapping[str, ProbeFigures]) -> Table:
    levels = sorted({level for each in figures.values() for level in each.by_confidence})
    rows = [
        (n, *(str(each.by_confidence.get(lv, Rate(0, 0))) for lv in levels))
        for n, each in figures.items()
    ]
    caption = "Confidence as stated: 1 high, 2 medium, 3 low."
    return Table("Changed verdicts by confidence", ("altered", *levels), rows, caption)
