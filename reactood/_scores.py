"""Logits to scores, as pure functions: the higher, the more in-distribution.

Each takes logits of shape (n_samples, n_classes) and a temperature T, and returns a
tensor of shape (n_samples,).  All of them rest on ``log_softmax``, which torch runs
several times faster than ``logsumexp``.
"""

import torch


def energy(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """T · logsumexp(logits / T), the negative free energy."""
    # log MSP = max / T - logsumexp(logits / T), solved for the last term.
    return logits.amax(dim=1) - temperature * _log_msp(logits, temperature)


def msp(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Maximum softmax probability of logits / T."""
    return _log_msp(logits, temperature).exp()


def max_logit(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Largest logit; the temperature does not matter."""
    return logits.amax(dim=1)


def entropy(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Negative Shannon entropy of the softmax of logits / T, in nats."""
    log_p = _log_softmax(logits, temperature)
    return (log_p.exp() * log_p).sum(dim=1)


SCORES = {"energy": energy, "msp": msp, "max_logit": max_logit, "entropy": entropy}


def _log_softmax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return torch.log_softmax(
        logits if temperature == 1 else logits / temperature, dim=1
    )


def _log_msp(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return _log_softmax(logits, temperature).amax(dim=1)
