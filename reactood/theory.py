"""The paper's model of a rectified unit, and how clipping changes its mean.

In the model, the values of a unit before its ReLU are normally distributed on
in-distribution data, and have a skewed distribution on other data.
"""

import numpy as np
from scipy.optimize import minimize
from scipy.special import gamma, log_ndtr, ndtr, ndtri
from scipy.stats import rv_continuous
from sklearn.utils import Bunch, check_array

__all__ = [
    "clipped_mean",
    "epsilon_skew_normal",
    "fit_activations",
    "mean_reduction",
    "rectified_mean",
]

SQRT_2PI = np.sqrt(2 * np.pi)
QUANTILES = 1000  # quantiles of a unit's activations that represent all in a fit
STARTS = 0.0, -0.6  # initial values of epsilon in a fit
FEWEST = 10  # fewest activations above 0 to fit three parameters


class EpsilonSkewNormal(rv_continuous):
    """The epsilon-skew-normal distribution of Mudholkar and Hutson.

    On each side of its mode it is half of a normal distribution, of width `1 + epsilon`
    below the mode and `1 - epsilon` above. With a negative `epsilon`, the long tail is
    above the mode.
    """

    def _argcheck(self, epsilon):
        return np.abs(epsilon) < 1

    def _pdf(self, x, epsilon):
        return np.exp(self._logpdf(x, epsilon))

    def _logpdf(self, x, epsilon):
        width = np.where(x < 0, 1 + epsilon, 1 - epsilon)
        return -((x / width) ** 2) / 2 - np.log(SQRT_2PI)

    def _cdf(self, x, epsilon):
        below = (1 + epsilon) * ndtr(x / (1 + epsilon))
        return np.where(x < 0, below, 1 - self._sf_above(x, epsilon))

    def _logcdf(self, x, epsilon):
        below = np.log1p(epsilon) + log_ndtr(x / (1 + epsilon))
        above = np.log1p(-self._sf_above(np.maximum(x, 0), epsilon))
        return np.where(x < 0, below, above)

    def _sf(self, x, epsilon):
        below = 1 - (1 + epsilon) * ndtr(x / (1 + epsilon))
        return np.where(x < 0, below, self._sf_above(x, epsilon))

    def _sf_above(self, x, epsilon):
        return (1 - epsilon) * ndtr(-x / (1 - epsilon))

    def _ppf(self, q, epsilon):
        below = (1 + epsilon) * ndtri(np.minimum(q / (1 + epsilon), 0.5))
        above = -(1 - epsilon) * ndtri(np.minimum((1 - q) / (1 - epsilon), 0.5))
        return np.where(q < (1 + epsilon) / 2, below, above)

    def _rvs(self, epsilon, size=None, random_state=None):
        below = random_state.uniform(size=size) < (1 + epsilon) / 2
        distance = np.abs(random_state.standard_normal(size=size))
        return distance * np.where(below, -(1 + epsilon), 1 - epsilon)

    def _munp(self, n, epsilon):
        of_abs_normal = 2 ** (n / 2) * gamma((n + 1) / 2) / np.sqrt(np.pi)
        above, below = (1 - epsilon) ** (n + 1), (1 + epsilon) ** (n + 1)
        return of_abs_normal * (above + (-1) ** n * below) / 2


epsilon_skew_normal = EpsilonSkewNormal(name="epsilon_skew_normal", shapes="epsilon")


