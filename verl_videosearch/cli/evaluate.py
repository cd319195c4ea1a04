"""The verbs that ask a model: `eval` judges a benchmark, `probe` asks whether the search of a
finished run mattered.

    videosearch eval --benchmark genai --root GenAI-Bench --endpoint http://localhost:8000/v1
    --model NAME --out runs/a
    videosearch eval --benchmark genai --root GenAI-Bench --benchmark mj --root MJ-Bench-Video
    --serve CHECKPOINT --against train.parquet --out runs/b
    videosearch probe runs/a --video-root GenAI-Bench --endpoint http://localhost:8000/v1 --out
    runs/a-probe

The one idea: both are killed and started again at will; the same command goes on where it was.
Everything is done by `evaluation.evaluate`; here options become its arguments. Exit status:
`runs.jobs.ExitStatus`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verl_videosearch.cli.console import explain_errors, read_assignments, say
from verl_videosearch.models.option_groups import Recipe, RunOptions, Set, VideoRoot, takes_group
from verl_videosearch.models.options import AcceptOtherSettings, PriceIn, PriceOut, takes_source
from verl_videosearch.models.source import ModelSource
from verl_videosearch.runs.jobs import RunLimits, RunSummary

if TYPE_CHECKING:
    from verl_videosearch.cli.benchmarks import Benchmark, Place
    from verl_videosearch.episode import EpisodeConfig
    from verl_videosearch.evaluation.evaluate import Evaluation, PlayOptions
    from verl_videosearch.evaluation.results import RunSettings

AS_IN_RUN = "as in the run"
"""Stands for the model of a probed run."""

Out = Annotated[Path, typer.Option(help="Folder of the run; the same command goes on with it.")]


@takes_source()
@takes_group(RunOptions)
def run_eval(
    benchmarks: Annotated[
        list[str],
        typer.Option(
            "--benchmark",
            help="Short name of a public set, such as genai, or a PATH.parquet; repeatable.",
        ),
    ],
    out: Out,
    source: ModelSource,
    root: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of the label file; for several benchmarks once, or for each."),
    ] = None,
    video_root: Annotated[
        list[Path] | None, typer.Option(help="Folder of the videos, likewise; default: --root.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Another split, such as test_v1, likewise.")
    ] = None,
    order: Annotated[str, typer.Option(help="both, AB (as in the file) or BA (swapped).")] = "both",
    recipe: Recipe = None,
    set_: Set = None,
    single_turn: Annotated[
        int | None, typer.Option(min=2, help="No tool: this many frames at once, half each.")
    ] = None,
    accept_other_settings: AcceptOtherSettings = False,
    redundant: Annotated[
        bool, typer.Option("--redundant", help="Double every candidate frame.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Judge this many pairs, drawn by --seed.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of --limit, and of sampling.")] = 0,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="PATH.parquet of training pairs that none may be of; repeatable."),
    ] = None,
    against_root: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of their videos, once or for each; default: that of the file."),
    ] = None,
    by_path: Annotated[
        bool, typer.Option("--by-path", help="--against compares video names instead of bytes.")
    ] = False,
    allow_trained: Annotated[
        bool, typer.Option("--allow-trained", help="Judge pairs that --against holds all the same.")
    ] = False,
    model_dir: Annotated[
        Path | None, typer.Option(help="For the model's hash; default: --serve, --local.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="File of `videosearch calibrate`.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out pairs without videos.")
    ] = False,
    price_in: PriceIn = None,
    price_out: PriceOut = None,
    *,
    playing: RunOptions,
) -> None:
    """Judge benchmarks with a model: greedy, both orders, resumable."""
    from verl_videosearch.cli.benchmarks import list_places, name_benchmarks
    from verl_videosearch.evaluation.calibration import read_calibration
    from verl_videosearch.evaluation.evaluate import evaluate
    from verl_videosearch.models.source import KeptServers
    from verl_videosearch.runs.estimate import Announcement, read_prices

    runs = {}
    with explain_errors(), KeptServers() as kept:
        places = list_places(benchmarks, root or (), video_root or (), split or ())
        choice = _Choice(
            limit, seed, allow_missing, against or (), against_root or (), by_path, allow_trained
        )
        loaded = [choice.load(place) for place in places]
        names = name_benchmarks(loaded)
        folder = model_dir or source.folder
        config = read_episode_config(set_ or [], single_turn, recipe, folder)
        fitted = read_calibration(calibration) if calibration else None
        for name, place, benchmark in zip(names, places, loaded, strict=True):
            if len(names) > 1:
                say(f"{name}:")
            runs[name] = evaluate(
                benchmark.samples,
                replace(source, kept=kept),
                out if len(names) == 1 else out / name,
                config=config,
                orders=read_orders(order),
                name=benchmark.name,
                split=benchmark.split,
                num_missing=benchmark.num_missing,
                is_redundant=redundant,
                model_dir=model_dir,
                calibration=fitted,
                accepts_other_settings=accept_other_settings,
                options=replace(
                    make_play_options(playing, place.videos),
                    announcement=Announcement(say, read_prices(price_in, price_out)),
                ),
            )
            _tell(runs[name], playing.max_failed_share)
            if runs[name].run.stopped is not None:
                break  # the next benchmark would ask the same server
    _conclude(out, names, runs)


def make_play_options(playing: RunOptions, video_root: Path | None) -> PlayOptions:
    """Return the options of a run as `evaluation.evaluate` takes them."""
    from verl_videosearch.evaluation.evaluate import PlayOptions

    limits = RunLimits(playing.concurrency, forgets_failures=playing.forget_failures)
    return PlayOptions(
        video_root, playing.store, playing.episode_timeout_s, limits, playing.max_failed_share
    )


@dataclass(frozen=True)
class _Choice:
    """Which pairs of a benchmark are judged."""

    limit: int | None
    seed: int
    allows_missing: bool
    trained: Sequence[Path]
    trained_roots: Sequence[Path]
    by_path: bool
    allows_trained: bool

    def load(self, place: Place) -> Benchmark:
        """Read them; raises `ValueError` for pairs that a model was trained on."""
        from verl_videosearch.cli.benchmarks import draw_samples, find_trained, load_benchmark

        loaded = load_benchmark(
            place.name,
            place.root or place.video_root,
            place.videos,
            split=place.split,
            allows_missing=self.allows_missing,
        )
        samples, split = draw_samples(loaded.samples, self.limit, self.seed), loaded.split
        if len(samples) < len(loaded.samples):
            split = f"{split}, drawn by seed {self.seed}"
        found = self.trained and find_trained(
            samples, place.videos, self.trained, self.trained_roots, self.by_path
        )
        if found and not self.allows_trained:
            raise ValueError(
                f"{place.name}: {found}. Figures over them say little: train on pairs without them "
                "(videosearch data split --against), or judge them all the same with "
                "--allow-trained"
            )
        if found:
            say(f"{place.name}: {found}")
            split = f"{split}; {found}"
        return replace(loaded, samples=samples, split=split)


def _tell(found: Evaluation, max_failed_share: float) -> None:
    """Say what one run has found."""
    if found.num_relabelled:
        say(
            f"{found.num_relabelled} pairs have other labels than when they were judged: scored "
            "with those of now"
        )
    if found.summary is not None:
        overall = found.summary.overall
        page = found.folder / "index.html"
        say(f"with ties {overall.with_ties}, without ties {overall.without_ties}: {page}")
        say(f"what it looked at and said: {found.folder / 'episodes.html'}")
    for line in found.run.lines(max_failed_share):
        say(line)


def _conclude(out: Path, names: Sequence[str], runs: Mapping[str, Evaluation]) -> None:
    """Write the table of several runs, and exit with the status of all."""
    from verl_videosearch.evaluation.several import join_statuses, write_overview

    if len(names) > 1:
        typer.echo(write_overview(out, runs).to_markdown())
        say(f"all benchmarks: {out / 'index.html'}")
    if left := names[len(runs) :]:
        say(f"not begun: {', '.join(left)}")
    if status := join_statuses(run.status for run in runs.values()):
        raise typer.Exit(int(status))


@takes_source(model=AS_IN_RUN)
@takes_group(RunOptions)
def run_probe(
    run: Annotated[
        Path, typer.Argument(help="Folder of a finished `videosearch eval`, or a file of episodes.")
    ],
    out: Out,
    source: ModelSource,
    video_root: VideoRoot = None,
    max_turn_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of one reply; default: as in the run.")
    ] = None,
    replacement: Annotated[
        list[str] | None,
        typer.Option(
            help="same; refused, in_view (need); random, blank, other_video, reversed (trust); "
            "first_blank, first_swapped, other_prompt (reading); repeatable; default: all."
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Alter the judge's memory of its own words instead: as_written, emptied, "
            "opposite, "
            "no_text, separated by commas, or all."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Probe this many of the episodes, drawn by --seed.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of --limit.")] = 0,
    *,
    playing: RunOptions,
) -> None:
    """Replay finished episodes with other frames than the judge asked for, or with other words of
    its own: did its search matter, and its memory?"""
    from verl_videosearch.evaluation.results import read_run

    with explain_errors():
        if memory is not None and (replacement or limit):
            raise ValueError("--memory judges all pairs again: leave out --replacement and --limit")
        source = _ask_as_before(source, read_run(run).settings, max_turn_tokens)
        options = make_play_options(playing, video_root)
        if memory is None:
            played = _probe_frames(run, source, out, replacement, (limit, seed), options)
        else:
            played = _probe_memory(run, source, out, memory, options)
    finish(played, playing.max_failed_share)


def _ask_as_before(
    source: ModelSource, settings: RunSettings, max_turn_tokens: int | None
) -> ModelSource:
    """Return the model of a run, asked as the run asked it; raises `ValueError` for another limit
    of tokens, which would change replies by itself."""
    if source.model == AS_IN_RUN:
        source = replace(source, model=settings.model)
    if max_turn_tokens is None:
        return source
    if settings.max_turn_tokens not in (None, max_turn_tokens):
        raise ValueError(
            f"--max-turn-tokens {max_turn_tokens} is not what the run had, "
            f"{settings.max_turn_tokens}: replies would change by that alone; leave it out"
        )
    return replace(source, max_turn_tokens=max_turn_tokens)


def _probe_frames(
    run: Path,
    source: ModelSource,
    out: Path,
    names: list[str] | None,
    drawn: tuple[int | None, int],
    options: Any,
) -> RunSummary:
    from verl_videosearch.evaluation.evaluate import probe
    from verl_videosearch.video.altered_frames import Replacement

    chosen = read_choices(names or [each.value for each in Replacement], Replacement)
    limit, seed = drawn
    found = probe(run, source, out, replacements=chosen, limit=limit, seed=seed, options=options)
    if found.summary is not None:
        searched = f"{found.summary.searched} of the episodes searched: {out / 'index.html'}"
        say(found.summary.note or searched)
        say(f"what it looked at and said: {out / 'episodes.html'}")
    return found.run


def _probe_memory(
    run: Path, source: ModelSource, out: Path, names: str, options: Any
) -> RunSummary:
    from verl_videosearch.evaluation.evaluate import probe_memory
    from verl_videosearch.evaluation.memory_controls import ALL, MemoryControl

    wanted = [name.strip() for name in names.split(",")]
    if wanted == ["all"]:
        wanted = [each.value for each in MemoryControl]
    controls = read_choices(wanted, MemoryControl)
    found = probe_memory(run, source, out, controls=controls, options=options)
    if found.summary is not None:
        rows = found.summary.rows
        right = ", ".join(f"{name} {each[ALL].accuracy}" for name, each in rows.items() if each)
        say(f"right, by memory: {right}: {out / 'index.html'}")
        say(f"what it looked at and said: {out / 'episodes.html'}")
    return found.run


def finish(run: RunSummary, max_failed_share: float) -> None:
    """Say what was done and what is left, and exit with the run's status."""
    for line in run.lines(max_failed_share):
        say(line)
    if status := run.status(max_failed_share):
        raise typer.Exit(int(status))


