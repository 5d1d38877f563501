"""The command ``score``: a table of scores and decisions for any number of images."""

import argparse

from reactood._cli import _formats as formats
from reactood._cli import _options as cli
from reactood._cli._exit import UNREADABLE, UsageError, check_interrupted, say

DESCRIPTION = """\
Score images with a fitted detector: one row for each, in the order in which they are
given. Columns: path, score (the higher, the more in-distribution), decision (id or
ood), p_value (if the detector is calibrated), class (the classifier's own decision),
error. An image that cannot be read has its reason in the column error; the exit code
is then 3. The table is CSV on stdout, or with -o CSV, JSON lines or Parquet by the
suffix. If a run with -o is stopped, repeat the command to go on where it stopped.
"""
EPILOG = """\
examples:
  reactood score det.safetensors new/ -o scores.csv
  reactood score det.safetensors 'new/**/*.jpg' -o scores.parquet
  find new -name '*.jpg' -print0 | reactood score det.safetensors -0 | head
"""
LONG_ENOUGH = 5  # seconds of work that a kill may undo
MOST_BATCHES = 64


def add_parser(commands):
    """Add the command to the program's commands."""
    parser = commands.add_parser(
        "score",
        help="score images with a detector",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("detector", metavar="DETECTOR", help="a file from fit or tune")
    parser.add_argument("inputs", nargs="*", metavar="IMAGES", help=cli.INPUTS)
    cli.add_null(parser)
    cli.add_output(
        parser,
        formats.SUFFIXES,
        required=False,
        help="the table, *.csv, *.jsonl or *.parquet (default: CSV on stdout)",
    )
    cli.add_own_model(parser)
    cli.add_running(parser)


def run(options):
    """Score images with the parsed options; return the exit code."""
    if not options.inputs and not options.null:
        raise UsageError("the following arguments are required: IMAGES")

    from reactood._cli import _detectors as detectors
    from reactood._cli._image_scorer import ImageScorer
    from reactood._cli._inputs import list_inputs
    from reactood._cli._table import Stream, Table, digest_of
    from reactood.persistence._transforms import fingerprint

    if options.out is not None:
        detectors.check_folder(options.out)
    paths = list_inputs(options.inputs, null=options.null)
    estimator = detectors.load_detector(options)
    scorer = ImageScorer(estimator, options.detector)
    table: Stream | Table
    if options.out is None:
        table = Stream(scorer.columns)
    else:
        table = Table(
            options.out,
            scorer.columns,
            paths,
            detector=digest_of(options.detector),
            settings={
                **scorer.settings,
                "preprocessing": fingerprint(scorer.extractor.preprocess),
            },
            force=options.force,
        )
    with table:
        if table.n_done and not options.quiet:
            say(f"Going on after {table.n_done} of {len(paths)} images.")
        _fill(table, scorer, paths, progress=cli.shows_progress(options))
        table.finish()
    if not options.quiet:
        failed = f", {table.n_errors} could not be read" if table.n_errors else ""
        written = f" Written: {options.out}" if options.out else ""
        say(f"{len(paths)} images{failed}.{written}")
    return UNREADABLE if table.n_errors else 0


def _fill(table, scorer, paths, *, progress):
    """Append the rows that the table lacks, some whole batches at a time.

    Batches begin at the same images wherever a run goes on, so that rows are the same.
    """
    import time

    from reactood._utils._progress import progress_bar

    done, n_batches = table.n_done, 1
    with progress_bar(len(paths), progress, "images", initial=done) as bar:
        while done < len(paths):
            start = time.monotonic()
            some = paths[done : done + n_batches * scorer.batch_size]
            table.append(scorer(some))
            check_interrupted()
            done += len(some)
            bar.update(len(some))
            if time.monotonic() - start < LONG_ENOUGH / 2:
                n_batches = min(2 * n_batches, MOST_BATCHES)
