"""The command ``demo``."""


def add_parser(commands):
    """Add the command to the program's commands."""
    parser = commands.add_parser(
        "demo",
        help="detect images that are no digits with a small network",
        description="Extract features of the embedded digits example, fit MSP, Energy "
        "and ReAct, print how well each tells other images from digits, and draw the "
        "score distributions.",
    )
    parser.add_argument(
        "--out",
        default="reactood_demo.png",
        metavar="FILE",
        help="where to write the picture (default: %(default)s)",
    )


def run(options):
    """Print the table and write the picture."""
    from reactood._cli._digits import run as run_on_digits

    run_on_digits(options.out)
