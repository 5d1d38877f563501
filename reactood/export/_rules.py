"""The rectifiers as modules, from a tensor of features to one of features or logits."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from reactood.rectifiers import ASH, BATS, DICE, LTS, SCALE, VRAP, BFAct


class _Rule(nn.Module):
    """A fitted rectifier: its arrays are buffers, of the features' dtype."""

    low_: torch.Tensor
    high_: torch.Tensor
    weight_: torch.Tensor
    bias_: torch.Tensor

    def __init__(self, rule):
        super().__init__()
        for name in "low_", "high_", "weight_", "bias_":
            if hasattr(rule, name):
                array = np.asarray(getattr(rule, name), np.float32)
                self.register_buffer(name, torch.from_numpy(array.copy()))


class _BATS(_Rule):
    def forward(self, features):
        return features.minimum(self.high_).maximum(self.low_)


class _VRAP(_Rule):
    def forward(self, features):
        return torch.where(features < self.low_, 0.0, features.minimum(self.high_))


class _BFAct(_Rule):
    def __init__(self, rule):
        super().__init__(rule)
        self.c, self.exponent = float(rule.c_), float(2 * rule.order)

    def forward(self, features):
        power = (features.abs().double() / self.c) ** self.exponent
        return (features / torch.sqrt(1 + power)).to(features.dtype)


class _DICE(_Rule):
    def forward(self, features):
        return functional.linear(features, self.weight_, self.bias_)


class _OfHighest(_Rule):
    """A rule that measures each sample by its highest activations."""

    def __init__(self, rule):
        super().__init__(rule)
        self.percentile = rule.percentile
        self.kind = getattr(rule, "kind", "")

    def highest(self, features):
        n = features.shape[1]
        return features.topk(max(1, n - round(n * self.percentile / 100)), dim=1)

    def ratio(self, features, kept):
        """Return sum of all / sum of kept, and where the kept ones are 0."""
        of_all, of_kept = (some.sum(dim=1, keepdim=True) for some in (features, kept))
        silent = of_kept == 0
        return torch.where(silent, 1.0, of_all / of_kept.where(~silent, 1.0)), silent

    def growth(self, features, kept):
        ratio, silent = self.ratio(features, kept)
        return torch.where(silent, 1.0, ratio.exp())


class _ASH(_OfHighest):
    def forward(self, features):
        values, index = self.highest(features)
        if self.kind == "s":
            values = values * self.growth(features, values)
        elif self.kind == "b":
            mean = features.sum(dim=1, keepdim=True) / values.shape[1]
            values = mean.expand_as(values)
        return torch.zeros_like(features).scatter(1, index, values)


class _SCALE(_OfHighest):
    def forward(self, features):
        return features * self.growth(features, self.highest(features)[0])


class _LTS(_OfHighest):
    def forward(self, features):
        active = features.clamp_min(0)
        ratio, _ = self.ratio(active, self.highest(active)[0])
        return functional.linear(features, self.weight_, self.bias_) * ratio**2


RULES = {
    BATS: _BATS,
    VRAP: _VRAP,
    BFAct: _BFAct,
    ASH: _ASH,
    SCALE: _SCALE,
    LTS: _LTS,
    DICE: _DICE,
}


class Rules(nn.Module):
    """Rectifiers in their order, and which rows they would refuse."""

    def __init__(self, rules):
        super().__init__()
        self.steps = nn.ModuleList(RULES[type(rule)](rule) for rule in rules)
        self.signed = [rule.allow_signed for rule in rules]

    def forward(self, features, valid):
        """Return the changed features, and whether each row is valid."""
        for step, signed in zip(self.steps, self.signed, strict=True):
            if not signed:
                valid = valid & (features.amin(dim=1) >= 0)
            features = step(features)
        return features, valid
