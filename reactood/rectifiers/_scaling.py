"""Rules that scale each sample by its highest activations: ASH, SCALE and LTS."""

from typing import ClassVar

import numpy as np
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    OneToOneFeatureMixin,
)

from reactood._scoring._heads import linear_head, linear_logits
from reactood._utils._sklearn import StrOptions
from reactood.rectifiers._base import PERCENT, BaseRectifier


class ASH(OneToOneFeatureMixin, BaseRectifier):
    """Set all but the highest activations of each sample to 0: ASH.

    These are the rules ASH-P, ASH-B and ASH-S [1]_, on pooled features. The paper
    applies them to maps before pooling. Nothing is learned.

    Parameters
    ----------
    percentile : float, default=65.0
        The share of the activations of a sample that is set to 0, in percent.

    kind : {"s", "p", "b"}, default="s"
        What to do with the `k` highest activations, which are kept: `"p"` does not
        change them, `"b"` sets each to the sum of all activations divided by `k`, and
        `"s"` multiplies them by `exp(sum of all / sum of kept)`.

    allow_signed : bool, default=False
        Whether to accept negative features, too. The sums then have little meaning.

    Attributes
    ----------
    n_features_in_ : int
        Number of units.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` had them.

    See Also
    --------
    SCALE : Scales like ASH-S, but keeps all activations.

    References
    ----------
    .. [1] A. Djurisic et al., "Extremely Simple Activation Shaping for
       Out-of-Distribution Detection", ICLR 2023, :arxiv:`2209.09858`.

    Examples
    --------
    >>> from reactood.rectifiers import ASH
    >>> X = [[1.0, 4.0, 2.0, 3.0]]
    >>> ASH(50, kind="p").fit_transform(X), ASH(50, kind="b").fit_transform(X)
    (array([[0., 4., 0., 3.]]), array([[0., 5., 0., 5.]]))
    """

    _parameter_constraints: ClassVar[dict] = {
        "percentile": [PERCENT],
        "kind": [StrOptions({"s", "p", "b"})],
        "allow_signed": ["boolean"],
    }

    def __init__(self, percentile=65.0, *, kind="s", allow_signed=False):
        self.percentile = percentile
        self.kind = kind
        self.allow_signed = allow_signed

    def _shape(self, X):
        kept = _highest(X, self.percentile)
        shaped = np.zeros_like(X)
        values = np.take_along_axis(X, kept, axis=1)
        if self.kind == "s":
            values = values * _growth(X, values)
        elif self.kind == "b":
            values = X.sum(axis=1, keepdims=True) / kept.shape[1]
        np.put_along_axis(shaped, kept, values, axis=1)
        return shaped


class SCALE(OneToOneFeatureMixin, BaseRectifier):
    """Multiply each sample by `exp(sum of all / sum of its highest activations)`.

    This is the rule of SCALE [1]_. It sets no activation to 0, so that the predicted
    class does not change if the head has no bias. Nothing is learned.

    Parameters
    ----------
    percentile : float, default=85.0
        The share of the activations of a sample that is left out of the second sum, in
        percent.

    allow_signed : bool, default=False
        Whether to accept negative features, too. The sums then have little meaning.

    Attributes
    ----------
    n_features_in_ : int
        Number of units.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` had them.

    See Also
    --------
    ASH : With `kind="s"`, scales in the same way and sets low activations to 0.
    LTS : Scales the logits and not the features.

    References
    ----------
    .. [1] K. Xu et al., "Scaling for Training Time and Post-hoc Out-of-distribution
       Detection Enhancement", ICLR 2024, :arxiv:`2310.00227`.

    Examples
    --------
    >>> import numpy as np
    >>> from reactood.rectifiers import SCALE
    >>> X = np.array([[1.0, 4.0, 2.0, 3.0]])
    >>> bool(np.allclose(SCALE(50).fit_transform(X), X * np.exp(10 / 7)))
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "percentile": [PERCENT],
        "allow_signed": ["boolean"],
    }

    def __init__(self, percentile=85.0, *, allow_signed=False):
        self.percentile = percentile
        self.allow_signed = allow_signed

    def _shape(self, X):
        kept = _highest(X, self.percentile)
        return X * _growth(X, np.take_along_axis(X, kept, axis=1))


class LTS(ClassNamePrefixFeaturesOutMixin, BaseRectifier):
    """Logits times `(sum of all / sum of the highest activations) ** 2`: logit scaling.

    The rule of LTS [1]_. The head is applied to the features as they are, and its
    logits are scaled, bias included, so that the predicted class stays the same. What
    comes out are logits, for a detector with `head=None`. Nothing is learned, which
    makes it the clip's nearest rival.

    Parameters
    ----------
    head : linear head
        `(weight, bias)`, a :class:`torch.nn.Linear`, a fitted scikit-learn classifier
        with `coef_`, or a function without arguments that returns one of these.

    percentile : float, default=95.0
        The share of the activations of a sample that is left out of the second sum, in
        percent: with 95, the highest 5 % count.

    allow_signed : bool, default=False
        Whether to take negative features too. They count as 0 in the sums, as in the
        authors' code.

    Attributes
    ----------
    weight_ : ndarray of shape (n_classes, n_features)
        The weights of the head.

    bias_ : ndarray of shape (n_classes,)
        Its bias.

    n_features_in_ : int
        Number of units.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` had them.

    See Also
    --------
    SCALE : Scales the features, by an exponential.
    reactood.ReActDetector : Scores the logits, with `percentile=None`.

    References
    ----------
    .. [1] A. Djurisic, R. Liu, M. Nikolic, "Logit Scaling for Out-of-Distribution
       Detection", 2024, :arxiv:`2409.01175`.

    Examples
    --------
    >>> import numpy as np
    >>> from reactood.rectifiers import LTS
    >>> X, head = np.array([[1.0, 4.0, 2.0, 3.0]]), (np.eye(2, 4), np.zeros(2))
    >>> bool(np.allclose(LTS(head, 75).fit_transform(X), [[1 * 2.5**2, 4 * 2.5**2]]))
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        "head": "no_validation",
        "percentile": [PERCENT],
        "allow_signed": ["boolean"],
    }

    def __init__(self, head=None, percentile=95.0, *, allow_signed=False):
        self.head = head
        self.percentile = percentile
        self.allow_signed = allow_signed

    def _learn(self, X):
        head = linear_head(self.head, X)
        self.weight_, self.bias_ = head.weight, head.bias
        self._n_features_out = len(self.bias_)

    def _shape(self, X):
        active = np.maximum(X, 0)
        kept = _highest(active, self.percentile)
        ratio = _ratio(active, np.take_along_axis(active, kept, axis=1))
        return linear_logits(X, self.weight_, self.bias_) * ratio**2


def _highest(X, percentile):
    """Return the indices of the highest activations of each sample."""
    n = X.shape[1]
    n_kept = max(1, n - round(n * percentile / 100))
    return np.argpartition(X, n - n_kept, axis=1)[:, n - n_kept :]


def _growth(X, kept):
    """Return exp(sum of all / sum of kept) for each sample; 1 where all are 0."""
    silent = kept.sum(axis=1, keepdims=True) == 0
    return np.where(silent, 1, np.exp(_ratio(X, kept)))


def _ratio(X, kept):
    """Return sum of all / sum of kept for each sample; 1 where the kept are 0."""
    of_all, of_kept = (values.sum(axis=1, keepdims=True) for values in (X, kept))
    silent = of_kept == 0
    return np.where(silent, 1, of_all / np.where(silent, 1, of_kept))
