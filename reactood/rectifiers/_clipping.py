"""Rules that cap high activations: BATS, VRA-P and BFAct."""

from numbers import Real
from typing import ClassVar

import numpy as np
from sklearn.base import (
    OneToOneFeatureMixin,
)

from reactood._scoring._percentile import (
    column_percentiles,
    pooled_percentiles,
)
from reactood._utils._sklearn import Interval
from reactood.rectifiers._base import BaseRectifier


class BATS(OneToOneFeatureMixin, BaseRectifier):
    """Clip each unit to its typical range, `mean ± n_std * std`.

    This is the rule of BATS [1]_. The mean and the standard deviation are measured on
    in-distribution features; the paper takes them from a BatchNorm layer.

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
    reactood.ReActDetector : Also clips each unit from both sides, with `per_unit=True`
        and `lower_percentile`.

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


class VRAP(OneToOneFeatureMixin, BaseRectifier):
    """Set low activations to 0 and clip high ones: VRA-P.

    The piecewise rule of VRA [1]_: activations below `low_` become 0, those above
    `high_` become `high_`, and those in between do not change.

    Parameters
    ----------
    low_percentile : float, default=60.0
        The percentile of in-distribution activations that defines `low_`, in percent.

    high_percentile : float, default=95.0
        The same for `high_`.

    per_unit : bool, default=True
        Whether each unit has percentiles of its own.

    low, high : float, default=None
        Values for `low_` and `high_`, which override the percentiles. The authors use
        0.5 and 1.0 for a ResNet-50.

    allow_signed : bool, default=False
        Whether to accept negative features, too. They become 0 if `low_` is at least 0.

    Attributes
    ----------
    low_, high_ : float or ndarray of shape (n_features,)
        The bounds between which activations do not change.

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
                "The lower bound is above the upper one; expected low_percentile below "
                f"high_percentile (got {self.low_percentile} and "
                f"{self.high_percentile}) and low below high (got {self.low} and "
                f"{self.high})."
            )

    def _shape(self, X):
        low, high = (np.asarray(end, dtype=X.dtype) for end in (self.low_, self.high_))
        return np.where(X < low, X.dtype.type(0), np.minimum(X, high))


class BFAct(OneToOneFeatureMixin, BaseRectifier):
    """Cap activations smoothly, by the amplitude of a Butterworth filter: BFAct.

    An activation `h` becomes `h / sqrt(1 + (h / c) ** (2 * order))` [1]_: about `h` for
    `h` far below `c`, and less the further `h` is above `c`.

    Parameters
    ----------
    percentile : float, default=95.0
        The percentile of all in-distribution activations that defines `c`, in percent.

    order : int, default=2
        The higher, the steeper the change at `c`.

    allow_signed : bool, default=False
        Whether to accept negative features, too, and cap their absolute values.

    Attributes
    ----------
    c_ : float
        The activation `c`, which is divided by the square root of 2.

    n_features_in_ : int
        Number of units.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if `X` had them.

    See Also
    --------
    reactood.ReActDetector : Clips instead of capping smoothly.

    References
    ----------
    .. [1] As described by Q. Zhao et al., "Towards Optimal Feature-Shaping Methods for
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
                "expected a value above 0: raise percentile."
            )

    def _shape(self, X):
        power = (np.abs(X).astype(np.float64) / self.c_) ** (2 * self.order)
        return (X / np.sqrt(1 + power)).astype(X.dtype)
