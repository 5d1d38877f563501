"""The command line: ``python -m reactood demo`` and ``benchmark``."""

import argparse
import sys

from reactood._cli.benchmark import _command as cli


def main(arguments=None):
    """Run the command that the arguments name."""
    parser = argparse.ArgumentParser(
        prog="reactood", description="Out-of-distribution detection with ReAct."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="detect images that are no digits with a small network",
        description="Extract features of the embedded digits example, fit MSP, Energy "
        "and ReAct, print how well each tells other images from digits, and draw the "
        "score distributions.",
    )
    demo.add_argument(
        "--out",
        default="reactood_demo.png",
        metavar="FILE",
        help="where to write the picture (default: %(default)s)",
    )
    cli.add_parser(commands)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parser.parse_args(arguments)
    # Imports come late, so that --help does not import torch.
    if options.command == "benchmark":
        cli.run(options, arguments)
        return

    from reactood._cli._demo import run

    run(options.out)


if __name__ == "__main__":
    main()
