"""Ablations of the whole method, paired by seed, with the run as their unit."""
