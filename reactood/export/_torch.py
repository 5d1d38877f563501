"""to_torch: a fitted detector as one torch module."""

from reactood.export._module import RectifiedClassifier
from reactood.export._parts import take_apart
from reactood.export._recipe import recipe_of


def to_torch(detector, *, preprocess=False):
    """Return one torch module that does all that a fitted detector does.

    From one batch it computes the logits, the score, the decision and, for a
    :class:`~reactood.conformal.ConformalDetector`, the p-value. The classifier runs
    once for all of them. The module is a copy: nothing that is done to it changes the
    detector, or the model that the detector was made of.

    Parameters
    ----------
    detector : ReActDetector, ReActDetectorCV, Pipeline or ConformalDetector
        A fitted detector, or a pipeline from images to one, as
        :func:`~reactood.make_react_pipeline` makes it. Between the extractor and the
        detector, all classes of :mod:`reactood.rectifiers` may stand. Or a
        :class:`~reactood.conformal.ConformalDetector` around one of these.

    preprocess : bool, default=False
        Whether the module takes pixels: uint8 of shape (n, height, width, 3), of any
        size. It then resizes, crops and normalises them as the extractor does. With
        False it takes float32 images that are prepared, or features if `detector`
        takes features.

    Returns
    -------
    module : torch.nn.Module
        In eval mode, on the CPU. It takes a batch and returns a dict of tensors:

        - `"logits"`, of shape (n, n_classes): of unclipped features, those that
          `predict_class` decides by.
        - `"score"`, of shape (n,): as `score_samples`, the higher, the more
          in-distribution. float32, or float64 where the score is computed in it.
        - `"is_id"`, of shape (n,): whether the input is in-distribution, as
          `predict`.
        - `"p_value"`, of shape (n,), float64: as `p_values`, only for a
          ConformalDetector.

        Its second argument, `threshold`, replaces the fitted threshold, which is the
        buffer `module.threshold`.

    Raises
    ------
    TypeError
        If the detector, or a step of the pipeline, cannot be exported, such as the
        detectors of :mod:`reactood.baselines`.
    ValueError
        If `preprocess=True` and the transform is none that a graph can hold.

    See Also
    --------
    export_onnx : Writes the module to an ONNX file.
    export_program : Writes the module to a file of torch.export.

    Notes
    -----
    A module raises no error about values. Rows that the detector would refuse, or
    reject, because their features hold NaN or inf, or because a rectifier does not
    take negative ones, get a score of NaN and are not in-distribution.

    The graph computes in float32, whatever the `precision` and the `engine` of the
    extractor. The threshold is rounded up to the precision of the score, so that
    `score >= threshold` decides as `predict` does.

    The preprocessing gives the pixels that Pillow gives. It understands torchvision's
    preset for classification, and a Compose of Resize, CenterCrop, ToTensor and
    Normalize, bilinear or bicubic.

    ASH with `kind="b"` may choose other units where activations tie.

    Examples
    --------
    >>> import torch
    >>> from reactood import make_react_pipeline
    >>> from reactood.datasets import digits_classifier, load_digits_ood
    >>> from reactood.export import to_torch
    >>> digits = load_digits_ood()
    >>> pipeline = make_react_pipeline(digits_classifier).fit(digits.X_train)
    >>> module = to_torch(pipeline)
    >>> outputs = module(torch.from_numpy(digits.X_test))
    >>> sorted(outputs)
    ['is_id', 'logits', 'score']
    >>> bool(((pipeline.predict(digits.X_test) == 1) == outputs["is_id"].numpy()).all())
    True
    """
    parts = take_apart(detector)
    return RectifiedClassifier(parts, recipe_for(parts, preprocess))


def recipe_for(parts, preprocess):
    """Return how the graph prepares pixels; None where it does not."""
    if not preprocess:
        return None
    if parts.extractor is None:
        raise ValueError(
            "preprocess=True needs a pipeline from images; this detector takes "
            "features. Pass the pipeline, or preprocess=False."
        )
    return recipe_of(parts.extractor)
