"""The command ``info``: what is in a detector's file."""

LONGEST_LIST = 8


def add_parser(commands):
    """Add the command to the program's commands."""
    parser = commands.add_parser(
        "info",
        help="show what is in a detector's file",
        description="Show what is in a detector's file: the estimator and its "
        "parameters, the versions that wrote it, checksums. No model is built and no "
        "code of the file is run.",
    )
    parser.add_argument("detector", metavar="DETECTOR", help="a file from fit or tune")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")


def run(options):
    """Print what is in the file."""
    from reactood.persistence import read_metadata

    metadata = read_metadata(options.detector)
    if options.json:
        import json

        print(json.dumps(metadata, indent=2, ensure_ascii=False))
        return
    print("\n".join(_lines(metadata)))


def _lines(value, indent=""):
    """Yield nested dicts and lists as indented lines."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for name, part in pairs:
        if isinstance(part, dict | list) and part and not _is_short(part):
            yield f"{indent}{name}:"
            yield from _lines(part, indent + "  ")
        else:
            yield f"{indent}{name}: {_text(part)}"


def _is_short(part):
    plain = isinstance(part, list) and len(part) <= LONGEST_LIST
    return plain and not any(isinstance(one, dict | list) for one in part)


def _text(part):
    if isinstance(part, list):
        return ", ".join(map(_text, part)) or "none"
    if part is None or part == {}:
        return "none"
    if isinstance(part, bool):
        return "yes" if part else "no"
    return str(part)
