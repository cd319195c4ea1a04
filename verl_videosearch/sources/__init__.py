"""The public preference sets that we read, one small file each, and the user's own pairs.

To add one: write `data_prep/sources/yours.py` with a `SOURCE`, add it below, add a fixture in
tests/sources/test_sources.py.
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
