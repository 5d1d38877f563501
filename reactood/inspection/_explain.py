"""Compute what each clipped unit contributes to the drop of the energy."""

import numpy as np
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.utils import Bunch, gen_batches

from reactood._scoring._blocks import rows_per_block
from reactood.inspection._common import activations

NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)
NARROW = 8.0  # largest change of the logits for which 16 nodes are exact to 1e-9
SETTLED = np.log1p(-1e-12)  # log-probability of a class that has almost all


def explain_clipping(estimator, X):
    """Compute how much each clipped unit contributes to the drop of the energy.

    The energy `T * logsumexp(logits / T)` of a sample changes when its activations
    are clipped. This change is divided among the clipped units: the contributions of
    a sample add up to its `drop`. The drop is not the reason why a sample is rejected:
    in-distribution samples often have a larger one. See `explain_decision` for it.

    Parameters
    ----------
    estimator : ReActDetector or Pipeline
        A fitted :class:`~reactood.ReActDetector` with a linear head, or a pipeline
        that ends in one. The energy is explained for any `score_function`, at the
        detector's `temperature`.

    X : array-like of shape (n_samples, n_features), or images
        Features for a detector, images for a pipeline.

    Returns
    -------
    explanation : Bunch
        It holds float64 arrays:

        excess : ndarray of shape (n_samples, n_features)
            The change by the clip, `h - clip(h)`, in units of the activations:
            positive where `h` is clipped from above, negative where from below.
        contribution : ndarray of shape (n_samples, n_features)
            What each unit contributes to the drop, in units of the logits; exactly 0
            if the unit is not clipped. Where it is negative, clipping the unit raises
            the energy, for example because its weights to the likely classes are
            negative.
        drop : ndarray of shape (n_samples,)
            The energy without clipping minus the energy with clipping.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the detector is not fitted.
    TypeError
        If the estimator is not, and does not end in, a ReActDetector.
    ValueError
        If the head is not linear.

    See Also
    --------
    EnergyDropDisplay : Draws the contributions for one sample.
    explain_decision : Why a sample is rejected.

    Notes
    -----
    Contributions are integrated gradients [1]_ along the straight line from the
    clipped to the unclipped features: `excess[i] * sum_k q[k] * W[k, i]`, where `W` are
    the head's weights and `q[k]` is the softmax probability of class `k`, averaged
    over the line. For a small excess, the probabilities hardly change along the line,
    and this is the first-order formula, `sum_k p[k] * W[k, i] * max(h[i] - c, 0)`.

    References
    ----------
    .. [1] M. Sundararajan, A. Taly, Q. Yan, "Axiomatic Attribution for Deep Networks",
       ICML 2017, :arxiv:`1703.01365`.

    Examples
    --------
    >>> import numpy as np
    >>> from reactood import ReActDetector
    >>> from reactood.inspection import explain_clipping
    >>> rng = np.random.default_rng(0)
    >>> X = rng.gamma(2.0, size=(200, 8))
    >>> head = rng.normal(size=(3, 8)), np.zeros(3)
    >>> detector = ReActDetector(head, percentile=90).fit(X)
    >>> explanation = explain_clipping(detector, X)
    >>> bool(np.allclose(explanation.contribution.sum(axis=1), explanation.drop))
    True
    """
    return explain(*activations(estimator, X))


def explain(detector, features, clipped):
    """Explain the drop of the energy, given features and the clipped features."""
    if not hasattr(detector, "coef_"):
        kind = "no head" if detector.head is None else type(detector.head).__name__
        raise ValueError(
            f"The detector has no coef_ (head: {kind}); expected a linear head, such "
            "as (weight, bias) or torch.nn.Linear, because contributions are computed "
            "from its weights."
        )
    weight, bias = (
        np.asarray(a, np.float64) for a in (detector.coef_, detector.intercept_)
    )
    excess = features.astype(np.float64) - clipped
    contribution, drop = np.empty_like(excess), np.empty(len(excess))
    for rows in gen_batches(len(excess), rows_per_block(len(weight))):
        # Logits divided by the temperature; drop is multiplied by it at the end.
        start = (clipped[rows] @ weight.T + bias) / detector.temperature
        step = excess[rows] @ weight.T / detector.temperature
        contribution[rows] = excess[rows] * (mean_softmax(start, step) @ weight)
        change = logsumexp(start + step, axis=1) - logsumexp(start, axis=1)
        drop[rows] = detector.temperature * change
    return Bunch(excess=excess, contribution=contribution, drop=drop)


def mean_softmax(start, step):
    """Average softmax(start + t * step) over t in [0, 1], for each row.

    This uses Gauss-Legendre quadrature on intervals of t. An interval is halved until
    the logits change little on it, or one class has almost all of the probability at
    both ends. Such a class has it in between, too, because the logits that give a class
    at least some probability form a convex set.

    If the differences of the logits change by up to r, the softmax has no pole within
    π / r of the line in the complex plane. This bounds the error of a narrow interval.
    """

    def logits(rows, t):
        return start[rows] + t[:, np.newaxis] * step[rows]

    mean = np.zeros_like(start)
    rows, left, width = np.arange(len(start)), np.zeros(len(start)), 1.0
    distance = np.ptp(step, axis=1)
    while len(rows):
        ends = np.minimum(
            log_softmax(logits(rows, left), axis=1),
            log_softmax(logits(rows, left + width), axis=1),
        )
        done = (width * distance[rows] <= NARROW) | (ends.max(axis=1) >= SETTLED)
        open_rows, open_left = rows[~done], left[~done]
        rows, left = rows[done], left[done]
        part = sum(
            w / 2 * softmax(logits(rows, left + width * (node + 1) / 2), axis=1)
            for node, w in zip(NODES, WEIGHTS, strict=True)
        )
        np.add.at(mean, rows, width * part)
        width /= 2
        rows = np.concatenate([open_rows, open_rows])
        left = np.concatenate([open_left, open_left + width])
    return mean
