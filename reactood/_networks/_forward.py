"""Run batches through an engine: copies to the device, memory limits, order."""

import contextlib
from typing import Any

import torch
from torch import nn

from reactood._utils._ambient import default_device, passes_default
from reactood._utils._modules import (
    free_memory,
    is_out_of_memory,
)
from reactood._utils._tensors import to_device


def first_pass(network, batch):
    """Return what a network makes of as many images as fit into memory, and these."""
    while True:
        try:
            return network(batch.clone()), batch
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise RuntimeError(
                    f"Out of memory on {batch.device} with one input of shape "
                    f"{tuple(batch.shape[1:])} ({error}). Use smaller images, a "
                    "smaller model or another device."
                ) from error
        batch = batch[: len(batch) // 2]
        free_memory(batch.device)


BATCH_SIZES = {"cpu": 32, "mps": 64, "cuda": 256}

# On a CPU, a small batch is faster than a large one, because its feature maps fit into
# memory that the allocator reuses: here 8 images of 224 x 224 pixels. With one thread,
# torch is slow at 1 x 1 convolutions of fewer than 16 images.
CPU_BATCH_ELEMENTS = 8 * 3 * 224 * 224
FLUSH_ELEMENTS = (
    1 << 22
)  # features that stay on an accelerator before they are copied to the host


def read_size(batch_size, device):
    """Return how many images to read at a time."""
    return BATCH_SIZES.get(device.type, 64) if batch_size == "auto" else batch_size


class Forward:
    """Runs batches of host tensors through an engine.

    With ``batch_size="auto"``, a batch that does not fit into memory is run again in
    halves, and so are all that follow: nothing is lost.

    Parameters
    ----------
    get_backbone, get_engine : callable
        Return the backbone, and from a device and a batch size the engine that runs
        it; called when the first batch is there, as both may be expensive.
    device : torch.device
        Where the engine wants its batches.
    batch_size : int or "auto"
        Images at a time.
    """

    def __init__(self, get_backbone, get_engine, device, batch_size):
        self.get_backbone, self.get_engine = get_backbone, get_engine
        self.device = device
        self.auto = batch_size == "auto"
        self.batch_size = read_size(batch_size, device)
        self.default = passes_default(
            device
        )  # the program's default device at this moment
        self.engine: Any = None
        self.backbone: Any = None

    def __call__(self, batches, finish):
        """Yield rows and their features, float32 on the host, in order.

        ``batches`` are pairs of rows and images, ``finish`` turns pixels into floats.
        On an accelerator features stay there until enough have come together, so that
        no batch waits for the one before it.
        """
        waiting, n_waiting = [], 0
        for rows, images in batches:
            for chunk, features in self._in_chunks(images, finish):
                waiting.append((rows[chunk], features))
                n_waiting += features.numel()
                if self.device.type == "cpu" or n_waiting >= FLUSH_ELEMENTS:
                    yield _gathered(waiting)
                    waiting, n_waiting = [], 0
        if waiting:
            yield _gathered(waiting)

    def _in_chunks(self, images, finish):
        if self.engine is None:
            self._start(images)
        start = 0
        while start < len(images):
            chunk = slice(start, start + self.batch_size)
            batch = images[chunk]
            try:
                with explained(self.backbone, batch), default_device(self.default):
                    features = self._run(batch, finish)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if not self.auto or len(batch) == 1:
                    raise RuntimeError(
                        f"Out of memory on {self.device} with a batch of {len(batch)} "
                        f"inputs of shape {tuple(batch.shape[1:])} ({error}). "
                        + (
                            "One input alone does not fit."
                            if len(batch) == 1
                            else "Use batch_size='auto' or a smaller one."
                        )
                    ) from error
                features = None
            if (
                features is None
            ):  # outside of except: there the error keeps memory in use
                self.batch_size = len(batch) // 2
                free_memory(self.device)
                self.engine = self.get_engine(self.device, self.batch_size)
                continue
            yield chunk, features
            start += len(batch)

    def _start(self, images):
        self.backbone = self.get_backbone()
        if self.auto and self.device.type == "cpu":
            doubled = torch.get_num_threads() == 1 and self.backbone.is_convolutional
            most = CPU_BATCH_ELEMENTS * (1 + doubled) // max(1, images[0].numel())
            self.batch_size = max(1, min(self.batch_size, most))
        self.engine = self.get_engine(self.device, self.batch_size)

    def _run(self, batch, finish):
        moved = finish(to_device(batch, self.device))
        layout = torch.contiguous_format
        if moved.ndim == 4:
            layout = getattr(torch, self.backbone.arrangement.memory_format)
        if moved.data_ptr() == batch.data_ptr():  # models may change their input
            moved = moved.clone(memory_format=layout)
        else:
            moved = moved.contiguous(memory_format=layout)
        features = self.engine(moved)
        check_rows(features, batch)
        return features.float()


def check_rows(features, batch):
    """Raise unless there is one row of features for each image."""
    if features.ndim != 2 or len(features) != len(batch):
        raise ValueError(
            f"{len(batch)} inputs of shape {tuple(batch.shape[1:])} gave features of "
            f"shape {tuple(features.shape)}, expected one row per input: does the "
            "model take the first axis for samples?"
        )


def _gathered(waiting):
    """Return rows and features of several chunks, on the host."""
    rows, features = zip(*waiting, strict=True)
    one = features[0] if len(features) == 1 else torch.cat(features)
    return [row for part in rows for row in part], one.cpu().numpy()


@contextlib.contextmanager
def explained(network, batch):
    """Turn what a module raises at a wrong input into a sentence about the input."""
    try:
        yield
    except (RuntimeError, AssertionError, IndexError, TypeError, MemoryError) as error:
        if is_out_of_memory(error) or "DataLoader worker" in str(error):
            raise
        convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d))
        first = next(convolutions, None)
        advice = "Expected what the model's forward takes, one row per input."
        if first is not None:
            advice = (
                f"Its first convolution takes {first.in_channels} channels, so it "
                f"wants (n_samples, {first.in_channels}, height, width)."
            )
        raise ValueError(
            f"The model could not take a batch of shape {tuple(batch.shape)}: "
            f"{error}. {advice}"
        ) from error
