"""The command ``evaluate``: how well a detector tells OOD sets from ID images."""

import argparse
import contextlib
import os
from pathlib import Path

from reactood._cli import _options as cli
from reactood._cli._exit import UsageError, print_text, say

FILES = "report.csv", "report.json", "report.txt", "index.html"
FIGURES = "figures"
DESCRIPTION = """\
Test a detector on in-distribution (ID) images that it was not fitted to, and on sets of
images that are out-of-distribution (OOD). Writes to a folder:

  index.html    a page that needs no other file: numbers, distributions of the scores,
                the images with the highest and lowest scores, and what was clipped
  report.csv    FPR95, AUROC, AUPR and detection error of each OOD set, with intervals
  report.json   the same, and all else that the page says in words
  report.txt    the table that is printed
  figures/      the drawings of the page as PNG files

Each image goes through the network once. Images that cannot be read are left out and
listed with the reason; the exit code is then 3.
"""
EPILOG = """\
example:
  reactood evaluate det.safetensors --id test/ --ood textures=dtd/ \\
      --ood scenes=places/ --out report/
"""


def add_parser(commands):
    """Add the command to the program's commands."""
    parser = commands.add_parser(
        "evaluate",
        help="test a detector on ID images and on OOD sets, and write a report",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("detector", metavar="DETECTOR", help="a file that reactood fit has written")
    add(
        "--id",
        nargs="+",
        required=True,
        metavar="IMAGES",
        help=f"in-distribution images, other than those of the fit: {cli.INPUTS}",
    )
    cli.add_null(parser)
    add(
        "--ood",
        action="append",
        required=True,
        type=named_set,
        metavar="NAME=IMAGES",
        help="an OOD set: a name, and a folder, file or pattern; may be given several "
        "times. Without NAME=, the name is that of the folder",
    )
    add("--out", required=True, metavar="DIR", help="folder of the report")
    add("--force", action="store_true", help="replace a report that is in the folder")
    cli.add_subset(parser)
    add(
        "--bootstrap",
        type=whole,
        default=1000,
        metavar="N",
        help="resamples for the intervals; 0: no intervals (default: %(default)s)",
    )
    add_thumbnails(parser)
    cli.add_own_model(parser)
    cli.add_running(parser)


def add_thumbnails(parser):
    """Add ``--thumbnails``."""
    parser.add_argument(
        "--thumbnails",
        type=cli.count,
        default=8,
        metavar="N",
        help="show N images with the highest and N with the lowest scores of each set "
        "(default: %(default)s)",
    )


def named_set(text):
    """Return the name and the images of ``NAME=IMAGES``."""
    name, separator, images = text.partition("=")
    if not separator:
        name, images = os.path.basename(os.path.normpath(text)), text
    if not name.strip() or not images:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected NAME=IMAGES, such as textures=dtd/"
        )
    return name, images


def whole(text):
    """Return a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected a whole number of at least 0"
        )
    return int(text)


def run(options):
    """Evaluate the detector, write the report, and return the exit code."""
    from reactood._cli import _evaluation as evaluation
    from reactood._cli._image_set import exit_code
    from reactood._cli._plots import check_matplotlib

    _check_names([name for name, _ in options.ood])
    check_matplotlib("evaluate")
    out = Path(options.out)
    _make_folder(out, force=options.force)
    try:
        result = evaluation.evaluate(options)
    except BaseException:
        _remove_empty(out)
        raise
    _remove_figures(out)  # sets may be fewer now
    print_text(evaluation.as_text(result))
    # The numbers are on the disk before anything is drawn.
    written = evaluation.write_numbers(result, out)
    written.append(evaluation.write_page(result, out, n=options.thumbnails))
    if not options.quiet:
        say("Written: " + ", ".join(map(os.fspath, written)))
    return exit_code(result.sets)


def _check_names(names):
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"--ood: two sets are named {twice[0]!r}; give other names")
    for name, what in (("ID", "the ID images"), ("mean", "the means over all sets")):
        if name in names:
            raise UsageError(
                f"--ood: a set is named {name!r}, as {what} are; give another name"
            )


def _make_folder(out, *, force):
    """Make the folder of the report; raise if there is a report in it."""
    found = [name for name in FILES if (out / name).exists()]
    if found and not force:
        raise FileExistsError(
            f"There is {found[0]} in {os.fspath(out)!r}. Give another --out, or "
            "--force to replace the report."
        )
    (out / FIGURES).mkdir(parents=True, exist_ok=True)


def _remove_figures(out):
    for old in (out / FIGURES).glob("[0-9]*-*-[as]c*s.png"):
        old.unlink()


def _remove_empty(out):
    """Remove the folders of a report that is not made, unless something is in them."""
    with contextlib.suppress(OSError):
        (out / FIGURES).rmdir()
        out.rmdir()
