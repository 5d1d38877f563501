"""Train the network of `digits_classifier` again and write its weights.

Run ``python -m reactood.datasets._train_digits --out digits_cnn.npz``. It takes some
seconds on one core. The training images are those of ``load_digits_ood().X_train``,
without augmentation. The test images are used only to print the accuracy at the end,
and out-of-distribution images are not used. But the architecture and the number of
epochs were chosen by results on these images: see ``load_digits_ood().DESCR``.

On the same machine with the same versions, each run gives the same weights. Elsewhere
results may differ in the last bits, which become larger differences in training.
"""

import argparse

import numpy as np
import torch
from torch.nn import functional as F

from reactood.datasets._digits import WEIGHTS, DigitsNet, load_digits_ood

EPOCHS = 30
BATCH = 64
LEARNING_RATE = 0.1


def train_digits(X, y, *, epochs=EPOCHS, seed=0):
    """Train a new network on the CPU.

    It uses stochastic gradient descent with Nesterov momentum 0.9 and weight decay
    5e-4. The learning rate decreases from 0.1 to 0 along a cosine.

    Parameters
    ----------
    X : ndarray of shape (n, 1, 8, 8), float32
        At least 64 images with values in [0, 1].
    y : ndarray of shape (n,), int64
        Classes of the images, 0 to 7.
    epochs : int, default=30
        Number of passes over the images. Each pass leaves out the last incomplete
        batch.
    seed : int, default=0
        Seed of the initial weights and of the order of the images. The caller's
        random state does not change.

    Returns
    -------
    net : DigitsNet
        The network, in eval mode.
    """
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    n_batches = len(X) // BATCH
    n_threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        # The order of a sum, hence its rounding, depends on the number of threads.
        torch.set_num_threads(1)
        try:
            net = DigitsNet().train()
            optimizer = torch.optim.SGD(
                net.parameters(),
                lr=LEARNING_RATE,
                momentum=0.9,
                nesterov=True,
                weight_decay=5e-4,
            )
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
                optimizer, epochs * n_batches
            )
            for _ in range(epochs):
                order = torch.randperm(len(X))[: n_batches * BATCH]
                for batch in order.split(BATCH):
                    loss = F.cross_entropy(net(X[batch]), y[batch])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
        finally:
            torch.set_num_threads(n_threads)
    return net.eval()


def accuracy(net, X, y):
    """Return the share of the images in X that the network classifies correctly."""
    with torch.no_grad():
        found = net(torch.from_numpy(X)).argmax(dim=1).numpy()
    return float((found == y).mean())


def main(argv=None):
    """Train, print the accuracies and write the weights as plain arrays."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=WEIGHTS, help="file to write (%(default)s)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="%(default)s")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    args = parser.parse_args(argv)

    data = load_digits_ood()
    net = train_digits(data.X_train, data.y_train, epochs=args.epochs, seed=args.seed)
    print(f"accuracy on X_train: {accuracy(net, data.X_train, data.y_train):.4f}")
    print(f"accuracy on X_test:  {accuracy(net, data.X_test, data.y_test):.4f}")

    weights = {name: value.numpy() for name, value in net.state_dict().items()}
    with open(args.out, "wb") as stream:
        np.savez_compressed(stream, **weights)
    print(f"weights written to {args.out}")


if __name__ == "__main__":
    main()
