"""Write the report as text, CSV, JSON, and an HTML page with figures."""

import json
import textwrap
from pathlib import Path

from reactood._cli import _csv as csv
from reactood._cli import _page as page
from reactood._cli.benchmark._published import SOURCE


def write(result, figures, out):
    """Write all forms of the report into a folder; return their paths."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    forms = {
        "report.txt": as_text(result),
        "report.csv": as_csv(result),
        "report.json": json.dumps(result, indent=1) + "\n",
        "report.html": as_html(result, figures),
    }
    for name, text in forms.items():
        csv.write_text(out / name, text)
    return [out / name for name in forms]


def as_text(result):
    """Return the table and its notes as plain text."""
    table = list(_table(result))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for first, *cells in table:
        aligned = [cell.rjust(w) for cell, w in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *aligned]).rstrip())
    wrapped = [
        textwrap.fill(
            note,
            80,
            subsequent_indent="  ",
            break_on_hyphens=False,
            break_long_words=False,
        )
        for note in _notes(result)
    ]
    return "\n".join([*lines, "", *wrapped]) + "\n"


def as_csv(result):
    """Return one line per method and OOD set, and one per method for the mean."""
    fields = ["suite", "model", "method", "clip", "ood", "n", "fpr95", "auroc"]
    fields += ["fpr95_low", "fpr95_high", "auroc_low", "auroc_high"]
    fields += ["published_fpr95", "published_auroc", "id_accuracy", "id_accuracy_rule"]
    fields += ["seconds", "error"]
    rows = []
    for method in result["methods"]:
        row = {key: result[key] for key in ("suite", "model", "id_accuracy")}
        row |= {key: method.get(key) for key in ("method", "clip", "seconds", "error")}
        row["id_accuracy_rule"] = method.get("accuracy")
        for cell in _cells(method):
            size = result["counts"].get(f"OOD {cell.get('ood')}")
            rows.append(row | {"n": size} | cell)
    return csv.as_csv(fields, rows)


def as_html(result, figures):
    """Return a page that needs no other file; ``figures`` are captions and PNGs."""
    head, *body = _table(result)
    published = [place for place, row in enumerate(body) if row[0].startswith(" ")]
    return page.page(
        f"{result['suite']}, {result['model']}",
        page.table(head, body, soft=published),
        page.paragraphs(_notes(result)),
        *(page.picture(png, caption) for caption, png in figures),
    )


def _cells(method):
    if "error" in method:
        return [{}]
    return [*method["ood"], {"ood": "mean"} | method["mean"]]


def _table(result):
    """Yield lines of cells, the first with the titles."""
    sets = [name.removeprefix("OOD ") for name in result["counts"]][2:]
    several = len(sets) > 1
    yield ["FPR95 / AUROC, %", *sets, *(["mean"] if several else []), "clip", "ID acc."]
    for method in result["methods"]:
        if "error" in method:
            yield [method["method"], "error", *[""] * (len(sets) + 1 + several)]
            continue
        cells = _cells(method)[: len(sets) + several]
        clip, accuracy = method["clip"], method["accuracy"]
        yield [
            method["method"],
            *(_pair(cell["fpr95"], cell["auroc"]) for cell in cells),
            "" if clip is None else f"{clip:.3f}",
            "" if accuracy is None else f"{100 * accuracy:.1f}",
        ]
        if any("published_fpr95" in cell for cell in cells):
            yield [
                "  published",
                *(
                    _pair(cell.get("published_fpr95"), cell.get("published_auroc"))
                    for cell in cells
                ),
                "",
                "",
            ]


def _pair(fpr, auroc):
    return "" if fpr is None else f"{100 * fpr:.1f} / {100 * auroc:.1f}"


def _notes(result):
    counts = ", ".join(f"{name}: {n:,}" for name, n in result["counts"].items())
    seed = f" Seed: {result['seed']}." if "seed" in result else ""
    yield f"Suite {result['suite']}, model {result['model']}. Images: {counts}.{seed}"
    yield (
        "FPR95: share of OOD images accepted where 95 % of ID images are; the lower, "
        "the better. AUROC: the higher, the better. Both by the paper's conventions."
    )
    if n := result.get("n_bootstrap"):
        yield (
            f"report.csv has 95 % intervals of both, from {n:,} bootstrap resamples of "
            "the images."
        )
    if result["id_accuracy"] is not None:
        yield (
            f"ID accuracy of the network as it is: {100 * result['id_accuracy']:.1f} "
            "%. In the table: with the rule in place, if classes were taken from it."
        )
    if any("published_fpr95" in c for m in result["methods"] for c in _cells(m)):
        yield f"Published: {SOURCE}."
    yield from result["notes"]
    for method in result["methods"]:
        if remark := method.get("error") or method.get("remark"):
            yield f"{method['method']}: {remark}"
    if any(method["method"].startswith("odin") for method in result["methods"]):
        without, clipped = result["odin_noise"]
        yield f"ODIN: temperature 1000, noise {without:g}, with the clip {clipped:g}."
    seconds = sum(result["timings"].values())
    yield (
        f"Features took {seconds:.0f} s, those from the cache included; the seconds of "
        "each method are in report.csv."
    )
    yield (
        "Versions: "
        + ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        + "."
    )
    if "command" in result:
        yield f"Made with: {result['command']}"
