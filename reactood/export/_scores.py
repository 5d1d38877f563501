"""The scores as functions that keep their precision in a graph."""

from functools import partial

import torch

from reactood._scoring._scores import HIGHEST_IN_SINGLE, SCORES


def score_in_graph(score, temperature):
    """Return a score as a function of logits alone."""
    if callable(score):
        return score
    return partial(_gen if score == "gen" else SCORES[score], temperature=temperature)


def _gen(logits, temperature, gamma=0.1, n_largest=100):
    """Return GEN as ``reactood.scores.gen`` does, without ``expm1`` and ``log1p``.

    ONNX has neither, and without them log(1 - p) of a sure row has no bit left. Here
    the largest p has 1 - p = others / (1 + others), and no other is above 1/2.
    """
    if temperature > HIGHEST_IN_SINGLE:
        logits = logits.double()
    largest, index = logits.topk(min(n_largest, logits.shape[1]), dim=1)
    top = largest[:, :1]
    classes = torch.arange(logits.shape[1], device=logits.device)
    others = ((logits - top) / temperature).exp()
    others = others.where(classes != index[:, :1], 0.0).sum(dim=1, keepdim=True)
    log_total = torch.log(1 + others)
    log_p = (largest - top) / temperature - log_total
    log_rest = torch.log(1 - log_p[:, 1:].exp())
    log_rest = torch.cat([others.log() - log_total, log_rest], dim=1)
    return -(gamma * (log_p + log_rest)).exp().double().sum(dim=1)
