"""The table of the page "What we measured", from the reports of several runs.

    python benchmarks/measured.py NAME=FOLDER ... > docs/reports/networks.csv

Each folder is that of `python -m reactood benchmark SUITE --methods features --out
FOLDER`, and its name is that of the network in the table. "best rule" is the best of
all methods for this OOD set, which only its images tell.
"""

import argparse
import csv
import json
import sys
from pathlib import Path

METHODS = {"MSP": "msp", "Energy": "energy", "ReAct at 90": "energy+react"}
HEADS = "network", "OOD images", *METHODS, "chosen without OOD data", "best rule"


def main():
    """Print the table as CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(HEADS)
    for run in parser.parse_args().runs:
        name, _, folder = run.partition("=")
        result = json.loads((Path(folder) / "report.json").read_text())
        writer.writerows(rows(name, result))


def rows(network, result):
    """Yield the rows of one network: one for each OOD set."""
    methods = {m["method"]: m for m in result["methods"] if "error" not in m}
    if missing := {*METHODS.values(), "tuned"} - methods.keys():
        sys.exit(f"{network} lacks {', '.join(missing)}: run with --methods features.")
    tuned = methods["tuned"]
    for place, cell in enumerate(tuned["ood"]):

        def of(method, place=place):
            return methods[method]["ood"][place]

        best = max(methods, key=lambda method: of(method)["auroc"])
        yield [
            network,
            cell["ood"],
            *(shown(of(method)) for method in METHODS.values()),
            shown(cell, choice(tuned)),
            shown(of(best), "as chosen" if best == "tuned" else best),
        ]


def choice(tuned):
    """Return score and percentile of the choice, in short."""
    settings = tuned["remark"].removeprefix("chosen: ").removesuffix(".")
    values = dict(part.split("=") for part in settings.split(", "))
    score = values["score_function"].strip("'").replace("_", " ")
    clip = values["percentile"].removesuffix(".0")
    return f"{score}, no clip" if clip == "None" else f"{score}, {clip}"


def shown(cell, *more):
    """Return a cell of several lines: AUROC, FPR95, and what was used."""
    lines = [
        f"{100 * cell[key]:.1f} "
        f"[{100 * cell[f'{key}_low']:.1f}, {100 * cell[f'{key}_high']:.1f}]"
        for key in ("auroc", "fpr95")
    ]
    return "\n".join(f"| {line}" for line in [*lines, *more])


if __name__ == "__main__":
    main()
