"""The command ``export``: a detector's file as a graph for other programs."""

from reactood._cli import _options as cli
from reactood._cli._exit import say


def add_parser(commands):
    """Add the command to the program's commands."""
    parser = commands.add_parser(
        "export",
        help="turn a detector's file into ONNX",
        description="Turn a detector's file into an ONNX graph, from images to scores "
        "and decisions, for programs without Python.",
    )
    parser.add_argument("detector", metavar="DETECTOR", help="a file from fit or tune")
    cli.add_output(parser, (".onnx",), help="the graph, *.onnx")
    parser.add_argument(
        "--preprocess",
        dest="with_preprocess",
        action="store_true",
        help="take pixels: resizing, scaling and normalisation are in the graph, too",
    )
    cli.add_own_model(parser, transform="--transform")
    cli.add_quiet(parser)


def run(options):
    """Write the graph."""
    from reactood._cli import _detectors as detectors
    from reactood.export import export_onnx

    detectors.check_free(options.out, force=options.force)
    estimator = detectors.load_detector(options)
    export_onnx(estimator, options.out, preprocess=options.with_preprocess)
    if not options.quiet:
        say(f"Written: {options.out}")
