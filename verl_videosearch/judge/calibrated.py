"""What a calibration says about one comparison: a verdict, how often such verdicts are right, and
whether to answer at all.

The one idea: it is the verdict that was graded when the calibration was fitted, so that the figure
is of the verdict that is given."""

from __future__ import annotations

from dataclasses import replace

from verl_videosearch.evaluation.calibration import Calibration
from verl_videosearch.evaluation.verdicts import PairVerdicts
from verl_videosearch.judge.comparison import Comparison


def grade_comparison(calibration: Calibration, comparison: Comparison) -> Comparison:
    """Return the comparison with what the calibration says; as it was without a readable
    verdict."""
    episodes = {record.order: record for record in comparison.records}
    pair = PairVerdicts(comparison.records[0].uid, episodes)
    confidence = calibration.map_confidence(pair)
    if confidence is None:
        return comparison
    return replace(
        comparison,
        calibrated=calibration.judge(pair),
        confidence=confidence,
        abstains=confidence < calibration.min_confidence,
    )
