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
    from verl_videosearch.sample import PreferenceSample


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
    from verl_videosearch.evaluation.pages.comparison_plots import draw_comparison
    from verl_videosearch.evaluation.pages.comparison_tables import describe_comparison
    from verl_videosearch.evaluation.pages.leaderboard import write_leaderboard
    from verl_videosearch.evaluation.results import read_run, write_pages
    from verl_videosearch.evaluation.summary import to_plain
    from verl_videosearch.report.page import render_markdown
    from verl_videosearch.runs.folder import RunFolder
    from verl_videosearch.sample import read_samples

    with explain_errors():
        if missing := [str(path) for path in judges if not path.exists()]:
            raise ValueError(f"no such run or file: {', '.join(missing)}")
        check_names([path.name if path.is_dir() else path.stem for path in judges])
        runs = {path: read_run(path) for path in judges if path.is_dir()}
        if not runs and samples_file is None:
            raise ValueError(
                "no run among the judges, so there are no labels; give them with --samples "
                "PATH.parquet"
            )
        samples = read_samples(samples_file) if samples_file else share_pairs(list(runs.values()))
        predictions = [
            predict_run(runs[path], samples) if path in runs else read_predictions(path, samples)
            for path in judges
        ]
        comparison = compare(predictions, samples)
        blocks = describe_comparison(comparison)
        facts = [("pairs", describe_pairs(samples, list(runs.values())))]
        facts += [(run.name, describe_run(run)) for run in runs.values()]
        unknown = "predictions from a file; frames, order and decoding are not known"
        facts += [(path.stem, unknown) for path in judges if path not in runs]
        if out is not None:
            folder = RunFolder(out)
            folder.write_json("results.json", to_plain(comparison))
            write_pages(folder, "Comparison of judges", blocks, facts)
            for name, text in write_leaderboard(comparison).items():
                folder.write_text(name, text)
            for name, picture in draw_comparison(comparison).items():
                folder.write_bytes(name, picture)
    typer.echo(render_markdown("Comparison of judges", blocks, facts))


def run_baselines(
    benchmark: Annotated[
        str,
        typer.Option(help="Short name of a public set, such as genai, or a PATH.parquet."),
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


def predict_run(run: Run, samples: list[PreferenceSample]) -> JudgePredictions:
    """Return the verdicts of a run about `samples`, with what it cost per pair."""
    from verl_videosearch.evaluation.comparison import (
        map_shared_pairs,
        predictions_of_run,
        rename_pairs,
    )
    from verl_videosearch.evaluation.summary import measure_costs

    facts: dict[str, Any] = measure_costs(run.pairs) | {"seconds": run.seconds_per_pair}
    own = predictions_of_run(run.name, run.samples, run.pairs, facts)
    return rename_pairs(own, map_shared_pairs(samples, run.samples))


def share_pairs(runs: list[Run]) -> list[PreferenceSample]:
    """Return the pairs of the first run that all runs judged; raises `ValueError` if there are
    none, or if two runs hold different labels of one pair."""
    from verl_videosearch.evaluation.comparison import map_shared_pairs
    from verl_videosearch.judgement import OVERALL, swap_label

    samples = runs[0].samples
    for run in runs[1:]:
        mapped, others = map_shared_pairs(samples, run.samples), {s.uid: s for s in run.samples}
        found = {own: (others[uid], is_swapped) for uid, (own, is_swapped) in mapped.items()}
        for sample in samples:
            if sample.uid in found:
                other, is_swapped = found[sample.uid]
                label = other.labels[OVERALL]
                if (swap_label(label) if is_swapped else label) != sample.labels[OVERALL]:
                    raise ValueError(
                        f"pair {sample.uid!r} has the label {sample.labels[OVERALL]} in "
                        f"{runs[0].name} and another in {run.name}; compare runs over one label "
                        "file"
                    )
        samples = [sample for sample in samples if sample.uid in found]
    if not samples:
        named = "; ".join(
            f"{run.name}: {run.settings.benchmark}, {run.settings.pairs_hash}" for run in runs
        )
        raise ValueError(
            f"the runs share no pair, they are over different pairs ({named}); compare runs of one "
            "benchmark"
        )
    return samples


def describe_pairs(samples: list[PreferenceSample], runs: list[Run]) -> str:
    """Say how many pairs are compared, and of how many."""
    from verl_videosearch.runs.identity import hash_pairs

    largest = max((len(run.samples) for run in runs), default=len(samples))
    shared = f" that all runs share, of up to {largest}" if largest > len(samples) else ""
    return f"{len(samples)} ({hash_pairs(samples)}){shared}"


def check_names(names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise ValueError(
            f"two judges have one name: {names}; rename a folder or a file, names are taken from them"
        )


def describe_run(run: Run) -> str:
    """Say in one line how a run was made."""
    from verl_videosearch.evaluation.pages.header import describe_frames, describe_protocol

    settings = run.settings
    orders = " and ".join(order.value for order in settings.orders)
    frames = describe_frames(settings.episode, is_redundant=settings.is_redundant)
    protocol = describe_protocol(settings.temperature, settings.seed)
    return f"{settings.model} ({settings.model_hash}), order {orders}, {frames}; {protocol}"
