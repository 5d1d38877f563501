"""The command ``info``: what is in a detector's file."""


def add_parser(commands):
    """Add the command to the program's commands."""
    parser = commands.add_parser(
        "info",
        help="show what is in a detector's file",
        description="Show what is in a detector's file: the estimator, its parameters "
        "and what it has learned, the versions that wrote it, and its checksum. No "
        "model is built and no code of the file is run.",
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
    print("\n".join(summary(metadata)))


def summary(metadata):
    """Yield the lines of what matters to a reader."""
    yield from _estimator("", metadata["estimator"], "")
    own = metadata.get("network")
    if own is not None:
        yield f"model: your own, give it with --model: {own['hint']}"
    for name, value in metadata.items():
        if name in ("estimator", "network"):
            continue
        if isinstance(value, dict):
            yield f"{name}:"
            for key, part in value.items():
                yield f"  {key}: {_text(part)}"
        else:
            yield f"{name}: {_text(value)}"


def _estimator(title, node, indent):
    """Yield the lines of an estimator and of those inside it."""
    title = f"{indent}{title}: " if title else indent
    inner = indent + "  "
    if "pipeline" in node:
        yield f"{title}{node['pipeline']}"
        for name, part in node["steps"]:
            if _is_estimator(part):
                yield from _estimator(name, part, inner)
        return
    yield f"{title}{node['estimator']}"
    params, learned = node.get("params", {}), node.get("learned", {})
    if node.get("preprocess"):
        yield f"{inner}preprocess: {_preprocess(node['preprocess'])}"
    for name, value in [*params.items(), *learned.items()]:
        if _is_estimator(value):
            if f"{name}_" not in learned:  # else the fitted one follows
                yield from _estimator(name, value, inner)
        # Arrays are left out, and so is what is not used.
        elif not isinstance(value, dict | list) and (
            value is not None or name == "percentile"
        ):
            yield f"{inner}{name}: {_text(value)}"


def _is_estimator(value):
    return isinstance(value, dict) and bool(value.keys() & {"estimator", "pipeline"})


def _preprocess(node):
    if not isinstance(node, dict):
        return _text(node)
    if "transform" in node:
        return _transform(node["transform"])
    return f"your own, give it with --preprocess: {node.get('hint', 'unknown')}"


def _transform(value):
    """Return a transform, as [name, arguments], or an argument, as code."""
    if isinstance(value, dict):  # such as {"mode": "bilinear"}
        value = next(iter(value.values()), None)
    if not isinstance(value, list):
        return _text(value)
    if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], list):
        return f"{value[0]}({', '.join(map(_transform, value[1]))})"
    return f"[{', '.join(map(_transform, value))}]"


def _text(value):
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
