"""InputDict: a dict of arrays that scikit-learn can slice."""

import numpy as np
import torch

from reactood._utils._fields import columns_of

__all__ = ["InputDict"]


class InputDict:
    """A dict of arrays with one row per sample, which scikit-learn can slice.

    A tokenizer returns a dict of `input_ids`, `attention_mask` and the like. To
    scikit-learn, the length of a dict is the number of its keys, so that it cannot be
    split for cross-validation. An `InputDict` has one item per sample. Indexed with a
    slice, a list or an array of indices, or a boolean mask, it returns another
    `InputDict`; with an integer, a dict of one sample.

    Parameters
    ----------
    fields : dict or mapping of str to array-like or tensor
        The arguments of the network by name, such as a `BatchEncoding` of a tokenizer
        with `padding=True`. All have the same length.

    Attributes
    ----------
    shape : tuple of int
        `(n_samples,)`.

    See Also
    --------
    reactood.TorchFeatureExtractor : Takes it, and plain dicts of arrays.
    ImageDataset : A torch Dataset of images that scikit-learn can slice.

    Examples
    --------
    >>> import numpy as np
    >>> from reactood.datasets import InputDict
    >>> texts = InputDict(
    ...     {
    ...         "input_ids": np.array([[5, 8, 2], [5, 2, 0]]),
    ...         "attention_mask": np.array([[1, 1, 1], [1, 1, 0]]),
    ...     }
    ... )
    >>> texts[[1]]
    InputDict(attention_mask, input_ids, n_samples=1)
    """

    is_input_dict = True  # what the extractor knows it by

    def __init__(self, fields):
        self.fields = columns_of(fields)

    @property
    def shape(self):
        """The number of samples, as a tuple of length 1."""
        return (len(self),)

    def items(self):
        """Return the names and the tensors.

        Returns
        -------
        items : iterable of (str, torch.Tensor)
            As those of a dict.
        """
        return self.fields.items()

    def __len__(self):
        return len(next(iter(self.fields.values())))

    def __getitem__(self, key):
        if isinstance(key, tuple):  # scikit-learn indexes with [rows, ...]
            key = key[0]
        picked = np.arange(len(self))[key]
        if not np.ndim(picked):
            row = int(picked)
            return {name: values[row] for name, values in self.fields.items()}
        rows = torch.from_numpy(np.array(picked, dtype=np.int64))
        part = object.__new__(type(self))  # an empty one too, as of any array
        part.fields = {
            name: values[rows.to(values.device)] for name, values in self.fields.items()
        }
        return part

    def __repr__(self):
        return f"InputDict({', '.join(self.fields)}, n_samples={len(self)})"
