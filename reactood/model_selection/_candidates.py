"""Candidates of a choice: what there is to choose from, and the rule of choice."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.base import BaseEstimator
from sklearn.model_selection import ParameterGrid

from reactood._scoring._scores import CENTERED, as_name
from reactood._utils._display import brief
from reactood._utils._estimators import check_params
from reactood._utils._messages import did_you_mean
from reactood._utils._response import scoring_of
from reactood._utils._sklearn import InvalidParameterError
from reactood._utils._tensors import as_array
from reactood.model_selection._copies import with_params

# GEN costs more than all of these together, and was never the choice of the study.
SCORES = "energy", "centered_energy", "centered_max_logit", "max_logit", "msp"
PERCENTILES = None, 99.0, 95.0, 90.0, 85.0, 80.0, 65.0
# Candidates that differ from the user's detector in these alone share the products of
# the head. The last four do not change the order of scores.
SHARING = {
    "percentile",
    "lower_percentile",
    "per_unit",
    "score_function",
    "temperature",
    "contamination",
    "batch_size",
    "check_score",
    "sample_size",
}
TOLERANCE = 0.2  # by which errors, 1 - AUROC, may differ and count as equal


@dataclass(frozen=True, eq=False)
class Candidate:
    """A detector to judge, and the parameters by which it is shown."""

    params: dict[str, Any]
    detector: BaseEstimator
    shares_products: bool = True  # whether others use the head's products that it needs

    @property
    def is_other(self):
        """Whether it is not the user's detector with other parameters."""
        return "estimator" in self.params

    def text(self):
        """Return it in words: ``score_function='energy', percentile=90.0``."""
        return _as_text(self.params)


def make_candidates(detector, candidates=None):
    """Return the candidates, the user's own setting first.

    Parameters
    ----------
    detector : ReActDetector
        The user's.
    candidates : None, dict of lists, or list of dicts and estimators
        None for all of ``SCORES`` with all of ``PERCENTILES``.
    """
    if candidates is None:
        candidates = {"score_function": SCORES, "percentile": PERCENTILES}
    if isinstance(candidates, dict):
        candidates = list(ParameterGrid(candidates))
    if not candidates or any(isinstance(c, dict) and not c for c in candidates):
        raise ValueError(
            "candidates is empty, or holds an empty dict, which leaves nothing to "
            "compare; expected at least one parameter, or None for the default."
        )
    names = dict.fromkeys(["score_function", "percentile"])
    for some in candidates:
        if isinstance(some, dict):
            names |= dict.fromkeys(some)
    current = detector.get_params()
    own = {name: current.get(name) for name in names}
    made = [Candidate(own, detector)]
    for some in candidates:
        if isinstance(some, dict):
            changed = _with_known_params(detector, some)
            params = {**own, **some}
            if not any(same(params, other.params) for other in made):
                differ = {n for n, value in some.items() if not same(value, own[n])}
                made.append(Candidate(params, changed, differ <= SHARING))
        elif isinstance(some, BaseEstimator):
            scoring_of(some, needs_predict=True)
            _check(some, some)
            made.append(Candidate({"estimator": some}, some, False))
        else:
            raise TypeError(
                f"candidates holds {some!r}; expected dicts of parameters of the "
                "detector, such as {'percentile': 95}, and detectors, or one dict of "
                "lists, which is a grid."
            )
    return made


def _with_known_params(detector, params):
    """Return the detector with other parameters, or raise where it knows them not."""
    known = detector.get_params(deep=False)
    for name in params:
        if name.partition("__")[0] not in known:
            raise ValueError(
                f"candidates holds {name!r}, which is no parameter of "
                f"{type(detector).__name__}{did_you_mean(name, known) or '.'} Expected "
                f"names among {', '.join(known)}."
            )
    try:
        changed = with_params(detector, **params)
    except ValueError as error:  # no parameter of the head
        raise ValueError(f"candidates holds {_as_text(params)}: {error}") from None
    _check(changed, params)
    return changed


def _check(detector, given):
    """Raise for parameters with which the detector could not be fitted."""
    try:
        check_params(detector)
    except InvalidParameterError as error:
        shown = _as_text(given) if isinstance(given, dict) else repr(given)
        shown = " ".join(shown.split())  # a pipeline has several lines
        raise type(error)(f"candidates holds {shown}: {error}") from None


def same(one, other):
    """Return whether two values are equal, arrays inside them value by value."""
    if one is other:
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[n], other[n]) for n in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if any(isinstance(value, np.ndarray | torch.Tensor) for value in (one, other)):
        return np.array_equal(as_array(one), as_array(other))
    try:
        return bool(one == other)
    except ValueError:  # such as that of two DataFrames
        return False


def _as_text(params):
    return ", ".join(f"{name}={brief(value)!r}" for name, value in params.items())


def choose(aurocs, candidates, *, tolerance=TOLERANCE, safe=CENTERED):
    """Return the index of the choice, and which candidates count as equal to the best.

    The first candidate, the user's own setting, is kept where it is among the equal.
    Else a score that depends on the softmax alone is preferred, then the best.
    """
    mean = aurocs.mean(axis=0)
    equal = equal_to_best(mean, tolerance)
    if equal[0]:
        return 0, equal

    def preference(i):
        score, _ = as_name(candidates[i].params.get("score_function"))
        place = safe.index(score) if score in safe else len(safe)
        return place, -mean[i]

    return min(np.flatnonzero(equal).tolist(), key=preference), equal


def equal_to_best(mean, tolerance=TOLERANCE):
    """Return which mean AUROCs count as equal to the best; NaN does not."""
    error = np.where(np.isnan(mean), np.inf, 1 - mean)
    return error <= error.min() * (1 + tolerance) + 1e-9


def results_table(params, scores, problems):
    """Return what GridSearchCV calls cv_results_.

    Parameters
    ----------
    params : list of dict
        Of each candidate.
    scores : ndarray of shape (n_splits, n_candidates)
        The higher, the better; NaN where there is none.
    problems : list of str
        The reason for NaN, or "".
    """
    mean = scores.mean(axis=0)
    worst = np.where(np.isnan(mean), -np.inf, mean)
    columns = {}
    for name in dict.fromkeys(name for of_one in params for name in of_one):
        column = np.empty(len(params), dtype=object)
        for i, of_one in enumerate(params):  # one by one: a value may be an array
            column[i] = of_one.get(name)
        columns[f"param_{name}"] = column
    return {
        **columns,
        "params": params,
        **{f"split{i}_test_score": of_split for i, of_split in enumerate(scores)},
        "mean_test_score": mean,
        "std_test_score": scores.std(axis=0),
        "rank_test_score": rankdata(-worst, method="min").astype(np.int32),
        "failure": np.array(problems),
    }
