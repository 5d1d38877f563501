"""Logits to scores, as pure functions: the higher, the more in-distribution.

Each takes logits of shape (n_samples, n_classes) and a temperature T, and returns a
tensor of shape (n_samples,).  All of them rest on ``log_softmax``, which torch runs
several times faster than ``logsumexp``.

At a high temperature the logits differ by little, and what tells rows apart is a small
part of a large number: T · log(n_classes), for the energy. float32 would round it away,
so there, and for the entropy at any temperature, scores are computed in float64.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch

from reactood._scoring._percentile import interpolated

LAST_BITS = 16  # roundings by which a score may change with the rows beside it
MOST_TIED = 1e-3  # share of the rows whose labels may change by their last bits
LEAST_LEVELS = 1000  # scores of float64 that there must be between the extremes


def check_result(result, n_rows):
    """Raise unless a score function returned one score per row."""
    shape = getattr(result, "shape", None)
    if shape is None or tuple(shape) != (n_rows,):
        got = type(result).__name__ if shape is None else f"shape {tuple(shape)}"
        raise ValueError(
            f"score_function returned {got}, expected a tensor with one score per row, "
            f"({n_rows},)."
        )


def check_scores(scores):
    """Raise if scores of finite features are NaN or infinite."""
    bad = ~np.isfinite(scores)
    if bad.any():
        raise ValueError(
            f"{bad.sum()} of {len(scores)} rows get a score of NaN or inf, though "
            f"their features are finite, the first being number "
            f"{bad.argmax()}: does the head overflow, does score_function= "
            "take a logarithm or a root, or is the temperature very low?"
        )


def threshold_of(scores, share, X, common=0.0, counts=None):
    """Return the score that the ``share`` of the rows is below, a percentile.

    ``counts`` says how many rows each score stands for; None for one.

    Where many rows tie there, the threshold is below all of them: how many rows are
    scored at once changes the last bits of a score, and must not change a decision.
    """
    if counts is None:
        counts = np.ones(len(scores), np.int64)
    threshold = percentile_of_counted(scores, 100 * share, counts)
    margin = LAST_BITS * _rounding_of(scores - common, X)
    tied = np.abs(scores - threshold) <= margin
    many = counts[tied].sum() > 1 + MOST_TIED * counts.sum()
    return float(scores[tied].min() - margin if many else threshold)


def percentile_of_counted(scores, q, counts):
    """Return the percentile ``q`` of scores of which each stands for several."""
    if np.all(counts == 1):
        return np.percentile(scores, q)
    order = np.argsort(scores)
    n_up_to = counts[order].cumsum()
    position = (n_up_to[-1] - 1) * (q / 100)
    lower = np.floor(position)
    ranks = [lower, min(lower + 1, n_up_to[-1] - 1)]
    a, b = scores[order][np.searchsorted(n_up_to, ranks, side="right")]
    return interpolated(a, b, position - lower)


def check_spread(scores, X, common=0.0):
    """Raise if all scores are the same, as far as their precision tells.

    ``common`` is a part of all scores that is exact, and of which only the rounding of
    float64 matters.
    """
    least = max(
        4 * _rounding_of(scores - common, X),
        LEAST_LEVELS * np.finfo(np.float64).eps * np.abs(scores).max(),
    )
    if len(scores) > 1 and np.ptp(scores) <= least:
        raise ValueError(
            f"All {len(scores)} training rows (n_features={X.shape[1]}) get the same "
            f"score, {scores[0]:.6g}: they cannot be ranked. Are all rows of X "
            "alike, are the head's weights all 0, does the clip cut everything off, "
            "or is the temperature very high?"
        )


HIGHEST_IN_SINGLE = 1.0  # the highest temperature for float32


def energy(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """T · logsumexp(logits / T), the negative free energy.

    Parameters
    ----------
    logits : Tensor of shape (n_samples, n_classes)
        The logits.

    temperature : float, default=1.0
        The temperature T.

    Returns
    -------
    scores : Tensor of shape (n_samples,)
        The higher, the more in-distribution.
    """
    if temperature > HIGHEST_IN_SINGLE:
        logits = _double(logits)
    # log MSP = max / T - logsumexp(logits / T), solved for the last term.
    return logits.amax(dim=1) - temperature * _log_msp(logits, temperature)


def centered(logits: torch.Tensor) -> torch.Tensor:
    """Return logits less the mean of their row."""
    return logits - logits.mean(dim=1, keepdim=True)


def centered_energy(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Energy of the logits less their mean.

    A classifier is trained on the softmax of its logits, which stays the same if a
    number is added to all logits of a row. Energy and the largest logit go up and down
    with that number, about which training says nothing. Here it is taken out, so that
    the score depends on the softmax alone, as MSP, entropy and GEN do: it is
    `T * (log(n_classes) + KL(uniform || softmax))`.

    Parameters
    ----------
    logits : Tensor of shape (n_samples, n_classes)
        The logits.

    temperature : float, default=1.0
        The temperature T.

    Returns
    -------
    scores : Tensor of shape (n_samples,)
        `T * logsumexp(logits / T) - mean(logits)`, at least `T * log(n_classes)`: the
        higher, the more in-distribution.

    Examples
    --------
    >>> import torch
    >>> from reactood.scores import centered_energy, energy
    >>> logits = torch.tensor([[9.0, 0.0, 0.0], [10.0, 1.0, 1.0]])
    >>> centered_energy(logits)
    tensor([6.0002, 6.0002])
    >>> energy(logits)
    tensor([ 9.0002, 10.0002])
    """
    if temperature > HIGHEST_IN_SINGLE:
        logits = _double(logits)
    return energy(centered(logits), temperature)