def rectified_mean(mu, sigma, epsilon=0.0):
    """Return the mean of a rectified unit, `E[max(x, 0)]`.

    Parameters
    ----------
    mu : array-like
        Mode of `x`, the unit before its ReLU, in units of the activations.

    sigma : array-like
        Width of `x`, above 0: its standard deviation where `epsilon` is 0.

    epsilon : array-like, default=0.0
        Skewness of `x`, in (-1, 1): negative for a long tail of high activations, 0
        for a normal distribution.

    Returns
    -------
    mean : ndarray or float
        The mean, of the shape that the parameters broadcast to.

    Raises
    ------
    ValueError
        If a parameter is outside of its range.

    See Also
    --------
    clipped_mean : The same after the clip.

    References
    ----------
    .. [1] Y. Sun, C. Guo, Y. Li, "ReAct: Out-of-distribution Detection With Rectified
       Activations", NeurIPS 2021, section 5, :arxiv:`2111.12797`.

    Examples
    --------
    >>> from reactood.theory import rectified_mean
    >>> rectified_mean(mu=0.5, sigma=1.0, epsilon=[0.0, -0.5]).round(4)
    array([0.6978, 1.3187])
    """
    return mean_reduction(mu, sigma, epsilon, c=0.0)


def clipped_mean(mu, sigma, epsilon=0.0, *, c):
    """Return the mean of a rectified and clipped unit, `E[min(max(x, 0), c)]`.

    Parameters
    ----------
    mu, sigma, epsilon : array-like
        Parameters of the unit before its ReLU, as in `rectified_mean`.

    c : array-like
        The clip, at least 0; infinite for none.

    Returns
    -------
    mean : ndarray or float
        The mean, of the shape that the parameters broadcast to.

    Raises
    ------
    ValueError
        If a parameter is outside of its range.

    See Also
    --------
    mean_reduction : The difference to `rectified_mean`.

    Examples
    --------
    >>> from reactood.theory import clipped_mean
    >>> print(f"{clipped_mean(0.5, 1.0, c=1.0):.4f}")
    0.5000
    """
    return rectified_mean(mu, sigma, epsilon) - mean_reduction(mu, sigma, epsilon, c=c)


def mean_reduction(mu, sigma, epsilon=0.0, *, c):
    """Return the mean reduction of a rectified unit by a clip, `E[z - min(z, c)]`.

    The reduction increases with `mu`, with `sigma` if `c` is above `mu`, and as
    `epsilon` decreases: the longer the tail of high activations, the larger the
    reduction.

    Parameters
    ----------
    mu, sigma, epsilon : array-like
        Parameters of the unit before its ReLU, as in `rectified_mean`.

    c : array-like
        The clip, at least 0; infinite for none.

    Returns
    -------
    reduction : ndarray or float
        The reduction, at least 0, of the shape that the parameters broadcast to.

    Raises
    ------
    ValueError
        If a parameter is outside of its range.

    See Also
    --------
    reactood.inspection.ReductionDisplay : Draws it against the measured reduction.

    Notes
    -----
    The reduction is `sigma` times the integral of the survival function from
    `v = (c - mu) / sigma` to infinity. For `v` of at least 0, and with
    `u = v / (1 - epsilon)`, this integral is
    `(1 - epsilon)**2 * (phi(u) - u * (1 - Phi(u)))`. For negative `v`, it is that value
    at `v = 0`, plus the integral from `v` to 0.

    Examples
    --------
    On a skewed unit, the same clip causes three times the reduction:

    >>> from reactood.theory import mean_reduction
    >>> mean_reduction(mu=0.5, sigma=1.0, epsilon=[0.0, -0.5], c=1.0).round(4)
    array([0.1978, 0.572 ])
    """
    mu, sigma, epsilon, c = (
        np.asarray(value, dtype=np.float64) for value in (mu, sigma, epsilon, c)
    )
    for wrong, got in (
        (~(sigma > 0), "sigma must be above 0"),
        (~(np.abs(epsilon) < 1), "epsilon must be in (-1, 1)"),
        (~(c >= 0), "c must be at least 0"),
    ):
        if np.any(wrong):
            raise ValueError(f"{got}, in all of its values.")
    v = (c - mu) / sigma
    above, below = 1 - epsilon, 1 + epsilon
    tail = above**2 * _expected_excess(np.maximum(v, 0) / above)
    # Below the mode, the survival function is 1 - below * Phi(v / below).
    low = np.minimum(v, 0)
    left = below**2 * (_expected_excess(0.0) - _expected_excess(-low / below))
    return (sigma * (tail - low - left))[()]


