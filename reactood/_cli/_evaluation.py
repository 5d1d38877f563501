"""Make the numbers of ``evaluate``, and write them as files and as a page."""

import json
import os
import re
import textwrap
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from reactood._cli import _csv as csv
from reactood._cli import _page as page
from reactood._cli import _plots as plots
from reactood._cli import _sections as sections
from reactood._cli._activations import activations_of, clips
from reactood._cli._detectors import load_detector
from reactood._cli._evaluate import FIGURES
from reactood._cli._exit import one_line, say
from reactood._cli._image_scorer import ImageScorer
from reactood._cli._image_set import read_set
from reactood._cli._inputs import counted, draw, list_inputs
from reactood._cli._provenance import provenance
from reactood._utils._new_file import write_whole
from reactood._utils._response import score_and_threshold
from reactood.metrics import ood_report
from reactood.metrics._bootstrap import METRICS

ID = "ID"


@dataclass
class Evaluation:
    """All that a report says. ``sets`` begins with the ID images."""

    sets: list
    used: list  # those of the OOD sets of which an image could be read
    report: Any
    activations: list | None
    detector: Any
    threshold: float | None
    about: dict
    warnings: list = field(default_factory=list)


def evaluate(options):
    """Read all images, once, and return what is to be written about them."""
    listed = {ID: list_inputs(options.id, null=options.null)}
    for name, images in options.ood:
        listed[name] = list_inputs([images])
    scorer = ImageScorer(load_detector(options), options.detector)
    about = provenance(options.detector, scorer, options.arguments)
    sets = [
        read_set(scorer, name, draw(paths, options.limit, options.seed), options)
        for name, paths in listed.items()
    ]
    known, *ood = sets
    used = [images for images in ood if images.paths]
    for images, kind in ((known.paths, "ID"), (used, "OOD")):
        if not images:
            raise ValueError(
                f"None of the {kind} images could be read, so there is nothing to "
                "compare; the reasons are above."
            )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = ood_report(
            scorer.detector,
            known.X,
            {images.name: images.X for images in used},
            n_bootstrap=options.bootstrap,
            random_state=options.seed,
        )
    said = list(dict.fromkeys(one_line(warning.message) for warning in caught))
    said += [
        f"None of the images of {images.name!r} could be read; the set is left out."
        for images in ood
        if not images.paths
    ]
    said += _in_both(known, used)
    for text in said:
        say(f"reactood: warning: {text}")
    method, threshold = score_and_threshold(scorer.detector)
    for images in (known, *used):
        images.score(method, scorer.detector)
    activations = None
    if clips(scorer.classifier):
        activations = [activations_of(images.X, scorer.classifier) for images in sets]
    return Evaluation(
        sets=sets,
        used=used,
        report=report,
        activations=activations,
        detector=scorer.classifier,
        threshold=threshold,
        about=about,
        warnings=said,
    )


def _in_both(known, used):
    """Return a warning for each OOD set that has files of the ID images in it."""
    of_id = set(map(os.path.realpath, known.paths))
    for images in used:
        n = sum(os.path.realpath(path) in of_id for path in images.paths)
        if n:
            yield (
                f"{n:,} of the {counted(len(images.paths))} of {images.name!r} "
                f"{'are' if n > 1 else 'is'} among the ID images, too: a detector "
                "cannot tell these apart."
            )


def write_numbers(result, out):
    """Write the numbers in all forms; return the paths."""
    forms = {
        "report.csv": as_csv(result),
        "report.json": as_json(result),
        "report.txt": as_text(result) + "\n",
    }
    for name, text in forms.items():
        csv.write_text(out / name, text)
    return [out / name for name in forms]


def as_csv(result):
    """Return a line for each OOD set, and for the means over them; all fractions."""
    fields = ["ood", "n", "unreadable", "ood_rejected"]
    for metric in METRICS:
        fields += [metric, f"{metric}_low", f"{metric}_high"]
    fields += ["clipped_share", "clip_change", "n_id", "id_accepted"]
    return csv.as_csv(fields, _rows(result))


def _rows(result):
    report = result.report
    for row in report.rows:
        more = {"n_id": report.n_id, "id_accepted": report.id_accepted}
        yield row | _of_set(result, row["ood"]) | more


def _of_set(result, name):
    """Return what is known of an OOD set beside the metrics; nothing for the means."""
    for place, images in enumerate(result.sets):
        if place and images.name == name:
            found: dict[str, Any] = {"unreadable": len(images.problems)}
            if result.activations is not None:
                found["clipped_share"] = result.activations[place].share
                found["clip_change"] = result.activations[place].change
            return found
    return {}


