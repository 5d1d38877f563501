"""Every engine gives the features of the plain eager model."""

import functools
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import CLASSIFIERS, conv_net
from sklearn.base import clone
from torch import nn

import reactood._networks._build
import reactood._networks._engines
import reactood._networks._forward
import reactood._networks._proof
from reactood import TorchFeatureExtractor
from reactood._networks._backbone import Arrangement, Backbone, Stop
from reactood._networks._build import build_network
from reactood._networks._folding import (
    find_folds,
    fold,
    is_convolutional,
    same_features,
)
from reactood._networks._head import find_head
from reactood._networks._proof import attach
from reactood._utils._recent import Recent


@pytest.fixture
def X(rng):
    return rng.normal(size=(7, 3, 12, 12)).astype(np.float32)


def trained(net):
    """Give BatchNorm layers statistics and weights that matter."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


def plain_features(net, images):
    """Take the input of the last linear layer of an untouched model by a hook."""
    seen = []
    linear = [m for m in net.modules() if isinstance(m, nn.Linear)][-1]
    hook = linear.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.inference_mode():
        net(torch.as_tensor(images))
    hook.remove()
    return seen[0].numpy()


def relative(ours, theirs):
    """Largest deviation of each feature, relative to its largest value, at worst."""
    scale = np.abs(theirs).max(axis=0)
    scale = np.maximum(scale, scale.max() / 10)
    return float((np.abs(ours - theirs).max(axis=0) / scale).max())


# --- rearranging --------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_default_matches_the_plain_model(name, rng):
    size = {"inception_v3": 120, "vit_b_16": 224}.get(name, 96)
    images = rng.normal(size=(4, 3, size, size)).astype(np.float32)
    network, _ = build_network(name, None)
    net = trained(network)
    expected = plain_features(net, images)
    features = TorchFeatureExtractor(net).fit(images).transform(images)
    assert relative(features, expected) < 1e-4


def test_every_normalisation_after_a_convolution_is_folded(rng):
    images = torch.as_tensor(rng.normal(size=(2, 3, 64, 64)), dtype=torch.float32)
    for name, n in (("resnet50", 53), ("mobilenet_v2", 52)):
        network, _ = build_network(name, None)
        backbone, _, _ = attach(network, images)
        assert len(backbone.arrangement.folds) == n
        assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.modules())
        assert backbone.arrangement.memory_format == "channels_last"


def test_nothing_is_folded_for_lower_precision(rng):
    X = rng.normal(size=(4, 3, 64, 64)).astype(np.float32)
    for precision, folds in (("bfloat16", False), ("float32", True)):
        extractor = TorchFeatureExtractor("resnet18", weights=None, precision=precision)
        arrangement = extractor.fit(X).model_.arrangement
        assert bool(arrangement.folds) == folds
        assert arrangement.memory_format == "channels_last"


class Odd(nn.Module):
    """Convolutions whose normalisation must stay, each for another reason."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 1)
        self.norm_twice = nn.BatchNorm2d(3)
        self.forked = nn.Conv2d(3, 3, 1)
        self.norm_forked = nn.BatchNorm2d(3)
        self.untracked = nn.BatchNorm2d(3, track_running_stats=False)
        self.conv = nn.Conv2d(3, 3, 1)
        self.fine = nn.Conv2d(3, 3, 1)
        self.norm_fine = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        x = self.norm_twice(self.twice(x))
        x = self.norm_twice(self.twice(x)).relu()
        x = self.untracked(self.conv(x))
        x = self.norm_fine(self.fine(x))
        forked = self.forked(x)
        return self.head((self.norm_forked(forked) + forked).mean((2, 3)))


def test_only_pairs_that_meet_once_are_folded(rng):
    torch.manual_seed(0)
    net = trained(Odd())
    x = torch.as_tensor(rng.normal(size=(4, 3, 8, 8)), dtype=torch.float32)
    pairs = find_folds(net, lambda: net(x))
    assert ("fine", "norm_fine") in pairs
    assert not any(first in ("twice", "conv") for first, _ in pairs)
    with pytest.warns(UserWarning, match="change with the images beside"):
        extractor = TorchFeatureExtractor(net).fit(x)  # the fork shows in the features
    assert relative(extractor.transform(x), plain_features(net, x)) < 1e-4
    assert extractor.model_.arrangement.folds == ()