def _expected_excess(u):
    """Return E[max(N - u, 0)] for a standard normal N."""
    density = np.exp(-(u**2) / 2) / SQRT_2PI
    u = np.where(np.isinf(u), 0.0, u)
    return density - u * ndtr(-u)


def fit_activations(X):
    """Fit the paper's model to activations, unit by unit.

    The fit is by maximum likelihood. An activation of 0 counts as a value of at most 0
    before the ReLU.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Activations after a ReLU, such as the features of most convolutional networks
        from :class:`~reactood.TorchFeatureExtractor`.

    Returns
    -------
    parameters : Bunch
        It holds float64 arrays of shape (n_features,):

        mu, sigma, epsilon : ndarray
            As in `rectified_mean`. All three are NaN for a unit that has fewer than 10
            activations above 0, or whose activations above 0 are all equal.

    Raises
    ------
    ValueError
        If there are negative activations, NaN or infinity.

    See Also
    --------
    reactood.inspection.ReductionDisplay : Shows how well the fitted model predicts.

    Notes
    -----
    If a unit has more than 1,000 activations above 0, these are replaced by 1,000 of
    their quantiles. If a unit is 0 for most samples, its three parameters can hardly be
    estimated, although the means that they predict can.

    Most networks average activations over positions. Such averages are not rectified
    normal variables, even if the activations at each position are: a fit describes
    them, but does not prove the model.

    Examples
    --------
    >>> import numpy as np
    >>> from reactood.theory import epsilon_skew_normal, fit_activations
    >>> unit = epsilon_skew_normal(-0.5, loc=0.5, scale=1.0)
    >>> X = np.maximum(unit.rvs(size=(5000, 1), random_state=0), 0)
    >>> fitted = fit_activations(X)
    >>> print(f"{fitted.mu[0]:.1f}, {fitted.sigma[0]:.1f}, {fitted.epsilon[0]:.1f}")
    0.5, 1.0, -0.5
    """
    X = check_array(X, dtype=(np.float64, np.float32))
    if X.min() < 0:
        raise ValueError(
            f"X has negative activations, down to {X.min():.3g}; expected activations "
            "after a ReLU, which the model describes."
        )
    fits = np.array([_fit_unit(column.astype(np.float64)) for column in X.T])
    return Bunch(mu=fits[:, 0], sigma=fits[:, 1], epsilon=fits[:, 2])


def _fit_unit(activations):
    positive = activations[activations > 0]
    n, n_zero = len(activations), len(activations) - len(positive)
    if len(positive) < FEWEST or np.ptp(positive) <= 1e-9 * positive.max():
        return np.nan, np.nan, np.nan
    if len(positive) > QUANTILES:
        ranks = (np.arange(QUANTILES) + 0.5) / QUANTILES
        positive = np.quantile(positive, ranks)
    scale = activations.std()
    fits = [
        minimize(
            _loss,
            (np.median(activations) / scale, 0.0, np.arctanh(start)),
            args=(positive / scale, n_zero / n),
            method="L-BFGS-B",
            bounds=((-20, 20), (-5, 5), (-4, 4)),
        )
        for start in STARTS
    ]
    mu, log_sigma, skew = min(fits, key=lambda fit: fit.fun).x
    return scale * mu, scale * np.exp(log_sigma), np.tanh(skew)


def _loss(parameters, positive, zero_share):
    """Return minus the mean log-likelihood per activation."""
    mu, log_sigma, skew = parameters
    sigma, epsilon = np.exp(log_sigma), np.tanh(skew)
    law = epsilon_skew_normal
    of_positive = np.mean(law._logpdf((positive - mu) / sigma, epsilon)) - log_sigma
    of_zero = law._logcdf(-mu / sigma, epsilon)
    return -(1 - zero_share) * of_positive - zero_share * of_zero
