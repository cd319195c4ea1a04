"""`videosearch report`: one page of played episodes, to look at.

videosearch report runs/genai -o report.html
videosearch report rollouts/*.jsonl --video-root ~/data/MJ --limit 500 -o rollouts.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from verl_videosearch.cli.console import check_page, explain_errors, say
from verl_videosearch.models.option_groups import Store, VideoRoot


def run_report(
    files: Annotated[
        list[Path],
        typer.Argument(help="Runs (folders) and files of episodes (*.jsonl), of any program."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Page to write.")] = Path("report.html"),
    video_root: VideoRoot = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Show at most this many episodes, drawn by --seed.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of --limit.")] = 0,
    title: Annotated[str | None, typer.Option(help="Heading; default: the names.")] = None,
    store: Store = None,
) -> None:
    """Write one page that shows episodes: frames, words and verdicts, turn by turn."""
    from verl_videosearch.report.episode_page import read_sources, write_episode_page
    from verl_videosearch.video.store import FrameStore

    with explain_errors():
        check_page(out, files)
        sources, damaged = read_sources(files)
        if not any(source.records for source in sources):
            raise ValueError("there is no episode in " + ", ".join(map(str, files)))
        written = write_episode_page(
            sources,
            out,
            title=title or ", ".join(source.name for source in sources),
            store=FrameStore(store),
            video_root=video_root,
            limit=limit,
            seed=seed,
        )
        if damaged:
            say(f"damaged lines: {len(damaged)}, for example {damaged[0]}")
        say(f"wrote {written.describe()}")
