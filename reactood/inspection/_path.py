"""The gradient of a score, averaged over a straight line between two rows of logits."""

import numpy as np
import torch

from reactood._scoring._blocks import rows_per_block

NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)
NARROW = 8.0  # change of logits / T at which 16 nodes give a softmax to 1e-9
GRID = 32  # intervals at most before any is halved
HALVINGS = 40
MOST_INTERVALS = 256  # for each row; then what is left shows in the residual
TOLERANCE = 1e-11  # of an interval, relative to the change of the score
ROUNDING = 1e-13  # relative to the scores and logits
ENOUGH = 1000  # tolerances, where halving no longer helps: what is left is rounding


def values(score, logits):
    """Return the scores of an array of logits, in float64."""
    with torch.inference_mode():
        found = score(torch.from_numpy(np.array(logits, np.float64)))
    return found.double().numpy().copy()


def gradients(score, logits):
    """Return the gradient of each row's score, by autograd."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = torch.from_numpy(np.array(logits, np.float64)).requires_grad_()
        found = score(leaf * 1)  # a score function may write into its argument
        if not found.requires_grad:
            raise ValueError(
                "The score function has no gradient; expected one that computes its "
                "result from the logits with torch's differentiable functions alone."
            )
        (gradient,) = torch.autograd.grad(found.sum(), leaf)
    return gradient.numpy()


def mean_gradient(score, start, step, temperature=1.0):
    """Average the gradient of a score over start + t * step, t in [0, 1], by row.

    The line is divided where the largest logit changes, as scores that use it have a
    kink there, and into narrow intervals: see `mean_softmax`. Then each interval is
    halved until its integral, by Gauss-Legendre quadrature, equals the change of the
    score between its ends.
    """
    mean = np.empty_like(start)
    for first in range(0, len(start), n := rows_per_block(16 * start.shape[1])):
        rows = slice(first, first + n)
        mean[rows] = _mean_gradient(score, start[rows], step[rows], temperature)
    return mean


def _mean_gradient(score, start, step, temperature):
    def logits(rows, t):
        return start[rows] + t[:, np.newaxis] * step[rows]

    ends = values(score, start), values(score, start + step)
    size = np.maximum(np.abs(start).max(axis=1), np.abs(start + step).max(axis=1))
    tolerance = TOLERANCE * np.abs(ends[1] - ends[0])
    tolerance += ROUNDING * (np.abs(ends[0]) + np.abs(ends[1]) + size)
    mean = np.zeros_like(start)
    rows, left, right = _intervals(start, step, temperature)
    before = np.full(len(rows), np.inf)
    for halving in range(HALVINGS + 1):
        part, width = np.zeros((len(rows), start.shape[1])), right - left
        for node, weight in zip(NODES, WEIGHTS, strict=True):
            at = left + width * (node + 1) / 2
            part += weight / 2 * gradients(score, logits(rows, at))
        part *= width[:, np.newaxis]
        change = values(score, logits(rows, right)) - values(score, logits(rows, left))
        off = np.abs((part * step[rows]).sum(axis=1) - change)
        vain = (off <= ENOUGH * tolerance[rows]) & (off > before / 2)
        last = halving == HALVINGS or len(rows) > MOST_INTERVALS * len(start)
        done = (off <= tolerance[rows]) | vain | last
        np.add.at(mean, rows[done], part[done])
        rows, left, right = rows[~done], left[~done], right[~done]
        if not len(rows):
            break
        before = np.tile(off[~done], 2)
        middle = (left + right) / 2
        rows = np.concatenate([rows, rows])
        left, right = np.concatenate([left, middle]), np.concatenate([middle, right])
    return mean


def _intervals(start, step, temperature):
    """Return the rows and both ends of the intervals to begin with."""
    n_parts = np.ptp(step, axis=1) / (NARROW * temperature)
    n_parts = np.clip(np.ceil(n_parts), 1, GRID).astype(int)
    rows = np.repeat(np.arange(len(start)), n_parts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(n_parts) - n_parts, n_parts)
    found = [(rows, within / n_parts[rows]), *_changes_of_largest(start, step)]
    rows, left = (np.concatenate(some) for some in zip(*found, strict=True))
    order = np.lexsort([left, rows])
    rows, left = rows[order], left[order]
    right = np.append(left[1:], 1.0)
    right[np.append(rows[1:] != rows[:-1], True)] = 1.0
    wide = right > left
    return rows[wide], left[wide], right[wide]


def _changes_of_largest(start, step):
    """Yield rows, and t for each, at which another logit becomes the largest.

    The largest of several straight lines has a slope that only grows.
    """
    rows = np.arange(len(start))
    largest = start == start.max(axis=1, keepdims=True)
    top = np.where(largest, step, -np.inf).argmax(axis=1)
    while len(rows):
        gap = start[rows, top][:, np.newaxis] - start[rows]
        faster = step[rows] - step[rows, top][:, np.newaxis]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            t = np.where(faster > 0, gap / faster, np.inf)
        next_t = t.min(axis=1)
        # Of those that meet at one point, the steepest is the largest behind it.
        top = np.where(t == next_t[:, np.newaxis], faster, -np.inf).argmax(axis=1)
        go_on = next_t < 1
        rows, top, next_t = rows[go_on], top[go_on], next_t[go_on]
        yield rows, np.maximum(next_t, 0.0)
