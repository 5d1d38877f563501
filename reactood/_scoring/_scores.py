"""Logits to scores, as pure functions: the higher, the more in-distribution.

Each takes logits of shape (n_samples, n_classes) and a temperature T, and returns a
tensor of shape (n_samples,).  All of them rest on ``log_softmax``, which torch runs
several times faster than ``logsumexp``.

At a high temperature the logits differ by little, and what tells rows apart is a small
part of a large number: T · log(n_classes), for the energy. float32 would round it away,
so there, and for the entropy at any temperature, scores are computed in float64.
"""

from collections.abc import Callable

import numpy as np
import torch

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


def threshold_of(scores, share, X, common=0.0):
    """Return the score that the ``share`` of the rows is below, a percentile.

    Where many rows tie there, the threshold is below all of them: how many rows are
    scored at once changes the last bits of a score, and must not change a decision.
    """
    threshold = np.percentile(scores, 100 * share)
    margin = LAST_BITS * _rounding_of(scores - common, X)
    tied = scores[np.abs(scores - threshold) <= margin]
    many = len(tied) > 1 + MOST_TIED * len(scores)
    return float(tied.min() - margin if many else threshold)


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
    """T · logsumexp(logits / T), the negative free energy."""
    if temperature > HIGHEST_IN_SINGLE:
        logits = _double(logits)
    # log MSP = max / T - logsumexp(logits / T), solved for the last term.
    return logits.amax(dim=1) - temperature * _log_msp(logits, temperature)


def msp(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Maximum softmax probability of logits / T."""
    if temperature > HIGHEST_IN_SINGLE:
        logits = _double(logits)
    return _log_msp(logits, temperature).exp()


def max_logit(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Largest logit; the temperature does not matter."""
    return logits.amax(dim=1)


def entropy(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Negative Shannon entropy of the softmax of logits / T, in nats."""
    log_p = _log_softmax(_double(logits), temperature)
    return (log_p.exp() * log_p).sum(dim=1)


SCORES = {"energy": energy, "msp": msp, "max_logit": max_logit, "entropy": entropy}


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
