"""TorchFeatureExtractor: features, containers, and a model that is left alone."""

import contextlib
import copy
import functools
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.error import URLError

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from conftest import CLASSIFIERS, conv_net
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
)
from torchvision import transforms
from torchvision.transforms import v2

import reactood._networks._engines
import reactood._networks._forward
import reactood._networks._frozen
from reactood import ReActDetector, TorchFeatureExtractor, make_react_pipeline
from reactood.baselines import clip_layer, make_odin_pipeline
from reactood.datasets import ImageDataset

TIMM = ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "efficientnet_b0"]


def body(net):
    """Everything of conv_net before its last layer, in eval mode."""
    return nn.Sequential(*list(net)[:-1]).eval()


def reference(net, X):
    training = [m.training for m in net.modules()]
    with torch.no_grad():
        features = body(net)(torch.as_tensor(X).float()).numpy()
    for module, mode in zip(net.modules(), training, strict=True):
        module.training = mode
    return features


@pytest.fixture
def X(rng):
    return rng.normal(size=(7, 3, 9, 9)).astype(np.float32)


# --- the features ------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_penultimate_features_of_torchvision_models(name):
    size = {"inception_v3": 96, "vit_b_16": 224}.get(name, 64)
    X = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    extractor = TorchFeatureExtractor(name, weights=None).fit(X)
    features = torch.from_numpy(extractor.transform(X))
    weight, bias = map(torch.from_numpy, extractor.head_)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)  # the same random weights as the extractor's
        kwargs = {"init_weights": True} if name in ("inception_v3", "googlenet") else {}
        model = torchvision.models.get_model(name, weights=None, **kwargs).eval()
        logits = model(X)
    ours = features @ weight.T + bias
    assert features.dtype == torch.float32
    assert features.shape == (2, weight.shape[1]) == (2, extractor.n_features_out_)
    assert (ours - logits).abs().max() <= 1e-4 * logits.abs().max()


@pytest.mark.parametrize("name", TIMM)
def test_penultimate_features_of_timm_models(name):
    timm = pytest.importorskip("timm")
    X = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    model = timm.create_model(name, pretrained=False).eval()
    with torch.no_grad():
        logits = model(X)
        expected = model.forward_head(model.forward_features(X), pre_logits=True)
    extractor = TorchFeatureExtractor(model).fit(X)
    features = torch.from_numpy(extractor.transform(X))
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    weight, bias = map(torch.from_numpy, extractor.head_)
    ours = features @ weight.T + bias
    assert (ours - logits).abs().max() <= 1e-4 * logits.abs().max()
    by_name = TorchFeatureExtractor(f"timm/{name}", weights=None).fit(X)
    assert by_name.n_features_out_ == extractor.n_features_out_


def test_equal_to_the_body_of_the_network(net, X):
    features = TorchFeatureExtractor(net).fit_transform(X)
    np.testing.assert_allclose(features, reference(net, X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100, "auto"])
def test_the_batch_size_does_not_matter(net, X, batch_size):
    features = TorchFeatureExtractor(net, batch_size=batch_size).fit_transform(X)
    np.testing.assert_allclose(features, reference(net, X), rtol=1e-5, atol=1e-6)


def test_any_layer_by_its_dotted_name():
    X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = torchvision.models.resnet18(weights=None).eval()
        maps = nn.Sequential(*list(model.children())[:7])(X)
    extractor = TorchFeatureExtractor("resnet18", weights=None, layer="layer3")
    features = extractor.fit_transform(X)
    np.testing.assert_allclose(features, maps.mean((2, 3)), rtol=1e-4, atol=1e-6)
    inner = extractor.set_params(layer="layer3.0.conv1").fit_transform(X)
    assert inner.shape == (2, 256)
    with pytest.raises(AttributeError, match="no head_ for them"):
        _ = extractor.head_


def test_layers_of_transformers_are_averaged_over_positions():
    X = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    vit = TorchFeatureExtractor("vit_b_16", weights=None, layer="encoder")
    assert vit.fit_transform(X).shape == (1, 768)
    swin = TorchFeatureExtractor("swin_t", weights=None, layer="features.7")
    assert swin.fit_transform(X).shape == (1, 768)


def test_models_that_return_an_object_with_logits(net, X):
    class Output(dict):
        def __init__(self, logits):
            super().__init__(logits=logits)
            self.logits = logits

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return Output(self.net(x))

    features = TorchFeatureExtractor(Wrapped()).fit_transform(X)
    np.testing.assert_allclose(features, reference(net, X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("bfloat16", 2e-2), ("float16", 2e-3)]
)
def test_lower_precision(net, X, precision, tolerance):
    features = TorchFeatureExtractor(net, precision=precision).fit_transform(X)
    expected = reference(net, X)
    assert features.dtype == np.float32
    assert not np.array_equal(features, expected)
    assert np.abs(features - expected).max() <= tolerance * np.abs(expected).max()


# --- the user's model --------------------------------------------------------------


def state_of(module, X):
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        output = copy.deepcopy(module)(torch.from_numpy(X))
    return {
        **{k: v.clone() for k, v in module.state_dict().items()},
        "output": output,
        "modes": [m.training for m in module.modules()],
        "grads": [p.requires_grad for p in module.parameters()],
        "hooks": [
            len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()
        ],
        "ids": [id(p) for p in module.parameters()],
        "devices": [p.device for p in module.parameters()],
    }


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layer", [None, "2"])
@pytest.mark.parametrize("factory", [True, False])
def test_the_module_is_left_bit_identical(net, X, training, layer, factory):
    net.train(training)
    net[0].register_forward_hook(unchanged)
    net[0].weight.requires_grad_(False)
    before = state_of(net, X)
    model = functools.partial(returned, net) if factory else net
    extractor = TorchFeatureExtractor(model, layer=layer, precision="bfloat16")
    extractor.fit(X)
    extractor.transform(X)
    assert layer is not None or extractor.head_[0].shape == (4, 8)
    pickle.loads(pickle.dumps(extractor)).transform(X)
    after = state_of(net, X)
    for key, value in before.items():
        same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
        assert same(value, after[key]), key


