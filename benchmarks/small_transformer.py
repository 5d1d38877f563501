"""ReAct on small vision transformers that are trained here, on the embedded digits.

    python benchmarks/small_transformer.py

No transformer with published weights is needed. Each seed trains one network on the
training digits, in less than half a minute of one core. Its last features come from a
LayerNorm and are signed. A random half of the test digits is to learn from, the other
half is evaluated.
"""

import argparse

import numpy as np
import torch
from _timing import limit_threads, machine, print_table
from torch import nn

from reactood import ReActDetector, TorchFeatureExtractor
from reactood.datasets import load_digits_ood
from reactood.metrics import auroc, fpr_at_tpr
from reactood.model_selection import tune_detector

SETTINGS = {
    "msp": {"score_function": "msp", "percentile": None},
    "energy": {"percentile": None},
    "react, 90": {"percentile": 90},
    "react, 99": {"percentile": 99},
    "two-sided, 90": {"percentile": 90, "lower_percentile": 10},
}


class SmallTransformer(nn.Module):
    """A vision transformer for grey images of 8 x 8: 16 patches, width 32."""

    def __init__(self, n_classes, width=32, depth=4):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.places = nn.Parameter(0.02 * torch.randn(16, width))
        layers = [
            nn.TransformerEncoderLayer(
                width, 4, 2 * width, 0.1, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        ]
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, n_classes)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.fc(self.norm(self.blocks(tokens).mean(dim=1)))


def train(X, y, seed, epochs):
    """Return a network trained on the digits, shifted by up to a pixel at random."""
    torch.manual_seed(seed)
    net = SmallTransformer(int(y.max()) + 1)
    X, y = torch.from_numpy(X), torch.from_numpy(np.asarray(y, dtype=np.int64))
    steps = epochs * -(-len(X) // 64)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.05)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(X)).split(64):
            shift = torch.randint(-1, 2, (2,)).tolist()
            logits = net(X[rows].roll(shift, dims=(2, 3)))
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, y[rows]).backward()
            optimizer.step()
            plan.step()
    return net.eval()


def judge(data, seed, epochs):
    """Return the test accuracy, AUROC and FPR95 in percent, and what was chosen."""
    net = train(data.X_train, data.y_train, seed, epochs)
    order = np.random.default_rng(seed).permutation(len(data.X_test))
    half = len(order) // 2
    extractor = TorchFeatureExtractor(lambda: net)
    H = extractor.fit_transform(data.X_test)
    learn, evaluated = H[order[:half]], H[order[half:]]
    ood = [extractor.transform(images) for images in data.ood.values()]
    base = ReActDetector(extractor.head_, check_score=False)
    detectors = {
        name: ReActDetector(extractor.head_, check_score=False, **params).fit(learn)
        for name, params in SETTINGS.items()
    }
    tuned = tune_detector(base, learn)
    detectors["tuned"] = tuned.best_estimator_
    accuracy = np.mean(
        detectors["energy"].predict_class(evaluated) == data.y_test[order[half:]]
    )
    found = {}
    for name, detector in detectors.items():
        of_id = detector.score_samples(evaluated)
        cells = []
        for X in ood:
            y = np.repeat([1, -1], [len(of_id), len(X)])
            scores = np.concatenate([of_id, detector.score_samples(X)])
            cells.append((100 * auroc(y, scores), 100 * fpr_at_tpr(y, scores)))
        found[name] = np.array(cells)
    return accuracy, found, tuned.best_params_


def main():
    """Train the networks and print the means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--threads", type=int, help="of NumPy and torch")
    options = parser.parse_args()
    limit_threads(options.threads)
    print(machine() + "\n")
    data = load_digits_ood()
    runs = []
    for seed in range(options.seeds):
        accuracy, found, chosen = judge(data, seed, options.epochs)
        means = ", ".join(f"{k} {v.mean(axis=0)[0]:.1f}" for k, v in found.items())
        print(
            f"seed {seed}: accuracy {100 * accuracy:.1f} %; chosen {chosen}; {means}",
            flush=True,
        )
        runs.append((accuracy, found, chosen))
    rows = []
    for name in runs[0][1]:
        cells = np.mean([found[name] for _, found, _ in runs], axis=0)
        cells = [*cells, cells.mean(axis=0)]
        rows.append([name, *(f"{a:.1f} / {f:.1f}" for a, f in cells)])
    print_table(("AUROC / FPR95, %", *data.ood, "mean"), rows)


if __name__ == "__main__":
    main()
