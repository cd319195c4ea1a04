"""Does a stated confidence mean anything: calibration error, and what is gained by not answering
when unsure.

Both curves depend on the rows only, never on their order: rows of equal confidence always move
together.

>>> confidence, correct = [0.9, 0.9, 0.6, 0.6], [1, 1, 1, 0]
>>> round(expected_calibration_error(confidence, correct, num_bins=5).value, 3)
0.1
>>> [f"{point.covered} wrong {point.wrong}" for point in risk_coverage(confidence, correct).points]
['50.0 % (2/4) wrong 0.0 % (0/2)', '100.0 % (4/4) wrong 25.0 % (1/4)']

A missing confidence (None, NaN) cannot be binned, so the calibration error leaves it out and counts
it; risk-coverage answers such rows last. Does not cover fitting a confidence mapping.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from verl_videosearch.metrics.inputs import check_same_length, read_correct, read_margins
from verl_videosearch.metrics.rate import Rate


@dataclass(frozen=True)
class CalibrationBin:
    """Rows whose confidence lies in [low, high); the last bin includes 1."""

    low: float
    high: float
    mean_confidence: float
    """NaN in an empty bin."""
    accuracy: Rate


@dataclass(frozen=True)
class CalibrationError:
    """Mean distance between confidence and accuracy, weighted by the rows of each bin."""

    value: float
    """A share, 0 is perfect; NaN for no rows."""
    bins: tuple[CalibrationBin, ...]
    """Equal widths over [0, 1], empty ones included: the reliability diagram."""
    missing: Rate
    """Rows without a confidence; they are in no bin."""


@dataclass(frozen=True)
class RiskPoint:
    """What happens when only rows of at least this confidence are answered."""

    threshold: float
    """The lowest confidence that is answered; -inf where rows without one are answered too."""
    covered: Rate
    """Answered of all rows."""
    wrong: Rate
    """Wrong of the answered rows: the risk."""


@dataclass(frozen=True)
class RiskCoverage:
    """The risk-coverage curve, one point per distinct confidence, most confident first."""

    points: tuple[RiskPoint, ...]

    @property
    def area(self) -> float:
        """Mean over all rows of the risk at their confidence (AURC); lower is better, NaN for no
        rows."""
        if not self.points:
            return math.nan
        covered = np.diff([0, *(point.covered.correct for point in self.points)])
        risks = [point.wrong.value for point in self.points]
        return float(covered @ risks / self.points[-1].covered.total)

    def widest_within(self, max_risk: float) -> RiskPoint | None:
        """Return the point of largest coverage whose risk is at most `max_risk`, None if there is
        none."""
        return next(
            (point for point in reversed(self.points) if point.wrong.value <= max_risk), None
        )


def expected_calibration_error(
    confidence: Iterable[float | None], correct: Iterable[bool], num_bins: int = 10
) -> CalibrationError:
    """Return the calibration error of confidences in [0, 1] over `num_bins` bins of equal width.

    >>> expected_calibration_error([1.0, 1.0], [1, 0]).value
    0.5
    """
    if num_bins < 1:
        raise ValueError(f"num_bins: got {num_bins}; allowed are values >= 1")
    confidences, flags = _read_columns(confidence, correct)
    known = ~np.isnan(confidences)
    missing, confidences, flags = Rate.of(~known), confidences[known], flags[known]
    if np.any((confidences < 0) | (confidences > 1)):
        raise ValueError(
            f"confidence: got values from {confidences.min():g} to {confidences.max():g}; allowed "
            "is [0, 1]; map the judge's confidence to a probability first"
        )
    edges = np.arange(num_bins + 1) / num_bins
    index = np.minimum(np.searchsorted(edges, confidences, side="right") - 1, num_bins - 1)
    bins = tuple(
        _describe_bin(
            edges[number], edges[number + 1], confidences[index == number], flags[index == number]
        )
        for number in range(num_bins)
    )
    filled = [each for each in bins if each.accuracy.total]
    gap_sum = sum(
        each.accuracy.total * abs(each.accuracy.value - each.mean_confidence) for each in filled
    )
    return CalibrationError(
        gap_sum / confidences.size if confidences.size else math.nan, bins, missing
    )


def risk_coverage(confidence: Iterable[float | None], correct: Iterable[bool]) -> RiskCoverage:
    """Return risk and coverage at every confidence threshold; any monotone scale of confidence
    gives the same curve.

    >>> risk_coverage([3, 2, 1], [1, 1, 0]).widest_within(max_risk=0.1).threshold
    2.0
    """
    confidences, flags = _read_columns(confidence, correct)
    confidences = np.where(np.isnan(confidences), -math.inf, confidences)
    order = np.argsort(-confidences, kind="stable")
    num_wrong = np.concatenate([[0], np.cumsum(~flags[order])])
    thresholds = np.unique(confidences)[::-1]
    num_covered = np.searchsorted(-confidences[order], -thresholds, side="right")
    return RiskCoverage(
        tuple(
            RiskPoint(
                float(threshold),
                Rate(int(covered), flags.size),
                Rate(int(num_wrong[covered]), int(covered)),
            )
            for threshold, covered in zip(thresholds, num_covered, strict=True)
        )
    )


def _describe_bin(
    low: float, high: float, confidences: np.ndarray, flags: np.ndarray
) -> CalibrationBin:
    mean_confidence = float(confidences.mean()) if confidences.size else math.nan
    return CalibrationBin(float(low), float(high), mean_confidence, Rate.of(flags))


def _read_columns(
    confidence: Iterable[float | None], correct: Iterable[bool]
) -> tuple[np.ndarray, np.ndarray]:
    confidences, flags = read_margins(confidence), read_correct(correct)
    check_same_length(confidence=confidences, correct=flags)
    return confidences, flags
