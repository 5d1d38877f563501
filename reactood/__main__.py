"""The command line: ``reactood COMMAND``, or ``python -m reactood COMMAND``."""

import argparse
import sys

from reactood._cli import (
    _demo,
    _evaluate,
    _export,
    _fit,
    _info,
    _report,
    _score,
    _tune,
)
from reactood._cli._exit import UsageError, run_command
from reactood._cli.benchmark import _command as benchmark

COMMANDS = {  # in the order of --help
    "fit": _fit,
    "score": _score,
    "tune": _tune,
    "evaluate": _evaluate,
    "report": _report,
    "info": _info,
    "export": _export,
    "benchmark": benchmark,
    "demo": _demo,
}
EPILOG = """\
exit codes: 0 success, 1 error, 2 wrong usage, 3 done, but some images could not be
read, 130 stopped by Ctrl-C, 141 the reader of the output has closed it
"""


def main(arguments=None):
    """Run the command that the arguments name, and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="reactood",
        description="Out-of-distribution detection with ReAct.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS.values():
        module.add_parser(commands)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options, rest = parser.parse_known_args(arguments)
    # argparse does not take images that stand after options.
    if hasattr(options, "inputs") and not any(map(_is_option, rest)):
        options.inputs += rest
    elif rest:
        commands.choices[options.command].error(
            f"unrecognized arguments: {' '.join(rest)}"
        )
    options.arguments = arguments
    try:
        return run_command(COMMANDS[options.command].run, options)
    except UsageError as error:
        commands.choices[options.command].error(str(error))


def _is_option(argument):
    return argument.startswith("-") and argument != "-"


if __name__ == "__main__":
    sys.exit(main())
