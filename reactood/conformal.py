"""ConformalDetector: p-values and guaranteed false alarm rates for any detector."""

import os
from numbers import Integral, Real

import numpy as np
from scipy.stats import false_discovery_control
from sklearn.base import BaseEstimator, MetaEstimatorMixin, OutlierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_random_state, get_tags, indexable
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)
from sklearn.utils.validation import check_is_fitted

from reactood._utils._display import Shown
from reactood._utils._estimators import FractionHints, ThresholdMixin, as_a_whole
from reactood._utils._labels import check_marks, id_rows
from reactood._utils._response import copy_input_names, parts_of, scoring_of
from reactood._utils._sklearn import (
    HasMethods,
    Interval,
    _check_method_params,
    _fit_context,
    _num_samples,
    _routing_enabled,
    _safe_indexing,
)

__all__ = ["ConformalDetector"]

FDR_METHODS = "bh", "by"
MOST_CLASSIFIED = 1000  # samples on which class labels are compared with decisions


class ConformalDetector(
    FractionHints,
    Shown,
    MetaEstimatorMixin,
    ThresholdMixin,
    OutlierMixin,
    BaseEstimator,
):
    """Turns the scores of an outlier detector into p-values.

    It needs calibration samples: in-distribution (ID) samples that the detector was
    not fitted to. The p-value of a new sample is the share of the calibration samples
    and the new one whose score is no higher than that of the new one. Among new ID
    samples from the distribution of the calibration samples, the expected share with
    a p-value of at most `alpha` is at most `alpha`, for any detector and any number of
    samples [1]_.

    Parameters
    ----------
    estimator : outlier detector
        Any scikit-learn outlier detector with `score_samples` or `decision_function`,
        or a Pipeline that ends in one. A fitted detector wrapped in
        :class:`~sklearn.frozen.FrozenEstimator` is not fitted again. Then all samples
        given to `fit` are calibration samples, and must not be its training samples.

    alpha : float, default=0.05
        The share of ID samples that may be rejected, a fraction in (0, 1).

    calibration_size : float or int, default=0.5
        The share of the ID samples that is held out for calibration, a fraction in
        (0, 1), or their number.

    random_state : int, RandomState instance or None, default=None
        Makes the choice of the calibration samples repeatable.

    Attributes
    ----------
    estimator_ : outlier detector
        The fitted detector.

    calibration_scores_ : ndarray of shape (n_calibration,)
        The scores of the calibration samples, ascending, float64. Samples with a score
        of NaN are left out.

    offset_ : float
        `decision_function(X) = score_samples(X) - offset_`.

    n_features_in_ : int
        Number of features seen during `fit`, if the detector has this attribute.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of features seen during `fit`, if the detector has this attribute.

    See Also
    --------
    reactood.ReActDetector : Has a threshold without a guarantee, and needs no
        calibration samples.
    reactood.monitoring.ConformalMonitor : Raises an alarm when the scores of a stream
        no longer look like the calibration scores.

    Notes
    -----
    The guarantee is an average over calibration sets. With a calibration set of n
    samples, the share of ID samples that are rejected follows a beta distribution with
    parameters k and n + 1 - k, where k = floor(alpha (n + 1)). It does not hold for ID
    data of another distribution than that of the calibration samples.

    References
    ----------
    .. [1] S. Bates, E. Candès, L. Lei, Y. Romano, M. Sesia, "Testing for outliers with
       conformal p-values", Annals of Statistics 2023, :arxiv:`2104.08279`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import IsolationForest
    >>> from reactood.conformal import ConformalDetector
    >>> rng = np.random.default_rng(0)
    >>> forest = IsolationForest(random_state=0)
    >>> detector = ConformalDetector(forest, alpha=0.1, random_state=0)
    >>> detector = detector.fit(rng.normal(size=(400, 2)))
    >>> detector.predict([[0, 0], [9, 9]])
    array([ 1, -1])
    >>> bool(detector.p_values([[9, 9]])[0] < 0.01)
    True
    """

    _parameter_constraints = {  # noqa: RUF012 (scikit-learn's own form)
        "estimator": [HasMethods(["fit"])],
        "alpha": [Interval(Real, 0, 1, closed="neither")],
        "calibration_size": [
            Interval(Real, 0, 1, closed="neither"),
            Interval(Integral, 1, None, closed="left"),
        ],
        "random_state": ["random_state"],
    }

    def __init__(
        self, estimator, *, alpha=0.05, calibration_size=0.5, random_state=None
    ):
        self.estimator = estimator
        self.alpha = alpha
        self.calibration_size = calibration_size
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=False)
    @as_a_whole
    def fit(self, X, y=None, **fit_params):
        """Fit the detector to some of the samples, and calibrate it with the others.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or images
            Samples of any kind that the detector takes and that can be indexed.

        y : array-like of shape (n_samples,), default=None
            Rows where `y` is -1 are out-of-distribution (OOD) and left out. The labels
            of the other rows are passed to the detector's `fit`. A warning is issued
            if no row is left out and the labels look like marks of OOD rows, such as
            0 and 1.

        **fit_params : dict
            Passed to the detector's `fit`; as metadata if metadata routing is enabled.
            Values with one entry per sample are split like `X`.

        Returns
        -------
        self : ConformalDetector
            The fitted detector.

        Raises
        ------
        ValueError
            If there are too few calibration samples for this `alpha`.
        """
        if isinstance(X, str | os.PathLike):
            raise TypeError(
                f"X is the path {os.fspath(X)!r}, which cannot be divided; expected a "
                "list of files: sorted(pathlib.Path(folder).rglob('*.jpg'))."
            )
        (X,) = indexable(X)
        y, rows = id_rows(y, X)
        index = np.arange(_num_samples(X)) if rows is None else np.flatnonzero(rows)
        if isinstance(self.estimator, FrozenEstimator):
            train, held_out = index[:0], index
            estimator = self.estimator
        else:
            train, held_out = self._divide(index)
            estimator = clone(self.estimator)
        self._n_rejected(len(held_out), len(index))
        if len(train):
            if _routing_enabled():
                fit_params = process_routing(self, "fit", **fit_params).estimator.fit
            params = _check_method_params(X, fit_params, indices=train)
            labels = None if y is None else y[train]
            estimator.fit(_safe_indexing(X, train), labels, **params)
        score = scoring_of(estimator)
        scores = np.asarray(score(_safe_indexing(X, held_out)), dtype=np.float64)
        scores = np.sort(scores[~np.isnan(scores)])
        n_rejected = self._n_rejected(len(scores), len(index))
        self.estimator_, self.calibration_scores_ = estimator, scores
        self.offset_ = float(scores[n_rejected - 1])
        copy_input_names(estimator, self)
        # A detector with classes_ has checked the labels in its own `fit`.
        if rows is None and not (
            len(train) and hasattr(parts_of(estimator)[1], "classes_")
        ):
            self._check_marks(X, y)
        return self

    def _check_marks(self, X, y):
        if y is None or not hasattr(self.estimator_, "predict_class"):
            return check_marks(y)
        some = np.arange(0, len(y), 1 + len(y) // MOST_CLASSIFIED)
        return check_marks(
            y[some],
            lambda: self.estimator_.predict_class(_safe_indexing(X, some)),
        )

    def p_values(self, X):
        """Return the p-value of each sample: the lower, the less in-distribution.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or images
            Samples.

        Returns
        -------
        p : ndarray of shape (n_samples,)
            `(1 + number of calibration scores <= score) / (n_calibration + 1)`,
            fractions in (0, 1], float64. If the score is NaN, as from a detector with
            `on_nan="reject"`, the smallest possible p-value: the sample is rejected.
        """
        scores = self.score_samples(X)
        below = np.searchsorted(self.calibration_scores_, scores, side="right")
        below[np.isnan(scores)] = 0  # searchsorted puts NaN last
        return (1 + below) / (1 + len(self.calibration_scores_))

    def predict_fdr(self, X, *, method="bh"):
        """Decide which samples to reject, with a bound on the false discovery rate.

        This rate, the expected share of ID samples among the rejected samples, is at
        most `alpha`. The label of a sample depends on the other samples in `X`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or images
            Samples.

        method : {"bh", "by"}, default="bh"
            `"bh"` is the procedure of Benjamini and Hochberg, which is valid for
            conformal p-values [1]_. `"by"` is that of Benjamini and Yekutieli, which
            is valid under any dependence, but rejects fewer samples.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            -1 for rejected samples, else 1.

        References
        ----------
        .. [1] S. Bates, E. Candès, L. Lei, Y. Romano, M. Sesia, "Testing for outliers
           with conformal p-values", Annals of Statistics 2023, :arxiv:`2104.08279`.
        """
        if method not in FDR_METHODS:
            raise ValueError(f"method={method!r} is not known; expected 'bh' or 'by'.")
        adjusted = false_discovery_control(self.p_values(X), method=method)
        return np.where(adjusted <= self.alpha, -1, 1)

    def score_samples(self, X):
        """Return the detector's own scores: the higher, the more in-distribution.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or images
            Samples.

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            `score_samples` of the detector, or its `decision_function`.
        """
        check_is_fitted(self)
        return np.asarray(scoring_of(self.estimator_)(X), dtype=np.float64)

    def get_metadata_routing(self):
        """Return how metadata is routed.

        Returns
        -------
        routing : MetadataRouter
            Routes metadata to the detector's `fit`.
        """
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return MetadataRouter(owner=type(self).__name__).add(
            estimator=self.estimator, method_mapping=mapping
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.estimator).input_tags
        return tags

    def _n_rejected(self, n_calibration, n_samples):
        """Return how many of the calibration samples are rejected."""
        n_rejected = _most_rejected(self.alpha, n_calibration)
        if n_rejected == 0:
            raise ValueError(
                f"alpha={self.alpha} needs at least {int(np.ceil(1 / self.alpha)) - 1} "
                f"calibration samples, but only {n_calibration} have a score, of "
                f"n_samples={n_samples}. Give more, or raise alpha or calibration_size."
            )
        return n_rejected

    def _divide(self, index):
        """Return the rows to fit to and the calibration rows."""
        n, size = len(index), self.calibration_size
        # As floats, 0.07 * 100 is a little more than 7.
        share = round(size * n, 9)
        n_held_out = int(size if isinstance(size, Integral) else np.ceil(share))
        if n_held_out >= n:
            raise ValueError(
                f"calibration_size={size} of n_samples={n} in-distribution samples "
                "leaves none to fit the detector to. Give more samples, or a smaller "
                "share. If the detector is already fitted, pass "
                "FrozenEstimator(detector)."
            )
        index = check_random_state(self.random_state).permutation(index)
        return np.sort(index[n_held_out:]), np.sort(index[:n_held_out])


def _most_rejected(alpha, n):
    """Return the largest k with k / (n + 1) <= alpha in floating point."""
    k = int(alpha * (n + 1))
    return k + 1 if (k + 1) / (n + 1) <= alpha else k - (k / (n + 1) > alpha)