class Introspective(nn.Module):
    """Asks a layer for a weight that folding would take away."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.head = nn.Conv2d(4, 6, 3), nn.Linear(6, 2)

    def forward(self, x):
        x = self.norm(self.conv(x)) * self.norm.weight.sum()
        return self.head(self.conv2(x).relu().mean(dim=(2, 3)))


def test_a_model_that_needs_what_folding_takes(X):
    model = trained(Introspective())
    extractor = TorchFeatureExtractor(model).fit(X)
    assert extractor.model_.arrangement == Arrangement((), "channels_last")
    assert relative(extractor.transform(X), plain_features(model, X)) < 1e-5


class TrainedForEver(nn.Module):
    """Keeps one normalisation in training mode."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), *conv_net())

    def train(self, mode=True):
        super().train(mode)
        self.net[1].training = True
        return self

    def forward(self, x):
        return self.net(x)


def test_a_normalisation_that_stays_in_training_mode_is_not_folded(X):
    with pytest.warns(UserWarning, match="change with the images beside"):
        extractor = TorchFeatureExtractor(TrainedForEver).fit(X)
    assert extractor.model_.arrangement.folds == (("net.2", "net.3"),)
    assert extractor.transform(X).shape == (7, 8)


def test_a_fold_that_fails_changes_nothing(net, X, monkeypatch):
    def fail(*args):
        raise AssertionError("Fusion only for eval!")

    expected = TorchFeatureExtractor(net).fit_transform(X)
    reactood._networks._frozen._FOUND.clear()
    monkeypatch.setattr("reactood._networks._folding.fuse_conv_bn_eval", fail)
    extractor = TorchFeatureExtractor(net).fit(X)
    assert extractor.model_.arrangement.folds == ()
    assert relative(extractor.transform(X), expected) < 1e-4


def test_folding_can_be_undone(net, X):
    net.eval()
    x = torch.from_numpy(X)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    undo = fold(net, find_folds(net, lambda: net(x)))
    assert type(net[1]) is nn.Identity
    undo()
    after = net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_layer_before_its_normalisation_is_what_it_is(rng):
    images = rng.normal(size=(3, 3, 32, 32)).astype(np.float32)
    torch.manual_seed(0)
    net = trained(torchvision.models.resnet18(weights=None))
    features = TorchFeatureExtractor(net, layer="conv1").fit_transform(images)
    with torch.inference_mode():
        expected = net.conv1(torch.from_numpy(images)).mean((2, 3)).numpy()
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_channels_last_is_for_networks_of_convolutions():
    assert is_convolutional(torchvision.models.resnet18(weights=None))
    assert not is_convolutional(torchvision.models.swin_t(weights=None))


def test_a_proof_is_not_repeated(net, X, monkeypatch):
    extractor = TorchFeatureExtractor(net).fit(X)
    monkeypatch.setattr(
        "reactood._networks._frozen.attach", None
    )  # must not be asked for
    again = clone(extractor).fit(X)
    np.testing.assert_array_equal(again.transform(X), extractor.transform(X))
    with torch.no_grad():
        net[0].weight[0] += 1
    with pytest.raises(ValueError, match="'NoneType' object is not callable"):
        TorchFeatureExtractor(net).fit(X)


def test_same_features_looks_at_every_feature():
    theirs = torch.ones(3, 2)
    ours = theirs.clone()
    assert same_features(ours, theirs)
    ours[1, 1] += 1e-3
    assert not same_features(ours, theirs)
    assert not same_features(ours[:2], theirs)


# --- engines ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "engine"),
    [("resnet18", "auto"), ("mobilenet_v3_small", "openvino"), ("vit_b_16", "auto")],
)
def test_openvino_gives_the_same_features(engine, name, rng):
    pytest.importorskip("openvino")
    size = 224 if name == "vit_b_16" else 64
    images = rng.normal(size=(3, 3, size, size)).astype(np.float32)
    eager = TorchFeatureExtractor(name, weights=None)
    expected = eager.fit_transform(images)
    ours = clone(eager).set_params(engine=engine)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert relative(ours.fit_transform(images), expected) < 1e-4
    if name != "vit_b_16" and _openvino_knows_bfloat16():
        ours.set_params(precision="bfloat16")
        assert 1e-4 < relative(ours.transform(images), expected) < 0.1


