"""Proofs about a data set: nothing leaks outside a defect, no sampler shows one, and guessing stays
guessing.

The one idea: the generator does not get to vouch for itself. Every pair is compared with its clean
video bit by bit, the written rows are read again and put through the project's own initial view,
and a classifier that sees only what a judge sees at first looks for a leak that nobody thought of.

Covers: single pairs, rows, the verdict on the blind probe. Does not cover: whether the files decode
to these frames (`verl_videosearch.video.lossless` proves that when it stores them).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from verl_videosearch.data_prep.hide_and_seek.probe import Probe
from verl_videosearch.data_prep.hide_and_seek.profile import InitialSampler, Profile, shown_indices
from verl_videosearch.data_prep.synthetic.defects import (
    Defect,
    defect_from_meta,
    labels_from_defects,
)

from verl_videosearch.frames import CandidateFrames
from verl_videosearch.judgement import OVERALL
from verl_videosearch.sample import PreferenceSample

if TYPE_CHECKING:
    from verl_videosearch.data_prep.hide_and_seek.plan import PairPlan

TOLERANCE = 4.0
"""Standard errors by which the blind probe may beat the best guess."""


class SelfCheckError(Exception):
    """The data set is not what it claims to be: a bug here, never the user's fault."""


def check_pair(
    plan: PairPlan, clean: np.ndarray, videos: tuple[np.ndarray, np.ndarray], profile: Profile
) -> None:
    """Raise `SelfCheckError` unless the videos differ from the clean one in their defects' frames
    and nowhere else."""
    shown = profile.shown(profile.hide_from)
    for side, (frames, defects) in enumerate(
        zip(videos, (plan.defects_1, plan.defects_2), strict=True), start=1
    ):
        changed = {
            index for index in range(len(clean)) if not np.array_equal(frames[index], clean[index])
        }
        damaged = {index for defect in defects for index in defect.frame_indices}
        hidden = {index for defect in defects if defect.is_hidden for index in defect.frame_indices}
        place = f"{plan.split} pair {plan.index}, video {side}"
        if changed - damaged:
            raise SelfCheckError(
                f"{place}: frames {sorted(changed - damaged)} changed outside the defects {defects}"
            )
        if hidden & shown:
            raise SelfCheckError(
                f"{place}: frames {sorted(hidden & shown)} of a hidden defect are shown at first"
            )
        if defects and not changed:
            raise SelfCheckError(f"{place}: the defects {defects} change nothing")


def count_shown_defects(
    samples: Sequence[PreferenceSample], profile: Profile
) -> dict[InitialSampler, int]:
    """Count, for each sampler, the hidden defects of the written rows of which it shows a frame."""
    shown = {
        sampler: shown_indices(sampler, profile.num_frames, profile.num_initial)
        for sampler in InitialSampler
    }
    times = (0.0,) * profile.num_frames
    candidates = CandidateFrames(times, times)
    view = {candidates.locate(number) for number in candidates.initial_view(profile.num_initial)}
    counts = dict.fromkeys(InitialSampler, 0)
    for sample in samples:
        for side in (1, 2):
            own = {location.index for location in view if location.video == side}
            for defect in hidden_defects(sample, side):
                for sampler in InitialSampler:
                    indices = (
                        shown[sampler] | own
                        if sampler is InitialSampler.EVERY_STEP
                        else shown[sampler]
                    )
                    counts[sampler] += not indices.isdisjoint(defect.frame_indices)
    return counts


def hidden_defects(sample: PreferenceSample, side: int) -> list[Defect]:
    """Return the hidden defects of video 1 or 2 of a written row."""
    defects = [defect_from_meta(meta) for meta in sample.meta[f"defects_{side}"]]
    return [defect for defect in defects if defect.is_hidden]


def check_rows(samples: Sequence[PreferenceSample], profile: Profile) -> dict[InitialSampler, int]:
    """Check one split's rows: nothing shown, labels true, no side favoured; returns the counts of
    shown defects."""
    counts = count_shown_defects(samples, profile)
    if wrong := {
        sampler.value: counts[sampler] for sampler in profile.hide_from if counts[sampler]
    }:
        raise SelfCheckError(f"hidden defects are shown at first by {wrong}")
    winners: Counter[tuple[str, int]] = Counter()
    for sample in samples:
        defects = [
            [defect_from_meta(meta) for meta in sample.meta[f"defects_{side}"]] for side in (1, 2)
        ]
        if dict(sample.labels) != labels_from_defects(*defects):
            raise SelfCheckError(
                f"sample {sample.uid!r}: {dict(sample.labels)} does not follow from its defects"
            )
        winners[sample.meta["pair_type"], sample.labels[OVERALL]] += 1
    for pair_type in {pair_type for pair_type, _ in winners} - {"tie"}:
        one, two = winners[pair_type, 1], winners[pair_type, 2]
        if abs(one - two) > 1:
            raise SelfCheckError(
                f"pair type {pair_type}: video 1 wins {one} times and video 2 {two} times"
            )
    return counts


def check_blind_probe(probe: Probe, guess: float) -> None:
    """Raise `SelfCheckError` if seeing only the initial view beats guessing by more than chance."""
    most = guess + TOLERANCE * float(np.sqrt(guess * (1 - guess) / probe.num_pairs))
    if probe.accuracy > most:
        raise SelfCheckError(
            f"a probe that sees only the initial view is right in {probe.accuracy:.3f} of "
            f"{probe.num_pairs} pairs; "
            f"guessing allows {guess:.3f} (limit {most:.3f}): the initial view tells something "
            "about the label"
        )
