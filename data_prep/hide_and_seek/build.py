"""Paint, store and check the videos of planned pairs, on several processes, again and again if need
be.

The one idea: a pair is a function of its plan. So any worker may make it, in any order, and a run
that was killed goes on by making every pair again and writing only the files that do not hold
exactly these frames yet.

Covers: pixels to files. Does not cover: what to make (`plan`), what must hold (`checks`).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from verl_videosearch.data_prep.hide_and_seek.bases import (
    ClipSplit,
    decode_clips,
    make_base,
    split_clips,
)
from verl_videosearch.data_prep.hide_and_seek.checks import check_pair
from verl_videosearch.data_prep.hide_and_seek.optimum import list_guesses
from verl_videosearch.data_prep.hide_and_seek.plan import (
    GUESSES,
    SPLITS,
    PairPlan,
    PlanConfig,
    plan_split,
)
from verl_videosearch.data_prep.hide_and_seek.probe import describe_views
from verl_videosearch.data_prep.hide_and_seek.profile import Gap, Profile
from verl_videosearch.data_prep.synthetic.defects import apply_defect

from verl_videosearch.sample import PreferenceSample, write_samples
from verl_videosearch.video.lossless import store_lossless

MIN_DAMAGE = 2.0
"""Mean change in grey levels that a defect must make in its frames; a base on which it makes less
is drawn again."""
MAX_DRAWS = 50
BASES = ".bases"
"""Folder of decoded clips inside a data set while it is made."""
SETTINGS = "settings.json"
_CUE_COLOURS = (
    (250, 220, 0),
    (10, 10, 10),
)  # hazard tape: no clean scene and no defect looks like it


class OtherDataSetError(Exception):
    """The folder holds a data set made with other settings."""


@dataclass(frozen=True)
class PairVideos:
    """The pixels of one pair."""

    clean: np.ndarray
    """Both videos without their defects, cue included."""
    videos: tuple[np.ndarray, np.ndarray]
    prompt: str
    base_seed: tuple[int, ...]
    """The seed of the base that was taken."""


@dataclass(frozen=True)
class PairResult:
    """What a worker reports about one pair."""

    sample: PreferenceSample
    initial_view: np.ndarray
    """Statistics of the frames shown at first, for the probe."""
    cued_view: np.ndarray
    """Statistics of these and of the frames in the cued gaps."""
    num_written: int
    """Files that had to be written; the others were there already."""
    num_bytes: int


def paint_cue(frames: np.ndarray, gap: Gap) -> np.ndarray:
    """Return a copy with the cue, a strip of hazard tape: along the top of the frame before the
    gap, or along the bottom of the frame after it."""
    marked = frames.copy()
    height, width = frames.shape[1:3]
    tape = np.arange(width) * 8 // width % 2
    thickness = max(2, height // 7)
    rows = slice(height - thickness, height) if gap.is_marked_after else slice(0, thickness)
    marked[gap.cue_index, rows] = np.array(_CUE_COLOURS, np.uint8)[tape]
    return marked


def make_videos(plan: PairPlan, bases: Path, profile: Profile) -> PairVideos:
    """Draw a base on which every defect shows, and paint defects and cues."""
    for attempt in range(MAX_DRAWS):
        seed = (*plan.base_seed, attempt)
        base = make_base(plan.base, seed, bases, profile)
        changed = [apply_defect(base.frames, defect) for defect in plan.defects]
        spans = [
            slice(defect.first_index, defect.first_index + defect.num_frames)
            for defect in plan.defects
        ]
        clean = base.frames.astype(np.int16)
        if all(
            np.abs(a[span] - clean[span]).mean() >= MIN_DAMAGE
            for a, span in zip(changed, spans, strict=True)
        ):
            videos = [
                reduce(apply_defect, defects, base.frames)
                for defects in (plan.defects_1, plan.defects_2)
            ]
            cued = [reduce(paint_cue, plan.gaps, frames) for frames in (base.frames, *videos)]
            return PairVideos(cued[0], (cued[1], cued[2]), base.prompt, seed)
    raise RuntimeError(
        f"{plan.split} pair {plan.index}: {[defect.type for defect in plan.defects]} changed "
        f"less than {MIN_DAMAGE} "
        f"grey levels on {MAX_DRAWS} windows of {plan.base}; use clips with more motion and "
        "detail, or other defects"
    )


def build_pair(plan: PairPlan, out: Path, profile: Profile, seed: int) -> PairResult:
    """Make one pair: paint, check, store, read back."""
    pair = make_videos(plan, out / BASES, profile)
    plan = replace(plan, base_seed=pair.base_seed)
    check_pair(plan, pair.clean, pair.videos, profile)
    paths = [out / path for path in plan.video_paths]
    num_written = sum(
        store_lossless(path, frames) for path, frames in zip(paths, pair.videos, strict=True)
    )
    views = describe_views(pair.videos, profile, plan.gaps)
    num_bytes = sum(path.stat().st_size for path in paths)
    sample = plan.to_sample(pair.prompt, profile, seed)
    guesses = {each.value: share for each, share in GUESSES.items()} | list_guesses(profile)
    known = {"no_search_accuracy": guesses[plan.pair_type.value]}  # read by evaluation.probes
    sample = replace(sample, meta={**sample.meta, **known})
    return PairResult(sample, *views, num_written, num_bytes)


def settings_of(config: PlanConfig, clips: Sequence[str]) -> dict[str, Any]:
    """Return everything that decides the bytes of a data set, as plain data."""
    return json.loads(json.dumps({**asdict(config), "clips": sorted(clips)}))


def claim_folder(out: Path, settings: dict[str, Any]) -> None:
    """Note the settings in the folder, or make sure that it was begun with the same ones."""
    out.mkdir(parents=True, exist_ok=True)
    note = out / SETTINGS
    if note.exists() and (found := json.loads(note.read_text("utf-8"))) != settings:
        different = sorted(name for name in settings if found.get(name) != settings[name])
        raise OtherDataSetError(
            f"{out} holds a data set made with other settings ({', '.join(different)}); choose "
            "another folder or "
            "delete this one"
        )
    partial_note = out / f".{SETTINGS}.{os.getpid()}.partial"
    partial_note.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    os.replace(partial_note, note)


def prepare(clips: Sequence[Path], out: Path, config: PlanConfig) -> ClipSplit:
    """Claim the folder and decode the clips, if the profile uses any."""
    is_using_clips = config.profile.clip_share > 0
    claim_folder(out, settings_of(config, [path.name for path in clips] if is_using_clips else []))
    if not is_using_clips:
        return ClipSplit((), ())
    split = split_clips(clips)
    decode_clips(clips, out / BASES, config.profile)
    return split


def build_pairs(
    clips: ClipSplit, out: Path, config: PlanConfig, num_workers: int
) -> Iterator[PairResult]:
    """Make all pairs of both splits, train first, each split in order; lazily, so that a caller can
    show progress."""
    plans = [plan for split in SPLITS for plan in plan_split(config, split, clips)]
    make = partial(build_pair, out=out, profile=config.profile, seed=config.seed)
    if num_workers == 1:
        yield from map(make, plans)
        return
    context = multiprocessing.get_context("spawn")  # libav has threads, which a fork would not copy
    with ProcessPoolExecutor(num_workers, context, initializer=_leave_with_parent) as pool:
        yield from pool.map(make, plans, chunksize=4)


def write_splits(results: Sequence[PairResult], out: Path) -> None:
    """Write `train.parquet` and `test.parquet`, those that have pairs."""
    for split in SPLITS:
        if samples := [result.sample for result in results if result.sample.split == split]:
            write_samples(out / f"{split}.parquet", samples)


def clean_up(out: Path) -> None:
    """Remove the decoded clips and what killed runs left half-written."""
    shutil.rmtree(out / BASES, ignore_errors=True)
    for partial_file in out.rglob(".*.partial*"):
        partial_file.unlink()


def _leave_with_parent() -> None:
    """End this worker when its parent is killed; the pool itself would leave it waiting for
    ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()
