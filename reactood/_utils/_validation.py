"""Validate feature matrices, including tensors, as scikit-learn does."""

import numpy as np
import torch
from sklearn.utils.validation import validate_data


def validate_array(estimator, X, *, reset, **check_params):
    """Validate ``X`` as scikit-learn does; a tensor is returned unchanged.

    ``validate_data`` takes NumPy arrays and DataFrames.  In place of a tensor, which
    may be on another device, it is given an array of the same shape that takes no
    memory.  Values are not checked: the caller must check for NaN and inf.
    """
    if isinstance(X, np.ma.MaskedArray) and X.mask.any():
        raise TypeError(
            f"Got a masked array in which {np.count_nonzero(X.mask)} values are "
            "masked, but every value is needed; fill them in, as with X.filled(0), or "
            "drop those rows."
        )
    if not isinstance(X, torch.Tensor):
        return validate_data(
            estimator, X, reset=reset, ensure_all_finite=False, **check_params
        )
    if X.is_nested or X.is_meta:
        kind = "nested tensor" if X.is_nested else "tensor on the meta device"
        raise TypeError(
            f"Got a {kind}, which is not a matrix of numbers; expected a dense tensor "
            "with values."
        )
    if X.requires_grad:
        raise ValueError(
            "Got a tensor that requires grad, but no gradients are computed here; "
            "pass X.detach()."
        )
    if X.is_complex():
        raise ValueError(f"Complex data not supported: got a tensor of {X.dtype}.")
    if X.layout != torch.strided:
        raise TypeError(f"Got a {X.layout} tensor, expected a dense one: X.to_dense().")
    check_params.pop("dtype", None)
    stand_in = np.broadcast_to(np.float32(0), tuple(X.shape))
    validate_data(
        estimator, stand_in, reset=reset, ensure_all_finite=False, **check_params
    )
    return X
