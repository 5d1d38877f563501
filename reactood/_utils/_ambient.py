"""Protect results from torch settings of the program: autocast, dtype, device."""

import contextlib
import operator

import torch

_KINDS = "cpu", "cuda", "mps", "xpu"


@contextlib.contextmanager
def without_autocast():
    """Compute in the precision that is asked for here, as a decorator too.

    Features and scores come from float32, or from the precision that a parameter names.
    ``torch.autocast`` around the call is for the program's own models: with it, rounded
    features would go into a cache, for programs without it as well.
    """
    with contextlib.ExitStack() as stack:
        for kind in _KINDS:
            if torch.amp.is_autocast_available(kind) and (
                torch.is_autocast_enabled(kind)
            ):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def float32_rounding():
    """Return how much torch may round inside float32 products, by what asks for it."""
    found = {}
    with contextlib.suppress(RuntimeError):  # of one who uses the newer names below
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
    """Let torch make float32 tensors where nothing else is said, as a decorator too.

    The default belongs to all threads, so this is for short work under a lock.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def no_gradients():
    """Record no operations, but make ordinary tensors, in inference mode too.

    A module may keep a tensor that it made in a pass, and folding makes weights. Those
    of torch's inference mode would be of no use in a later pass with gradients.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield


@contextlib.contextmanager
def default_device(device: str | torch.device = "cpu"):
    """Make tensors that name no device on ``device``, whatever the program has set."""
    if _default().type == torch.device(device).type:
        yield
    else:
        with torch.device(device):
            yield


def passes_default(device: torch.device) -> torch.device:
    """Return the default device for a model's passes on ``device``.

    It is the CPU, as in a program that sets none; but a program that has made an
    accelerator its default may run models that need it so.
    """
    ambient = _default()
    return ambient if ambient.type == device.type else torch.device("cpu")


def _default() -> torch.device:
    """Return the program's default device."""
    try:
        return torch.get_default_device()
    except AttributeError:  # of torch before 2.5, after set_default_device(None)
        return torch.device("cpu")