@pytest.mark.parametrize(
    ("engine", "kind"), [("eager", "name"), ("eager", "module"), ("openvino", "module")]
)
def test_threads_that_start_one_extractor_at_once(engine, kind, rng, monkeypatch):
    if engine == "openvino":
        pytest.importorskip("openvino")
    X = rng.normal(size=(6, 3, 32, 32)).astype(np.float32)
    model = "resnet18" if kind == "name" else conv_net
    fitted = TorchFeatureExtractor(model, weights=None, engine=engine).fit(X)
    expected = fitted.transform(X)
    extractor = pickle.loads(pickle.dumps(fitted))  # without an engine, and weights
    built = []

    def slow(*args):
        built.append(1)
        time.sleep(0.2)
        return reactood._networks._engines.make_engine(*args)

    monkeypatch.setattr("reactood._networks._frozen.make_engine", slow)
    together = threading.Barrier(4)

    def run():
        together.wait()
        return [extractor.transform(X), extractor.transform(X[:3])]

    with ThreadPoolExecutor(4) as pool:
        results = [f.result() for f in [pool.submit(run) for _ in range(4)]]
    few = fitted.transform(X[:3])
    for all_rows, some in results:
        np.testing.assert_array_equal(all_rows, expected)
        np.testing.assert_array_equal(some, few)
    assert len(built) == 1
    assert extractor._frozen._engine.backbone is extractor.model_


