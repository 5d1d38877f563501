"""Candidates of a choice: what there is to choose from, and the rule of choice."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import ParameterGrid

from reactood._scoring._scores import CENTERED
from reactood._utils._response import scoring_of

# GEN costs more than all of these together, and was never the choice of the study.
SCORES = "energy", "centered_energy", "centered_max_logit", "max_logit", "msp"
PERCENTILES = None, 99.0, 95.0, 90.0, 85.0, 80.0, 65.0
# Candidates that differ in these alone share the products of the head.
OF_CLIP_AND_SCORE = {
    "percentile",
    "lower_percentile",
    "per_unit",
    "score_function",
    "temperature",
}
TOLERANCE = 0.2  # by which errors, 1 - AUROC, may differ and count as equal


@dataclass(frozen=True, eq=False)
class Candidate:
    """A detector to judge, and the parameters by which it is shown."""

    params: dict[str, Any]
    detector: BaseEstimator

    @property
    def shares_products(self):
        """Whether its scores come from the head's products that others use too."""
        return set(self.params) <= OF_CLIP_AND_SCORE

    def text(self):
        """Return it in words: ``score_function='energy', percentile=90.0``."""
        return ", ".join(f"{name}={value!r}" for name, value in self.params.items())


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
    names = dict.fromkeys(["score_function", "percentile"])
    for some in candidates:
        if isinstance(some, dict):
            names |= dict.fromkeys(some)
    current = detector.get_params()
    own = {name: current.get(name) for name in names}
    made = [Candidate(own, detector)]
    for some in candidates:
        if isinstance(some, dict):
            params = {**own, **some}
            if all(params != other.params for other in made):
                made.append(Candidate(params, with_params(detector, **some)))
        elif isinstance(some, BaseEstimator):
            scoring_of(some, needs_predict=True)
            made.append(Candidate({"estimator": some}, some))
        else:
            raise TypeError(
                f"candidates holds {some!r}; expected dicts of parameters of the "
                "detector, such as {'percentile': 95}, and detectors, or one dict of "
                "lists, which is a grid."
            )
    return made


def with_params(detector, **params):
    """Return an unfitted detector with other parameters; the head is not copied."""
    if any("__" in name for name in params):
        return clone(detector).set_params(**params)
    shared = type(detector)(**detector.get_params(deep=False))
    return shared.set_params(**params)


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
        score = candidates[i].params.get("score_function")
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
        column[:] = [of_one.get(name) for of_one in params]
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
