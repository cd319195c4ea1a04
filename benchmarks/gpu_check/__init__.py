"""Before a long run: do the GPU recipes run on this machine, how much memory, how long is a step?

`python -m benchmarks.gpu_check --help`; `__main__` says what is run, `scripted` how a model of
random
weights plays real episodes, `films` what it looks at, `monitor` what is measured beside it.
"""
