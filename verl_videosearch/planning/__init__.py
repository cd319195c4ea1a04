"""What a run will take, before it is started: memory, disk and hours; `videosearch plan`.

shapes     a 7B or 8B model without weights: parameters, and the peak of a micro-batch
setup      what a composed recipe decides about memory and time
memory     each card and the host, phase by phase
times      hours of each stage, from counts and stated assumptions
demo       the same counting for `make demo`, beside what its stages took
    times      hours of each stage, from counts and stated assumptions
    demo       the same counting for `make demo`, beside what its stages took
"""
