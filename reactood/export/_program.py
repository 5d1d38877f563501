"""export_program: a fitted detector as a file of torch.export."""

import contextlib
import io
import json
import warnings
from pathlib import Path

import torch

from reactood._networks._engines import CAPTURING, first_line, plain_attention
from reactood._utils._ambient import default_device, no_gradients, without_autocast
from reactood._utils._new_file import write_whole
from reactood.export._metadata import describe
from reactood.export._module import RectifiedClassifier
from reactood.export._parts import take_apart
from reactood.export._torch import recipe_for

LOCAL = "stack_trace", "source_fn_stack", "torch_fn", "nn_module_stack", "from_node"


def export_program(detector, path, *, preprocess=False):
    """Write a fitted detector to a file of :mod:`torch.export`.

    Parameters
    ----------
    detector : ReActDetector, ReActDetectorCV, Pipeline or ConformalDetector
        As in :func:`to_torch`.

    path : str or os.PathLike
        The file to write, which ends in `.pt2`. It is replaced at once and whole, if
        it exists.

    preprocess : bool, default=False
        As in :func:`to_torch`.

    Returns
    -------
    path : pathlib.Path
        The file.

    Raises
    ------
    TypeError
        As in :func:`to_torch`.
    ValueError
        As in :func:`to_torch`; if `path` does not end in `.pt2`; or if torch.export
        cannot capture the model.

    See Also
    --------
    to_torch : The module that is exported; describes its outputs.
    export_onnx : Writes ONNX, which runs without torch.

    Notes
    -----
    `torch.export.load(path).module()` gives a module that takes batches of any number
    of rows and returns the dict of :func:`to_torch`; the threshold is its buffer
    `threshold`. `extra_files={"reactood.json": ""}` gives the metadata that
    :func:`export_onnx` writes too.

    **A `.pt2` file may run any code when it is loaded.** Load only files that you, or
    people whom you trust, have made. reactood itself never loads one.

    Files hold the weights, and no image, path or name of your machine.

    Examples
    --------
    >>> import tempfile, torch
    >>> from reactood import make_react_pipeline
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> from reactood.export import export_program
    >>> digits = load_digits_ood()
    >>> pipeline = make_react_pipeline(digits_classifier).fit(digits.X_train)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = export_program(pipeline, f"{folder}/digits.pt2")
    ...     module = torch.export.load(path).module()
    >>> module(torch.from_numpy(digits.X_test))["score"].shape
    torch.Size([719])
    """
    path = checked_path(path, ".pt2")
    parts = take_apart(detector)
    program, recipe = capture(parts, preprocess)
    extra = {"reactood.json": json.dumps(describe(parts, recipe), indent=1)}
    buffer = io.BytesIO()
    with quietly():
        torch.export.save(program, buffer, extra_files=extra)
    write_whole(path, buffer.getbuffer())
    return path


def capture(parts, preprocess):
    """Return the ExportedProgram of a fitted detector, and its recipe or None."""
    recipe = recipe_for(parts, preprocess)
    module = RectifiedClassifier(parts, recipe)
    sizes = {0: torch.export.Dim("rows", min=1)}
    if recipe is not None and recipe.any_size:
        sizes |= {1: torch.export.Dim("height", min=1)}
        sizes |= {2: torch.export.Dim("width", min=1)}
    try:
        with CAPTURING, plain_attention(), quietly(), alone():
            program = torch.export.export(
                module, (module.example(),), dynamic_shapes=(sizes,), strict=False
            )
    except Exception as error:  # torch.export raises errors of any type
        raise ValueError(
            f"torch.export cannot capture the detector ({first_line(error)}). Does "
            "the model, its head or a function given for score_function= decide by the "
            "values of tensors, or use more than torch?"
        ) from error
    for graph_module in program.graph_module.modules():
        if isinstance(graph_module, torch.fx.GraphModule):
            for node in graph_module.graph.nodes:  # they tell of files of this machine
                for key in LOCAL:
                    node.meta.pop(key, None)
    return program, recipe


def checked_path(path, suffix):
    """Return a path with a suffix, in a folder that exists."""
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(
            f"path={str(path)!r} does not end in {suffix!r}; expected a name that does."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(path.parent)!r} for {path.name!r}; make it first."
        )
    return path


@contextlib.contextmanager
def alone():
    """Keep out what the program has set for its own models."""
    with without_autocast(), no_gradients(), default_device():
        yield


@contextlib.contextmanager
def quietly():
    """Leave out the warnings of exporters about their own future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
