"""Score by the Mahalanobis distance to the nearest class mean."""

from typing import ClassVar

import numpy as np
from scipy.linalg import cholesky, eigh
from sklearn.base import clone
from sklearn.covariance import EmpiricalCovariance
from sklearn.utils import gen_batches

from reactood._scoring._blocks import rows_per_block
from reactood._utils._sklearn import HasMethods
from reactood.baselines._base import BaseFeatureDetector


class MahalanobisDetector(BaseFeatureDetector):
    """Scores features by their distance to the nearest class mean.

    Each class is a Gaussian, all with the same covariance [1]_. As in the comparison in
    the ReAct paper, the features are those of one layer, and the input is not
    perturbed. To score clipped features, use it after a rectifier in a pipeline.

    Parameters
    ----------
    covariance_estimator : estimator, default=None
        The estimator of the covariance of the features around their class means: any
        of :mod:`sklearn.covariance`. None for
        `EmpiricalCovariance(assume_centered=True)`. With fewer samples than a few times
        the number of features, prefer `LedoitWolf(assume_centered=True)`. With fewer
        samples than features, an estimator with shrinkage, such as this, is necessary.

    contamination : float, default=0.05
        The share of the training samples that falls below the decision threshold, a
        fraction in (0, 0.5].

    Attributes
    ----------
    means_ : ndarray of shape (n_classes, n_features)
        Mean of each class, float64.

    precision_ : ndarray of shape (n_features, n_features)
        Inverse of the covariance, or its pseudo-inverse if it has no inverse.

    classes_ : ndarray of shape (n_classes,)
        Class labels.

    offset_ : float
        The decision threshold of `score_samples`.

    n_features_in_ : int
        Number of features.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` had them.

    See Also
    --------
    sklearn.covariance.EllipticEnvelope : One robust Gaussian, without classes.

    References
    ----------
    .. [1] K. Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution
       Samples and Adversarial Attacks", NeurIPS 2018, :arxiv:`1807.03888`.

    Examples
    --------
    >>> from reactood.baselines import MahalanobisDetector
    >>> X = [[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [9.0, 9.0], [9.0, 6.0], [8.0, 9.0]]
    >>> y = [0, 0, 0, 1, 1, 1]
    >>> detector = MahalanobisDetector().fit(X, y)
    >>> detector.predict([[1.0, 1.0], [5.0, 5.0]])
    array([ 1, -1])
    """

    _parameter_constraints: ClassVar[dict] = {
        **BaseFeatureDetector._parameter_constraints,
        "covariance_estimator": [HasMethods(["fit", "get_precision"]), None],
    }

    def __init__(self, covariance_estimator=None, *, contamination=0.05):
        self.covariance_estimator = covariance_estimator
        self.contamination = contamination

    def fit(self, X, y=None):
        """Learn class means, their common covariance and the decision threshold.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            In-distribution features.

        y : array-like of shape (n_samples,), default=None
            Class labels. Rows where `y` is -1 are out-of-distribution and left out.
            None, or 1 for all other rows, means that they are one class. 0 is a class
            like any other, not a mark of OOD rows.

        Returns
        -------
        self : MahalanobisDetector
            The fitted detector.

        Raises
        ------
        ValueError
            If `X` holds NaN or inf, if the features of no class vary, or if there are
            too few rows to estimate their covariance without shrinkage: at most as many
            as features and classes together.
        """
        return super().fit(X, y)

    def _learn(self, X, y):
        labels = np.ones(len(X), dtype=int) if y is None else y
        classes, codes = np.unique(labels, return_inverse=True)
        centered, of_classes = X.astype(np.float64), []
        for code in range(len(classes)):
            of_class = codes == code
            of_classes.append(centered[of_class].mean(axis=0))
            centered[of_class] -= of_classes[-1]
        estimator = self.covariance_estimator
        if estimator is None:
            estimator = EmpiricalCovariance(assume_centered=True)
        precision = clone(estimator).fit(centered).get_precision()
        if not np.any(precision) or not np.any(centered):
            raise ValueError(
                f"The {len(X)} rows of X do not vary around the means of their "
                f"{len(classes)} classes; expected several different rows of a class."
            )
        _check_freedom(centered, codes, precision)
        means, root = np.array(of_classes), _root(precision)
        self.classes_, self.means_, self.precision_ = classes, means, precision
        self._root = root
        return self._scores(X)

    def score_samples(self, X):
        """Return minus the squared distance to the nearest class mean.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        scores : ndarray of shape (n_samples,)
            Scores of at most 0, float64: the higher, the more in-distribution.
        """
        return super().score_samples(X)

    def _scores(self, X):
        return _negative_distances(X, self.means_, self._root)


def _check_freedom(centered, codes, precision):
    """Raise if so few rows are given that all are equally far from their class mean.

    If there are no more rows than features and classes together, the distance of a row
    under the empirical covariance depends only on the size of its class. This is not so
    with shrinkage.
    """
    n, n_features = centered.shape
    sizes = np.bincount(codes)
    if n - len(sizes) > n_features:
        return
    squares = np.einsum("ij,ij->i", centered @ precision, centered)
    if np.allclose(squares, n * (1 - 1 / sizes[codes]), rtol=1e-6):
        raise ValueError(
            f"X has {n} rows of {len(sizes)} classes for {n_features} features: so few "
            "that all are equally far from the mean of their class, and scores cannot "
            f"rank them. Give more than {n_features + len(sizes)} rows, better "
            "several times as many, or covariance_estimator="
            "LedoitWolf(assume_centered=True), which shrinks the covariance."
        )


def _root(precision):
    """Return R with R @ R.T = precision: x @ R has the identity as covariance."""
    try:
        return cholesky(precision, lower=True)
    except np.linalg.LinAlgError:  # a pseudo-inverse may have eigenvalues of 0
        values, vectors = eigh(precision)
        return vectors * np.sqrt(np.maximum(values, 0))


def _negative_distances(X, means, root):
    """Return minus the smallest squared distance, block by block."""
    centers = means @ root
    scores = np.empty(len(X))
    # Relative to the mean of the centers, so that large common values do not cancel.
    origin = centers.mean(axis=0)
    centers = centers - origin
    norms = np.einsum("ij,ij->i", centers, centers)
    for rows in gen_batches(len(X), rows_per_block(max(root.shape[1], len(means)))):
        Z = X[rows].astype(np.float64) @ root - origin
        squares = norms - 2 * Z @ centers.T
        # The distance to the nearest class, again without the cancelling of squares.
        Z -= centers[squares.argmin(axis=1)]
        scores[rows] = -np.einsum("ij,ij->i", Z, Z)
    return scores
