"""The parts that the pages of ``evaluate`` and ``report`` have in common."""

import os

import numpy as np

from reactood._cli import _page as page
from reactood._cli._image_set import thumbnail
from reactood._cli._inputs import counted
from reactood._cli._provenance import bounds_of
from reactood.inspection._contact_sheet import ends_of

MOST_LISTED = 1000  # images that could not be read


def contact_sheets(images, n):
    """Return the images with the highest and with the lowest scores of one set."""
    if not images.paths:
        return page.paragraphs(["None of the images could be read."])
    n = min(n, max(1, len(images.paths) // 2))  # none is shown twice
    most, least = ends_of(images.scores, n)
    return page.joined(
        page.element("h3", f"{images.name}: most in-distribution (highest scores)"),
        _sheet(images, most),
        page.element("h3", f"{images.name}: least in-distribution (lowest scores)"),
        _sheet(images, least),
    )


def _sheet(images, rows):
    cards = [page.element("li", _card(images, row)) for row in rows]
    return page.element("ol", page.joined(*cards), class_="sheet")


def _card(images, row):
    path, score = os.fspath(images.paths[row]), images.scores[row]
    judged = "accepted" if images.accepted[row] else "rejected"
    jpeg = thumbnail(path)
    if jpeg is None:
        shown = page.element("span", "cannot be read any more", class_="none")
    else:
        alt = f"{os.path.basename(path)}, score {score:.4g}, {judged}"
        shown = page.embedded(jpeg, "jpeg", alt=alt, loading="lazy")
    caption = page.joined(
        page.element("span", f"{score:.4g} {judged}", class_=judged),
        page.element(
            "bdi", os.path.basename(path), class_="name", title=path, dir="auto"
        ),
    )
    return page.element(
        "figure", page.joined(shown, page.element("figcaption", caption))
    )


def clipping(sets, activations, detector):
    """Return what the clip changes in each set; ``activations`` is None without one."""
    if activations is None:
        text = "This detector clips no activations."
        return page.section("What was clipped", page.paragraphs([text]))
    rows = [
        ["images of the fit", share(detector.clipped_share_), ""],
        *(
            [images.name, share(of_set.share), f"{of_set.change:.4f}"]
            for images, of_set in zip(sets, activations, strict=True)
            if images.paths
        ),
    ]
    texts = [
        f"The clip is {bounds_of(detector)}. The mean change is by how much the clip "
        "changes an activation, the mean over all units and images."
    ]
    return page.section(
        "What was clipped",
        page.paragraphs(texts),
        page.table(
            ["set", "activations clipped (%)", "mean change"],
            rows,
            caption="What the clip changes in each set.",
        ),
    )


def unreadable(sets):
    """Return the images that could not be read, with their reasons."""
    rows = [
        [page.element("bdi", path), images.name, reason]
        for images in sets
        for path, reason in images.problems.items()
    ]
    title = "Images that could not be read"
    if not rows:
        text = "All images could be read."
        return page.section(title, page.paragraphs([text]))
    were = "were" if len(rows) > 1 else "was"
    texts = [f"{counted(len(rows))} {were} left out of all numbers."]
    if len(rows) > MOST_LISTED:
        texts.append(f"The first {MOST_LISTED:,} are listed.")
    return page.section(
        title,
        page.paragraphs(texts),
        page.table(
            ["file", "set", "reason"],
            rows[:MOST_LISTED],
            caption="What could not be read, and why.",
            class_="words",
        ),
    )


def about_detector(found):
    """Return the provenance of the detector."""
    return page.section(
        "The detector and this run",
        page.table(
            [],
            found.items(),
            caption="Where the detector comes from, and what was run.",
            class_="words",
        ),
    )


def notes(texts):
    """Return the warnings of a run, or nothing."""
    if not texts:
        return ""
    return page.section("Warnings", page.paragraphs(texts))


def share(fraction):
    """Return a fraction as text, in percent."""
    return "" if np.isnan(fraction) else f"{100 * fraction:.1f}"
