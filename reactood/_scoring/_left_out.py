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

    Raises
    ------
    TooFewClasses
        If there are fewer than three.
    """
    if n_classes < 3:
        raise TooFewClasses(
            f"The head has {n_classes} classes; expected three or more to leave some "
            "out, as two have to stay. Choose by other surrogates, such as "
            "surrogate='phase_scrambled' on images, or by real OOD data with "
            "ReActDetectorCV."
        )
    seen = np.bincount(predicted, minlength=n_classes) > 0
    # With three classes, halves would leave one or two: parts of one leave two.
    n_parts = min(n_parts, n_classes) if n_classes > 3 else 3
    heads = []
    for _ in range(n_repeats):
        order = random.permutation(n_classes)
        # Classes that have rows first, so that every part has its share of them.
        order = order[np.argsort(~seen[order], kind="stable")]
        part = np.empty(n_classes, int)
        part[order] = np.arange(n_classes) % n_parts
        heads += [part != k for k in range(n_parts)]
    kept = np.array(heads)
    known = kept[:, predicted]
    n_known = known.sum(axis=1)
    enough = np.minimum(n_known, known.shape[1] - n_known) >= LEAST_ROWS
    return LeftOutClasses(kept[enough], known[enough])
