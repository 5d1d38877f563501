"""Classifier heads of every accepted kind, as functions from features to logits."""

import copy
import inspect
from numbers import Real

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import check_is_fitted
from torch import nn

from reactood._scoring._blocks import Workspace, take_rows
from reactood._utils._ambient import default_device, passes_default
from reactood._utils._modules import linear_arrays, private_build, private_copy
from reactood._utils._tensors import as_float, as_tensor
from reactood._utils._warnings import warn


class IdentityHead:
    """The features already are logits."""

    trained = False  # whether `fit` trained it on its labels

    def __init__(self, n_features):
        self.one_logit = n_features == 1
        self.classes = np.arange(2 if self.one_logit else n_features)

    def on(self, block):
        # Both copy: a user's score function may change its input.
        return of_both_classes if self.one_logit else torch.clone


class LinearHead:
    """logits = features @ weight.T + bias."""

    def __init__(self, weight, bias, classes=None, *, trained=False):
        self.weight, self.bias = weight, bias
        self.trained = trained
        self.classes = np.arange(len(weight)) if classes is None else classes

    def on(self, block):
        """Return the head as a function on ``block``'s dtype and device.

        The logits of one call are overwritten by the next.
        """
        weight, bias = (
            as_tensor(a).to(block.device, block.dtype) for a in (self.weight, self.bias)
        )
        memory = Workspace()

        def logits(features):
            out = memory.of(features, len(weight))
            return torch.addmm(bias, features, weight.T, out=out)

        return logits


class ModuleHead:
    """Any module from features to logits, private to this object."""

    trained = False

    def __init__(self, module, n_features):
        self.module = module.cpu()
        probe = torch.zeros(1, n_features, dtype=self._dtype(), device="cpu")
        try:
            with torch.inference_mode(), default_device():
                logits = self.module(probe)
        except (RuntimeError, ValueError, TypeError) as error:
            raise ValueError(
                f"head={type(module).__name__} could not take features of width "
                f"{n_features}: {error}. Pass the part of the classifier that maps "
                "these features to logits, or features of the width that it wants."
            ) from error
        if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
            got = getattr(logits, "shape", type(logits).__name__)
            raise ValueError(
                f"head={type(module).__name__} returned {got}, expected a tensor of "
                "logits of shape (n_samples, n_classes)."
            )
        n_logits = logits.shape[1]
        _check_classes(n_logits)
        self.one_logit = n_logits == 1
        self.classes = np.arange(2 if self.one_logit else n_logits)

    def on(self, block):
        module = self.module
        if block.device.type != "cpu":
            module = copy.deepcopy(module).to(block.device)

        dtype, default = self._dtype(), passes_default(block.device)

        def logits(features):  # a copy, as modules may change their input
            with default_device(default):
                return module(features.to(dtype, copy=True)).to(features.dtype)

        if self.one_logit:
            return lambda features: of_both_classes(logits(features))
        return logits

    def _dtype(self):  # not stored: pickle may look for a dtype in a user's module
        parameter = next(self.module.parameters(), None)
        return torch.float32 if parameter is None else parameter.dtype


def of_both_classes(z):
    """Return the logits of two classes for the one logit of a binary classifier.

    -z/2 and z/2 have the same probabilities, sigmoid(z) for the second class, and
    treat both classes alike.
    """
    return torch.cat([-z, z], dim=1) / 2


def _check_classes(n_classes):
    if n_classes == 0:
        raise ValueError(
            "head has no classes: it returns logits of shape (n_samples, 0). Pass a "
            "head with two or more classes, or with the one logit of a classifier of "
            "two."
        )


def make_head(head, X, y=None, rows=None):
    """Resolve the parameter ``head`` for features ``X``.

    ``y`` holds class labels for an unfitted scikit-learn classifier, which is trained
    on the ``rows`` that count.
    """
    n_features = X.shape[1]
    if head is None:
        return IdentityHead(n_features)
    recipe = head if _is_recipe(head) else None
    if recipe is not None:
        with default_device():
            head = _call(recipe)
    if isinstance(head, nn.Linear) and _is_plain(head):
        weight, bias = linear_arrays(head)
        return _linear_head(weight, bias, n_features)
    if isinstance(head, nn.Module):
        private = (
            private_copy(head, "head")
            if recipe is None
            else private_build(recipe, "head")
        )
        return ModuleHead(private, n_features)
    if isinstance(head, tuple | list):
        weight, bias = _as_pair(head)
        return _linear_head(weight, bias, n_features)
    return _sklearn_head(head, X, y, rows)


def fixed_head(head, X):
    """Resolve the parameter ``head`` of a rule that trains no classifier."""
    try:
        return make_head(head, X)
    except NotFittedError:
        raise ValueError(
            f"head={head!r} is not fitted, and no classifier is trained here. Pass a "
            "fitted one, best as FrozenEstimator(head), which survives cloning."
        ) from None


def linear_head(head, X):
    """Resolve the parameter ``head`` of a rule that needs weights, not logits alone."""
    made = fixed_head(head, X)
    if not isinstance(made, LinearHead):
        raise ValueError(
            f"head={head!r} is not linear; expected (weight, bias), torch.nn.Linear or "
            "a scikit-learn classifier with coef_, as the rule needs its weights."
        )
    return made


def linear_logits(X, weight, bias):
    """Return the logits of an array of features, in its dtype."""
    return X @ weight.T.astype(X.dtype) + bias.astype(X.dtype)


