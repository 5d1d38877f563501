"""Bets against uniform p-values: martingales that grow if p-values are not uniform."""

import math

import numpy as np

TAIL = 0.01  # the p-values that are bet on as those of outliers
STAKES = 0.02, 0.1  # of the capital, on p-values in the tail
HUGE = 2.0**500  # capital above it is counted in units of it; a power of 2 is exact
LOG_HUGE = 500 * math.log(2)


def level(p):
    """Return by what bets on high and on low p-values multiply their capital."""
    return 0.5 + p, 1.5 - p


def spread(p):
    """Return by what bets on extreme and on central p-values multiply their capital."""
    return level(np.abs(2 * p - 1))  # uniform if p is


def tail(p):
    """Return by what a small and a large bet on very low p-values multiply capital."""
    won = (p <= TAIL) / TAIL - 1
    return 1 + STAKES[0] * won, 1 + STAKES[1] * won


BETS = {"level": level, "spread": spread, "tail": tail}
SIDES = {
    "level": ("higher", "lower"),
    "spread": ("wider", "narrower"),
    "tail": ("outliers", "outliers"),
}
CHANGES = tuple(dict.fromkeys(side for sides in SIDES.values() for side in sides))


def reserve(t):
    """Return the share of the first capital that is not on any bet after `t` samples.

    It becomes smaller as a power of `t`, so that what a late change finds in the bets
    is not much smaller than what an early one finds.
    """
    return 0.5 / np.sqrt(1.0 + t)


def first_states(jump_rates):
    """Return what each bettor owns at the start, one row for each bet and jump rate.

    The columns are what it keeps, what is on the two sides of its bet, and how often
    these three were divided by HUGE.
    """
    n = len(BETS) * len(jump_rates)
    own = (1 - reserve(0)) / (3 * n)
    return np.tile([own, own, own, 0.0], (n, 1))


def play(p, n_before, states, jump_rates):
    """Let all bettors bet on p-values.

    Parameters
    ----------
    p : ndarray of shape (n,)
        The p-values, in order.

    n_before : int
        How many p-values there were before.

    states : ndarray of shape (n_bettors, 4)
        What they own; it is not changed.

    jump_rates : ndarray of shape (n_rates,)
        Those of the bettors of each bet.

    Returns
    -------
    states : ndarray of shape (n_bettors, 4)
        What they own now.

    logs : ndarray of shape (n_bettors, n)
        The natural logarithm of the capital of each after each p-value.
    """
    kept = reserve(n_before + np.arange(len(p) + 1))
    fresh = (-np.diff(kept) / (3 * len(states))).tolist()
    after, logs = np.empty_like(states), np.empty((len(states), len(p)))
    i = 0
    for bet in BETS.values():
        first, second = (side.tolist() for side in bet(p))
        for rate in jump_rates.tolist():
            after[i], logs[i] = _jump(states[i].tolist(), rate, first, second, fresh)
            i += 1
    return after, logs


def total(logs, n_before):
    """Return the natural logarithm of all capital, the reserve included."""
    kept = np.log(reserve(n_before + 1 + np.arange(logs.shape[1])))
    logs = np.concatenate([logs, kept[None]])
    top = logs.max(axis=0)
    return top + np.log(np.exp(logs - top).sum(axis=0))


def most_won(states):
    """Return what the bet that owns most says about the scores."""
    owned = np.log(states[:, 1:3]) + LOG_HUGE * states[:, 3:]
    # One row for each bet: its two sides, with the sums over jump rates.
    owned = np.logaddexp.reduce(owned.reshape(len(BETS), -1, 2), axis=1)
    best = int(np.argmax(np.logaddexp.reduce(owned, axis=1)))
    return SIDES[list(BETS)[best]][int(np.argmax(owned[best]))]


def _jump(state, rate, first_factors, second_factors, fresh):
    """Let one bettor bet: the Simple Jumper, which gets fresh capital at each step.

    Before each p-value, the share `rate` of its capital is divided into thirds: one is
    kept, and one is put on each side. Each third gets `fresh` too. This loop takes most
    of the monitor's time, so it is plain arithmetic without calls.
    """
    own, first, second, n_huge = state
    capital = own + first + second
    unit = HUGE**-n_huge
    stay, third = 1 - rate, rate / 3
    path: list[float] = []
    units = [(0, n_huge)]
    for x, y, more in zip(first_factors, second_factors, fresh, strict=True):
        share = third * capital + more * unit
        own = stay * own + share
        first = (stay * first + share) * x
        second = (stay * second + share) * y
        capital = own + first + second
        if capital > HUGE or (n_huge and capital < 1):
            factor = 1 / HUGE if capital > HUGE else HUGE
            own, first, second = own * factor, first * factor, second * factor
            capital = own + first + second
            n_huge += 1 if factor < 1 else -1
            unit = HUGE**-n_huge
            units.append((len(path), n_huge))
        path.append(capital)
    logs = np.log(path)
    for (start, n), (end, _) in zip(units, [*units[1:], (len(path), 0)], strict=True):
        logs[start:end] += n * LOG_HUGE
    return (own, first, second, n_huge), logs
