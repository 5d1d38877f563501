"""Ways to run a backbone: torch itself, torch.compile, or OpenVINO.

An engine takes a float32 batch on its device, which it may overwrite, and returns
float features.  Engines that compile for one size of batch fill up smaller ones.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import threading
import warnings
from typing import Any

import torch
from torch import nn

from reactood._networks._folding import same_features
from reactood._utils._ambient import no_gradients, without_autocast
from reactood._utils._recent import Recent
from reactood._utils._tensors import choose_device
from reactood._utils._warnings import warn

ENGINES = "auto", "eager", "compile", "openvino"
MOST_REQUESTS = 8  # each has memory for the maps of one batch, and perhaps weights
NO_COMPILER = (
    "InvalidCxxCompiler",
    "No working C++ compiler",
    "Failed to find C compiler",  # this is Triton's message
)
CAPTURING = threading.RLock()  # torch.export and tracing serve one thread at a time
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def device_of(device, engine):
    """Return the device that a model runs on; "auto" is the CPU for OpenVINO."""
    return choose_device("cpu" if (device, engine) == ("auto", "openvino") else device)


def make_engine(name, backbone, device, precision, batch_size):
    """Return the engine called ``name``.

    Raises
    ------
    ImportError
        If a package is missing.
    ValueError
        If the engine cannot do what is asked for.
    """
    if name == "auto":
        return _AutoEngine(backbone, device, precision, batch_size)
    if name == "openvino":
        return OpenVINOEngine(backbone, device, precision)
    if name == "compile":
        return CompiledEngine(backbone, device, precision, batch_size)
    return EagerEngine(backbone, device, precision)


def describe_engine(name, device):
    """Say what computes, and its version if that is not torch's."""
    installed = importlib.util.find_spec("openvino") is not None
    if name == "auto":
        name = "openvino" if installed and device.type == "cpu" else "eager"
    if name == "openvino" and installed:
        return f"openvino {importlib.metadata.version('openvino')}"
    return name


class EagerEngine:
    """Runs the module as it is, under autocast for lower precision."""

    def __init__(self, backbone, device, precision):
        self.backbone = backbone.to(device)
        self.device = device
        self.dtype = DTYPES[precision]

    def __call__(self, batch):
        with no_gradients(), _autocast(self.device, self.dtype):
            return self.backbone(batch)


class CompiledEngine:
    """Runs what torch.compile makes of the module, its weights frozen into it."""

    def __init__(self, backbone, device, precision, batch_size):
        self.eager = EagerEngine(backbone, device, precision)
        self.batch_size = batch_size
        self.function = None

    def __call__(self, batch):
        with CAPTURING:
            if self.function is None:
                self.function = self._compile(batch)
        with no_gradients(), _autocast(self.eager.device, self.eager.dtype):
            return self.function(batch)

    def _compile(self, batch):
        """Compile and try; without a compiler on this machine, stay with eager."""
        from torch._dynamo.exc import TorchDynamoException

        module = _headless(self.eager.backbone, batch, "compile")
        compiled = torch.compile(module, dynamic=False, options={"freezing": True})

        def run(batch):
            n_rows = len(batch)
            return compiled(_filled(batch, max(n_rows, self.batch_size)))[:n_rows]

        try:
            with no_gradients(), _autocast(self.eager.device, self.eager.dtype):
                run(batch.clone())
        except Exception as error:  # compilers raise errors of any type
            if _is_missing_compiler(error):
                warn(
                    "engine='compile' needs a C++ compiler, and there is none here "
                    f"({first_line(error)}). Going on with engine='eager'.",
                )
                return self.eager
            if isinstance(error, TorchDynamoException):
                raise _unfit("compile", self.eager.backbone, error) from error
            raise
        return run


