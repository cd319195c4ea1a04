"""Evaluation: run a judge on a benchmark, say how good it is, and whether its search mattered.

The one idea: a run is a folder. `eval` fills it with one line per episode; everything else -
comparing runs, probing them, calibrating them - reads such folders and needs no model in memory.

| file of a run | holds |
|---|---|
| `run.json` | the settings; a run goes on only under the same ones |
| `samples.parquet` | the pairs with their gold labels |
| `journal.jsonl` | every try as it ended, appended and synced; what a killed run goes on from |
| `episodes.jsonl` | results and final failures, sorted, without times: equal bytes however often the run was killed |
| `results.json`, `results.md`, `index.html` | the figures |
| `timing.json` | seconds, which no two runs share |

Where to look: `evaluate` (evaluate, probe, compare from Python), `results` (files), `pages` (words
and
the header that every table has), `verdicts` (from episodes to one verdict per pair), `subsets`,
`summary` (figures), `calibration`, `comparison` and `compared_runs`, `probes`, `citations`. Playing
is
`runs`' work. Does not cover servers (`models`) or label files (`sources`).
"""  # noqa: E501