def _is_recipe(head):
    """Return whether ``head`` is a function without arguments that makes the head."""
    return (
        callable(head) and not isinstance(head, nn.Module) and not hasattr(head, "fit")
    )


def _call(recipe):
    try:
        inspect.signature(recipe).bind()
    except TypeError as error:
        raise TypeError(
            f"head={recipe!r} is a function that cannot be called without arguments "
            f"({error}); expected one that returns the head. Wrap a function of "
            "features in a torch.nn.Module."
        ) from error
    except ValueError:  # a builtin without a signature
        pass
    head = recipe()
    if head is None:
        raise TypeError(
            f"head={recipe!r} returned None; expected it to return the head."
        )
    return head


def _is_plain(linear):
    """Return whether a linear layer is only its weight and bias."""
    if isinstance(linear, nn.LazyLinear):
        return True  # it has no weights yet: an error is raised later
    changed = linear._forward_hooks or linear._forward_pre_hooks
    changed = changed or "forward" in vars(linear)
    return type(linear) is nn.Linear and not changed


def _as_pair(head):
    if len(head) != 2:
        raise ValueError(
            f"head is a {type(head).__name__} of length {len(head)}, expected the pair "
            "(weight, bias), of shapes (n_classes, n_features) and (n_classes,)."
        )
    weight, bias = (
        as_float(a.detach().cpu()).numpy().copy()
        if isinstance(a, torch.Tensor)
        else np.array(a)
        for a in head
    )
    if weight.ndim != 2 or bias.shape != (len(weight),):
        raise ValueError(
            f"head=(weight, bias) has shapes {weight.shape} and {bias.shape}, expected "
            "(n_classes, n_features) and (n_classes,), as in torch.nn.Linear."
        )
    if weight.dtype not in (np.float32, np.float64):
        weight = weight.astype(np.float64)
    return weight, bias.astype(weight.dtype)


def _linear_head(weight, bias, n_features, classes=None, *, trained=False):
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ValueError("head has NaN or inf weights; was the classifier trained?")
    if weight.shape[1] != n_features:
        raise ValueError(
            f"head takes features of width {weight.shape[1]}, but X has "
            f"{n_features} features. Pass the head of the model that made X, or "
            "extract X at the input of this head."
        )
    _check_classes(len(weight))
    if len(weight) == 1:  # as in of_both_classes
        weight, bias = (np.concatenate([-a, a]) / 2 for a in (weight, bias))
    return LinearHead(weight, bias, classes, trained=trained)


def _sklearn_head(head, X, y, rows):
    inner = head.estimator if isinstance(head, FrozenEstimator) else head
    name = type(inner).__name__
    if not (hasattr(head, "fit") and is_classifier(head)):
        raise TypeError(
            f"head is a {name}; expected (weight, bias), a torch.nn.Module, a "
            "scikit-learn classifier with coef_, or None if X holds logits."
        )
    given = head
    if not isinstance(head, FrozenEstimator):
        head = _train(head, name, X, y, rows)
    n_classes = len(getattr(head, "classes_", ()))
    if not hasattr(head, "coef_") or hasattr(head, "dual_coef_"):
        raise ValueError(
            f"head={name} has no coef_ with one row per class: a fitted linear "
            "classifier is expected, such as LogisticRegression or LinearSVC."
        )
    coef = head.coef_.toarray() if issparse(head.coef_) else head.coef_
    weight, bias = np.array(coef, ndmin=2), np.array(head.intercept_, ndmin=1)
    bias = np.broadcast_to(bias, len(weight)).astype(weight.dtype)
    if n_classes < 2 or len(weight) != (1 if n_classes == 2 else n_classes):
        raise ValueError(
            f"head={name} has {len(weight)} rows of coef_ for {n_classes} classes; "
            "expected one per class, or one for two classes."
        )
    return _linear_head(
        weight, bias, X.shape[1], head.classes_, trained=head is not given
    )


def _train(head, name, X, y, rows):
    """Fit a clone of ``head`` on the class labels, or use it as it is without any."""
    labels = None if y is None else y[rows] if rows is not None else y
    if labels is not None and labels.dtype == object:
        if all(isinstance(label, Real) for label in labels):
            labels = np.array(labels.tolist())  # scikit-learn refuses them as objects
    if labels is not None and len(np.unique(labels)) > 1:
        features = take_rows(X, rows)
        if isinstance(features, torch.Tensor):
            features = as_float(features.cpu()).numpy()
        _warn_of_other_classes(head, name, labels)
        return clone(head).fit(features, labels)
    try:
        check_is_fitted(head)
    except NotFittedError:
        raise NotFittedError(
            f"head={name} is not fitted and y holds no class labels to train it on "
            "(at least two classes besides -1). Pass class labels as y, or a fitted "
            "classifier as FrozenEstimator(head), which survives cloning."
        ) from None
    return head


def _warn_of_other_classes(head, name, labels):
    """Warn where a classifier that knows other classes is trained anew."""
    known = set(np.asarray(getattr(head, "classes_", ())).tolist())
    given = set(labels.tolist())
    if not known or (given <= known and (len(given) > 2 or len(known) == 2)):
        return
    shown, found = (repr(min(labels, key=str)) for labels in (known, given))
    warn(
        f"head={name} is fitted to {len(known)} classes, such as {shown}, and y holds "
        f"{len(given)} values, such as {found}: a copy of the head is trained on y. To "
        "use the head as it is, pass FrozenEstimator(head). If y marks "
        "out-of-distribution rows, mark these by -1."
    )
