"""Plot the units whose clipping lowers the energy of one sample most."""

import numpy as np

from reactood.inspection._common import (
    ID_COLOR,
    OOD_COLOR,
    activations,
    axes_and_figure,
    id_activations,
)
from reactood.inspection._explain import explain

OTHERS_COLOR = "0.6"


class EnergyDropDisplay:
    """A bar for each unit's contribution to the drop of one sample's energy.

    Clipping lowers the energy of a sample by the sum of all bars. Units with a bar to
    the right lower the energy, which makes the sample less in-distribution. Units with
    a bar to the left raise the energy.

    This is what the clip takes, not why a sample is rejected: in-distribution samples
    often lose more of their energy than others do. With ID data, the title says how
    much these lose. `DecisionDisplay` says why a sample is rejected.

    Use `from_estimator` to make one.

    Parameters
    ----------
    contribution : ndarray of shape (n_features,)
        Contributions to the drop, in units of the logits.

    drop : float
        The energy without clipping minus the energy with clipping.

    n_clipped : int
        Number of units that were clipped.

    unit_names : sequence of str, default=None
        Names of the units; None for "unit 0" and so on.

    id_drop : ndarray of shape (n_id,), default=None
        The drops of in-distribution samples, to compare `drop` with.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the bars.

    figure_ : matplotlib Figure
        The figure of these axes.

    bars_ : matplotlib BarContainer
        The bars, the largest first; the bar of all other units is last.

    See Also
    --------
    explain_clipping : Computes these numbers for many samples.
    DecisionDisplay : Draws why the score of a sample is low.

    Examples
    --------
    >>> from reactood import make_react_pipeline
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> from reactood.inspection import EnergyDropDisplay
    >>> digits = load_digits_ood()
    >>> detector = make_react_pipeline(digits_classifier).fit(digits.X_train)
    >>> photo = digits.ood["photo_china"][:1]
    >>> display = EnergyDropDisplay.from_estimator(detector, photo, digits.X_test)
    >>> bool(abs(display.contribution.sum() - display.drop) < 1e-6)
    True
    """

    def __init__(self, *, contribution, drop, n_clipped, unit_names=None, id_drop=None):
        self.contribution = contribution
        self.drop = drop
        self.n_clipped = n_clipped
        self.unit_names = unit_names
        self.id_drop = id_drop

    @classmethod
    def from_estimator(cls, estimator, X, X_id=None, *, n_units=15, ax=None):
        """Explain one sample and draw the contributions.

        Parameters
        ----------
        estimator : ReActDetector or Pipeline
            A fitted detector with a linear head, or a pipeline that ends in one.

        X : array-like of shape (1, n_features), or one image in a sequence
            The sample.

        X_id : array-like of shape (n_id, n_features), or images, default=None
            In-distribution (ID) data, best data that neither the classifier nor the
            detector was fitted to. The title says what the middle 90 % of it lose.

        n_units : int, default=15
            Number of units with a bar of their own, at least 1.

        ax : matplotlib Axes, default=None
            Where to draw; None for a new figure.

        Returns
        -------
        display : EnergyDropDisplay
            The numbers and what was drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the detector is not fitted.
        TypeError
            If the estimator is not, and does not end in, a ReActDetector.
        ValueError
            If there is more than one sample, if the head is not linear, or if
            `n_units` is below 1.
        """
        detector, features, clipped = activations(estimator, X)
        if len(features) != 1:
            raise ValueError(
                f"Got {len(features)} samples, expected one: X[[row]]. For many "
                "samples, use explain_clipping."
            )
        explained = explain(detector, features, clipped)
        names = getattr(detector, "feature_names_in_", None)
        id_drop = None
        if X_id is not None:
            id_drop = explain(*id_activations(estimator, X_id)[:3]).drop
        return cls(
            contribution=explained.contribution[0],
            drop=explained.drop[0].item(),
            n_clipped=np.count_nonzero(explained.excess),
            unit_names=names,
            id_drop=id_drop,
        ).plot(ax, n_units=n_units)

    def plot(self, ax=None, *, n_units=15):
        """Draw the contributions.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None for a new figure.

        n_units : int, default=15
            Number of units with a bar of their own, at least 1.

        Returns
        -------
        display : EnergyDropDisplay
            This object.

        Raises
        ------
        ValueError
            If `n_units` is below 1.
        """
        if n_units < 1:
            raise ValueError(f"n_units={n_units}; expected at least 1.")
        self.ax_, self.figure_ = axes_and_figure(ax)
        units = np.argsort(-np.abs(self.contribution), kind="stable")[
            : min(n_units, self.n_clipped)
        ]
        names = [
            f"unit {unit}" if self.unit_names is None else str(self.unit_names[unit])
            for unit in units
        ]
        values = self.contribution[units]
        colors = [OOD_COLOR if value > 0 else ID_COLOR for value in values]
        n_others = self.n_clipped - len(units)
        if n_others:
            names.append(f"all others ({n_others})")
            values = np.append(values, self.drop - values.sum())
            colors.append(OTHERS_COLOR)
        places = np.arange(len(values))
        self.bars_ = self.ax_.barh(places, values, color=colors)
        self.ax_.axvline(0, color="black", lw=0.8)
        self.ax_.set_yticks(places, names)
        self.ax_.set_ylim(len(values) - 0.4, -0.6)
        self.ax_.grid(axis="x", color="0.9")
        self.ax_.set_axisbelow(True)
        title = (
            f"Energy drop {self.drop:.3g}: {self.n_clipped} of "
            f"{len(self.contribution)} units clipped"
        )
        if self.id_drop is not None:
            low, high = np.percentile(self.id_drop, [5, 95])
            title += f"\nID samples: {low:.3g} to {high:.3g} (5 to 95 %)"
        self.ax_.set(
            title=title,
            xlabel="contribution to the drop of the energy (in units of the logits)",
        )
        return self
