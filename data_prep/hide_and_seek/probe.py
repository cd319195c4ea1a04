"""Probes: how well a simple classifier judges pairs from the frames that it may see.

The one idea: what a judge can know is measured with statistics of the same frames. From the initial
view alone a probe should do no better than guessing; with the frames behind the cue it should be
right nearly always. The first shows that nothing leaks, the second that there is something to find.

>>> rng = np.random.default_rng(0)
>>> features, labels = rng.normal(size=(300, 4)), np.arange(300) % 3
>>> features[:, 0] += labels * 8
>>> run_probe((features[:200], labels[:200]), (features[200:], labels[200:])).accuracy > 0.95
True

Covers: features, a multinomial logistic regression in numpy. Does not cover: what a vision model
can see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from verl_videosearch.data_prep.hide_and_seek.profile import Gap, InitialSampler, Profile

NUM_LABELS = 3
MIN_PROBE_PAIRS = 100
"""With fewer pairs in a split a probe says nothing and is left out."""


@dataclass(frozen=True)
class Probe:
    """How well a simple classifier does with some of the frames."""

    accuracy: float
    num_pairs: int

    @property
    def standard_error(self) -> float:
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / self.num_pairs))


def describe_views(
    videos: tuple[np.ndarray, np.ndarray], profile: Profile, gaps: Sequence[Gap]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probes' features: of the initial view alone, and of the initial view with the cued
    gaps."""
    shown = sorted(profile.shown([InitialSampler.EVERY_STEP]))
    behind = [index for gap in gaps for index in gap.indices] or shown  # no cue: nothing behind it
    first = [_frame_statistics(frames[shown]) for frames in videos]
    then = [_frame_statistics(frames[behind]) for frames in videos]
    # how far the gap strays from the shown frames of the same video, whatever the direction
    strays = [
        np.abs(b[:, None] - a[None]).min(axis=1).max(axis=0)
        for a, b in zip(first, then, strict=True)
    ]
    initial = _contrast(*(np.concatenate([s.mean(axis=0), s.max(axis=0)]) for s in first))
    return initial, np.concatenate([initial, _contrast(*strays)])


def _contrast(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return np.concatenate([one - two, np.abs(one - two)])


def _frame_statistics(frames: np.ndarray) -> np.ndarray:
    """Return ten statistics of each frame, float (N, 10): level and spread of the colours, edges,
    top and bottom."""
    frames = frames.astype(np.float64)
    down, right = (
        np.abs(np.diff(frames, axis=1)).mean((1, 2, 3)),
        np.abs(np.diff(frames, axis=2)).mean((1, 2, 3)),
    )
    half = frames.shape[1] // 2
    halves = [frames[:, :half].mean((1, 2, 3)), frames[:, half:].mean((1, 2, 3))]
    return np.concatenate(
        [frames.mean((1, 2)), frames.std((1, 2)), np.stack([down, right, *halves], axis=1)], axis=1
    )


def run_probe(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> Probe:
    """Fit a multinomial logistic regression on (features, labels) of one split, count its hits on
    another."""
    mean, spread = train[0].mean(axis=0), train[0].std(axis=0) + 1e-9

    def design(features: np.ndarray) -> np.ndarray:
        return np.column_stack([np.clip((features - mean) / spread, -8, 8), np.ones(len(features))])

    weights = _fit_logistic(design(train[0]), np.eye(NUM_LABELS)[train[1]])
    guesses = np.argmax(design(test[0]) @ weights, axis=1)
    return Probe(float(np.mean(guesses == test[1])), len(test[1]))


def _fit_logistic(
    inputs: np.ndarray, targets: np.ndarray, num_steps: int = 500, ridge: float = 1e-3
) -> np.ndarray:
    """Minimise the cross-entropy with a little ridge by accelerated gradient descent."""
    step = 1.0 / (np.linalg.norm(inputs, 2) ** 2 / len(inputs) / 2 + ridge)
    weights = ahead = np.zeros((inputs.shape[1], NUM_LABELS))
    for count in range(num_steps):
        logits = inputs @ ahead
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        slope = (
            inputs.T @ (shares / shares.sum(axis=1, keepdims=True) - targets) / len(inputs)
            + ridge * ahead
        )
        before, weights = weights, ahead - step * slope
        ahead = weights + count / (count + 3) * (weights - before)
    return weights
