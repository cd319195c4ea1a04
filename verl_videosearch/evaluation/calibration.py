"""Calibration: a tie threshold and a meaning for confidences, fitted on held-out pairs and kept
beside the model.

The one idea: nothing is fitted where it is reported. The file remembers two hashes of every pair
that it was fitted on - of all that is known of it, and of its prompt and file names - and refuses
to be used on any of them; fitting refuses a split that is named as a test split.

    videosearch calibrate runs/validation --out MODEL/videosearch_calibration.json --max-risk 0.1
    videosearch eval ... --calibration MODEL/videosearch_calibration.json

Fitted are: the |margin| up to which a verdict is a tie (best accuracy with ties); for decided
verdicts and for ties a rising step function from the pair's confidence to the share that is right
(isotonic regression, one step added to each side so that it never claims 0 or 1); and the lowest
such share at which the risk stays within the limit.

>>> fit_isotonic([1.0, 1.0, 2.0, 3.0], [0, 1, 1, 0])
[(1.0, 0.5), (2.0, 0.5)]
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verl_videosearch import metrics
from verl_videosearch.evaluation.verdicts import PairVerdicts
from verl_videosearch.runs.identity import UNKNOWN_MODEL, hash_names, hash_pair
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.sources import TEST_SPLITS

FORMAT = 1
NEVER = 1.01
"""A confidence above every confidence: the judge always abstains."""

Steps = list[tuple[float, float]]
"""Ascending (from this confidence on, share that is right)."""


class CalibrationError(ValueError):
    """A calibration cannot be fitted or used here; the text is for the user."""


@dataclass(frozen=True)
class Calibration:
    """What was fitted, and on what."""

    tie_threshold: float
    """|margin| up to which a verdict is a tie."""
    decided: Steps
    """For verdicts 1 and 2."""
    tied: Steps
    """For verdict 0."""
    max_risk: float
    """The share of wrong answers that was asked for."""
    min_confidence: float
    """Answer only from this mapped confidence on."""
    coverage: float
    """Share of the fitted pairs that are answered then."""
    pair_hashes: tuple[str, ...]
    """The pairs that it was fitted on."""
    model_hash: str
    pair_names: tuple[str, ...] = ()
    """The same pairs by prompt and file names; empty in files of older versions."""

    def judge(self, pair: PairVerdicts) -> int | None:
        """Return the overall verdict by the fitted tie threshold, None where none can be read."""
        return _grade(pair, self.tie_threshold)[0]

    def map_confidence(self, pair: PairVerdicts) -> float | None:
        """Return the share of right ones to expect among such verdicts of `judge`, None without
        a verdict."""
        verdict, confidence = _grade(pair, self.tie_threshold)
        return (
            None
            if confidence is None
            else look_up(self.decided if verdict else self.tied, confidence)
        )

    def check_use(
        self,
        pair_hashes: Collection[str],
        model_hash: str,
        pair_names: Collection[str] = (),
    ) -> None:
        """Raise `CalibrationError` if any of these pairs was fitted on, by `hash_pair` or by
        `hash_names`, or if it was fitted for another model."""
        if UNKNOWN_MODEL not in (model_hash, self.model_hash) and model_hash != self.model_hash:
            raise CalibrationError(
                f"the calibration is for model {self.model_hash}, this one is {model_hash}; "
                "fit its own"
            )
        shared = max(
            len(set(pair_hashes) & set(self.pair_hashes)),
            len(set(pair_names) & set(self.pair_names)),
        )
        if shared:
            raise CalibrationError(
                f"the calibration was fitted on {shared} of these {len(pair_hashes)} pairs, "
                "so its figures here would be too good; fit it on other pairs or evaluate others"
            )


def check_held_out(
    samples: Sequence[PreferenceSample], reported: Sequence[PreferenceSample] = ()
) -> None:
    """Raise `CalibrationError` if these pairs are a test split, by name or by being among the
    reported ones."""
    if found := sorted({sample.split for sample in samples} & set(TEST_SPLITS)):
        raise CalibrationError(
            f"got pairs of split {found}; a calibration is fitted on held-out pairs, "
            "not on a test split"
        )
    shared = max(
        len(set(map(name, samples)) & set(map(name, reported))) for name in (hash_pair, hash_names)
    )
    if shared:
        raise CalibrationError(
            f"{shared} of the {len(samples)} pairs are among those to be reported on; take others"
        )


def fit_calibration(
    pairs: Sequence[PairVerdicts],
    gold: Sequence[int | None],
    *,
    max_risk: float,
    pair_hashes: Sequence[str],
    model_hash: str,
    pair_names: Sequence[str] = (),
) -> Calibration:
    """Fit on held-out pairs; raises `CalibrationError` if too few of them have a label and a
    verdict."""
    labelled = [(pair, label) for pair, label in zip(pairs, gold, strict=True) if label is not None]
    rows = [(pair, label) for pair, label in labelled if pair.margin is not None]
    if len(rows) < 10:
        raise CalibrationError(
            f"got {len(rows)} pairs with a label and a verdict; a calibration needs at least 10"
        )
    labels, margins = [label for _, label in rows], [pair.margin for pair, _ in rows]
    threshold = metrics.accuracy_with_ties_calibrated(labels, margins).threshold
    graded = [_grade_read(pair, threshold) for pair, _ in rows]
    correct = [verdict == label for (verdict, _), label in zip(graded, labels, strict=True)]
    steps = [
        fit_isotonic(
            *_unzip(
                [
                    (c, ok)
                    for (verdict, c), ok in zip(graded, correct, strict=True)
                    if verdict in verdicts
                ]
            )
        )
        for verdicts in ((1, 2), (0,))
    ]
    mapped = [
        look_up(steps[0] if verdict else steps[1], confidence) for verdict, confidence in graded
    ]
    point = metrics.risk_coverage(mapped, correct).widest_within(max_risk)
    return Calibration(
        tie_threshold=threshold,
        decided=steps[0],
        tied=steps[1],
        max_risk=max_risk,
        min_confidence=point.threshold if point else NEVER,
        coverage=point.covered.value if point else 0.0,
        pair_hashes=tuple(sorted(pair_hashes)),
        model_hash=model_hash,
        pair_names=tuple(sorted(pair_names)),
    )


def fit_isotonic(confidence: Sequence[float], correct: Sequence[bool]) -> Steps:
    """Fit a rising step function; equal confidences share a step, neighbours that would fall are
    pooled.

    The share of a step is (right + 1) / (all + 2), then made rising."""
    blocks: list[list[float]] = []  # [first confidence, right, all]
    for value in sorted(set(confidence)):
        flags = [bool(ok) for c, ok in zip(confidence, correct, strict=True) if c == value]
        blocks.append([value, float(sum(flags)), float(len(flags))])
        while len(blocks) > 1 and blocks[-2][1] * blocks[-1][2] > blocks[-1][1] * blocks[-2][2]:
            _, right, total = blocks.pop()
            blocks[-1][1] += right
            blocks[-1][2] += total
    steps, highest = [], 0.0
    for value, right, total in blocks:
        highest = max(highest, (right + 1) / (total + 2))
        steps.append((value, highest))
    return steps


def look_up(steps: Steps, confidence: float) -> float:
    """Read a step function; below its first step that step counts, without any step it is 1/2.

    >>> look_up([(1.0, 0.4), (2.0, 0.9)], 1.9), look_up([(1.0, 0.4)], 0.0), look_up([], 3.0)
    (0.4, 0.4, 0.5)
    """
    if not steps:
        return 0.5
    return steps[max(bisect.bisect_right([start for start, _ in steps], confidence) - 1, 0)][1]


def to_json(calibration: Calibration) -> dict[str, Any]:
    """Write a calibration as plain data; `from_json` reads it back."""
    return {"format": FORMAT, **asdict(calibration)}


def from_json(content: Mapping[str, Any]) -> Calibration:
    """Read a calibration; raises `CalibrationError` for another format, `TypeError` for what is no
    object."""
    if not isinstance(content, Mapping):
        raise TypeError(f"it holds no object but {str(content)[:40]!r}")
    if content.get("format") != FORMAT:
        found = content.get("format")
        raise CalibrationError(
            f"got calibration format {found!r}; this version reads {FORMAT}; fit it again"
        )
    content = {"pair_names": (), **content}  # files of older versions have none
    values = {name: content[name] for name in Calibration.__dataclass_fields__}
    values |= {
        name: [(start, share) for start, share in content[name]] for name in ("decided", "tied")
    }
    values |= {name: tuple(content[name]) for name in ("pair_hashes", "pair_names")}
    return Calibration(**values)


def read_calibration(path: Path) -> Calibration:
    """Read a calibration file; raises `CalibrationError` if there is none or it is damaged."""
    try:
        return from_json(json.loads(path.read_text("utf-8")))
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise CalibrationError(
            f"{path} is no calibration ({error}); make one with `videosearch calibrate`"
        ) from error


def _grade(pair: PairVerdicts, threshold: float) -> tuple[int | None, float | None]:
    """Return (verdict by the threshold, confidence of it): |margin| if decided, the pair's own
    confidence for a tie."""
    margin = pair.margin
    if margin is None:
        return None, None
    verdict = metrics.verdicts_from_margins([margin], threshold=threshold)[0]
    if verdict:
        return verdict, abs(margin)
    return verdict, 0.0 if margin else pair.confidence


def _grade_read(pair: PairVerdicts, threshold: float) -> tuple[int | None, float]:
    """Grade a pair whose verdicts could be read."""
    verdict, confidence = _grade(pair, threshold)
    assert confidence is not None, "a pair with a margin has a confidence"
    return verdict, confidence


def _unzip(rows: Sequence[tuple[float, bool]]) -> tuple[list[float], list[bool]]:
    return [value for value, _ in rows], [flag for _, flag in rows]
