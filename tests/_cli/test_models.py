"""Models, weights and transforms by name."""

import pickle
import sys
from types import SimpleNamespace

import pytest
import torch
import torchvision

from reactood._cli import _models as models
from reactood.datasets import digits_classifier

NET = """
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))

def transform():
    return abs

def nothing():
    pass
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_net_of_a_test.py"
    path.write_text(NET)
    return path


def options(**given):
    return SimpleNamespace(
        **{"model": None, "weights": "DEFAULT", "checkpoint": None, "preprocess": None}
        | given
    )


def test_a_file_finds_what_is_beside_it(file, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    other = file.with_name("wraps_a_net_of_a_test.py")
    other.write_text(f"from {file.stem} import build as make\n")
    build, _ = models.model_of(options(model=f"{other}:make"))
    assert build()[1].out_features == 3
    sys.modules.pop(file.stem)


def test_names_and_functions(file, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    assert models.model_of(options(model="resnet50")) == ("resnet50", "DEFAULT")
    named = models.model_of(options(model="timm/resnet10t", weights="none"))
    assert named == ("timm/resnet10t", None)
    build, weights = models.model_of(options(model=f"{file}:build"))
    assert weights is None and build()[1].out_features == 3
    model = "reactood.datasets:digits_classifier"
    assert models.model_of(options(model=model))[0] is digits_classifier
    monkeypatch.chdir(file.parent)
    assert models.load_function(f"{file.stem}:build")()[1].in_features == 12
    assert sys.path[-1] == str(file.parent)
    sys.modules.pop(file.stem)


def test_transforms(file):
    def preprocess(text):
        return models.preprocess_of(options(preprocess=text))

    assert preprocess(None) == preprocess("auto") == "auto"
    assert preprocess("none") is None
    assert preprocess(f"{file}:transform") is abs
    with pytest.raises(ValueError, match="returned a NoneType, expected a transform"):
        preprocess(f"{file}:nothing")
    with pytest.raises(ValueError, match=r"expected FILE\.py:FUNCTION or MODULE:"):
        preprocess("transform")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kind", ["function", "shufflenet_v2_x0_5"])
def test_checkpoints(file, tmp_path, suffix, kind):
    model = f"{file}:build" if kind == "function" else kind
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if kind == "function":
            net = models.load_function(model)()
        else:
            net = torchvision.models.shufflenet_v2_x0_5(num_classes=7)
    checkpoint = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        state = {f"module.{name}": value for name, value in net.state_dict().items()}
        torch.save({"state_dict": state, "epoch": 3}, checkpoint)
    else:
        save_file = pytest.importorskip("safetensors.torch").save_file
        save_file(net.state_dict(), checkpoint)
    given = options(model=model, checkpoint=str(checkpoint))
    build, weights = models.model_of(given)
    assert weights is None
    for built in (build(), models.builder_of(given)()):
        assert not built.training
        torch.testing.assert_close(built.state_dict(), net.state_dict())


def test_a_checkpoint_that_is_none(file, tmp_path):
    bad = tmp_path / "bad.pt"
    torch.save({"1.weight": torch.ones(3, 12)}, bad)
    given = options(model=f"{file}:build", checkpoint=str(bad))
    with pytest.raises(ValueError, match=r"not those of .*1 names .*'1\.bias'"):
        models.model_of(given)[0]()
    bad.write_bytes(pickle.dumps(Code(), protocol=2))
    with pytest.raises(ValueError, match="holds more than tensors"):
        models.model_of(given)[0]()
    torch.save([1, 2], bad)
    with pytest.raises(ValueError, match="holds a list, expected weights by name"):
        models.model_of(given)[0]()
    with pytest.raises(ValueError, match=r"no file 'nowhere\.pt'"):
        models.model_of(options(model="resnet18", checkpoint="nowhere.pt"))


class Code:
    """Fails the test if it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("code of a checkpoint was run",)


def test_functions_that_are_none(file):
    with pytest.raises(ValueError, match="has no function 'make'"):
        models.model_of(options(model=f"{file}:make"))
    with pytest.raises(ValueError, match=r"no file 'nowhere\.py' with a function"):
        models.model_of(options(model="nowhere.py:build"))
    with pytest.raises(ValueError, match="no module 'no_such_module'"):
        models.model_of(options(model="no_such_module:build"))
    file.write_text("import no_such_module")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        models.model_of(options(model=f"{file}:build"))


def test_models_of_a_detectors_file(file):
    assert models.builder_of(options()) is None
    with pytest.raises(ValueError, match="--checkpoint needs --model"):
        models.builder_of(options(checkpoint="w.pt"))
    build = models.builder_of(options(model="shufflenet_v2_x0_5"))
    assert build().fc.out_features == 1000
    assert models.builder_of(options(model=f"{file}:build"))()[1].in_features == 12
