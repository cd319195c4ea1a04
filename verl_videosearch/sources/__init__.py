"""The public preference sets that we read, one small file each, and the user's own pairs.

To add one: write `sources/yours.py` with a `SOURCE`, add it below, add a fixture in
tests/sources/test_sources.py (docs/add_a_set.md). Whoever names benchmarks reads `BENCHMARKS`.
"""

from verl_videosearch.sources import (
    genai_bench,
    lift_hra,
    mj_bench_video,
    pairs_csv,
    rapidata,
    video_feedback,
    videogen_reward,
    videogen_rewardbench,
    vision_reward_db,
)

SOURCES = {
    module.SOURCE.name: module.SOURCE
    for module in (
        videogen_reward,
        videogen_rewardbench,
        genai_bench,
        mj_bench_video,
        rapidata,
        video_feedback,
        vision_reward_db,
        lift_hra,
        pairs_csv,
    )
}
"""Name to source, in the order of the documentation."""

BENCHMARKS = {source.short_name: source for source in SOURCES.values() if source.short_name}
"""Short name, as `videosearch eval --benchmark` takes it, to source."""
TEST_SPLITS = tuple(
    dict.fromkeys(split for source in SOURCES.values() for split in source.benchmark_splits)
)
"""Names of splits that are there to be reported on, never fitted on."""
