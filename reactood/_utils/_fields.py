"""Fields: the named arguments of a network, packed into one tensor of integers.

Everything between the input and the network handles one tensor with one row per sample.
The values of all fields are kept exactly: floats by their bits.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import issparse

from reactood._utils._tensors import as_tensor


@dataclass(frozen=True)
class Fields:
    """What the arguments of a network are called, and their kinds and shapes.

    Attributes
    ----------
    names : tuple of str
        The names; of one integer array, which has none, empty.
    kinds : tuple of str
        "float32", "int64" or "bool" for each.
    shapes : tuple of tuple of int
        The shape of one row of each. Empty if all have the same shape: it is then that
        of the batch, and may differ from one input to another, as the length of text.
    """

    names: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()

    def pack(self, columns):
        """Return one tensor of int64 that holds the columns, a dict of tensors."""
        parts = []
        for name, kind in zip(self.names, self.kinds, strict=True):
            values = columns[name]
            if kind == "float32":
                values = values.float().contiguous().view(torch.int32)
            parts.append(values.long())
        if not self.shapes:
            return torch.stack(parts, dim=1)
        return torch.cat([part.reshape(len(part), -1) for part in parts], dim=1)

    def unpack(self, batch):
        """Return the columns that were packed, a dict of tensors."""
        if not self.shapes:
            parts = [batch[:, i] for i in range(len(self.names))]
        else:
            sizes = [int(np.prod(shape)) for shape in self.shapes]
            split = batch.split(sizes, dim=1)
            parts = [
                part.reshape(len(batch), *shape)
                for part, shape in zip(split, self.shapes, strict=True)
            ]
        columns = {}
        for name, kind, part in zip(self.names, self.kinds, parts, strict=True):
            if kind == "float32":
                part = part.to(torch.int32).contiguous().view(torch.float32)
            columns[name] = part.bool() if kind == "bool" else part
        return columns

    def noise(self, shape):
        """Return one packed row that every network with these fields takes.

        Integers are 0 or 1, which every vocabulary and every mask has.
        """
        random = np.random.RandomState(0)
        packed = torch.from_numpy(random.randint(0, 2, (1, *shape)))
        columns = self.unpack(packed) if self.names else {}
        if "float32" not in self.kinds:
            return packed
        for name, kind in zip(self.names, self.kinds, strict=True):
            if kind == "float32":
                values = random.standard_normal(tuple(columns[name].shape))
                columns[name] = torch.from_numpy(values).float()
        return self.pack(columns)

    def hook(self, module, args, kwargs):
        """Give a network its arguments by name: a forward pre-hook."""
        (batch,) = args
        return (), {**self.unpack(batch), **kwargs}

    def attach(self, network):
        """Let a network, private to us, take packed batches."""
        if self.names:
            network.register_forward_pre_hook(self.hook, prepend=True, with_kwargs=True)


TOKENS = Fields()  # one array of integers, which stay integers


def columns_of(X):
    """Return a dict of tensors of one length of what has fields, or raise.

    Raises
    ------
    TypeError
        If a field is no array of plain numbers.
    ValueError
        If the fields differ in length, or hold NaN or infinity.
    """
    columns: dict[str, torch.Tensor] = {}
    for name, values in sorted(X.items()):
        try:
            if not isinstance(values, torch.Tensor):
                values = as_tensor(np.asarray(values))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"The field {name!r} is no array of numbers ({error}); expected arrays "
                "or tensors with one row per sample. Pad texts to one length: "
                "tokenizer(texts, padding=True, return_tensors='np')."
            ) from error
        if values.ndim < 1 or values.is_complex():
            raise TypeError(
                f"The field {name!r} has shape {tuple(values.shape)} and dtype "
                f"{values.dtype}; expected an array of real numbers with one row per "
                "sample."
            )
        if values.is_floating_point() and not values.isfinite().all():
            raise ValueError(f"The field {name!r} contains NaN or infinity.")
        columns[str(name)] = values.detach()
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"The fields differ in length: {lengths}; expected one row per sample in "
            "each."
        )
    if not lengths or not next(iter(lengths.values())):
        raise ValueError("Got 0 samples; a minimum of 1 is required.")
    return columns


def fields_of(columns):
    """Return the Fields of a dict of tensors."""
    shapes = tuple(tuple(values.shape[1:]) for values in columns.values())
    kinds = tuple(map(_kind, columns.values()))
    return Fields(tuple(columns), kinds, shapes if len(set(shapes)) > 1 else ())


def described(fields):
    """Say in a few words what an input holds."""
    if fields is None:
        return "images or rows of numbers"
    if fields == TOKENS:
        return "rows of integers"
    parts = zip(fields.names, fields.kinds, fields.shapes or ((),) * 99, strict=False)
    return "the fields " + ", ".join(
        f"{name} ({kind}{', of shape ' + str(shape) if shape else ''})"
        for name, kind, shape in parts
    )


def has_fields(X):
    """Return whether an input is a dict of arrays, such as of a tokenizer."""
    if getattr(X, "is_input_dict", False):
        return True
    if not isinstance(X, Mapping) or issparse(X) or not len(X):
        return False  # some sparse matrices are mappings
    return all(hasattr(values, "dtype") for values in X.values()) or (
        "input_ids" in X and isinstance(X["input_ids"], list)
    )


def _kind(values):
    if values.is_floating_point():
        return "float32"
    return "bool" if values.dtype == torch.bool else "int64"