def read_episode_config(
    assignments: Sequence[str],
    single_turn: int | None,
    recipe: str | None,
    checkpoint: Path | None = None,
) -> EpisodeConfig:
    """Build the episode's settings: the recipe's, else the checkpoint's own; `single_turn` frames
    in all mean half of them per video and no call."""
    from verl_videosearch.recipe import find_settings, make_episode

    given = read_assignments(assignments)
    changes = dict(given)
    if single_turn is not None:
        if clash := sorted({"initial_frames_per_video", "max_tool_calls"} & set(given)):
            raise ValueError(f"--single-turn sets {clash} itself; leave them out of --set")
        if single_turn % 2:
            raise ValueError(
                f"--single-turn shows half of its frames per video; got {single_turn}, give an "
                "even "
                "number"
            )
        changes |= {"initial_frames_per_video": single_turn // 2, "max_tool_calls": 0}
    return make_episode(find_settings(recipe, checkpoint), changes, checkpoint)


def read_orders(order: str) -> Any:
    """Read --order."""
    from verl_videosearch.sample import Order

    return tuple(Order) if order == "both" else tuple(read_choices([order], Order))


def read_choices(names: Sequence[str], kind: Any) -> list[Any]:
    """Read values of an enum, each once; raises `ValueError` that lists the allowed ones."""
    allowed = [each.value for each in kind]
    if wrong := [name for name in names if name not in allowed]:
        raise ValueError(f"got {wrong}; choose among {allowed}")
    return [kind(name) for name in dict.fromkeys(names)]
