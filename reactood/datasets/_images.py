"""ImageDataset, a torch Dataset that scikit-learn can slice, and list_images."""

import os

import numpy as np
from torch.utils.data import Dataset

from reactood._images._files import is_path
from reactood._images._kinds import folder_items
from reactood._images._pixels import image_in

__all__ = ["ImageDataset", "list_images"]


def list_images(folder):
    """List the image files of a folder in the order in which they are read.

    Wherever this package takes images, a folder means this list: row `i` of the result
    belongs to path `i`. Unlike the folder, the list can be sliced by scikit-learn.

    Parameters
    ----------
    folder : str, bytes or os.PathLike
        The folder. All folders below it are read, too, also through links, unless a
        link points to a folder that contains it. Names that start with a dot are
        ignored.

    Returns
    -------
    paths : list of pathlib.Path
        The image files, recognised by the suffix of a supported format (`.jpg`,
        `.png` and others, in upper or lower case). Each path starts with `folder`. They
        are sorted by the parts of their paths: `a/2.png` before `a-b/1.png`.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    OSError
        If a folder below it cannot be read.
    ValueError
        If `folder` is a file, or holds no image files.

    See Also
    --------
    reactood.TorchFeatureExtractor : Takes folders and lists of paths.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from PIL import Image
    >>> from reactood.datasets import list_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("2.png", "10.png", "1.jpg"):
    ...         Image.new("RGB", (8, 8)).save(pathlib.Path(folder, name))
    ...     [path.name for path in list_images(folder)]
    ['1.jpg', '10.png', '2.png']
    """
    if not is_path(folder):
        raise TypeError(
            f"folder is a {type(folder).__name__}; expected the path of a folder."
        )
    return folder_items(os.fspath(folder))


class ImageDataset(Dataset):
    """A view of a torch Dataset that scikit-learn can slice without loading it.

    scikit-learn splits data by indexing with arrays. It turns a plain torch Dataset
    into a list of `(image, label)` tuples, and so loads all images. An `ImageDataset`
    indexed with an integer returns one image. Indexed with a slice, a list or an array
    of indices, or a boolean mask, it returns another view. Labels are left out.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset
        A dataset with a length and integer indexing. Its items are images, or tuples or
        dicts that hold one: the first element of a tuple, or the value of a dict under
        `"image"` or another usual key.

    indices : array-like of int, default=None
        Indices of the items in the view, in this order; None for all items.

    Attributes
    ----------
    shape : tuple of int
        `(n_samples,)`.

    See Also
    --------
    reactood.TorchFeatureExtractor : Takes it, and any other kind of images.
    torch.utils.data.Subset : A similar view, which scikit-learn cannot slice.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> from reactood.datasets import ImageDataset
    >>> dataset = TensorDataset(torch.rand(6, 1, 8, 8), torch.arange(6))
    >>> images = ImageDataset(dataset)
    >>> images[[0, 2, 4]]
    ImageDataset(TensorDataset, n_samples=3)
    >>> images[0].shape
    torch.Size([1, 8, 8])
    """

    def __init__(self, dataset, indices=None):
        if isinstance(dataset, str | bytes | os.PathLike):
            raise TypeError(
                f"dataset is a path, {dataset!r}; expected a torch Dataset. For a "
                "folder of images, use list_images(folder)."
            )
        self.dataset = dataset
        self.indices = np.arange(len(dataset))
        if indices is not None:
            indices = np.asarray(indices)
            self.indices = self.indices[indices if indices.size else []]

    @property
    def shape(self):
        """The number of images, as a tuple of length 1."""
        return (len(self.indices),)

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, key):
        if isinstance(key, tuple):  # scikit-learn indexes with [rows, ...]
            key = key[0]
        if isinstance(key, np.ndarray) and not key.size:  # np.array([]) is of floats
            key = []
        picked = self.indices[key]
        if np.ndim(picked):
            return ImageDataset(self.dataset, picked)
        return image_in(self.dataset[int(picked)])

    def __repr__(self):
        name = type(self.dataset).__name__
        return f"ImageDataset({name}, n_samples={len(self)})"
