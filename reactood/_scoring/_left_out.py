"""Leave classes out of a head: in-distribution rows stand in for OOD rows.

The rows that the whole head assigns to the left-out classes are out-of-distribution to
the head that is left. Nothing is trained and no label is needed: a row counts for the
class that the classifier itself decides for.
"""

from dataclasses import dataclass

import numpy as np

LEAST_ROWS = 5  # on either side of a part, below which it says nothing
N_PARTS = 2  # halves: the study in the user guide compares numbers of parts
N_REPEATS = 3


class TooFewClasses(ValueError):
    """The head has too few classes to leave some out."""


@dataclass(frozen=True, eq=False)
class LeftOutClasses:
    """Parts of the classes, each of which is left out once.

    Attributes
    ----------
    kept : bool array of shape (n_parts, n_classes)
        The classes that stay.
    known : bool array of shape (n_parts, n_rows)
        The rows whose class stays: in-distribution. The others are OOD.
    """

    kept: np.ndarray
    known: np.ndarray

    def __len__(self):
        return len(self.kept)

    @property
    def labels(self):
        """1 for in-distribution rows and -1 for OOD rows: (n_parts, n_rows)."""
        return np.where(self.known, 1, -1)


def leave_classes_out(
    predicted, n_classes, random, *, n_parts=N_PARTS, n_repeats=N_REPEATS
):
    """Deal the classes out to parts at random.

    Parameters
    ----------
    predicted : int array of shape (n_rows,)
        The place of each row's class among the logits.
    n_classes : int
        Number of logits.
    random : RandomState
        Deals them out.
    n_parts, n_repeats : int
        Into how many parts, and how many times anew.

    Returns
    -------
    left_out : LeftOutClasses
        Without the parts that have too few rows on either side: its length may be 0.
        Few classes can be dealt in few ways: a part that comes again is there once.

    Raises
    ------
    TooFewClasses
        If there are fewer than three.
    """
    if n_classes < 3:
        raise TooFewClasses(
            f"The head has {n_classes} classes; expected three or more to leave some "
            "out, as two have to stay. tune_percentile chooses by other surrogates: "
            "surrogate='phase_scrambled' on images, 'permuted_units' on features. "
            "ReActDetectorCV chooses by real OOD data."
        )
    seen = np.bincount(predicted, minlength=n_classes) > 0
    # With three classes, halves would leave one or two: parts of one leave two.
    n_parts = min(n_parts, n_classes) if n_classes > 3 else 3
    heads: dict[bytes, np.ndarray] = {}
    for _ in range(n_repeats):
        order = random.permutation(n_classes)
        # Classes that have rows first, so that every part has its share of them.
        order = order[np.argsort(~seen[order], kind="stable")]
        part = np.empty(n_classes, int)
        part[order] = np.arange(n_classes) % n_parts
        for stays in (part != k for k in range(n_parts)):
            # A part that counted twice would look like more evidence than there is.
            heads.setdefault(stays.tobytes(), stays)
    kept = np.array(list(heads.values()))
    known = kept[:, predicted]
    n_known = known.sum(axis=1)
    enough = np.minimum(n_known, known.shape[1] - n_known) >= LEAST_ROWS
    return LeftOutClasses(kept[enough], known[enough])
