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
suffix. If a run with -o is stopped, repeat the command to go on where it stopped. With
--ray, the machines of a Ray cluster do the work; the rows are the same.
"""
EPILOG = """\
examples:
  reactood score det.safetensors new/ -o scores.csv
  reactood score det.safetensors 'new/**/*.jpg' -o scores.parquet
  find new -name '*.jpg' -print0 | reactood score det.safetensors -0 | head
  reactood score det.safetensors /shared/new -o scores.parquet --ray auto
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
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="score on a Ray cluster, whose machines see the images at the same paths: "
        "auto (the one this machine belongs to), HOST:PORT, or local (start one here "
        "for this command)",
    )


def run(options):
    """Score images with the parsed options; return the exit code."""
    if not options.inputs and not options.null:
        raise UsageError("the following arguments are required: IMAGES")
    if options.ray is not None and (options.cache or options.workers):
        raise UsageError("--cache and --workers do not go together with --ray")

    import contextlib

    from reactood._cli import _detectors as detectors
    from reactood._cli._image_scorer import ImageScorer
    from reactood._cli._inputs import counted, list_inputs
    from reactood._cli._table import Stream, Table, digest_of
    from reactood.persistence._transforms import fingerprint

    if options.out is not None:
        detectors.check_folder(options.out)
    paths = list_inputs(options.inputs, null=options.null)
    estimator = detectors.load_detector(options)
    scorer = ImageScorer(estimator, options.detector)
    with contextlib.ExitStack() as stack:
        if options.ray is not None:
            from reactood._cli._cluster import Cluster

            scorer = stack.enter_context(Cluster(estimator, scorer, options))
        table: Stream | Table
        if options.out is None:
            table = Stream(scorer.table_columns)
        else:
            table = Table(
                options.out,
                scorer.table_columns,
                paths,
                detector=digest_of(options.detector),
                settings={
                    **scorer.settings,
                    "preprocessing": fingerprint(scorer.extractor.preprocess),
                },
                force=options.force,
            )
        stack.enter_context(table)
        if table.n_done and not options.quiet:
            say(f"Going on after {table.n_done:,} of {counted(len(paths))}.")
        _fill(table, scorer, paths, progress=cli.shows_progress(options))
        table.finish()
    if not options.quiet:
        failed = f", {table.n_errors:,} could not be read" if table.n_errors else ""
        written = f" Written: {options.out}" if options.out else ""
        say(f"{counted(len(paths))}{failed}.{written}")
    return UNREADABLE if table.n_errors else 0


def _fill(table, scorer, paths, *, progress):
    """Append the rows that the table lacks, some whole batches at a time.

    Batches begin at the same images wherever a run goes on, so that rows are the same.
    """
    from reactood._utils._progress import progress_bar

    rows_of = getattr(scorer, "rows_of", None) or _in_turn(scorer)
    with progress_bar(len(paths), progress, "images", initial=table.n_done) as bar:
        for rows in rows_of(paths[table.n_done :]):
            table.append(rows)
            check_interrupted()
            bar.update(len(rows))


def _in_turn(scorer):
    """Return what scores images here, and yields as many rows as few seconds allow."""
    import time

    def rows_of(paths):
        done, n_batches = 0, 1
        while done < len(paths):
            start = time.monotonic()
            some = paths[done : done + n_batches * scorer.batch_size]
            yield scorer(some)
            done += len(some)
            if time.monotonic() - start < LONG_ENOUGH / 2:
                n_batches = min(2 * n_batches, MOST_BATCHES)

    return rows_of
