"""Attacks on what comes from outside: replies, films, servers, label files.

The one idea: every case is made from a seed and its number, so a trial that was stopped goes on
with the next case, and a case that failed is made again by its number. `python -m
benchmarks.faults` runs them; docs/reliability.md holds a run."""
