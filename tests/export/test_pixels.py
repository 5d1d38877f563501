"""The preprocessing in a graph gives the pixels that Pillow and torchvision give."""

import numpy as np
import pytest
import torch
from conftest import conv_net
from PIL import Image
from running import needs_onnx, open_session, run_session
from torchvision import transforms
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms._presets import ImageClassification

from reactood import ReActDetector, TorchFeatureExtractor, make_react_pipeline
from reactood.export import export_onnx, export_program, to_torch
from reactood.export._pixels import Pixels, height_may_be_first
from reactood.export._recipe import recipe_of

BILINEAR, BICUBIC = InterpolationMode.BILINEAR, InterpolationMode.BICUBIC
SIZES = [  # height and width: smaller, larger, wide, tall, equal, of odd sizes
    *[(41, 67), (300, 201), (64, 64), (97, 300), (301, 97), (400, 50), (37, 500)],
    *[(48, 48), (49, 48), (48, 49), (20, 21), (3, 90), (96, 47), (97, 47)],
]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AFTER = transforms.ToTensor(), transforms.Normalize(MEAN, STD)


def extractor_with(preprocess):
    """Return an extractor that is fitted to 3 channels, with this preprocessing."""
    extractor = TorchFeatureExtractor(conv_net(), preprocess=preprocess)
    return extractor.fit(np.zeros((2, 3, 8, 8), np.float32))


def preset(kernel, resize=48, crop=40):
    return ImageClassification(crop_size=crop, resize_size=resize, interpolation=kernel)


TRANSFORMS = {
    "bilinear": preset(BILINEAR),
    "bicubic": preset(BICUBIC),
    "odd": preset(BILINEAR, 49, 40),
    "padded": preset(BICUBIC, 30, 45),
    "both sides": transforms.Compose([transforms.Resize((31, 44)), *AFTER]),
    "rectangle": transforms.Compose(
        [transforms.Resize([50], BICUBIC), transforms.CenterCrop((30, 45)), *AFTER]
    ),
    "crop alone": transforms.Compose([transforms.CenterCrop(33), *AFTER]),
    "no normalisation": transforms.Compose(
        [transforms.Resize(40), transforms.CenterCrop(32), transforms.ToTensor()]
    ),
    "v2": v2.Compose(
        [
            v2.Resize(40, InterpolationMode.BICUBIC),
            v2.CenterCrop(32),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_pixels_are_those_of_pillow(name, rng):
    transform = TRANSFORMS[name]
    pixels = Pixels(recipe_of(extractor_with(transform)))
    for size in SIZES:
        picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        expected = torch.as_tensor(transform(Image.fromarray(picture)))
        found = pixels(torch.from_numpy(picture)[None])[0]
        assert found.shape == expected.shape
        # One grey level would be 0.004 without and 0.017 with normalisation.
        assert (found - expected).abs().max() < 1e-5, size


def test_the_order_of_the_axes_matters_for_tall_pictures(rng):
    picture = rng.integers(0, 256, (400, 50, 3), dtype=np.uint8)
    pixels = Pixels(recipe_of(extractor_with(preset(BICUBIC))))
    results = []
    for may_be in (False, True):
        pixels.may_start_with_height = may_be
        results.append(pixels(torch.from_numpy(picture)[None])[0])
    expected = preset(BICUBIC)(Image.fromarray(picture))
    right = results[height_may_be_first()]
    assert (right - expected).abs().max() < 1e-5
    assert (results[0] - results[1]).abs().max() > 0.01


def test_pixels_alone_are_divided_by_255(rng):
    pictures = rng.integers(0, 256, (40, 9, 11, 3), dtype=np.uint8)
    pipeline = make_react_pipeline(conv_net(), preprocess=None, check_score=False)
    pipeline.fit(pictures)
    module = to_torch(pipeline, preprocess=True)
    scores = module(torch.from_numpy(pictures))["score"].numpy()
    np.testing.assert_allclose(scores, pipeline.score_samples(pictures), rtol=2e-5)
    with pytest.raises(TypeError, match=r"Got a tensor of torch.float32 and 4 axes"):
        module(torch.from_numpy(pictures).float())


@pytest.fixture
def pipeline(rng):
    pictures = rng.integers(0, 256, (40, 50, 60, 3), dtype=np.uint8)
    given = preset(BICUBIC)
    return make_react_pipeline(conv_net(), preprocess=given, check_score=False).fit(
        pictures
    )


def check_sizes(run, pipeline, rng):
    for size in SIZES:
        pictures = rng.integers(0, 256, (2, *size, 3), dtype=np.uint8)
        expected = pipeline.score_samples(pictures)
        np.testing.assert_allclose(run(pictures), expected, rtol=2e-5)


@pytest.mark.slow
def test_one_program_takes_pictures_of_any_size(pipeline, rng, tmp_path):
    path = export_program(pipeline, tmp_path / "d.pt2", preprocess=True)
    module = torch.export.load(path).module()
    check_sizes(lambda x: module(torch.from_numpy(x))["score"].numpy(), pipeline, rng)


@pytest.mark.slow
def test_one_onnx_file_takes_pictures_of_any_size(pipeline, rng, tmp_path):
    needs_onnx()
    session = open_session(export_onnx(pipeline, tmp_path / "d.onnx", preprocess=True))
    assert session.get_inputs()[0].shape == ["rows", "height", "width", 3]
    check_sizes(lambda x: run_session(session, x)["score"], pipeline, rng)


# --- what is refused ------------------------------------------------------------------

REFUSED = {
    "Resize with lanczos": [transforms.Resize(40, InterpolationMode.LANCZOS)],
    "Resize with max_size=60": [transforms.Resize(40, max_size=60)],
    r"Resize\(size=40\) without CenterCrop": [transforms.Resize(40)],
    "ColorJitter": [transforms.Resize((40, 40)), transforms.ColorJitter()],
    "Resize into": [transforms.CenterCrop(30), transforms.Resize((40, 40))],
}


@pytest.mark.parametrize("message", REFUSED)
def test_transforms_that_are_not_understood(message):
    transform = transforms.Compose([*REFUSED[message], *AFTER])
    with pytest.raises(ValueError, match=rf"cannot put {message}.*expected torchv"):
        recipe_of(extractor_with(transform))


def my_transform(image):
    """Do what no graph shows."""
    return transforms.ToTensor()(image)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (my_transform, "cannot put function into"),
        ("auto", "cannot put MissingTransform into"),
        (transforms.Compose([]), "a Compose without ToTensor"),
        (v2.Compose([v2.ToDtype(torch.float32, scale=True)]), "without ToImage"),
        (v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32)]), "scale=True"),
        (transforms.Compose([transforms.CenterCrop(3)]), "put CenterCrop into"),
    ],
)
def test_other_transforms_are_refused(transform, message):
    with pytest.raises(ValueError, match=message):
        recipe_of(extractor_with(transform))


def test_features_have_no_pixels(rng):
    X = rng.gamma(2, size=(60, 5)).astype(np.float32)
    head = rng.normal(size=(3, 5)), np.zeros(3)
    detector = ReActDetector(head, check_score=False).fit(X)
    with pytest.raises(ValueError, match="preprocess=True needs a pipeline"):
        to_torch(detector, preprocess=True)
