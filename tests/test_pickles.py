"""Fitted estimators open in processes where other modules are imported."""

import subprocess
import sys
from pathlib import Path

WRITE = """
import sklearn.covariance, sklearn.linear_model  # before torch, as most programs do
import sys
import numpy as np
import torch
from torch import *  # this module then has torch's objects under their own names

# What a process pool names the main module, which the parent does not have.
sys.modules["__mp_main__"] = sys.modules["__main__"]
for name in list(sys.modules):
    if name.partition(".")[0] == "torch":  # found last
        sys.modules[name] = sys.modules.pop(name)

import pickle
from conftest import conv_net
from reactood import ReActDetector, TorchFeatureExtractor, make_react_pipeline
from reactood.baselines import make_odin_pipeline
from torch import nn

X = np.random.default_rng(0).normal(size=(20, 3, 12, 12)).astype(np.float32)
net = nn.Sequential(nn.Conv2d(3, 4, 1), *list(conv_net(4)))  # of two convolutions
by_name = TorchFeatureExtractor("resnet18", weights=None, device=torch.device("cpu"))
fitted = {
    "extractor": TorchFeatureExtractor(net).fit(X),
    "extractor by name": by_name.fit(X),
    "pipeline": make_react_pipeline(net, head=nn.Sequential(nn.Linear(8, 3))).fit(X),
    "half head": make_react_pipeline(net, head=nn.Sequential(net[-1]).double()).fit(X),
    "ODIN": make_odin_pipeline(net, percentile=90).fit(X),
}
assert fitted["extractor"].model_.arrangement.memory_format == "channels_last"
for name, estimator in fitted.items():
    unused = pickle.dumps(estimator)
    estimator.transform(X) if "extractor" in name else estimator.predict(X)
    with open(f"{sys.argv[1]}/{name}.pickle", "wb") as file:
        pickle.dump((unused, pickle.dumps(estimator)), file)
"""

READ = """
import pickle, sys
from pathlib import Path
import numpy as np

X = np.random.default_rng(0).normal(size=(20, 3, 12, 12)).astype(np.float32)
assert "torch" not in sys.modules
for path in Path(sys.argv[1]).iterdir():
    for pickled in pickle.loads(path.read_bytes()):
        estimator = pickle.loads(pickled)
        use = getattr(estimator, "predict", None) or estimator.transform
        assert len(use(X)) == 20
"""

POOL = """
import sklearn.linear_model
from joblib import Parallel, delayed
import numpy as np
import torch
from torch import channels_last, float32, nn
from conftest import conv_net
from reactood import make_react_pipeline

if __name__ == "__main__":
    X = np.random.default_rng(0).normal(size=(20, 3, 12, 12)).astype(np.float32)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), *list(conv_net(4)))
    pipeline = make_react_pipeline(net, head=nn.Sequential(nn.Linear(8, 3))).fit(X)
    jobs = (delayed(pipeline.predict)(X[i : i + 5]) for i in range(0, 20, 5))
    labels = np.concatenate(Parallel(2)(jobs))
    assert (labels == pipeline.predict(X)).all()
"""


def run(*arguments):
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


def test_what_one_process_pickles_another_opens_without_torch(tmp_path):
    run("-c", WRITE, tmp_path)
    run("-c", READ, tmp_path)


def test_a_pipeline_goes_through_a_pool_of_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n{POOL}"
    )
    run(script)
