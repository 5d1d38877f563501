"""One fitted estimator of every kind that a file can hold, small.

Data and networks must stay as they are: files of earlier versions go with them.
"""

import copy
import functools

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from torch import nn

from reactood import ReActDetector, make_react_pipeline, scores
from reactood.baselines import (
    FDBDDetector,
    KNNDetector,
    MahalanobisDetector,
    NCIDetector,
    ViMDetector,
    make_odin_pipeline,
)
from reactood.conformal import ConformalDetector
from reactood.model_selection import OODSplit, ReActDetectorCV
from reactood.monitoring import ConformalMonitor
from reactood.rectifiers import ASH, BATS, DICE, LTS, SCALE, VRAP, BFAct

RNG = np.random.default_rng(0)
X = RNG.gamma(2, size=(120, 8)).astype(np.float32)
HEAD = RNG.normal(size=(4, 8)).astype(np.float32), np.zeros(4, np.float32)
CLASSES = RNG.integers(3, size=len(X))
MARKS = np.where(np.arange(len(X)) % 4, 1, -1)
IMAGES = RNG.random((40, 3, 16, 16)).astype(np.float32)
IMAGE_MARKS = np.where(np.arange(len(IMAGES)) % 4, 1, -1)


class SmallNet(nn.Module):
    """A convolution, a normalisation and a head."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean(dim=(2, 3)))


def small_net():
    """Return a network with weights that look trained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallNet()
        net.norm.running_mean.uniform_(-0.1, 0.1)
        net.norm.running_var.uniform_(0.5, 1.5)
        net.norm.weight.data.uniform_(0.5, 1.5)
        return net


class TextNet(nn.Module):
    """Takes token ids, a mask and a number by their names."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.fc = nn.Linear(9, 4)

    def forward(self, input_ids, attention_mask, age):
        mask = attention_mask.unsqueeze(-1)
        mean = (self.embed(input_ids) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return self.fc(torch.cat([mean, age], dim=1).relu())


def text_net():
    """Return the network that takes fields, with its weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TextNet()


TEXTS = {
    "input_ids": np.arange(240).reshape(40, 6) * 7 % 20,
    "attention_mask": np.ones((40, 6), dtype=bool),
    "age": np.linspace(-1, 1, 40, dtype=np.float32)[:, np.newaxis],
}


def small_head():
    """Return a head that is no linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))


def on_features():
    """Return estimators by name, fitted to X, and arguments of load."""
    own = {"check_score": False}
    react = functools.partial(ReActDetector, **own)
    unfitted = {
        "react": react(HEAD),
        "per-unit": react(HEAD, per_unit=True, lower_percentile=5),
        "by-hand": react(HEAD, threshold=np.linspace(1, 2, 8)),
        "logits": react(None, percentile=None, score_function="msp"),
        "gen": react(HEAD, score_function=functools.partial(scores.gen, gamma=0.2)),
        "own-score": react(HEAD, score_function=scores.entropy),
        "linear-layer": react(nn.Linear(8, 4)),
        "one-logit": react((HEAD[0][:1], HEAD[1][:1])),
        "tensors": react([torch.as_tensor(part) for part in HEAD]),
        "factory": react(lambda: nn.Linear(8, 4)),
        "rejecting": react(HEAD, on_nan="reject", temperature=2, batch_size=7),
        "double": react((HEAD[0].astype(float).T.copy().T, HEAD[1].astype(float))),
        **{rule.__name__: rule() for rule in (ASH, SCALE, BATS, VRAP, BFAct)},
        "LTS": LTS(HEAD),
        "DICE": DICE(HEAD),
        "fdbd": FDBDDetector(HEAD),
        "nci": NCIDetector(HEAD),
        "vim": ViMDetector(HEAD),
        "knn": KNNDetector(5),
        "mahalanobis": MahalanobisDetector(),
        "ledoit-wolf": MahalanobisDetector(LedoitWolf(assume_centered=True)),
        "pipeline": make_pipeline(
            StandardScaler(), Normalizer(), BATS(), react(HEAD, percentile=None)
        ),
        "conformal": ConformalDetector(react(HEAD), random_state=0),
        "conformal-pipeline": ConformalDetector(
            make_pipeline(StandardScaler(), react(HEAD)), random_state=0
        ),
    }
    fitted = {name: (one.fit(X), {}) for name, one in unfitted.items()}
    fitted["module"] = react(small_head()).fit(X), {"model": small_head}
    fitted["module-factory"] = react(small_head).fit(X), {"model": small_head()}
    trained = react(LogisticRegression()).fit(X, CLASSES), {}
    frozen = FrozenEstimator(LogisticRegression().fit(X, CLASSES > 0))
    fitted |= {"trained": trained, "frozen": (react(frozen).fit(X), {})}
    cv = ReActDetectorCV(HEAD, cv=StratifiedKFold(4), score_function=["energy", "msp"])
    fitted["cv"] = cv.fit(X, MARKS), {}
    split = ReActDetectorCV(HEAD, cv=OODSplit(3, random_state=0))
    fitted["cv-split"] = split.fit(X, MARKS), {}
    for name, own in {
        "stream": {"sample_size": 50, "lower_percentile": 5},
        "stream-small": {"on_nan": "reject"},
        "stream-per-unit": {"sample_size": 20, "per_unit": True},
    }.items():
        fitted[name] = react(HEAD, **own).fit_stream([X[:70], X[70:]]), {}
    calibrated = ConformalDetector(FrozenEstimator(react(HEAD).fit(X)))
    fitted["conformal-frozen"] = calibrated.fit(X), {}
    monitor = ConformalMonitor(FrozenEstimator(calibrated), random_state=0).fit()
    monitor.update_scores([*calibrated.score_samples(X - 0.5), np.nan])
    fitted["monitor"] = monitor, {}
    return fitted


def on_images():
    """Return pipelines by name, fitted to IMAGES, and arguments of load."""
    make = functools.partial(make_react_pipeline, check_score=False)
    code = {"model": small_net}
    fitted = {
        "factory": make(small_net).fit(IMAGES),
        "module": make(small_net()).fit(IMAGES),
        "layer": make(small_net, layer="norm", head=HEAD).fit(IMAGES),
        "unfolded": make(small_net, precision="bfloat16").fit(IMAGES),
        "odin": make_odin_pipeline(small_net, noise=0.01, percentile=90).fit(IMAGES),
        "conformal": ConformalDetector(make(small_net), random_state=0).fit(IMAGES),
        "cv": ReActDetectorCV(make(small_net)).fit(IMAGES, IMAGE_MARKS),
        "extractor": make(small_net).fit(IMAGES)[0],
    }
    fitted = {name: (pipeline, code) for name, pipeline in fitted.items()}
    both = make(small_net, head=small_head).fit(IMAGES)
    fitted["both"] = both, {"model": {"network": small_net, "head": small_head}}
    return fitted


def outputs(estimator, X):
    """Return everything that an estimator says of X."""
    names = "transform", "score_samples", "decision_function", "predict"
    names = *names, "predict_class", "p_values"
    found = {n: getattr(estimator, n)(X) for n in names if hasattr(estimator, n)}
    if hasattr(estimator, "update"):
        found["update"] = copy.deepcopy(estimator).update(X)  # it goes on from there
    return found
