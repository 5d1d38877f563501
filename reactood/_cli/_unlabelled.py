"""Make the numbers and the page of ``report``: one set of images without truth."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reactood._cli import _page as page
from reactood._cli import _plots as plots
from reactood._cli import _sections as sections
from reactood._cli._activations import Activations, activations_of, clips
from reactood._cli._detectors import load_detector
from reactood._cli._image_scorer import ImageScorer
from reactood._cli._image_set import ImageSet, read_set
from reactood._cli._inputs import counted, draw, list_inputs
from reactood._cli._provenance import provenance
from reactood._cli._rejected import MORE, clearly_more
from reactood._utils._response import score_and_threshold

LEVELS = 0, 5, 25, 50, 75, 95, 100  # percentiles of the scores


@dataclass
class Examined:
    """What a detector says of a set of images."""

    images: ImageSet
    detector: Any
    threshold: float | None
    expected: float | None  # the share of ID images that is rejected
    about: dict
    notes: list  # sentences on what the numbers mean
    whole: Activations | None = None  # of all images
    judged: list = field(default_factory=list)  # of those accepted, and rejected


def examine(options):
    """Read all images, once, and return what there is to say of them."""
    paths = list_inputs(options.inputs, null=options.null)
    scorer = ImageScorer(load_detector(options), options.detector)
    about = provenance(options.detector, scorer, options.arguments)
    paths = draw(paths, options.limit, options.seed)
    images = read_set(scorer, "images", paths, options)
    if not images.paths:
        raise ValueError("None of the images could be read; the reasons are above.")
    method, threshold = score_and_threshold(scorer.detector)
    images.score(method, scorer.detector)
    expected = getattr(scorer.classifier, "contamination", None)
    expected = getattr(scorer.detector, "alpha", expected)
    n_rejected = int((~images.accepted).sum())
    unusual = clearly_more(
        n_rejected, len(images.paths), scorer.detector, scorer.classifier
    )
    notes = [MORE] if unusual else []
    found = Examined(images, scorer.classifier, threshold, expected, about, notes)
    if clips(scorer.classifier):
        found.whole = activations_of(images.X, scorer.classifier)
        found.judged = [
            activations_of(images.X[rows], scorer.classifier)
            for rows in (images.accepted, ~images.accepted)
        ]
    return found


def as_text(result):
    """Return the numbers as plain text."""
    lines = [f"{label}: {value}" for label, value in numbers(result).items()]
    return "\n".join([*lines, *result.notes])


def numbers(result):
    """Return the numbers by what they are, as text."""
    images = result.images
    n, n_accepted = len(images.paths), int(images.accepted.sum())
    n_rejected = n - n_accepted
    found = {
        "images": f"{images.n_images:,}{_unread(images)}",
        "accepted as in-distribution": f"{n_accepted:,} ({n_accepted / n:.1%})",
        "rejected as out-of-distribution": f"{n_rejected:,} ({n_rejected / n:.1%})",
    }
    if result.expected is not None:
        found["rejected of in-distribution images, expected"] = f"{result.expected:.1%}"
    if result.threshold is not None:
        found["threshold of the score"] = f"{result.threshold:.4g}"
    names = {0: "lowest score", 50: "median score", 100: "highest score"}
    for level, value in zip(LEVELS, np.percentile(images.scores, LEVELS), strict=True):
        found[names.get(level, f"{level} % of the scores are below")] = f"{value:.4g}"
    return found


def _unread(images):
    n = len(images.problems)
    return f", {n:,} of them could not be read" if n else ""


def as_html(result, *, n):
    """Return the page."""
    images = result.images
    n_unread = len(images.problems)
    unread = f" {counted(n_unread)} could not be read." if n_unread else ""
    whole = None if result.whole is None else [result.whole]
    return page.page(
        "What a detector says of images",
        page.paragraphs(
            [
                f"{type(result.detector).__name__}, applied to "
                f"{counted(len(images.paths))} of which the truth is not known."
                f"{unread} A higher score means more in-distribution."
            ]
        ),
        page.section(
            "Numbers",
            page.table([], numbers(result).items(), caption="Images and scores."),
            page.paragraphs(result.notes),
        ),
        page.section("Scores and activations", _drawn(result)),
        page.section(
            "Images with the highest and the lowest scores",
            sections.contact_sheets(images, n),
        ),
        sections.clipping([images], whole, result.detector),
        sections.unreadable([images]),
        sections.about_detector(result.about),
    )


def _drawn(result):
    images = result.images
    pictures = [
        page.picture(
            plots.draw_unlabelled_scores(images.scores, result.threshold),
            "Scores of the images, with the threshold.",
            alt=f"Histogram of the scores of {counted(len(images.paths))}, from "
            f"{images.scores.min():.4g} to {images.scores.max():.4g}; "
            f"{images.accepted.mean():.1%} are at or above the threshold.",
        )
    ]
    if result.whole is not None:
        accepted, rejected = result.judged
        labels = "accepted", "rejected"
        pictures.append(
            page.picture(
                plots.draw_activations(result.detector, accepted, rejected, labels),
                "Activations of each unit, before the clip: images that are accepted "
                "and images that are rejected.",
                alt=f"Mean and standard deviation of each of {len(result.whole.mean)} "
                "units, for accepted and for rejected images. The mean over all is "
                f"{result.whole.mean.mean():.3g}.",
            )
        )
    return page.element("div", page.joined(*pictures), class_="pair")
