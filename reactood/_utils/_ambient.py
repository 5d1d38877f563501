"""Protect results from the program's torch settings: autocast, dtype, device."""

import contextlib
import operator

import torch

_KINDS = "cpu", "cuda", "mps", "xpu"


@contextlib.contextmanager
def without_autocast():
    """Turn ``torch.autocast`` off; also usable as a decorator.

    Features and scores are computed in float32, or in the precision that a parameter
    names. An autocast around the call is meant for the program's own models. It would
    write rounded features into a cache, which programs without autocast also read.
    """
    with contextlib.ExitStack() as stack:
        for kind in _KINDS:
            if torch.amp.is_autocast_available(kind) and (
                torch.is_autocast_enabled(kind)
            ):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def float32_rounding():
    """Return the settings of torch by which float32 products may be rounded."""
    found = {}
    with contextlib.suppress(RuntimeError):  # if the program uses the newer names below
        found["matmul"] = torch.get_float32_matmul_precision()
    for name in "cudnn.conv", "cuda.matmul", "mkldnn.conv", "mkldnn.matmul":
        with contextlib.suppress(AttributeError, RuntimeError):
            asked = operator.attrgetter(f"{name}.fp32_precision")
            found[name] = str(asked(torch.backends))
    if "cudnn.conv" not in found:
        found["cudnn.conv"] = str(torch.backends.cudnn.allow_tf32)
    return found


@contextlib.contextmanager
def float32_by_default():
    """Set torch's default dtype to float32; also usable as a decorator.

    All threads share the default, so use this only for short work under a lock.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def no_gradients():
    """Turn gradients off, but make ordinary tensors, even within inference mode.

    A module may keep a tensor that it made in a pass, and folding makes weights. If
    made in torch's inference mode, they could not be used in a later pass with
    gradients.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield


@contextlib.contextmanager
def default_device(device: str | torch.device = "cpu"):
    """Set torch's default device to ``device``, whatever the program has set."""
    if _default().type == torch.device(device).type:
        yield
    else:
        with torch.device(device):
            yield


def passes_default(device: torch.device) -> torch.device:
    """Return the default device for a model's passes on ``device``.

    It is the CPU, as in a program that sets no default. But if the program's default is
    an accelerator of the kind of ``device``, its models may need this default.
    """
    ambient = _default()
    return ambient if ambient.type == device.type else torch.device("cpu")


def _default() -> torch.device:
    """Return the program's default device."""
    try:
        return torch.get_default_device()
    except AttributeError:  # of torch before 2.5, after set_default_device(None)
        return torch.device("cpu")
