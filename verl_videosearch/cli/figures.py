"""The verbs that need no model: `compare` runs and other judges, `baselines` of a label file,
`calibrate` from a run.

videosearch compare runs/ours runs/fast-8 published.csv --out runs/comparison
videosearch baselines --benchmark mj --root MJ-Bench-Video
videosearch calibrate runs/validation --out MODEL/videosearch_calibration.json
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verl_videosearch.cli.console import explain_errors, say

if TYPE_CHECKING:
    from verl_videosearch.evaluation.comparison import JudgePredictions
    from verl_videosearch.evaluation.results import Run


def run_compare(
    judges: Annotated[
        list[Path],
        typer.Argument(help="Folders of runs, and csv or jsonl files; the first is the reference."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page; default: print only.")
    ] = None,
    samples_file: Annotated[
        Path | None, typer.Option("--samples", help="PATH.parquet with the labels, without runs.")
    ] = None,
) -> None:
    """Put judges in one table: intervals, paired tests, baselines, costs."""
    from verl_videosearch.evaluation.comparison import compare, read_predictions
    from verl_videosearch.evaluation.pages.comparison_tables import describe_comparison
    from verl_videosearch.evaluation.pages.header import PROTOCOL
    from verl_videosearch.evaluation.results import read_run, write_pages
    from verl_videosearch.evaluation.summary import to_plain
    from verl_videosearch.judgement import OVERALL
    from verl_videosearch.report.page import render_markdown
    from verl_videosearch.runs.folder import RunFolder
    from verl_videosearch.runs.identity import hash_pairs
    from verl_videosearch.sample import read_samples

    with explain_errors():
        if missing := [str(path) for path in judges if not path.exists()]:
            raise ValueError(f"no such run or file: {', '.join(missing)}")
        runs = {path: read_run(path) for path in judges if path.is_dir()}
        check_same_pairs(list(runs.values()))
        if not runs and samples_file is None:
            raise ValueError(
                "no run among the judges, so there are no labels; give them with --samples PATH.parquet"
            )
        samples = read_samples(samples_file) if samples_file else next(iter(runs.values())).samples
        predictions = [
            predict_run(runs[path]) if path in runs else read_predictions(path) for path in judges
        ]
        check_names([each.name for each in predictions])
        comparison = compare(
            predictions, {sample.uid: sample.labels[OVERALL] for sample in samples}
        )
        blocks = describe_comparison(comparison)
        facts = [("protocol", PROTOCOL), ("pairs", f"{len(samples)} ({hash_pairs(samples)})")]
        facts += [(run.name, describe_run(run)) for run in runs.values()]
        if out is not None:
            folder = RunFolder(out)
            folder.write_json("results.json", to_plain(comparison))
            write_pages(folder, "Comparison of judges", blocks, facts)
    typer.echo(render_markdown("Comparison of judges", blocks, facts))


def run_baselines(
    benchmark: Annotated[
        str, typer.Option(help="videogen, genai, mj, or a PATH.parquet of samples.")
    ],
    root: Annotated[
        Path | None, typer.Option(help="Folder of the label file; no video is needed.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Another split of the benchmark, such as test_v1.")
    ] = None,
) -> None:
    """Say what judges reach on a benchmark that never look at a video."""
    from verl_videosearch.cli.benchmarks import load_benchmark
    from verl_videosearch.evaluation.pages.baseline_tables import count_labels, describe_label_file
    from verl_videosearch.report.page import render_markdown
    from verl_videosearch.runs.identity import hash_pairs

    with explain_errors():
        loaded = load_benchmark(benchmark, root, split=split, needs_videos=False)
        facts = [
            ("pairs", f"{len(loaded.samples)} ({hash_pairs(loaded.samples)})"),
            ("overall labels", count_labels(loaded.samples)),
            ("rows left out", loaded.dropped or "none"),
        ]
        blocks = describe_label_file(loaded.samples)
    typer.echo(render_markdown(f"{loaded.name}, split {loaded.split}", blocks, facts))


def run_calibrate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run over held-out pairs.")],
    out: Annotated[
        Path,
        typer.Option(help="File to write; beside the model: MODEL/videosearch_calibration.json."),
    ],
    max_risk: Annotated[
        float, typer.Option(min=0, max=1, help="Share of wrong answers that is acceptable.")
    ] = 0.1,
    not_on: Annotated[
        list[Path] | None,
        typer.Option(help="PATH.parquet or run that is to be reported on; repeatable."),
    ] = None,
) -> None:
    """Fit the tie threshold and the meaning of confidences on held-out pairs."""
    from verl_videosearch.evaluation.calibration import check_held_out, fit_calibration, to_json
    from verl_videosearch.evaluation.results import read_run
    from verl_videosearch.judgement import OVERALL
    from verl_videosearch.runs.folder import RunFolder
    from verl_videosearch.runs.identity import hash_pair
    from verl_videosearch.sample import read_samples

    with explain_errors():
        found = read_run(run)
        by_uid = {sample.uid: sample for sample in found.samples}
        reported = [
            s
            for path in not_on or []
            for s in (read_run(path).samples if path.is_dir() else read_samples(path))
        ]
        check_held_out(found.samples, reported)
        fitted = fit_calibration(
            found.pairs,
            [by_uid[pair.uid].labels[OVERALL] for pair in found.pairs],
            max_risk=max_risk,
            pair_hashes=[hash_pair(sample) for sample in found.samples],
            model_hash=found.settings.model_hash,
        )
        RunFolder(out.parent).write_json(out.name, to_json(fitted))
    say(
        f"tie up to |margin| {fitted.tie_threshold:g}; a risk of {max_risk:g} allows {fitted.coverage:.1%} of answers"
    )
    say(f"wrote {out}; use it with: videosearch eval ... --calibration {out}")


def predict_run(run: Run) -> JudgePredictions:
    """Return the verdicts of a run with what it cost per pair."""
    from verl_videosearch.evaluation.comparison import predictions_of_run
    from verl_videosearch.evaluation.summary import measure_costs

    facts: dict[str, Any] = measure_costs(run.pairs) | {"seconds": run.seconds_per_pair}
    return predictions_of_run(run.name, run.samples, run.pairs, facts)


def check_same_pairs(runs: list[Run]) -> None:
    """Refuse to compare runs over different pairs."""
    hashes = {run.settings.pairs_hash for run in runs}
    if len(hashes) > 1:
        named = "; ".join(
            f"{run.name}: {run.settings.benchmark}, {run.settings.pairs_hash}" for run in runs
        )
        raise ValueError(
            f"the runs are over different pairs ({named}); compare runs of one benchmark, split and --limit"
        )


def check_names(names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise ValueError(
            f"two judges have one name: {names}; rename a folder or a file, names are taken from them"
        )


def describe_run(run: Run) -> str:
    """Say in one line how a run was made."""
    from verl_videosearch.evaluation.pages.header import describe_frames

    orders = " and ".join(order.value for order in run.settings.orders)
    frames = describe_frames(run.settings.episode, is_redundant=run.settings.is_redundant)
    return f"{run.settings.model} ({run.settings.model_hash}), order {orders}, {frames}"
