"""RowScorer: the columns of a table of scores, whatever is in the images."""

import copy

import numpy as np

from reactood._utils._response import parts_of, unfrozen
from reactood.conformal import ConformalDetector
from reactood.extractor import TorchFeatureExtractor

NO_NUMBER = "the network's output for it is not finite"
NO_VALUE = "there is no image: the value is missing"


class RowScorer:
    """Scores images, or features, with a fitted detector.

    Parameters
    ----------
    estimator : Pipeline, ConformalDetector or detector
        Takes images, or features where there is no extractor.

    Attributes
    ----------
    extractor : TorchFeatureExtractor or None
        The first step.
    later_steps : Pipeline or None
        The steps between the extractor and the detector.
    detector : detector
        Scores what these return.
    classifier : detector
        Knows the classifier's own decision, if anything does.
    columns : tuple of str
        The names of the columns.
    """

    def __init__(self, estimator):
        conformal, self.extractor, pipeline = take_apart(estimator)
        steps, detector = parts_of(pipeline)
        if self.extractor is not None:
            steps = steps[1:] if len(steps) > 1 else None
        self.later_steps = steps
        self.classifier = detector
        self.detector = detector
        if conformal is not None:
            # The same calibration, for features instead of images.
            self.detector = copy.copy(conformal)
            self.detector.estimator_ = detector
        elif hasattr(detector, "p_values"):
            self.classifier = detector.estimator_
        p_value = ("p_value",) if hasattr(self.detector, "p_values") else ()
        self.columns = ("score", "decision", *p_value, "class", "error")

    def of_images(self, images):
        """Return the columns for images, as lists of plain values by name."""
        return self.of_features(*self.features_of(images))

    def features_of(self, images):
        """Return the features of images, and the reasons for those that have none."""
        features, errors = self.extractor.transform_with_errors(images)
        return features, {row: reason_of(error, row) for row, error in errors.items()}

    def of_features(self, features, reasons=None):
        """Return the columns for features; ``reasons`` says why some rows have none.

        Values that there are not are None.
        """
        reasons = {} if reasons is None else dict(reasons)
        for row in np.flatnonzero(~np.isfinite(features).all(axis=1)).tolist():
            reasons.setdefault(row, NO_NUMBER)
        columns = {name: [None] * len(features) for name in self.columns}
        for row, reason in reasons.items():
            columns["error"][row] = reason
        good = [row for row in range(len(features)) if row not in reasons]
        if good:
            for name, values in self._columns_of(features[good]).items():
                for row, value in zip(good, values, strict=True):
                    columns[name][row] = value
        return columns

    def _columns_of(self, features):
        """Return the columns of features as lists of plain values."""
        if self.later_steps is not None:
            features = self.later_steps.transform(features)
        scores = self.detector.score_samples(features)
        labels = self.detector.predict(features)
        found = {
            "score": scores.tolist(),
            "decision": ["id" if label == 1 else "ood" for label in labels.tolist()],
        }
        if "p_value" in self.columns:
            found["p_value"] = self.detector.p_values(features).tolist()
        if hasattr(self.classifier, "predict_class"):
            classes = self.classifier.predict_class(features)
            found["class"] = np.asarray(classes).tolist()
        return found


def take_apart(estimator):
    """Return the conformal detector, the extractor and the pipeline, or None for each.

    The last one is a detector alone where there is no pipeline.
    """
    estimator = unfrozen(estimator)
    conformal = None
    if isinstance(estimator, ConformalDetector):
        conformal, estimator = estimator, unfrozen(estimator.estimator_)
    steps, _ = parts_of(estimator)
    extractor = None if steps is None else steps[0]
    if not isinstance(extractor, TorchFeatureExtractor):
        extractor = None
    return conformal, extractor, estimator


def reason_of(error, row):
    """Return why an image cannot be read, in one line, without its row in a batch."""
    return " ".join(str(error).split()).removeprefix(f"Image {row}: ")
