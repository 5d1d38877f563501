"""Scores by where features lie among the head's classes: fDBD, NCI and ViM."""

from numbers import Integral, Real
from typing import ClassVar

import numpy as np
from scipy.linalg import eigh
from scipy.special import logsumexp
from sklearn.utils import gen_batches

from reactood._scoring._blocks import rows_per_block
from reactood._scoring._heads import linear_head, linear_logits
from reactood._utils._sklearn import Interval
from reactood.baselines._base import BaseFeatureDetector


class _WithHead(BaseFeatureDetector):
    """Keeps the weights and the bias of the head."""

    _parameter_constraints: ClassVar[dict] = {
        **BaseFeatureDetector._parameter_constraints,
        "head": "no_validation",
    }

    head: object

    def _take_head(self, X):
        head = linear_head(self.head, X)
        self.weight_, self.bias_ = head.weight, head.bias

    def _logits(self, X):
        return linear_logits(X, self.weight_, self.bias_)


class FDBDDetector(_WithHead):
    """Scores features by their distance to the head's decision boundaries: fDBD.

    The mean distance to the hyperplanes between the predicted class and each other
    class, divided by the distance to the mean of the in-distribution features [1]_. An
    input far from all boundaries, for its distance to the mean, is in-distribution. To
    score clipped features, put a rectifier before it.

    Parameters
    ----------
    head : linear head
        `(weight, bias)`, a :class:`torch.nn.Linear`, a fitted scikit-learn classifier
        with `coef_`, or a function without arguments that returns one of these.

    contamination : float, default=0.05
        The share of the training samples that falls below the decision threshold, a
        fraction in (0, 0.5].

    Attributes
    ----------
    weight_ : ndarray of shape (n_classes, n_features)
        The weights of the head.

    bias_ : ndarray of shape (n_classes,)
        Its bias.

    mean_ : ndarray of shape (n_features,)
        Mean of the in-distribution features.

    offset_ : float
        The decision threshold of `score_samples`.

    n_features_in_ : int
        Number of features.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` had them.

    See Also
    --------
    NCIDetector : Scores by the direction from the same mean.

    Notes
    -----
    The distance to the boundary between classes a and b is that of the paper,
    `|z_a - z_b| / ||w_a - w_b||`. Two classes of equal weights have no boundary, and
    do not count. Memory for the distances between all pairs of classes is needed: 8 MB
    for 1,000 classes.

    References
    ----------
    .. [1] L. Liu, Y. Qin, "Fast Decision Boundary based Out-of-Distribution Detector",
       ICML 2024, :arxiv:`2312.11536`, equation 4.

    Examples
    --------
    >>> import numpy as np
    >>> from reactood.baselines import FDBDDetector
    >>> rng = np.random.default_rng(0)
    >>> X, head = rng.gamma(2, size=(99, 8)), (rng.normal(size=(3, 8)), np.zeros(3))
    >>> FDBDDetector(head).fit(X).score_samples(X).shape
    (99,)
    """

    def __init__(self, head=None, *, contamination=0.05):
        self.head = head
        self.contamination = contamination

    def _learn(self, X, y):
        self._take_head(X)
        self.mean_ = X.mean(axis=0, dtype=np.float64)
        weight = self.weight_.astype(np.float64)
        inverse = np.zeros((len(weight), len(weight)))
        for some in gen_batches(len(weight), max(1, (1 << 22) // weight.size)):
            apart = np.linalg.norm(weight[some, None] - weight, axis=2)
            inverse[some] = np.divide(1, apart, out=apart, where=apart > 0)
        self._inverse = inverse / max(1, len(weight) - 1)
        return self._scores(X)

    def _score(self, X):
        logits = self._logits(X).astype(np.float64)
        best = logits.argmax(axis=1)
        gaps = logits[np.arange(len(X)), best][:, None] - logits
        to_mean = np.linalg.norm(X - self.mean_, axis=1)
        to_boundaries = np.einsum("ij,ij->i", gaps, self._inverse[best])
        return to_boundaries / np.maximum(to_mean, np.finfo(X.dtype).tiny)


class NCIDetector(_WithHead):
    """Scores features by how they point to their class weights: NCI.

    The projection of the predicted class's weights on the feature, seen from the mean
    of the in-distribution features, plus `alpha` times the feature's size [1]_. To
    score clipped features, put a rectifier before it.

    Parameters
    ----------
    head : linear head
        `(weight, bias)`, a :class:`torch.nn.Linear`, a fitted scikit-learn classifier
        with `coef_`, or a function without arguments that returns one of these.

    alpha : float, default=1e-4
        Weight of the L1 norm of the feature, at least 0. The paper chooses it for each
        network on validation data; 0 leaves the norm out.

    contamination : float, default=0.05
        The share of the training samples that falls below the decision threshold, a
        fraction in (0, 0.5].

    Attributes
    ----------
    weight_ : ndarray of shape (n_classes, n_features)
        The weights of the head.

    bias_ : ndarray of shape (n_classes,)
        Its bias.

    mean_ : ndarray of shape (n_features,)
        Mean of the in-distribution features.

    offset_ : float
        The decision threshold of `score_samples`.

    n_features_in_ : int
        Number of features.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` had them.

    See Also
    --------
    FDBDDetector : Scores by the distance to decision boundaries.

    References
    ----------
    .. [1] L. Liu, Y. Qin, "Detecting Out-of-Distribution Through the Lens of Neural
       Collapse", CVPR 2025, :arxiv:`2311.01479`.

    Examples
    --------
    >>> import numpy as np
    >>> from reactood.baselines import NCIDetector
    >>> rng = np.random.default_rng(0)
    >>> X, head = rng.gamma(2, size=(99, 8)), (rng.normal(size=(3, 8)), np.zeros(3))
    >>> NCIDetector(head).fit(X).score_samples(X).shape
    (99,)
    """

    _parameter_constraints: ClassVar[dict] = {
        **_WithHead._parameter_constraints,
        "alpha": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(self, head=None, *, alpha=1e-4, contamination=0.05):
        self.head = head
        self.alpha = alpha
        self.contamination = contamination

    def _learn(self, X, y):
        self._take_head(X)
        self.mean_ = X.mean(axis=0, dtype=np.float64)
        return self._scores(X)

    def _score(self, X):
        weights = self.weight_[self._logits(X).argmax(axis=1)]
        centered = X - self.mean_
        length = np.maximum(np.linalg.norm(centered, axis=1), np.finfo(X.dtype).tiny)
        along = np.einsum("ij,ij->i", centered, weights) / length
        return along + self.alpha * np.abs(X).sum(axis=1, dtype=np.float64)


class ViMDetector(_WithHead):
    """Scores logits against one more, made of the residual of a feature: ViM.

    The residual is the part of a feature outside the subspace of the largest principal
    components of in-distribution features, seen from the point where all logits are 0.
    Its length, scaled to the size of the largest logits, is the virtual logit, and the
    score is the energy of the logits minus it [1]_. To score clipped features, put a
    rectifier before it.

    Parameters
    ----------
    head : linear head
        `(weight, bias)`, a :class:`torch.nn.Linear`, a fitted scikit-learn classifier
        with `coef_`, or a function without arguments that returns one of these.

    n_components : int, default=None
        Dimension of the principal subspace. None for 1,000 from 2,048 features on and
        512 from 768 on, as in the authors' code, and half the features below, but at
        most half the number of rows.

    contamination : float, default=0.05
        The share of the training samples that falls below the decision threshold, a
        fraction in (0, 0.5].

    Attributes
    ----------
    weight_ : ndarray of shape (n_classes, n_features)
        The weights of the head.

    bias_ : ndarray of shape (n_classes,)
        Its bias.

    origin_ : ndarray of shape (n_features,)
        Where residuals are seen from.

    residual_space_ : ndarray of shape (n_features, n_features - n_components)
        The directions outside the principal subspace.

    alpha_ : float
        The scale of the virtual logit.

    offset_ : float
        The decision threshold of `score_samples`.

    n_features_in_ : int
        Number of features.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` had them.

    See Also
    --------
    MahalanobisDetector : Scores by distances in the whole space.

    Notes
    -----
    The scale needs largest logits that are above 0 on average; `fit` raises an error
    otherwise. Those of a centered head, `(weight - weight.mean(axis=0), bias -
    bias.mean())`, always are, and have the same softmax.

    References
    ----------
    .. [1] H. Wang et al., "ViM: Out-Of-Distribution with Virtual-logit Matching", CVPR
       2022, :arxiv:`2203.10807`.

    Examples
    --------
    >>> import numpy as np
    >>> from reactood.baselines import ViMDetector
    >>> rng = np.random.default_rng(0)
    >>> X, head = rng.gamma(2, size=(99, 8)), (rng.normal(size=(3, 8)), np.zeros(3))
    >>> ViMDetector(head).fit(X).residual_space_.shape
    (8, 4)
    """

    _parameter_constraints: ClassVar[dict] = {
        **_WithHead._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(self, head=None, *, n_components=None, contamination=0.05):
        self.head = head
        self.n_components = n_components
        self.contamination = contamination

    def _learn(self, X, y):
        self._take_head(X)
        n, n_features = X.shape
        kept = self.n_components
        if kept is None:
            sizes = ((2048, 1000), (768, 512), (0, max(1, n_features // 2)))
            kept = next(size for least, size in sizes if n_features >= least)
            kept = max(1, min(kept, n // 2))
        if kept >= min(n, n_features):
            raise ValueError(
                f"n_components={self.n_components} means {kept} principal components "
                f"of {n} rows of {n_features} features, which leaves no residual: give "
                "more rows, or a smaller n_components."
            )
        weight, bias = (a.astype(np.float64) for a in (self.weight_, self.bias_))
        self.origin_ = -np.linalg.pinv(weight) @ bias
        square = np.zeros((n_features, n_features))
        for rows in gen_batches(n, rows_per_block(n_features)):
            centered = X[rows] - self.origin_
            square += centered.T @ centered
        _, directions = eigh(square / n)  # in ascending order
        self.residual_space_ = directions[:, : n_features - kept]
        blocks = gen_batches(n, rows_per_block(n_features))
        parts = [self._parts(X[rows]) for rows in blocks]
        logits, residual = (np.concatenate(part) for part in zip(*parts, strict=True))
        largest, energy = logits.T
        if not residual.mean() > np.sqrt(np.finfo(X.dtype).eps) * np.abs(X).max():
            raise ValueError(
                f"The {n} rows of X lie in a subspace of {kept} dimensions, which "
                "leaves no residual: give more rows, or a smaller n_components."
            )
        if not largest.mean() > 0:
            raise ValueError(
                f"The largest logits are {largest.mean():.4g} on average, not above 0, "
                "so that the virtual logit, which is scaled to them, would rank the "
                "residuals the wrong way round. Center the head, which changes no "
                "softmax: (weight - weight.mean(axis=0), bias - bias.mean())."
            )
        self.alpha_ = float(largest.mean() / residual.mean())
        return energy - self.alpha_ * residual

    def _parts(self, X):
        """Return the largest logit and the energy, (n, 2), and residual lengths."""
        logits = self._logits(X).astype(np.float64)
        residual = np.linalg.norm((X - self.origin_) @ self.residual_space_, axis=1)
        return np.c_[logits.max(axis=1), logsumexp(logits, axis=1)], residual

    def _score(self, X):
        logits, residual = self._parts(X)
        return logits[:, 1] - self.alpha_ * residual
