"""The verbs that need no model: `compare` runs and other judges, `baselines` of a label file,
`calibrate` from a run.

videosearch compare runs/ours runs/fast-8 published.csv --out runs/comparison
videosearch baselines --benchmark mj --root MJ-Bench-Video
videosearch calibrate runs/validation --out MODEL/videosearch_calibration.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from verl_videosearch.cli.console import check_out, explain_errors, say


def run_compare(
    judges: Annotated[
        list[Path],
        typer.Argument(
            help="Runs, files of episodes, files of other judges; the first is the reference."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page; default: print only.")
    ] = None,
    samples_file: Annotated[
        Path | None, typer.Option("--samples", help="PATH.parquet with the labels, without runs.")
    ] = None,
) -> None:
    """Put judges in one table: intervals, paired tests, baselines, costs."""
    from verl_videosearch.evaluation.compared_runs import TITLE, compare_paths
    from verl_videosearch.report.page import render_markdown
    from verl_videosearch.sample import read_samples

    with explain_errors():
        compared = compare_paths(judges, read_samples(samples_file) if samples_file else None)
        if out is not None:
            compared.write(out)
    typer.echo(render_markdown(TITLE, compared.blocks, compared.facts))


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
    from verl_videosearch.evaluation.results import read_labels, read_run
    from verl_videosearch.judgement import OVERALL
    from verl_videosearch.runs.folder import RunFolder
    from verl_videosearch.runs.identity import hash_names, hash_pair

    with explain_errors():
        check_out(out, not_on or ())
        found = read_run(run)
        by_uid = {sample.uid: sample for sample in found.samples}
        reported = [sample for path in not_on or [] for sample in read_labels(path)]
        check_held_out(found.samples, reported)
        fitted = fit_calibration(
            found.pairs,
            [by_uid[pair.uid].labels[OVERALL] for pair in found.pairs],
            max_risk=max_risk,
            pair_hashes=[hash_pair(sample) for sample in found.samples],
            model_hash=found.settings.model_hash,
            pair_names=[hash_names(sample) for sample in found.samples],
        )
        RunFolder(out.parent).write_json(out.name, to_json(fitted))
    say(
        f"tie up to |margin| {fitted.tie_threshold:g}; a risk of {max_risk:g} allows "
        f"{fitted.coverage:.1%} of answers"
    )
    say(f"wrote {out}; use it with: videosearch eval ... --calibration {out}")
