"""Models of Hugging Face's transformers, with tiny configurations of random weights."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import cross_val_score

from reactood import TorchFeatureExtractor, make_react_pipeline
from reactood.datasets import ImageDataset, InputDict
from reactood.persistence import load, save

transformers = pytest.importorskip("transformers")

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_labels": 5,
}
PATCHES = {"image_size": 32, "patch_size": 8}
TEXT = {"vocab_size": 40, "max_position_embeddings": 34}
DISTIL = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "num_labels": 5}
MAPS = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 5}
IMAGES = {
    "ViT": SMALL | PATCHES,
    "Dinov2": SMALL | PATCHES,
    "ResNet": MAPS | {"embedding_size": 8, "layer_type": "basic"},
    "ConvNextV2": MAPS | {"num_stages": 2},
}
TEXTS = {"Bert": SMALL | TEXT, "DistilBert": DISTIL | TEXT, "Roberta": SMALL | TEXT}


def build(kind, task, settings):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings)
    return getattr(transformers, f"{kind}For{task}Classification")(config).eval()


def vit():
    return build("ViT", "Image", IMAGES["ViT"])


@pytest.fixture(scope="module")
def pictures():
    pixels = np.random.default_rng(0).integers(0, 255, (20, 40, 50, 3))
    return [Image.fromarray(x) for x in pixels.astype(np.uint8)]


@pytest.fixture(scope="module")
def processor():
    return transformers.ViTImageProcessor(size={"height": 32, "width": 32})


@pytest.fixture(scope="module")
def folder(processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    vit().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts():
    ids = np.random.default_rng(0).integers(2, 40, (50, 12))
    mask = np.ones_like(ids)
    mask[::2, 7:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("kind", IMAGES)
def test_image_classifiers(kind, tmp_path):
    model = build(kind, "Image", IMAGES[kind])
    X = np.random.default_rng(0).normal(size=(6, 3, 32, 32)).astype(np.float32)
    extractor = TorchFeatureExtractor(model).fit(X)
    features = extractor.transform(X)
    weight, bias = extractor.head_
    with torch.no_grad():
        expected = model(torch.from_numpy(X)).logits.numpy()
    np.testing.assert_allclose(features @ weight.T + bias, expected, atol=1e-5)
    cached = TorchFeatureExtractor(model, cache=tmp_path / "cache").fit(X)
    np.testing.assert_allclose(cached.transform(X), features, atol=1e-6)


def test_a_name_brings_weights_and_processor(folder, processor, pictures):
    named = make_react_pipeline(f"hf/{folder}").fit(pictures)
    given = make_react_pipeline(vit(), preprocess=processor).fit(pictures)
    with torch.no_grad():
        logits = vit()(**processor(pictures, return_tensors="pt")).logits
    found = named.detect(pictures)
    np.testing.assert_array_equal(found.classes, logits.argmax(1).numpy())
    np.testing.assert_allclose(found.scores, given.score_samples(pictures), rtol=1e-5)


def test_a_folder_that_is_written_again_is_another_model(tmp_path, pictures):
    X = np.random.default_rng(0).normal(size=(6, 3, 32, 32)).astype(np.float32)
    seen, config = [], vit().config
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = transformers.ViTForImageClassification(config).eval()
        model.save_pretrained(tmp_path)
        seen.append(TorchFeatureExtractor(f"hf/{tmp_path}").fit_transform(X))
        expected = TorchFeatureExtractor(model).fit_transform(X)
        np.testing.assert_allclose(seen[-1], expected, atol=1e-6)
    assert not np.allclose(*seen)
    extractor = TorchFeatureExtractor(f"hf/{tmp_path}")
    with pytest.raises(ValueError, match="Pass preprocess="):  # there is no processor
        extractor.fit(pictures)


def test_random_weights_are_the_same_each_time(folder):
    X = np.random.default_rng(0).normal(size=(6, 3, 32, 32)).astype(np.float32)
    first, second = (
        make_react_pipeline(f"hf/{folder}", weights=None).fit(X) for _ in range(2)
    )
    np.testing.assert_array_equal(first.score_samples(X), second.score_samples(X))


def test_names_that_are_no_classifiers(tmp_path, folder):
    with pytest.raises(ValueError, match=r"weights='V1' for a Hugging Face model"):
        TorchFeatureExtractor(f"hf/{folder}", weights="V1").fit(np.zeros((2, 3, 8, 8)))
    with pytest.raises(ValueError, match="expected 'hf/OWNER/NAME'"):
        TorchFeatureExtractor(f"hf/{tmp_path}").fit(np.zeros((2, 3, 8, 8)))
    vit().vit.save_pretrained(tmp_path)  # without its head
    with pytest.raises(ValueError, match="no trained weights for classifier"):
        TorchFeatureExtractor(f"hf/{tmp_path}").fit(np.zeros((2, 3, 8, 8)))


def test_files(folder, processor, pictures, tmp_path):
    named = make_react_pipeline(f"hf/{folder}").fit(pictures)
    save(named, tmp_path / "named.safetensors")
    expected = named.score_samples(pictures)
    found = load(tmp_path / "named.safetensors").score_samples(pictures)
    np.testing.assert_allclose(found, expected)
    own = make_react_pipeline(vit(), preprocess=processor).fit(pictures)
    save(own, tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match=r"ViTForImageClassification, whose code"):
        load(tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match=r"preprocessing of your own.*ImageProcessor"):
        load(tmp_path / "own.safetensors", model=vit)
    own = load(tmp_path / "own.safetensors", model=vit, preprocess=processor)
    np.testing.assert_allclose(own.score_samples(pictures), expected, rtol=1e-5)


def test_data_sets_with_labels(folder, pictures):
    datasets = pytest.importorskip("datasets")
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(2)}
    content = {"image": pictures, "label": [0, 1] * 10}
    data = datasets.Dataset.from_dict(content, features=datasets.Features(kinds))
    pipeline = make_react_pipeline(f"hf/{folder}").fit(data)
    expected = pipeline.score_samples(pictures)
    sliced = ImageDataset(data)[np.arange(3)]
    for X, rows in ((data, 20), (data["image"], 20), (sliced, 3)):
        np.testing.assert_allclose(pipeline.score_samples(X), expected[:rows])


@pytest.mark.parametrize("kind", TEXTS)
def test_text_classifiers(kind, texts):
    model = build(kind, "Sequence", TEXTS[kind])
    pipeline = make_react_pipeline(model).fit(texts)
    weight, bias = pipeline[0].head_
    with torch.no_grad():
        given = {name: torch.from_numpy(x) for name, x in texts.items()}
        expected = model(**given).logits.numpy()
    logits = pipeline[0].transform(texts) @ weight.T + bias
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    assert set(pipeline.predict(texts)) == {-1, 1}
    tokens = TorchFeatureExtractor(model).fit(texts["input_ids"])
    assert tokens.transform(texts["input_ids"]).shape == (50, 16)


def test_a_batch_encoding_and_cross_validation(texts):
    model = build("Bert", "Sequence", TEXTS["Bert"])
    encoding = transformers.BatchEncoding(texts, tensor_type="pt")
    pipeline = make_react_pipeline(model).fit(encoding)
    np.testing.assert_allclose(
        pipeline.score_samples(texts), pipeline.score_samples(InputDict(encoding))
    )
    y = np.where(np.arange(50) % 5, 1, -1)
    scores = cross_val_score(pipeline, InputDict(encoding), y, cv=2, scoring="roc_auc")
    assert np.isfinite(scores).all()


def test_a_text_classifier_by_name(texts, tmp_path):
    build("Bert", "Sequence", TEXTS["Bert"]).save_pretrained(tmp_path / "bert")
    pipeline = make_react_pipeline(f"hf/{tmp_path / 'bert'}").fit(texts)
    save(pipeline, tmp_path / "text.safetensors")
    again = load(tmp_path / "text.safetensors")
    np.testing.assert_allclose(
        again.score_samples(texts), pipeline.score_samples(texts)
    )
