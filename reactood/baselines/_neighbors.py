"""Score by the distance to the nearest in-distribution features."""

from numbers import Integral
from typing import ClassVar

import numpy as np
from sklearn.base import clone
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from reactood._utils._sklearn import HasMethods, Interval
from reactood.baselines._base import BaseFeatureDetector


class KNNDetector(BaseFeatureDetector):
    """Scores features by the distance to their k-th nearest neighbour: deep KNN.

    All features are scaled to length 1 first; the distance to the `n_neighbors`-th
    nearest in-distribution feature counts [1]_. It needs no head. To score clipped
    features, put a rectifier before it.

    Parameters
    ----------
    n_neighbors : int, default=50
        Which neighbour counts, the k of the paper, which has 50 for CIFAR-10. Where
        there are few rows, a few percent of their number.

    index : estimator, default=None
        What finds neighbours: an unfitted estimator with scikit-learn's `fit` and
        `kneighbors`, on Euclidean distances. None for
        `NearestNeighbors(algorithm="brute")`, which is exact, and reads all rows for
        each new one. With 100,000 rows and more, give an index of a library for the
        purpose, such as Faiss, inside such an estimator.

    contamination : float, default=0.05
        The share of the training samples that falls below the decision threshold, a
        fraction in (0, 0.5].

    Attributes
    ----------
    index_ : estimator
        The fitted index, which holds all training rows, scaled.

    offset_ : float
        The decision threshold of `score_samples`: of training rows scored against all
        others.

    n_features_in_ : int
        Number of features.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` had them.

    See Also
    --------
    sklearn.neighbors.LocalOutlierFactor : Compares densities.

    Notes
    -----
    `predict` is for new rows. A training row that is scored once more is its own
    nearest neighbour, so that fewer of them than `contamination` are flagged.

    References
    ----------
    .. [1] Y. Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors",
       ICML 2022, :arxiv:`2204.06507`.

    Examples
    --------
    >>> import numpy as np
    >>> from reactood.baselines import KNNDetector
    >>> X = np.random.default_rng(0).gamma(2, size=(99, 8))
    >>> KNNDetector(n_neighbors=5).fit(X).score_samples(X[:3]).shape
    (3,)
    """

    _parameter_constraints: ClassVar[dict] = {
        **BaseFeatureDetector._parameter_constraints,
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "index": [HasMethods(["fit", "kneighbors"]), None],
    }

    def __init__(self, n_neighbors=50, *, index=None, contamination=0.05):
        self.n_neighbors = n_neighbors
        self.index = index
        self.contamination = contamination

    def _learn(self, X, y):
        if self.n_neighbors >= len(X):
            raise ValueError(
                f"n_neighbors={self.n_neighbors} with {len(X)} rows (n_samples="
                f"{len(X)}): expected fewer neighbours than rows. Lower n_neighbors, "
                "to a few percent of the rows, or give more rows."
            )
        index = self.index
        if index is None:
            index = NearestNeighbors(algorithm="brute")
        bank = normalize(X)
        self.index_ = clone(index).fit(bank)
        # A row is its own nearest neighbour: one more finds the others.
        return self._negative_distances(bank, self.n_neighbors + 1)

    def _scores(self, X):
        return self._negative_distances(normalize(X), self.n_neighbors)

    def _negative_distances(self, X, n_neighbors):
        distances, _ = self.index_.kneighbors(X, n_neighbors=n_neighbors)
        return -distances[:, -1].astype(np.float64)