def as_json(result):
    """Return all numbers, the images that could not be read, and the provenance."""
    report = asdict(result.report) | {"rows": list(_rows(result))}
    known, activations = result.sets[0], result.activations
    content = {
        **report,
        "threshold": result.threshold,
        "id_unreadable": len(known.problems),
        "id_clipped_share": activations[0].share if activations else None,
        "id_clip_change": activations[0].change if activations else None,
        "fit_clipped_share": result.detector.clipped_share_ if activations else None,
        "unreadable": [
            {"set": images.name, "path": path, "reason": reason}
            for images in result.sets
            for path, reason in images.problems.items()
        ],
        "warnings": result.warnings,
        "detector": result.about,
    }
    return json.dumps(content, indent=1) + "\n"


def as_text(result):
    """Return the tables and the images that could not be read as plain text."""
    parts = [str(result.report)]
    if result.activations is not None:
        shares = [("the fit", result.detector.clipped_share_)]
        shares += [
            (images.name, of_set.share)
            for images, of_set in zip(result.sets, result.activations, strict=True)
            if images.paths
        ]
        shown = ", ".join(f"{name} {sections.share(value)}" for name, value in shares)
        parts.append(textwrap.fill(f"Clipped activations in percent: {shown}.", 80))
    for images in result.sets:
        if images.problems:
            lines = [
                f"{csv.shown(path)}: {why}" for path, why in images.problems.items()
            ]
            title = f"{images.name}: left out, as they could not be read:"
            parts.append("\n  ".join([title, *lines]))
    parts += [textwrap.fill(f"Warning: {text}", 80) for text in result.warnings]
    return "\n\n".join(parts)


def write_page(result, out, *, n):
    """Draw the figures, write them and the page; return the path of the page."""
    drawn = []
    for place, images in enumerate(result.used, 1):
        figures = list(_figures(result, images))
        drawn += [page.element("h3", images.name), _pair(figures)]
        for kind, png, *_ in figures:
            name = f"{place}-{_slug(images.name)}-{kind}.png"
            write_whole(out / FIGURES / name, png)
    report, known = result.report, result.sets[0]
    head, *rows = zip(*report._columns(), strict=True)
    n_sets = len(result.used)
    ood = f"{n_sets} OOD sets" if n_sets > 1 else "one OOD set"
    tested = f"{counted(len(known.paths), 'ID ')} and on {ood}"
    n_unread = sum(len(images.problems) for images in result.sets)
    unread = f" {counted(n_unread)} could not be read." if n_unread else ""
    summary = (
        f"{type(result.detector).__name__}, tested on {tested}.{unread} A higher "
        f"score means more in-distribution. {_headline(report)}"
    )
    whole = page.page(
        "Evaluation of a detector",
        page.paragraphs([summary]),
        page.section(
            "How well the sets are told apart",
            page.table(head, rows, caption="Metrics of each OOD set, in percent."),
            page.paragraphs(report._notes(), class_="note"),
        ),
        sections.notes(result.warnings),
        page.section("Scores and activations", *drawn),
        page.section(
            "Images with the highest and the lowest scores",
            *(sections.contact_sheets(images, n) for images in result.sets),
        ),
        sections.clipping(result.sets, result.activations, result.detector),
        sections.unreadable(result.sets),
        sections.about_detector(result.about),
    )
    csv.write_text(out / "index.html", whole)
    return out / "index.html"


def _headline(report):
    """Return the most important numbers as a sentence; the last row has the means."""
    row = report.rows[-1]
    of = "Mean over the sets" if len(report.rows) > 1 else row["ood"]
    fpr = f"FPR{100 * report.tpr:g} {100 * row['fpr']:.1f} %"
    return f"{of}: AUROC {100 * row['auroc']:.1f} %, {fpr}."


def _figures(result, images):
    """Yield the kind, the PNG, the caption and the description of each figure."""
    known, row = result.sets[0], result.report[images.name]
    png = plots.draw_scores(known.scores, images.scores, result.threshold)
    caption = f"Scores of the ID images and of {images.name}, with the threshold."
    yield (
        "scores",
        png,
        caption,
        f"Two histograms of scores: {counted(len(known.paths), 'ID ')}, median "
        f"{np.median(known.scores):.4g}, and {counted(len(images.paths))} of "
        f"{images.name}, median {np.median(images.scores):.4g}. The AUROC is "
        f"{100 * row['auroc']:.1f} %.",
    )
    if result.activations is None:
        return
    first = result.activations[0]
    other = result.activations[result.sets.index(images)]
    png = plots.draw_activations(result.detector, first, other)
    yield (
        "activations",
        png,
        f"Activations of each unit, before the clip: ID images and {images.name}.",
        f"Mean and standard deviation of each of {len(first.mean)} units. The mean "
        f"over all is {first.mean.mean():.3g} for ID images and "
        f"{other.mean.mean():.3g} for {images.name}.",
    )


def _pair(figures):
    pictures = [page.picture(png, text, alt=alt) for _, png, text, alt in figures]
    return page.element("div", page.joined(*pictures), class_="pair")


def _slug(name):
    """Return a name as part of the name of a file."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40] or "set"
