"""Every figure that this project reports about verdicts: accuracy with and without ties, intervals,
order, calibration.

Labels are 0 (tie), 1 and 2 everywhere, and a margin above 0 speaks for video 1. Every figure
carries its counts. A verdict that is None, NaN or anything but a label is unreadable: wrong, never
a tie, and counted. A gold label of None drops its row.

>>> from verl_videosearch import metrics
>>> print(metrics.accuracy_with_ties(gold=[1, 2, 0], predicted=[1, 0, None]))
33.3 % (1/3)

Where to look: `rate` (k/n and bootstrap), `accuracy` (verdicts), `margins` (scores and the tie
threshold), `baselines`, `agreement` (swapped orders, paired tests), `calibration` (confidences),
`inputs` (what counts as unreadable). Pure functions on numpy; benchmarks, files and plots are
elsewhere.
"""

from verl_videosearch.metrics.accuracy import (
    Accuracies,
    accuracy_with_ties,
    accuracy_without_ties,
    confusion,
    correct_with_ties,
    correct_without_ties,
    per_class_recall,
    score_dimensions,
    score_verdicts,
    unreadable_rate,
)
from verl_videosearch.metrics.agreement import (
    PairedDifference,
    PositionBias,
    SwapConsistency,
    cluster_exchange_test,
    mcnemar_exact,
    merge_orders,
    paired_bootstrap,
    position_bias,
    swap_consistency,
    swap_verdict,
)
from verl_videosearch.metrics.baselines import (
    Baselines,
    expected_random_accuracy,
    majority_label,
    random_verdicts,
    score_baselines,
)
from verl_videosearch.metrics.calibration import (
    CalibrationBin,
    CalibrationError,
    RiskCoverage,
    RiskPoint,
    expected_calibration_error,
    risk_coverage,
)
from verl_videosearch.metrics.inputs import LABELS
from verl_videosearch.metrics.margins import (
    CalibratedAccuracy,
    accuracy_with_ties_calibrated,
    accuracy_with_ties_videoalign,
    verdicts_from_margins,
)
from verl_videosearch.metrics.rate import (
    Interval,
    Rate,
    bootstrap_interval,
    wilson_interval,
)

__all__ = [
    "Accuracies",
    "Baselines",
    "CalibratedAccuracy",
    "CalibrationBin",
    "CalibrationError",
    "LABELS",
    "Interval",
    "PairedDifference",
    "PositionBias",
    "Rate",
    "RiskCoverage",
    "RiskPoint",
    "SwapConsistency",
    "accuracy_with_ties",
    "accuracy_with_ties_calibrated",
    "accuracy_with_ties_videoalign",
    "accuracy_without_ties",
    "bootstrap_interval",
    "cluster_exchange_test",
    "confusion",
    "correct_with_ties",
    "correct_without_ties",
    "expected_calibration_error",
    "expected_random_accuracy",
    "majority_label",
    "mcnemar_exact",
    "merge_orders",
    "paired_bootstrap",
    "per_class_recall",
    "position_bias",
    "random_verdicts",
    "risk_coverage",
    "score_baselines",
    "score_dimensions",
    "score_verdicts",
    "swap_consistency",
    "swap_verdict",
    "unreadable_rate",
    "verdicts_from_margins",
    "wilson_interval",
]
