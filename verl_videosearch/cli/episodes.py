"""`videosearch episodes`: count and choose among played episodes.

videosearch episodes outputs/eval/episodes.jsonl --wrong --not-searched
videosearch episodes rollouts/*.jsonl --failure video --out broken.jsonl
videosearch episodes --schema
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from verl_videosearch.cli.console import check_out, explain_errors, say
from verl_videosearch.episode import Ending
from verl_videosearch.runs.record import RecordKind
from verl_videosearch.sample import Order

_OUTCOMES = [*(ending.value for ending in Ending), "failed"]


def run_episodes(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Files of episodes (*.jsonl), of any program.")
    ] = None,
    kind: Annotated[RecordKind | None, typer.Option(help="Keep those of one program.")] = None,
    outcome: Annotated[
        str | None, typer.Option(help=f"Keep one ending: {', '.join(_OUTCOMES)}.")
    ] = None,
    failure: Annotated[
        str | None, typer.Option(help="Keep one failure: its kind (video) or name.")
    ] = None,
    order: Annotated[Order | None, typer.Option(help="Keep one order of the videos.")] = None,
    searched: Annotated[
        bool | None, typer.Option("--searched/--not-searched", help="Keep by use of the tool.")
    ] = None,
    right: Annotated[
        bool | None, typer.Option("--right/--wrong", help="Keep by the overall verdict.")
    ] = None,
    uid: Annotated[str | None, typer.Option(help="Keep one sample.")] = None,
    altered: Annotated[
        str | None, typer.Option(help="Keep what a probe altered so, such as blank or emptied.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the kept lines to this file.")] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of a line instead.")
    ] = False,
) -> None:
    """Count played episodes by kind, order, outcome, failure, use of the tool and verdict."""
    from verl_videosearch.runs.folder import RunFolder
    from verl_videosearch.runs.record_file import read_records, write_record, write_schema
    from verl_videosearch.runs.record_filter import RecordFilter, count_records, write_counts

    with explain_errors():
        if schema:
            say(write_schema().rstrip())
            return
        if not files:
            raise ValueError("name at least one file of episodes, for example episodes.jsonl")
        if outcome is not None and outcome not in _OUTCOMES:
            raise ValueError(f"--outcome must be one of {', '.join(_OUTCOMES)}, got {outcome!r}")
        if out is not None:
            check_out(out, files)
        wanted = RecordFilter(kind, outcome, failure, order, searched, right, uid, altered)
        read = [read_records(path) for path in files]
        records = [record for file in read for record in file.records]
        kept = [record for record in records if wanted.keeps(record)]
        say(f"{len(kept)} of {len(records)} episodes ({wanted.describe()})")
        for line in write_counts(count_records(kept)):
            say(line)
        damaged = [problem for file in read for problem in file.damaged]
        if damaged:
            say(f"damaged lines    {len(damaged)}, for example {damaged[0]}")
        if out is not None:
            RunFolder(out.parent).write_text(out.name, "".join(map(write_record, kept)))
            say(f"wrote {out}")
