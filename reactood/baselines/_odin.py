"""ODIN: features of images that are perturbed towards their predicted class."""

from numbers import Real
from typing import ClassVar

import torch
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch.nn.functional import cross_entropy

from reactood._networks._engines import device_of
from reactood._scoring._clip import learn_clip
from reactood._scoring._heads import of_both_classes
from reactood._utils._ambient import no_gradients
from reactood._utils._estimators import as_a_whole
from reactood._utils._fields import described
from reactood._utils._labels import id_rows
from reactood._utils._sklearn import Interval, _fit_context
from reactood.extractor._base import BaseFeatureExtractor
from reactood.pipeline import make_react_pipeline


class ODINFeatureExtractor(BaseFeatureExtractor):
    """Extracts features of images that are perturbed as in ODIN.

    Each preprocessed image `x` becomes `x - noise * sign(gradient)`, where the gradient
    is that of the cross-entropy between the softmax of `logits / temperature` and the
    predicted class [1]_. A gradient of 0 counts as positive, as in the ReAct paper's
    code. With a clip, the logits for the gradient are computed from clipped
    activations, and the returned features are clipped.

    Parameters
    ----------
    model : str, callable or torch.nn.Module, default="resnet50"
        The classifier, as in :class:`~reactood.TorchFeatureExtractor`.

    weights : str, torchvision weights or None, default="DEFAULT"
        Pretrained weights of a model given by name.

    noise : float, default=0.005
        By how much each value of a preprocessed image changes. The ReAct paper's code
        uses 0.005 for a ResNet-50 on ImageNet without the clip, and 0 with it. With 0,
        images do not change, and need one forward pass instead of two and a backward
        pass.

    temperature : float, default=1000.0
        The number by which the logits are divided.

    percentile : float or None, default=None
        The percentile of all activations on the images given to `fit`, unperturbed,
        that is the clip, in percent; None for no clip.

    threshold : float, default=None
        A value for the clip, which overrides `percentile`.

    preprocess : "auto", callable or None, default="auto"
        As in :class:`~reactood.TorchFeatureExtractor`.

    batch_size : int or "auto", default="auto"
        Images per pass.

    device : "auto", str or torch.device, default="auto"
        Where the model runs.

    num_workers : int, default=0
        Processes that read and prepare images.

    verbose : bool, default=False
        Whether to show a progress bar.

    Attributes
    ----------
    activation_threshold_ : float
        The clip; infinite without one.

    model_ : torch.nn.Module
        The frozen private copy: images to features.

    head_ : tuple of ndarray
        Weight and bias of the classifier's final linear layer.

    n_features_out_ : int
        Number of features.

    See Also
    --------
    make_odin_pipeline : Combines the extractor with its detector.

    References
    ----------
    .. [1] S. Liang, Y. Li, R. Srikant, "Enhancing The Reliability of
       Out-of-distribution Image Detection in Neural Networks", ICLR 2018,
       :arxiv:`1706.02690`.

    Examples
    --------
    >>> from reactood.baselines import ODINFeatureExtractor
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> digits = load_digits_ood()
    >>> extractor = ODINFeatureExtractor(digits_classifier, noise=0.01)
    >>> extractor.fit_transform(digits.X_test[:10]).shape
    (10, 96)
    """

    _parameter_constraints: ClassVar[dict] = {
        **BaseFeatureExtractor._parameter_constraints,
        "noise": [Interval(Real, 0, None, closed="left")],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "percentile": [Interval(Real, 0, 100, closed="right"), None],
        "threshold": [Real, None],
    }

    def __init__(
        self,
        model="resnet50",
        *,
        weights="DEFAULT",
        noise=0.005,
        temperature=1000.0,
        percentile=None,
        threshold=None,
        preprocess="auto",
        batch_size="auto",
        device="auto",
        num_workers=0,
        verbose=False,
    ):
        self.model = model
        self.weights = weights
        self.noise = noise
        self.temperature = temperature
        self.percentile = percentile
        self.threshold = threshold
        self.preprocess = preprocess
        self.batch_size = batch_size
        self.device = device
        self.num_workers = num_workers
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Build the private model, check its head, and learn the clip if there is one.

        Parameters
        ----------
        X : images
            Images of any kind that :class:`~reactood.TorchFeatureExtractor` takes.

        y : array-like of shape (n_samples,), default=None
            Rows where `y` is -1 are out-of-distribution and left out of the clip.

        Returns
        -------
        self : ODINFeatureExtractor
            The fitted extractor.

        Raises
        ------
        ValueError
            As in :class:`~reactood.TorchFeatureExtractor`, or if the clip is not
            above 0.
        """
        self._fit(X, y)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None, *, out=None):
        """Fit, then extract the features of the same images, perturbed.

        Parameters
        ----------
        X : images
            Images of any kind that :class:`~reactood.TorchFeatureExtractor` takes. With
            a `percentile`, they are read twice.

        y : array-like of shape (n_samples,), default=None
            As in `fit`.

        out : None, path or ndarray, default=None
            As in `transform`.

        Returns
        -------
        features : ndarray of shape (n_samples, `n_features_out_`)
            Features, float32.
        """
        source = self._fit(X, y)
        if source is None:
            return self.transform(X, out=out)
        return self._perturbed(source, out)

    def transform(self, X, *, out=None):
        """Extract features of perturbed images.

        Parameters
        ----------
        X : images
            Images of any kind that :class:`~reactood.TorchFeatureExtractor` takes.

        out : None, path or ndarray, default=None
            Where to write the features: the path of an `.npy` file, or a writable
            float32 array of the right shape. None for a new array.

        Returns
        -------
        features : ndarray of shape (n_samples, `n_features_out_`)
            Features, float32, clipped if there is a clip.
        """
        check_is_fitted(self)
        return self._perturbed(self._open_again(X), out)

    @as_a_whole
    def _fit(self, X, y):
        """Fit, and return the source of the images, or None if all have been read."""
        source = self._fit_model(X)
        if source.fields is not None:
            raise TypeError(
                f"{type(self).__name__} needs gradients of its input, and "
                f"{described(source.fields)} have none; use TorchFeatureExtractor."
            )
        self.activation_threshold_ = float("inf")
        if self.threshold is not None:
            self.activation_threshold_ = float(self.threshold)
        elif self.percentile is not None:
            features = self._perturbed(source, None, noise=0)
            _, rows = id_rows(y, features)
            self.activation_threshold_ = learn_clip(
                features,
                rows,
                percentile=self.percentile,
                threshold=None,
                lower_percentile=None,
                per_unit=False,
            ).upper
            self._begun = source.begun
            return None
        return source

    def _perturbed(self, source, out, *, noise=None):
        def get_engine(device, batch_size):
            backbone = self._frozen.engine("eager", device, "float32", batch_size)
            return _Perturbing(
                backbone.backbone,
                tuple(torch.as_tensor(part, device=device) for part in self.head_),
                noise=self.noise if noise is None else noise,
                temperature=self.temperature,
                clip=self.activation_threshold_,
            )

        return self._extract(source, out, device_of(self.device, "eager"), get_engine)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "activation_threshold_")


class _Perturbing:
    """An engine: perturbs images by a backward pass, then does a forward pass."""

    def __init__(self, backbone, head, *, noise, temperature, clip):
        self.backbone = backbone
        self.weight, self.bias = head
        self.noise, self.temperature, self.clip = noise, temperature, clip

    def __call__(self, batch):
        if self.noise:
            batch = batch - self.noise * self._signs(batch)
        with no_gradients():
            return self._rectified(batch)

    def _rectified(self, batch):
        return self.backbone(batch).clamp(max=self.clip)

    def _signs(self, batch):
        with torch.inference_mode(False), torch.enable_grad():
            batch = batch.detach().requires_grad_()
            features = self._rectified(batch.clone())  # models may work in place
            logits = (features @ self.weight.T + self.bias) / self.temperature
            if logits.shape[1] == 1:  # a binary head: logits of both classes
                logits = of_both_classes(logits)
            loss = cross_entropy(logits, logits.argmax(dim=1), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, batch)
        return torch.where(gradient >= 0, 1.0, -1.0).to(batch.dtype)


def make_odin_pipeline(
    model,
    *,
    weights="DEFAULT",
    noise=0.005,
    temperature=1000.0,
    percentile=None,
    threshold=None,
    contamination=0.05,
    **parameters,
):
    """Make the ODIN detector, with or without ReAct's clip.

    Its score is the maximum softmax probability of the perturbed image, at the given
    temperature.

    Parameters
    ----------
    model : str, callable or torch.nn.Module
        The classifier, as in :class:`~reactood.TorchFeatureExtractor`.

    weights : str, torchvision weights or None, default="DEFAULT"
        Pretrained weights of a model given by name.

    noise, temperature, percentile, threshold : float
        Parameters of the perturbation, as in `ODINFeatureExtractor`.

    contamination : float, default=0.05
        The share of the training images below the decision threshold, a fraction.

    **parameters
        Other parameters of `ODINFeatureExtractor`: `preprocess`, `batch_size`,
        `device`, `num_workers`, `verbose`.

    Returns
    -------
    pipeline : sklearn.pipeline.Pipeline
        A pipeline from images to decisions, with the steps `"extractor"` and
        `"detector"`.

    See Also
    --------
    reactood.make_react_pipeline : Makes MSP, energy and ReAct detectors.

    Notes
    -----
    With a temperature of 1000, all scores are close to one over the number of classes,
    and differ only in late digits. To search over `temperature`, set it in both steps.

    Examples
    --------
    >>> from reactood.baselines import make_odin_pipeline
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> digits = load_digits_ood()
    >>> odin = make_odin_pipeline(digits_classifier, noise=0.01).fit(digits.X_train)
    >>> bool((odin.predict(digits.X_test) == 1).mean() > 0.8)
    True
    """
    extractor = ODINFeatureExtractor(
        model,
        weights=weights,
        noise=noise,
        temperature=temperature,
        percentile=percentile,
        threshold=threshold,
        **parameters,
    )
    detector = make_react_pipeline(
        model,
        weights=weights,
        percentile=None,
        score_function="msp",
        temperature=temperature,
        contamination=contamination,
    )[-1]
    return Pipeline([("extractor", extractor), ("detector", detector)])
