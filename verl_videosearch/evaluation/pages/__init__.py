"""Figures in words: the tables and pages of runs, comparisons, probes and baselines."""