def _openvino_knows_bfloat16():
    core = reactood._networks._engines._openvino_core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.parametrize("engine", ["openvino", "compile"])
def test_engines_take_any_number_of_rows(engine, net, rng):
    if engine == "openvino":
        pytest.importorskip("openvino")
    X = rng.normal(size=(11, 3, 12, 12)).astype(np.float32)
    expected = TorchFeatureExtractor(net).fit_transform(X)
    extractor = TorchFeatureExtractor(net, engine=engine, batch_size=4).fit(X)
    for rows in (slice(0, 1), slice(0, 11), slice(3, 6)):
        np.testing.assert_allclose(
            extractor.transform(X[rows]), expected[rows], rtol=1e-4, atol=1e-6
        )
    wide = rng.normal(size=(3, 3, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(
        extractor.transform(wide),
        TorchFeatureExtractor(net).fit_transform(wide),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("engine", ["openvino", "compile"])
def test_engines_stop_at_a_layer(engine, rng):
    if engine == "openvino":
        pytest.importorskip("openvino")
    X = rng.normal(size=(3, 3, 32, 32)).astype(np.float32)
    eager = TorchFeatureExtractor("resnet18", weights=None, layer="layer2")
    ours = clone(eager).set_params(engine=engine).fit_transform(X)
    assert relative(ours, eager.fit_transform(X)) < 1e-4


def test_the_engine_is_kept_between_calls(net, X):
    pytest.importorskip("openvino")
    extractor = TorchFeatureExtractor(net, engine="openvino").fit(X)
    extractor.transform(X)
    engine = extractor._frozen._engine
    extractor.transform(X)
    assert extractor._frozen._engine is engine
    extractor.set_params(engine="eager").transform(X)
    assert type(extractor._frozen._engine) is reactood._networks._engines.EagerEngine


def test_openvino_keeps_the_requests_of_the_last_shapes(net, rng):
    pytest.importorskip("openvino")
    eager = TorchFeatureExtractor(net)
    extractor = TorchFeatureExtractor(net, engine="openvino")
    most = reactood._networks._engines.MOST_REQUESTS
    for size in [*range(8, 8 + most + 2), 8]:
        images = rng.normal(size=(1, 3, size, size)).astype(np.float32)
        if not hasattr(extractor, "n_features_out_"):
            extractor.fit(images), eager.fit(images)
        features = extractor.transform(images)
        np.testing.assert_allclose(
            features, eager.transform(images), rtol=1e-4, atol=1e-6
        )
    requests = extractor._frozen._engine.requests
    assert len(requests) == most
    request = requests.get((1, 3, 8, 8))
    extractor.transform(np.zeros((1, 3, 8, 8), np.float32))
    assert requests.get((1, 3, 8, 8)) is request


def test_memos_forget_what_was_not_used_for_longest():
    recent = Recent(2)
    recent.put("a", 1), recent.put("b", 2)
    assert recent.get("a") == 1
    recent.put("c", 3)
    assert (recent.get("a"), recent.get("b"), recent.get("c")) == (1, None, 3)
    assert len(recent) == 2
    assert type(reactood._networks._frozen._FOUND) is Recent


class Untraceable(nn.Module):
    """Runs code that no compiler can follow, and says so."""

    def __init__(self):
        super().__init__()
        self.net = conv_net()

    def forward(self, x):
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            raise NotImplementedError("this model cannot be captured")
        return self.net(x)


def test_a_model_that_openvino_cannot_take(X):
    pytest.importorskip("openvino")
    extractor = TorchFeatureExtractor(Untraceable, engine="openvino").fit(X)
    with pytest.raises(ValueError, match=r"engine='openvino' cannot take Untraceable"):
        extractor.transform(X)
    extractor = TorchFeatureExtractor(Untraceable, engine="auto").fit(X)
    with pytest.warns(UserWarning, match="Going on with engine='eager'") as caught:
        features = extractor.transform(X)
        extractor.transform(X)
    assert len(caught) == 1
    expected = TorchFeatureExtractor(Untraceable).fit_transform(X)
    np.testing.assert_allclose(features, expected, rtol=1e-5)


def test_openvino_is_an_extra(net, X, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    extractor = TorchFeatureExtractor(net, engine="openvino").fit(X)
    with pytest.raises(ImportError, match=r"pip install 'reactood\[openvino\]'"):
        extractor.transform(X)
    auto = TorchFeatureExtractor(net, engine="auto").fit(X)
    assert auto.transform(X).shape == (7, 8)


SIGNALS_AFTER_TWO_MODELS = """
import gc, signal
import numpy as np
from conftest import conv_net
from reactood import TorchFeatureExtractor

received = []
signal.signal(signal.SIGTERM, lambda *arguments: received.append(arguments))
X = np.random.default_rng(0).normal(size=(4, 3, 12, 12)).astype(np.float32)
extractors = [TorchFeatureExtractor(conv_net, engine="openvino") for _ in range(2)]
for extractor in extractors:
    extractor.fit_transform(X)
del extractor
while extractors:
    extractors.pop(0)  # the order in which they came
    gc.collect()
    signal.raise_signal(signal.SIGTERM)
print(len(received))
"""


def test_signals_are_handled_after_openvino_models_are_gone():
    pytest.importorskip("openvino")
    result = subprocess.run(
        [sys.executable, "-c", SIGNALS_AFTER_TWO_MODELS],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (0, "2\n"), result.stderr


def test_openvino_is_for_the_cpu(net, X):
    pytest.importorskip("openvino")
    backbone = TorchFeatureExtractor(net).fit(X).model_
    with pytest.raises(ValueError, match="runs on the CPU, but the device is meta"):
        reactood._networks._engines.OpenVINOEngine(
            backbone, torch.device("meta"), "float32"
        )


def test_compile_without_a_compiler_goes_on_in_eager(net, X, monkeypatch):
    class InvalidCxxCompiler(RuntimeError):
        pass

    def compile_(module, **options):
        def run(batch):
            raise InvalidCxxCompiler("No working C++ compiler found in c++")

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    extractor = TorchFeatureExtractor(net, engine="compile").fit(X)
    with pytest.warns(UserWarning, match=r"no(ne| C\+\+|.*there is none)") as caught:
        features = extractor.transform(X)
        extractor.transform(X)
    assert len(caught) == 1
    np.testing.assert_array_equal(features, TorchFeatureExtractor(net).fit_transform(X))


def test_unknown_engines(net, X):
    with pytest.raises(ValueError, match="'engine' parameter"):
        TorchFeatureExtractor(net, engine="onnx").fit(X)


@pytest.mark.parametrize(("threads", "large"), [(2, 2), (1, 4)])
def test_batches_of_large_images_are_small_on_a_processor(
    rng, monkeypatch, threads, large
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    extractor = TorchFeatureExtractor(nn.Sequential(nn.Conv2d(3, 3, 1), *conv_net()))
    sizes = []
    for size in (12, 448):
        X = rng.normal(size=(33, 3, size, size)).astype(np.float32)
        model = extractor.fit(X).model_
        hook = model.register_forward_pre_hook(
            lambda module, args: sizes.append(len(args[0]))
        )
        extractor.transform(X)
        hook.remove()
    assert sizes == [32, 1] + [large] * (32 // large) + [1]


def test_fit_leaves_the_attention_switch_alone(rng):
    pytest.importorskip("openvino")
    X = rng.normal(size=(2, 3, 32, 32)).astype(np.float32)
    before = torch.backends.mha.get_fastpath_enabled()
    net = functools.partial(torchvision.models.vit_b_32, image_size=32, weights=None)
    TorchFeatureExtractor(net, engine="openvino").fit_transform(X)
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_real_models_on_real_images(real_data):
    pytest.importorskip("openvino")
    sys.path.insert(0, str(real_data))
    from mobilenet_v2 import load, preprocess  # a module of that folder

    sys.path.remove(str(real_data))
    paths = sorted((real_data / "imagenet-sample").glob("*/*.jpg"))[:32]
    eager = TorchFeatureExtractor(load, preprocess=preprocess())
    expected = eager.fit_transform(paths)
    network, _ = build_network(load, None)
    plain = Backbone(network, Stop(find_head(network), at_input=True))
    from PIL import Image

    images = torch.stack([preprocess()(Image.open(p).convert("RGB")) for p in paths])
    with torch.inference_mode():
        reference = plain(images).numpy()
    assert relative(expected, reference) < 1e-4
    for precision, most in (("float32", 1e-4), ("bfloat16", 0.5)):
        ours = clone(eager).set_params(engine="openvino", precision=precision)
        assert relative(ours.fit_transform(paths), reference) < most
