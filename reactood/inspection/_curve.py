"""Plot a metric against the percentile, from the results of a search."""

import re

import numpy as np
from sklearn.exceptions import NotFittedError

from reactood.inspection._common import ID_COLOR, axes_and_figure

UNCLIPPED = "no clipping"
MEAN = "mean_test_"
PERCENTILES = re.compile(r"param_(\w+__)?percentile")


class MetricCurveDisplay:
    """A metric against the percentile at which activations are clipped.

    Points are means over folds; bands and error bars extend one standard error to each
    side. A dashed line shows no clipping (a percentile of None). The chosen candidate
    is marked.

    Use `from_search` to make one.

    Parameters
    ----------
    percentiles : ndarray of shape (n_candidates,), dtype=object
        Candidates that have a score, in percent and ascending; None, which means no
        clipping, comes last.

    scores : ndarray of shape (n_candidates,)
        Mean scores of the candidates over folds.

    errors : ndarray of shape (n_candidates,)
        Standard errors of these means; NaN if unknown.

    best_index : int, default=None
        Index of the chosen candidate in these arrays; None marks no candidate.

    failed : list, default=()
        Candidates without a score.

    score_name : str, default=None
        Name of the score, for the axis.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the curve.

    figure_ : matplotlib Figure
        The figure of these axes.

    line_ : matplotlib Line2D
        The curve.

    band_ : matplotlib PolyCollection
        The standard errors of the curve.

    unclipped_line_ : matplotlib Line2D or None
        The score without clipping.

    best_ : matplotlib ErrorbarContainer, PolyCollection or None
        The mark of the chosen candidate: a point with an error bar or, if no clipping
        was chosen, a band.

    See Also
    --------
    reactood.ReActDetectorCV : A search with OOD data.
    reactood.model_selection.tune_percentile : A search without OOD data.

    Examples
    --------
    >>> import numpy as np
    >>> from reactood import ReActDetectorCV
    >>> from reactood.inspection import MetricCurveDisplay
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.gamma(2, size=(200, 8)), rng.gamma(1, 3, size=(50, 8))])
    >>> y = np.repeat([1, -1], [200, 50])
    >>> head = rng.normal(size=(3, 8)), np.zeros(3)
    >>> search = ReActDetectorCV(head, scoring="fpr95").fit(X, y)
    >>> display = MetricCurveDisplay.from_search(
    ...     search, negate=True, score_name="FPR95 (fraction)"
    ... )
    >>> bool(display.scores.min() == -search.best_score_)
    True
    """

    def __init__(
        self,
        *,
        percentiles,
        scores,
        errors,
        best_index=None,
        failed=(),
        score_name=None,
    ):
        self.percentiles = percentiles
        self.scores = scores
        self.errors = errors
        self.best_index = best_index
        self.failed = failed
        self.score_name = score_name

    @classmethod
    def from_search(
        cls,
        search,
        *,
        metric="score",
        score_name=None,
        negate=False,
        color=ID_COLOR,
        label=None,
        ax=None,
    ):
        """Draw the results of a search over percentiles.

        Parameters
        ----------
        search : object with `cv_results_`
            A fitted :class:`~reactood.ReActDetectorCV` or
            :class:`~sklearn.model_selection.GridSearchCV`, the result of
            :func:`~reactood.model_selection.tune_percentile`, or any other object
            with such results. Its `best_index_`, if any, is the chosen candidate.

        metric : str, default="score"
            The metric to draw, if `cv_results_` has several: it is read from
            `"mean_test_" + metric` and so on.

        score_name : str, default=None
            Name of the score, for the axis; None for the name of the metric.

        negate : bool, default=False
            Whether to change the sign of the scores. Use it for losses, which a search
            negates in order to maximize them, such as `"neg_fpr_at_tpr"`.

        color : matplotlib color, default="#0072B2"
            Colour of the curve, its band and its marks.

        label : str, default=None
            Name of the curve in the legend, for several curves in the same axes.

        ax : matplotlib Axes, default=None
            Where to draw; None for a new figure.

        Returns
        -------
        display : MetricCurveDisplay
            The numbers and what was drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the search is not fitted.
        TypeError
            If `search` is of a kind that has no such results.
        ValueError
            If the search was not over the percentile, or over other parameters too,
            if there is no such metric, or if no candidate has a score.
        """
        results = _results(search)
        percentiles = _percentiles(results)
        scores, errors = _mean_and_error(
            results, metric, getattr(search, "n_splits_", 0)
        )
        known = np.isfinite(scores)
        if not known.any():
            raise ValueError(
                f"All {len(scores)} candidates have a score of NaN: every fit failed. "
                "Fit one of them alone to see why."
            )
        ascending = sorted(range(len(scores)), key=lambda i: _position(percentiles[i]))
        shown = [i for i in ascending if known[i]]
        best = getattr(search, "best_index_", None)
        if score_name is None:
            score_name = _default_name(metric, negate)
        return cls(
            percentiles=percentiles[shown],
            scores=-scores[shown] if negate else scores[shown],
            errors=errors[shown],
            best_index=shown.index(best) if best in shown else None,
            failed=[percentiles[i] for i in ascending if not known[i]],
            score_name=score_name,
        ).plot(ax, color=color, label=label)

    def plot(self, ax=None, *, color=ID_COLOR, label=None):
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None for a new figure.

        color : matplotlib color, default="#0072B2"
            Colour of the curve, its band and its marks.

        label : str, default=None
            Name of the curve in the legend, for several curves in the same axes.

        Returns
        -------
        display : MetricCurveDisplay
            This object.
        """
        self.ax_, self.figure_ = axes_and_figure(ax)
        clips = np.array([percentile is not None for percentile in self.percentiles])
        x, y = self.percentiles[clips].astype(float), self.scores[clips]
        error = self.errors[clips]
        (self.line_,) = self.ax_.plot(
            x, y, "o-", ms=4, color=color, label=self._label(label)
        )
        self.band_ = self.ax_.fill_between(
            x, y - error, y + error, color=color, alpha=0.2, lw=0
        )
        self.unclipped_line_ = None
        if not clips.all():
            drawn = self.ax_.get_legend_handles_labels()[1]
            self.unclipped_line_ = self.ax_.axhline(
                self.scores[-1],
                color=color,
                ls="--",
                lw=1.3,
                label=None if UNCLIPPED in drawn else UNCLIPPED,
            )
        self.best_ = self._mark_best(color, None if label else self._chosen())
        note = f"\nfailed: {', '.join(map(_shown, self.failed))}" if self.failed else ""
        self.ax_.set(
            xlabel=f"percentile of the clip (%){note}",
            ylabel=self.score_name or "mean score",
        )
        self.ax_.legend()
        return self

    def _chosen(self):
        if self.best_index is not None:
            return f"chosen: {_shown(self.percentiles[self.best_index])}"

    def _label(self, label):
        """Return the name of the curve; a given ``label`` also names the choice."""
        if label is None:
            known = np.isfinite(self.errors).any()
            return "mean ± standard error over folds" if known else "mean over folds"
        return f"{label} ({self._chosen()})" if self._chosen() else label

    def _mark_best(self, color, label):
        if self.best_index is None:
            return None
        percentile, score, error = (
            values[self.best_index]
            for values in (self.percentiles, self.scores, self.errors)
        )
        if percentile is None:
            return self.ax_.axhspan(
                score - error, score + error, color=color, alpha=0.2, lw=0, label=label
            )
        return self.ax_.errorbar(
            percentile,
            score,
            yerr=np.nan_to_num(error),
            fmt="D",
            ms=8,
            mfc="white",
            mew=2,
            elinewidth=2,
            capsize=5,
            color=color,
            label=label,
        )


def _results(search):
    if hasattr(search, "cv_results_"):
        return search.cv_results_
    kind = type(search).__name__
    if hasattr(search, "fit"):
        raise NotFittedError(f"This {kind} has no cv_results_; call fit first.")
    raise TypeError(
        f"Got a {kind} without cv_results_; expected a fitted ReActDetectorCV or "
        "GridSearchCV, or what tune_percentile returns."
    )


def _percentiles(results):
    """Return the candidates as objects; each may occur only once."""
    keys = [key for key in results if PERCENTILES.fullmatch(key)]
    others = [key for key in results if key.startswith("param_") and key not in keys]
    if len(keys) != 1:
        raise ValueError(
            "cv_results_ has no single percentile: the searched parameters are "
            f"{keys + others}; expected 'param_percentile' or "
            "'param_detector__percentile'."
        )
    values = results[keys[0]]
    percentiles = np.empty(len(values), dtype=object)
    percentiles[:] = list(values)
    if np.ma.is_masked(values) or len(set(percentiles)) < len(percentiles):
        raise ValueError(
            f"{keys[0]} has {len(percentiles)} candidates, but not one for each "
            f"percentile; other parameters were searched too: {others}. A curve needs "
            "a search over the percentile alone; keep all other parameters fixed."
        )
    return percentiles


def _mean_and_error(results, metric, n_splits):
    """Return means and their standard errors over folds."""
    if MEAN + metric not in results:
        known = [key[len(MEAN) :] for key in results if key.startswith(MEAN)]
        raise ValueError(
            f"cv_results_ has no metric {metric!r}; expected one of {known}."
        )
    mean = np.asarray(results[MEAN + metric], dtype=np.float64)
    split = re.compile(rf"split\d+_test_{re.escape(metric)}")
    folds = np.array([results[key] for key in results if split.fullmatch(key)])
    if len(folds):
        n_splits, spread = len(folds), folds.std(axis=0)
    else:
        spread = np.asarray(results.get(f"std_test_{metric}", np.nan * mean))
    if n_splits < 2:
        return mean, np.full_like(mean, np.nan)
    return mean, spread / np.sqrt(n_splits - 1)  # spread divides by n


def _position(percentile):
    return np.inf if percentile is None else percentile


def _shown(percentile):
    return UNCLIPPED if percentile is None else f"{percentile:g}"


def _default_name(metric, negate):
    if metric == "score":
        return f"{'loss (the lower' if negate else 'score (the higher'}, the better)"
    return metric.removeprefix("neg_") if negate else metric