@pytest.mark.parametrize("engine", ["eager", "openvino"])
def test_threads_that_start_an_extractor_each(engine, rng):
    if engine == "openvino":
        pytest.importorskip("openvino")
    X = rng.normal(size=(6, 3, 12, 12)).astype(np.float32)
    extractors = [
        TorchFeatureExtractor(functools.partial(conv_net, width=w), engine=engine)
        for w in (4, 5, 6, 7)
    ]
    expected = [clone(extractor).fit_transform(X) for extractor in extractors]
    together = threading.Barrier(4)

    def run(extractor):
        together.wait()
        return extractor.fit(X).transform(X)

    with ThreadPoolExecutor(4) as pool:
        for ours, theirs in zip(pool.map(run, extractors), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def unchanged(module, args, output):
    """Do nothing, as a hook."""


def returned(module):
    return module


def test_two_extractors_on_one_module_are_independent(net, X):
    a = TorchFeatureExtractor(net).fit(X)
    before = a.transform(X)
    b = TorchFeatureExtractor(net, layer="0").fit(X)
    b.transform(X)
    with torch.no_grad():
        net[0].weight.add_(1)
    np.testing.assert_array_equal(a.transform(X), before)
    del b
    np.testing.assert_array_equal(a.transform(X), before)


def test_the_random_state_is_left_alone(X):
    before = torch.get_rng_state()
    TorchFeatureExtractor("resnet18", weights=None).fit(X)
    TorchFeatureExtractor(conv_net).fit_transform(X)
    TorchFeatureExtractor(conv_net).fit_transform(list(X))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unseeded_factory_gives_the_same_weights_each_time(X):
    a, b = (TorchFeatureExtractor(conv_net).fit_transform(X) for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_model_is_headless_and_frozen(net, X):
    model = TorchFeatureExtractor(net).fit(X).model_
    assert not any(m.training for m in model.modules())
    np.testing.assert_allclose(
        model(torch.from_numpy(X)).detach(), reference(net, X), rtol=1e-5, atol=1e-6
    )


class InPlace(nn.Module):
    """Normalises its input in place, as careless models do."""

    def __init__(self):
        super().__init__()
        self.net = conv_net()

    def forward(self, x):
        x -= 0.5
        x /= 0.25
        return self.net(x)


@pytest.mark.parametrize("layer", [None, "net.2"])
def test_models_that_work_in_place_do_not_touch_the_images(X, layer, tmp_path):
    np.save(tmp_path / "X.npy", X)
    memmap = np.load(tmp_path / "X.npy", mmap_mode="r")
    expected = TorchFeatureExtractor(conv_net, layer=layer and "2").fit_transform(
        (X - 0.5) / 0.25
    )
    before = X.copy()
    for images in (X, memmap, torch.from_numpy(X), list(torch.from_numpy(X))):
        extractor = TorchFeatureExtractor(InPlace, layer=layer)
        for _ in range(2):
            np.testing.assert_allclose(
                extractor.fit_transform(images), expected, rtol=1e-4, atol=1e-5
            )
    np.testing.assert_array_equal(X, before)


def test_a_factory_of_a_module_that_cannot_be_copied(net, X):
    net.cached = net[0].weight * 2
    with pytest.raises(ValueError, match="a function that builds a new module"):
        TorchFeatureExtractor(lambda: net).fit(X)
    assert net.training and not any(m._forward_pre_hooks for m in net.modules())

    def fresh():
        module = conv_net()
        module.cached = module[0].weight * 2
        return module

    assert TorchFeatureExtractor(fresh).fit_transform(X).shape == (7, 8)


class HeadTwice(nn.Module):
    """Calls its head on two vectors and returns the second answer."""

    def __init__(self):
        super().__init__()
        self.body, self.mix = nn.Sequential(*list(conv_net())[:-1]), nn.Linear(8, 8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        h = self.body(x)
        return self.fc(self.mix(h) + self.fc(h).mean())


def test_a_head_or_a_layer_that_runs_twice(X):
    with pytest.raises(ValueError, match="'fc' takes part more than once"):
        TorchFeatureExtractor(HeadTwice).fit(X)
    with pytest.raises(ValueError, match="layer='fc' runs 2 times"):
        TorchFeatureExtractor(HeadTwice, layer="fc").fit(X)
    assert TorchFeatureExtractor(HeadTwice, layer="mix").fit(X).n_features_out_ == 8


class TokensFirst(nn.Module):
    def forward(self, x):
        return x.flatten(2).permute(2, 0, 1)


def test_features_must_have_one_row_per_image(X):
    model = nn.Sequential(TokensFirst(), nn.Identity(), nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(ValueError, match="expected one row per input"):
        TorchFeatureExtractor(model, layer="1").fit(X)


def test_images_that_depend_on_each_other_warn(net, X):
    net[1] = nn.BatchNorm2d(8, track_running_stats=False)
    with pytest.warns(UserWarning, match="change with the images beside it"):
        TorchFeatureExtractor(net).fit(X)


def test_a_proof_on_one_image_does_not_stand_for_more(net, X):
    net[1] = nn.BatchNorm2d(8, track_running_stats=False)
    TorchFeatureExtractor(net).fit(X[:1])  # shows nothing
    with pytest.warns(UserWarning, match="change with the images beside it"):
        TorchFeatureExtractor(net).fit(X)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_models_of_another_precision_run_in_float32(net, X, dtype):
    features = TorchFeatureExtractor(copy.deepcopy(net).to(dtype)).fit_transform(X)
    np.testing.assert_allclose(features, reference(net, X), rtol=1e-2, atol=1e-3)


def test_data_parallel_is_unwrapped(net, X):
    features = TorchFeatureExtractor(nn.DataParallel(net)).fit_transform(X)
    np.testing.assert_allclose(features, reference(net, X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "layer", "size", "width"),
    [
        ("resnet18", "layer1", (256, 192), 64),  # 64 channels, maps of 64 x 48
        ("swin_t", "features.7", (224, 160), 768),  # channels last
        ("vgg11", "features", (64, 96), 512),
    ],
)
def test_channels_are_found_whatever_the_shape_of_the_image(name, layer, size, width):
    X = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    extractor = TorchFeatureExtractor(name, weights=None, layer=layer).fit(X)
    assert extractor.n_features_out_ == width
    assert pickle.loads(pickle.dumps(extractor)).transform(X).shape == (1, width)


class Sequences(nn.Module):
    """A convolutional network for sequences of one length, or of any."""

    def __init__(self, length=None, size=16):
        super().__init__()
        self.length = length
        self.conv, self.norm = nn.Conv1d(2, size, 3, padding=1), nn.BatchNorm1d(size)
        self.act, self.pool = nn.ReLU(), nn.MaxPool1d(2)
        self.head = nn.Linear(size, 3)

    def forward(self, x):
        assert self.length in (None, x.shape[-1])
        return self.head(self.pool(self.act(self.norm(self.conv(x)))).mean(-1))


class Tokens(nn.Module):
    """A transformer for sequences (n, tokens, channels)."""

    def __init__(self, length=None):
        super().__init__()
        self.length = length
        self.embed, self.act = nn.Linear(5, 16), nn.GELU()
        self.block = nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x):
        assert self.length in (None, x.shape[1])
        return self.head(self.norm(self.block(self.act(self.embed(x)))).mean(1))


def assert_averages(net, layer, X, *, axis):
    """The features of a layer are its output, averaged over the axis of positions."""
    seen = []
    net.get_submodule(layer).register_forward_hook(lambda *args: seen.append(args[-1]))
    with torch.no_grad():
        net(torch.from_numpy(X))
    features = TorchFeatureExtractor(net, layer=layer).fit_transform(X)
    np.testing.assert_allclose(features, seen[0].mean(axis), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [None, 96])
@pytest.mark.parametrize("layer", ["conv", "norm", "act", "pool"])
def test_sequences_with_channels_in_front_are_averaged_over_positions(
    layer, length, rng
):
    X = rng.normal(size=(20, 2, 96)).astype(np.float32)
    assert_averages(Sequences(length).eval(), layer, X, axis=2)


@pytest.mark.parametrize("length", [None, 16])
@pytest.mark.parametrize("layer", ["embed", "act", "block", "norm"])
def test_sequences_with_channels_last_are_averaged_over_positions(layer, length, rng):
    X = rng.normal(size=(20, 16, 5)).astype(np.float32)  # as many tokens as channels
    assert_averages(Tokens(length).eval(), layer, X, axis=1)


def test_channels_that_nothing_shows_are_an_error(rng):
    X = rng.normal(size=(4, 12)).astype(np.float32)
    net = nn.Sequential(
        nn.Linear(12, 12), nn.Unflatten(1, (3, 4)), nn.Flatten(), nn.Linear(12, 2)
    )
    with pytest.raises(
        ValueError, match=r"layer='1' returns .*\(4, 3, 4\), and nothing shows whether"
    ):
        TorchFeatureExtractor(net, layer="1").fit(X)


def test_a_model_of_maps_with_channels_last_and_one_size(rng):
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.cut, self.mix = nn.Conv2d(3, 6, 4, 4), nn.LayerNorm(6)
            self.act, self.head = nn.GELU(), nn.Linear(6, 2)

        def forward(self, x):
            assert x.shape[-2:] == (12, 12)
            return self.head(
                self.act(self.mix(self.cut(x).movedim(1, -1))).mean((1, 2))
            )

    X = rng.normal(size=(4, 3, 12, 12)).astype(np.float32)
    assert TorchFeatureExtractor(Mixer, layer="act").fit_transform(X).shape == (4, 6)


class Hooked(nn.Module):
    """Has attributes that are called like torch's own."""

    def __init__(self):
        super().__init__()
        self.net = conv_net()
        self.hooks, self.n_hooks, self._hooks_on = ["a"], 3, True

    def forward(self, x):
        return self.net(x)


def test_attributes_with_hooks_in_their_name(X, tmp_path):
    model = Hooked()
    model._my_hooks = {"a": 1}
    extractor = TorchFeatureExtractor(model, cache=tmp_path)
    assert extractor.fit_transform(X).shape == (7, 8)
    identities = {extractor._frozen.identity}
    model.hooks = ["b"]
    identities.add(extractor.fit(X)._frozen.identity)
    assert len(identities) == 2


# --- what the program has set ---------------------------------------------------------


@contextlib.contextmanager
def another_default(setting):
    """Set another default device or dtype of torch."""
    if setting == "float64":
        torch.set_default_dtype(torch.float64)
    else:
        torch.set_default_device(setting)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


class Careless(nn.Module):
    """Makes a tensor on whatever device is the default."""

    def __init__(self):
        super().__init__()
        self.net = conv_net()

    def forward(self, x):
        return self.net(x + torch.full((9,), 0.5, dtype=x.dtype))


def deterministic():
    net = Careless()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    return net


def scores_of_all_kinds(X, pictures):
    images = [Image.fromarray(p) for p in pictures]
    steps = transforms.Compose(
        [transforms.PILToTensor(), transforms.ConvertImageDtype(torch.float32)]
    )
    loader = DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=4)
    features = TorchFeatureExtractor(deterministic).fit_transform(X)
    detector = ReActDetector(lambda: nn.Sequential(deterministic().net[-1]))
    return [
        features,
        TorchFeatureExtractor(deterministic).fit_transform(loader),
        TorchFeatureExtractor(deterministic, preprocess=steps).fit_transform(images),
        TorchFeatureExtractor(deterministic, layer="net.0").fit_transform(X),
        clip_layer(TorchFeatureExtractor(deterministic), "net.0", X).fit_transform(X),
        make_react_pipeline(deterministic).fit(X).score_samples(X),
        make_odin_pipeline(deterministic, noise=0.1).fit(X).score_samples(X),
        detector.fit(features).score_samples(features),
    ]


@pytest.mark.parametrize("setting", ["cpu", "meta", "float64"])
def test_the_default_device_and_dtype_change_nothing(setting, X, pictures):
    expected = scores_of_all_kinds(X, pictures)
    with another_default(setting):
        got = scores_of_all_kinds(X, pictures)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_failed_refit_leaves_the_first_fit(net, X):
    extractor = TorchFeatureExtractor(net).fit(X)
    before = extractor.transform(X)
    with pytest.raises(ValueError, match="does not exist"):
        extractor.set_params(layer="nowhere").fit(X)
    np.testing.assert_array_equal(extractor.transform(X), before)
    assert extractor.head_[0].shape == (4, 8)


def test_a_pickle_holds_tensors_of_the_cpu_alone(net, X):
    extractor = TorchFeatureExtractor(net).fit(X)
    extractor._frozen._backbone.to("meta")
    with pytest.raises(NotImplementedError, match="meta"):
        pickle.dumps(extractor)  # that is, it copies towards the CPU
    state = TorchFeatureExtractor(net).fit(X)._frozen.__getstate__()
    assert {p.device.type for p in state["_backbone"].parameters()} == {"cpu"}


# --- what X may be -----------------------------------------------------------------


def to_tensor_and_shrink(image):
    return v2.functional.to_dtype(
        v2.functional.to_image(image.resize((9, 9))), torch.float32, scale=True
    )


@pytest.fixture
def pictures(rng):
    """The same uint8 images, in every container."""
    return rng.integers(0, 256, (5, 9, 9, 3), dtype=np.uint8)


def containers(pixels, folder):
    images = [Image.fromarray(p) for p in pixels]
    paths = []
    for i, image in enumerate(images):
        paths.append(folder / f"{i}.png")
        image.save(paths[-1])
    strings = [str(p) for p in paths]
    floats = torch.from_numpy(pixels).movedim(-1, 1) / 255
    labelled = TensorDataset(floats, torch.arange(len(pixels)))
    raw = [(image, 1) for image in images]
    return {
        "float array": floats.numpy(),
        "float64 array": floats.double().numpy(),
        "float tensor": floats,
        "half tensor": floats.half(),
        "uint8 channels last": pixels,
        "uint8 channels first": np.ascontiguousarray(np.moveaxis(pixels, -1, 1)),
        "uint8 tensor": torch.from_numpy(pixels),
        "PIL images": images,
        "list of arrays": list(pixels),
        "list of float tensors": list(floats),
        "paths": paths,
        "strings": strings,
        "array of strings": np.array(strings),
        "object array": np.array(paths, dtype=object),
        "Series": pd.Series(strings, index=range(10, 15)),
        "Series of Paths": pd.Series(paths),
        "DataFrame": pd.DataFrame({"path": strings}),
        "folder": folder,
        "folder string": str(folder),
        "Dataset": labelled,
        "ImageDataset": ImageDataset(labelled),
        "dataset of PIL": ListDataset(raw),
        "dataset with masks": ListDataset([(f, f[:1]) for f in floats]),
        "dataset of dicts": ListDataset([{"image": i, "label": 0} for i in images]),
        "DataLoader": DataLoader(labelled, batch_size=2),
        "DataLoader of dicts": DataLoader(
            ListDataset([{"pixel_values": f} for f in floats]), batch_size=2
        ),
        "DataLoader of uint8": DataLoader(ListDataset(list(torch.from_numpy(pixels)))),
        "DataLoader of an iterable": DataLoader(Stream(list(floats)), batch_size=2),
    }


class ListDataset(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def test_every_container_gives_the_same_features(net, pictures, tmp_path):
    expected = reference(net, np.moveaxis(pictures, -1, 1) / np.float32(255))
    extractor = TorchFeatureExtractor(net, preprocess=None, batch_size=2)
    for name, X in containers(pictures, tmp_path).items():
        tolerance = 1e-2 if "half" in name else 1e-5
        features = extractor.fit_transform(X)
        assert features.shape == expected.shape, name
        np.testing.assert_allclose(features, expected, tolerance, 1e-5, err_msg=name)
        np.testing.assert_array_equal(extractor.transform(X), features, err_msg=name)


def test_worker_processes_keep_the_order(net, photos):
    kwargs = {"preprocess": to_tensor_and_shrink, "batch_size": 2}
    alone = TorchFeatureExtractor(net, **kwargs).fit_transform(photos)
    together = TorchFeatureExtractor(net, num_workers=2, **kwargs).fit_transform(photos)
    np.testing.assert_array_equal(alone, together)


def test_grey_and_transparent_images_become_rgb(tmp_path, rng):
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    extractor = TorchFeatureExtractor("resnet18", weights=None)
    grey = Image.fromarray(rng.integers(0, 256, (40, 50), dtype=np.uint8))
    images = [grey, grey.convert("RGBA"), grey.convert("P"), grey.convert("CMYK")]
    features = extractor.fit_transform(images)
    expected = extractor.transform(
        torch.stack([weights.transforms()(i.convert("RGB")) for i in images])
    )
    np.testing.assert_allclose(features, expected, rtol=1e-5)
    one_channel = TorchFeatureExtractor(conv_net(1), preprocess=None)
    assert one_channel.fit_transform([grey]).shape == (1, 8)
    assert one_channel.fit_transform(np.asarray(grey)[None]).shape == (1, 8)


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16"])
def test_files_are_preprocessed_as_torchvision_does(name, photos):
    """The largest difference between features is 0: the transform is the same."""
    transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    extractor = TorchFeatureExtractor(name, weights=None, decoder="pillow")
    features = extractor.fit_transform(photos)
    tensors = torch.stack([transforms(Image.open(p).convert("RGB")) for p in photos])
    difference = np.abs(features - extractor.transform(tensors))
    assert difference.max() == 0.0


def test_a_timm_model_brings_its_transform(photos):
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18", pretrained=False)
    extractor = TorchFeatureExtractor(model, decoder="pillow")
    features = extractor.fit_transform(photos)
    transform = timm.data.create_transform(
        **timm.data.resolve_model_data_config(model), is_training=False
    )
    tensors = torch.stack([transform(Image.open(p).convert("RGB")) for p in photos])
    np.testing.assert_allclose(features, extractor.transform(tensors), rtol=1e-5)


def test_16_bit_images_keep_their_range(tmp_path):
    ramp = np.linspace(0, 65535, 1024).reshape(32, 32).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    extractor = TorchFeatureExtractor(conv_net, preprocess=None, layer="3")
    narrow = Image.fromarray(np.rint(ramp / 257).astype(np.uint8)).convert("RGB")
    for images in ([tmp_path / "ramp.png"], tmp_path):
        np.testing.assert_array_equal(
            extractor.fit_transform(images), extractor.transform([narrow])
        )


def test_palettes_are_looked_up_without_a_transform(rng):
    image = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    palette = image.quantize(16)
    extractor = TorchFeatureExtractor(conv_net, preprocess=None)
    np.testing.assert_array_equal(
        extractor.fit_transform([palette, image.convert("CMYK")]),
        extractor.transform(
            [palette.convert("RGB"), image.convert("CMYK").convert("RGB")]
        ),
    )


def test_a_folder_with_links_and_hidden_files(net, photos, tmp_path):
    folder = tmp_path / "links"
    (folder / "deep" / ".hidden").mkdir(parents=True)
    (folder / "all").symlink_to(photos[0].parents[1])
    (folder / "deep" / "round").symlink_to(folder)
    for name in ("deep/.secret.png", "deep/.hidden/a.png", "deep/notes.txt"):
        (folder / name).write_bytes(photos[0].read_bytes())
    (folder / "deep" / "UPPER.PNG").write_bytes(photos[1].read_bytes())
    extractor = TorchFeatureExtractor(net, preprocess=to_tensor_and_shrink)
    expected = extractor.fit_transform([*photos, photos[1]])
    np.testing.assert_array_equal(extractor.transform(folder), expected)


def test_a_batch_that_is_a_list_of_images(net, X):
    loader = DataLoader(list(torch.from_numpy(X)), batch_size=3, collate_fn=list)
    features = TorchFeatureExtractor(net).fit_transform(loader)
    np.testing.assert_allclose(features, reference(net, X), rtol=1e-5, atol=1e-6)


def test_a_dataset_that_is_none_of_torchs_and_a_column_of_paths(net, X, photos):
    class Table:  # as in the datasets library
        def __len__(self):
            return len(X)

        def __getitem__(self, index):
            return {"image": X[index], "label": 0}

    extractor = TorchFeatureExtractor(net, preprocess=to_tensor_and_shrink)
    np.testing.assert_allclose(
        extractor.fit_transform(Table()),
        reference(net, X),
        rtol=1e-5,
        atol=1e-6,
    )
    column = np.array([[str(path)] for path in photos])
    np.testing.assert_array_equal(
        extractor.transform(column), extractor.transform(photos)
    )


def test_the_number_of_worker_processes_is_used(net, photos, monkeypatch):
    seen = []
    real = DataLoader.__init__

    def init(self, *args, **kwargs):
        seen.append(kwargs["num_workers"])
        real(self, *args, **kwargs)

    monkeypatch.setattr(DataLoader, "__init__", init)
    extractor = TorchFeatureExtractor(
        net, preprocess=to_tensor_and_shrink, num_workers=2
    )
    extractor.fit_transform(photos)
    assert seen == [2]


# --- inside scikit-learn -----------------------------------------------------------


def test_pandas_output_and_names(net, X):
    extractor = TorchFeatureExtractor(net).set_output(transform="pandas")
    frame = clone(extractor).fit_transform(X)
    assert list(frame) == [f"torchfeatureextractor{i}" for i in range(8)]
    assert (frame.dtypes == np.float32).all()
    assert len(frame) == 7


def test_a_pandas_column_keeps_its_index(net, photos):
    column = pd.DataFrame({"path": map(str, photos)}, index=list("abcdef"))
    extractor = TorchFeatureExtractor(net, preprocess=to_tensor_and_shrink)
    frame = extractor.set_output(transform="pandas").fit_transform(column)
    assert frame.index.tolist() == list("abcdef")


def test_n_features_in_is_the_number_of_channels(net, X, photos):
    extractor = TorchFeatureExtractor(net, preprocess=to_tensor_and_shrink).fit(X)
    assert extractor.n_features_in_ == 3
    with pytest.raises(ValueError, match="X has 1 features, but"):
        extractor.transform(X[:, :1])
    assert extractor.transform(np.zeros((2, 3, 20, 31))).shape == (2, 8)


def test_clones_of_names_and_factories_are_cheap():
    for model in ("resnet18", conv_net, functools.partial(conv_net, 3, width=4)):
        assert len(pickle.dumps(clone(TorchFeatureExtractor(model)))) < 1000


def test_a_pickle_leaves_out_the_weights_of_a_named_model(X):
    extractor = TorchFeatureExtractor("resnet18", weights=None)
    features = extractor.fit_transform(X)
    pickled = pickle.dumps(extractor)
    assert len(pickled) < 5000
    loaded = pickle.loads(pickled)
    again = pickle.loads(pickle.dumps(loaded))  # before its weights are back
    for other in (loaded, again):
        np.testing.assert_array_equal(other.transform(X), features)
        assert other.head_[0].shape == (1000, 512)


def test_a_pickle_notices_other_weights(X, monkeypatch):
    loaded = pickle.loads(
        pickle.dumps(TorchFeatureExtractor("resnet18", weights=None).fit(X))
    )
    real = reactood._networks._frozen.build_network

    def build(model, weights):
        network, transform = real(model, weights)
        network.layer1[0].bn1.bias.data += 1e-3
        return network, transform

    monkeypatch.setattr(reactood._networks._frozen, "build_network", build)
    with pytest.raises(ValueError, match="has other weights here"):
        loaded.transform(X)


@pytest.mark.parametrize("layer", [None, "2"])
def test_a_pickle_keeps_weights_that_only_it_has(net, X, layer):
    for model in (net, functools.partial(conv_net, 3)):
        extractor = TorchFeatureExtractor(model, layer=layer).fit(X)
        loaded = pickle.loads(pickle.dumps(extractor))
        np.testing.assert_array_equal(loaded.transform(X), extractor.transform(X))


def test_two_processes(net, X):
    extractor = TorchFeatureExtractor(net).fit(X)
    halves = joblib.Parallel(n_jobs=2)(
        joblib.delayed(extractor.transform)(part) for part in (X[:3], X[3:])
    )
    np.testing.assert_allclose(
        np.concatenate(halves), extractor.transform(X), rtol=1e-5, atol=1e-6
    )


def test_progress_bar(net, X, capsys):
    TorchFeatureExtractor(net, verbose=True, batch_size=2).fit_transform(X)
    assert "7/7" in capsys.readouterr().err


# --- memory and devices ------------------------------------------------------------


class Greedy(nn.Module):
    """Runs out of memory with more than ``most`` images at a time."""

    def __init__(self, most, message="CUDA out of memory. Tried to allocate 2 GiB"):
        super().__init__()
        self.most, self.message = most, message
        self.net = conv_net()

    def forward(self, x):
        if len(x) > self.most:
            raise RuntimeError(self.message)
        return self.net(x)


@pytest.mark.parametrize(
    "message",
    ["CUDA out of memory. Tried", "MPS backend out of memory", "can't allocate memory"],
)
def test_automatic_batches_halve_when_memory_runs_out(rng, message, monkeypatch):
    monkeypatch.setitem(reactood._networks._forward.BATCH_SIZES, "cpu", 50)
    X = rng.normal(size=(101, 3, 5, 5)).astype(np.float32)
    roomy = TorchFeatureExtractor(functools.partial(Greedy, 1000)).fit_transform(X)
    scarce = TorchFeatureExtractor(functools.partial(Greedy, 7, message))
    np.testing.assert_allclose(scarce.fit_transform(X), roomy, rtol=1e-5, atol=1e-6)


def test_a_smaller_batch_size_stays(rng):
    X = rng.normal(size=(64, 3, 5, 5)).astype(np.float32)
    extractor = TorchFeatureExtractor(functools.partial(Greedy, 8)).fit(X)
    sizes = []
    extractor.model_.network.register_forward_pre_hook(
        lambda module, args: sizes.append(len(args[0]))
    )
    extractor.transform(X)
    assert sizes == [32, 16] + [8] * 8


def test_a_given_batch_size_does_not_halve(rng):
    X = rng.normal(size=(20, 3, 5, 5))
    extractor = TorchFeatureExtractor(functools.partial(Greedy, 7), batch_size=10)
    with pytest.raises(RuntimeError, match=r"batch of 10 .*Use batch_size='auto'"):
        extractor.fit_transform(X)
    extractor = TorchFeatureExtractor(functools.partial(Greedy, 4), batch_size="auto")
    extractor.fit(X)
    extractor.model_.network.most = 0
    with pytest.raises(RuntimeError, match="One input alone does not fit"):
        extractor.transform(X)


def test_other_errors_are_not_taken_for_memory(rng):
    class Broken(Greedy):
        pass

    X = rng.normal(size=(20, 3, 5, 5))
    extractor = TorchFeatureExtractor(functools.partial(Broken, 4, "no such kernel"))
    extractor.fit(X)
    with pytest.raises(ValueError, match=r"could not take a batch .*: no such kernel"):
        extractor.transform(X)


def test_unknown_devices(net, X):
    for device in ("cudaa", "cuda:99", "mps:7", "meta"):
        with pytest.raises(ValueError, match=f"device='{device}' cannot be used here"):
            TorchFeatureExtractor(net, device=device).fit(X)


def test_wrong_channels_at_transform(net, X, rng):
    extractor = TorchFeatureExtractor(net, preprocess=None)
    extractor.fit([Image.new("RGB", (9, 9))])
    grey = Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8))
    for wrong in (X[:, :1], [grey]):
        with pytest.raises(ValueError, match="first convolution takes 3 channels"):
            extractor.transform(wrong)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_cuda_gives_the_same_features(net, X, precision, where):
    net = net.to(where)
    extractor = TorchFeatureExtractor(net, precision=precision, batch_size=3)
    features = extractor.fit_transform(X)
    expected = reference(net.cpu(), X)
    assert next(extractor.model_.parameters()).device.type == "cuda"
    tolerance = 1e-3 if precision == "float32" else 2e-2
    assert np.abs(features - expected).max() <= tolerance * np.abs(expected).max()
    np.testing.assert_array_equal(
        extractor.transform(torch.from_numpy(X).cuda()), features
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_out_of_memory_halves_the_batch():
    class Hungry(Greedy):
        def forward(self, x):
            if len(x) > self.most:
                torch.empty(2**45, dtype=torch.uint8, device=x.device)
            return self.net(x)

    X = torch.randn(600, 3, 5, 5)
    features = TorchFeatureExtractor(functools.partial(Hungry, 7)).fit_transform(X)
    assert features.shape == (600, 8) and np.isfinite(features).all()


# --- bad input ---------------------------------------------------------------------


@pytest.fixture
def extractor(net):
    return TorchFeatureExtractor(net, preprocess=to_tensor_and_shrink, batch_size=2)


def test_bad_files(extractor, photos, tmp_path):
    cut = tmp_path / "cut.jpg"
    Image.new("RGB", (300, 300), "red").save(cut)
    cut.write_bytes(cut.read_bytes()[:900])
    text = tmp_path / "text.png"
    text.write_text("no image")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    for bad in (cut, text, empty):
        for num_workers in (0, 1):
            extractor.set_params(num_workers=num_workers).fit(photos)
            sentence = rf"Image 6: '.*{bad.name}' cannot be read as an image"
            with pytest.raises(ValueError, match=sentence):
                extractor.transform([*photos, bad])
    sentence = r"Image 6: '.*nowhere\.jpg' does not exist"
    with pytest.raises(FileNotFoundError, match=sentence):
        extractor.fit([*photos, tmp_path / "nowhere.jpg"])


@pytest.mark.parametrize(
    ("X", "error", "sentence"),
    [
        ([], ValueError, "empty list, 0 images"),
        (np.array([], dtype=str), ValueError, "empty ndarray, 0 images"),
        ("no/such/folder", FileNotFoundError, "'no/such/folder' does not exist"),
        (Image.new("RGB", (9, 9)), TypeError, r"one PIL image, expected .*\[image\]"),
        (np.zeros((2, 9, 9, 3), dtype=np.int64), TypeError, "expected uint8"),
        (torch.zeros((2, 9, 9, 3), dtype=torch.int32), TypeError, "expected uint8"),
        (np.zeros((2, 9, 9, 7), dtype=np.uint8), ValueError, "1, 3 or 4 channels"),
        (np.zeros((2, 1, 9, 9)), ValueError, r"shape \(2, 1, 9, 9\).*takes 3 channels"),
        (np.zeros((2, 9, 9, 3)), ValueError, r"wants \(n_samples, 3, height, width\)"),
        (torch.ones(2, 3, 9, 9).requires_grad_(), ValueError, "requires grad"),
        ([(torch.ones(3, 9, 9), 1)] * 3, TypeError, r"datasets\.ImageDataset\("),
        (Stream([1]), TypeError, "pass it in a torch.utils.data.DataLoader"),
        (DataLoader(ListDataset([])), ValueError, "DataLoader is empty"),
        (ListDataset([]), ValueError, "empty ListDataset, 0 images"),
        (np.zeros((0, 9, 9, 3), np.uint8), ValueError, "empty ndarray, 0 images"),
        (np.zeros((9, 9, 3), np.uint8), ValueError, r"one image of .* X\[None\]"),
        ((x for x in "ab"), TypeError, r"can be read only once; expected a list"),
        (ListDataset([{"a": 1}]), TypeError, "dicts with keys a; expected"),
        (ListDataset([3]), TypeError, "An image is a int"),
        (np.full((2, 3, 9, 9), np.nan), ValueError, "NaN or infinity.*values in row 0"),
        ([["a", "b"]], ValueError, "not compatible with arrays of bytes/strings"),
        (["a.png", 3], TypeError, "Image 1 is a int, the first one a path"),
        (
            [np.zeros((3, 9, 9)), np.zeros((3, 8, 9))],
            ValueError,
            "Images differ in shape",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_bad_images(extractor, X, error, sentence):
    with pytest.raises(error, match=sentence):
        extractor.fit(X)


def test_images_of_unknown_range(net, tmp_path):
    image = Image.new("F", (9, 9))
    image.save(tmp_path / "float.tif")
    extractor = TorchFeatureExtractor(net, preprocess=None)
    with pytest.raises(ValueError, match="Image 0: its pixels are floats"):
        extractor.fit([image])
    with pytest.raises(ValueError, match=r"Image 0: '.*float\.tif': its pixels are fl"):
        extractor.fit(tmp_path)


def test_mixed_sizes_name_both_images(net, rng):
    images = [rng.integers(0, 256, (h, 9, 3), dtype=np.uint8) for h in (9, 9, 8)]
    as_array = np.empty(3, dtype=object)
    as_array[:] = images
    extractor = TorchFeatureExtractor(net, preprocess=None)
    sentence = r"image 0 is \(3, 9, 9\), image 2 is \(3, 8, 9\)"
    for X in (images, as_array):
        with pytest.raises(ValueError, match=sentence):
            extractor.fit(X)


def test_nan_names_its_row(net, X):
    extractor = TorchFeatureExtractor(net, batch_size=2).fit(X)
    X[5, 0, 0, 0] = np.nan
    for bad in (X, list(X), DataLoader(TensorDataset(torch.from_numpy(X)))):
        with pytest.raises(ValueError, match="in row 5"):
            extractor.transform(bad)


def test_one_file_is_not_a_list(extractor, photos):
    with pytest.raises(ValueError, match=r"one file, .*list of paths: \[path\]"):
        extractor.fit(str(photos[0]))


def test_a_folder_without_images(extractor, tmp_path):
    with pytest.raises(ValueError, match="holds no image files"):
        extractor.fit(tmp_path)


def test_preprocess_that_nobody_knows(net, photos):
    with pytest.raises(ValueError, match="preprocess='auto' knows the transform"):
        TorchFeatureExtractor(net).fit(photos)


def test_preprocess_that_returns_no_tensor(net, photos):
    with pytest.raises(TypeError, match="preprocess returned Image, expected a float"):
        TorchFeatureExtractor(net, preprocess=lambda image: image).fit(photos)


@pytest.mark.parametrize(
    ("parameters", "error", "sentence"),
    [
        ({"model": "resnet_18"}, ValueError, "did you mean 'resnet18'"),
        ({"model": "timm/resnet18x"}, ValueError, "did you mean 'resnet18"),
        (
            {"model": "resnet18", "weights": "IMAGENET1K_V9"},
            ValueError,
            "did you mean 'IMAGENET1K_V1'",
        ),
        ({"layer": "7x"}, ValueError, "layer='7x' does not exist in Sequential"),
        (
            {"model": "resnet18", "weights": None, "layer": "layr3"},
            ValueError,
            r"did you mean 'layer3'.*dict\(model.named_modules\(\)\)",
        ),
        ({"model": "squeezenet1_0", "weights": None}, ValueError, "no linear head"),
        ({"model": "RESNET_18"}, ValueError, "did you mean 'resnet18'"),
        (
            {"model": "resnet18", "weights": "imagenet1k_v1"},
            ValueError,
            "did you mean 'IMAGENET1K_V1'",
        ),
        ({"model": "resnet18", "weights": True}, TypeError, "weights=True, expected"),
        (
            {"model": torchvision.models.ResNet},
            TypeError,
            r"model=ResNet is a class that cannot be called without arguments "
            r"\(missing .*'block'\)\. Pass the module",
        ),
        (
            {"model": lambda path: None},
            TypeError,
            r"is a function that cannot be called .*functools\.partial",
        ),
        ({"model": dict}, TypeError, "returned a dict, expected a torch.nn.Module"),
    ],
)
def test_unknown_names(net, parameters, error, sentence):
    X = torch.zeros(1, 3, 64, 64)
    with pytest.raises(error, match=sentence):
        TorchFeatureExtractor(**{"model": net, **parameters}).fit(X)


class TwoHeads(nn.Module):
    """The last linear layer by name is not the one that makes the output."""

    def __init__(self):
        super().__init__()
        self.main = conv_net()
        self.zz_auxiliary = nn.Linear(8, 4)

    def forward(self, x):
        return self.main(x)


class Squashed(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = conv_net()

    def forward(self, x):
        return self.net(x).tanh()


@pytest.mark.parametrize("step", ["softmax", "log_softmax"])
def test_a_softmax_at_the_end_is_named(step, X):
    class Probabilities(Squashed):
        def forward(self, x):
            return getattr(self.net(x), step)(1)

    message = (
        rf"ends in a {step}; expected the logits, which 'net\.6'.* Remove the {step}"
    )
    with pytest.raises(ValueError, match=message):
        TorchFeatureExtractor(Probabilities).fit(X)


@pytest.mark.parametrize("model", [TwoHeads, Squashed])
def test_a_head_that_cannot_be_proved_lists_the_candidates(model, X):
    with pytest.raises(ValueError, match=r"Linear layers: .*6: 8 -> 4.*layer='\.\.\.'"):
        TorchFeatureExtractor(model).fit(X)


def test_the_proof_names_the_layer_that_would_do(X):
    with pytest.raises(ValueError, match=r"\('main\.6' does, but is not the last\)"):
        TorchFeatureExtractor(TwoHeads).fit(X)


def test_a_model_without_logits(X):
    class Maps(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(7, 7)

        def forward(self, x):
            return self.linear(self.conv(x))

    with pytest.raises(
        ValueError, match=r"returns .*\(4, 4, 7, 7\) for 4 inputs, expected"
    ):
        TorchFeatureExtractor(Maps).fit(X.repeat(1, axis=0))


@pytest.mark.parametrize("layer", [None, "2"])
def test_weights_that_are_nan_are_named(net, X, layer):
    with torch.no_grad():
        net[0].weight[0, 0] = float("nan")
    with pytest.raises(
        ValueError, match=r"Sequential has NaN or inf in its weights, in 0\.weight, and"
    ):
        TorchFeatureExtractor(net, layer=layer).fit(X)


@pytest.mark.parametrize("layer", [None, "2"])
def test_an_output_that_is_nan_is_no_fault_of_the_layer(net, X, layer):
    net[1].running_var.fill_(-1)
    with pytest.raises(ValueError, match="returns NaN or inf for the first 4 inputs"):
        TorchFeatureExtractor(net, layer=layer).fit(X)


def test_weights_without_values(net, X):
    for model in (net.to("meta"), lambda: conv_net().to("meta")):
        with pytest.raises(
            ValueError, match=r"model=Sequential has weights .*meta .*'0\.weight'"
        ):
            TorchFeatureExtractor(model).fit(X)
    with pytest.raises(ValueError, match="head=Linear has weights without values"):
        ReActDetector(net[-1]).fit(np.ones((5, 8)))


class Returning(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.net, self.wrap = conv_net(), wrap

    def forward(self, x):
        return self.wrap(self.net(x))


@pytest.mark.parametrize(
    ("wrap", "got"),
    [
        (lambda z: {"out": z, "aux": z}, "a dict of out, aux"),
        (lambda z: (z, z), "a tuple"),
        (lambda z: None, "a NoneType"),
    ],
)
def test_outputs_that_are_no_logits(wrap, got, X):
    with pytest.raises(ValueError, match=f"returns {got} for 4 inputs, expected a"):
        TorchFeatureExtractor(lambda: Returning(wrap)).fit(X)


class Small(nn.Module):
    """Has memory for so many images."""

    def __init__(self, most, net):
        super().__init__()
        self.most, self.net = most, net

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self.net(x)


@pytest.mark.parametrize("layer", [None, "2"])
def test_a_proof_takes_as_many_images_as_fit_into_memory(net, X, layer):
    expected = TorchFeatureExtractor(net, layer=layer).fit_transform(X)
    inner = layer and f"net.{layer}"
    for most in (2, 1):
        extractor = TorchFeatureExtractor(Small(most, net), layer=inner)
        features = extractor.fit_transform(X)
        np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(RuntimeError, match="Out of memory on cpu with one input of"):
        TorchFeatureExtractor(Small(0, net), layer=inner).fit(X)


def test_a_proof_on_what_fits_does_not_stand_for_more(net, X, monkeypatch):
    TorchFeatureExtractor(model := Small(1, net)).fit(X)
    monkeypatch.setattr("reactood._networks._frozen.attach", None)  # asked for again
    with pytest.raises(ValueError, match="'NoneType' object is not callable"):
        TorchFeatureExtractor(model).fit(X)


def test_a_module_that_cannot_be_copied(net, X):
    net.extra = net[0].weight * 2  # a tensor with a history
    with pytest.raises(
        ValueError, match=r"cannot be copied .*function that builds a new"
    ):
        TorchFeatureExtractor(net).fit(X)


def test_a_shuffling_loader_warns(net, X):
    loader = DataLoader(TensorDataset(torch.from_numpy(X)), shuffle=True)
    extractor = TorchFeatureExtractor(net).fit(loader)
    for bad in (
        loader,
        DataLoader(loader.dataset, batch_size=2, drop_last=True),
        DataLoader(loader.dataset, sampler=SubsetRandomSampler([0, 1])),
    ):
        with pytest.warns(UserWarning, match="DataLoader shuffles, samples or drops"):
            extractor.transform(bad)
    with pytest.warns(UserWarning, match="DataLoader shuffles"):
        extractor.fit_transform(loader, np.ones(7))
    extractor.fit_transform(loader)  # without labels the order does not matter


def test_unfitted(net, X):
    extractor = TorchFeatureExtractor(net)
    for use in (lambda: extractor.transform(X), lambda: extractor.head_):
        with pytest.raises(NotFittedError):
            use()


def test_a_refit_that_fails_leaves_the_earlier_fit(net, X):
    extractor = TorchFeatureExtractor(net).fit(X)
    features, seen = extractor.transform(X), extractor.n_features_in_
    with pytest.raises(ValueError, match="could not take a batch"):
        extractor.fit(X[:, :2])
    assert extractor.n_features_in_ == seen
    np.testing.assert_array_equal(extractor.transform(X), features)


def test_whole_numbers_up_to_255_look_like_pixels(X):
    pixels = np.random.default_rng(0).integers(0, 256, X.shape).astype(np.float32)
    with pytest.warns(UserWarning, match=r"whole numbers up to 255.*astype\('uint8'\)"):
        extractor = TorchFeatureExtractor(conv_net).fit(pixels)
    with pytest.warns(UserWarning, match="whole numbers up to 255"):
        extractor.transform(torch.from_numpy(pixels))
    small = np.minimum(pixels, 16)  # as scikit-learn's digits
    for preprocessed in X, pixels / 255, small, -pixels, pixels + 1, pixels + 0.5:
        extractor.transform(preprocessed)  # and no warning


def test_weights_that_cannot_be_downloaded(monkeypatch):
    def offline(name, weights):
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.models.get_model", offline)
    for weights in "DEFAULT", "IMAGENET1K_V1":
        extractor = TorchFeatureExtractor("resnet18", weights=weights)
        with pytest.raises(OSError, match=r"resnet18-\w+\.pth into .*checkpoints"):
            extractor.fit(np.zeros((2, 3, 64, 64), np.float32))
