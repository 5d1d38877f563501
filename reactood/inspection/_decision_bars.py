"""Plot which units and classes bring the score of one sample below those of ID data."""

import numpy as np

from reactood._scoring._base import BaseReActDetector
from reactood._utils._response import unfrozen
from reactood.inspection._common import (
    CLIP_COLOR,
    ID_COLOR,
    OOD_COLOR,
    axes_and_figure,
)
from reactood.inspection._decision import explain_decision
from reactood.inspection._pictures import draw_picture, pictures_of

OTHERS_COLOR, TOTAL_COLOR = "0.6", "0.25"
BAR, REST, STRIP = 0.24, 1.4, 1.5  # inches: a bar, all around them, the pictures
STRIP_BELOW = 0.9  # inches from the bars down to the pictures: ticks, label, legend
LONGEST = 13  # letters below a picture
STEP = 1.12  # from picture to picture, in widths of pictures


class DecisionDisplay:
    """Bars from the score of typical ID data to the score of one sample.

    Each bar begins where the one above it ends. The first block of bars leads from the
    reference, the score of typical in-distribution (ID) rows, to the score of the
    sample by way of the units; the second does so by way of the classes. In both, one
    bar is the part of the clip. Bars to the left make the sample less in-distribution.
    The clip is relative to ID data: its bar leads to the right where the clip lowers
    the scores of the ID rows more than that of the sample. All units without a bar of
    their own share two: one for those that lower the score, and one for those that
    raise it. In wide networks, these may be most of it.

    If the samples are images, the sample is shown below the bars, with the ID images
    whose features are most similar to its own.

    Use `from_estimator` to make one.

    Parameters
    ----------
    units : ndarray of shape (n_features,)
        The part of each unit, in units of the score.

    classes : ndarray of shape (n_classes,)
        The part of the logit of each class.

    clip : float
        The part of the clip.

    reference : float
        The mean score of the ID rows that the sample is compared with.

    score : float
        The score of the sample: `reference + units.sum() + clip`.

    threshold : float
        Samples with lower scores are rejected.

    unit_names, class_names : sequence of str, default=None
        Names of the units and of the classes; None for "unit 0" and so on.

    image : ndarray of shape (height, width) or (height, width, n_channels), \
            default=None
        The sample, in a form that matplotlib draws: uint8, or floats in [0, 1]. None
        for no pictures.

    nearest_images : list of ndarray, default=()
        The most similar ID images, in the same form, the most similar first.

    nearest_rows : ndarray of shape (n_nearest,), default=()
        Which rows of the ID data these are.

    nearest_similarity : ndarray of shape (n_nearest,), default=()
        How similar each is: the cosine between its features and those of the sample.

    nearest_names : sequence of str, default=None
        What to call them, such as the names of their files; None for "ID row 0" and so
        on.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes with the bars.

    figure_ : matplotlib Figure
        The figure of these axes.

    bars_ : matplotlib BarContainer
        The bars, from the top.

    pictures_ : list of matplotlib AxesImage
        The sample and the ID images; empty without pictures.

    See Also
    --------
    explain_decision : Computes these numbers for many samples.
    EnergyDropDisplay : Draws what the clip takes from the energy.

    Examples
    --------
    >>> from reactood import make_react_pipeline
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> from reactood.inspection import DecisionDisplay
    >>> digits = load_digits_ood()
    >>> detector = make_react_pipeline(digits_classifier).fit(digits.X_train)
    >>> photo = digits.ood["photo_china"][:1]
    >>> display = DecisionDisplay.from_estimator(detector, photo, digits.X_test)
    >>> reached = display.reference + display.units.sum() + display.clip
    >>> bool(abs(reached - display.score) < 1e-6)
    True
    """

    def __init__(
        self,
        *,
        units,
        classes,
        clip,
        reference,
        score,
        threshold,
        unit_names=None,
        class_names=None,
        image=None,
        nearest_images=(),
        nearest_rows=(),
        nearest_similarity=(),
        nearest_names=None,
    ):
        self.units = units
        self.classes = classes
        self.clip = clip
        self.reference = reference
        self.score = score
        self.threshold = threshold
        self.unit_names = unit_names
        self.class_names = class_names
        self.image = image
        self.nearest_images = nearest_images
        self.nearest_rows = nearest_rows
        self.nearest_similarity = nearest_similarity
        self.nearest_names = nearest_names

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        X_id,
        *,
        class_names=None,
        n_references=16,
        n_nearest=5,
        n_units=8,
        n_classes=5,
        ax=None,
    ):
        """Explain the decision on one sample and draw the parts.

        Parameters
        ----------
        estimator : ReActDetector or Pipeline
            As in :func:`explain_decision`.

        X : array-like of shape (1, n_features), or one image in a sequence
            The sample.

        X_id : array-like of shape (n_id, n_features), or images
            ID data to compare with.

        class_names : sequence of str, default=None
            Names of the classes; None for "class 0" and so on.

        n_references : int, default=16
            Number of ID rows to compare with, at least 1.

        n_nearest : int, default=5
            Number of ID images to show beside the sample: the most similar ones. 0 for
            no pictures. There are none either if `estimator` takes features, or if `X`
            and `X_id` hold no images or are DataLoaders. Files are opened a second time
            to be shown.

        n_units, n_classes : int, default=8 and 5
            Number of units and of classes with a bar of their own, at least 1.

        ax : matplotlib Axes, default=None
            Where to draw; None for a new figure.

        Returns
        -------
        display : DecisionDisplay
            The numbers and what was drawn.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If the detector is not fitted.
        TypeError
            If the estimator is not, and does not end in, a ReActDetector.
        ValueError
            If there is more than one sample, if `n_units` or `n_classes` is below 1,
            or as in :func:`explain_decision`.
        """
        explained = explain_decision(
            estimator, X, X_id, n_references=n_references, n_nearest=n_nearest
        )
        if len(explained.total) != 1:
            raise ValueError(
                f"Got {len(explained.total)} samples, expected one: X[[row]]. For many "
                "samples, use explain_decision."
            )
        pictures = {}
        takes_images = not isinstance(unfrozen(estimator), BaseReActDetector)
        own, _ = pictures_of(X, [0]) if n_nearest and takes_images else (None, None)
        if own is not None:
            nearest = explained.nearest_rows[0]
            images, names = pictures_of(X_id, nearest)
            pictures = {
                "image": own[0],
                "nearest_images": images or (),
                "nearest_names": names,
                "nearest_rows": nearest,
                "nearest_similarity": explained.nearest_similarity[0],
            }
        return cls(
            units=explained.units[0],
            classes=explained.classes[0],
            clip=explained.clip[0].item(),
            reference=explained.reference,
            score=explained.score[0].item(),
            threshold=explained.threshold,
            unit_names=getattr(estimator, "feature_names_in_", None),
            class_names=class_names,
            **pictures,
        ).plot(ax, n_units=n_units, n_classes=n_classes)

    def plot(self, ax=None, *, n_units=8, n_classes=5):
        """Draw the parts.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None for a new figure.

        n_units, n_classes : int, default=8 and 5
            Number of units and of classes with a bar of their own, at least 1.

        Returns
        -------
        display : DecisionDisplay
            This object.

        Raises
        ------
        ValueError
            If `n_units` or `n_classes` is below 1.
        """
        if min(n_units, n_classes) < 1:
            raise ValueError(
                f"n_units={n_units}, n_classes={n_classes}; expected at least 1 each."
            )
        blocks = [
            self._block("unit", self.units, self.unit_names, n_units),
            self._block("class", self.classes, self.class_names, n_classes),
        ]
        n_bars = sum(len(names) for names, _, _ in blocks)
        height, strip = BAR * (n_bars + 1), 0 if self.image is None else STRIP
        self.ax_, self.figure_ = axes_and_figure(
            ax, figsize=(6.4, height + REST + strip)
        )
        names = [name for block, _, _ in blocks for name in block]
        widths = np.concatenate([parts for _, parts, _ in blocks])
        lefts = [self.reference + np.cumsum(parts) - parts for _, parts, _ in blocks]
        colors = [color for _, _, some in blocks for color in some]
        first = len(blocks[0][0])
        places = np.arange(n_bars) + (np.arange(n_bars) >= first)  # a gap between
        self.bars_ = self.ax_.barh(
            places, widths, left=np.concatenate(lefts), color=colors
        )
        for value, style, color, label in (
            (self.reference, "-", ID_COLOR, f"typical ID score {self.reference:.4g}"),
            (self.threshold, "--", CLIP_COLOR, f"threshold {self.threshold:.4g}"),
            (self.score, "-", OOD_COLOR, f"this sample {self.score:.4g}"),
        ):
            self.ax_.axvline(value, color=color, ls=style, lw=1.3, label=label)
        for place, width, left in zip(
            places, widths, np.concatenate(lefts), strict=True
        ):
            self.ax_.annotate(
                f"{width:+.2g}",
                (max(left, left + width), place),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )
        self.ax_.set_yticks(places, names)
        self.ax_.set_ylim(n_bars + 0.6, -0.6)
        begin = np.concatenate(lefts)
        ends = [*begin, *(begin + widths), self.reference, self.threshold, self.score]
        margin = 0.16 * (np.ptp(ends) or 1)  # for the numbers beside the bars
        self.ax_.set_xlim(min(ends) - margin / 3, max(ends) + margin)
        self.ax_.grid(axis="x", color="0.9")
        self.ax_.set_axisbelow(True)
        judged = "rejected" if self.score < self.threshold else "accepted"
        sizes = np.sort(np.abs(self.units))[::-1]
        share = sizes[:n_units].sum() / (sizes.sum() or 1)
        distance = self.score - self.reference
        self.ax_.set(
            title=f"{judged}: score {distance:+.3g} from typical ID\n"
            f"(the named units have {100 * share:.0f} % of the sum without signs)",
            xlabel="score (the higher, the more in-distribution)",
        )
        self.ax_.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, fontsize=8
        )
        self.pictures_ = []
        if self.image is not None:
            below, tall = (STRIP_BELOW + STRIP) / height, STRIP / height
            self._draw_pictures(self.ax_.inset_axes([0, -below, 1, tall]))
        return self

    def _draw_pictures(self, ax):
        """Draw the sample, and the most similar ID images to the right of it."""
        captions = ["this sample"]
        names = self.nearest_names
        if names is None:
            names = [f"ID row {row}" for row in self.nearest_rows]
        captions += [
            f"{shortened(name)}\nsimilarity {similarity:.2f}"
            for name, similarity in zip(names, self.nearest_similarity, strict=True)
        ]
        images = [self.image, *self.nearest_images]
        for place, (image, caption) in enumerate(zip(images, captions, strict=False)):
            x = place * STEP + 0.5
            self.pictures_.append(draw_picture(ax, image, x, 0.5))
            ax.text(x, 1.05, caption, fontsize=7, ha="center", va="top")
        width = len(images) * STEP - STEP + 1
        ax.set(xlim=(0, width), ylim=(1.4, 0), aspect="equal", anchor="N")
        ax.set_axis_off()

    def _block(self, kind, parts, names, n):
        """Return names, parts and colours of the bars of one block."""
        largest = np.argsort(-np.abs(parts), kind="stable")[:n]
        labels = [f"{kind} {i}" if names is None else str(names[i]) for i in largest]
        found = [*parts[largest]]
        colors = [OOD_COLOR if part < 0 else ID_COLOR for part in found]
        others = np.delete(parts, largest)
        plural = "units" if kind == "unit" else "classes"
        for some, sign in ((others[others < 0], "−"), (others[others > 0], "+")):
            if len(some):
                labels.append(f"{len(some)} other {plural}, {sign}")
                found.append(some.sum())
                colors.append(OTHERS_COLOR)
        return (
            [*labels, "clip (relative to ID)"],
            [*found, self.clip],
            [*colors, TOTAL_COLOR],
        )


def shortened(name):
    """Return the two ends of a long name."""
    return name if len(name) <= LONGEST else f"{name[:6]}…{name[-6:]}"
