"""Take a fitted estimator apart into what a graph is made of."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from reactood._scoring._base import BaseReActDetector
from reactood._utils._response import unfrozen
from reactood.conformal import ConformalDetector
from reactood.export._rules import RULES
from reactood.extractor import TorchFeatureExtractor

TAKEN = (
    "a fitted ReActDetector or ReActDetectorCV, a pipeline of a TorchFeatureExtractor, "
    f"any of the rectifiers {', '.join(rule.__name__ for rule in RULES)}, and one of "
    "these detectors, or a ConformalDetector around one of all these"
)


@dataclass
class Parts:
    """The steps of a fitted estimator, from images to the threshold.

    Attributes
    ----------
    detector : BaseReActDetector
        Has the clip, the head and the score.
    extractor : TorchFeatureExtractor or None
        Makes features of images; without it, features are the input.
    rules : list of BaseRectifier
        Applied to the features, in this order.
    conformal : ConformalDetector or None
        Makes p-values of scores.
    """

    detector: Any
    extractor: Any = None
    rules: list = field(default_factory=list)
    conformal: Any = None

    @property
    def offset(self):
        """The score from which on an input is in-distribution, of float64."""
        return float((self.conformal or self.detector).offset_)

    @property
    def calibration(self):
        """The scores that p-values are made of, ascending; None without any."""
        return None if self.conformal is None else self.conformal.calibration_scores_

    @property
    def n_features(self):
        """The width of the features, before any rule."""
        return (self.rules[0] if self.rules else self.detector).n_features_in_


def take_apart(estimator):
    """Return the parts of a fitted estimator.

    Raises TypeError for an estimator, or a step of it, that is no graph.
    """
    steps, last, conformal = _unrolled(estimator)
    extractor, rules = None, []
    for place, step in enumerate(steps):
        if type(step) is TorchFeatureExtractor and place == 0:
            extractor = step
        elif type(step) in RULES:
            rules.append(step)
        else:
            raise TypeError(
                f"The step {type(step).__name__} cannot be exported; expected {TAKEN}."
            )
        check_is_fitted(step)
    return Parts(last, extractor, rules, conformal)


def _unrolled(estimator):
    """Return the steps before the detector, the detector, and what is around it."""
    estimator = unfrozen(estimator)
    if isinstance(estimator, ConformalDetector):
        check_is_fitted(estimator)
        steps, last, inner = _unrolled(estimator.estimator_)
        if inner is not None:
            raise TypeError(
                "A ConformalDetector around another one cannot be exported; expected "
                f"{TAKEN}."
            )
        return steps, last, estimator
    if isinstance(estimator, Pipeline):
        steps = [unfrozen(step) for _, step in estimator.steps[:-1]]
        steps = [step for step in steps if step not in (None, "passthrough")]
        more, last, conformal = _unrolled(estimator.steps[-1][1])
        return steps + more, last, conformal
    if not isinstance(estimator, BaseReActDetector):
        raise TypeError(
            f"{type(estimator).__name__} cannot be exported; expected {TAKEN}."
        )
    check_is_fitted(estimator)
    if hasattr(estimator, "steps_"):  # of ReActDetectorCV on images
        more = [step for _, step in estimator.steps_.steps]
        return [unfrozen(step) for step in more], estimator, None
    return [], estimator, None


def round_up(values, dtype):
    """Return numbers in a dtype, none of them below what it was.

    A score in this dtype is at least such a number exactly where it is at least the
    number in float64.
    """
    values = np.asarray(values, np.float64)
    rounded = values.astype(dtype)
    above = np.nextafter(rounded, np.asarray(np.inf, dtype))
    return np.where(rounded.astype(np.float64) < values, above, rounded)
