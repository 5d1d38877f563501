"""ImageScorer: from paths to rows of a table, one for each image whatever is in it."""

import copy

import numpy as np

from reactood._cli._detectors import reason_of, take_apart
from reactood._networks._engines import device_of
from reactood._networks._forward import read_size
from reactood._utils._response import parts_of

NO_NUMBER = "the network's output for it is not finite"


class ImageScorer:
    """Scores image files with a fitted detector.

    Parameters
    ----------
    estimator : Pipeline or ConformalDetector
        Takes images.
    name : str
        The file that it is from, for errors.

    Attributes
    ----------
    columns : tuple of str
        The keys of each row.
    batch_size : int
        How many images go through the network at once. Scores may depend on it in
        their last digits.
    settings : dict
        All on which the last digits of scores may depend.
    """

    def __init__(self, estimator, name):
        conformal, self.extractor, pipeline = take_apart(estimator, name)
        steps, detector = parts_of(pipeline)
        self.later_steps = steps[1:] if len(steps) > 1 else None
        self.classifier = detector
        self.detector = detector
        if conformal is not None:
            # The same calibration, for features instead of images.
            self.detector = copy.copy(conformal)
            self.detector.estimator_ = detector
        elif hasattr(detector, "p_values"):
            self.classifier = detector.estimator_
        p_value = ("p_value",) if hasattr(self.detector, "p_values") else ()
        self.columns = ("path", "score", "decision", *p_value, "class", "error")
        device = device_of(self.extractor.device, self.extractor.engine)
        self.batch_size = read_size(self.extractor.batch_size, device)
        self.settings = {
            "batch size": self.batch_size,
            "device": device.type,
            "precision": self.extractor.precision,
            "engine": self.extractor.engine,
        }

    def __call__(self, paths):
        """Return a dict for each image; values that there are not are None."""
        features, errors = self.extractor.transform_with_errors(paths)
        reasons = {row: reason_of(error, row) for row, error in errors.items()}
        for row in np.flatnonzero(~np.isfinite(features).all(axis=1)).tolist():
            reasons.setdefault(row, NO_NUMBER)
        good = [row for row in range(len(paths)) if row not in reasons]
        rows = [dict.fromkeys(self.columns) | {"path": path} for path in paths]
        for row, reason in reasons.items():
            rows[row]["error"] = reason
        if good:
            found = self._columns_of(features[good])
            for i, row in enumerate(good):
                rows[row] |= {name: values[i] for name, values in found.items()}
        return rows

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
