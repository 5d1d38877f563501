"""What several rooms do with a user's torch modules."""

import copy

import numpy as np

from reactood._blocks import as_float


def linear_arrays(linear):
    """Return weight and bias of an ``nn.Linear`` as NumPy arrays of their own."""

    def array(tensor):
        tensor = tensor.detach().cpu()
        return as_float(tensor).numpy().copy()

    weight = array(linear.weight)
    if linear.bias is None:
        return weight, np.zeros(len(weight), weight.dtype)
    return weight, array(linear.bias)


def private_copy(module, parameter):
    """Return a copy of the user's module in eval mode."""
    try:
        module = copy.deepcopy(module)
    except RuntimeError as error:
        raise ValueError(
            f"{parameter}={type(module).__name__} cannot be copied ({error}), and the "
            f"original must not be touched; pass {parameter}= a function that builds "
            "it instead."
        ) from error
    return module.eval()
