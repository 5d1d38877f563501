"""The embedded digits example: images, network, training script."""

import inspect
import pickle
import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score
from torch import nn

import reactood.datasets
from reactood.datasets import digits_classifier, load_digits_ood
from reactood.datasets._train_digits import main, train_digits

WEIGHTS = files("reactood.datasets").joinpath("digits_cnn.npz")
OOD_SIZES = {
    "held_out_digits": 354,
    "photo_china": 315,
    "photo_flower": 165,
    "letters": 468,
    "symbols": 360,
}


@pytest.fixture(scope="module")
def data():
    return load_digits_ood()


@pytest.fixture(scope="module")
def net():
    return digits_classifier()


def rows(images):
    return {image.tobytes() for image in images}


def images_of(data):
    return [data.X_train, data.X_test, *data.ood.values()]


def test_shapes_and_labels(data):
    assert data.X_train.shape == (724, 1, 8, 8)
    assert data.X_test.shape == (719, 1, 8, 8)
    for y in (data.y_train, data.y_test):
        assert y.dtype == np.int64
        assert set(y) == set(range(8))
    assert data.y_train.shape == (724,)
    assert data.y_test.shape == (719,)
    assert data.target_names.tolist() == list("01234567")
    assert all(name in data.DESCR for name in data.ood)


def test_ood_sets_are_large_enough(data):
    assert set(data.ood) == set(OOD_SIZES)
    for name, n in OOD_SIZES.items():
        found = data.ood[name].shape
        assert found[1:] == (1, 8, 8)
        # Photographs decode a little differently in other versions of Pillow.
        assert found[0] == pytest.approx(n, rel=0.05)


def test_all_images_have_the_grey_levels_of_the_digits(data):
    for images in images_of(data):
        assert images.dtype == np.float32
        assert images.flags.c_contiguous
        assert images.flags.writeable
        assert images.min() >= 0
        assert 0.8 < images.max() <= 1
        np.testing.assert_array_equal(images * 16, np.round(images * 16))
        assert np.ptp(images, axis=(1, 2, 3)).min() >= 0.25  # nothing plain


def test_no_image_occurs_twice(data):
    sets = [rows(images) for images in images_of(data)]
    assert sum(map(len, sets)) == len(set().union(*sets))
    for name, n in (("letters", 26), ("symbols", 20)):
        assert len(rows(data.ood[name])) == len(data.ood[name]) == n * 18


def test_the_halves_are_stratified(data):
    train, test = np.bincount(data.y_train), np.bincount(data.y_test)
    assert np.isin(train - test, (0, 1)).all()


def test_each_call_gives_the_same_values_in_new_arrays(data):
    again = load_digits_ood()
    for one, other in zip(images_of(data), images_of(again), strict=True):
        np.testing.assert_array_equal(one, other)
        assert not np.shares_memory(one, other)
    np.testing.assert_array_equal(data.y_train, again.y_train)
    np.testing.assert_array_equal(data.y_test, again.y_test)


def test_bunch_pickles(data):
    again = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(again.X_test, data.X_test)


def test_network_is_an_ordinary_module(net):
    assert isinstance(net, nn.Module)
    assert not any(module.training for module in net.modules())
    assert isinstance(net.fc, nn.Linear)
    assert list(net.modules())[-1] is net.fc
    assert (net.fc.in_features, net.fc.out_features) == (96, 8)
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert {value.device.type for value in net.state_dict().values()} == {"cpu"}


def test_network_is_accurate(data, net):
    # Measured: 718 of 719.
    with torch.no_grad():
        logits = net(torch.from_numpy(data.X_test))
    assert logits.shape == (719, 8)
    assert (logits.argmax(1).numpy() == data.y_test).mean() > 0.99


def test_penultimate_features_pass_a_relu(data, net):
    with torch.no_grad():
        x = torch.from_numpy(data.X_test)
        features = net.features(x)
        torch.testing.assert_close(net.fc(features), net(x))
    assert features.shape == (719, 96)
    assert features.min() == 0


def test_each_network_has_the_same_weights_of_its_own(net):
    other = digits_classifier()
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    with torch.no_grad():
        other.fc.weight.zero_()
    assert digits_classifier().fc.weight.any()


