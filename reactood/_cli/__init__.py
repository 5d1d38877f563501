"""The commands of ``reactood``: one file or folder for each.

A command's module has ``add_parser(commands)``, which imports nothing but argparse, and
``run(options)``, which imports what it needs and returns an exit code, or None for 0.
It is listed in ``reactood.__main__``. Results go to stdout, everything else to stderr.
"""
