"""What a learned attribute may be: checks of values that come from a file."""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np


class Unfit(ValueError):
    """A value is not what the attribute may be."""


@dataclass(frozen=True)
class Number:
    """A number, or an integer, in a closed interval; infinite where allowed."""

    low: float = -math.inf
    high: float = math.inf
    integer: bool = False
    infinite: bool = False

    def check(self, value, sizes):
        kind = Integral if self.integer else Real
        good = isinstance(value, kind) and not isinstance(value, bool)
        if not good or not self.low <= value <= self.high:
            raise Unfit(f"is {value!r:.60}")
        if not (self.infinite or math.isfinite(value)):
            raise Unfit(f"is {value}")


@dataclass(frozen=True)
class Size(Number):
    """A number of rows, features or the like, which arrays must agree with."""

    name: str = ""
    low: float = 1
    high: float = 2**53
    integer: bool = True

    def check(self, value, sizes):
        super().check(value, sizes)
        agree(sizes, self.name, value)


@dataclass(frozen=True, init=False)
class Array:
    """An array of numbers whose axes have named sizes, the same for all arrays."""

    axes: tuple[str, ...]
    infinite: bool = False
    ascending: bool = False

    def __init__(self, *axes, infinite=False, ascending=False):
        object.__setattr__(self, "axes", axes)
        object.__setattr__(self, "infinite", infinite)
        object.__setattr__(self, "ascending", ascending)

    def check(self, value, sizes):
        if not isinstance(value, np.ndarray) or value.dtype not in FLOATS:
            raise Unfit(f"is {described(value)}, expected an array of floats")
        if value.ndim != len(self.axes):
            raise Unfit(f"has the shape {value.shape}")
        for name, size in zip(self.axes, value.shape, strict=True):
            agree(sizes, name, size)
        if np.isnan(value).any() or not (self.infinite or np.isfinite(value).all()):
            raise Unfit("holds NaN or inf")
        if self.ascending and np.any(value[1:] < value[:-1]):
            raise Unfit("is not ascending")


FLOATS = np.dtype(np.float32), np.dtype(np.float64)


@dataclass(frozen=True)
class Labels:
    """Names or class labels: an array with one axis of numbers or text."""

    axis: str

    def check(self, value, sizes):
        if not isinstance(value, np.ndarray) or value.ndim != 1:
            raise Unfit(f"is {described(value)}, expected an array of labels")
        agree(sizes, self.axis, len(value))


@dataclass(frozen=True)
class Either:
    """One of several."""

    options: tuple[Any, ...]

    def check(self, value, sizes):
        problems = []
        for option in self.options:
            try:
                return option.check(value, sizes)
            except Unfit as problem:
                problems.append(str(problem))
        raise Unfit(" or ".join(dict.fromkeys(problems)))


@dataclass(frozen=True)
class OneOf:
    """A value among some, or a function where functions are allowed."""

    values: tuple[Any, ...]
    or_function: bool = False

    def check(self, value, sizes):
        if self.or_function and callable(value):
            return
        if not isinstance(value, str | type(None)) or value not in self.values:
            raise Unfit(f"is {value!r:.60}")


@dataclass(frozen=True)
class Optional:
    """An attribute that is not always there."""

    inner: Any

    def check(self, value, sizes):
        self.inner.check(value, sizes)


@dataclass(frozen=True)
class Instance:
    """An object of a class."""

    kind: type | tuple[type, ...]

    def check(self, value, sizes):
        if not isinstance(value, self.kind):
            raise Unfit(f"is {described(value)}")


def Bound(axis):
    """Return the check of a clip's bound: a number, or one for each unit."""
    return Either((Number(infinite=True), Array(axis, infinite=True)))


def agree(sizes, name, size):
    """Raise unless a named size is what it was before."""
    known = sizes.setdefault(name, size)
    if known != size:
        raise Unfit(f"has {size} {name}, and others have {known}")


def described(value):
    """Say in a few words what a value is."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    return f"{value!r:.60}"