class OpenVINOEngine:
    """Runs the module on the CPU with OpenVINO, converted for each size of batch."""

    def __init__(self, backbone, device, precision):
        try:
            import openvino
        except ImportError as error:
            raise ImportError(
                "engine='openvino' needs OpenVINO: pip install 'reactood[openvino]'."
            ) from error
        self.openvino = openvino
        if device.type != "cpu":
            raise ValueError(
                f"engine='openvino' runs on the CPU, but the device is {device}; use "
                "device='cpu' or another engine."
            )
        self.backbone = backbone
        self.model = None
        self.hints = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}.get(
                precision, "f16"
            ),
            "PERFORMANCE_HINT": "LATENCY",  # all cores on one batch
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self.requests = Recent(MOST_REQUESTS)
        self.lock = threading.Lock()  # a request serves one thread at a time

    def __call__(self, batch):
        n_rows = len(batch)
        size = 1 << (n_rows - 1).bit_length()
        key = size, *batch.shape[1:]
        images = _filled(batch, size).numpy()
        with self.lock:
            request = self.requests.get(key)
            if request is None:
                request = self._compile(batch, key)
                self.requests.put(key, request)
            output = request.infer([images], share_inputs=True)[0]
        return torch.from_numpy(output)[:n_rows]

    def _compile(self, batch, shape):
        with CAPTURING:
            if self.model is None:
                self.model = self._convert(batch)
        model = self.model.clone()
        model.reshape(list(shape))
        compiled = _openvino_core().compile_model(model, "CPU", self.hints)
        return compiled.create_infer_request()

    def _convert(self, batch):
        """Convert by exporting, or else by tracing; prove what comes out."""
        module = _headless(self.backbone, batch, "openvino")
        errors = []
        for capture in _export, _trace:
            try:
                with plain_attention(), no_gradients(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # warnings of the converter
                    example = _filled(batch[:2].clone(), 2)
                    model = capture(self.openvino, module, example)
                    self._prove(model, example)
                    return model
            except Exception as error:  # converters raise errors of any type
                errors.append(error)
        raise _unfit("openvino", self.backbone, errors[-1]) from errors[-1]

    def _prove(self, model, example):
        """Compare with torch in float32, for another number of rows than traced."""
        rows = torch.cat([example, example.flip(0)])[:3]
        exact = model.clone()
        exact.reshape(list(rows.shape))
        hints = self.hints | {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = _openvino_core().compile_model(exact, "CPU", hints)
        ours = torch.from_numpy(compiled([rows.numpy()])[0])
        theirs = self.backbone(rows.clone())
        if not same_features(ours, theirs, 1e-3):
            raise ValueError("what it makes of the model gives other features")


class _AutoEngine:
    """OpenVINO on a CPU where it is installed and takes the model, else eager."""

    def __init__(self, backbone, device, precision, batch_size):
        self.eager = EagerEngine(backbone, device, precision)
        self.engine: Any = self.eager
        if describe_engine("auto", device) != "eager":
            self.engine = OpenVINOEngine(backbone, device, precision)

    def __call__(self, batch):
        try:
            return self.engine(batch)
        except UnfitError as error:
            first, self.engine = self.engine is not self.eager, self.eager
            if first:  # the first of several threads
                warn(f"{error} Going on with engine='eager'.")
            return self.eager(batch)


class UnfitError(ValueError):
    """An engine cannot take a model."""


class Headless(nn.Module):
    """A network that ends in the features of itself, without an exception."""

    def __init__(self, network, finish):
        super().__init__()
        self.network, self.finish = network, finish

    def forward(self, batch):
        return self.finish(self.network(batch))


def _headless(backbone, batch, engine):
    example = batch[:2]
    try:
        module = Headless(*backbone.without_hooks()).eval()
        with no_gradients():
            ours, theirs = module(example.clone()), backbone(example.clone())
        if not same_features(ours, theirs):
            raise ValueError("the model without its head gives other features")
    except Exception as error:  # a shortened model may fail in any way
        raise _unfit(engine, backbone, error) from error
    return module


@functools.cache
def _openvino_core():
    """Return the one core of this process, which is never taken down.

    Each core gives its thread another stack for signal handlers. Cores that go in
    another order than they came in leave one behind that is unmapped, and the next
    signal crashes the process.
    """
    import openvino

    return openvino.Core()


def _export(openvino, module, example):
    rows = torch.export.Dim("rows", min=1, max=1 << 16)
    exported = torch.export.export(module, (example,), dynamic_shapes=({0: rows},))
    return openvino.convert_model(exported)


def _trace(openvino, module, example):
    shape = openvino.PartialShape([-1, *example.shape[1:]])
    return openvino.convert_model(module, example_input=example, input=[shape])


@contextlib.contextmanager
def plain_attention():
    """Leave out torch's fused attention of inference, which OpenVINO cannot convert."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _filled(batch, size):
    """Repeat the last row until there are ``size``."""
    missing = size - len(batch)
    return batch if missing <= 0 else torch.cat([batch, *[batch[-1:]] * missing])


def _autocast(device, dtype):
    if dtype == torch.float32:
        return without_autocast()
    return torch.autocast(device.type, dtype)


def _is_missing_compiler(error):
    while error is not None:
        text = f"{type(error).__name__} {error}"
        if any(words in text for words in NO_COMPILER):
            return True
        error = error.__cause__
    return False


def _unfit(engine, backbone, error):
    name = type(backbone.network).__name__
    return UnfitError(
        f"engine={engine!r} cannot take {name} ({first_line(error)}). Use "
        "engine='eager', or 'auto', which falls back to it."
    )


def first_line(error):
    """Return the type and the first line of an error of a compiler."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
