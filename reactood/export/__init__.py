"""Fitted detectors outside of scikit-learn: as a torch module, ``.pt2`` or ONNX."""

from reactood.export._onnx import export_onnx
from reactood.export._program import export_program
from reactood.export._torch import to_torch

__all__ = ["export_onnx", "export_program", "to_torch"]
