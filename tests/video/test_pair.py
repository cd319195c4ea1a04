"""Numbers become pictures, and pictures carry their reference."""

from pathlib import Path

import numpy as np

from tests.clips import grey_frames, write_clip
from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.video.pair import REFERENCE, PairFrames, load_pair
from verl_videosearch.video.reference import FrameReference
from verl_videosearch.video.store import FrameStore

CONFIG = EpisodeConfig(frames_per_video=8, initial_max_pixels=56 * 84, tool_max_pixels=28 * 56)


def load(folder: Path, store: FrameStore) -> PairFrames:
    for name, num_frames in (("1.mp4", 20), ("2.mp4", 5)):
        write_clip(folder / name, grey_frames(num_frames, 112, 168))
    labels = {"TA": 1, "VQ": 1, "MQ": 1, "OA": 1}
    sample = PreferenceSample("pair-7", "a cat", "1.mp4", "2.mp4", labels)
    return load_pair(sample, store, CONFIG, folder)


def test_a_reference_brings_the_very_pixels(tmp_path: Path) -> None:
    pair = load(tmp_path, FrameStore(tmp_path / "store"))
    other = FrameStore(tmp_path / "elsewhere")
    for number in range(1, len(pair.candidates) + 1):
        for max_pixels in (CONFIG.initial_max_pixels, CONFIG.tool_max_pixels, None):
            image = pair.image(number, max_pixels)
            reference = FrameReference.parse(str(image.info[REFERENCE]))
            (pixels,) = other.read_frames(reference.key, [reference.index], reference.max_pixels)
            assert np.array_equal(pixels, np.asarray(image))
            assert pair.size_of(number, max_pixels) == pixels.shape[:2]


def test_an_episode_needs_no_second_decode(tmp_path: Path) -> None:
    store = FrameStore(tmp_path / "store")
    pair = load(tmp_path, store)
    for number in pair.candidates.initial_view(CONFIG.initial_frames_per_video):
        pair.image(number, CONFIG.initial_max_pixels)
    for number in range(1, len(pair.candidates) + 1):
        pair.image(number, CONFIG.tool_max_pixels)
    assert store.stats.misses == 2 and pair.durations_s == (0.8, 0.2)


def test_made_up_frames_have_no_reference() -> None:
    frames = grey_frames(3)
    pair = PairFrames(CandidateFrames((0.0, 1.0, 2.0), (0.0, 1.0, 2.0)), frames, frames)
    assert REFERENCE not in pair.image(2, 10**6).info
    assert np.array_equal(np.asarray(pair.image(2, 10**6)), frames[1])
