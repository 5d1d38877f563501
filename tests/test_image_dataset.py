"""ImageDataset: a torch Dataset that scikit-learn slices without loading it."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.utils import resample
from torch.utils.data import Dataset

from reactood.datasets import ImageDataset


class Counting(Dataset):
    """Counts the items that it loads."""

    loaded = 0

    def __len__(self):
        return 10

    def __getitem__(self, index):
        self.loaded += 1
        return torch.full((1, 2, 2), float(index)), index


@pytest.mark.parametrize(
    "key",
    [
        slice(2, 7, 2),
        [3, 1, 1],
        np.array([9, 0]),
        np.arange(10) % 2 == 0,
        [True] * 5 + [False] * 5,
    ],
)
def test_slices_are_views(key):
    dataset = Counting()
    images = ImageDataset(dataset)
    part = images[key]
    expected = np.arange(10)[key]
    assert isinstance(part, ImageDataset)
    assert part.shape == (len(part),) == (len(expected),)
    assert dataset.loaded == 0
    assert [int(part[i][0, 0, 0]) for i in range(len(part))] == expected.tolist()
    assert int(part[[0]][0][0, 0, 0]) == expected[0]


def test_one_index_is_one_image():
    image = ImageDataset(Counting())[-1]
    torch.testing.assert_close(image, torch.full((1, 2, 2), 9.0))


def test_out_of_range():
    with pytest.raises(IndexError):
        ImageDataset(Counting())[10]


def test_scikit_learn_splits_without_loading():
    dataset = Counting()
    images, y = ImageDataset(dataset), np.arange(10) % 2
    train, test = train_test_split(images, random_state=0)
    assert len(train) + len(test) == 10
    assert len(resample(images, n_samples=4, random_state=0)) == 4
    assert len(list(StratifiedKFold(2).split(images, y))) == 2
    assert dataset.loaded == 0


def test_pickle_and_repr():
    images = pickle.loads(pickle.dumps(ImageDataset(Counting(), [1, 2])))
    assert repr(images) == "ImageDataset(Counting, n_samples=2)"


def test_no_indices_are_an_empty_view():
    images = ImageDataset(torch.rand(6, 1, 8, 8))
    for nothing in ([], np.array([]), np.array([], dtype=int)):
        assert len(images[nothing]) == 0


@pytest.mark.parametrize("path", ["folder", Path("folder")])
def test_a_path_is_no_dataset(path):
    with pytest.raises(TypeError, match=r"dataset is a path.*list_images\(folder\)"):
        ImageDataset(path)


def test_items_that_are_dicts_or_tuples_hold_one_image():
    pixels = torch.rand(3, 1, 8, 8)
    dicts = [{"label": 1, "image": x} for x in pixels]
    tuples = [(x, 1) for x in pixels]
    for items in (dicts, tuples, list(pixels)):
        images = ImageDataset(items)
        assert torch.equal(images[1], pixels[1])
        assert torch.equal(images[[0, 2]][1], pixels[2])
