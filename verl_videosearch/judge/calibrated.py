"""What a calibration says about one comparison: a probability, and whether to answer at all."""

from __future__ import annotations

from verl_videosearch.evaluation.calibration import Calibration
from verl_videosearch.evaluation.verdicts import PairVerdicts
from verl_videosearch.judge.comparison import Comparison


def grade_comparison(calibration: Calibration, comparison: Comparison) -> tuple[float | None, bool]:
    """Return (probability that the verdict is right, the judge abstains); (None, False) without a
    readable verdict."""
    episodes = {record.order: record for record in comparison.records}
    pair = PairVerdicts(comparison.records[0].uid, episodes)
    confidence = calibration.map_confidence(pair)
    return confidence, confidence is not None and confidence < calibration.min_confidence
