"""Trial: judges candidates by how well they detect left-out classes."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from reactood._scoring._base import BaseReActDetector
from reactood._scoring._blocks import take_rows
from reactood._scoring._clip import learn_clips
from reactood._scoring._heads import (
    IdentityHead,
    LinearHead,
    fixed_head,
    make_head,
)
from reactood._scoring._left_out import LeftOutClasses, leave_classes_out
from reactood._scoring._scorer import Scorer
from reactood._scoring._scores import PLAIN, SCORES, as_name, centered
from reactood._utils._labels import id_rows
from reactood._utils._response import scoring_of
from reactood._utils._tensors import as_array, as_tensor
from reactood._utils._validation import validate_array
from reactood._utils._warnings import warn
from reactood.metrics import auroc
from reactood.model_selection._copies import fit_unchecked, unfitted, with_params

FLOATS = [np.float64, np.float32, np.float16]
MOST_ROWS = 10_000  # to judge by
FEW_ROWS = 300  # below, the choice depends on the rows more than on the network
LEAST_AUROC = 0.6  # of the best candidate, below which left-out classes say little


@dataclass(frozen=True, eq=False)
class Trial:
    """In-distribution rows, the parts of the classes to leave out, and the head."""

    X: Any  # array or tensor of shape (n_samples, n_features)
    y: Any  # class labels, or None
    known: np.ndarray  # mask of the in-distribution rows without NaN
    rows: np.ndarray  # mask of the rows to judge by, all of them or some
    left_out: LeftOutClasses  # of these rows
    scorer: Scorer  # with the whole head

    @classmethod
    def of(cls, detector, H, y, *, n_parts, n_repeats, max_samples, random):
        """Return a trial for the head of a detector, and features.

        Raises ValueError where no classes can be left out.
        """
        X = as_tensor(
            validate_array(with_params(detector), H, reset=True, dtype=FLOATS)
        )
        y, rows = id_rows(y, X)
        known = np.ones(len(X), bool) if rows is None else rows
        known = rows = detector._without_nan(X, known)
        scorer = detector._scorer(make_head(detector.head, X, y, rows))
        if max_samples is not None and rows.sum() > max_samples:
            drawn = random.choice(np.flatnonzero(rows), max_samples, replace=False)
            rows = np.zeros(len(X), bool)
            rows[drawn] = True
        left_out = leave_classes_out(
            scorer.decisions(X, rows),
            len(scorer.head.classes),
            random,
            n_parts=n_parts,
            n_repeats=n_repeats,
        )
        if not len(left_out):
            raise ValueError(
                f"The classifier assigns the {rows.sum()} rows (n_samples={len(X)}) to "
                "so few classes that none can be left out; expected 500 rows or more, "
                "from several classes."
            )
        return cls(X, y, known, rows, left_out, scorer)

    @property
    def n_rows(self):
        """The number of rows to judge by."""
        return int(self.rows.sum())

    def judge(self, candidates, measure=auroc):
        """Return the measure of each candidate at each part, and why some have none.

        Parameters
        ----------
        candidates : list of Candidate
            What to judge.
        measure : callable, default=auroc
            From labels, 1 and -1, and scores to a number: the higher, the better.

        Returns
        -------
        measures : ndarray of shape (n_parts, n_candidates)
            NaN where there is none.
        problems : list of str
            The reason, or "".
        """
        measures = np.full((len(self.left_out), len(candidates)), np.nan)
        problems = [""] * len(candidates)
        groups: dict[tuple, list[int]] = {}
        for i, candidate in enumerate(candidates):
            if candidate.shares_products:
                detector = candidate.detector
                key = detector.lower_percentile, detector.per_unit
                groups.setdefault(key, []).append(i)
            else:
                found = self._judge_alone(candidate.detector, measure)
                measures[:, i], problems[i] = found
        for group in groups.values():
            detectors = [candidates[i].detector for i in group]
            found = self._judge_together(detectors, measure)
            for i, (of_parts, problem) in zip(group, found, strict=True):
                measures[:, i], problems[i] = of_parts, problem
        return measures, problems

    def warn_of_weak_evidence(self, best):
        """Warn where the rows are few, or left-out classes look like the others."""
        if self.n_rows < FEW_ROWS:
            warn(
                f"The choice rests on {self.n_rows} rows, and other rows may lead to "
                "another choice: give 500 or more."
            )
        if best < LEAST_AUROC:
            warn(
                f"No candidate detects left-out classes: the best AUROC is {best:.3f}. "
                "The choice says little. Are these the features of this head?"
            )

    def _judge_together(self, detectors, measure):
        """Judge detectors that differ by percentile and score: one product a clip."""
        percentiles = list(dict.fromkeys(d.percentile for d in detectors))
        (clips,) = learn_clips(
            self.X,
            [self.rows],
            percentiles,
            lower_percentile=detectors[0].lower_percentile,
            per_unit=detectors[0].per_unit,
        )
        of_percentile = dict(zip(percentiles, clips, strict=True))
        usable = [p for p in percentiles if not of_percentile[p].problem]
        scores = list(
            dict.fromkeys((d.score_function, d.temperature) for d in detectors)
        )
        if usable:
            found = self.scorer.scores_of_reduced(
                self.X,
                [of_percentile[p] for p in usable],
                scores,
                self.left_out.kept,
                self.rows,
            )
        for detector in detectors:
            problem = of_percentile[detector.percentile].problem
            if problem:
                yield np.nan, problem
                continue
            score = scores.index((detector.score_function, detector.temperature))
            of_parts = found[usable.index(detector.percentile), :, score]
            if np.isfinite(of_parts).all():
                yield list(map(measure, self.left_out.labels, of_parts)), ""
            else:
                yield np.nan, "Some rows get a score of NaN or inf."

    def _judge_alone(self, detector, measure):
        """Judge a detector of any kind, by a copy of it for each part.

        It learns from every second in-distribution row; the others are tested.
        """
        X = as_array(take_rows(self.X, self.rows))
        y = None if self.y is None else self.y[self.rows]
        measures = []
        try:
            parts = zip(self.left_out.kept, self.left_out.labels, strict=True)
            for kept, labels in parts:
                learned = labels == 1
                learned[np.flatnonzero(learned)[1::2]] = False
                reduced = _with_reduced_heads(unfitted(detector), kept, X, y)
                labelled = () if y is None else (y[learned],)
                fit_unchecked(reduced, X[learned], *labelled)
                scores = scoring_of(reduced)(X[~learned])
                measures.append(measure(labels[~learned], scores))
        except ValueError as error:
            return np.nan, str(error)
        return measures, ""


def _with_reduced_heads(detector, kept, X, y):
    """Take classes from the heads of a detector, and of the steps before it."""
    params = detector.get_params()
    plain = _plain_scores(params)
    heads = {}
    for name, value in params.items():
        owner, _, last = name.rpartition("__")
        by_owner = params[owner] if owner else detector
        trains = isinstance(by_owner, BaseReActDetector)
        # Without a head, a detector alone has the logits as features.
        if last == "head" and (value is not None or (trains and not owner)):
            head = make_head(value, X, y) if trains else fixed_head(value, X)
            heads[name] = reduced_head(head, kept, center=bool(plain))
    # The heads are centered by the mean of all classes; a centered score would take
    # that of the kept classes from their logits once more.
    return detector.set_params(**heads, **(plain if heads else {}))


def _plain_scores(params):
    """Return the parameters that are centered scores, as scores that do not center."""
    plain = {}
    for name, value in params.items():
        if name.rpartition("__")[2] == "score_function":
            score, temperature = as_name(value)
            if isinstance(score, str) and score in PLAIN:
                known = SCORES[PLAIN[score]]
                plain[name] = (
                    PLAIN[score]
                    if isinstance(value, str)
                    else functools.partial(known, temperature=temperature)
                )
    return plain


def reduced_head(head, kept, center=False):
    """Return a head without some classes, as the parameter ``head`` of a detector."""
    if len(head.classes) != len(kept):
        raise ValueError(
            f"The head has {len(head.classes)} classes, but that of the estimator, by "
            f"which rows are assigned to classes, has {len(kept)}."
        )
    if isinstance(head, LinearHead):
        weight, bias = head.weight, head.bias
        if center:
            weight, bias = weight - weight.mean(axis=0), bias - bias.mean()
        return weight[kept], bias[kept]
    chosen = _Columns(np.flatnonzero(kept), center)
    return (
        chosen if isinstance(head, IdentityHead) else nn.Sequential(head.module, chosen)
    )


class _Columns(nn.Module):
    """Logits of some of the classes."""

    def __init__(self, columns, center):
        super().__init__()
        self.columns, self.center = columns.tolist(), center

    def forward(self, logits):
        if self.center:
            logits = centered(logits)
        return logits[:, self.columns]