def centered_max_logit(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Largest logit less the mean of all; see :func:`centered_energy`.

    Parameters
    ----------
    logits : Tensor of shape (n_samples, n_classes)
        The logits.

    temperature : float, default=1.0
        Not used.

    Returns
    -------
    scores : Tensor of shape (n_samples,)
        At least 0: the higher, the more in-distribution.
    """
    return logits.amax(dim=1) - logits.mean(dim=1)


def msp(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Maximum softmax probability of logits / T.

    Parameters
    ----------
    logits : Tensor of shape (n_samples, n_classes)
        The logits.

    temperature : float, default=1.0
        The temperature T.

    Returns
    -------
    scores : Tensor of shape (n_samples,)
        In (0, 1]: the higher, the more in-distribution.
    """
    if temperature > HIGHEST_IN_SINGLE:
        logits = _double(logits)
    return _log_msp(logits, temperature).exp()


def max_logit(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Largest logit; the temperature does not matter.

    Parameters
    ----------
    logits : Tensor of shape (n_samples, n_classes)
        The logits.

    temperature : float, default=1.0
        Not used.

    Returns
    -------
    scores : Tensor of shape (n_samples,)
        The higher, the more in-distribution.
    """
    return logits.amax(dim=1)


def entropy(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Negative Shannon entropy of the softmax of logits / T, in nats.

    Parameters
    ----------
    logits : Tensor of shape (n_samples, n_classes)
        The logits.

    temperature : float, default=1.0
        The temperature T.

    Returns
    -------
    scores : Tensor of shape (n_samples,)
        At most 0, float64: the higher, the more in-distribution.
    """
    log_p = _log_softmax(_double(logits), temperature)
    return (log_p.exp() * log_p).sum(dim=1)


def gen(
    logits: torch.Tensor,
    temperature: float = 1.0,
    *,
    gamma: float = 0.1,
    n_largest: int = 100,
) -> torch.Tensor:
    """Negative generalised entropy of the largest probabilities.

    Parameters
    ----------
    logits : Tensor of shape (n_samples, n_classes)
        The logits.

    temperature : float, default=1.0
        The softmax is that of `logits / temperature`.

    gamma : float, default=0.1
        The exponent, in (0, 1). The smaller, the more the small probabilities count.
        0.1 is what the paper uses throughout.

    n_largest : int, default=100
        How many of the largest probabilities count; all, where there are fewer. The
        paper's M, 100 there for ImageNet.

    Returns
    -------
    scores : Tensor of shape (n_samples,)
        Minus the sum of `p ** gamma * (1 - p) ** gamma` [1]_, float64: at most 0, the
        higher, the more in-distribution.

    References
    ----------
    .. [1] X. Liu, Y. Lochman, C. Zach, "GEN: Pushing the Limits of Softmax-Based
       Out-of-Distribution Detection", CVPR 2023, equation 2.

    Examples
    --------
    >>> import torch
    >>> from reactood.scores import gen
    >>> sure, unsure = gen(torch.tensor([[9.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
    >>> bool(sure > unsure)
    True
    """
    if not 0 < gamma < 1:
        raise ValueError(f"gamma={gamma}; expected a number between 0 and 1.")
    if n_largest < 1:
        raise ValueError(f"n_largest={n_largest}; expected an integer of at least 1.")
    if temperature > HIGHEST_IN_SINGLE:
        logits = _double(logits)
    largest, index = logits.topk(min(n_largest, logits.shape[1]), dim=1)
    top = largest[:, :1]
    # The largest p is 1 / (1 + others): its distance to 1 keeps all bits that way.
    others = ((logits - top) / temperature).scatter_(1, index[:, :1], -torch.inf).exp_()
    log_p = (largest - top) / temperature - others.sum(1, keepdim=True).log1p()
    log_rest = torch.log(-torch.expm1(log_p))  # log(1 - p)
    return -(gamma * (log_p + log_rest)).exp().double().sum(dim=1)


def joint_energy(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Sum of the energies of all labels, for a head with several true labels at once.

    Parameters
    ----------
    logits : Tensor of shape (n_samples, n_labels)
        The logits of independent sigmoids.

    temperature : float, default=1.0
        The temperature T.

    Returns
    -------
    scores : Tensor of shape (n_samples,)
        The sum of `T * log(1 + exp(logit / T))` over labels [1]_: the higher, the more
        in-distribution.

    References
    ----------
    .. [1] H. Wang et al., "Can Multi-label Classification Networks Know What They
       Don't Know?", NeurIPS 2021, :arxiv:`2109.14162`.

    Examples
    --------
    >>> import torch
    >>> from reactood.scores import joint_energy
    >>> two_labels, none = joint_energy(torch.tensor([[5.0, 5.0], [-5.0, -5.0]]))
    >>> bool(two_labels > none)
    True
    """
    if temperature > HIGHEST_IN_SINGLE:
        logits = _double(logits)
    return temperature * torch.nn.functional.softplus(logits / temperature).sum(dim=1)


SCORES = {
    "energy": energy,
    "centered_energy": centered_energy,
    "centered_max_logit": centered_max_logit,
    "msp": msp,
    "max_logit": max_logit,
    "entropy": entropy,
    "gen": gen,
    "joint_energy": joint_energy,
}


# Centered scores, which depend on the softmax alone, and the same without centering.
PLAIN = {"centered_energy": "energy", "centered_max_logit": "max_logit"}
CENTERED = tuple(PLAIN)


def as_name(score: str | Callable, temperature: float = 1.0) -> tuple:
    """Return the name and the temperature of a score of this package.

    A function in ``SCORES``, or a partial of one with a temperature, is the same score
    as its name. Other functions are returned as they are.
    """
    function, own_temperature = score, 1.0
    if isinstance(score, functools.partial) and not score.args:
        if set(score.keywords) <= {"temperature"}:
            function = score.func
            own_temperature = score.keywords.get("temperature", 1.0)
    for name, known in SCORES.items():
        if function is known:
            return name, own_temperature
    return score, temperature


# Scores that follow from the largest logit z, the logarithm of the MSP, the mean of all
# logits and the temperature T.
_FROM_LARGEST = {
    "energy": lambda z, log_msp, mean, T: z - T * log_msp,
    "centered_energy": lambda z, log_msp, mean, T: z - T * log_msp - mean,
    "centered_max_logit": lambda z, log_msp, mean, T: z - mean,
    "max_logit": lambda z, log_msp, mean, T: z,
    "msp": lambda z, log_msp, mean, T: log_msp.exp(),
}


def several_scores(
    logits: torch.Tensor, scores: list, mean: torch.Tensor
) -> list[torch.Tensor]:
    """Return several scores of logits from which classes were taken.

    Parameters
    ----------
    logits : Tensor of shape (n_samples, n_classes)
        The logits that are left.
    scores : list of (score_function, temperature)
        Each a name in ``SCORES`` or a function of logits, and a temperature.
    mean : Tensor of shape (n_samples,)
        The mean of the logits of all classes, by which logits are centered: it is a
        property of the head, and the classes that are left would give another one.
    """
    log_msps: dict[float, torch.Tensor] = {}
    largest, results = logits.amax(dim=1), []
    for score, T in (as_name(*some) for some in scores):
        if isinstance(score, str) and score in _FROM_LARGEST:
            if T not in log_msps:
                high = T > HIGHEST_IN_SINGLE
                log_msps[T] = _log_msp(_double(logits) if high else logits, T)
            log_msp = log_msps[T]
            z, m = (of_row.to(log_msp) for of_row in (largest, mean))
            results.append(_FROM_LARGEST[score](z, log_msp, m, T))
        else:
            results.append(score_of(score, T)(logits))
    return results


def score_of(score: str | Callable, temperature: float = 1.0) -> Callable:
    """Return the score as a function of logits alone, whose result is checked."""

    def function(logits):
        if callable(score):
            result = score(logits)
        else:
            result = SCORES[score](logits, temperature)
        check_result(result, len(logits))
        return result

    return function


def common_part(score: str | Callable, n_classes: int, temperature: float) -> float:
    """Return the part of a score that is alike for all rows and exact: in float64.

    It is the score of equal logits; 0 for a function of the user's.
    """
    if callable(score):
        return 0.0
    equal = torch.zeros(1, n_classes, dtype=torch.float32, device="cpu")
    scores = SCORES[score](equal, temperature)
    return scores.item() if scores.dtype == torch.float64 else 0.0


def _double(logits: torch.Tensor) -> torch.Tensor:
    """Return logits in float64, on the CPU where their device knows none."""
    return (logits.cpu() if logits.device.type == "mps" else logits).double()


def _log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return torch.log_softmax(
        logits if temperature == 1 else logits / temperature, dim=1
    )


def _log_msp(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return _log_softmax(logits, temperature).amax(dim=1)


def _rounding_of(scores, X):
    """Return the rounding of the largest score in the precision that ``X`` asks for."""
    single = str(X.dtype).removeprefix("torch.") in ("float32", "float16", "bfloat16")
    return np.finfo(np.float32 if single else np.float64).eps * np.abs(scores).max()
