"""Scores as functions of logits, to use by themselves or with parameters of their own.

`score_function` of a :class:`~reactood.ReActDetector` takes each by its name. Where a
parameter is to differ, it takes `functools.partial(gen, gamma=0.05)`, which can be
pickled and cloned. The `temperature` of the detector belongs to the names alone; give a
function its own.
"""

from reactood._scoring._scores import (
    centered_energy,
    centered_max_logit,
    energy,
    entropy,
    gen,
    joint_energy,
    max_logit,
    msp,
)

__all__ = [
    "centered_energy",
    "centered_max_logit",
    "energy",
    "entropy",
    "gen",
    "joint_energy",
    "max_logit",
    "msp",
]
