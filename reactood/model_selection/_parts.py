"""Take a pipeline apart, and join it again with another detector."""

from sklearn.base import clone
from sklearn.pipeline import Pipeline

from reactood._utils._estimators import check_params
from reactood._utils._response import parts_of
from reactood.detector import ReActDetector
from reactood.model_selection._copies import unfitted


def detector_of(estimator):
    """Return the steps before the detector (None if there are none) and itself."""
    steps, detector = parts_of(estimator)
    if not isinstance(detector, ReActDetector):
        raise TypeError(
            f"estimator is, or ends in, a {type(detector).__name__}; expected a "
            "ReActDetector or a Pipeline that ends in one."
        )
    if detector.threshold is not None:
        raise ValueError(
            f"The detector has threshold={detector.threshold!r}, which overrides any "
            "percentile; set threshold=None to choose one."
        )
    check_params(detector)
    return steps, detector


def features_of(steps, X, y):
    """Return the steps, as a fitted copy, and the features: ``X`` without steps."""
    if steps is None:
        return None, X
    steps = unfitted(steps)
    return steps, steps.fit_transform(X, y)


def joined(estimator, steps, detector):
    """Return the fitted parts in the form that was given: a pipeline, or none."""
    if not isinstance(estimator, Pipeline):
        return detector
    whole = clone(estimator)
    before = [] if steps is None else steps.steps
    whole.steps = [*before, (estimator.steps[-1][0], detector)]
    return whole
