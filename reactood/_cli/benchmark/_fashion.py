"""Train a small ResNet on Fashion-MNIST, for the suite of that name.

The network has one of the three kinds of normalisation that the paper compares: batch,
group or weight normalisation.
"""

import functools
import os
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from reactood._utils._progress import progress_bar

NORMS = "batch", "group", "weight"
WIDTHS = 16, 32, 128
GROUPS = 8
BATCH = 128
EPOCHS = 6
LEARNING_RATE = {"batch": 0.2, "group": 0.2, "weight": 0.05}
SHIFT = 2  # pixels, in each direction


class Block(nn.Module):
    """Two convolutions with a shortcut; a stride of 2 halves the size of the image."""

    def __init__(self, n_in, n_out, stride, norm):
        super().__init__()
        self.first = _conv(n_in, n_out, 3, stride, norm)
        self.second = _conv(n_out, n_out, 3, 1, norm)
        self.shortcut = _conv(n_in, n_out, 1, stride, norm)

    def forward(self, x):
        """Return the rectified sum of both branches."""
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class SmallResNet(nn.Module):
    """Images of shape (n, 1, 28, 28) with values in [0, 1] to logits of 10 classes."""

    def __init__(self, norm="batch"):
        super().__init__()
        sizes = zip((1, *WIDTHS), WIDTHS, (1, 2, 2), strict=False)
        self.blocks = nn.Sequential(*(Block(*size, norm) for size in sizes))
        self.fc = nn.Linear(WIDTHS[-1], 10)

    def forward(self, x):
        """Return the logits."""
        return self.fc(self.blocks(x).mean(dim=(2, 3)))


def _conv(n_in, n_out, size, stride, norm):
    conv = nn.Conv2d(
        n_in, n_out, size, stride, padding=size // 2, bias=norm == "weight"
    )
    if norm == "weight":
        return weight_norm(conv)
    after = nn.BatchNorm2d(n_out) if norm == "batch" else nn.GroupNorm(GROUPS, n_out)
    return nn.Sequential(conv, after)


def train(X, y, *, norm="batch", epochs=EPOCHS, seed=0, file=None, verbose=False):
    """Train a network on the CPU, and resume an interrupted training.

    It uses stochastic gradient descent with Nesterov momentum 0.9, weight decay 5e-4
    and one cycle of the learning rate. Images are mirrored at random and shifted by up
    to 2 pixels.

    Parameters
    ----------
    X : ndarray of shape (n, 28, 28), uint8
        Images.
    y : ndarray of shape (n,)
        Classes, 0 to 9.
    norm : {"batch", "group", "weight"}
        The kind of normalisation.
    epochs, seed : int
        Number of passes over the images; seed of all random numbers.
    file : path or None
        The file to which the state of the training is written after each epoch.
    verbose : bool
        Whether to show a progress bar.

    Returns
    -------
    net : SmallResNet
        The network, in eval mode.
    """
    images = torch.from_numpy(X.copy())[:, None].float().div_(255)
    classes = torch.from_numpy(y.astype("int64"))
    n_batches = max(len(images) // BATCH, 1)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        net = SmallResNet(norm)
        optimizer = torch.optim.SGD(
            net.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, LEARNING_RATE[norm], total_steps=epochs * n_batches
        )
        parts = {"net": net, "optimizer": optimizer, "schedule": schedule}
        settings = {"norm": norm, "epochs": epochs, "seed": seed, "n": len(images)}
        done = _resume(file, settings, parts)
        with progress_bar(epochs * len(images), verbose, "training") as bar:
            bar.update(done * len(images))
            for epoch in range(done, epochs):
                generator = torch.Generator().manual_seed(seed + 1000 * epoch)
                net.train()
                order = torch.randperm(len(images), generator=generator)
                for batch in order[: n_batches * BATCH].split(BATCH):
                    moved = _moved(images[batch], generator)
                    loss = F.cross_entropy(net(moved), classes[batch])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    bar.update(len(batch))
                _keep(file, settings | {"done": epoch + 1}, parts)
    return net.eval()


def _moved(images, generator):
    """Mirror about half of the images, and shift all of them by the same amount."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    dx, dy = torch.randint(2 * SHIFT + 1, (2,), generator=generator).tolist()
    size = images.shape[-1]
    return F.pad(images, [SHIFT] * 4)[:, :, dy : dy + size, dx : dx + size]


def _resume(file, settings, parts):
    """Load the kept state of a run with the same settings; return its epochs."""
    if file is None or not Path(file).exists():
        return 0
    kept = torch.load(file, weights_only=True)
    if any(kept["settings"][key] != value for key, value in settings.items()):
        return 0
    for name, part in parts.items():
        part.load_state_dict(kept[name])
    return kept["settings"]["done"]


def _keep(file, settings, parts):
    if file is None:
        return
    kept = {name: part.state_dict() for name, part in parts.items()}
    partial = Path(f"{os.fspath(file)}.partial")
    torch.save({"settings": settings} | kept, partial)
    partial.replace(file)


def load(file):
    """Build the network that `train` has written to a file."""
    kept = torch.load(file, weights_only=True)
    net = SmallResNet(kept["settings"]["norm"])
    net.load_state_dict(kept["net"])
    return net.eval()


def loader(file):
    """Return a function without arguments that builds the network."""
    return functools.partial(load, os.fspath(file))
