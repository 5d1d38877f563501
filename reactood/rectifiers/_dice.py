"""DICE: logits from the weights that contribute most."""

from typing import ClassVar

import numpy as np
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
)

from reactood._scoring._heads import linear_head, linear_logits
from reactood.rectifiers._base import PERCENT, BaseRectifier


class DICE(ClassNamePrefixFeaturesOutMixin, BaseRectifier):
    """Logits from the weights that contribute most: DICE.

    The contribution of a weight is the mean of weight times activation on
    in-distribution features. The weights of the head whose contribution is not above
    a percentile of all contributions are set to 0 [1]_. The output is logits, for a
    detector with `head=None`.

    Parameters
    ----------
    head : linear head
        `(weight, bias)`, a :class:`torch.nn.Linear`, a fitted scikit-learn classifier
        with `coef_`, or a function without arguments that returns one of these.

    percentile : float, default=70.0
        The share of the weights that is set to 0, in percent.

    Attributes
    ----------
    weight_ : ndarray of shape (n_classes, n_features)
        The weights, some of them set to 0.

    bias_ : ndarray of shape (n_classes,)
        The bias.

    n_features_in_ : int
        Number of units.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` had them.

    See Also
    --------
    reactood.ReActDetector : Scores the logits, with `percentile=None`.

    References
    ----------
    .. [1] Y. Sun, Y. Li, "DICE: Leveraging Sparsification for Out-of-Distribution
       Detection", ECCV 2022, :arxiv:`2111.09805`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from reactood import ReActDetector
    >>> from reactood.rectifiers import DICE
    >>> rng = np.random.default_rng(0)
    >>> X, head = rng.gamma(2, size=(99, 8)), (rng.normal(size=(3, 8)), np.zeros(3))
    >>> detector = make_pipeline(DICE(head), ReActDetector(percentile=None)).fit(X)
    >>> detector[0].weight_.size, int(np.sum(detector[0].weight_ != 0))
    (24, 7)
    """

    _parameter_constraints: ClassVar[dict] = {
        "head": "no_validation",
        "percentile": [PERCENT],
    }

    def __init__(self, head=None, percentile=70.0):
        self.head = head
        self.percentile = percentile

    def _learn(self, X):
        head = linear_head(self.head, X)
        contribution = head.weight * X.mean(axis=0, dtype=np.float64)
        kept = contribution > np.percentile(contribution, self.percentile)
        self.weight_, self.bias_ = np.where(kept, head.weight, 0), head.bias
        self._n_features_out = len(self.bias_)

    def _shape(self, X):
        return linear_logits(X, self.weight_, self.bias_)
