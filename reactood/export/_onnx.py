"""export_onnx: a fitted detector as an ONNX file."""

import contextlib
import io
import json
import logging

import torch

from reactood._networks._engines import CAPTURING, first_line
from reactood._utils._new_file import write_whole
from reactood.export._metadata import describe
from reactood.export._parts import take_apart
from reactood.export._program import (
    alone,
    capture,
    checked_path,
    quietly,
)

OPSET = 18
MOST_BYTES = 2**31 - 1  # of one message of protobuf
LEAST_TORCH = (2, 6)


def export_onnx(detector, path, *, preprocess=False, opset=OPSET):
    """Write a fitted detector to an ONNX file, which runs without Python.

    Parameters
    ----------
    detector : ReActDetector, ReActDetectorCV, Pipeline or ConformalDetector
        As in :func:`to_torch`.

    path : str or os.PathLike
        The file to write, which ends in `.onnx`. It is replaced at once and whole, if
        it exists.

    preprocess : bool, default=False
        As in :func:`to_torch`.

    opset : int, default=18
        The version of the ONNX operators, at least 18.

    Returns
    -------
    path : pathlib.Path
        The file.

    Raises
    ------
    ImportError
        If onnx or onnxscript is missing: `pip install 'reactood[onnx]'`.
    TypeError
        As in :func:`to_torch`.
    ValueError
        As in :func:`to_torch`; if `path` does not end in `.onnx`; if the model cannot
        be converted, or is larger than 2 GiB.

    See Also
    --------
    to_torch : The module that is exported; describes its outputs.
    export_program : Writes a file of torch.export.

    Notes
    -----
    The input is called `images`, or `features` if `detector` takes features. It takes
    any number of rows and, with `preprocess=True`, pictures of any size. The outputs
    are called `logits`, `score`, `is_id` and, for a
    :class:`~reactood.conformal.ConformalDetector`, `p_value`.

    A second input, `threshold`, may be left out: its default is the fitted threshold.
    It has the type of `score`, and no axis: `np.array(12.5, np.float32)`. onnxruntime
    notes in its log that such an input is no constant, which costs nothing here.

    The metadata of the model hold text, numbers and lists as JSON: the version of
    reactood, percentile, score function, threshold, classes, their names where these
    are known, what the outputs mean, and the preprocessing.

    Files hold the weights, and no image, path or name of your machine.

    Examples
    --------
    >>> import tempfile
    >>> from reactood import make_react_pipeline
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> from reactood.export import export_onnx
    >>> digits = load_digits_ood()
    >>> pipeline = make_react_pipeline(digits_classifier).fit(digits.X_train)
    >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +SKIP
    ...     path = export_onnx(pipeline, f"{folder}/digits.onnx")
    ...     session = onnxruntime.InferenceSession(path)
    >>> outputs = session.run(None, {"images": digits.X_test})  # doctest: +SKIP
    """
    onnx = _import_onnx()
    path = checked_path(path, ".onnx")
    if opset < OPSET:
        raise ValueError(f"opset={opset} is not supported; expected {OPSET} or more.")
    parts = take_apart(detector)
    program, recipe = capture(parts, preprocess)
    about = describe(parts, recipe)
    name = "features" if parts.extractor is None else "images"
    outputs = list(json.loads(about["outputs"]))
    model = _convert(program, name, outputs, opset)
    _drop_local(model)
    _name_sizes(model)
    _offer_threshold(model)
    onnx.helper.set_model_props(model, about)
    if model.ByteSize() > MOST_BYTES:
        raise ValueError(
            f"The model has {model.ByteSize()} bytes, and an ONNX file at most "
            f"{MOST_BYTES}; use export_program."
        )
    onnx.checker.check_model(model)
    write_whole(path, model.SerializeToString())
    return path


def _import_onnx():
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise ImportError(
            f"export_onnx needs {error.name}: pip install 'reactood[onnx]'."
        ) from error
    found = tuple(map(int, torch.__version__.split(".")[:2]))
    if found < LEAST_TORCH:
        raise ImportError(
            f"export_onnx needs torch {'.'.join(map(str, LEAST_TORCH))} or later, for "
            f"its exporter to ONNX; found {torch.__version__}."
        )
    return onnx


def _convert(program, name, outputs, opset):
    """Return the ONNX model of an ExportedProgram."""
    silent = contextlib.redirect_stdout(io.StringIO())  # it reports its progress
    try:
        with CAPTURING, quietly(), _silent_log(), silent, alone():
            converted = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[name],
                output_names=outputs,
                opset_version=opset,
                verbose=False,
            )
        assert converted is not None  # it is where a file is written
    except Exception as error:  # the exporter raises errors of any type
        raise ValueError(
            f"The detector cannot be converted to ONNX ({first_line(error)}); use "
            "export_program or to_torch."
        ) from error
    return converted.model_proto


@contextlib.contextmanager
def _silent_log():
    """Leave out what the exporter logs about versions of operators."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _drop_local(model):
    """Drop all that tells of the machine: paths of code, names of its classes."""
    model.doc_string = ""
    del model.metadata_props[:]
    for graph in [model.graph, *model.functions]:
        _drop_local_of(graph)


def _drop_local_of(graph):
    graph.doc_string = ""
    del graph.metadata_props[:]
    for field in "input", "output", "value_info", "initializer":
        for value in getattr(graph, field):
            if not isinstance(value, str):  # functions have names alone
                value.doc_string = ""
                del value.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.doc_string = ""
            for inner in [attribute.g, *attribute.graphs]:
                if inner.node:
                    _drop_local_of(inner)


def _name_sizes(model):
    """Name the axes of any size, which the exporter calls s85 or so."""
    axes = model.graph.input[0].type.tensor_type.shape.dim
    names = {
        axis.dim_param: name
        for axis, name in zip(axes, ("rows", "height", "width"), strict=False)
        if axis.dim_param
    }
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = names.get(axis.dim_param, axis.dim_param)


def _offer_threshold(model):
    """Make an input of the threshold, whose initial value is its default."""
    from onnx.helper import make_tensor_value_info

    (value,) = (x for x in model.graph.initializer if x.name == "threshold")
    model.graph.input.append(
        make_tensor_value_info(value.name, value.data_type, value.dims)
    )
