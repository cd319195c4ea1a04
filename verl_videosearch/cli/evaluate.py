"""The verbs that ask a model: `eval` judges a benchmark, `probe` asks whether the search of a
finished run mattered.

    videosearch eval --benchmark genai --root GenAI-Bench --endpoint http://localhost:8000/v1
    --model NAME --out runs/a
    videosearch probe runs/a --video-root GenAI-Bench --endpoint http://localhost:8000/v1 --out
    runs/a-probe

The one idea: both are killed and started again at will; the same command goes on where it was.
Everything is done by `evaluation.evaluate`; here options become its arguments. Exit status:
`runs.jobs.ExitStatus`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from verl_videosearch.cli.console import explain_errors, read_assignments, say
from verl_videosearch.models.options import takes_source
from verl_videosearch.models.source import ModelSource
from verl_videosearch.runs.jobs import MAX_FAILED_SHARE, RunLimits, RunSummary

AS_IN_RUN = "as in the run"
"""Stands for the model of a probed run."""

Out = Annotated[Path, typer.Option(help="Folder of the run; the same command goes on with it.")]
VideoRoot = Annotated[
    Path | None, typer.Option(help="Folder of the videos; default of eval: --root.")
]
Store = Annotated[Path | None, typer.Option(help="Frame store; default: $VIDEOSEARCH_FRAME_STORE.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Episodes in flight, per server.")]
EpisodeTimeout = Annotated[
    float, typer.Option(help="Most seconds of one episode; then it is tried again.")
]
MaxFailedShare = Annotated[
    float,
    typer.Option(min=0, max=1, help="Pairs that may fail for good, as a share; more: status 3."),
]
ForgetFailures = Annotated[
    bool, typer.Option("--forget-failures", help="Play what has failed for good again.")
]


@takes_source()
def run_eval(
    benchmarks: Annotated[
        list[str],
        typer.Option(
            "--benchmark", help="Short name of a public set, such as genai, or a PATH.parquet."
        ),
    ],
    out: Out,
    source: ModelSource,
    root: Annotated[Path | None, typer.Option(help="Folder of the label file.")] = None,
    video_root: VideoRoot = None,
    split: Annotated[
        str | None, typer.Option(help="Another split of the benchmark, such as test_v1.")
    ] = None,
    order: Annotated[str, typer.Option(help="both, AB (as in the file) or BA (swapped).")] = "both",
    recipe: Annotated[
        str | None, typer.Option(help="Take the episode settings of this recipe.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Episode setting as name=value; repeatable.")
    ] = None,
    single_turn: Annotated[
        int | None, typer.Option(min=2, help="No tool: this many frames at once, half each.")
    ] = None,
    redundant: Annotated[
        bool, typer.Option("--redundant", help="Double every candidate frame.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Judge this many pairs, drawn by --seed.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of --limit, and of sampling.")] = 0,
    model_dir: Annotated[
        Path | None, typer.Option(help="For the model's hash; default: --serve, --local.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="File of `videosearch calibrate`.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out pairs without videos.")
    ] = False,
    concurrency: Concurrency = 8,
    episode_timeout_s: EpisodeTimeout = 900.0,
    max_failed_share: MaxFailedShare = MAX_FAILED_SHARE,
    forget_failures: ForgetFailures = False,
    store: Store = None,
) -> None:
    """Judge a benchmark with a served model: greedy, both orders, resumable."""
    from verl_videosearch.cli.benchmarks import draw_samples, load_benchmark
    from verl_videosearch.evaluation.calibration import read_calibration
    from verl_videosearch.evaluation.evaluate import PlayOptions, evaluate

    with explain_errors():
        benchmark = read_one_benchmark(benchmarks)
        videos = video_root or root or _find_folder(benchmark)
        loaded = load_benchmark(
            benchmark, root or video_root, videos, split=split, allows_missing=allow_missing
        )
        samples = draw_samples(loaded.samples, limit, seed)
        is_drawn = len(samples) < len(loaded.samples)
        found = evaluate(
            samples,
            source,
            out,
            config=read_episode_config(set_ or [], single_turn, recipe),
            orders=read_orders(order),
            name=loaded.name,
            split=f"{loaded.split}, drawn by seed {seed}" if is_drawn else loaded.split,
            num_missing=loaded.num_missing,
            is_redundant=redundant,
            model_dir=model_dir,
            calibration=read_calibration(calibration) if calibration else None,
            options=PlayOptions(
                videos,
                store,
                episode_timeout_s,
                RunLimits(concurrency, forgets_failures=forget_failures),
                max_failed_share,
            ),
        )
    if found.summary is not None:
        overall = found.summary.overall
        page = out / "index.html"
        say(f"with ties {overall.with_ties}, without ties {overall.without_ties}: {page}")
    finish(found.run, max_failed_share)


@takes_source(model=AS_IN_RUN)
def run_probe(
    run: Annotated[
        Path, typer.Argument(help="Folder of a finished `videosearch eval`, or a file of episodes.")
    ],
    out: Out,
    source: ModelSource,
    video_root: VideoRoot = None,
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
            help="Alter the judge's memory of its own words instead: as_written, emptied, opposite, "
            "no_text, separated by commas, or all."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Probe this many of the episodes that searched.")
    ] = None,
    concurrency: Concurrency = 8,
    episode_timeout_s: EpisodeTimeout = 900.0,
    max_failed_share: MaxFailedShare = MAX_FAILED_SHARE,
    forget_failures: ForgetFailures = False,
    store: Store = None,
) -> None:
    """Replay finished episodes with other frames than the judge asked for, or with other words of
    its own: did its search matter, and its memory?"""
    from verl_videosearch.evaluation.evaluate import PlayOptions
    from verl_videosearch.evaluation.results import read_run

    with explain_errors():
        if memory is not None and (replacement or limit):
            raise ValueError("--memory judges all pairs again: leave out --replacement and --limit")
        if source.model == AS_IN_RUN:
            source = replace(source, model=read_run(run).settings.model)
        limits = RunLimits(concurrency, forgets_failures=forget_failures)
        options = PlayOptions(video_root, store, episode_timeout_s, limits, max_failed_share)
        if memory is None:
            played = _probe_frames(run, source, out, replacement, limit, options)
        else:
            played = _probe_memory(run, source, out, memory, options)
    finish(played, max_failed_share)


def _probe_frames(
    run: Path,
    source: ModelSource,
    out: Path,
    names: list[str] | None,
    limit: int | None,
    options: Any,
) -> RunSummary:
    from verl_videosearch.evaluation.evaluate import probe
    from verl_videosearch.video.altered_frames import Replacement

    chosen = read_choices(names or [each.value for each in Replacement], Replacement)
    found = probe(run, source, out, replacements=chosen, limit=limit, options=options)
    if found.summary is not None:
        searched = f"{found.summary.searched} of the episodes searched: {out / 'index.html'}"
        say(found.summary.note or searched)
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
    return found.run


def finish(run: RunSummary, max_failed_share: float) -> None:
    """Say what was done and what is left, and exit with the run's status."""
    for line in run.lines(max_failed_share):
        say(line)
    if status := run.status(max_failed_share):
        raise typer.Exit(int(status))


