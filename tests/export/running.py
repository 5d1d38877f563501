"""Run exported files of all kinds, and compare them with their detectors."""

import numpy as np
import pytest
import torch

from reactood.export import export_onnx, export_program, to_torch
from reactood.export._onnx import LEAST_TORCH


def run_torch(detector, inputs, tmp_path, **options):
    """Return what the module gives, as arrays."""
    outputs = to_torch(detector, **options)(torch.from_numpy(inputs))
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def run_program(detector, inputs, tmp_path, **options):
    """Return what a written and loaded program gives, as arrays."""
    path = export_program(detector, tmp_path / "detector.pt2", **options)
    outputs = torch.export.load(path).module()(torch.from_numpy(inputs))
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def needs_onnx():
    """Skip a test where an exporter, or onnxruntime, is missing or too old."""
    pytest.importorskip("onnxscript")
    if tuple(map(int, torch.__version__.split(".")[:2])) < LEAST_TORCH:
        pytest.skip(f"export_onnx needs torch {LEAST_TORCH}")
    return pytest.importorskip("onnxruntime")


def open_session(path):
    """Return onnxruntime's session of a file, on one thread."""
    onnxruntime = needs_onnx()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # the threshold is no constant, as it says
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])


def run_session(session, inputs, **more):
    """Return the outputs of a session by name."""
    (given,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    results = session.run(names, {given.name: inputs, **more})
    return dict(zip(names, results, strict=True))


def run_onnx(detector, inputs, tmp_path, **options):
    """Return what onnxruntime makes of a written file."""
    needs_onnx()
    session = open_session(export_onnx(detector, tmp_path / "d.onnx", **options))
    return run_session(session, inputs)


RUNNERS = [run_torch, run_program, run_onnx]
# A conversion to ONNX takes seconds: of those that are alike, one runs by default.
SLOWER = [run_torch, pytest.param(run_onnx, marks=pytest.mark.slow)]


def assert_agrees(outputs, detector, inputs, tolerance=2e-5):
    """Compare all outputs with the detector's own methods."""
    scores = detector.score_samples(inputs)
    error = tolerance * np.abs(scores).max()
    np.testing.assert_allclose(outputs["score"], scores, rtol=0, atol=error)
    sure = np.abs(scores - detector.offset_) > error
    assert sure.mean() > 0.9
    expected = detector.predict(inputs) == 1
    np.testing.assert_array_equal(outputs["is_id"][sure], expected[sure])
    if hasattr(detector, "predict_class"):
        labels = detector.predict_class(inputs)
        best = np.sort(outputs["logits"], axis=1)
        sure = best[:, -1] - best[:, -2] > error
        classes = np.asarray(getattr(detector, "classes_", np.unique(labels)))
        found = classes[outputs["logits"].argmax(axis=1)]
        np.testing.assert_array_equal(found[sure], labels[sure])
    if hasattr(detector, "p_values"):
        np.testing.assert_array_equal(outputs["p_value"], detector.p_values(inputs))
