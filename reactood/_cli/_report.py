"""The command ``report``: one page about a set of images without truth."""

import argparse
import os

from reactood._cli import _options as cli
from reactood._cli._evaluate import add_thumbnails
from reactood._cli._exit import print_text, say

DESCRIPTION = """\
Show what a detector says of images of which the truth is not known: how many it
accepts, the distribution of the scores, the images with the highest and the lowest
scores, and what was clipped. The result is one HTML file that needs no other file.

Each image goes through the network once. Images that cannot be read are left out and
listed with the reason; the exit code is then 3.
"""
EPILOG = """\
example:
  reactood report det.safetensors new/ -o report.html
"""


def add_parser(commands):
    """Add the command to the program's commands."""
    parser = commands.add_parser(
        "report",
        help="write a page about what a detector says of images",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "detector", metavar="DETECTOR", help="a file that reactood fit has written"
    )
    parser.add_argument("inputs", nargs="*", metavar="IMAGES", help=cli.INPUTS)
    cli.add_null(parser)
    cli.add_output(parser, (".html", ".htm"), help="the page, a .html file")
    cli.add_subset(parser)
    add_thumbnails(parser)
    cli.add_own_model(parser)
    cli.add_running(parser)


def run(options):
    """Score the images, write the page, and return the exit code."""
    from pathlib import Path

    from reactood._cli import _csv as csv
    from reactood._cli import _unlabelled as unlabelled
    from reactood._cli._detectors import check_free
    from reactood._cli._image_set import exit_code
    from reactood._cli._plots import check_matplotlib

    check_matplotlib("report")
    check_free(options.out, force=options.force)
    result = unlabelled.examine(options)
    print_text(unlabelled.as_text(result))
    csv.write_text(Path(options.out), unlabelled.as_html(result, n=options.thumbnails))
    if not options.quiet:
        say(f"Written: {os.fspath(options.out)}")
    return exit_code([result.images])