def test_network_leaves_the_random_state_alone():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    digits_classifier()
    load_digits_ood()
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)


def test_network_ignores_default_dtype_and_device():
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            net = digits_classifier()
    finally:
        torch.set_default_dtype(dtype)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert {p.device.type for p in net.parameters()} == {"cpu"}


def test_network_can_be_trained_further(data):
    net = digits_classifier().train()
    net(torch.from_numpy(data.X_train[:8])).sum().backward()
    assert net.fc.weight.grad is not None


def test_factory_and_network_pickle(net):
    assert pickle.loads(pickle.dumps(digits_classifier)) is digits_classifier
    assert not inspect.signature(digits_classifier).parameters
    again = pickle.loads(pickle.dumps(net))
    assert torch.equal(again.fc.weight, net.fc.weight)


def test_weights_file(net):
    assert len(WEIGHTS.read_bytes()) < 300_000
    with WEIGHTS.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    expected = net.state_dict()
    assert set(found) == set(expected)
    for name, array in found.items():
        assert not array.dtype.hasobject
        assert array.shape == tuple(expected[name].shape)
        assert torch.from_numpy(array).dtype == expected[name].dtype
        assert np.isfinite(array).all()


def test_react_gains_and_loses_where_the_description_says(data, net):
    def energy(features, clip):
        clipped = torch.from_numpy(np.minimum(features, clip))
        return logsumexp(net.fc(clipped).numpy(), axis=1)

    with torch.no_grad():
        train, test = (
            net.features(torch.from_numpy(x)).numpy()
            for x in (data.X_train, data.X_test)
        )
        clip = np.percentile(train, 90).astype(np.float32)
        gain = {}
        for name, images in data.ood.items():
            ood = net.features(torch.from_numpy(images)).numpy()
            is_id = np.repeat([1, 0], [len(test), len(ood)])
            with_clip, without = (
                roc_auc_score(is_id, np.r_[energy(test, c), energy(ood, c)])
                for c in (clip, np.inf)
            )
            gain[name] = 100 * (with_clip - without)
    # Measured: -0.06, 7.3, 11.8, 2.5, 3.9.
    assert -0.5 < gain["held_out_digits"] < 0.1
    assert gain["photo_china"] > 5
    assert gain["photo_flower"] > 8
    assert gain["letters"] > 1
    assert gain["symbols"] > 2


def test_training_script_runs_and_repeats(tmp_path, capsys):
    paths = [tmp_path / "one.npz", tmp_path / "other.npz"]
    state, n_threads = torch.get_rng_state(), torch.get_num_threads()
    for path in paths:
        main(["--epochs", "1", "--out", str(path)])
    assert "accuracy on X_test:" in capsys.readouterr().out
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == n_threads
    with np.load(paths[0], allow_pickle=False) as arrays:
        assert set(arrays.files) == set(digits_classifier().state_dict())


def test_another_seed_trains_another_network(data):
    X, y = data.X_train[:64], data.y_train[:64]
    one, other = (train_digits(X, y, epochs=1, seed=seed) for seed in (0, 1))
    assert not torch.equal(one.fc.weight, other.fc.weight)
    assert not one.training


def test_import_neither_loads_weights_nor_trains():
    code = (
        "import sys, numpy; numpy.load = None; import reactood.datasets; "
        "assert 'reactood.datasets._train_digits' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_there():
    for name in reactood.datasets.__all__:
        assert hasattr(reactood.datasets, name)


def test_the_drawing_script_makes_the_shipped_glyphs(tmp_path):
    from reactood.datasets import _draw_glyphs

    _draw_glyphs.main(["--out", str(tmp_path / "glyphs.npz")])
    shipped = load_digits_ood().ood
    with np.load(tmp_path / "glyphs.npz", allow_pickle=False) as drawn:
        assert sorted(drawn) == ["letters", "symbols"]
        for name, grey in drawn.items():
            # Another Pillow may draw other greys, here and there.
            assert np.abs(grey[:, None] / 16 - shipped[name]).mean() < 0.02
