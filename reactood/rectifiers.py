"""The rules that followed ReAct: other ways to shape activations before the head.

Each is a scikit-learn transformer from features to features, or to logits, to put
before a :class:`~reactood.ReActDetector` with ``percentile=None``.
"""

from numbers import Real
from typing import ClassVar

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    OneToOneFeatureMixin,
    TransformerMixin,
)
from sklearn.utils.validation import check_is_fitted, validate_data

from reactood._blocks import take_rows
from reactood._checks import as_a_whole, id_rows
from reactood._heads import LinearHead, make_head
from reactood._percentile import (
    check_percent,
    column_percentiles,
    pooled_percentiles,
)
from reactood._sklearn import Interval, StrOptions, _fit_context
from reactood._summary import Shown

__all__ = ["ASH", "BATS", "DICE", "SCALE", "VRAP", "BFAct"]

PERCENT = Interval(Real, 0, 100, closed="neither")
FLOATS = np.float64, np.float32


class _Rectifier(Shown, TransformerMixin, BaseEstimator):
    """Validates; what a rule learns and does is in ``_learn`` and ``_shape``."""

    _parameter_constraints: ClassVar[dict] = {}
    allow_signed = (
        True  # a parameter of the rules that assume activations of at least 0
    )

    @_fit_context(prefer_skip_nested_validation=True)
    @as_a_whole
    def fit(self, X, y=None):
        """Learn from in-distribution features.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        y : array-like of shape (n_samples,), default=None
            Rows where `y` is -1 are out-of-distribution and left out.

        Returns
        -------
        self : object
            The fitted rectifier.
        """
        for name in ("percentile", "low_percentile", "high_percentile"):
            check_percent(name, getattr(self, name, None))
        X = self._checked(X, reset=True)
        _, rows = id_rows(y, X)
        self._learn(take_rows(X, rows))
        return self

    def transform(self, X):
        """Shape features.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features.

        Returns
        -------
        shaped : ndarray of shape (n_samples, n_features)
            In the floating dtype of `X`.
        """
        check_is_fitted(self)
        return self._shape(self._checked(X, reset=False))

    def _checked(self, X, *, reset):
        X = validate_data(self, X, reset=reset, dtype=FLOATS)
        if self.allow_signed or X.min() >= 0:
            return X
        name = type(self).__name__
        raise ValueError(
            f"Negative values in data passed to {name}: down to {X.min():.3g}. Its "
            "rule assumes activations of at least 0, as after a ReLU. BATS and the "
            "clip of ReActDetector work on signed ones; allow_signed=True applies the "
            "rule all the same."
        )

    def _learn(self, X):
        """Learn nothing; most rules look at one sample at a time."""

    def __sklearn_is_fitted__(self):
        return hasattr(self, "n_features_in_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = not self.allow_signed
        return tags


class BATS(OneToOneFeatureMixin, _Rectifier):
    """Clip each unit to its typical range, `mean ± n_std * std`.

    The rule of BATS [1]_, with mean and standard deviation measured on in-distribution
    features, where the paper takes them from a BatchNorm layer.

    Parameters
    ----------
    n_std : float, default=1.05
        Half the width of the range, in standard deviations of the unit. The authors use
        1.05 with a network for ImageNet and 3.25 with one for CIFAR.

    Attributes
    ----------
    low_, high_ : ndarray of shape (n_features,)
        The range of each unit.

    n_features_in_ : int
        Number of units.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` had them.

    See Also
    --------
    reactood.ReActDetector : Clips with `per_unit` and `lower_percentile` likewise.

    References
    ----------
    .. [1] Y. Zhu et al., "Boosting Out-of-distribution Detection with Typical
       Features", NeurIPS 2022, :arxiv:`2210.04200`.

    Examples
    --------
    >>> from reactood.rectifiers import BATS
    >>> BATS(n_std=1.0).fit([[0.0], [2.0]]).transform([[5.0], [1.5]])
    array([[2. ],
           [1.5]])
    """

    _parameter_constraints: ClassVar[dict] = {
        "n_std": [Interval(Real, 0, None, closed="neither")]
    }

    def __init__(self, n_std=1.05):
        self.n_std = n_std

    def _learn(self, X):
        mean, std = X.mean(axis=0, dtype=np.float64), X.std(axis=0, dtype=np.float64)
        self.low_, self.high_ = mean - self.n_std * std, mean + self.n_std * std

    def _shape(self, X):
        return np.clip(X, self.low_.astype(X.dtype), self.high_.astype(X.dtype))


class VRAP(OneToOneFeatureMixin, _Rectifier):
    """Set low activations to 0 and clip high ones: VRA-P.

    The piecewise rule of VRA [1]_: 0 below `low_`, `high_` above it, and the activation
    itself in between.

    Parameters
    ----------
    low_percentile : float, default=60.0
        Percentile of in-distribution activations that `low_` is, in percent.

    high_percentile : float, default=95.0
        The same for `high_`.

    per_unit : bool, default=True
        Whether each unit has percentiles of its own.

    low, high : float, default=None
        Values given by hand, which override percentiles. The authors use 0.5 and 1.0
        for a ResNet-50.

    allow_signed : bool, default=False
        Whether to apply the rule to negative features too, which become 0.

    Attributes
    ----------
    low_, high_ : float or ndarray of shape (n_features,)
        Where the pieces meet.

    n_features_in_ : int
        Number of units.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` had them.

    See Also
    --------
    BATS : Clips low activations instead of setting them to 0.

    References
    ----------
    .. [1] M. Xu et al., "VRA: Variational Rectified Activation for Out-of-distribution
       Detection", NeurIPS 2023, :arxiv:`2302.11716`.

    Examples
    --------
    >>> from reactood.rectifiers import VRAP
    >>> VRAP(low=0.5, high=1.0).fit([[0.0, 1.0]]).transform([[0.2, 0.7], [0.5, 3.0]])
    array([[0. , 0.7],
           [0.5, 1. ]])
    """

    _parameter_constraints: ClassVar[dict] = {
        "low_percentile": [Interval(Real, 0, 100, closed="left")],
        "high_percentile": [Interval(Real, 0, 100, closed="right")],
        "per_unit": ["boolean"],
        "low": [Real, None],
        "high": [Real, None],
        "allow_signed": ["boolean"],
    }

    def __init__(
        self,
        low_percentile=60.0,
        high_percentile=95.0,
        *,
        per_unit=True,
        low=None,
        high=None,
        allow_signed=False,
    ):
        self.low_percentile = low_percentile
        self.high_percentile = high_percentile
        self.per_unit = per_unit
        self.low = low
        self.high = high
        self.allow_signed = allow_signed

    def _learn(self, X):
        percentiles = column_percentiles if self.per_unit else pooled_percentiles
        self.low_, self.high_ = (
            percentiles(X, [percentile]).percentiles[0] if given is None else given
            for percentile, given in (
                (self.low_percentile, self.low),
                (self.high_percentile, self.high),
            )
        )
        if np.any(self.low_ > self.high_):
            raise ValueError(
                "The lower end is above the upper one; wanted low_percentile below "
                f"high_percentile (got {self.low_percentile} and "
                f"{self.high_percentile}) and low below high (got {self.low} and "
                f"{self.high})."
            )

    def _shape(self, X):
        low, high = (np.asarray(end, dtype=X.dtype) for end in (self.low_, self.high_))
        return np.where(X < low, X.dtype.type(0), np.minimum(X, high))


class BFAct(OneToOneFeatureMixin, _Rectifier):
    """Cap activations smoothly, by a Butterworth filter's amplitude: BFAct.

    `h / sqrt(1 + (h / c) ** (2 * order))` [1]_: near `h` well below `c`, and falling
    above it.

    Parameters
    ----------
    percentile : float, default=95.0
        Percentile of all in-distribution activations that `c` is, in percent.

    order : int, default=2
        The higher, the steeper.

    allow_signed : bool, default=False
        Whether to apply the rule to negative features too, which are capped likewise.

    Attributes
    ----------
    c_ : float
        Where an activation is divided by the square root of 2.

    n_features_in_ : int
        Number of units.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` had them.

    See Also
    --------
    reactood.ReActDetector : The hard clip.

    References
    ----------
    .. [1] As given in Q. Zhao et al., "Towards Optimal Feature-Shaping Methods for
       Out-of-Distribution Detection", ICLR 2024, :arxiv:`2402.00865`.

    Examples
    --------
    >>> from reactood.rectifiers import BFAct
    >>> rule = BFAct(percentile=50).fit([[0.0, 1.0, 2.0]])
    >>> rule.transform([[0.1, 1.0, 9.0]]).round(3)
    array([[0.1  , 0.707, 0.111]])
    """

    _parameter_constraints: ClassVar[dict] = {
        "percentile": [Interval(Real, 0, 100, closed="right")],
        "order": [Interval(Real, 0, None, closed="neither")],
        "allow_signed": ["boolean"],
    }

    def __init__(self, percentile=95.0, *, order=2, allow_signed=False):
        self.percentile = percentile
        self.order = order
        self.allow_signed = allow_signed

    def _learn(self, X):
        (self.c_,) = pooled_percentiles(X, [self.percentile]).percentiles
        if self.c_ <= 0:
            raise ValueError(
                f"percentile={self.percentile} of the activations is {self.c_:.3g}; "
                "wanted one above 0: raise percentile."
            )

    def _shape(self, X):
        power = (np.abs(X).astype(np.float64) / self.c_) ** (2 * self.order)
        return (X / np.sqrt(1 + power)).astype(X.dtype)


class ASH(OneToOneFeatureMixin, _Rectifier):
    """Keep the highest activations of each sample, and change or scale these: ASH.

    The rules ASH-P, ASH-B and ASH-S [1]_, on pooled features. The paper applies them to
    maps before pooling. Nothing is learned.

    Parameters
    ----------
    percentile : float, default=65.0
        The share of the activations of a sample that is set to 0, in percent.

    kind : {"s", "p", "b"}, default="s"
        What becomes of the `k` kept ones: `"p"` leaves them as they are, `"b"` sets
        each to the sum of all activations divided by `k`, and `"s"` multiplies them by
        `exp(sum of all / sum of kept)`.

    allow_signed : bool, default=False
        Whether to apply the rule to negative features too. Its sums then mean little.

    Attributes
    ----------
    n_features_in_ : int
        Number of units.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` had them.

    See Also
    --------
    SCALE : Scales as ASH-S and keeps all activations.

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


class SCALE(OneToOneFeatureMixin, _Rectifier):
    """Multiply each sample by `exp(sum of all / sum of its highest activations)`.

    The rule of SCALE [1]_, which prunes nothing, so that the predicted class stays the
    same with a head without bias. Nothing is learned.

    Parameters
    ----------
    percentile : float, default=85.0
        The share of the activations of a sample that is left out of the second sum, in
        percent.

    allow_signed : bool, default=False
        Whether to apply the rule to negative features too. Its sums then mean little.

    Attributes
    ----------
    n_features_in_ : int
        Number of units.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` had them.

    See Also
    --------
    ASH : With `kind="s"`, scales as much and prunes.

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


class DICE(ClassNamePrefixFeaturesOutMixin, _Rectifier):
    """Logits from the weights that contribute most: DICE.

    Of all weights of the head, those whose mean contribution to a logit on
    in-distribution features, weight times activation, is not above a percentile are
    set to 0 [1]_. What comes out are logits, for a detector with `head=None`.

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
        The weights that are left.

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
        head = make_head(self.head, X)
        if not isinstance(head, LinearHead):
            raise ValueError(
                f"head={self.head!r} is not linear; wanted (weight, bias), "
                "torch.nn.Linear or a scikit-learn classifier with coef_, as weights "
                "are set to 0."
            )
        contribution = head.weight * X.mean(axis=0, dtype=np.float64)
        kept = contribution > np.percentile(contribution, self.percentile)
        self.weight_, self.bias_ = np.where(kept, head.weight, 0), head.bias
        self._n_features_out = len(self.bias_)

    def _shape(self, X):
        return X @ self.weight_.T.astype(X.dtype) + self.bias_.astype(X.dtype)


def _highest(X, percentile):
    """Return the places of the activations of each sample that are not pruned."""
    n = X.shape[1]
    n_kept = max(1, n - round(n * percentile / 100))
    return np.argpartition(X, n - n_kept, axis=1)[:, n - n_kept :]


def _growth(X, kept):
    """Return exp(sum of all / sum of kept) for each sample; 1 where all are 0."""
    of_all, of_kept = (values.sum(axis=1, keepdims=True) for values in (X, kept))
    silent = of_kept == 0
    return np.where(silent, 1, np.exp(of_all / np.where(silent, 1, of_kept)))
