"""Models that take dicts of arrays, or integers; they need no other library."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from reactood import ReActDetector, TorchFeatureExtractor, make_react_pipeline
from reactood.baselines import ODINFeatureExtractor
from reactood.datasets import InputDict
from reactood.export import to_torch
from reactood.persistence import load, save


class TextNet(nn.Module):
    """Averages the embeddings of the tokens that the mask leaves."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 8)
        self.hidden = nn.Linear(8, 16)
        self.out = nn.Linear(16, 4)

    def forward(self, ids, mask=None, extra=None):
        mask = torch.ones_like(ids) if mask is None else mask
        mean = (self.embed(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        if extra is not None:
            mean = mean + extra.sum(1, keepdim=True)
        return self.out(self.hidden(mean).relu())


class Codes(nn.Module):
    """Embeds its first column and takes the others as numbers: of float rows."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 8)
        self.hidden = nn.Linear(10, 16)
        self.out = nn.Linear(16, 4)

    def forward(self, rows):
        parts = self.embed(rows[:, 0].long()), rows[:, 1:]
        return self.out(self.hidden(torch.cat(parts, dim=1)).relu())


@pytest.fixture
def net():
    torch.manual_seed(0)
    return TextNet().eval()


@pytest.fixture
def texts():
    rng = np.random.default_rng(0)
    mask = np.ones((60, 7), int)
    mask[::3, 4:] = 0
    return {"ids": rng.integers(0, 30, (60, 7)), "mask": mask}


def logits_of(net, **fields):
    with torch.no_grad():
        return net(**{name: torch.as_tensor(v) for name, v in fields.items()}).numpy()


def test_fields_reach_the_model_by_name(net, texts):
    extractor = TorchFeatureExtractor(net).fit(texts)
    weight, bias = extractor.head_
    logits = extractor.transform(texts) @ weight.T + bias
    np.testing.assert_allclose(logits, logits_of(net, **texts), atol=1e-6)
    other = texts | {"mask": np.ones_like(texts["mask"])}
    assert not np.allclose(extractor.transform(other), extractor.transform(texts))


def test_batches_order_length_and_kind_of_container_change_nothing(net, texts):
    expected = TorchFeatureExtractor(net).fit_transform(texts)
    small = TorchFeatureExtractor(net, batch_size=7).fit(texts)
    reversed_ = dict(reversed(texts.items()))
    tensors = {name: torch.as_tensor(values) for name, values in texts.items()}
    padded = {name: np.pad(values, ((0, 0), (0, 5))) for name, values in texts.items()}
    for X in (texts, reversed_, tensors, padded, InputDict(texts)):
        np.testing.assert_allclose(small.transform(X), expected, atol=1e-6)


def test_fields_of_several_shapes_and_kinds_are_exact(net, texts):
    extra = np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32)
    texts = texts | {"mask": texts["mask"].astype(bool), "extra": extra}
    extractor = TorchFeatureExtractor(net).fit(texts)
    weight, bias = extractor.head_
    logits = extractor.transform(texts) @ weight.T + bias
    np.testing.assert_allclose(logits, logits_of(net, **texts), atol=1e-5)
    with pytest.raises(ValueError, match=r"fit was given the fields extra \(float32"):
        extractor.transform(texts | {"extra": extra[:, :2]})


def test_the_cache_sees_every_field(net, texts, tmp_path):
    cached = TorchFeatureExtractor(net, cache=tmp_path / "cache").fit(texts)
    other = texts | {"mask": np.ones_like(texts["mask"])}
    for X in (texts, other, texts):
        expected = TorchFeatureExtractor(net).fit_transform(X)
        np.testing.assert_allclose(cached.transform(X), expected, atol=1e-6)


def test_token_ids_stay_integers(net, texts):
    extractor = TorchFeatureExtractor(net).fit(texts["ids"])
    weight, bias = extractor.head_
    logits = extractor.transform(texts["ids"]) @ weight.T + bias
    expected = logits_of(net, ids=texts["ids"])
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    with pytest.raises(ValueError, match="fit was given rows of integers"):
        extractor.transform(texts["ids"].astype(float))


def test_a_model_of_float_rows_gets_floats_of_integers():
    torch.manual_seed(0)
    rows = np.random.default_rng(0).integers(0, 30, (40, 3))
    model = Codes().eval()
    features = TorchFeatureExtractor(model).fit_transform(rows)
    same = TorchFeatureExtractor(model).fit(rows.astype(np.float32))
    np.testing.assert_array_equal(same.transform(rows), features)


def test_a_text_pipeline_is_cross_validated(net, texts):
    y = np.where(np.arange(60) % 5, 1, -1)
    pipeline = make_react_pipeline(net)
    X = InputDict(texts)
    scores = cross_val_score(pipeline, X, y, cv=3, scoring="roc_auc")
    assert np.isfinite(scores).all()
    assert len(X[y == 1]) == 48 and len(X[5:9]) == 4
    assert set(X[3]) == {"ids", "mask"}


def test_detect_is_all_three_methods_in_one_pass(net, texts):
    pipeline = make_react_pipeline(net).fit(texts)
    passes = []
    pipeline[0].model_.network.hidden.register_forward_hook(
        lambda *args: passes.append(1)
    )
    scores, labels, classes = pipeline.detect(texts)
    n_passes = len(passes)
    np.testing.assert_array_equal(scores, pipeline.score_samples(texts))
    np.testing.assert_array_equal(labels, pipeline.predict(texts))
    np.testing.assert_array_equal(classes, pipeline.predict_class(texts))
    assert len(passes) == 4 * n_passes
    features = pipeline[0].transform(texts)
    np.testing.assert_array_equal(pipeline[1].detect(features).scores, scores)


def test_detect_rejects_nan_as_predict_does():
    X = np.random.default_rng(0).gamma(2.0, size=(99, 4))
    head = np.eye(3, 4), np.zeros(3)
    detector = ReActDetector(head, on_nan="reject").fit(X)
    X[3] = np.nan
    found = detector.detect(X)
    assert found.labels[3] == -1 and np.isnan(found.scores[3])
    np.testing.assert_array_equal(found.labels, detector.predict(X))


def test_rows_of_a_table_behind_a_scaler():
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    table = np.random.default_rng(0).normal(5, 3, size=(80, 6))
    extractor, detector = TorchFeatureExtractor(mlp), ReActDetector(mlp[2])
    steps = [("scaler", StandardScaler()), ("net", extractor), ("detector", detector)]
    pipeline = Pipeline(steps).fit(table)
    scaled = StandardScaler().fit_transform(table)
    expected = make_react_pipeline(mlp).fit(scaled).score_samples(scaled)
    np.testing.assert_allclose(pipeline.score_samples(table), expected, rtol=1e-5)
    assert set(pipeline.predict(table)) == {-1, 1}


@pytest.mark.parametrize("as_tokens", [False, True])
def test_a_file_holds_the_fields(net, texts, tmp_path, as_tokens):
    X = texts["ids"] if as_tokens else texts
    pipeline = make_react_pipeline(net).fit(X)
    save(pipeline, tmp_path / "text.safetensors")
    again = load(tmp_path / "text.safetensors", model=TextNet)
    np.testing.assert_allclose(again.score_samples(X), pipeline.score_samples(X))


def test_export_and_odin_say_what_they_do_not_take(net, texts):
    with pytest.raises(ValueError, match="Export the detector alone"):
        to_torch(make_react_pipeline(net).fit(texts))
    with pytest.raises(TypeError, match="needs gradients of its input"):
        ODINFeatureExtractor(net).fit(texts)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"mask": np.ones((3, 7))}, ValueError, "fields differ in length"),
        ({"mask": np.full((60, 7), np.nan)}, ValueError, "'mask' contains NaN"),
        ({"mask": np.array(["a"] * 60)}, TypeError, "'mask' is no array of numbers"),
        ({"ids": np.zeros((60, 7), complex)}, TypeError, "array of real numbers"),
    ],
)
def test_errors(net, texts, change, error, text):
    with pytest.raises(error, match=text):
        TorchFeatureExtractor(net).fit(texts | change)
