"""OODReport: the result of ood_report as text, HTML and a data frame."""

import html
import textwrap
from dataclasses import dataclass

WIDTH = 80  # characters per line; columns that do not fit go into a second table


@dataclass(repr=False)
class OODReport:
    """The results of :func:`ood_report`.

    `print(report)` shows a table in percent. The stored numbers are fractions.
    `report["name"]` is the row of the OOD set with that name.

    Parameters
    ----------
    rows : list of dict
        One for each OOD set. If there are several sets, one more row, called "mean",
        has their unweighted means. The keys are

        ood, n : str, int
            Name of the set and number of samples; None for the mean.
        fpr, detection_error : float
            Fractions; the lower, the better.
        auroc, aupr_in, aupr_out : float
            Fractions; the higher, the better.
        fpr_low, fpr_high, auroc_low, ... : float
            Ends of the confidence intervals, fractions. Missing without bootstrap.
        ood_rejected : float
            The share of the set that is rejected at the detector's own threshold; the
            higher, the better.

    n_id : int
        Number of in-distribution (ID) samples.

    id_accepted : float
        The share of the ID samples that is accepted at the detector's own threshold.

    id_accuracy : float or None
        The classification accuracy on the ID samples, from unclipped features; None if
        unknown.

    id_accuracy_clipped : float or None
        The classification accuracy from clipped features; None if unknown.

    tpr : float
        The share of ID samples that is accepted at the threshold of the FPR.

    n_bootstrap : int
        Number of bootstrap resamples; 0 for none.

    confidence : float
        Confidence level of the intervals, a fraction.

    See Also
    --------
    ood_report : Evaluates a detector and returns this report.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.covariance import EllipticEnvelope
    >>> from reactood.metrics import ood_report
    >>> rng = np.random.default_rng(0)
    >>> detector = EllipticEnvelope().fit(rng.normal(size=(200, 2)))
    >>> X_id, X_ood = rng.normal(size=(100, 2)), rng.normal(9, size=(50, 2))
    >>> report = ood_report(detector, X_id, {"far": X_ood})
    >>> report["far"]["auroc"], report["far"]["fpr"]
    (1.0, 0.0)
    """

    rows: list
    n_id: int
    id_accepted: float
    id_accuracy: float | None = None
    id_accuracy_clipped: float | None = None
    tpr: float = 0.95
    n_bootstrap: int = 0
    confidence: float = 0.95

    def __getitem__(self, name):
        for row in self.rows:
            if row["ood"] == name:
                return row
        raise KeyError(f"{name!r}; there are {[row['ood'] for row in self.rows]}")

    def to_frame(self):
        """Return the rows as a pandas data frame.

        Returns
        -------
        frame : pandas.DataFrame
            One row per OOD set, indexed by its name. The columns are the keys of
            `rows`; the values are fractions.

        Raises
        ------
        ImportError
            If pandas is not installed. `rows` has the same numbers.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                "to_frame needs pandas, which is not installed: pip install pandas. "
                "The same numbers are in report.rows, a list of dicts."
            ) from error
        return pd.DataFrame(self.rows).astype({"n": "Int64"}).set_index("ood")

    def __str__(self):
        columns = []
        for column in self._columns():
            width = max(map(len, column))
            columns.append([cell.ljust(width) for cell in column])
        names, *columns = columns
        blocks = [[names]]
        for column in columns:
            taken = sum(len(cells[0]) + 2 for cells in blocks[-1])
            if len(blocks[-1]) > 1 and taken + len(column[0]) > WIDTH:
                blocks.append([names])
            blocks[-1].append(column)
        tables = [
            "\n".join("  ".join(line).rstrip() for line in zip(*block, strict=True))
            for block in blocks
        ]
        notes = "\n".join(textwrap.fill(note, WIDTH) for note in self._notes())
        return "\n\n".join([*tables, notes])

    __repr__ = __str__

    def _repr_html_(self):
        head, *lines = (
            [html.escape(cell.strip()) for cell in line]
            for line in zip(*self._columns(), strict=True)
        )
        body = "".join(
            f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"
            for name, *cells in lines
        )
        return (
            f"<table>\n<thead><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>"
            f"</thead>\n<tbody>\n{body}</tbody>\n</table>\n"
            + "".join(f"<p>{html.escape(note)}</p>\n" for note in self._notes())
        )

    def _columns(self):
        """Return the columns as lists of text that begin with the title."""
        sizes = ["" if row["n"] is None else str(row["n"]) for row in self.rows]
        width = max(map(len, sizes))
        columns = [
            ["OOD set", *(row["ood"] for row in self.rows)],
            ["n".rjust(width), *(size.rjust(width) for size in sizes)],
        ]
        titles = {
            "ood_rejected": "rejected",
            "fpr": self._fpr(),
            "auroc": "AUROC",
            "aupr_in": "AUPR-in",
            "aupr_out": "AUPR-out",
            "detection_error": "det. error",
        }
        for key, title in titles.items():
            columns.append([title, *(_cell(row, key) for row in self.rows)])
        return columns

    def _notes(self):
        """Yield sentences that explain the table."""
        parts = [f"ID: {self.n_id} samples", f"{self.id_accepted:.1%} accepted"]
        if self.id_accuracy is not None:
            parts.append(
                f"class accuracy {self.id_accuracy:.1%} "
                f"({self.id_accuracy_clipped:.1%} from clipped features)"
            )
        yield ", ".join(parts) + "."
        meaning = (
            "All values in percent. Accepted and rejected: at the detector's own "
            "threshold."
        )
        if self.n_bootstrap:
            meaning += (
                f" In brackets: {100 * self.confidence:g} % bootstrap intervals from "
                f"{self.n_bootstrap} resamples."
            )
        yield meaning
        yield (
            f"All metrics follow the paper's conventions. {self._fpr()} and detection "
            "error: the lower, the better. AUROC and AUPR: the higher, the better."
        )

    def _fpr(self):
        return f"FPR{100 * self.tpr:g}"


def _cell(row, key):
    text = f"{100 * row[key]:5.1f}"
    if f"{key}_low" not in row:
        return text
    return f"{text} [{100 * row[f'{key}_low']:.1f}, {100 * row[f'{key}_high']:.1f}]"