def read_episode_config(
    assignments: Sequence[str], single_turn: int | None, recipe: str | None
) -> Any:
    """Build the episode's settings; `single_turn` frames in all mean half of them per video and no
    call."""
    from verl_videosearch.episode import EpisodeConfig
    from verl_videosearch.recipe import read_episode_settings

    given = read_assignments(assignments)
    settings, changes = {} if recipe is None else read_episode_settings(recipe), dict(given)
    if single_turn is not None:
        if clash := sorted({"initial_frames_per_video", "max_tool_calls"} & set(given)):
            raise ValueError(f"--single-turn sets {clash} itself; leave them out of --set")
        if single_turn % 2:
            raise ValueError(
                f"--single-turn shows half of its frames per video; got {single_turn}, give an even "
                "number"
            )
        changes |= {"initial_frames_per_video": single_turn // 2, "max_tool_calls": 0}
    config = EpisodeConfig.from_changes(settings, changes)
    config.check_words()
    return config


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


def read_one_benchmark(names: Sequence[str]) -> str:
    """Return the one benchmark of a run; raises `ValueError` for several: each has its own folders
    and its own run."""
    if len(names) > 1:
        raise ValueError(
            f"got the benchmarks {', '.join(names)}; a run has one: repeat the command for each, "
            "with its own --root and --out"
        )
    return names[0]


def _find_folder(benchmark: str) -> Path | None:
    """Return where the videos of a file of samples lie unless something else is said."""
    return Path(benchmark).parent if benchmark.endswith(".parquet") else None
