"""The verbs that ask a model: `eval` judges a benchmark, `probe` asks whether the search of a
finished run mattered.

    videosearch eval --benchmark genai --root GenAI-Bench --endpoint http://localhost:8000/v1
    --model NAME --out runs/a videosearch probe runs/a --video-root GenAI-Bench --endpoint
    http://localhost:8000/v1 --out runs/a-probe

The one idea: both are killed and started again at will; the same command goes on where it was."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verl_videosearch.cli.console import (
    INCOMPLETE,
    explain_errors,
    make_progress,
    read_assignments,
    say,
)

if TYPE_CHECKING:
    from verl_videosearch.evaluation.old_jobs import Job, Journal, RunLimits, RunState
    from verl_videosearch.models.source import ModelSource, OpenModel
    from verl_videosearch.runs.folder import Line
    from verl_videosearch.sample import Order, PreferenceSample

Endpoint = Annotated[
    list[str] | None,
    typer.Option(help="OpenAI-compatible server, such as http://localhost:8000/v1; repeatable."),
]
Serve = Annotated[
    Path | None, typer.Option(help="Checkpoint: start a vLLM server for it, and stop it.")
]
Local = Annotated[
    Path | None, typer.Option(help="Small checkpoint: load it into this process, no server.")
]
ServeOption = Annotated[
    list[str] | None, typer.Option(help="Option of vllm serve: --max-model-len=4096; repeatable.")
]
Out = Annotated[Path, typer.Option(help="Folder of the run; the same command goes on with it.")]
VideoRoot = Annotated[
    Path | None, typer.Option(help="Folder of the videos; default of eval: --root.")
]
Store = Annotated[Path | None, typer.Option(help="Frame store; default: $VIDEOSEARCH_FRAME_STORE.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Episodes in flight.")]
EpisodeTimeout = Annotated[
    float, typer.Option(help="Most seconds of one episode; then it has failed.")
]
RequestTimeout = Annotated[
    float, typer.Option(help="Most seconds of one request; it is repeated after that.")
]


def run_eval(
    benchmark: Annotated[
        str, typer.Option(help="videogen, genai, mj, or a PATH.parquet of samples.")
    ],
    model: Annotated[str, typer.Option(help="Name under which the server knows the model.")],
    out: Out,
    endpoint: Endpoint = None,
    serve: Serve = None,
    local: Local = None,
    serve_option: ServeOption = None,
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
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy, the protocol.")] = 0.0,
    model_dir: Annotated[
        Path | None, typer.Option(help="For the model's hash; default: --serve, --local.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="File of `videosearch calibrate`.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out pairs without videos.")
    ] = False,
    max_turn_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of one reply.")] = 1024,
    concurrency: Concurrency = 8,
    episode_timeout_s: EpisodeTimeout = 900.0,
    request_timeout_s: RequestTimeout = 120.0,
    store: Store = None,
) -> None:
    """Judge a benchmark with a served model: greedy, both orders, resumable."""
    from verl_videosearch.cli.benchmarks import draw_samples, load_benchmark
    from verl_videosearch.evaluation.calibration import read_calibration
    from verl_videosearch.evaluation.old_jobs import Job, RunLimits, Stage, play_episode
    from verl_videosearch.evaluation.old_jobs import OldRunFolder as RunFolder
    from verl_videosearch.evaluation.results import RunSettings, write_results
    from verl_videosearch.models.source import ModelSource
    from verl_videosearch.runs.identity import (
        UNKNOWN_MODEL,
        hash_model,
        hash_pair,
        hash_pairs,
        read_commit,
    )
    from verl_videosearch.runs.play import derive_seed
    from verl_videosearch.video.store import FrameStore

    with explain_errors():
        source = ModelSource(
            endpoints=tuple(endpoint or ()),
            serve=serve,
            local=local,
            model=model,
            serve_options=tuple(serve_option or ()),
            temperature=temperature,
            max_turn_tokens=max_turn_tokens,
            timeout_s=request_timeout_s,
            seed=seed,
        )
        model_dir = model_dir or source.folder
        videos = (
            video_root
            or root
            or (Path(benchmark).parent if benchmark.endswith(".parquet") else None)
        )
        loaded = load_benchmark(
            benchmark, root or video_root, videos, split=split, allows_missing=allow_missing
        )
        samples = draw_samples(loaded.samples, limit, seed)
        model_hash = hash_model(model_dir) if model_dir else UNKNOWN_MODEL
        fitted = read_calibration(calibration) if calibration else None
        if fitted is not None:
            fitted.check_use([hash_pair(sample) for sample in samples], model_hash)
        settings = RunSettings(
            benchmark=loaded.name,
            split=loaded.split
            if len(samples) == len(loaded.samples)
            else f"{loaded.split}, drawn by seed {seed}",
            pairs_hash=hash_pairs(samples),
            num_pairs=len(samples),
            orders=read_orders(order),
            model=model,
            model_hash=model_hash,
            max_turn_tokens=max_turn_tokens,
            episode=read_episode_config(set_ or [], single_turn, recipe),
            is_redundant=redundant,
            num_missing=loaded.num_missing,
            temperature=temperature,
            seed=seed if temperature else 0,
        )
        stage = Stage(
            FrameStore(store), settings.episode, videos, episode_timeout_s, redundant, read_commit()
        )
        jobs = [Job(f"{s.uid} {o.value}", (s, o)) for s in samples for o in settings.orders]

        async def play(content: tuple[PreferenceSample, Order], writer: OpenModel) -> Line:
            sample, side = content
            own_seed = derive_seed(seed, f"{sample.uid} {side.value}") if temperature else None
            generate = writer.for_episode(f"{sample.uid} {side.value}", own_seed)
            return await play_episode(sample, side, stage, generate)

        folder = RunFolder(out)
        with folder.claim(settings.to_json(), samples) as journal:
            state = run_all(jobs, play, journal, RunLimits(concurrency), source, out, "episodes")
            summary = write_results(
                folder, settings, samples, state, concurrency=concurrency, calibration=fitted
            )
    say(
        f"with ties {summary.overall.with_ties}, without ties {summary.overall.without_ties}: {out / 'index.html'}"
    )
    finish(state)


def run_probe(
    run: Annotated[Path, typer.Argument(help="Folder of a finished `videosearch eval`.")],
    out: Out,
    endpoint: Endpoint = None,
    serve: Serve = None,
    local: Local = None,
    serve_option: ServeOption = None,
    model: Annotated[
        str | None, typer.Option(help="Name of the same model; default: as in the run.")
    ] = None,
    video_root: VideoRoot = None,
    replacement: Annotated[
        list[str] | None,
        typer.Option(
            help="same, random, blank, other_video or reversed; repeatable; default: all."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Probe this many of the episodes that searched.")
    ] = None,
    concurrency: Concurrency = 8,
    episode_timeout_s: EpisodeTimeout = 900.0,
    request_timeout_s: RequestTimeout = 120.0,
    store: Store = None,
) -> None:
    """Replay finished episodes with other frames than the judge asked for: did its search
    matter?"""
    from verl_videosearch.evaluation.old_jobs import Job, RunLimits, Stage
    from verl_videosearch.evaluation.old_jobs import OldRunFolder as RunFolder
    from verl_videosearch.evaluation.probes import play_probe
    from verl_videosearch.evaluation.results import RunSettings, hash_lines, write_probe_results
    from verl_videosearch.evaluation.summary import has_searched
    from verl_videosearch.models.source import ModelSource
    from verl_videosearch.runs.identity import read_commit
    from verl_videosearch.video.altered_frames import Replacement
    from verl_videosearch.video.store import FrameStore

    with explain_errors():
        source = ModelSource(
            endpoints=tuple(endpoint or ()),
            serve=serve,
            local=local,
            model=model or "as in the run",
            serve_options=tuple(serve_option or ()),
            timeout_s=request_timeout_s,
        )
        probed_run = RunFolder(run)
        settings, lines = RunSettings.from_json(probed_run.read_settings()), probed_run.read_lines()
        if settings.temperature:
            raise ValueError(
                f"{run} was sampled at temperature {settings.temperature:g}; probe a greedy run"
            )
        by_uid = {sample.uid: sample for sample in probed_run.read_samples()}
        chosen = read_choices(replacement or [each.value for each in Replacement], Replacement)
        searched = [line for line in lines if has_searched(line)][:limit]
        lines = [line for line in lines if not has_searched(line)] + searched
        stage = Stage(
            FrameStore(store),
            settings.episode,
            video_root,
            episode_timeout_s,
            settings.is_redundant,
            read_commit(),
        )
        jobs = [
            Job(
                f"{line['sample_uid']} {line['order']} {each.value}",
                (by_uid[line["sample_uid"]], line, each),
            )
            for line in searched
            for each in chosen
        ]
        probed = {
            "episodes": hash_lines(probed_run),
            "limit": limit,
            "replacements": [each.value for each in chosen],
        }
        model = model or settings.model
        source = replace(source, model=model, max_turn_tokens=settings.max_turn_tokens)

        async def play(content: Any, writer: OpenModel) -> Line:
            sample, line, _ = content
            generate = writer.for_episode(f"{sample.uid} {line['order']}")
            return await play_probe(*content, stage, generate)

        folder = RunFolder(out)
        with folder.claim(probed | {"model": model}, list(by_uid.values())) as journal:
            state = run_all(jobs, play, journal, RunLimits(concurrency), source, out, "replays")
            summary = write_probe_results(
                folder, settings, list(by_uid.values()), lines, state, chosen
            )
    say(summary.note or f"{summary.searched} of the episodes searched: {out / 'index.html'}")
    finish(state)


def run_all(
    jobs: Sequence[Job],
    play: Callable[[Any, OpenModel], Awaitable[Line]],
    journal: Journal,
    limits: RunLimits,
    source: ModelSource,
    out: Path,
    what: str,
) -> RunState:
    """Do all jobs on one event loop with a progress bar; a server that is gone ends it with
    advice."""
    from verl_videosearch.evaluation.old_jobs import ServerGone, read_state, run_jobs
    from verl_videosearch.models.server import SERVER_LOG

    done = read_state(journal.lines)
    if all(job.key in done.rows for job in jobs):
        return done

    async def drive() -> RunState:
        async with source.open(out / SERVER_LOG) as writer:
            return await run_jobs(
                jobs,
                lambda content: play(content, writer),
                journal,
                limits,
                on_done=lambda: progress.advance(task),
            )

    with make_progress() as progress:
        task = progress.add_task(what, total=len(jobs), completed=len(done.rows))
        try:
            return asyncio.run(drive())
        except ServerGone as error:
            raise ValueError(
                f"{error}; nothing is lost: repeat the command when the server answers"
            ) from error


def finish(state: RunState) -> None:
    """Exit with status 1 if some episodes have failed."""
    if state.failures:
        kinds = ", ".join(f"{kind} {count}" for kind, count in state.count_failures().items())
        say(
            f"{len(state.failures)} episodes failed ({kinds}) and are in no figure; repeat the command to try again"
        )
        raise typer.Exit(INCOMPLETE)


def read_episode_config(
    assignments: Sequence[str], single_turn: int | None, recipe: str | None
) -> Any:
    """Build the episode's settings; `single_turn` frames in all mean half of them per video and no
    call."""
    from verl_videosearch.episode import EpisodeConfig
    from verl_videosearch.recipe import read_episode_settings

    values = ({} if recipe is None else read_episode_settings(recipe)) | (
        given := read_assignments(assignments)
    )
    if single_turn is not None:
        if clash := sorted({"initial_frames_per_video", "max_tool_calls"} & set(given)):
            raise ValueError(f"--single-turn sets {clash} itself; leave them out of --set")
        if single_turn % 2:
            raise ValueError(
                f"--single-turn shows half of its frames per video; got {single_turn}, give an even number"
            )
        values |= {"initial_frames_per_video": single_turn // 2, "max_tool_calls": 0}
    return EpisodeConfig.from_dict(values)


def read_orders(order: str) -> Any:
    from verl_videosearch.sample import Order

    return tuple(Order) if order == "both" else tuple(read_choices([order], Order))


def read_choices(names: Sequence[str], kind: Any) -> list[Any]:
    """Read values of an enum, each once; raises `ValueError` that lists the allowed ones."""
    allowed = [each.value for each in kind]
    if wrong := [name for name in names if name not in allowed]:
        raise ValueError(f"got {wrong}; choose among {allowed}")
    return [kind(name) for name in dict.fromkeys(names)]
